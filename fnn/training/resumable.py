"""Sweeps that take long: run in pieces, each kept on the disk as soon as it is finished, so that any can be resumed.

In the folder lie ``sweep.json``, which tells whose sweep it is, and ``piece-0000.npz`` and so on, one for each finished
piece, which tells its number and whose it is. All files are written whole or not at all. What is damaged all the same,
by a disk or by hand, is named in a warning and made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.tree_util import keystr

from fnn.core import _checks as checks
from fnn.core.types import Array
from fnn.training import _checks as training_checks
from fnn.training._files import create, remove_stale, write
from fnn.training._progress import progress_bar
from fnn.training.checkpoints import load, save
from fnn.training.devices import Device
from fnn.training.sweeps import Grid, run_rows


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
    """A `sweep` in pieces that are kept as they are finished: after Ctrl-C or a crash the same call goes on.

    Every piece runs the same compiled program. The call knows its sweep again by the keys, the values and the program
    that JAX traces from the experiment, with all arrays in it; a folder of another sweep is refused. A piece that is
    damaged, or that is not the one its name says, is computed again, with a warning. Files whose names begin with a dot
    or are ``desktop.ini`` or ``Thumbs.db`` do not count, wherever they come from.

    Args:
        folder: where the pieces are kept; made if it is not there.
        experiment: as in `sweep`.
        keys: as in `sweep`.
        pieces: into how many the rows are cut; at most one a row.
        devices: as in `sweep`.
        at_once: as in `sweep`.
        progress: whether to show a progress bar with the time left, by rich; by default where rich is installed.
        **hyper: as in `sweep`.

    Returns:
        What `sweep` gives.

    Raises:
        TypeError, ValueError: as `sweep`.
        ValueError: a folder that holds another sweep, or files of others.
        OSError: the folder cannot be written, such as on a full disk; the same call goes on when there is room.

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
    whose = _described(grid, traced, result) | {"rows": grid.size, "pieces": len(numbers)}
    sweep = _Folder(Path(folder), whose)
    sweep.claim()

    def piece(number: int) -> Any:
        found = sweep.piece(number, like)
        if found is None:
            rows = grid.rows(np.minimum(numbers[number], grid.size - 1))  # the last piece is filled up
            found = run_rows(grid, rows, devices, at_once)
            sweep.keep(number, found)
        return found

    with progress_bar(grid.size, progress) as show:
        for number in range(len(numbers)):
            piece(number)
            show({}, min(grid.size, (number + 1) * length))
    found = [piece(number) for number in range(len(numbers))]
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: grid.size], *found)
    return jax.tree.map(lambda leaf: leaf.reshape(*grid.shape, *leaf.shape[1:]), whole)


class _Folder:
    """The folder of a sweep."""

    def __init__(self, folder: Path, whose: dict[str, Any]) -> None:
        self.folder, self.whose, self.note = folder, whose, json.dumps(whose, indent=1) + "\n"
        self.mark = np.frombuffer(hashlib.sha256(self.note.encode()).digest(), np.uint8)

    def claim(self) -> None:
        """Make it this sweep's, if it is nobody's yet, after a look whether it is another's."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        note = self.folder / "sweep.json"
        if not note.exists():
            _nothing_there(self.folder, self._strange())
            _provable(self.folder, self._unproven())
            create(note, self.note.encode())
        text = note.read_bytes()
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if found == self.whose:
            return
        if isinstance(found, dict) and found.keys() == self.whose.keys() and (not self._pieces() or self._unproven()):
            _same_sweep(self.folder, found, self.whose)
        if not (self._pieces() or self.note.encode().startswith(text)):
            _provable(self.folder, "there are no pieces, so that the file may be anybody's")
        _provable(self.folder, self._unproven())
        warnings.warn(f"resumable_sweep: {note} is damaged and is written anew; the sweep is this one", stacklevel=3)
        write(note, self.note.encode())

    def piece(self, number: int, like: Any) -> Any:
        """The results of a piece; None if it is not there or, with a warning, is none of this sweep in its place."""
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

    def keep(self, number: int, results: Any) -> None:
        """Write a piece."""
        save(self._path(number), {"results": results, "number": np.array(number), "sweep": self.mark})

    def _path(self, number: int) -> Path:
        return self.folder / f"piece-{number:04d}.npz"

    def _pieces(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _PIECE.fullmatch(path.name)]

    def _strange(self) -> list[Path]:
        """Files that neither a sweep nor the system puts there."""
        return [path for path in self.folder.iterdir() if not (_PIECE.fullmatch(path.name) or _OTHERS.match(path.name))]

    def _unproven(self) -> str:
        """Why the pieces do not show that the folder is this sweep's; nothing if they do, or if there are none."""
        pieces, proven = self._pieces(), False
        for path in pieces:
            try:
                mark = load(path)["sweep"]
            except (ValueError, KeyError):
                continue
            if not np.array_equal(mark, self.mark):
                return f"{path.name} is of another sweep"
            proven = True
        return "" if proven or not pieces else "no piece can be read that tells whose it is"


_PIECE = re.compile(r"piece-\d{4,}\.npz")

_OTHERS = re.compile(r"\.|(sweep\.json|sweep\.draft|desktop\.ini|thumbs\.db)$", re.IGNORECASE)


def _described(grid: Grid, traced: ClosedJaxpr, result: Any) -> dict[str, Any]:
    """What makes it this sweep: in words, and hashes of the keys, the values, and the program with all arrays in it."""
    program = re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)).encode()  # addresses in its text do not count
    leaves = {keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(result)}
    return {
        "keys": _array(grid.keys),
        "values": {name: _array(array) for name, array in zip(grid.names, grid.values, strict=True)},
        "results": {name: f"{leaf.dtype} {list(leaf.shape)}" for name, leaf in leaves.items()},
        "experiment": {"hash": _hash(program, *(str(_array(array)).encode() for array in traced.consts))},
    }


def _array(array: Any) -> dict[str, str]:
    is_key = jnp.issubdtype(jnp.asarray(array).dtype, jax.dtypes.prng_key)
    plain = np.asarray(jax.random.key_data(array) if is_key else array)
    dtype = str(array.dtype if is_key else plain.dtype)
    return {"dtype": dtype, "shape": str(list(jnp.shape(array))), "hash": _hash(plain.tobytes())}


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8) + part)
    return digest.hexdigest()


def _same_sweep(folder: Any, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """A folder that an earlier call of the same sweep has made."""
    if differing := _unlike(found, wanted):
        raise ValueError(
            f"{folder} holds another sweep: {'; '.join(differing)}; take another folder, or empty this one"
        )


def _unlike(found: Mapping[str, Any], wanted: Mapping[str, Any], place: str = "") -> list[str]:
    """What differs, in words; of hashes nothing can be said but that they do."""
    lines = []
    for name in [*wanted, *(name for name in found if name not in wanted)]:
        old, new, whole = found.get(name), wanted.get(name), f"{place} {name}".strip()
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            lines += _unlike(old, new, whole)
        elif name == "hash":
            lines += [] if lines else [f"another {place}" if place == "experiment" else f"other {place}"]
        else:
            lines.append(f"{whole}: {'none' if old is None else old} there, {'none' if new is None else new} here")
    return lines


def _nothing_there(folder: Path, strange: Sequence[Path]) -> None:
    """A folder without files of others."""
    if strange:
        raise ValueError(
            f"{folder} is not empty and holds no sweep; take another folder, or empty this one; there is "
            f"{', '.join(sorted(path.name for path in strange)[:3])}"
        )


def _provable(folder: Path, why: str) -> None:
    """A sweep without a note of what it is can be no other than this one; else `why` not."""
    if why:
        raise ValueError(
            f"{folder}/sweep.json is not there or damaged, and {why}; take another folder, or empty this one"
        )


def _is_piece(found: Mapping[str, Any], number: int, mark: np.ndarray) -> None:
    """A piece of this sweep, in its place."""
    if not np.array_equal(found["sweep"], mark):
        raise ValueError("it is of another sweep")
    if int(found["number"]) != number:
        raise ValueError(f"it is piece {int(found['number'])}")
