"""The names of columns: whether a first line holds names or an example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from experiments.tables.errors import refused
from experiments.tables.numbers import is_missing, is_number

YEARS = range(1800, 2200)


class Named(NamedTuple):
    """Names of columns."""

    names: list[str]
    by_first: bool
    """whether the first line gives them"""
    notes: list[str]
    warnings: list[str]


def named_columns(
    path: Path, records: list[tuple[int, list[str]]], answer: str | None = None, expected: Collection[str] = ()
) -> Named:
    """The names by the first record if it holds names, else "column 1", "column 2", ….

    Raises:
        Unreadable: a first line that may be names as well as an example; two columns of one name.
    """
    (line, first), rows = records[0], [row for _, row in records[1:]]
    by_first = set(expected) <= set(first) if expected else _are_names(path, line, first, rows, answer)
    if not by_first:
        names = [f"column {j}" for j in range(1, len(first) + 1)]
        notes = [] if expected else ["the first line is an example: the columns have no names"]
        return Named(names, False, notes, [])
    names = [name or ("unnamed" if j == 0 else f"column {j + 1}") for j, name in enumerate(first)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise refused(path, "another name for each column", f"{twice[0]!r} twice in line {line}", "Rename one of them")
    numbers = [name for name in first if is_number(name)]
    warned = [f"the names in line {line} are numbers: {', '.join(numbers[:5])}"] if numbers else []
    return Named(names, True, [], warned)


def _are_names(path: Path, line: int, first: list[str], rows: list[list[str]], answer: str | None) -> bool:
    """Whether the first line holds names.

    It does if a word stands over a column of numbers, or if all of it are words of which one does not come again in
    its column. It is an example if it has a number, and its words come again, or it looks like no names.
    """
    columns = [set(column) for column in zip(*rows, strict=True)] or [set() for _ in first]
    words = [j for j, cell in enumerate(first) if not is_number(cell) and not is_missing(cell)]
    numbers = [j for j, cell in enumerate(first) if is_number(cell)]
    if any(_numeric(columns[j]) for j in words):
        return True
    if not numbers:
        return any(first[j] not in columns[j] for j in words)
    if first in rows:
        return False
    if answer in first and len(set(first)) == len(first):
        return True
    new = [first[j] for j in words if first[j] not in columns[j]]
    if new or _counting([first[j] for j in numbers]):
        shown = ", ".join(first[:6]) + (", …" if len(first) > 6 else "")
        raise refused(
            path, "names of the columns, or an example, in the first line", f"{shown!r} in line {line}, which may be "
            "either", "Name the columns by words, or name the answer among them by --answer",
        )  # fmt: skip
    return False


def _numeric(column: set[str]) -> bool:
    values = [cell for cell in column if not is_missing(cell)]
    return bool(values) and all(is_number(cell) for cell in values)


def _counting(cells: list[str]) -> bool:
    """Whether these are 0, 1, 2, … or 1, 2, 3, …, or years one after another: names that a program or a person gave."""
    if len(cells) < 2 or not all(cell.isdecimal() for cell in cells):
        return False
    values = [int(cell) for cell in cells]
    steps = values == list(range(values[0], values[0] + len(values)))
    return steps and (values[0] in (0, 1) or values[0] in YEARS)
