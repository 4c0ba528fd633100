"""What an experiment is given and what it gives back, in words, numbers and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
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
    quantity: str = ""
    """what the numbers beside it are, with the unit, such as "held-out accuracy" or "seconds"; none for a yes or no"""

    def filled(self, **values: Any) -> Claim:
        """The claim with values in place of its {fields}."""
        return Claim(*(part.format(**values) for part in self))


class Word(StrEnum):
    """What the cases of a claim come to."""

    HOLDS = "holds"
    PARTLY = "holds partly"
    OPEN = "open"
    FAILS = "does not hold"


class Case(NamedTuple):
    """One of the cases that a claim speaks of, measured."""

    name: str
    """empty where the claim has one case only"""
    measured: str
    """the number with its interval, in words"""
    holds: bool | None
    """None where the interval crosses a bound and so decides nothing"""
    interval: tuple[float, float, float] | None = None
    """what decides: the lower end, the value and the upper end; None where the case has no interval"""


class Verdict(NamedTuple):
    """A claim and whether the numbers bear it out."""

    claim: str
    cases: tuple[Case, ...]
    why: str = ""
    """what explains that it does not hold, or not as a whole"""
    quantity: str = ""
    """what the numbers of the cases are, with the unit"""
    bounds: tuple[float | None, float | None] = (None, None)
    """between which the intervals must lie, None where there is no bound"""

    @property
    def word(self) -> Word:
        """Held by all cases, by some while others fail, by none while some fail; open where none fails."""
        found = [case.holds for case in self.cases]
        if False in found:
            return Word.PARTLY if True in found else Word.FAILS
        return Word.OPEN if None in found else Word.HOLDS

    @property
    def counts(self) -> str:
        """How many of several cases hold and how many are open, such as "3 of 7 cases hold, 2 are open"."""
        found = [case.holds for case in self.cases]
        hold, left = found.count(True), found.count(None)
        if len(found) < 2:
            return ""
        said = f"{hold} of {len(found)} cases {'holds' if hold == 1 else 'hold'}"
        return said + (f", {left} {'is' if left == 1 else 'are'} open" if left else "")

    @property
    def measured(self) -> str:
        """All cases in one line."""
        return "; ".join(f"{case.name}: {case.measured}" if case.name else case.measured for case in self.cases)

    @property
    def explanation(self) -> str:
        """Why it does not hold; nothing where it does."""
        return "" if self.word is Word.HOLDS else self.why


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
    """A moving picture for light pages and for dark, and the one still of it that those see who asked for less motion.

    A GIF runs without end; the page has a switch that shows the still, a PNG, instead.
    """

    caption: str
    description: str
    gif: bytes
    dark_gif: bytes
    still: bytes
    dark_still: bytes
    width: int
    """pixels of the page, which may be fewer than those of the picture"""
    height: int


@dataclass
class Outcome:
    """What an experiment found, ready to be printed, stored and put on a page.

    The runner fills in the last five; a title that an experiment sets stays.
    """

    lead: str
    """what was done, in a paragraph; formulas in it are LaTeX between dollar signs"""
    verdicts: Sequence[Verdict]
    equation: str = ""
    """LaTeX, a formula a line"""
    slide: int = 0
    """the number of the lecture's slide that the claims are from; 0 for those beyond the lecture"""
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    animations: Sequence[Animation] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    """nested dicts and lists of numbers, for the CSV and the JSON"""
    files: dict[str, bytes] = field(default_factory=dict)
    """further files by their names, for the folder of the report"""
    about: str = ""
    """what of the user's own it is about, such as a table; empty for the lecture's claims"""
    title: str = ""
    """by default the first line of the module's docstring"""
    name: str = ""
    command: str = ""
    seconds: float = 0.0
    quick: bool = False


Experiment = Callable[[Settings, Log], Outcome]
