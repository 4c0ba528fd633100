"""Sweeps and fits that go on after the end of their process: the same call, with the same folder, resumes them.

The folder of a sweep contains ``sweep.json``, which identifies it, and ``piece-0000.npz`` and so on, one for each
finished piece; the folder of a fit contains ``fit.json`` and its last chunks, ``chunk-0012.npz``, or of several
processes ``chunks/chunk_12``. Files are written completely or not at all, and every one of them has the mark of its
run. Files damaged all the same, by a disk or by hand, are named in a warning and made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from fnn.core import _checks as checks
from fnn.core.types import Array, Batch, Trainer, TrainState
from fnn.training import _checks as training_checks
from fnn.training._chunks import chunks
from fnn.training._claims import Claim, identity_of_array, identity_of_program, identity_of_tree
from fnn.training._grids import Grid
from fnn.training._placement import placed
from fnn.training._processes import own_share, take_together, wait_for
from fnn.training._progress import progress_bar
from fnn.training.devices import Device
from fnn.training.fitting import Fitted, Plan, Run
from fnn.training.sweeps import run_rows
from fnn.training.trainers import train

if TYPE_CHECKING:
    from jax.extend.core import ClosedJaxpr


def resumable_sweep(
    folder: str | os.PathLike[str],
    experiment: Callable[..., Any],
    keys: Array,
    *,
    zipped: Mapping[str, Any] | None = None,
    pieces: int = 20,
    devices: Sequence[Device] | None = None,
    at_once: int | None = None,
    coordinates: bool = False,
    progress: bool | None = None,
    **hyper: Any,
) -> Any:
    """A `sweep` in pieces that are stored as they are finished: after Ctrl-C or a crash the same call resumes it.

    Every piece runs the same compiled program. The call recognises its sweep by the keys, the values and the program
    that JAX traces from the experiment, with all arrays in it; a folder of another sweep raises ValueError. A piece
    that is damaged, or not the one of its name, is computed again, with a warning. Files whose names begin with a dot,
    ``desktop.ini`` and ``Thumbs.db`` are ignored.

    With several processes each of them makes the call, computes its share of the missing pieces on its own devices,
    waits for the files of the others, and gets the whole result. Another number of processes may go on.

    Args:
        folder: the folder of the pieces, which all processes see; created if it does not exist.
        experiment: as in `sweep`.
        keys: as in `sweep`.
        zipped: as in `sweep`.
        pieces: number of pieces the rows are divided into; at most one per row.
        devices: as in `sweep`, but of this process.
        at_once: as in `sweep`.
        coordinates: as in `sweep`.
        progress: whether to show a progress bar with the time left, by rich; by default if rich is installed.
        **hyper: as in `sweep`.

    Returns:
        The result of `sweep`.

    Raises:
        TypeError, ValueError: as in `sweep`.
        ValueError: a folder with another sweep, or with foreign files; another sweep in another process; in every
            process, a folder that some process does not see.
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
    grid = Grid.of(experiment, keys, zipped, hyper)
    devices = training_checks.some_devices(jax.local_devices() if devices is None else devices)
    at_once = None if at_once is None else checks.count("at_once", at_once)
    length = -(-grid.size // checks.count("pieces", pieces))
    numbers = [np.arange(first, first + length) for first in range(0, grid.size, length)]
    rows = grid.rows(np.arange(length) % grid.size)
    traced, result = jax.make_jaxpr(grid.row, return_shape=True)(jax.tree.map(itemgetter(0), rows))
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((length, *leaf.shape), leaf.dtype), result)
    identity = _identity_of_sweep(grid, traced, result) | {"rows": grid.size, "pieces": len(numbers)}
    claim = Claim(Path(folder), "sweep", "piece", identity)
    take_together(claim)

    def piece(number: int) -> Any:
        found = claim.read(number, like, "is computed again")
        if found is None:
            rows = grid.rows(np.minimum(numbers[number], grid.size - 1))  # the last piece is filled up
            found = run_rows(grid, rows, devices, at_once)
            claim.store(number, found)
        return found

    with progress_bar(grid.size, progress if jax.process_index() == 0 else False) as show:
        for number in own_share(claim, len(numbers)):
            piece(number)
            show({}, min(grid.size, (number + 1) * length))
        wait_for(claim, len(numbers))
    found = [piece(number) for number in range(len(numbers))]
    whole = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: grid.size], *found)
    results = jax.tree.map(lambda leaf: leaf.reshape(*grid.shape, *leaf.shape[1:]), whole)
    return (results, grid.coordinates()) if coordinates else results


def resumable_fit(
    folder: str | os.PathLike[str],
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    steps: int,
    *,
    keep: int = 2,
    chunk: int = 500,
    validate: Callable[[TrainState], Array] | None = None,
    patience: int | None = None,
    on_chunk: Callable[[TrainState, dict[str, Any]], Any] | None = None,
    progress: bool | None = None,
) -> Fitted:
    """A `fit` that is stored after each chunk: after Ctrl-C, SIGTERM or a crash the same call resumes it.

    It ends with the same bits as a fit that was never interrupted: state, history, best state and patience. A run that
    has reached its end is returned as it is, unless `steps` or `patience` have grown. The call recognises its run by
    the first state, the data, the length of a chunk and the programs that JAX traces from the trainer and `validate`;
    a folder of another run raises ValueError. A damaged file is named in a warning, and the run resumes from the one
    before it; a damaged checkpoint of several processes raises ValueError in all, for they must resume from the same.

    With several processes each of them makes the call, with a state on the devices of all (`everywhere`) or divided
    among them, and a checkpoint of all is written by orbax (``pip install 'fnn[checkpoints]'``) while the next chunk is
    trained. Another number of processes may go on: with as many devices to the same bits as long as there are two, else
    to the rounding of sums.

    Args:
        folder: the folder of the run, which all processes see; created if it does not exist.
        trainer: as in `fit`.
        state: the state to start from, the same in every call.
        data: as in `fit`.
        steps: gradient steps to take in all, those of earlier calls included.
        keep: how many of the last chunks to keep on disk.
        chunk: as in `fit`; the steps that a crash can cost.
        validate: as in `fit`.
        patience: as in `fit`.
        on_chunk: as in `fit`, called for the chunks of this call, each after it is stored.
        progress: as in `fit`.

    Returns:
        The result of `fit`.

    Raises:
        TypeError, ValueError: as in `fit`.
        ValueError: a folder with another run, with foreign files, or with more than `steps` steps; in several
            processes, a state on the devices of one.
        ImportError: several processes without orbax.
        OSError: the folder cannot be written, such as on a full disk; the same call resumes when there is room.

    Example:
        >>> import jax, jax.numpy as jnp, tempfile
        >>> from fnn import linear, sgd, squared, trainer
        >>> data = jnp.ones((8, 1)), jnp.ones((8, 1))
        >>> learn = trainer(linear(1), squared, sgd(0.1), batch_size=4)
        >>> state = learn.init(jax.random.key(0), data)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for steps in (20, 60):
        ...         done = resumable_fit(folder, learn, state, data, steps, chunk=20, progress=False)
        ...         print(done.history["step"])
        [20]
        [20 40 60]
    """
    training_checks.on_all_processes("resumable_fit", state)
    plan = Plan.of("resumable_fit", trainer, state, data, steps, chunk, validate, patience, on_chunk)
    keep = checks.count("keep", keep)
    claim = Claim(Path(folder), "fit", "chunk", _identity_of_fit(plan, state))
    take_together(claim)

    with chunks(claim, keep) as stored:
        found = stored.last(partial(_like, plan, state))
        run = Run(state, state) if found is None else _as_run(found, state)
        if run.done > plan.steps:
            raise ValueError(
                f"resumable_fit: expected at most steps={plan.steps} steps in {folder}, got {run.done}. Pass "
                f"steps={run.done} or more, or use another folder."
            )
        return plan.run(run, progress, lambda run: stored.store(len(run.rows), _as_arrays(run)))


def _as_arrays(run: Run) -> dict[str, Any]:
    """A run as a pytree of arrays."""
    numbers = {"lowest": float(run.lowest), "waited": run.waited, "finite": run.finite, "done": run.done}
    numbers = {name: np.array(number) for name, number in numbers.items()}
    return {"state": run.state, "best": run.best, "history": run.columns(), **numbers}


def _as_run(found: dict[str, Any], state: TrainState) -> Run:
    """The run of `_as_arrays`, on the devices of a state."""
    numbers = {name: found[name].item() for name in ("lowest", "waited", "finite", "done")}
    history = found["history"]
    rows = tuple(jax.tree.map(itemgetter(at), history) for at in range(len(history["step"])))
    return Run(_placed_as(state, found["state"]), _placed_as(state, found["best"]), **numbers, rows=rows)


def _placed_as(state: TrainState, found: TrainState) -> TrainState:
    """A state on the devices of another, as far as those were chosen by the user."""
    if jax.process_count() > 1:
        return placed(found, jax.tree.map(lambda leaf: leaf.sharding, state))

    def at_leaf(leaf: Any, like: Any) -> Array:
        return jax.device_put(leaf, like.sharding) if getattr(like, "committed", False) else jnp.asarray(leaf)

    return jax.tree.map(at_leaf, found, state)


def _like(plan: Plan, state: TrainState, count: int) -> dict[str, Any]:
    """The structure, shapes, dtypes and shardings of `_as_arrays` after `count` chunks."""
    after, row = jax.eval_shape(partial(train, plan.trainer, steps=plan.chunk), state, plan.data)
    row |= {"step": jax.ShapeDtypeStruct((), np.int64)}
    if plan.measure is not None:
        row |= {"validation": jax.eval_shape(plan.measure, after)}
    history = jax.tree.map(lambda leaf: np.empty((count, *leaf.shape), leaf.dtype), row)
    after = jax.tree.map(_divided_as, after, state)
    return _as_arrays(Run(after, after)) | {"history": history}


def _divided_as(leaf: Any, like: Any) -> Any:
    """A shape with the sharding of an array, which the next chunk keeps."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(like, "sharding", None))


def _identity_of_sweep(grid: Grid, traced: ClosedJaxpr, result: Any) -> dict[str, Any]:
    """The identity of a sweep: a description, and hashes of the keys, the values, and the program with its arrays."""
    leaves = {keystr(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(result)}
    return {
        "keys": identity_of_array(grid.keys),
        "zipped": identity_of_tree(grid.zipped),
        "values": {name: identity_of_array(values) for name, values in grid.values.items()},
        "results": {name: f"{leaf.dtype} {list(leaf.shape)}" for name, leaf in leaves.items()},
        "experiment": identity_of_program(traced),
    }


def _identity_of_fit(plan: Plan, state: TrainState) -> dict[str, Any]:
    """The identity of a fit: hashes of its first state, its data, and its programs with their arrays."""
    validate = {"hash": "none"}
    if plan.measure is not None:
        validate = identity_of_program(jax.make_jaxpr(plan.measure)(state))
    return {
        "state": identity_of_tree(state),
        "data": identity_of_tree(plan.data),
        "chunk": plan.chunk,
        "trainer": identity_of_program(jax.make_jaxpr(plan.trainer.step)(state, plan.data)),
        "validate": validate,
    }
