"""Files as cells: text of any usual encoding and separator, sheets of Excel, Parquet, arrays of NumPy.

Nothing is interpreted here beyond rows, columns and their names; what was decided on the way is in the notes.
"""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from experiments.tables.errors import Unreadable, refused
from experiments.tables.header import Named, named_columns
from experiments.tables.numbers import is_number

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}
"""in the order of preference where several fit every line: a comma may be a decimal one"""
SPACES = " "
LOOKED_AT = 200
"""records by which the separator is chosen"""
TEXT, SHEETS, ARRAYS = (".csv", ".tsv", ".txt"), (".xlsx", ".xlsm"), (".npz",)
SUFFIXES = (*TEXT, *SHEETS, ".parquet", *ARRAYS)
Frame = Series = Any
"""pandas', whose methods have no types that help"""
Record = tuple[int, list[str]]
"""the line where it ends, and its cells"""


class Cells(NamedTuple):
    """A table before anything is interpreted."""

    frame: Frame
    """columns by their names, of words without blanks around them, or of numbers; the index is the line of each row"""
    separator: str
    """between the cells of a text, or nothing"""
    notes: list[str]
    """what was decided, in whole sentences without their full stops"""
    warnings: list[str]
    """what may be wrong, likewise"""
    named: bool
    """whether the file names its columns"""


def cells(path: Path, answer: str | None = None, expected: Collection[str] = ()) -> Cells:
    """The cells of a file.

    Args:
        path: a text (.csv, .tsv, .txt), a sheet (.xlsx, .xlsm), .parquet, or .npz with x [rows, features] and y [rows].
        answer: the column that the user named; it tells a line of names that are numbers from an example.
        expected: names of columns, as a model knows them: a first line that has them all is a line of names.

    Raises:
        Unreadable: no file, one of another kind, one that is damaged, or one that holds no table.
    """
    if not path.is_file():
        raise Unreadable(f"{path}: there is no such file" if not path.exists() else f"{path} is no file")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise refused(path, f"a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file", repr(suffix), "Save it as .csv")
    try:
        if suffix in ARRAYS:
            return _of_arrays(path)
        if suffix == ".parquet":
            return _of_parquet(path)
        records, separator, notes = _of_sheet(path) if suffix in SHEETS else _of_text(path)
    except (OSError, EOFError, KeyError, ValueError, csv.Error, zipfile.BadZipFile, ImportError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(f"{path} cannot be read as {suffix}: {why}") from None
    return _framed(path, records, separator, notes, answer, expected)


def _of_text(path: Path) -> tuple[list[Record], str, list[str]]:
    """Records, their separator, and notes."""
    text, encoding = _decoded(path)
    notes = [] if encoding == "UTF-8" else [f"the text is read as {encoding}"]
    if "\0" in text:
        raise refused(path, "text", "zero bytes: it is binary, or UTF-16 without its mark", "Save it as UTF-8")
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    separator = ""
    if lines and lines[first].strip().lower().startswith("sep=") and len(lines[first].strip()) <= 5:
        separator = lines[first].rstrip("\r\n")[4:] or "\t"
        lines[first] = "\n"
        notes.append("the first line, Excel's sep=, gives the separator")
    comments = _comments(lines)
    chosen = separator or _separator([line for i, line in enumerate(lines) if i not in comments])
    if not chosen:
        begin = next((line.strip() for i, line in enumerate(lines) if line.strip() and i not in comments), "nothing")
        raise refused(
            path, "at least two columns, separated by commas, semicolons, tabs or bars", repr(begin[:60]),
            "Save it with one of these between the columns",
        )  # fmt: skip
    header = max(comments, default=-1)
    content = [line if i not in comments else "\n" for i, line in enumerate(lines)]
    records = _records("".join(content), chosen)
    if comments and records:
        bare = _records(lines[header].lstrip().lstrip("#"), chosen)
        if bare and len(bare[0][1]) == len(records[0][1]) and any(map(is_number, records[0][1])):
            records.insert(0, (header + 1, bare[0][1]))
            comments.discard(header)
            notes.append(f"line {header + 1}, which begins with #, names the columns")
    if comments:
        notes.append(f"{_counted(len(comments), 'line')} that begin with # left out")
    return records, chosen, notes


def _decoded(path: Path) -> tuple[str, str]:
    """The text of a file, and its encoding: by its mark, else UTF-8, else the Western one of Windows."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16"), "UTF-16"
    try:
        return content.decode("utf-8-sig"), "UTF-8"
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252"), "Windows-1252, for it is not UTF-8"
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise refused(
            path, "text in UTF-8, UTF-16 or Windows-1252", f"{content[error.start]:#x} in line {line}",
            "Save it as UTF-8",
        ) from None  # fmt: skip


def _comments(lines: list[str]) -> set[int]:
    """The lines before all others that begin with #; none where every line does."""
    found: set[int] = set()
    for i, line in enumerate(lines):
        if line.lstrip().startswith("#"):
            found.add(i)
        elif line.strip():
            return found
    return set()


def _separator(lines: list[str]) -> str:
    """The one that gives every record as many cells, two or more; else the one that fits most; else spaces, if they."""
    fit: dict[str, float] = {}
    few = "".join(lines[: 4 * LOOKED_AT])
    for separator in SEPARATORS:
        try:
            records = _records(few, separator)[:LOOKED_AT]
        except csv.Error:
            continue
        counts = Counter(len(row) for _, row in records)
        size, often = max(counts.items(), key=lambda item: (item[1], item[0]), default=(0, 0))
        if size > 1:
            fit[separator] = often / len(records)
    if fit:
        return max(fit, key=lambda separator: fit[separator])
    sizes = {len(line.split()) for line in lines if line.strip()}
    return SPACES if len(sizes) == 1 and min(sizes) > 1 else ""


def _records(text: str, separator: str) -> list[Record]:
    """Every record that has a cell, of cells without blanks around them."""
    if separator == SPACES:
        split = ((i, line.split()) for i, line in enumerate(text.splitlines(), 1))
    else:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        split = ((reader.line_num, [cell.strip() for cell in row]) for row in reader)
    return [(line, row) for line, row in split if any(row)]


def _of_sheet(path: Path) -> tuple[list[Record], str, list[str]]:
    """The first sheet of a workbook that holds anything."""
    sheets: dict[Any, Frame] = pd.read_excel(path, sheet_name=None, header=None, dtype=object, keep_default_na=False)
    filled = {name: sheet for name, sheet in sheets.items() if sheet.size}
    if not filled:
        raise refused(path, "a sheet with cells", "an empty workbook", "Fill in a sheet")
    name, sheet = next(iter(filled.items()))
    notes = [f"sheet {name!r} is read, the first of {len(filled)} that hold anything"] if len(filled) > 1 else []
    words = [[_cell(value) for value in row] for row in sheet.itertuples(index=False)]
    kept = [j for j in range(sheet.shape[1]) if any(row[j] for row in words)]
    return [(i, [row[j] for j in kept]) for i, row in enumerate(words, 1) if any(row)], "", notes


def _cell(value: Any) -> str:
    return "" if value is None or value is pd.NaT else str(value).strip()


def _of_arrays(path: Path) -> Cells:
    with np.load(path, allow_pickle=False) as arrays:
        if not {"x", "y"} <= set(arrays):
            raise refused(path, "arrays x and y", ", ".join(arrays) or "nothing", "Save them by np.savez")
        x, y = arrays["x"], arrays["y"]
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if x.ndim != 2 or not x.shape[1] or y.shape != x.shape[:1]:
        raise refused(path, "x [rows, features] and y [rows]", f"{x.shape} and {y.shape}", "Reshape them")
    for name, array, kinds in (("x", x, "fiub"), ("y", y, "fiubUS")):
        if array.dtype.kind not in kinds:
            allowed = "numbers" if name == "x" else "numbers or words"
            raise Unreadable(f"{path}: {name} must be {allowed}, got {array.dtype}")
    frame: Frame = pd.DataFrame(x.astype(np.float64), columns=[f"x{j}" for j in range(x.shape[1])])
    frame["y"] = [str(word).strip() for word in y.astype(str)] if y.dtype.kind in "US" else y.astype(np.float64)
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return Cells(frame, "", [], [], True)


def _of_parquet(path: Path) -> Cells:
    frame: Frame = pd.read_parquet(path)
    frame.columns = [str(name).strip() for name in frame.columns]
    for name in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[name]) or pd.api.types.is_bool_dtype(frame[name]):
            frame[name] = ["" if pd.isna(value) else str(value).strip() for value in frame[name]]
        else:
            frame[name] = frame[name].astype(np.float64)
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return Cells(frame, "", [], [], True)


def _framed(
    path: Path, records: list[Record], separator: str, notes: list[str], answer: str | None, expected: Collection[str]
) -> Cells:
    """Records as a frame with names, all of the same length."""
    records, more = _aligned(path, records)
    named: Named = named_columns(path, records, answer, expected)
    rows = records[1:] if named.by_first else records
    frame = pd.DataFrame([row for _, row in rows], columns=named.names, index=[line for line, _ in rows], dtype=object)
    said = [f"its cells are separated by {SEPARATORS.get(separator, 'spaces')}"] if separator else []
    return Cells(frame, separator, [*said, *notes, *more, *named.notes], named.warnings, named.by_first)


def _aligned(path: Path, records: list[Record]) -> tuple[list[Record], list[str]]:
    """The records, made as long as each other where that is safe, and what was done.

    Raises:
        Unreadable: one that is longer or shorter than the others, with its line.
    """
    counts = Counter(len(row) for _, row in records)
    size = max(counts, key=lambda size: counts[size], default=0)
    notes = []
    later = [record for record in records if record[1][0].startswith("#") and len(record[1]) != size]
    if later:
        records = [record for record in records if record not in later]
        notes.append(f"{_counted(len(later), 'line')} that begin with # left out")
    (_, first), rest = records[0], records[1:]
    if rest and len(first) == size - 1 and all(len(row) == size for _, row in rest):
        if any(row[-1] for _, row in rest):
            records = [(records[0][0], ["", *first]), *rest]
            notes.append("the line of names is one shorter than the others: the first column has no name")
        else:
            records = [records[0], *((line, row[:-1]) for line, row in rest)]
            notes.append("the separator at the end of each line is left out")
        size = len(records[0][1])
    for line, row in records:
        if len(row) != size:
            raise refused(
                path, f"{size} columns in each line", f"{len(row)} in line {line}",
                "Correct the line, or put cells that hold the separator between quotes",
            )  # fmt: skip
    if size < 2:
        raise refused(path, "at least two columns", f"{size}", "Save features and answer as columns of one table")
    return records, notes


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")
