"""Keep a full run: its numbers into `experiments/results`, its claims into the README.

Command: ``python -m experiments.report.record FOLDER``, with the folder of the report.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from pathlib import Path

from experiments.report import storage
from fnn.training import _files as files

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
    """Keep the numbers and three pictures of a report, and write the README's table anew.

    Raises:
        SystemExit: a report that is damaged, or has not the pictures; nothing is changed then.
    """
    if wrong := storage.damaged(folder):
        raise SystemExit(f"{folder} is damaged, run it again: " + "; ".join(f"{name}: {wrong[name]}" for name in wrong))
    outcomes = storage.outcomes(folder)
    kept = {"claims.csv": storage.claims(outcomes).encode("utf-8")}
    for outcome in outcomes:
        kept[f"{outcome.name}.csv"] = storage.numbers(outcome).encode("utf-8")
        kept |= {f"{outcome.name}.{i}.svg": f.svg.encode("utf-8") for i, f in enumerate(outcome.figures, 1)}
        kept |= {f"{outcome.name}.m{i}.gif": a.gif for i, a in enumerate(outcome.animations, 1)}
    kept = {name: content for name, content in kept.items() if name.endswith(".csv") or name in PICTURES}
    if missing := set(PICTURES) - kept.keys():
        raise SystemExit(f"{folder} has no {', '.join(sorted(missing))}; run those experiments too")
    claims = list(csv.DictReader(io.StringIO(kept["claims.csv"].decode("utf-8"), newline="")))
    readme, (begin, end) = ROOT / "README.md", ("<!-- claims -->\n", "<!-- /claims -->")
    before, rest = readme.read_text(encoding="utf-8").split(begin)
    RESULTS.mkdir(exist_ok=True)
    for name, content in kept.items():
        files.write(RESULTS / name, content)
    files.write(readme, f"{before}{begin}{table(claims)}\n{end}{rest.split(end)[1]}".encode())
    for old in RESULTS.iterdir():
        if old.name not in kept:
            old.unlink()


if __name__ == "__main__":
    record(Path(sys.argv[1]))
