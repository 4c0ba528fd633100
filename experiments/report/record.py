"""Keep a full run: its numbers into `experiments/results`, its claims into the README.

Command: ``python -m experiments.report.record FOLDER``, with the folder of the report.
"""

from __future__ import annotations

import csv
import shutil
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
PICTURES = ("comparison.m1.gif", "vanishing.1.svg", "digits.1.svg")
"""those that the README shows"""
CASES = 3
"""how many of a claim's cases the README tells"""


def table(claims: list[dict[str, str]]) -> str:
    """The claims as a table in Markdown, below a line that counts them."""
    counts = Counter(claim["verdict"] for claim in claims)
    counted = "Of {} claims {} hold, {} hold partly, and {} do not hold.".format(
        len(claims), *(counts[word] for word in ("holds", "holds partly", "does not hold"))
    )
    rows, last = [counted, "", "| experiment | claim | verdict | measured |", "| --- | --- | --- | --- |"], ""
    for claim in claims:
        name = "" if claim["experiment"] == last else f"`{claim['experiment']}`"
        last = claim["experiment"]
        cells = (name, claim["claim"], claim["verdict"], _shortened(claim["measured"]))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def _shortened(measured: str) -> str:
    """The first cases, and how many more there are."""
    cases = measured.split("; ")
    return "; ".join(cases[:CASES]) + (f"; {len(cases) - CASES} more" if len(cases) > CASES else "")


def record(folder: Path) -> None:
    """Copy the numbers and three pictures, and write the README's table anew."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir()
    for path in (
        folder / "claims.csv",
        *(folder / "results").glob("*.csv"),
        *(folder / "pictures" / p for p in PICTURES),
    ):
        shutil.copy(path, RESULTS / path.name)
    with open(RESULTS / "claims.csv", newline="") as file:
        claims = list(csv.DictReader(file))
    readme, (begin, end) = ROOT / "README.md", ("<!-- claims -->\n", "<!-- /claims -->")
    before, rest = readme.read_text().split(begin)
    readme.write_text(f"{before}{begin}{table(claims)}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
