"""Tables of users, as they come: what each is taken for, or the words that refuse it. `write_page` prints them all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from experiments import tables

N = 60
RANDOM = np.random.default_rng(7)
A, B = RANDOM.normal(5, 2, N).round(2), RANDOM.normal(-1, 3, N).round(2)
ANSWER = ["no" if i % 3 else "yes" for i in range(N)]
NO_YES = "no 40, yes 20"
Make = Callable[[], Any]


class Case(NamedTuple):
    """A table and what it is."""

    name: str
    content: str | bytes | Make
    """of the file; a function returns a frame or arrays"""
    taken: str = ""
    """rows × features; the answer: classes with counts or "numbers"; columns left out"""
    said: str = ""
    """a part of what is said of it, or of the refusal"""
    file: str = "table.csv"
    answer: str | None = None
    answer_is: str | None = None


def text(
    header: str = "a,b,answer", more: str = "", sep: str = ",", decimal: str = ".", end: str = "\n", top: str = "",
    rows: Callable[[int], tuple[Any, ...]] = lambda i: (A[i], B[i], ANSWER[i]),
    change: dict[int, str] | None = None,
) -> str:  # fmt: skip
    """A table of N rows as text, of which some lines are changed."""
    lines = [sep.join(str(cell).replace(".", decimal) for cell in rows(i)) for i in range(N)]
    for line, instead in (change or {}).items():
        lines[line] = instead
    head = [header.replace(",", sep)] if header else []
    return top + end.join([*head, *lines]) + end + more


def priced(flag: Callable[[int], Any]) -> str:
    """A table whose answer, the price, stands first, and a flag last."""
    return text("price,a,flag", rows=lambda i: (A[i] + 0.5, B[i], flag(i)))


def with_column(name: str, cells: Callable[[int], Any]) -> str:
    """A table of a column before another one and the answer."""
    return text(f"{name},a,answer", rows=lambda i: (cells(i), A[i], ANSWER[i]))


def frame() -> pd.DataFrame:
    return pd.DataFrame({"a": A, "b": B, "answer": ANSWER})


def unquoted(values: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(f'"{value}"'.replace(".", ",") for value in values)


def wide(features: int) -> str:
    return f"60×{features}; answer: {NO_YES}"


def without(column: str) -> str:
    return f"60×1; answer: {NO_YES}; without {column}"


PLAIN = wide(2)
X = np.stack([A, B], axis=1)
CASES = [
    # Separators, decimal marks, encodings, lines
    Case("plain", text(), PLAIN, "a, b (numbers)"),
    Case("no header", text(""), "60×2; column 3: no 40, yes 20", "the columns have no names"),
    Case("semicolons and decimal commas", text(sep=";", decimal=","), PLAIN, "a, b (numbers with decimal commas)"),
    Case("semicolons and decimal points", text(sep=";"), PLAIN, "separated by semicolons"),
    Case("tabs", text(sep="\t"), PLAIN, "separated by tabs", "table.tsv"),
    Case("bars", text(sep="|"), PLAIN, "separated by bars", "table.txt"),
    Case("spaces", text(sep=" "), PLAIN, "separated by spaces", "table.txt"),
    Case("03: one decimal comma and a semicolon, no header",
         text("", sep=";", decimal=",", rows=lambda i: (A[i], i % 2)), "60×1; column 2: 0 30, 1 30", "decimal commas"),
    Case("03b: the same with words", text("", sep=";", decimal=",", rows=lambda i: (A[i], ANSWER[i])),
         "60×1; column 2: no 40, yes 20", "column 1 (numbers with decimal commas)"),
    Case("decimal commas between quotes", text(rows=lambda i: (*unquoted((A[i], B[i])), ANSWER[i])), PLAIN,
         "a, b (numbers with decimal commas)"),
    Case("Excel's sep=", text(sep=";", top="sep=;\n"), PLAIN, "the first line, Excel's sep=,"),
    Case("Excel's sep=,", text(top="sep=,\r\n", end="\r\n"), PLAIN, "the first line, Excel's sep=,"),
    Case("comment lines", text(top="# made in May, by hand\n# again\n"), PLAIN, "2 lines that begin with # left out"),
    Case("a commented header", text("# a,b,answer"), PLAIN, "line 1, which begins with #, names the columns"),
    Case("BOM", text().encode("utf-8-sig"), PLAIN, "columns taken: a, b (numbers)"),
    Case("CRLF", text(end="\r\n"), PLAIN),
    Case("latin-1", text("größe,b,answer").encode("latin-1"), PLAIN, "Windows-1252, for it is not UTF-8"),
    Case("UTF-16", text("größe,b,answer").encode("utf-16"), PLAIN, "größe, b (numbers)"),
    Case("UTF-16 without its mark", text().encode("utf-16-le"), said="Save it as UTF-8"),
    Case("quoted headers with commas", text('"a, in cm","b, in kg",answer'), PLAIN, "a, in cm, b, in kg (numbers)"),
    Case("a separator at the end of each line", text(rows=lambda i: (A[i], B[i], ANSWER[i], "")), PLAIN,
         "the separator at the end of each line is left out"),
    Case("R's row names",
         text("a,b,answer", rows=lambda i: (i + 1, A[i], B[i], ANSWER[i])), f"{PLAIN}; without unnamed",
         "the first column has no name"),
    Case("empty lines", text(more="\n,,\n\n"), PLAIN, "60 rows, 60 taken"),
    Case("blanks after commas", text("a, b, answer", rows=lambda i: (A[i], f" {B[i]}", f' "{ANSWER[i]}, we think"')),
         "60×2; answer: no, we think 40, yes, we think 20"),
    Case("no header, words alone", text("", rows=lambda i: ("fg"[i % 2], "hk"[i % 5 % 2], ANSWER[i])),
         "60×4; column 3: no 40, yes 20", "the first line is an example"),
    Case("a ragged row", text(change={7: "1,2,3,no"}),
         said="table.csv: expected 3 columns in each line, got 4 in line 9. Correct the line"),
    Case("one column", text("a", rows=lambda i: (int(A[i]),)), said="expected at least two columns, separated by"),
    Case("nothing", "", said="expected at least two columns"),
    Case("two columns of a name", text("a,a,answer"), said="expected another name for each column, got 'a' twice"),
    Case("Excel", frame, PLAIN, "a, b (numbers)", "table.xlsx"),
    Case("arrays", lambda: {"x": X, "y": np.array(ANSWER)}, "60×2; y: no 40, yes 20", "x0, x1 (numbers)", "table.npz"),
    Case("arrays with numbers", lambda: {"x": X, "y": A[:, None] + 0.5}, "60×2; y: numbers", file="table.npz"),
    Case("arrays of objects", lambda: {"x": X, "y": np.array([None] * N)}, said="Object arrays", file="table.npz"),
    Case("images", lambda: {"x": np.ones((N, 2, 2)), "y": A}, said="expected x [rows, features]", file="table.npz"),
    Case("another kind of file", "1", said="expected a .csv, .tsv, .txt, .xlsx, .xlsm, .parquet or .npz file",
         file="table.docx"),
    # Headers that are numbers
    Case("14b: pandas' header 0, 1, 2", text("0,1,2", rows=lambda i: (A[i], B[i], i % 3)),
         said="got '0, 1, 2' in line 1, which may be either. Name the columns by words, or name the answer among them"),
    Case("14b with --answer 2", text("0,1,2", rows=lambda i: (A[i], B[i], i % 3)), "60×2; 2: 0 20, 1 20, 2 20",
         "the names in line 1 are numbers: 0, 1, 2", answer="2"),
    Case("14d: years and a word over words", text("2019,2020,answer"), said="may be either"),
    Case("14d with --answer", text("2019,2020,answer"), PLAIN, "the names in line 1 are numbers: 2019, 2020",
         answer="answer"),
    Case("years and a word over numbers", text("1990,2000,kind", rows=lambda i: (A[i], B[i], i % 2)),
         "60×2; kind: 0 30, 1 30", "the names in line 1 are numbers: 1990, 2000"),
    # The answer
    Case("12b: the answer first, a flag last", priced(lambda i: i % 2), "60×2; flag: 0 30, 1 30",
         "flag (the last column; --answer takes another)"),
    Case("12b with --answer", priced(lambda i: i % 2), "60×2; price: numbers", "price (as asked for by --answer)",
         answer="Price"),
    Case("an identifier last", text(rows=lambda i: (A[i], ANSWER[i], i + 1)),
         said="an identifier: each row has its own number, 1 to 60. Name another column by --answer, or this one if"),
    Case("an identifier that is meant", text(rows=lambda i: (A[i], ANSWER[i], i + 1)), "60×3; answer: numbers",
         "warning: the answer, answer, looks like an identifier", answer="answer"),
    Case("dates last", text("a,b,day", rows=lambda i: (A[i], B[i], f"2024-02-{1 + i % 28:02}")),
         said="expected an answer in column day, the last column, got dates or times, such as 2024-02-01"),
    Case("by its name", text("target,b,kind", rows=lambda i: (A[i], B[i], ANSWER[i])), "60×3; target: numbers",
         "by its name; --answer takes another"),
    Case("--answer of no column", text(), said="expected a column 'anser', got a, b, answer. Give --answer 'answer'",
         answer="anser"),
    Case("15b: ratings from 0 to 10", text(rows=lambda i: (A[i], B[i], i % 10)),
         "60×2; answer: 0 6, 1 6, 2 6, 3 6, 4 6, 5 6, 6 6, 7 6, 8 6, 9 6", "--answer-is numbers otherwise"),
    Case("15b with --answer-is numbers", text(rows=lambda i: (A[i], B[i], i % 10)), "60×2; answer: numbers",
         "numbers from 0 to 9", answer_is="numbers"),
    Case("words with --answer-is numbers", text(), said="Give --answer-is classes", answer_is="numbers"),
    Case("many whole numbers", text(rows=lambda i: (A[i], B[i], i % 30)), "60×2; answer: numbers",
         "--answer-is classes takes each for a class"),
    Case("TRUE and FALSE", text(rows=lambda i: (A[i], B[i], "TRUE" if i % 2 else "FALSE")),
         "60×2; answer: FALSE 30, TRUE 30"),
    Case("05d: an empty label", text(change={3: "1,2,"}), "59×2; answer: no 40, yes 19",
         "a row without an answer is left out"),
    Case("05e: NA among labels", text(change={3: "1,2,NA", 6: "1,2,N/A"}), "58×2; answer: no 40, yes 18",
         "2 rows without an answer are left out"),
    Case("NA among numbers", text(rows=lambda i: (A[i], B[i], A[i] + 0.5 if i else "NA")), "59×2; answer: numbers",
         "a row without an answer is left out"),
    Case("a word among numbers", text(rows=lambda i: (A[i], B[i], A[i] + 0.5 if i else "much")),
         said="expected numbers alone, got 'much' in line 2, column answer. Correct the cell"),
    Case("13: blanks around labels", text(change={3: "1,2, yes", 6: "1,2,yes "}), PLAIN),
    Case("13: labels that differ in case", text(change={3: "1,2,Yes"}),
         said="expected one spelling of each class, got 'Yes' and 'yes' (line 2) in the answer"),
    Case("22: a class of one", text(change={5: "1,2,maybe"}), "59×2; answer: no 39, yes 20",
         "classes of one example are left out, for none can be held out: 'maybe'"),
    Case("a class of three", text(change={i: "1,2,maybe" for i in (1, 2, 4)}), "60×2; answer: maybe 3, no 37, yes 20",
         "classes of fewer than 5 examples, of which little can be said: maybe 3"),
    Case("one class", text(rows=lambda i: (A[i], B[i], "yes")), said="got yes in each row. Name another column"),
    Case("a class for each row", text(rows=lambda i: (A[i], B[i], f"w{i}")),
         said="expected classes in the answer, answer, got 60 different values in 60 rows"),
    Case("too few rows", "a,b\n1,x\n2,y\n", said="expected 50 rows or more, got 2"),
    # Columns that are no features, and cells that are no numbers
    Case("words as categories", with_column("colour", lambda i: ("red", "green", "blue")[i % 3]), wide(4),
         "colour (words, a feature each: blue, green, red)"),
    Case("categories that differ in case", with_column("colour", lambda i: ("red", "Red", "blue")[i % 3]),
         wide(3), "words of column colour that differ in case alone are taken as one"),
    Case("many words", with_column("name", lambda i: f"person {i}"), without("name"),
         "an identifier or free text: 60 different words"),
    Case("06: a column that may name the rows", with_column("customer", lambda i: 1000 + 7 * i + i % 2), wide(2),
         "warning: column customer rises from row to row: taken as numbers"),
    Case("06: an identifier", with_column("id", lambda i: 1000 + 7 * i), without("id"),
         "an identifier: its name, and another number in each row"),
    Case("14c: pandas' index", with_column("", lambda i: i), without("unnamed"),
         "unnamed (an identifier: each row has its own number, 0 to 59)"),
    Case("08b: dates as numbers", with_column("day", lambda i: 20240101 + i % 28), without("day"),
         "dates, such as 20240101"),
    Case("dates", with_column("day", lambda i: f"{1 + i % 28}.03.2024"), without("day"),
         "dates or times, such as 1.03.2024"),
    Case("a constant", with_column("unit", lambda i: 3), without("unit"), "constant, 3 in each row"),
    Case("an empty column", with_column("note", lambda i: ""), without("note"), "note (empty)"),
    Case("nothing to learn from", text("id,answer", rows=lambda i: (i, ANSWER[i])),
         said="expected a column to learn from, got none: id is an identifier"),
    Case("missing numbers, few", text(change={10: ",2,no"}), PLAIN, "in place of 1 missing"),
    Case("missing numbers, many", with_column("c", lambda i: "" if i % 5 == 0 else A[i]), wide(3),
         "and a feature that says where"),
    Case("missing words", with_column("colour", lambda i: ("red", "NA", "blue")[i % 3]), wide(4),
         "blue, red, missing"),
    Case("05g: −999 for missing", with_column("c", lambda i: -999 if i % 9 == 0 else B[i]), wide(3),
         "−999 stands 7 times in column c, all others from"),
    Case("999 that may be a number",
         with_column("c", lambda i: 999 if i == 0 else 16 * i + 0.5), PLAIN,
         "999 stands 1 times in column c: it counts as a number"),
    Case("16: a row of totals by its label", text(more=f"{A.sum():.2f},{B.sum():.2f},total\n"), PLAIN,
         "line 62, 'total' in column answer, is left out: a row of totals"),
    Case("a row of totals by its sums", text("a,b,c", f"{A.sum():.2f},{B.sum():.2f},{A.sum() + 30:.2f}\n",
         rows=lambda i: (A[i], B[i], round(A[i] + 0.5, 2))), "60×2; c: numbers", "its numbers are the sums of"),
    Case("21: 1e300", text(change={9: "1e300,2,no"}), said="got 1e+300 in line 11, column a. Rescale"),
    Case("infinity", text(change={9: "inf,2,no"}), said="expected numbers alone, got 'inf' in line 11, column a"),
    Case("per cent", with_column("c", lambda i: f"{A[i]}%"), PLAIN, "c (numbers, per cent)"),
    Case("per cent in some cells", with_column("c", lambda i: f"{A[i]}%" if i % 2 else A[i]),
         said="expected numbers written in one way"),
    Case("thousands", with_column("c", lambda i: f'"{i + 1},126"'), PLAIN,
         "column c is read with commas between thousands: 1,126 is 1126"),
    Case("decimal commas that may be thousands",
         text("c;a;answer", sep=";", rows=lambda i: (f"{i + 1},126", i % 2, ANSWER[i])), PLAIN,
         "column c is read with decimal commas: 1,126 is 1.126"),
    Case("points between thousands",
         text("c;a;answer", sep=";", rows=lambda i: (f"{i + 1}.126", f"{i % 7},5", ANSWER[i])), PLAIN,
         "column c is read with points between thousands: 1.126 is 1126"),
]  # fmt: skip


def written(case: Case, folder: Path) -> Path:
    path = folder / case.file
    content = case.content() if callable(case.content) else case.content
    if isinstance(content, pd.DataFrame):
        content.to_excel(path, index=False)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def taken(table: tables.Table) -> str:
    """What a table is taken for, in a line."""
    answer = table.answer
    counts = ", ".join(f"{label} {count}" for label, count in zip(answer.classes, answer.counts, strict=True))
    left = ", ".join(column.name for column in table.columns if column.taken is None)
    rows, features = table.x.shape
    return f"{rows}×{features}; {answer.name}: {counts or 'numbers'}" + (f"; without {left}" if left else "")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_table_is_taken_or_refused_in_words(tmp_path: Path, case: Case) -> None:
    path = written(case, tmp_path)
    if not case.taken:
        with pytest.raises(tables.Unreadable) as refused:
            tables.read(path, case.answer, case.answer_is)
        assert case.said in str(refused.value)
        assert "\n" not in str(refused.value)
        return
    table = tables.read(path, case.answer, case.answer_is)
    assert taken(table) == case.taken
    assert case.said in "\n".join(tables.described(table))
    assert table.x.dtype == np.float32
    assert table.y.dtype == (np.int32 if table.answer.classes else np.float32)
    assert np.isfinite(table.x).all()
    assert np.isfinite(table.y).all()
    assert len(table.x) == len(table.y)


# The features, by hand


MIXED = """id;height;colour;kept;answer
1;1,5;red;yes;a
2;;blue;no;b
3;2,5;Red;yes;a
4;3,0;;no;b
"""


def mixed(folder: Path) -> Path:
    """The four rows fifteen times, with other identifiers."""
    (head, *rows) = MIXED.splitlines()
    cells = [row.split(";", 1)[1] for row in rows]
    lines = [head, *(f"{i + 1};{cells[i % 4]}" for i in range(N))]
    path = folder / "mixed.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_features_are_standardised_and_one_hot(tmp_path: Path) -> None:
    table = tables.read(mixed(tmp_path))
    height = np.array([1.5, 2.5, 2.5, 3.0])  # the median of 1.5, 2.5, 3 in place of the missing one
    expected = np.stack(
        [
            (height - height.mean()) / height.std(),
            [0, 1, 0, 0],  # where it was missing, in a quarter of the rows
            [0, 1, 0, 0],  # blue
            [1, 0, 1, 0],  # red
            [0, 0, 0, 1],  # missing
            [0, 1, 0, 1],  # no
            [1, 0, 1, 0],  # yes
        ],
        axis=1,
    )
    np.testing.assert_allclose(table.x, np.tile(expected, (15, 1)), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(table.y, np.tile([0, 1], 30))
    assert [column.missing for column in table.columns] == [0, 15, 15, 0]


def test_features_are_those_of_the_rows_with_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text(change={3: "100,2,", 7: "-100,2,maybe"}), encoding="utf-8")
    kept = np.delete(np.stack([A, B], axis=1), [3, 7], axis=0)
    table = tables.read(path)
    expected = (kept - kept.mean(axis=0)) / kept.std(axis=0)  # without the class of one as well
    np.testing.assert_allclose(table.x, expected, rtol=1e-4, atol=1e-5)


def test_targets_that_are_numbers_are_standardised(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(text("a,b,c", rows=lambda i: (A[i], ANSWER[i], B[i] / 4)), encoding="utf-8")
    table = tables.read(path)
    np.testing.assert_allclose(table.y[:, 0], (B - B.mean()) / B.std(), rtol=1e-4, atol=1e-6)
    assert (table.answer.mean, table.answer.scale) == pytest.approx((B.mean() / 4, B.std() / 4))


def write_page(path: Path, folder: Path) -> None:
    """Every table of CASES and what it is taken for, as a table in Markdown."""
    lines = [
        "| table | taken as (rows×features; answer: classes with rows) | warned, or refused with |",
        "| --- | --- | --- |",
    ]
    for case in CASES:
        try:
            table = tables.read(written(case, folder), case.answer, case.answer_is)
            cells = taken(table), "; ".join(table.warnings)
        except tables.Unreadable as error:
            cells = "refused", str(error).replace(f"{folder}/", "")
        asked = f" (--answer {case.answer})" if case.answer else ""
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (case.name + asked, *cells)) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
