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
backward), dropout masks, readings and metrics are those of the whole batch, up to the rounding of sums. Two devices
give the same bits in one process and in two; with three or more, the order of the sums depends on the processes.
`fnn.sweep` and `fnn.training.resumable_sweep` use all processes by default.

Under SLURM, Open MPI, Kubernetes and on TPU pods JAX finds the processes itself, and ``initialize()`` needs no
arguments, as in ``srun python train.py``. Elsewhere, as in two terminals of one machine, each process says who it is::

    jax.distributed.initialize("127.0.0.1:9999", num_processes=2, process_id=0)  # and 1 in the other

Every process must make every call; only printing and saving may be done by one (``jax.process_index() == 0``). Ctrl-C
and SIGTERM in one process end `fit` in all of them after the same chunk. If a process is killed, the heartbeat of
`jax.distributed` ends the others (after 100 s by default; ``heartbeat_timeout_seconds=10`` is enough for most), and the
scheduler starts them again: `resumable_sweep` goes on at the missing pieces and `resumable_fit` at the last chunk, with
any number of processes. Training keeps a sharding of the params along another axis of the mesh, as given to
``jax.jit(…, out_shardings=…)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fnn.core import _checks as checks
from fnn.core.types import Array, Batch
from fnn.data.sampling import Draw
from fnn.training._placement import placed, whole
from fnn.training._processes import same_everywhere
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
    return placed(jax.tree.map(whole, tree), NamedSharding(mesh, PartitionSpec()))


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
