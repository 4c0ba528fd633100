"""Keep a full run: numbers in `experiments/results`, claims in `experiments/CLAIMS.md`, their counts in the README.

Command: ``python -m experiments.report.record FOLDER``, with the folder of the report.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

from experiments.report import site, storage
from experiments.report.outcomes import SLIDES, Word
from experiments.report.progress import RECORDED
from fnn.training import _files as files

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
CLAIMS = ROOT / "experiments" / "CLAIMS.md"
PICTURES = ("comparison.m1.gif", "vanishing.1.svg", "digits.1.svg")
"""the pictures that the README shows"""
CASES = 3
"""how many of a claim's cases are listed"""
BEGIN, END = "<!-- claims: counts -->\n", "<!-- /claims: counts -->"
"""around the line that is written into the README"""
HEADER = ("| experiment | claim | verdict | measured |", "| --- | --- | --- | --- |")

Claims = list[dict[str, str]]
"""the rows of claims.csv"""


def counts(claims: Claims) -> str:
    """The README's line: how many claims there are, and how many of them hold."""
    found = Counter(claim["verdict"] for claim in claims)
    numbers = (len(claims), *(found[word] for word in Word))
    text = "{} claims: {} hold, {} hold partly, {} are open, {} do not hold".format(*numbers)
    return f"{text}; see [CLAIMS.md](experiments/CLAIMS.md)."


def page(claims: Claims) -> str:
    """All claims in Markdown, a section for each slide of the lecture."""
    lines = [
        "# The claims and their verdicts",
        "",
        "<!-- Written by python -m experiments.report.record; changes made by hand are lost. -->",
        "",
        f"{counts(claims).split(';')[0]}. A claim holds if the intervals of all its cases lie within its bounds, and "
        "partly if some do and some lie outside; it is open if none lies outside, but one crosses a bound. Numbers are "
        "from "
        "[claims.csv](results/claims.csv), means over 32 seeds with 95 % intervals where chance plays a part and "
        "medians with quartiles where times are measured; at most "
        f"{CASES} cases of a claim are listed here.",
    ]
    for slide, of_slide in groupby(claims, key=lambda claim: int(claim["slide"])):
        lines += ["", f"## {SLIDES[slide]}", "", *HEADER]
        lines += [_row(*cells) for name, of in groupby(of_slide, key=_experiment) for cells in _cells(name, list(of))]
    return "\n".join(lines) + "\n"


def _experiment(claim: dict[str, str]) -> str:
    return claim["experiment"]


def _cells(name: str, claims: Claims) -> list[tuple[str, ...]]:
    """The cells of an experiment's rows; the first names it."""
    return [
        (
            "" if i else f"[`{name}`](claims/{name}.py)",
            claim["claim"] + (f" *Why: {claim['why']}*" if claim["why"] else ""),
            f"{site.MARKS[Word(claim['verdict'])]} {claim['verdict']}",
            _shortened(claim["measured"]),
        )
        for i, claim in enumerate(claims)
    ]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _shortened(measured: str) -> str:
    """The first cases, and how many more there are."""
    cases = measured.split("; ")
    return "; ".join(cases[:CASES]) + (f"; {len(cases) - CASES} more" if len(cases) > CASES else "")


def read(path: Path) -> Claims:
    """The rows of a claims.csv."""
    return _rows(path.read_text(encoding="utf-8"))


def _rows(text: str) -> Claims:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def record(folder: Path) -> None:
    """Keep the numbers and three pictures of a report, and write the claims and the README's line anew.

    Raises:
        SystemExit: a report that is damaged, or has not the pictures; nothing is changed then.
    """
    if wrong := storage.damaged(folder):
        raise SystemExit(f"{folder} is damaged, run it again: " + "; ".join(f"{name}: {wrong[name]}" for name in wrong))
    outcomes = storage.outcomes(folder)
    tables = {"claims.csv": storage.claims(outcomes), RECORDED.name: storage.times(outcomes)}
    kept = {name: text.encode("utf-8") for name, text in tables.items()}
    for outcome in outcomes:
        kept[f"{outcome.name}.csv"] = storage.numbers(outcome).encode("utf-8")
        kept |= {f"{outcome.name}.{i}.svg": f.svg.encode("utf-8") for i, f in enumerate(outcome.figures, 1)}
        kept |= {f"{outcome.name}.m{i}.gif": a.gif for i, a in enumerate(outcome.animations, 1)}
    kept = {name: content for name, content in kept.items() if name.endswith(".csv") or name in PICTURES}
    if missing := set(PICTURES) - kept.keys():
        raise SystemExit(f"{folder} has no {', '.join(sorted(missing))}; run those experiments too")
    RESULTS.mkdir(exist_ok=True)
    for name, content in kept.items():
        files.write(RESULTS / name, content)
    write_claims(_rows(kept["claims.csv"].decode("utf-8")))
    for old in RESULTS.iterdir():
        if old.name not in kept:
            old.unlink()


def write_claims(claims: Claims) -> None:
    """Write the page of claims, and the README's line."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    files.write(CLAIMS, page(claims).encode("utf-8"))
    files.write(readme, f"{before}{BEGIN}{counts(claims)}\n{END}{rest.split(END)[1]}".encode())


if __name__ == "__main__":
    record(Path(sys.argv[1]))
