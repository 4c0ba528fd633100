"""Keep a full run: its numbers into `experiments/results`, its claims into the README.

Command: ``python -m experiments.report.record FOLDER``, with the folder of the report.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
PICTURES = ("comparison.m1.gif", "vanishing.1.svg", "digits.1.svg")
"""those that the README shows"""


def table(claims: str) -> str:
    """The claims as a table in Markdown, from the CSV."""
    rows, last = ["| experiment | claim | verdict | measured |", "| --- | --- | --- | --- |"], ""
    for claim in csv.DictReader(io.StringIO(claims)):
        name = "" if claim["experiment"] == last else f"`{claim['experiment']}`"
        last = claim["experiment"]
        cells = (name, claim["claim"], claim["verdict"], claim["measured"])
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


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
    readme, (begin, end) = ROOT / "README.md", ("<!-- claims -->\n", "<!-- /claims -->")
    before, rest = readme.read_text().split(begin)
    readme.write_text(f"{before}{begin}{table((folder / 'claims.csv').read_text())}\n{end}{rest.split(end)[1]}")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
