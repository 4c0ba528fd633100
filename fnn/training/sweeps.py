"""Experiments over seeds and hyper-parameters as one compiled program on all devices.

The runs of a sweep, one for each key and combination of values, are its rows. They are distributed over the devices in
equal shares (`jax.shard_map`; no device waits for another), and each device works through its share in chunks of rows,
by `jax.vmap` within a chunk. On a CPU every core is a device after `fnn.use_cores`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from fnn.core import _checks as checks
from fnn.core.types import Array
from fnn.training import _checks as training_checks
from fnn.training._grids import Grid, Rows
from fnn.training._processes import gathered_rows, same_everywhere
from fnn.training.devices import Device

if TYPE_CHECKING:  # where they are used, for jax.extend costs as much as a package of fnn to import
    from jax.extend.core import ClosedJaxpr, Jaxpr

_CACHE = 2**21  # bytes that the rows of a chunk may carry on a CPU; beyond it, steps are bound by memory

_SHARE_OF_MEMORY = 0.5


def sweep(
    experiment: Callable[..., Any],
    keys: Array,
    *,
    zipped: Mapping[str, Any] | None = None,
    devices: Sequence[Device] | None = None,
    at_once: int | None = None,
    coordinates: bool = False,
    **hyper: Any,
) -> Any:
    """The experiment for every key and every combination of hyper-parameters, in one compiled call.

    Inside the experiment the hyper-parameters are tracers: build the optimizer, or a layer with a rate, there. New keys
    and values in the same numbers do not compile again as long as `experiment` is the same function. With traced keys
    or values, inside `jit` or `vmap`, the sweep becomes part of that program, on its device.

    Args:
        experiment: a pure function ``(key, **zipped, **hyper) -> pytree of arrays``.
        keys: a stack of keys, one per run: ``jax.random.split(key, 32)``.
        zipped: further arguments by name, pytrees of arrays whose first axis goes along with the keys: run i gets the
            i-th key and the i-th row of every leaf. So the results of one sweep, such as their states, go into the
            next. Every combination of hyper-parameters copies these rows: of a large sample, zip the indices of the
            examples rather than the examples.
        devices: the devices to run on; by default those of all processes, see `use_cores` for a CPU. With several
            processes, each of them calls `sweep`, computes the rows of its own devices, and gets all results.
        at_once: rows that a device runs at a time. By default, on a CPU the largest number whose loop carries fit in
            the caches of a core, on accelerators the device's whole share; fewer if the compiled program would need
            more than half of the memory. A run that ends early, as in `train_until_stable`, waits only for the others
            of its chunk. Keys of another generator than JAX's default threefry ("rbg") draw different numbers under
            `jax.vmap` than without it: an experiment with such keys runs one row at a time, whatever `at_once` is.
        coordinates: whether to return the coordinates of the leading axes with the results, for `tidy`.
        **hyper: the values of each hyper-parameter, a sequence or array whose first axis is swept. They are as exact
            as their dtype: of a decay next to 1, float32 keeps few digits of 1 − γ, and `jax.enable_x64` keeps all.

    Returns:
        The experiment's results with leading axes [keys, values of the first hyper-parameter, …of the second, …], on
        the first device. A row equals the experiment run with its key and values only, up to the rounding of batched
        products, as the compiler may sum in another order. With ``coordinates=True`` a pair of the results and a dict
        of arrays, the numbers of the keys as "run" and the values of each hyper-parameter by its name.

    Raises:
        TypeError: keys or values that are not arrays.
        ValueError: no keys, a scalar or an empty sequence of values, no devices, at_once < 1; zipped arrays without a
            row for each key.
        FloatingPointError: under `jax_debug_nans` or `jax_debug_infs`, naming the operation that gave the first NaN or
            infinity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def experiment(key, eta, gamma):
        ...     return eta * 10 + gamma + 0 * jax.random.normal(key)
        >>> sweep(experiment, jax.random.split(jax.random.key(0), 4), eta=[1.0, 2.0, 3.0], gamma=[0.0, 0.9]).shape
        (4, 3, 2)
        >>> again = lambda key, before: before + 1
        >>> sweep(again, jax.random.split(jax.random.key(0), 3), zipped={"before": jnp.arange(3)}).tolist()
        [1, 2, 3]
    """
    grid = Grid.of(experiment, keys, zipped, hyper)
    at_once = None if at_once is None else checks.count("at_once", at_once)
    devices = training_checks.some_devices(jax.devices() if devices is None else devices)
    rows = grid.rows(np.arange(grid.size))
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(rows)):
        row = jax.make_jaxpr(grid.row)(jax.tree.map(itemgetter(0), rows))
        results = jax.lax.map(
            grid.row, rows, batch_size=None if _needs_single_rows(row.jaxpr) else at_once or grid.size
        )
    elif all(device.process_index == jax.process_index() for device in devices):
        results = jax.tree.map(partial(_on_device, devices[0]), run_rows(grid, rows, devices, at_once))
    else:
        results = _over_processes(grid, devices, at_once)
    results = jax.tree.map(lambda leaf: leaf.reshape(*grid.shape, *leaf.shape[1:]), results)
    return (results, grid.coordinates()) if coordinates else results


def _over_processes(grid: Grid, devices: tuple[Device, ...], at_once: int | None) -> Any:
    """The results of all rows in every process, each of which computes the rows of its own devices.

    Every device has the same share of rows as if all were devices of one process, so that the bits are the same; no
    process waits for another before the end.
    """
    ranks = sorted({device.process_index for device in devices})
    training_checks.devices_of_all_processes(ranks)
    same_everywhere("sweep: keys and values", (grid.keys, grid.zipped, grid.values))
    share = -(-grid.size // len(devices))
    numbers = {
        rank: np.concatenate(
            [np.arange(i * share, (i + 1) * share) for i, d in enumerate(devices) if d.process_index == rank]
        )
        for rank in ranks
    }
    own = tuple(device for device in devices if device.process_index == jax.process_index())
    rows = grid.rows(np.minimum(numbers[jax.process_index()], grid.size - 1))
    results = gathered_rows(run_rows(grid, rows, own, at_once), numbers, grid.size)
    return jax.tree.map(partial(_on_device, own[0]), results)


def run_rows(grid: Grid, rows: Rows, devices: tuple[Device, ...], at_once: int | None) -> Any:
    """The results of the rows, each leaf [rows, …], from the program compiled for their number."""
    leaves, structure = jax.tree.flatten(rows)
    count = rows[0].shape[0]
    share = -(-count // len(devices))
    kinds = tuple((leaf.shape[1:], leaf.dtype) for leaf in leaves)
    program = _program(grid.experiment, structure, kinds, share, devices, at_once, _context())
    filled = np.minimum(np.arange(program.rows), count - 1)
    try:
        results = program.call(jax.device_put([leaf[filled] for leaf in leaves], program.sharding))
    except Exception:
        if jax.config.values["jax_debug_nans"] or jax.config.values["jax_debug_infs"]:
            _run_one_by_one(grid, rows)
        raise
    return jax.tree.map(lambda leaf: leaf[:count], results)


def _run_one_by_one(grid: Grid, rows: Rows) -> None:
    """Run every row separately: a compiled sweep only detects a NaN, while `jit` also names the operation."""
    run = jax.jit(grid.row)
    for number in range(rows[0].shape[0]):
        run(jax.tree.map(itemgetter(number), rows))


def _on_device(device: Device, array: Array) -> Array:
    """The array on one device and on no mesh: its own mesh would clash with that of an enclosing sweep."""
    array = jax.device_put(array, device)
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        return array
    shards = [shard.data for shard in array.addressable_shards]
    return jax.make_array_from_single_device_arrays(array.shape, SingleDeviceSharding(device), shards)


def _context() -> tuple[Any, ...]:
    """JAX's whole configuration in this thread, on which a compiled program may depend."""
    return *jax.config.values.items(), jax.sharding.get_abstract_mesh()


class _Program(NamedTuple):
    """A compiled sweep."""

    call: Any
    """the compiled function from the leaves of the rows, each [rows, …], to the results"""
    rows: int
    """the number of rows it takes, including those that only fill up the last chunks"""
    sharding: NamedSharding


@lru_cache(maxsize=64)
def _program(
    experiment: Callable[..., Any],
    structure: Any,
    kinds: tuple[tuple[tuple[int, ...], Any], ...],
    share: int,
    devices: tuple[Device, ...],
    at_once: int | None,
    context: tuple[Any, ...],
) -> _Program:
    """The program for `share` rows on each device, cached for each configuration of JAX (`context`)."""
    mesh = Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("rows"))
    row = Grid(experiment, jnp.zeros(0), {}, {}).row
    given = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(*kind) for kind in kinds])
    traced, results = jax.make_jaxpr(row, return_shape=True)(given)
    _closes_over_no_tracer(traced.consts)
    traced = traced.replace(consts=[_off_mesh(constant, devices[0]) for constant in traced.consts])
    compiled = partial(_compiled, traced, jax.tree.structure(results), kinds, share, sharding)
    if _needs_single_rows(traced.jaxpr):
        return compiled(None)
    if at_once is not None:
        return compiled(at_once)
    at_once = _fits_caches(traced.jaxpr) if devices[0].platform == "cpu" else share
    program = compiled(at_once)
    needed = getattr(program.call.memory_analysis(), "temp_size_in_bytes", 0)
    room = _room(devices[0], len(devices))
    if needed > room:
        return compiled(max(1, int(at_once * room / needed)))
    return program


def _compiled(
    row: ClosedJaxpr, results: Any, kinds: tuple[Any, ...], share: int, sharding: NamedSharding, at_once: int | None
) -> _Program:
    """The program for `share` rows on each device, at most `at_once` at a time, in chunks of equal size.

    With None it runs them one by one, without `jax.vmap`.
    """
    from jax.extend.core import jaxpr_as_fun

    chunks = -(-share // (at_once or 1))
    size = -(-share // chunks)
    of_row = jaxpr_as_fun(row)
    of_rows = jax.vmap(of_row)

    def on_one_device(*rows: Array) -> list[Array]:
        if at_once is None:
            return jax.lax.map(lambda row: of_row(*row), rows)
        if chunks == 1:
            return of_rows(*rows)
        cut = tuple(axis.reshape(chunks, size, *axis.shape[1:]) for axis in rows)
        return [leaf.reshape(-1, *leaf.shape[2:]) for leaf in jax.lax.map(lambda chunk: of_rows(*chunk), cut)]

    def on_all(rows: list[Array]) -> Any:
        along = sharding.spec
        shared = jax.shard_map(on_one_device, mesh=sharding.mesh, in_specs=along, out_specs=along, check_vma=False)
        return jax.tree.unflatten(results, shared(*rows))

    total = sharding.num_devices * chunks * size
    like = [jax.ShapeDtypeStruct((total, *shape), dtype, sharding=sharding) for shape, dtype in kinds]
    return _Program(jax.jit(on_all).lower(like).compile(), total, sharding)


def _off_mesh(constant: Any, device: Device) -> Any:
    """A constant that the experiment closes over, taken off its mesh."""
    is_whole_array = isinstance(constant, jax.Array) and constant.is_fully_addressable
    return _on_device(device, constant) if is_whole_array else constant


def _needs_single_rows(program: Jaxpr) -> bool:
    """Whether the program has keys that draw different numbers under `jax.vmap`: any but threefry's."""
    threefry = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32")).dtype
    variables: list[Any] = [*program.invars, *program.constvars, *(v for eqn in program.eqns for v in eqn.outvars)]
    dtypes = {v.aval.dtype for v in variables if hasattr(v.aval, "dtype")} - {threefry}
    is_another = any(jnp.issubdtype(dtype, jax.dtypes.prng_key) for dtype in dtypes)
    return is_another or any(map(_needs_single_rows, _inner(program)))


def _fits_caches(row: Jaxpr) -> int:
    """The largest number of rows (≤ 64) whose loop carries fit in the caches of one core."""
    return max(1, min(64, _CACHE // max(_carried(row), 1)))


def _carried(program: Jaxpr) -> int:
    """Bytes of the largest loop carry of a program."""
    loops = [eqn for eqn in program.eqns if eqn.primitive.name in ("scan", "while")]
    here = [sum(aval.size * aval.dtype.itemsize for aval in carries(eqn)) for eqn in loops]
    return max([0, *here, *map(_carried, _inner(program))])


def carries(loop: Any) -> list[Any]:
    """The shapes and dtypes that a `scan` or a `while` carries from step to step, and gives back at its end.

    The other results of a scan are rows of what its body gives, so that they have an axis more.
    """
    results = [v.aval for v in loop.outvars]
    if loop.primitive.name == "while":
        return results
    return [
        aval
        for aval, of_body in zip(results, loop.params["jaxpr"].out_avals, strict=True)
        if aval.shape == of_body.shape
    ]


def _inner(program: Jaxpr) -> Iterable[Jaxpr]:
    """The programs inside a program: the bodies of its loops, branches and calls."""
    from jax.extend.core import subjaxprs

    return subjaxprs(program)


def _room(device: Device, devices: int) -> float:
    """Bytes available for the temporary arrays of one device."""
    known = device.memory_stats()
    if known is not None and "bytes_limit" in known:
        return _SHARE_OF_MEMORY * known["bytes_limit"]
    try:
        return _SHARE_OF_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / devices
    except (AttributeError, ValueError, OSError):  # systems that do not report it
        return float("inf")


def _closes_over_no_tracer(constants: Sequence[Any]) -> None:
    """Raise TypeError if the experiment closes over a tracer of an enclosing `vmap` or `grad`."""
    if any(isinstance(constant, Tracer) for constant in constants):
        raise TypeError(
            "sweep: expected an experiment that closes over concrete arrays, got one that closes over a traced value. "
            "Wrap the traced function in jax.jit, as in jax.vmap(jax.jit(...)), or pass the value as a hyper-parameter."
        )
