"""Folders that belong to one run: a note that identifies it, and files whose marks prove whose they are.

The note holds the identity of the run in JSON, and every file carries a hash of it. Files are written completely or not
at all; those damaged all the same, by a disk or by hand, are named in a warning and made again.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import keystr

from fnn.core._trees import is_key
from fnn.training._files import create, remove_stale, write
from fnn.training._placement import whole
from fnn.training.checkpoints import load, save

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr


class Claim(NamedTuple):
    """A folder, the kind of run that it is for, and the identity of the run."""

    folder: Path
    kind: str
    """"sweep" or "fit": the name of the note, and the end of the function's name"""
    part: str
    """the beginning of its files' names: "piece" or "chunk" """
    identity: dict[str, Any]

    @property
    def note(self) -> bytes:
        """The content of the note."""
        return (json.dumps(self.identity, indent=1) + "\n").encode()

    @property
    def mark(self) -> np.ndarray:
        """A hash of the identity, stored in every file."""
        return hash_of(self.note)

    def take(self) -> None:
        """Mark the folder as this run's, after checking that it is not another's.

        Raises:
            ValueError: a folder of another run, or with foreign files.
            OSError: the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        note = self.folder / f"{self.kind}.json"
        if not note.exists():
            self._no_foreign_files()
            self._proven(self._doubt())
            create(note, self.note)
        text = note.read_bytes()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if found == self.identity:
            return
        has_proof = bool(self.numbers()) and not self._doubt()
        if isinstance(found, dict) and found.keys() == self.identity.keys() and not has_proof:
            self._same_run(found)
        if not (self.numbers() or self.note.startswith(text)):
            self._proven(f"without {self.part}s the file may belong to another program")
        self._proven(self._doubt())
        self._warn(f"{note} is damaged and is written again; its {self.kind} is this one", stacklevel=5)
        write(note, self.note)

    def numbers(self) -> list[int]:
        """The numbers of the files in the folder, in rising order."""
        found = (re.fullmatch(rf"{self.part}-(\d{{4,}})\.npz", path.name) for path in self.folder.iterdir())
        return sorted(int(name[1]) for name in found if name)

    def path(self, number: int) -> Path:
        """The file with a number."""
        return self.folder / f"{self.part}-{number:04d}.npz"

    def read(self, number: int, like: Any, otherwise: str) -> Any:
        """The results in a file; None if it does not exist or, with a warning, is damaged or another one."""
        path = self.path(number)
        try:
            found = load(path, {"results": like, "number": np.array(number), self.kind: self.mark})
            self._is_own(found, number)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._warn(f"{path} {otherwise}: {str(error).splitlines()[0]}", stacklevel=5)
            return None
        return found["results"]

    def store(self, number: int, results: Any) -> None:
        """Write a file."""
        save(self.path(number), {"results": results, "number": np.array(number), self.kind: self.mark})

    @property
    def _where(self) -> str:
        return f"resumable_{self.kind}"

    def _warn(self, message: str, stacklevel: int) -> None:
        warnings.warn(f"{self._where}: {message}", stacklevel=stacklevel)

    def _doubt(self) -> str:
        """The reason why the files do not prove the folder to be this run's; empty if they do or there are none."""
        numbers = self.numbers()
        proven = False
        for path in map(self.path, numbers):
            try:
                mark = load(path)[self.kind]
            except (ValueError, KeyError):
                continue
            if not np.array_equal(mark, self.mark):
                return f"{path.name} is of another {self.kind}"
            proven = True
        return "" if proven or not numbers else f"no readable {self.part} identifies its {self.kind}"

    def _same_run(self, found: dict[str, Any]) -> None:
        """Raise ValueError if an earlier call made the folder for another run."""
        if differences := _differences(found, self.identity):
            raise ValueError(
                f"{self._where}: expected this {self.kind} in {self.folder}, got another {self.kind}: "
                f"{'; '.join(differences)}. {_ADVICE}"
            )

    def _no_foreign_files(self) -> None:
        """Raise ValueError for a folder with files of other programs."""
        own = {self.path(number).name for number in self.numbers()}
        others = re.compile(rf"\.|({self.kind}\.(json|draft)|desktop\.ini|thumbs\.db)$", re.IGNORECASE)
        foreign = sorted(p.name for p in self.folder.iterdir() if not (p.name in own or others.match(p.name)))
        if foreign:
            raise ValueError(
                f"{self._where}: expected an empty folder or one of a {self.kind}, got {self.folder} with "
                f"{', '.join(foreign[:3])}. {_ADVICE}"
            )

    def _proven(self, doubt: str) -> None:
        """Raise ValueError if there is a doubt that a folder without a readable note is this run's."""
        if doubt:
            raise ValueError(
                f"{self._where}: expected {self.folder}/{self.kind}.json, got none or a damaged one, and {doubt}. "
                f"{_ADVICE}"
            )

    def _is_own(self, found: Mapping[str, Any], number: int) -> None:
        """Raise ValueError unless a file belongs to this run and has this number."""
        if not np.array_equal(found[self.kind], self.mark):
            raise ValueError(f"it is of another {self.kind}")
        if int(found["number"]) != number:
            raise ValueError(f"it is {self.part} {int(found['number'])}")


_ADVICE = "Use another folder, or empty this one."


def identity_of_program(traced: ClosedJaxpr) -> dict[str, str]:
    """The identity of a traced program: a hash of its text and of the arrays in it."""
    text = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr))  # without the addresses in its text, nor the number of devices
    text = re.sub(r"Mesh\((?:[^()]|\([^()]*\))*\)", "Mesh", text).encode()
    return {"hash": _hash(text, *(str(identity_of_array(array)).encode() for array in _arrays(traced)))}


def _arrays(traced: ClosedJaxpr) -> Iterator[Any]:
    """The arrays that a program closes over, and those of the programs inside it, as of a function under `jit`."""
    from jax.extend.core import ClosedJaxpr, Jaxpr

    yield from traced.consts
    todo = [traced.jaxpr]
    while todo:
        for equation in todo.pop().eqns:
            for part in jax.tree.leaves(equation.params):
                if isinstance(part, ClosedJaxpr):
                    yield from part.consts
                if isinstance(part, ClosedJaxpr | Jaxpr):
                    todo.append(getattr(part, "jaxpr", part))


def identity_of_array(array: Any) -> dict[str, str]:
    """The identity of an array: its dtype, shape, and a hash of its contents."""
    array = whole(array)
    has_keys = hasattr(array, "dtype") and is_key(array)
    plain = np.asarray(jax.random.key_data(array) if has_keys else array)
    dtype = str(array.dtype if has_keys else plain.dtype)
    return {
        "dtype": dtype,
        "shape": str(list(np.shape(array))),
        "hash": _hash(np.ascontiguousarray(plain).reshape(-1).view(np.uint8)),
    }


def identity_of_tree(tree: Any) -> dict[str, dict[str, str]]:
    """The identities of the arrays of a pytree, by their paths."""
    return {
        keystr(path, simple=True, separator="."): identity_of_array(x) for path, x in jax.tree.leaves_with_path(tree)
    }


def _hash(*parts: Any) -> str:
    return hash_of(*parts).tobytes().hex()


def hash_of(*parts: Any) -> np.ndarray:
    """A hash of byte strings, uint8 [32]."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return np.frombuffer(digest.digest(), np.uint8)


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any], place: str = "") -> list[str]:
    """The differences of two identities in words; of hashes, only that they differ."""
    lines = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        old = found.get(name)
        new = wanted.get(name)
        path = f"{place} {name}".strip()
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _differences(old, new, path)
        elif name == "hash":
            lines += [] if lines else [f"another {place}" if place in _PROGRAMS else f"other {place}"]
        else:
            lines.append(f"{path}: {_brief(old)} there, {_brief(new)} here")
    return lines


def _brief(part: Any) -> Any:
    """A part of an identity in a word."""
    return "none" if part is None else "some" if isinstance(part, Mapping) else part


_PROGRAMS = ("experiment", "trainer", "validate")
