"""Words that are numbers: decimal points and commas, thousands, per cent, and marks of what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

MISSING = frozenset(("", "na", "n/a", "#n/a", "#na", "nan", "null", "<na>", "?"))
"""what stands for a missing cell, in lower case"""
MISSING_NUMBERS = MISSING | {"none", "nil", "-", "–", "—", "--", ".", "missing", "unknown"}
"""what stands for a missing number as well: among words these may be categories"""

_SIGN, _POWER = r"[+-]?", r"(?:[eE][+-]?\d+)?"


class Style(NamedTuple):
    """How the numbers of a column are written."""

    label: str
    pattern: re.Pattern[str]
    thousands: str
    decimal: str


def _style(label: str, plain: str, grouped: str, thousands: str, decimal: str) -> Style:
    pattern = rf"{_SIGN}(?:{grouped}|{plain}){_POWER}" if grouped else rf"{_SIGN}(?:{plain}){_POWER}"
    return Style(label, re.compile(pattern), thousands, decimal)


_POINT, _COMMA = r"\d+\.?\d*|\.\d+", r"\d+,?\d*|,\d+"
STYLES = {
    style.label: style
    for style in (
        _style("decimal points", _POINT, "", "", "."),
        _style("decimal commas", _COMMA, "", "", ","),
        _style("commas between thousands", _POINT, r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?", ",", "."),
        _style("points between thousands", _COMMA, r"[1-9]\d{0,2}(?:\.\d{3})+(?:,\d*)?", ".", ","),
    )
}
POINTS, COMMAS, COMMA_THOUSANDS, POINT_THOUSANDS = STYLES
_CHARACTERS = set("0123456789.+-eE")


class Written(NamedTuple):
    """How a column of numbers is written."""

    style: str
    percent: bool = False
    doubtful: bool = False
    """whether it may be read in another way as well"""


def is_missing(word: str, among_numbers: bool = False) -> bool:
    """Whether a cell says that its value is missing."""
    return word.lower() in (MISSING_NUMBERS if among_numbers else MISSING)


def is_number(word: str) -> bool:
    """Whether a cell is a number in some style."""
    return any(_matches(style, word) for style in STYLES)


def value(word: str, written: Written) -> float:
    """The number that a word writes in a style.

    Raises:
        ValueError: it is no number of this style; its arguments are the words that say so, and the word.
    """
    style, plain = STYLES[written.style], _plain(word)
    if not style.pattern.fullmatch(plain):
        raise ValueError(f"{word!r} is no number with {written.style}", word)
    return float(plain.replace(style.thousands, "").replace(style.decimal, ".") if style.thousands else
                 plain.replace(style.decimal, "."))  # fmt: skip


def style_of(words: Iterable[str], decimal: str = "", separator: str = "") -> Written | None:
    """How numbers are written, or None if no one style writes them all.

    Where each comma stands before three digits it may be a decimal one or one between thousands, and likewise each
    point. The rest of the table decides, by its `decimal`; else points are decimal, and commas are between thousands
    in a file separated by commas, decimal in another, and doubtful.
    """
    words = list(words)
    percent = bool(words) and all(word.endswith("%") for word in words)
    if not percent and any(word.endswith("%") for word in words):
        return None
    fit = _fit(words)
    if not fit:
        return None
    if POINTS in fit and COMMAS in fit:  # whole numbers
        return Written(POINTS, percent)
    if POINTS in fit and POINT_THOUSANDS in fit:
        return Written(POINT_THOUSANDS, percent, True) if decimal == "," else Written(POINTS, percent)
    if COMMAS in fit and COMMA_THOUSANDS in fit:
        thousands = decimal == "." or (not decimal and separator == ",")
        return Written(COMMA_THOUSANDS if thousands else COMMAS, percent, decimal != ",")
    return Written(fit[0], percent)


def decimal_of(columns: Iterable[Iterable[str]]) -> str:
    """The decimal mark of a table: a comma if a column of numbers can have no other, else a point if one needs it."""
    found = ""
    for words in columns:
        fit = _fit(list(words))
        if fit and POINTS not in fit and COMMA_THOUSANDS not in fit:
            return ","
        if fit and COMMAS not in fit and POINT_THOUSANDS not in fit:
            found = "."
    return found


def floats(words: Iterable[str]) -> list[float] | None:
    """The numbers with decimal points, in ASCII alone, that all words write; None, soon, where one is none."""
    words = list(words)
    try:
        return [float(word) for word in words] if set().union(*words) <= _CHARACTERS else None
    except ValueError:
        return None


def _fit(words: list[str]) -> list[str]:
    """The styles that write all words."""
    plain = floats(words) is not None  # as its pattern says, in a tenth of the time
    return [s for s in STYLES if (plain and s in (POINTS, COMMA_THOUSANDS)) or all(_matches(s, word) for word in words)]


def _matches(label: str, word: str) -> bool:
    return STYLES[label].pattern.fullmatch(_plain(word)) is not None


def _plain(word: str) -> str:
    """Without the sign of per cent, and with ASCII's minus."""
    return word.removesuffix("%").rstrip().replace("−", "-")
