"""Surfaces to go down: a long valley, a saddle and a bowl."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np

STEEP = 10.0
"""the bowl's larger curvature"""


class Surface(NamedTuple):
    """A loss of two weights."""

    loss: Callable[[Any], Any]
    """of (x, y)"""
    lowest: float
    box: tuple[tuple[float, float], tuple[float, float]]
    """the part that is drawn, in x and in y"""


def valley(w: Any) -> Any:
    """Beale's function: 0 at (3, ½), at the end of a long valley."""
    x, y = w
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def saddle(w: Any) -> Any:
    """A saddle at 0, and −½ at (0, ±1)."""
    x, y = w
    return x**2 - y**2 + y**4 / 2


def bowl(w: Any) -> Any:
    """0 at 0."""
    x, y = w
    return (x**2 + STEEP * y**2) / 2


SURFACES = {
    "valley": Surface(valley, 0.0, ((-0.7, 4.2), (-1.6, 2.1))),
    "saddle": Surface(saddle, -0.5, ((-1.3, 1.3), (-1.5, 1.5))),
    "bowl": Surface(bowl, 0.0, ((-2.4, 1.4), (-1.1, 1.4))),
}


def draw_ground(axes: Any, surface: str) -> None:
    """The surface, darker where it is higher."""
    loss, lowest, ((left, right), (low, high)) = SURFACES[surface]
    x, y = np.meshgrid(np.linspace(left, right, 100), np.linspace(low, high, 100))
    height = np.log10(loss((x, y)) - lowest + 0.05)
    axes.contourf(x, y, height, 9, cmap=mpl.rcParams["image.cmap"], alpha=0.35)
    axes.set(xlim=(left, right), ylim=(low, high), xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.set_title("noisy bowl" if surface == "bowl" else surface, fontsize=10)
