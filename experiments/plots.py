"""Pictures for the report: matplotlib figures as SVG that takes its ink from the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure as Canvas

from experiments.outcomes import Figure

_INK = "#010203"  # stands for the page's text colour, and becomes `currentColor`
COLORS = ("#4c8dd6", "#e08a2c", "#3fa66b", "#d9534f", "#9a6fd0", "#b08968", "#2ba8b8", "#8a8f98")
"""Eight colours that can be told apart on white and on black."""

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


def finished(canvas: Canvas, caption: str, description: str) -> Figure:
    """The canvas as a figure of the report; call it inside the `with` of `figure`."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        r'<svg viewBox="\1" xmlns="http://www.w3.org/2000/svg" '
        r'xmlns:xlink="http://www.w3.org/1999/xlink">',
        svg,
        count=1,
    )
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return Figure(caption, description, _own_ids(svg, caption))


def _own_ids(svg: str, caption: str) -> str:
    """Ids that stay apart when several pictures stand on one page."""
    prefix = re.sub(r"\W+", "-", caption.lower())[:40]
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
