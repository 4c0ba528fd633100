"""What an experiment is given and what it gives back, in words, numbers and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from experiments.user_network import Problem

SLIDES = (
    "Beyond the lecture",
    "Linear models",
    "The McCulloch–Pitts neuron",
    "Activation functions",
    "AND, OR, NOT",
    "XOR",
    "Which functions a network can represent",
    "Kolmogorov 1957",
    "Cybenko 1989",
    "Fully connected networks",
    "Algorithm SG",
    "Differentiating a superposition",
    "BackProp",
    "Momentum and NAG",
    "RMSProp and AdaDelta",
    "Adam and Nadam",
    "Comparison of methods",
    "Gradient explosion and clipping",
    "Dropout",
    "Interpretations of Dropout",
    "Inverted Dropout and L2",
    "ReLU and PReLU",
    "Batch normalisation",
    "Initialisation",
    "Optimal Brain Damage",
    "Summary",
)
"""The lecture's slides by their numbers."""


T = TypeVar("T")


class TableGiven(NamedTuple):
    """A user's own table, as it was asked for."""

    path: str
    answer: str | None = None
    """the column to predict, or None for the default"""
    answer_is: str | None = None
    """"classes" or "numbers", or None for the default"""


class Settings(NamedTuple):
    """How large an experiment is to be."""

    seeds: int
    """independent runs, two or more"""
    quick: bool
    """a small version that shows that everything works"""
    problem: Problem | None = None
    """a user's own network, loss and batch, or None"""
    data: TableGiven | None = None
    """a user's own table, or None"""

    def pick(self, quick: T, full: T) -> T:
        """The first in a quick run, the second in a full one."""
        return quick if self.quick else full


Log = Callable[[str], None]
"""Tells the reader at the terminal what is going on."""


class Claim(NamedTuple):
    """A sentence that the numbers may bear out or not."""

    text: str
    why: str = ""
    """the likely explanation if it does not hold, or not as a whole"""

    def filled(self, **values: Any) -> Claim:
        """The claim with values in place of its {fields}."""
        return Claim(self.text.format(**values), self.why.format(**values))


class Verdict(NamedTuple):
    """A claim and whether the numbers bear it out."""

    claim: str
    holds: bool
    measured: str
    partly: bool = False
    """whether what does not hold as a whole holds for some of its cases, or is left open by an interval"""
    why: str = ""
    """what explains that it does not hold, or not as a whole"""

    @property
    def word(self) -> str:
        """In a word or two."""
        return "holds" if self.holds else "holds partly" if self.partly else "does not hold"

    @property
    def explanation(self) -> str:
        """Why it does not hold; nothing where it does."""
        return "" if self.holds else self.why


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

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels of the page, from the picture's points."""
        box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.svg)
        if box is None:
            raise ValueError(f"the picture {self.caption!r} has no viewBox that begins at 0 0; make it with `finished`")
        return round(float(box[1]) * 4 / 3), round(float(box[2]) * 4 / 3)


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
    """What an experiment found, ready to be printed, stored and put on a page.

    The runner fills in the last five; a title that an experiment sets stays.
    """

    lead: str
    """what was done, in a paragraph"""
    verdicts: Sequence[Verdict]
    equation: str = ""
    slide: int = 0
    """the number of the lecture's slide that the claims are from; 0 for those beyond the lecture"""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    animations: Sequence[Animation] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    """nested dicts and lists of numbers, for the CSV and the JSON"""
    files: dict[str, bytes] = field(default_factory=dict)
    """further files by their names, for the folder of the report"""
    title: str = ""
    """by default the first line of the module's docstring"""
    name: str = ""
    command: str = ""
    seconds: float = 0.0
    quick: bool = False


Experiment = Callable[[Settings, Log], Outcome]
