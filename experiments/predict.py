"""Use the model that a report of a user's table holds: `python -m experiments.predict REPORT TABLE`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import tyro

from experiments import tables
from experiments.tables import model as models


@dataclass
class Options:
    """Predict the answer of each row of a table, by the model of a report that `python -m experiments --data` made.

    Writes a CSV with the line of each row, the prediction, and the probability of each class.
    """

    report: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="REPORT")]
    """Folder of the report."""
    table: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TABLE")]
    """A table with the same columns, in any order; without the answer, or with it."""
    out: Path | None = None
    """File of the predictions. By default the table's name with .predictions.csv, in this folder."""


def predictions(model: models.Model, path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The predictions for a table, a row each, and what is to be said of them.

    Raises:
        Unreadable: the table is none, lacks a column, or has a cell that is no number.
    """
    names = [column.name for column in model.columns]
    found = tables.cells(path, expected=names if model.named else ["a line of names"])
    x = tables.features_of(found, model.columns, path)
    said = []
    for column in model.columns:
        if isinstance(column, tables.Words):
            known = {category.casefold() for category in column.categories}
            new = [w for w in found.frame[column.name].unique() if w.casefold() not in known and w]
            if new:
                said.append(
                    f"column {column.name}: not in {model.label}, and taken as no category: {tables.shortened(new)}"
                )
    a = models.predicted(model, x)
    frame = pd.DataFrame({"line": found.frame.index})
    if model.classes:
        frame[model.answer] = np.array(model.classes, dtype=object)[a.argmax(axis=1)]
        for j, label in enumerate(model.classes):
            frame[f"P({label})"] = a[:, j]
    else:
        frame[model.answer] = a
    return frame, said


def main(options: Options) -> int:
    """Write the predictions; the exit status is 2 where that cannot be done."""
    out = options.out or Path(f"{options.table.stem}.predictions.csv")
    read = [options.table, *(options.report / name for name in (models.WEIGHTS, models.DESCRIPTION))]
    if out.resolve() in [path.resolve() for path in read]:
        print(f"{out} is read itself, and the predictions would replace it. Name another --out.", file=sys.stderr)
        return 2
    try:
        frame, said = predictions(models.load(options.report), options.table)
        frame.to_csv(out, index=False, lineterminator="\n")
    except (tables.Unreadable, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    for line in said:
        print(f"warning: {line}", file=sys.stderr)
    print(f"{len(frame)} predictions: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, prog="python -m experiments.predict")))
