"""Outcomes on the disk: what makes a report able to go on where it was left.

An outcome is stored as ``results/NAME.json``, its numbers also as ``results/NAME.csv``, its pictures as files of their
own under ``pictures/``, further files under their own names in the folder of the report. What is stored is all that
the pages show. All is written whole or not at all, and looked at when it is read: what is not as it was written counts
as not there.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import jax

import experiments
import experiments.claims
import fnn
from experiments.report.outcomes import SLIDES, Animation, Figure, Outcome, Table, Verdict
from fnn.training import _files as files

_HERE, _LIBRARY = Path(experiments.__path__[0]), Path(fnn.__path__[0])


class Unfit(ValueError):
    """An outcome that pages cannot be made of: one line that says why."""


def save(folder: Path, outcome: Outcome, fingerprint: str) -> None:
    """Store an outcome in place of an earlier one, which is there as it was until all of the new one is on the disk.

    Pictures have the beginnings of their hashes in their names, so that new ones stand beside the old; the JSON, which
    names them with their sizes and hashes, comes last. Then what the earlier one named alone is removed.

    Raises:
        Unfit: an outcome that pages cannot be made of.
        OSError: something cannot be written.
    """
    results, pictures = folder / "results", folder / "pictures"
    written: dict[str, bytes] = {}
    stored = {
        "verdicts": [verdict._asdict() | {"verdict": verdict.word} for verdict in outcome.verdicts],
        "figures": [
            f._asdict() | {"svg": _named(written, outcome.name, f"{i}.svg", f.svg)}
            for i, f in enumerate(outcome.figures, 1)
        ],
        "animations": [
            a._asdict()
            | {"gif": _named(written, outcome.name, f"m{i}.gif", a.gif)}
            | {"still": _named(written, outcome.name, f"m{i}.png", a.still)}
            for i, a in enumerate(outcome.animations, 1)
        ],
        "files": {name: _sealed(content) for name, content in outcome.files.items()},
        "fingerprint": fingerprint,
    }
    plain = _plain(vars(outcome) | stored)
    try:
        _fitting(plain, written.__getitem__, outcome.files.__getitem__)
        text = json.dumps(plain | {"sha256": _digest(plain)}, indent=1, ensure_ascii=False) + "\n"
        content = text.encode("utf-8")
    except _UNREADABLE as error:
        raise Unfit(f"the outcome of {outcome.name} cannot be stored: {error}") from None
    for part in (results, pictures):
        part.mkdir(parents=True, exist_ok=True)
        files.remove_stale(part)
    path = results / f"{outcome.name}.json"
    before = path.read_bytes() if path.exists() else b""
    for name, picture in written.items():
        files.write(pictures / name, picture)
    for name, further in outcome.files.items():
        files.write(folder / name, further)
    files.write(path, content)
    keep_numbers(folder, outcome)
    for old in pictures.glob(f"{outcome.name}.*"):
        if old.name not in written and (old.name.encode() in before or files.is_stale(old)):
            old.unlink(missing_ok=True)


def load(folder: Path, name: str) -> tuple[Outcome, str] | None:
    """A stored outcome and its fingerprint, or None if there is none, or one that is damaged."""
    try:
        return _read(folder, name)
    except _UNREADABLE:
        return None


def outcomes(folder: Path) -> list[Outcome]:
    """All that are stored whole, in the order of the lecture."""
    stored = (load(folder, name) for name in names(folder))
    return sorted((found[0] for found in stored if found), key=lambda o: (o.slide or len(SLIDES), o.name))


def damaged(folder: Path) -> dict[str, str]:
    """What is wrong with those that are stored, but neither whole nor of this version; they count as not there."""
    found = {}
    for name in names(folder):
        try:
            _read(folder, name)
        except _UNREADABLE as error:
            found[name] = f"{type(error).__name__}: {error}".splitlines()[0][:150]
    return found


def names(folder: Path) -> list[str]:
    """The experiments that are stored, in alphabetical order."""
    return sorted(path.stem for path in (folder / "results").glob("*.json") if not path.name.startswith("."))


def file_name(name: str, part: str, content: str | bytes) -> str:
    """The file of a picture of an experiment, such as the part "m1.gif"; another content is another file."""
    number, suffix = part.split(".")
    return f"{name}.{number}.{_hash(content)[:16]}.{suffix}"


def keep_numbers(folder: Path, outcome: Outcome) -> None:
    """Have the numbers of a stored outcome lie beside it as CSV; written where they do not."""
    path, text = folder / "results" / f"{outcome.name}.csv", numbers(outcome)
    if not path.exists() or path.read_bytes() != text.encode("utf-8"):
        replace(path, text)


def numbers(outcome: Outcome) -> str:
    """The numbers of an outcome as CSV."""
    return _csv([("quantity", "value"), *_flat(_plain(outcome.numbers))])


def fingerprint(name: str, *settings: Any) -> str:
    """What a result depends on: the experiment's file and those it imports, fnn, JAX, the device, and the settings."""
    digest = hashlib.sha256(repr((jax.__version__, jax.devices()[0].device_kind, settings)).encode())
    for path in sorted({*_files(name), *_LIBRARY.rglob("*.py")}):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def replace(path: Path, text: str) -> None:
    """Write a file whole or not at all that can be made again."""
    files.write(path, text.encode("utf-8"), durable=False)


def claims(outcomes: list[Outcome]) -> str:
    """The table of claims as CSV."""
    header = ("experiment", "slide", "claim", "verdict", "measured", "why")
    rows = [(o.name, o.slide, v.claim, v.word, v.measured, v.explanation) for o in outcomes for v in o.verdicts]
    return _csv([header, *rows])


_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def _read(folder: Path, name: str) -> tuple[Outcome, str]:
    """A stored outcome and its fingerprint, after a look whether it is as it was written."""
    plain = json.loads((folder / "results" / f"{name}.json").read_text(encoding="utf-8"))
    if not isinstance(plain, dict) or "sha256" not in plain:
        raise ValueError("no outcome, or one of an earlier version")
    if plain.pop("sha256") != _digest(plain):
        raise ValueError("not as it was written: its hash is another")
    if plain["name"] != name:
        raise ValueError(f"it is {plain['name']}, a copy under another name")
    pictures = folder / "pictures"
    return _fitting(plain, lambda file: (pictures / file).read_bytes(), lambda file: (folder / file).read_bytes())


def _fitting(
    plain: dict[str, Any], content: Callable[[str], bytes], further: Callable[[str], bytes]
) -> tuple[Outcome, str]:
    """The outcome that pages can be made of, with its pictures and further files, and its fingerprint.

    Raises:
        Unfit: a part that is missing, of another type than it should be, or out of range.
    """

    def picture(of: dict[str, Any], key: str) -> bytes:
        return whole(f"picture {of[key]['file']}", content(of[key]["file"]), of[key])

    def whole(what: str, found: bytes, of: dict[str, Any]) -> bytes:
        if (len(found), _hash(found)) != (of["size"], of["sha256"]):
            raise Unfit(f"the {what} is damaged")
        return found

    def expect(what: str, is_so: bool) -> None:
        if not is_so:
            raise Unfit(f"{plain.get('name')} has no {what}")

    plain = dict(plain)
    fingerprint = plain.pop("fingerprint")
    outcome = Outcome(**plain)
    words = ("lead", "equation", "title", "name", "command")
    expect(f"words for {', '.join(words)}", all(isinstance(plain[key], str) for key in words))
    expect("name that a file can have", re.fullmatch(r"\w+", outcome.name) is not None)
    expect(f"slide from 0 to {len(SLIDES) - 1}", type(outcome.slide) is int and 0 <= outcome.slide < len(SLIDES))
    expect("time in seconds", type(outcome.seconds) in (int, float) and type(outcome.quick) is bool)
    expect("numbers in a dict", isinstance(outcome.numbers, dict))
    outcome.verdicts = [Verdict(*(verdict[key] for key in Verdict._fields)) for verdict in plain["verdicts"]]
    outcome.tables = [
        Table(t["caption"], tuple(t["header"]), [tuple(row) for row in t["rows"]]) for t in plain["tables"]
    ]
    outcome.figures = [Figure(**(f | {"svg": picture(f, "svg").decode("utf-8")})) for f in plain["figures"]]
    outcome.animations = [
        Animation(**(a | {key: picture(a, key) for key in ("gif", "still")})) for a in plain["animations"]
    ]
    outcome.files = {file: whole(f"file {file}", further(file), of) for file, of in plain["files"].items()}
    for part in (*outcome.verdicts, *outcome.figures, *outcome.animations):
        wrong = [key for key, kind in get_type_hints(type(part)).items() if type(getattr(part, key)) is not kind]
        expect(f"{', '.join(wrong)} of the right type in a {type(part).__name__.lower()}", not wrong)
    cells = [(table.caption, *table.header, *(cell for row in table.rows for cell in row)) for table in outcome.tables]
    expect("tables of words alone", all(isinstance(cell, str) for of_table in cells for cell in of_table))
    expect("pictures with sizes", all(min(figure.size) > 0 for figure in outcome.figures))
    return outcome, fingerprint


def _named(written: dict[str, bytes], name: str, part: str, content: str | bytes) -> dict[str, Any]:
    """What the JSON says of a picture that is to be written."""
    file, content = file_name(name, part, content), content.encode("utf-8") if isinstance(content, str) else content
    written[file] = content
    return {"file": file} | _sealed(content)


def _sealed(content: bytes) -> dict[str, Any]:
    """What the JSON says of a file, to be found damaged by."""
    return {"size": len(content), "sha256": _hash(content)}


def _hash(content: str | bytes) -> str:
    return hashlib.sha256(content.encode("utf-8") if isinstance(content, str) else content).hexdigest()


def _digest(plain: dict[str, Any]) -> str:
    """A hash of all that the JSON says, however it is laid out."""
    return _hash(json.dumps(plain, sort_keys=True))


def _files(name: str) -> set[Path]:
    """The file of an experiment, and those of this package that it imports, and they."""
    found: set[Path] = set()
    left = {path for folder in (*experiments.claims.__path__, _HERE) for path in Path(folder).glob(f"{name}.py")}
    while left:
        path = left.pop()
        found.add(path)
        for module in _imported(path):
            place = _HERE.joinpath(*module.split(".")[1:])
            left |= {p for p in (place.with_suffix(".py"), place / "__init__.py") if p.exists()} - found
    return found


def _imported(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, and names in them that may be modules."""
    for node in ast.walk(ast.parse(path.read_bytes())):
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
