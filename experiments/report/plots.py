"""Pictures for the report: matplotlib figures as SVG whose ink is dark on light pages and light on dark ones."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from PIL import Image

from experiments.report.outcomes import Animation, Figure
from experiments.report.statistics import interval

_INK = "#010203"  # stands for the ink of the page, light or dark, and becomes `currentColor`
_THEMES = "<style>svg{color:#1c1f24}@media(prefers-color-scheme:dark){svg{color:#e6e7ea}}</style>"
COLORS = ("#4c8dd6", "#e08a2c", "#3fa66b", "#d9534f", "#9a6fd0", "#b08968", "#2ba8b8", "#8a8f98")
"""Eight colours that are distinct on white and on black."""
_NEGATIVE, _POSITIVE = COLORS[:2]
DIVERGING = LinearSegmentedColormap.from_list(
    "diverging", [(0, _NEGATIVE), (0.5, _NEGATIVE + "00"), (0.5, _POSITIVE + "00"), (1, _POSITIVE)], 65
)
"""From blue, negative, to orange, positive; nothing is no ink, so that the page shows through, light or dark."""

_DOTTED = (":", (0, (4, 2, 1, 2)), (0, (1, 3)), (0, (6, 3)))
_FEW, _MANY = 8, 5
"""positions that are labelled one by one; lines whose names need a place of their own"""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fnn",
    "font.size": 11,
    "font.family": "sans-serif",
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), _INK)


@contextmanager
def figure(width: float = 5.4, height: float = 4.0) -> Iterator[Canvas]:
    """A canvas in the report's style; draw on it inside the `with`, then hand it to `finished`."""
    with mpl.rc_context(_STYLE):
        yield Canvas(figsize=(width, height))


def finished(canvas: Canvas, caption: str, description: str, narrowest: int = 0) -> Figure:
    """The canvas as a figure of the report; call it inside the `with` of `figure`."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        r'<svg viewBox="\1" xmlns="http://www.w3.org/2000/svg" '
        rf'xmlns:xlink="http://www.w3.org/1999/xlink">{_THEMES}',
        svg,
        count=1,
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return Figure(caption, description, svg, narrowest)


def curves(
    x: Any,
    values: Mapping[str, Any],
    caption: str,
    description: str,
    *,
    xlabel: str,
    ylabel: str,
    logx: bool = False,
    logy: bool = False,
    marker: str = "",
    theory: Mapping[str, Any] | None = None,
) -> Figure:
    """Lines over x with the 95 % intervals of their means as bands.

    Args:
        x: positions [points].
        values: by name, [seeds, points].
        caption: what it shows.
        description: the same for those who do not see it.
        xlabel: with its unit, if it has one.
        ylabel: likewise.
        logx: whether x is drawn on a logarithmic scale.
        logy: likewise; a band that reaches below 0 is cut off at a tenth of the mean.
        marker: of the points, matplotlib's.
        theory: by name, what is expected [points]; dotted, in the colours of the values if there are as many, else in
            ink.
    """
    with figure() as canvas:
        axes = canvas.subplots()
        for color, (name, of_seeds) in zip(cycle(COLORS), values.items(), strict=False):
            mean, half = interval(of_seeds)
            axes.plot(x, mean, color=color, label=name, marker=marker, markersize=4)
            below = np.maximum(mean - half, mean / 10) if logy else mean - half
            axes.fill_between(x, below, mean + half, color=color, alpha=0.2, linewidth=0)
        theory = theory or {}
        colors = COLORS if len(theory) == len(values) else (_INK,)
        for color, style, (name, expected) in zip(cycle(colors), cycle(_DOTTED), theory.items(), strict=False):
            axes.plot(x, expected, color=color, linestyle=style if color == _INK else ":", label=name)
        axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if logx else "linear", yscale="log" if logy else "linear")
        if len(x) <= _FEW:
            tick_at(axes, x)
        if len(values) + len(theory) < _MANY:
            axes.legend(fontsize=9, ncols=2)
        else:
            canvas.legend(fontsize=9, ncols=3, loc="outside upper center")
        return finished(canvas, caption, description)


def error_bars(axes: Axes, x: Any, values: Mapping[str, Any], markersize: float = 4) -> None:
    """Draw a line over x [points] for each name, whose values are [seeds, points], with the intervals of its means."""
    for color, (name, of_seeds) in zip(cycle(COLORS), values.items(), strict=False):
        mean, half = interval(of_seeds)
        axes.errorbar(x, mean, half, color=color, label=name, marker="o", markersize=markersize, capsize=2)


def tick_at(axes: Axes, positions: Any) -> None:
    """Label x at these positions in plain numbers, and nowhere else."""
    axes.set_xticks(positions, [f"{x:g}".replace("-", "−") for x in np.asarray(positions).tolist()])
    axes.set_xticks([], minor=True)


def animated(
    draw: Callable[[Canvas, int], None],
    frames: int,
    caption: str,
    description: str,
    *,
    size: tuple[float, float] = (5.4, 4.0),
    milliseconds: int = 150,
    hold: int = 3000,
) -> Animation:
    """A moving picture in the report's style, dark ink on white: a GIF cannot take its colours from the page.

    Args:
        draw: ``(canvas, k)`` draws frame k on an empty canvas, and says where its axes stand: none are moved.
        frames: how many; the last is also the still.
        caption: what it shows.
        description: the same for those who do not see it.
        size: width and height in inches, as of `figure`.
        milliseconds: how long a frame stands.
        hold: how long the last frame stands before all begins again.
    """
    pictures = [_raster(draw, k, size) for k in range(frames)]
    colors = Image.fromarray(np.concatenate([np.asarray(picture)[::2, ::2] for picture in pictures]))
    palette = colors.quantize(255, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    shades = np.array(palette.getpalette()).reshape(-1, 3)
    shades[shades.min(axis=1) >= 245] = 255  # so that the paper is white
    palette.putpalette(shades.ravel().tolist())
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    gif, still = io.BytesIO(), io.BytesIO()
    durations = [milliseconds] * (frames - 1) + [hold]
    indexed[0].save(gif, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True)
    indexed[-1].save(still, "PNG", optimize=True)
    width, height = (round(96 * inches) for inches in size)
    return Animation(caption, description, gif.getvalue(), still.getvalue(), width, height)


def _raster(draw: Callable[[Canvas, int], None], k: int, size: tuple[float, float]) -> Image.Image:
    """Frame k, with one and a half pixels for each of the page."""
    with figure(*size) as canvas:
        canvas.set(dpi=144, facecolor="white")
        canvas.set_layout_engine("none")  # axes that stand still, and a tenth of the time
        draw(canvas, k)
        surface = FigureCanvasAgg(canvas)
        surface.draw()
        return Image.fromarray(np.asarray(surface.buffer_rgba())).convert("RGB")
