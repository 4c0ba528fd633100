"""Pictures for the report: matplotlib figures as SVG whose ink is dark on light pages and light on dark ones.

On a phone a picture shrinks to the width of the screen, but never so far that a word of it is smaller than nine pixels:
below that width it is scrolled.
"""

from __future__ import annotations

import io
import math
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
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import LogFormatterMathtext
from PIL import Image, ImageColor

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
"""positions that are labelled one by one; lines that are named at their ends"""
_LEGIBLE, _PHONE = 9.0, 390
"""pixels of the smallest word that a picture shows at any width; of the width of a phone"""
_PAPER, _THEIR_INK = ("#ffffff", "#15171a"), ("#1c1f24", "#e6e7ea")
"""of moving pictures on light and on dark pages"""

_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fnn",
    "font.size": 11,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "font.family": "sans-serif",
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
} | dict.fromkeys(_INKED, _INK)


@contextmanager
def figure(width: float = 5.4, height: float = 4.0) -> Iterator[Canvas]:
    """A canvas in the report's style; draw on it inside the `with`, then hand it to `finished`."""
    with mpl.rc_context(_STYLE):
        yield Canvas(figsize=(width, height))


def finished(canvas: Canvas, caption: str, description: str) -> Figure:
    """The canvas as a figure of the report; call it inside the `with` of `figure`."""
    buffer = io.StringIO()
    _write_powers(canvas)
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    narrowest = _narrowest(canvas)
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


def _write_powers(canvas: Canvas) -> None:
    """Label logarithmic axes by plain numbers, whose exponents are as large as the other words."""
    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(lambda value, place: power(value))
                low, high = np.sort(np.abs(axis.get_view_interval()))
                few = high < 30 * low
                axis.set_minor_formatter(
                    lambda value, place, few=few: power(value) if few and f"{value:e}"[0] in "25" else ""
                )


def power(value: float) -> str:
    """A number of few digits as on the label of an axis: "0.01", "200", "5·10⁻⁶"."""
    if value == 0 or 1e-3 < abs(value) < 1e4:
        return f"{value:g}".replace("-", "−")
    digits, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return ("" if digits == "1" else digits.replace("-", "−") + "·") + f"10{raised}"


def _narrowest(canvas: Canvas) -> int:
    """The width in pixels below which the smallest word of a picture is not legible; 0 if it is on every phone."""
    words = (of for of in canvas.findobj(Text) if isinstance(of, Text) and of.get_visible() and of.get_text().strip())
    smallest = min((float(of.get_fontsize()) for of in words), default=math.inf)
    least = math.ceil(_LEGIBLE * 72 / smallest * canvas.get_figwidth())
    return least if least > _PHONE else 0


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
            axes.legend()
        else:
            name_lines(axes)
        return finished(canvas, caption, description)


def error_bars(axes: Axes, x: Any, values: Mapping[str, Any], markersize: float = 4) -> None:
    """Draw a line over x [points] for each name, whose values are [seeds, points], with the intervals of its means."""
    for color, (name, of_seeds) in zip(cycle(COLORS), values.items(), strict=False):
        mean, half = interval(of_seeds)
        axes.errorbar(x, mean, half, color=color, label=name, marker="o", markersize=markersize, capsize=2)


def name_lines(axes: Axes, fontsize: float = 10) -> None:
    """Write the name of each line at its right end, in the order of the ends and clear of each other.

    Call it when the limits and scales of the axes are set. Lines without a name are left out.
    """
    ends = {}
    low, high = axes.transData.inverted().transform(axes.transAxes.transform([(0, 0), (1, 1)]))
    for line in axes.get_lines():
        x, y = (np.asarray(values, float) for values in line.get_data())
        seen = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & (x <= max(low[0], high[0])))
        if seen.size and not str(line.get_label()).startswith("_"):
            place = axes.transAxes.inverted().transform(axes.transData.transform((x[seen[-1]], y[seen[-1]])))
            ends[line] = np.clip(place, 0, 1)
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    step = 1.25 * fontsize / height
    lines = sorted(ends, key=lambda line: ends[line][1])
    places = _apart(np.array([ends[line][1] for line in lines]), step)
    for line, place in zip(lines, places, strict=True):
        look: dict[str, Any] = {"color": line.get_color(), "linestyle": line.get_linestyle(), "clip_on": False}
        x, y = ends[line]
        axes.add_line(Line2D([x, 1.03, 1.06], [y, place, place], transform=axes.transAxes, alpha=0.6, lw=1, **look))
        axes.text(1.07, place, str(line.get_label()), transform=axes.transAxes, va="center", fontsize=fontsize)


def _apart(wanted: np.ndarray, step: float) -> np.ndarray:
    """The places nearest to the ascending ones wanted that are a step apart: an isotonic regression."""
    blocks: list[list[float]] = []  # means of wanted places less the steps below them, and how many
    for i, place in enumerate(wanted):
        blocks.append([place - i * step, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (one, n), (other, m) = blocks[-2:]
            blocks[-2:] = [[(n * one + m * other) / (n + m), n + m]]
    flat = np.array([mean for mean, count in blocks for _ in range(int(count))])
    return flat + step * np.arange(len(wanted))


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
    """A moving picture in the report's style, one for light pages and one for dark: a GIF takes no colours of the page.

    Args:
        draw: ``(canvas, k)`` draws frame k on an empty canvas, and says where its axes stand: none are moved.
        frames: how many; the last is also the still.
        caption: what it shows.
        description: the same for those who do not see it.
        size: width and height in inches, as of `figure`.
        milliseconds: how long a frame stands.
        hold: how long the last frame stands before all begins again.
    """
    durations = [milliseconds] * (frames - 1) + [hold]
    gif, still = _moving(draw, durations, size, dark=False)
    dark_gif, dark_still = _moving(draw, durations, size, dark=True)
    width, height = (round(96 * inches) for inches in size)
    return Animation(caption, description, gif, dark_gif, still, dark_still, width, height)


def _moving(
    draw: Callable[[Canvas, int], None], durations: list[int], size: tuple[float, float], dark: bool
) -> tuple[bytes, bytes]:
    """A GIF of frames that last so many milliseconds each, and a PNG of the last of them."""
    pictures = [_raster(draw, k, size, dark) for k in range(len(durations))]
    colors = Image.fromarray(np.concatenate([np.asarray(picture)[::2, ::2] for picture in pictures]))
    palette = colors.quantize(255, Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
    shades, paper = np.array(palette.getpalette()).reshape(-1, 3), np.array(ImageColor.getrgb(_PAPER[dark]))
    shades[np.abs(shades - paper).max(axis=1) <= 10] = paper  # so that the paper is all of one colour
    palette.putpalette(shades.ravel().tolist())
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    gif, still = io.BytesIO(), io.BytesIO()
    indexed[0].save(gif, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0, optimize=True)
    indexed[-1].save(still, "PNG", optimize=True)
    return gif.getvalue(), still.getvalue()


def _raster(draw: Callable[[Canvas, int], None], k: int, size: tuple[float, float], dark: bool) -> Image.Image:
    """Frame k, with one and a half pixels for each of the page."""
    look: Any = dict.fromkeys(_INKED, _THEIR_INK[dark]) | {
        "image.cmap": "Greys_r" if dark else "Greys",
        "axes.facecolor": _PAPER[dark],
    }
    with figure(*size) as canvas, mpl.rc_context(look):
        canvas.set(dpi=144, facecolor=_PAPER[dark])
        canvas.set_layout_engine("none")  # axes that stand still, and a tenth of the time
        draw(canvas, k)
        _write_powers(canvas)
        surface = FigureCanvasAgg(canvas)
        surface.draw()
        if narrowest := _narrowest(canvas):
            raise ValueError(f"words of this moving picture are legible from {narrowest} pixels on; make them larger")
        return Image.fromarray(np.asarray(surface.buffer_rgba())).convert("RGB")
