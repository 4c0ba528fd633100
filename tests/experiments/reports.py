"""What tests of the report run: small experiments, the command line with them, and what it has written."""

import base64
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments.__main__ import Options, main
from experiments.report import Animation, Claim, Outcome, Settings, Table, at_least, at_most, curves, storage

GIF = base64.b64decode("R0lGODlhAQABAIAAAP///wAAACH5BAAAAAAALAAAAAABAAEAAAICRAEAOw==")


def found(slide: int, why: str = "") -> Outcome:
    values = np.array([[1.0, 2.0], [1.001, 2.002]])
    picture = curves([1, 2], {"a < b": values}, "What rises", "A line that rises.", xlabel="x", ylabel="y")
    return Outcome(
        slide=slide,
        lead="Two values & their means.",
        equation="a < b",
        verdicts=[
            at_least("a mean is 1", 1, values[:, 1]),
            at_most(Claim("all are below 2", "The second is not."), 2, {"first": values[:, 0], "second": values[:, 1]}),
            at_most(Claim("a <em>loss</em> is below 0", why), 0, values[:, 0]),
        ],
        tables=[Table("Some rows", ("name", "value"), [("one", "1"), ("two", "2")])],
        figures=[picture],
        animations=[Animation("It moves", "A point that moves.", GIF, GIF, GIF, GIF, 100, 50)],
        numbers={"values": values, "lost": math.nan, "nested": {"mean": 1.5}},
    )


def one(settings: Settings, log: Callable[[str], None]) -> Outcome:
    """One."""
    log("going")
    return found(7)


def other(settings: Settings, log: Callable[[str], None]) -> Outcome:
    """The other."""
    return found(0)


class Run:
    """The command line with experiments of ours."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.folder = patch, folder
        self.printed = ""
        patch.setattr("experiments.report.runner.title", lambda name: f"The title of {name}")

    def __call__(self, *names: str, known: dict[str, Any] | None = None, **options: Any) -> int:
        self.patch.setattr("experiments.report.runner.available", lambda: known or {"one": one, "other": other})
        with open(self.folder / "printed", "w+", encoding="utf-8") as file:
            status = main(Options(names, out=self.folder / "out", **options), Console(file=file, width=200))
            file.seek(0)
            self.printed = file.read()
        return status


def strict_json(path: Path) -> dict:
    def refuse(constant: str):
        raise ValueError(f"{path.name} holds {constant}, which JSON does not know")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def pictures(folder: Path, name: str) -> dict[str, bytes]:
    """The pictures that an experiment's JSON names, without the hashes in their names."""
    stored = strict_json(folder / "results" / f"{name}.json")
    named = [f["svg"] for f in stored["figures"]]
    named += [animation[key] for animation in stored["animations"] for key in storage.PARTS]
    files = [folder / "pictures" / picture["file"] for picture in named]
    return {re.sub(r"^\w+\.(\w+)\.[0-9a-f]{16}\.", r"\1.", file.name): file.read_bytes() for file in files}
