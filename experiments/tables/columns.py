"""What each column is, numbers, words or nothing to learn from, and how columns become features."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.tables import numbers
from experiments.tables.errors import refused
from experiments.tables.files import Frame, Series

CATEGORIES = 20
"""words of a column that become a feature each; a column of more is left out"""
MARKED = 0.05
"""share of missing numbers above which a feature of its own says which are missing"""
STRANGE = 0.1
"""share of words among numbers up to which they are mistakes; with more, all are words"""
HUGE = 1e30
"""numbers beyond, whose squares are too large for 32 bits, are refused"""
SENTINELS = (*(-float("9" * k) for k in range(2, 7)), *(float("9" * k) for k in range(3, 7)))
"""−99, −999, …, 999, …: what some programs write for a missing number"""
UNSEEN = "missing"
"""the category of the words that are missing"""

_IDENTIFIER = re.compile(r"(.*[ _.-])?(id|idx|index|uuid|guid|key|nr|no|number|row)|id[ _.-].*|unnamed.*|#", re.I)
_DATE = re.compile(
    r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([T ].*)?|\d{1,2}[-. ]{1,2}[^\W\d]{3,9}\.?[-, ]{1,2}\d{2,4}"
    r"|[^\W\d]{3,9}\.? \d{1,2}, \d{4}|\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?"
)


class Numbers(NamedTuple):
    """A column of numbers: less its mean, divided by its standard deviation."""

    name: str
    written: numbers.Written
    sentinels: tuple[float, ...]
    """numbers that stand for missing ones"""
    median: float
    """in place of those that are missing"""
    mean: float
    scale: float
    marked: bool
    """whether one more feature is 1 where the number is missing"""

    @property
    def features(self) -> int:
        """How many features it becomes."""
        return 1 + self.marked

    def encoded(self, series: Series) -> np.ndarray:
        """The features [rows, features] of cells.

        Raises:
            ValueError: a cell that is no number, after its line.
        """
        found = values(series, _written_again(series, self.written), self.sentinels)
        x = (np.where(np.isnan(found), self.median, found) - self.mean) / self.scale
        return np.stack([x, np.isnan(found)] if self.marked else [x], axis=1).astype(np.float32)


class Words(NamedTuple):
    """A column of words: a feature for each category, 1 where the cell is it and else 0."""

    name: str
    categories: tuple[str, ...]

    @property
    def features(self) -> int:
        """How many features it becomes."""
        return len(self.categories)

    def encoded(self, series: Series) -> np.ndarray:
        """The features [rows, features] of cells; a word that is no category is none of them."""
        known = {category.casefold(): j for j, category in enumerate(self.categories)}
        of_words = {w: known.get((UNSEEN if numbers.is_missing(w) else w).casefold(), -1) for w in series.unique()}
        index = np.array([of_words[word] for word in series], np.int64)
        return (index[:, None] == np.arange(len(self.categories))).astype(np.float32)


class Column(NamedTuple):
    """What was made of a column."""

    name: str
    taken: Numbers | Words | None
    """None for a column that is left out"""
    said: str
    """as what it is taken, or why it is left out"""
    missing: int
    """cells without a value"""


def encode(columns: Sequence[Numbers | Words], frame: Frame) -> np.ndarray:
    """The features [rows, features] of a table, float32."""
    parts = [column.encoded(frame[column.name]) for column in columns]
    return np.concatenate([np.zeros((len(frame), 0), np.float32), *parts], axis=1)


def values(series: Series, written: numbers.Written, sentinels: Sequence[float] = ()) -> np.ndarray:
    """The numbers of cells, float64 [rows], NaN where they are missing.

    Raises:
        ValueError: a cell that is no number, after its line.
    """
    if series.dtype.kind == "f":
        found = series.to_numpy(np.float64)
    else:
        words = series.unique()
        there = [word for word in words if not numbers.is_missing(word, True)]
        plain = numbers.floats(there) if written.style == numbers.POINTS else None
        try:
            of_there = plain or [numbers.value(word, written) for word in there]
        except ValueError as error:
            raise ValueError(f"line {line_of(series, error.args[1])}: {error.args[0]}") from None
        of_words = dict.fromkeys(words, np.nan) | dict(zip(there, of_there, strict=True))
        found = np.array([of_words[word] for word in series], np.float64)
    return np.where(np.isin(found, sentinels), np.nan, found)


def _written_again(series: Series, before: numbers.Written) -> numbers.Written:
    """How numbers of another table are written: as before, if that can be, else in their own way."""
    if series.dtype.kind == "f":
        return before
    words = [word for word in series.unique() if not numbers.is_missing(word, True)]
    try:
        for word in words:
            numbers.value(word, before)
    except ValueError:
        return numbers.style_of(words) or before
    return before


def line_of(series: Series, word: Any) -> int:
    """The line of the first cell that is this word."""
    return int(series.index[(series == word).to_numpy().argmax()])


def written_of(path: Path, series: Series, decimal: str, separator: str) -> numbers.Written | None:
    """How the numbers of a column are written, or None for a column of words.

    Raises:
        Unreadable: few words among numbers, which are mistakes; a number that is too large.
    """
    if series.dtype.kind == "f":
        written = numbers.Written(numbers.POINTS)
    else:
        words = [word for word in series.unique() if not numbers.is_missing(word, True)]
        written = numbers.style_of(words, decimal, separator) if words else None
        strange = [] if written else [word for word in words if not numbers.is_number(word)]
        share = series.isin(strange).mean()
        if words and not written and (0 < share <= STRANGE):
            got = f"{strange[0]!r} in line {line_of(series, strange[0])}, column {series.name}"
            raise refused(path, "numbers alone", got, "Correct the cell, or leave it empty")
        if words and not written and not strange:
            shown = ", ".join(repr(word) for word in _unlike(words))
            got = f"{shown} in column {series.name}, line {line_of(series, _unlike(words)[-1])}"
            raise refused(path, "numbers written in one way", got, "Write all of them alike")
    if written:
        found = values(series, written)
        huge = np.flatnonzero(np.abs(found) > HUGE)
        if len(huge):
            got = f"{found[huge[0]]:g} in line {series.index[huge[0]]}, column {series.name}"
            raise refused(path, f"numbers up to {HUGE:g}", got, "Rescale the column, or leave the cell empty")
    return written


def _unlike(words: list[str]) -> list[str]:
    """Two words that no one style writes."""
    return next(([words[0], word] for word in words if not numbers.style_of([words[0], word])), [words[0], words[-1]])


def sentinels_of(series: Series, written: numbers.Written) -> tuple[list[float], list[str]]:
    """The sentinels that stand for missing numbers, those far from all other numbers; and warnings of all there are.

    Far is farther than the others lie apart.
    """
    found = values(series, written)
    found = found[~np.isnan(found)]
    there = [value for value in SENTINELS if value in found]
    others = found[~np.isin(found, SENTINELS)]
    if not there or not len(others):
        return [], []
    low, high = others.min(), others.max()
    taken, warnings = [], []
    for value in there:
        often = f"{value:g} stands {int((found == value).sum())} times in column {series.name}"
        if value < low - (high - low) or value > high + (high - low):
            taken.append(value)
            warnings.append(f"{often}, all others from {low:g} to {high:g}: it counts as missing")
        elif not low <= value <= high:
            warnings.append(f"{often}: it counts as a number, though it often stands for a missing one")
    return taken, [warning.replace("-", "−") if "-9" in warning else warning for warning in warnings]


def doubts_of(series: Series, written: numbers.Written) -> list[str]:
    """A warning, with an example, of numbers that may be read in another way as well."""
    if not written.doubtful:
        return []
    example = next(word for word in series if not numbers.is_missing(word, True) and re.search(r"[.,]", word))
    value = numbers.value(example, written)
    return [f"column {series.name} is read with {written.style}: {example} is {value:g}"]


def column_of(
    series: Series, written: numbers.Written | None, kept: Any
) -> tuple[Column, list[str]]:  # fmt: skip
    """What is made of a column of features, and warnings.

    Args:
        series: all its cells, words or float64 numbers.
        written: how its numbers are written; None for words.
        kept: the lines of the rows that have an answer, of which medians, means and categories are taken.
    """
    name = str(series.name)
    return _of_numbers(name, series, written, kept) if written else _of_words(name, series, kept)


def _of_numbers(
    name: str, series: Series, written: numbers.Written, kept: Any
) -> tuple[Column, list[str]]:  # fmt: skip
    sentinels, warnings = sentinels_of(series, written)
    whole = values(series, written, sentinels)
    found = whole[series.index.isin(kept)]
    missing, there = int(np.isnan(found).sum()), found[~np.isnan(found)]
    if not len(there) or there.min() == there.max():
        why = f"constant, {there[0]:g} in each row" if len(there) else "empty"
        return Column(name, None, why, missing), warnings
    identifier = _identifies(name, whole[~np.isnan(whole)])
    if identifier:
        return Column(name, None, identifier, missing), warnings
    if _IDENTIFIER.fullmatch(name):
        warnings.append(f"column {name} has the name of an identifier, and its numbers come again: taken as numbers")
    elif len(there) > 2 and np.all(there == np.round(there)) and np.all(np.diff(there) > 0):
        warnings.append(
            f"column {name} rises from row to row: taken as numbers; leave it out if it only names the rows"
        )
    median = float(np.median(there))
    full = np.where(np.isnan(found), median, found)
    marked = missing > MARKED * len(found)
    taken = Numbers(name, written, tuple(sentinels), median, float(full.mean()), float(full.std()), marked)
    said = "numbers" + (", per cent" if written.percent else "")
    said += "" if written.style == numbers.POINTS else f" with {written.style}"
    if missing:
        said += f"; the median, {median:g}, in place of {missing} missing"
        said += ", and a feature that says where" if marked else ""
    return Column(name, taken, said, missing), warnings


def _of_words(name: str, series: Series, kept: Any) -> tuple[Column, list[str]]:
    cells = series[series.index.isin(kept)]
    is_missing = cells.map(numbers.is_missing).to_numpy(bool)
    missing, words = int(is_missing.sum()), cells[~is_missing]
    counts = words.value_counts()
    if counts.empty:
        return Column(name, None, "empty", missing), []
    if _are_dates(list(counts.index)):
        return Column(name, None, f"dates or times, such as {words.iloc[0]}", missing), []
    alike: dict[str, str] = {}
    for word in counts.index:  # from the commonest on
        alike.setdefault(word.casefold(), word)
    if len(alike) > CATEGORIES:
        kind = "an identifier or free text" if len(alike) > len(words) / 2 else "too many categories"
        return Column(name, None, f"{kind}: {len(alike)} different words", missing), []
    if len(alike) == 1 and not missing:
        return Column(name, None, f"constant, {counts.index[0]} in each row", missing), []
    warnings = []
    if len(alike) < len(counts):
        merged = [word for word in counts.index if alike[word.casefold()] != word]
        pairs = ", ".join(f"{word!r} as {alike[word.casefold()]!r}" for word in merged[:3])
        warnings.append(f"words of column {name} that differ in case alone are taken as one: {pairs}")
    if any(map(numbers.is_number, counts.index)):
        warnings.append(f"column {name} has words among numbers: all are taken as words")
    categories = (*sorted(alike.values()), *([UNSEEN] if missing and UNSEEN not in alike else []))
    said = f"words, a feature each: {', '.join(categories)}" + (f"; {missing} missing" if missing else "")
    return Column(name, Words(name, categories), said, missing), warnings


def no_answer(series: Series, written: numbers.Written | None) -> str:
    """Why a column can hardly be an answer: it is dates, or numbers the rows; nothing where it can."""
    if written:
        found = values(series, written)
        return _identifies(str(series.name), found[~np.isnan(found)])
    words = [word for word in series.unique() if not numbers.is_missing(word)]
    return f"dates or times, such as {words[0]}" if _are_dates(words) else ""


def _are_dates(words: Sequence[str]) -> bool:
    """Whether all words, but for one of twenty, are dates or times."""
    return bool(words) and sum(bool(_DATE.fullmatch(word)) for word in words) >= 0.95 * len(words)


def _identifies(name: str, found: np.ndarray) -> str:
    """Why numbers are no feature: they are dates, or number the rows; nothing where they are one."""
    if not np.all(found == np.round(found)):
        return ""
    different = np.unique(found)
    if different[0] >= 19000101 and different[-1] <= 21001231:
        month, day = different // 100 % 100, different % 100
        if np.all((month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)):
            return f"dates, such as {different[0]:.0f}"
    if len(different) < len(found):
        return ""
    if np.all(np.diff(different) == 1):
        return f"an identifier: each row has its own number, {different[0]:.0f} to {different[-1]:.0f}"
    return "an identifier: its name, and another number in each row" if _IDENTIFIER.fullmatch(name) else ""
