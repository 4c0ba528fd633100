"""Resumable sweeps, run in pieces that are stored on disk as soon as they are finished.

The folder contains ``sweep.json``, which identifies the sweep, and ``piece-0000.npz`` and so on, one for each finished
piece, with its number and the mark of its sweep. All files are written completely or not at all. Files damaged all the
same, by a disk or by hand, are named in a warning and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from fnn.core import _checks as checks
from fnn.core._trees import is_key
from fnn.core.types import Array
from fnn.training import _checks as training_checks
from fnn.training._files import create, remove_stale, write
from fnn.training._progress import progress_bar
from fnn.training.checkpoints import load, save
from fnn.training.devices import Device
from fnn.training.sweeps import Grid, run_rows

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr


def resumable_sweep(
    folder: str | os.PathLike[str],
    experiment: Callable[..., Any],
    keys: Array,
    *,
    pieces: int = 20,
    devices: Sequence[Device] | None = None,
    at_once: int | None = None,
    progress: bool | None = None,
    **hyper: Any,
) -> Any:
    """A `sweep` in pieces that are stored as they are finished: after Ctrl-C or a crash the same call resumes it.

    Every piece runs the same compiled program. The call recognises its sweep by the keys, the values and the program
    that JAX traces from the experiment, with all arrays in it; a folder of another sweep raises ValueError. A piece
    that is damaged, or not the one of its name, is computed again, with a warning. Files whose names begin with a dot,
    ``desktop.ini`` and ``Thumbs.db`` are ignored.

    Args:
        folder: the folder of the pieces; created if it does not exist.
        experiment: as in `sweep`.
        keys: as in `sweep`.
        pieces: number of pieces the rows are divided into; at most one per row.
        devices: as in `sweep`.
        at_once: as in `sweep`.
        progress: whether to show a progress bar with the time left, by rich; by default if rich is installed.
        **hyper: as in `sweep`.

    Returns:
        The result of `sweep`.

    Raises:
        TypeError, ValueError: as in `sweep`.
        ValueError: a folder with another sweep, or with foreign files.
        OSError: the folder cannot be written, such as on a full disk; the same call resumes when there is room.

    Example:
        >>> import jax, tempfile
        >>> def experiment(key, eta):
        ...     return eta * jax.random.normal(key, (3,))
        >>> keys = jax.random.split(jax.random.key(0), 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     resumable_sweep(folder, experiment, keys, eta=[1.0, 2.0], progress=False).shape
        (4, 2, 3)
    """
    grid = Grid.of(experiment, keys, hyper)
    devices = training_checks.some_devices(jax.local_devices() if devices is None else devices)
    at_once = None if at_once is None else checks.count("at_once", at_once)
    length = -(-grid.size // checks.count("pieces", pieces))
    numbers = [np.arange(first, first + length) for first in range(0, grid.size, length)]
    rows = grid.rows(np.arange(length) % grid.size)
    traced, result = jax.make_jaxpr(grid.row, return_shape=True)(tuple(axis[0] for axis in rows))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), result)
    identity = _identity(grid, traced, result) | {"rows": grid.size, "pieces": len(numbers)}
    sweep = _Folder(Path(folder), identity)
    sweep.claim()

    def piece(number: int) -> Any:
        found = sweep.piece(number, like)
        if found is None:
            rows = grid.rows(np.minimum(numbers[number], grid.size - 1))  # the last piece is filled up
            found = run_rows(grid, rows, devices, at_once)
            sweep.store(number, found)
        return found

    with progress_bar(grid.size, progress) as show:
        for number in range(len(numbers)):
            piece(number)
            show({}, min(grid.size, (number + 1) * length))
    found = [piece(number) for number in range(len(numbers))]
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: grid.size], *found)
    return jax.tree.map(lambda leaf: leaf.reshape(*grid.shape, *leaf.shape[1:]), whole)


class _Folder(NamedTuple):
    """The folder of a sweep and the identity of the sweep."""

    folder: Path
    identity: dict[str, Any]

    @property
    def note(self) -> bytes:
        """The content of ``sweep.json``."""
        return (json.dumps(self.identity, indent=1) + "\n").encode()

    @property
    def mark(self) -> np.ndarray:
        """A hash of the identity, stored in every piece."""
        return np.frombuffer(hashlib.sha256(self.note).digest(), np.uint8)

    def claim(self) -> None:
        """Mark the folder as this sweep's, after checking that it is not another's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        note = self.folder / "sweep.json"
        if not note.exists():
            _no_foreign_files(self.folder, self._foreign_files())
            _proven(self.folder, self._doubt())
            create(note, self.note)
        text = note.read_bytes()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if found == self.identity:
            return
        has_proof = bool(self._pieces()) and not self._doubt()
        if isinstance(found, dict) and found.keys() == self.identity.keys() and not has_proof:
            _same_sweep(self.folder, found, self.identity)
        if not (self._pieces() or self.note.startswith(text)):
            _proven(self.folder, "without pieces the file may belong to another program")
        _proven(self.folder, self._doubt())
        warnings.warn(f"resumable_sweep: {note} is damaged and is written again; its sweep is this one", stacklevel=3)
        write(note, self.note)

    def piece(self, number: int, like: Any) -> Any:
        """The results of a piece; None if it does not exist or, with a warning, is damaged or another piece."""
        path = self._path(number)
        try:
            found = load(path, {"results": like, "number": np.array(number), "sweep": self.mark})
            _is_piece(found, number, self.mark)
        except FileNotFoundError:
            return None
        except ValueError as error:
            why = str(error).splitlines()[0]
            warnings.warn(f"resumable_sweep: {path} is computed again: {why}", stacklevel=4)
            return None
        return found["results"]

    def store(self, number: int, results: Any) -> None:
        """Write a piece."""
        save(self._path(number), {"results": results, "number": np.array(number), "sweep": self.mark})

    def _path(self, number: int) -> Path:
        return self.folder / f"piece-{number:04d}.npz"

    def _pieces(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _PIECE.fullmatch(path.name)]

    def _foreign_files(self) -> list[Path]:
        """Files that belong neither to a sweep nor to the system."""
        return [path for path in self.folder.iterdir() if not (_PIECE.fullmatch(path.name) or _OTHERS.match(path.name))]

    def _doubt(self) -> str:
        """The reason why the pieces do not prove the folder to be this sweep's; empty if they do or there are none."""
        pieces = self._pieces()
        proven = False
        for path in pieces:
            try:
                mark = load(path)["sweep"]
            except (ValueError, KeyError):
                continue
            if not np.array_equal(mark, self.mark):
                return f"{path.name} is of another sweep"
            proven = True
        return "" if proven or not pieces else "no readable piece identifies its sweep"


_PIECE = re.compile(r"piece-\d{4,}\.npz")

_OTHERS = re.compile(r"\.|(sweep\.json|sweep\.draft|desktop\.ini|thumbs\.db)$", re.IGNORECASE)


def _identity(grid: Grid, traced: ClosedJaxpr, result: Any) -> dict[str, Any]:
    """The identity of a sweep: a description, and hashes of the keys, the values, and the program with its arrays."""
    program = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)).encode()  # without the addresses in its text
    leaves = {keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(result)}
    return {
        "keys": _array(grid.keys),
        "values": {name: _array(array) for name, array in zip(grid.names, grid.values, strict=True)},
        "results": {name: f"{leaf.dtype} {list(leaf.shape)}" for name, leaf in leaves.items()},
        "experiment": {"hash": _hash(program, *(str(_array(array)).encode() for array in traced.consts))},
    }


def _array(array: Any) -> dict[str, str]:
    has_keys = is_key(jnp.asarray(array))
    plain = np.asarray(jax.random.key_data(array) if has_keys else array)
    dtype = str(array.dtype if has_keys else plain.dtype)
    return {"dtype": dtype, "shape": str(list(jnp.shape(array))), "hash": _hash(plain.tobytes())}


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def _same_sweep(folder: Any, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ValueError if an earlier call made the folder for another sweep."""
    if differences := _differences(found, wanted):
        raise ValueError(
            f"resumable_sweep: expected this sweep in {folder}, got another sweep: {'; '.join(differences)}. Use "
            "another folder, or empty this one."
        )


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
            lines += [] if lines else [f"another {place}" if place == "experiment" else f"other {place}"]
        else:
            lines.append(f"{path}: {'none' if old is None else old} there, {'none' if new is None else new} here")
    return lines


def _no_foreign_files(folder: Path, foreign: Sequence[Path]) -> None:
    """Raise ValueError for a folder with files of other programs."""
    if foreign:
        raise ValueError(
            f"resumable_sweep: expected an empty folder or one of a sweep, got {folder} with "
            f"{', '.join(sorted(path.name for path in foreign)[:3])}. Use another folder, or empty this one."
        )


def _proven(folder: Path, doubt: str) -> None:
    """Raise ValueError if there is a doubt that a folder without a readable note is this sweep's."""
    if doubt:
        raise ValueError(
            f"resumable_sweep: expected {folder}/sweep.json, got none or a damaged one, and {doubt}. Use another "
            "folder, or empty this one."
        )


def _is_piece(found: Mapping[str, Any], number: int, mark: np.ndarray) -> None:
    """Raise ValueError unless a piece belongs to this sweep and has this number."""
    if not np.array_equal(found["sweep"], mark):
        raise ValueError("it is of another sweep")
    if int(found["number"]) != number:
        raise ValueError(f"it is piece {int(found['number'])}")
