"""Training and sweeps over the devices of several processes, on JAX's own runtime.

`jax.distributed.initialize` starts the processes, `jax.sharding` divides the arrays, and XLA communicates. Here are
only a mesh along whose axes layers can compute, a checked placement, and a draw that is divided. Every process runs the
same program with the same seeds::

    jax.distributed.initialize()  # with the arguments that the cluster needs
    m = mesh()
    learn = trainer(net, loss, adam(0.01), batch_size=60, draw=divided(shuffled, m))
    state = everywhere(learn.init(key, data), m)
    state, metrics = train(learn, state, everywhere(data, m), steps=1000)

The batches are those of one process. Each device computes its share of a batch; gradients, batch norm (forward and
backward), dropout masks, readings and metrics are those of the whole batch, up to the rounding of sums. As many devices
in another number of processes give the same bits where one sum has two terms; three and more are added in an order of
the network's. `fnn.sweep` and `fnn.training.resumable_sweep` use all processes by themselves.

How processes find each other is JAX's affair: under SLURM, Open MPI, Kubernetes and on TPU pods ``initialize()`` needs
no arguments, as in ``srun python train.py``; elsewhere, as in two terminals of one machine, each says who it is::

    jax.distributed.initialize("127.0.0.1:9999", num_processes=2, process_id=0)  # and 1 in the other

Every process makes every call; only printing and saving may be one's alone (``jax.process_index() == 0``). Ctrl-C and
SIGTERM in one process end `fit` in all of them after the same chunk. A process that is killed takes the others along
within the heartbeat of `jax.distributed`; the scheduler starts them again, and `resumable_sweep` goes on. A sharding of
the params along another axis of the mesh, given to ``jax.jit(…, out_shardings=…)``, is kept by training as well:
BackProp by hand is products that XLA divides.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fnn.core import _checks as checks
from fnn.core._trees import is_key
from fnn.core.types import Array, Batch
from fnn.data.sampling import Draw
from fnn.training._claims import Claim, hash_of, identity_of_tree
from fnn.training._signals import Ending
from fnn.training.devices import Device


def mesh(devices: Sequence[Device] | None = None, **axes: int) -> Mesh:
    """The devices of all processes as a mesh, by default along one axis, "data".

    Args:
        devices: the devices, by default all of all processes.
        **axes: the sizes of named axes, whose product is the number of devices: ``mesh(data=4, model=2)``.

    Returns:
        A mesh with axes of type Auto: those of `jax.make_mesh` are Explicit, along which a product such as xᵀε of two
        sharded arrays is an error.

    Raises:
        ValueError: axes whose product is another number.

    Example:
        >>> import jax
        >>> dict(mesh(jax.devices()[:1]).shape)
        {'data': 1}
    """
    found = jax.devices() if devices is None else list(devices)
    sizes = axes or {"data": len(found)}
    counts = [checks.count(name, size) for name, size in sizes.items()]
    if math.prod(counts) != len(found):
        raise ValueError(
            f"mesh: expected axes whose product is the number of devices, {len(found)}, got {sizes}. Choose others, or "
            "pass some of the devices."
        )
    return Mesh(np.array(found, object).reshape(counts), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """A pytree on every device of a mesh, checked to be the same in all processes.

    Args:
        tree: a pytree of arrays: a `TrainState`, data.
        mesh: a mesh of the devices of all processes.

    Raises:
        ValueError: in every process, a tree that is another one in some process, as from other seeds or other data. JAX
            itself would take the first process's word for it, and every process would train something else.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> everywhere({"w": jnp.ones(3)}, mesh(jax.devices()[:1]))["w"].tolist()
        [1.0, 1.0, 1.0]
    """
    _of_auto_axes("everywhere", mesh)
    same_everywhere("everywhere: the tree", tree)
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda tree: tree, out_shardings=whole)(jax.tree.map(_off_devices, _local(tree)))


def divided(draw: Draw, mesh: Mesh, axis: str = "data") -> Draw:
    """A drawing rule whose batches are divided over the devices along an axis; the examples are the same.

    Args:
        draw: a rule such as `shuffled`; it may return weights.
        mesh: a mesh.
        axis: its axis to divide a batch along. A batch_size that is no multiple of its size is right too, but some
            devices then wait.

    Returns:
        A rule for ``trainer(…, draw=…)``.

    Raises:
        ValueError: a mesh without the axis, or with axes that are not of type Auto.

    Example:
        >>> import jax
        >>> from fnn import shuffled
        >>> draw = divided(shuffled, mesh(jax.devices()[:1]))
        >>> bool((draw(jax.random.key(0), 3, 10, 2) == shuffled(jax.random.key(0), 3, 10, 2)).all())
        True
    """
    checks.is_function("draw", draw)
    along = _along("divided", mesh, axis)

    def divide(key: Array, step: Any, size: int, batch_size: int) -> Any:
        return jax.lax.with_sharding_constraint(draw(key, step, size, batch_size), along)

    return divide


def own_rows(batch_size: int, mesh: Mesh, axis: str = "data") -> slice:
    """The rows of a batch that this process computes, and so has to read: a slice of 0 … batch_size.

    Raises:
        ValueError: a batch_size that is no multiple of the axis's size, or devices whose rows are not neighbours.
    """
    along = _along("own_rows", mesh, axis)
    batch_size = checks.count("batch_size", batch_size)
    if batch_size % mesh.shape[axis]:
        near = batch_size - batch_size % mesh.shape[axis] or mesh.shape[axis]
        raise ValueError(
            f"own_rows: expected a batch_size that is a multiple of the {mesh.shape[axis]} devices on axis {axis!r}, "
            f"got {batch_size}. Take {near}."
        )
    slices = along.addressable_devices_indices_map((batch_size,)).values()
    rows = np.unique(np.concatenate([np.arange(batch_size)[cut[0]] for cut in slices if cut is not None]))
    if len(rows) != rows[-1] - rows[0] + 1:
        raise ValueError(
            "own_rows: expected devices of one process side by side along the axis, got others between them. Make the "
            "mesh by fnn.training.mesh."
        )
    return slice(int(rows[0]), int(rows[-1]) + 1)


def global_batch(rows: Batch, mesh: Mesh, axis: str = "data") -> Batch:
    """A batch of all processes from the rows of each, for ``trainer.update`` and `learn_online`.

    Args:
        rows: a pytree of arrays, the rows `own_rows` of this process.
        mesh: a mesh.
        axis: its axis along which the batch is divided.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> global_batch((jnp.ones((4, 2)), jnp.ones(4)), mesh(jax.devices()[:1]))[0].shape
        (4, 2)
    """
    along = _along("global_batch", mesh, axis)
    checks.examples("global_batch", rows)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(along, np.asarray(leaf)), rows)


def same_everywhere(what: str, tree: Any) -> None:
    """Raise ValueError, in every process, unless a pytree is the same in all processes.

    One hash is exchanged; only if it differs, those of all leaves are, to name the first that does.
    """
    if jax.process_count() == 1:
        return
    names = {**identity_of_tree(_local(tree))}
    hashes = np.stack([hash_of(f"{name} {identity}".encode()) for name, identity in names.items()] or [hash_of(b"")])
    whole = _of_all(hash_of(hashes.tobytes()))
    if (whole == whole[:1]).all():
        return
    others = sorted({rank for rank in range(len(whole)) if not (whole[rank] == whole[0]).all()})
    structures = _of_all(hash_of(" ".join(names).encode()))
    which = "its structure"
    if (structures == structures[:1]).all():
        each = _of_all(hashes)
        which = list(names)[int(np.argmax((each != each[:1]).any(axis=(0, 2))))] or "the array"
    raise ValueError(
        f"{what}: expected the same in all {len(whole)} processes, got others in {_listed(others)} than in process 0 "
        f"({which} differs). Make it from the same seed and the same data in every process."
    )


def _local(tree: Any) -> Any:
    """The tree with this process's copies of arrays that are whole on every device."""

    def at_leaf(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf.addressable_data(0)
        return leaf

    return jax.tree.map(at_leaf, tree)


def _off_devices(leaf: Any) -> Any:
    """An array that is bound to no device."""
    if is_key(leaf):
        words: Any = np.asarray(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    return np.asarray(leaf)


def _of_all(plain: np.ndarray) -> np.ndarray:
    """The array of each process, [processes, …]."""
    from jax.experimental.multihost_utils import process_allgather  # here, for few need it

    return np.asarray(process_allgather(plain))


def gathered_rows(results: Any, numbers: dict[int, np.ndarray], count: int) -> Any:
    """All rows of results, each leaf [count, …], of which process p has those with numbers[p]."""
    most = max(len(rows) for rows in numbers.values())
    order = np.argsort(np.concatenate(list(numbers.values())), kind="stable")[:count]

    def at_leaf(leaf: Array) -> Array:
        is_keys = is_key(leaf)
        plain = np.asarray(jax.random.key_data(leaf) if is_keys else leaf)
        if plain.size:
            raw = np.ascontiguousarray(plain).reshape(len(plain), -1).view(np.uint8)
            filled = np.concatenate([raw, np.zeros((most - len(raw), raw.shape[1]), np.uint8)])
            parts = [rows[: len(numbers[rank])] for rank, rows in zip(numbers, _of_all(filled), strict=True)]
            raw = np.ascontiguousarray(np.concatenate(parts)[order])
            plain = raw.view(plain.dtype).reshape(count, *plain.shape[1:])
        else:
            plain = np.zeros((count, *plain.shape[1:]), plain.dtype)
        array = jnp.asarray(plain)
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf)) if is_keys else array

    return jax.tree.map(at_leaf, results)


def take_together(claim: Claim) -> None:
    """Take a folder in all processes: the first claims it, the others check that they see the claim.

    Raises:
        ValueError, OSError: in every process, what is wrong in one of them.
    """
    if jax.process_count() == 1:
        return claim.take()
    same_everywhere(f"resumable_{claim.kind}", np.frombuffer(claim.note, np.uint8))
    _together(lambda: claim.take() if jax.process_index() == 0 else None)
    return _together(lambda: _seen(claim))


def _seen(claim: Claim) -> None:
    """Raise ValueError unless the folder has the note that the first process has written."""
    note = claim.folder / f"{claim.kind}.json"
    if not note.exists():
        raise ValueError(f"expected {note}, which process 0 sees, got none. Use a folder that all processes see.")
    claim.take()


def _together(action: Callable[[], None]) -> None:
    """Do something in every process, and raise in all what is raised in one."""
    error = None
    try:
        action()
    except (ValueError, OSError) as caught:
        error = caught
    text = np.frombuffer(str(error or "").encode()[:_LONGEST].ljust(_LONGEST, b"\0"), np.uint8)
    said = {rank: row.tobytes().rstrip(b"\0").decode(errors="replace") for rank, row in enumerate(_of_all(text))}
    if error is not None:
        raise error
    for rank, message in said.items():
        if message:
            raise ValueError(f"process {rank}: {message}")


_LONGEST = 2000
"""bytes of a message"""


def own_share(claim: Claim, count: int) -> list[int]:
    """The numbers, of 0 … count, of the files that this process makes: those missing to the first, in turn."""
    if jax.process_count() == 1:
        return list(range(count))
    is_there = np.isin(np.arange(count), claim.numbers()) if jax.process_index() == 0 else np.zeros(count, bool)
    missing = np.flatnonzero(~_of_all(is_there)[0])
    return missing[jax.process_index() :: jax.process_count()].tolist()


def wait_for(claim: Claim, count: int, seconds: float = 0.2) -> None:
    """Wait until all files are there: a collective would give up after half an hour.

    If a process ends before, the heartbeat of `jax.distributed` ends this one too.
    """
    while jax.process_count() > 1 and len(claim.numbers()) < count:
        time.sleep(seconds)


def agreed_end(ending: Ending) -> str:
    """The reason for which a run ends here, in every process that of any; empty if it goes on.

    JAX agrees on the end after a SIGTERM by the numbers of the looks, which must be consecutive in every process.
    """
    if jax.process_count() == 1:
        return ending.stopped
    from jax.experimental.multihost_utils import reached_preemption_sync_point

    is_preempted = reached_preemption_sync_point(next(_LOOKS))
    is_interrupted = any(number == signal.SIGINT for number, _ in ending.pending)
    reasons = ("", "on_chunk", "interrupted", "preempted")
    own = max(reasons.index(ending.stopped), 2 * is_interrupted, 3 * is_preempted)
    return reasons[int(_of_all(np.array(own)).max())]


_LOOKS = count()


def _along(where: str, mesh: Mesh, axis: str) -> NamedSharding:
    """The sharding of a first axis along an axis of the mesh, checked."""
    _of_auto_axes(where, mesh)
    if axis not in mesh.shape:
        raise ValueError(
            f"{where}: expected an axis of the mesh, one of {list(mesh.shape)}, got {axis!r}. Name one of them."
        )
    return NamedSharding(mesh, PartitionSpec(axis))


def _of_auto_axes(where: str, mesh: Any) -> None:
    """Raise unless the mesh is one along whose axes layers can compute."""
    if not isinstance(mesh, Mesh):
        raise TypeError(f"{where}: expected a mesh, got {checks.shown(mesh)}. Make one by fnn.training.mesh().")
    strange = [name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind is not AxisType.Auto]
    if strange:
        raise ValueError(
            f"{where}: expected axes of type Auto, got axis {strange[0]!r} of another (jax.make_mesh makes Explicit "
            "ones). Make the mesh by fnn.training.mesh()."
        )


def _listed(ranks: Sequence[int]) -> str:
    return f"process {ranks[0]}" if len(ranks) == 1 else f"processes {', '.join(map(str, ranks))}"
