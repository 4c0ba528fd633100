"""Checks shared by several training loops."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from fnn.core import _checks as checks
from fnn.core.types import Trainer


def data(sample: Any) -> int:
    """The number of examples of a sample, any pytree of arrays [ℓ, …], checked: ℓ ≥ 1 and, if concrete, no NaN.

    Memory-mapped arrays are not searched for NaN, which would read the whole file.
    """
    size = checks.examples("data", sample)
    for path, part in jax.tree.leaves_with_path(sample):
        name = checks.leaf_of_batch(path, sample)
        known = None if isinstance(part, np.memmap) else checks.concrete(part)
        if known is not None and jnp.issubdtype(known.dtype, jnp.inexact) and not np.isfinite(known).all():
            bad = int((~np.isfinite(known.reshape(size, -1)).all(1)).sum())
            raise ValueError(
                f"data: expected finite numbers, got NaN or infinity in {name} ({bad} of {size} examples). Clean or "
                "impute the data first."
            )
    return size


def steps(name: str, value: Any) -> int:
    """The checked number of steps, which a compiled program counts in int32."""
    whole = checks.count(name, value)
    if whole >= 2**31:
        raise ValueError(
            f"{name}: expected fewer than 2³¹ = {2**31} steps in one call, got {value!r}. Split them into several "
            "calls."
        )
    return whole


def divisor(name: str, value: Any, of: str, whole: int) -> int:
    """The checked count, which must divide another."""
    part = checks.count(name, value)
    if whole % part:
        raise ValueError(
            f"{name}: expected a number that divides {of}, got {name}={part} and {of}={whole}. Choose "
            f"{of}={max(part, whole - whole % part)}."
        )
    return part


def scalar(name: str, result: Any) -> None:
    """Raise ValueError unless a function's result, an array or the output of `jax.eval_shape`, is a scalar float."""
    if getattr(result, "shape", None) != () or not jnp.issubdtype(result.dtype, jnp.floating):
        raise ValueError(f"{name}: expected a function that returns a scalar float, got {result}. Return its mean.")


def reports_loss(where: str, metrics: Any) -> None:
    """Raise ValueError unless the metrics of a step contain the loss, which shows whether training diverged."""
    loss = metrics.get("loss") if isinstance(metrics, dict) else None
    if getattr(loss, "shape", None) != ():
        raise ValueError(
            f'{where}: expected a trainer whose metrics are a dict with the "loss" of a step as a scalar, got '
            f'{checks.shown(metrics)}. Return {{"loss": …}} from its step and update.'
        )


def some_devices(devices: Any) -> tuple[Any, ...]:
    """The devices to run on, at least one."""
    if not devices:
        raise ValueError(
            "devices: expected at least one device, got none. Leave the argument out to use all of this process."
        )
    return tuple(devices)


def devices_of_all_processes(ranks: list[int]) -> None:
    """Raise ValueError unless the devices of a sweep over several processes are those of all of them."""
    if len(ranks) != jax.process_count():
        raise ValueError(
            f"devices: expected devices of all {jax.process_count()} processes, or of this one alone, got those of "
            f"{', '.join(map(str, ranks))}. Leave devices out, or pass jax.local_devices()."
        )


def on_all_processes(where: str, state: Any) -> None:
    """Raise ValueError, in several processes, for arrays that are not on devices of all of them."""
    if jax.process_count() == 1:
        return
    for path, leaf in jax.tree.leaves_with_path(state):
        devices = leaf.sharding.device_set if isinstance(leaf, jax.Array) else ()
        if len({device.process_index for device in devices}) < jax.process_count():
            raise ValueError(
                f"{where}: expected a state on the devices of all {jax.process_count()} processes, got "
                f"{keystr(path, simple=True, separator='.')} on those of one. Pass fnn.training.everywhere(state, "
                "mesh)."
            )


def inside_a_trace() -> bool:
    """Whether JAX is tracing here, for `jit`, `vmap` or `grad`: even concrete values may then depend on tracers."""
    return _trace_state() != _top_level()


def _trace_state() -> Any:
    from jax.extend.core import get_opaque_trace_state  # here, for it costs as much as a package of fnn to import

    return get_opaque_trace_state("fnn")


@cache
def _top_level() -> Any:
    """The trace state outside of every trace, which is that of a new thread."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(_trace_state).result()


def outside_a_trace(where: str, instead: str) -> None:
    """Raise TypeError inside `jit`, `vmap` or `grad`, where a function that works on the host cannot run."""
    if inside_a_trace():
        raise TypeError(f"{where}: expected a call outside of jit, vmap and grad, got one inside. Use {instead} there.")


def is_trainer(where: str, value: Any) -> None:
    """Raise TypeError unless the first argument is a trainer; the state is the second."""
    if not isinstance(value, Trainer):
        raise TypeError(
            f"{where}: expected a Trainer as the first argument, got {type(value).__name__}. Make one by "
            f"trainer(net, loss, optimizer) and call {where}(trainer, state, data, …)."
        )
