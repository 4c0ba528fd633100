"""Sweeps that take long: run in pieces, each kept on the disk as soon as it is finished, so that any can be resumed.

In the folder lie ``sweep.json``, which tells whose sweep it is, and ``piece-0000.npz`` and so on, one for each finished
piece. All files are written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr

from fnn import checks
from fnn.checks import transfers
from fnn.devices import Device
from fnn.parameters import load, save
from fnn.progress import progress_bar
from fnn.sweeps import Grid, run_rows
from fnn.types import Array


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
    that JAX traces from the experiment, with all arrays in it; a folder of another sweep is refused.

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
        ValueError: a folder that holds another sweep.

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
    devices = checks.some_devices(jax.local_devices() if devices is None else devices)
    at_once = None if at_once is None else checks.count("at_once", at_once)
    length = -(-grid.size // checks.count("pieces", pieces))
    numbers = [np.arange(first, first + length) for first in range(0, grid.size, length)]
    rows = grid.rows(np.arange(length) % grid.size)
    traced, result = jax.make_jaxpr(grid.row, return_shape=True)(tuple(axis[0] for axis in rows))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), result)
    folder = _claimed(Path(folder), {"sweep": _fingerprint(grid, traced), "rows": grid.size, "pieces": len(numbers)})

    def piece(number: int) -> Any:
        path = folder / f"piece-{number:04d}.npz"
        if not path.exists():
            rows = grid.rows(np.minimum(numbers[number], grid.size - 1))  # the last piece is filled up
            save(path, {"results": run_rows(grid, rows, devices, at_once)})
        return path

    with progress_bar(grid.size, progress) as show:
        for number in range(len(numbers)):
            piece(number)
            show({}, min(grid.size, (number + 1) * length))
    found = [load(piece(number), {"results": like})["results"] for number in range(len(numbers))]
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: grid.size], *found)
    return jax.tree.map(lambda leaf: leaf.reshape(*grid.shape, *leaf.shape[1:]), whole)


def _claimed(folder: Path, whose: dict[str, Any]) -> Path:
    """The folder, made if need be, after a look whether it is this sweep's."""
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "sweep.json"
    if note.exists():
        transfers.same_sweep(folder, json.loads(note.read_text()), whose)
    else:
        transfers.nothing_there(folder)
        draft = note.with_suffix(".draft")
        draft.write_text(json.dumps(whose, indent=1) + "\n")
        os.replace(draft, note)
    return folder


def _fingerprint(grid: Grid, traced: ClosedJaxpr) -> str:
    """A hash of the keys, the values, and the program with all arrays in it; addresses in its text do not count."""
    digest = hashlib.sha256(re.sub(r"0x[0-9a-f]+", "", str(traced.jaxpr)).encode())
    digest.update(" ".join(grid.names).encode())
    for array in (grid.keys, *grid.values, *traced.consts):
        is_key = jnp.issubdtype(jnp.asarray(array).dtype, jax.dtypes.prng_key)
        plain = np.asarray(jax.random.key_data(array) if is_key else array)
        digest.update(f"{plain.dtype} {plain.shape}".encode() + plain.tobytes())
    return digest.hexdigest()
