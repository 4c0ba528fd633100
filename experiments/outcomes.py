"""What an experiment is given and what it gives back, in words, numbers and pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from experiments.posed import Posed


class Settings(NamedTuple):
    """How large an experiment is to be."""

    seeds: int
    """independent runs, two or more"""
    quick: bool
    """a small version that shows that everything works"""
    posed: Posed | None = None
    """a user's own network, loss and batch, or None"""


Show = Callable[[str], None]
"""Tells the reader at the terminal what is going on."""


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval, mean ± half."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half:.4f}"


class Verdict(NamedTuple):
    """A claim and whether the numbers bear it out."""

    claim: str
    holds: bool
    measured: str


class Table(NamedTuple):
    """Rows of text under a caption; the first column names its row."""

    caption: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


class Figure(NamedTuple):
    """A picture as SVG text, with words for those who do not see it."""

    caption: str
    description: str
    svg: str
    narrowest: int = 0
    """pixels below which the picture is scrolled rather than shrunk"""


class Animation(NamedTuple):
    """A moving picture, and the one still of it that those see who asked for less motion."""

    caption: str
    description: str
    gif: bytes
    still: bytes
    """a PNG of the same size"""
    width: int
    """pixels of the page, which may be fewer than those of the picture"""
    height: int


@dataclass
class Outcome:
    """What an experiment found, ready to be printed, stored and put on a page."""

    name: str
    title: str
    lead: str
    equation: str
    command: str
    verdicts: list[Verdict]
    tables: list[Table]
    figures: list[Figure]
    numbers: dict[str, Any]
    seconds: float = field(default=0.0)
    animations: list[Animation] = field(default_factory=list)


def interval(values: Any, axis: int = 0, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half width of the Student interval over an axis of independent values.

    Equation: mean ± t·s/√n, with s the unbiased standard deviation and t the quantile for n − 1 degrees of freedom.
    """
    values = np.asarray(values, np.float64)
    n = values.shape[axis]
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    spread = values.std(axis=axis, ddof=1) / np.sqrt(n)
    return values.mean(axis=axis), stats.t.ppf((1 + confidence) / 2, n - 1) * spread
