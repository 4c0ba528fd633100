"""Outcomes on the disk: what makes a report able to go on where it was left.

An outcome is stored as ``results/NAME.json``, its numbers also as ``results/NAME.csv``, its pictures as files of their
own under ``pictures/``. What is stored is all that the pages show.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

import experiments
import fnn
from experiments.report.outcomes import Animation, Figure, Outcome, Table, Verdict

_HERE, _LIBRARY = Path(experiments.__path__[0]), Path(fnn.__path__[0])


def save(folder: Path, outcome: Outcome, fingerprint: str) -> None:
    """Store an outcome; the JSON comes last, so that what has one is whole."""
    results, pictures = folder / "results", folder / "pictures"
    for part in (results, pictures):
        part.mkdir(parents=True, exist_ok=True)
    (results / f"{outcome.name}.json").unlink(missing_ok=True)
    for old in pictures.glob(f"{outcome.name}.*"):
        old.unlink()
    stored = {
        "verdicts": [verdict._asdict() | {"verdict": verdict.word} for verdict in outcome.verdicts],
        "figures": [_figure(pictures, f"{outcome.name}.{i}", f) for i, f in enumerate(outcome.figures, 1)],
        "animations": [_animation(pictures, f"{outcome.name}.m{i}", a) for i, a in enumerate(outcome.animations, 1)],
        "fingerprint": fingerprint,
    }
    plain = _plain(vars(outcome) | stored)
    replace(results / f"{outcome.name}.csv", _csv([("quantity", "value"), *_flat(plain["numbers"])]))
    replace(results / f"{outcome.name}.json", json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def load(folder: Path, name: str) -> tuple[Outcome, str] | None:
    """A stored outcome and its fingerprint, or None if there is none that can be read."""
    pictures = folder / "pictures"
    try:
        plain = json.loads((folder / "results" / f"{name}.json").read_text())
        fingerprint = plain.pop("fingerprint")
        outcome = Outcome(**plain)
        outcome.verdicts = [Verdict(*(verdict[key] for key in Verdict._fields)) for verdict in plain["verdicts"]]
        outcome.tables = [
            Table(t["caption"], tuple(t["header"]), [tuple(row) for row in t["rows"]]) for t in plain["tables"]
        ]
        outcome.figures = [Figure(**(f | {"svg": (pictures / f["svg"]).read_text()})) for f in plain["figures"]]
        outcome.animations = [
            Animation(**(a | {key: (pictures / a[key]).read_bytes() for key in ("gif", "still")}))
            for a in plain["animations"]
        ]
    except (OSError, ValueError, KeyError, TypeError):  # never run, cut short, or by another version
        return None
    return outcome, fingerprint


def names(folder: Path) -> list[str]:
    """The experiments that are stored, in alphabetical order."""
    return sorted(path.stem for path in (folder / "results").glob("*.json"))


def fingerprint(name: str, *settings: Any) -> str:
    """What a result depends on: the experiment's file and those it imports, fnn, JAX, the device, and the settings."""
    digest = hashlib.sha256(repr((jax.__version__, jax.devices()[0].device_kind, settings)).encode())
    for path in sorted({*_files(name), *_LIBRARY.rglob("*.py")}):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(path.name + ".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def claims(outcomes: list[Outcome]) -> str:
    """The table of claims as CSV."""
    header = ("experiment", "slide", "claim", "verdict", "measured", "why")
    rows = [(o.name, o.slide, v.claim, v.word, v.measured, v.explanation) for o in outcomes for v in o.verdicts]
    return _csv([header, *rows])


def _figure(pictures: Path, name: str, figure: Figure) -> dict[str, Any]:
    replace(pictures / f"{name}.svg", figure.svg)
    return figure._asdict() | {"svg": f"{name}.svg"}


def _animation(pictures: Path, name: str, animation: Animation) -> dict[str, Any]:
    (pictures / f"{name}.gif").write_bytes(animation.gif)
    (pictures / f"{name}.png").write_bytes(animation.still)
    return animation._asdict() | {"gif": f"{name}.gif", "still": f"{name}.png"}


def _files(name: str) -> set[Path]:
    """The file of an experiment, and those of this package that it imports, and they."""
    found: set[Path] = set()
    left = {path for folder in experiments.__path__ for path in Path(folder).glob(f"{name}.py")}
    while left:
        path = left.pop()
        found.add(path)
        for module in _imported(path):
            place = _HERE.joinpath(*module.split(".")[1:])
            left |= {p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()} - found
    return found


def _imported(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, and names in them that may be modules."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "experiments":
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _csv(rows: list[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _flat(numbers: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every number with its place among the nested dicts and lists, "loss.adam.3"."""
    if isinstance(numbers, list):
        numbers = dict(enumerate(numbers))
    if isinstance(numbers, dict):
        for key, value in numbers.items():
            yield from _flat(value, f"{place}.{key}" if place else str(key))
    else:
        yield place, numbers


def _plain(value: Any) -> Any:
    """The same in dicts, lists, words and numbers; None for NaN and infinity, which JSON has no words for."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
