"""A user's table: which column is the answer, what the others are, and all of it said."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.tables import numbers
from experiments.tables.columns import (
    Column,
    Numbers,
    Words,
    column_of,
    doubts_of,
    encode,
    line_of,
    no_answer,
    sentinels_of,
    values,
    written_of,
)
from experiments.tables.errors import refused
from experiments.tables.files import Cells, Frame, Series, cells

SMALLEST = 50
"""rows, of which some are held out"""
FEW_CLASSES = 20
"""values up to which whole numbers are classes"""
RARE = 5
"""examples of a class below which it is warned of"""
ANSWERS = ("target", "answer", "label", "class", "y", "outcome", "response")
"""names of an answer that need not be the last column"""
CLASSES, NUMBERS = "classes", "numbers"
_TOTAL = re.compile(
    r"(grand |sub)?(total|totals|sum|summe|gesamt|insgesamt|summa|totale|average|mean|mittelwert)s?:?", re.I
)


class Answer(NamedTuple):
    """What is to be predicted."""

    name: str
    classes: tuple[str, ...]
    """their labels; none where the answer is a number"""
    counts: tuple[int, ...]
    """rows of each class"""
    mean: float
    """of the numbers, as of their standard deviation: the targets have mean 0 and variance 1"""
    scale: float
    said: str
    """which column it is and why, and what it is taken for"""


class Table(NamedTuple):
    """A table, taken."""

    label: str
    """the name of the file"""
    rows: int
    """of the file, names and comments not counted"""
    x: np.ndarray
    """features [examples, features], float32"""
    y: np.ndarray
    """classes [examples], int32, or numbers [examples, 1], float32, with mean 0 and variance 1"""
    answer: Answer
    columns: tuple[Column, ...]
    """all but the answer, in the order of the file"""
    named: bool
    """whether the file names its columns"""
    notes: tuple[str, ...]
    """what was decided"""
    warnings: tuple[str, ...]
    """what may be wrong"""

    @property
    def taken(self) -> list[Numbers | Words]:
        """The columns that became features."""
        return [column.taken for column in self.columns if column.taken is not None]


def read(path: Path, answer: str | None = None, answer_is: str | None = None) -> Table:
    """A user's table from a file; see `described` for all that was decided.

    Args:
        path: a file that `cells` reads.
        answer: the column to predict; by default the only one that is named so, such as "target", else the last.
        answer_is: "classes" or "numbers"; by default words are classes, and so are whole numbers of few values.

    Raises:
        Unreadable: no table, or one that may be meant in two ways; one line that says what to do.
    """
    found = cells(path, answer)
    frame, notes, warnings = found.frame, list(found.notes), list(found.warnings)
    rows = len(frame)
    name, why = _answer_name(path, list(frame.columns), answer)
    frame, dropped = _without_totals(frame)
    warnings += dropped
    if len(frame) < SMALLEST:
        raise refused(path, f"{SMALLEST} rows or more", str(len(frame)), "Gather more, for some are held out")
    decimal = numbers.decimal_of(_words_alone(frame[column]) for column in frame.columns)
    written = {column: written_of(path, frame[column], decimal, found.separator) for column in frame.columns}
    frame = frame.copy()
    for column, style in written.items():
        if style:
            warnings += doubts_of(frame[column], style)
            frame[column] = values(frame[column], style)
    doubt = no_answer(frame[name], written[name])
    if doubt and answer is None:
        do = "Name another column by --answer, or this one if it is meant"
        raise refused(path, f"an answer in column {name}, {why.split(';')[0]}", doubt, do)
    warnings += [f"the answer, {name}, looks like {doubt}"] if doubt else []
    kept, y, target, warned = _answered(path, frame[name], written[name], answer_is, why)
    warnings += warned
    columns = []
    for column in frame.columns.drop(name):
        made, warned = column_of(frame[column], written[column], kept)
        columns.append(made)
        warnings += warned
    taken = [column.taken for column in columns if column.taken is not None]
    if not taken:
        left = "; ".join(f"{column.name} is {column.said}" for column in columns[:5])
        raise refused(path, "a column to learn from", f"none: {left}", "Add numbers, or words that come again")
    x = encode(taken, frame.loc[kept])
    return Table(
        path.name, rows, x, y, target, tuple(columns), found.named, tuple(notes), tuple(warnings)
    )  # fmt: skip


def features_of(found: Cells, columns: Sequence[Numbers | Words], path: Path) -> np.ndarray:
    """The features of another table by the columns of an earlier one.

    Raises:
        Unreadable: a column that is not there, or a cell that is no number.
    """
    for column in columns:
        if column.name not in found.frame.columns:
            got = ", ".join(map(str, found.frame.columns))
            raise refused(path, f"a column {column.name}", got, "Name the columns as in the table that was learned")
    try:
        return encode(columns, found.frame)
    except ValueError as error:
        raise refused(path, "numbers as in the table that was learned", str(error), "Correct the cell") from None


def _words_alone(series: Series) -> list[str]:
    if series.dtype.kind == "f":
        return []
    return [word for word in series.unique() if not numbers.is_missing(word, True)]


def _answer_name(path: Path, names: list[str], asked: str | None) -> tuple[str, str]:
    """The column to predict, and why that one.

    Raises:
        Unreadable: none has the name that was asked for.
    """
    if asked is not None:
        alike = [name for name in names if name == asked] or [n for n in names if n.casefold() == asked.casefold()]
        if len(alike) == 1:
            return alike[0], "as asked for by --answer"
        near = difflib.get_close_matches(asked, names, 1)
        do = f"Give --answer {near[0]!r}" if near else "Name one of these by --answer"
        raise refused(path, f"a column {asked!r}", ", ".join(names[:20]) + (", …" if len(names) > 20 else ""), do)
    by_name = [name for name in names if name.casefold() in ANSWERS]
    if len(by_name) == 1:
        return by_name[0], "by its name; --answer takes another"
    return names[-1], "the last column; --answer takes another"


def _without_totals(frame: Frame) -> tuple[Frame, list[str]]:
    """The rows without a last one of totals, by its label or its sums, and a warning of it."""
    if len(frame) < 3 or all(frame[name].dtype.kind == "f" for name in frame.columns):
        return frame, []
    last, others = frame.iloc[-1], frame.iloc[:-1]
    for name in frame.columns:
        if isinstance(last[name], str) and _TOTAL.fullmatch(last[name]) and last[name] not in set(others[name]):
            return others, [f"line {frame.index[-1]}, {last[name]!r} in column {name}, is left out: a row of totals"]
    summed = 0
    for name in frame.columns:
        written = numbers.style_of(_words_alone(frame[name])) if frame[name].dtype.kind != "f" else None
        if not written or numbers.is_missing(last[name], True):
            continue
        above, total = values(others[name], written), numbers.value(last[name], written)
        if not (abs(total) > np.nanmax(np.abs(above)) and np.isclose(np.nansum(above), total, rtol=1e-6)):
            return frame, []
        summed += 1
    if not summed:
        return frame, []
    return others, [f"line {frame.index[-1]} is left out: a row of totals, for its numbers are the sums of the others"]


def _answered(
    path: Path, series: Series, written: numbers.Written | None, answer_is: str | None, why: str
) -> tuple[Any, np.ndarray, Answer, list[str]]:
    """The lines of the rows that have an answer, their targets, what is to be predicted, and warnings."""
    sentinels, warnings = sentinels_of(series, written) if written else ([], [])
    if written:
        found: Series = pd.Series(values(series, written, sentinels), series.index).dropna()
    else:
        found = series[~series.map(numbers.is_missing).to_numpy(bool)]
    if len(found) < len(series):
        lost = len(series) - len(found)
        warnings.append(
            f"{lost} rows without an answer are left out" if lost > 1 else "a row without an answer is left out"
        )
    if found.nunique() < 2:
        got = f"{found.iloc[0]} in each row" if len(found) else "no answer at all"
        raise refused(path, f"several values of the answer, {series.name}", got, "Name another column by --answer")
    different = found.nunique()
    whole = written is not None and bool((found == found.round()).all())
    as_classes = answer_is == CLASSES or (answer_is is None and (not written or (whole and different <= FEW_CLASSES)))
    if answer_is == NUMBERS and not written:
        got = f"{found.iloc[0]!r} in line {found.index[0]}"
        raise refused(path, f"numbers in the answer, {series.name}", got, f"Give --answer-is {CLASSES}")
    said = f"{series.name} ({why})"
    if as_classes:
        of_words = (
            f"; its whole numbers have {different} values, so that they are classes; --answer-is numbers otherwise"
        )
        return _classes(
            path, found, said + (of_words if written and answer_is is None else ""), warnings, str(series.name)
        )
    few = "; --answer-is classes takes each for a class" if whole else ""
    mean, scale = float(found.mean()), float(found.std(ddof=0))
    y = ((found - mean) / scale).to_numpy(np.float32)[:, None]
    answer = Answer(
        str(series.name), (), (), mean, scale, f"{said}: numbers from {found.min():g} to {found.max():g}{few}"
    )
    return found.index, y, answer, warnings


def _classes(
    path: Path, found: Series, said: str, warnings: list[str], name: str
) -> tuple[Any, np.ndarray, Answer, list[str]]:
    """The same of classes."""
    if found.dtype.kind == "f":
        found = found.map(lambda value: f"{value:g}")
    counts = found.value_counts()
    alike: dict[str, str] = {}
    for word in sorted(counts.index):
        before = alike.setdefault(re.sub(r"\s+", " ", word.casefold()), word)
        if before != word:
            got = f"{before!r} and {word!r} (line {line_of(found, word)}) in the answer, {name}"
            raise refused(path, "one spelling of each class", got, "Write them alike")
    if len(counts) > len(found) // 2:
        got = f"{len(counts)} different values in {len(found)} rows"
        raise refused(path, f"classes in the answer, {name}", got, "Name another column by --answer")
    single = [word for word in counts.index if counts[word] == 1]
    if single:
        shown = ", ".join(map(repr, single[:5]))
        warnings = [*warnings, f"classes of one example are left out, for none can be held out: {shown}"]
        found = found[~found.isin(single)]
    rare = [f"{word} {counts[word]}" for word in counts.index if 1 < counts[word] < RARE]
    if rare:
        warnings = [*warnings, f"classes of fewer than {RARE} examples, of which little can be said: {shortened(rare)}"]
    numeric = all(map(numbers.is_number, counts.index))
    labels = tuple(sorted(counts.index.difference(single), key=float if numeric else str))
    if len(labels) < 2 or len(found) < SMALLEST:
        got = f"{len(labels)} in {len(found)} rows"
        raise refused(path, f"two classes and {SMALLEST} rows", got, "Name another column by --answer, or gather more")
    y = found.map({label: i for i, label in enumerate(labels)}).to_numpy(np.int32)
    each = tuple(int(counts[label]) for label in labels)
    return found.index, y, Answer(name, labels, each, 0.0, 1.0, said), warnings


def described(table: Table, columns: bool = True) -> list[str]:
    """All that was decided, a line each: rows, answer and classes, columns taken and left out, warnings.

    Args:
        table: what was read.
        columns: whether to say of each column as what it is taken.
    """
    taken = [column for column in table.columns if column.taken is not None]
    left = [column for column in table.columns if column.taken is None]
    examples, features = table.x.shape
    lines = [
        f"{table.label}: {table.rows} rows, {examples} taken; {len(table.columns) + 1} columns, {len(taken)} taken as "
        f"{features} features" + "".join(f"; {note}" for note in table.notes),
        f"the answer: {table.answer.said}",
    ]
    if table.answer.classes:
        counts = zip(table.answer.classes, table.answer.counts, strict=True)
        of = shortened([f"{label} {count}" for label, count in counts])
        lines.append(f"its {len(table.answer.classes)} classes, with their rows: {of}")
    if columns:
        lines.append(f"columns taken: {_grouped(taken)}")
    lines.append(f"columns left out: {_grouped(left) or 'none'}")
    return [*lines, *(f"warning: {warning}" for warning in table.warnings)]


def shortened(words: Sequence[str], most: int = 20) -> str:
    """Words in a row, the first of them where there are many."""
    more = f", … {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _grouped(columns: list[Column]) -> str:
    """The names of columns, those of which the same is said together."""
    groups: dict[str, list[str]] = {}
    for column in columns:
        groups.setdefault(column.said, []).append(column.name)
    return shortened([f"{shortened(names)} ({said})" for said, names in groups.items()])
