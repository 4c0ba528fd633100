"""Checks that several training loops share."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state, take_current_trace

from fnn.core import _checks as checks
from fnn.core.types import Trainer


def data(x: Any, y: Any) -> int:
    """A sample (x, y) of equally many examples, not empty and, where it can be seen, free of NaN.

    Memory-mapped arrays are not searched for NaN, which would read all of the file.
    """
    for name, part in (("x", x), ("y", y)):
        if not hasattr(part, "shape") or not part.shape:
            raise TypeError(f"data must be (x, y), two arrays, got {type(part).__name__} for {name}")
    size = x.shape[0]
    if size == 0:
        raise ValueError("data is empty: x has 0 examples; at least one is needed")
    if y.shape[0] != size:
        raise ValueError(f"data has {size} examples in x and {y.shape[0]} targets in y; they must pair")
    for name, part in (("x", x), ("y", y)):
        known = None if isinstance(part, np.memmap) else checks.concrete(part)
        if known is not None and jnp.issubdtype(known.dtype, jnp.inexact) and not np.isfinite(known).all():
            bad = int((~np.isfinite(known.reshape(size, -1)).all(1)).sum())
            raise ValueError(f"data has NaN or infinity in {name} ({bad} of {size} examples); clean or impute first")
    return size


def steps(name: str, value: Any) -> int:
    """A number of steps that one program counts in int32."""
    whole = checks.count(name, value)
    if whole >= 2**31:
        raise ValueError(f"{name} must be below 2³¹ = {2**31} in one call, got {value!r}; go on in another call")
    return whole


def divisor(name: str, value: Any, of: str, whole: int) -> int:
    """A count that divides another."""
    part = checks.count(name, value)
    if whole % part:
        raise ValueError(
            f"{name} must divide {of}, got {name}={part} and {of}={whole}; take {of}={whole - whole % part}"
        )
    return part


def scalar(name: str, result: Any) -> None:
    """A function's result that is a single float, as `jax.eval_shape` tells."""
    if getattr(result, "shape", None) != () or not jnp.issubdtype(result.dtype, jnp.floating):
        raise ValueError(f"{name} must give a scalar float, got {result}; take its mean, as one float")


def tells_loss(where: str, metrics: Any) -> None:
    """The metrics of a step, with a loss that tells whether training diverged."""
    loss = metrics.get("loss") if isinstance(metrics, dict) else None
    if getattr(loss, "shape", None) != ():
        raise ValueError(
            f'{where} expects a trainer whose metrics are a dict with the "loss" of a step, one number, got '
            f'{checks.shown(metrics)}; let its step and update give {{"loss": …}}'
        )


def some_devices(devices: Any) -> tuple[Any, ...]:
    """Devices to run on, at least one."""
    if not devices:
        raise ValueError("devices is empty: a sweep needs at least one; leave it out for all of this process")
    return tuple(devices)


def inside_a_trace() -> bool:
    """Whether JAX is tracing here, for `jit`, `vmap` or `grad`: even what is concrete may then belong to tracers."""
    here = get_opaque_trace_state("fnn")
    with take_current_trace():
        outside = get_opaque_trace_state("fnn")
    return here != outside


def outside_a_trace(where: str, instead: str) -> None:
    """What works from the host cannot stand inside `jit`, `vmap` or `grad`."""
    if inside_a_trace():
        raise TypeError(f"{where} works from the host, outside of jit, vmap and grad; take {instead} inside them")


def is_trainer(where: str, value: Any) -> None:
    """A trainer, which comes first and the state second."""
    if not isinstance(value, Trainer):
        raise TypeError(
            f"{where} expects a Trainer as its first argument, got {type(value).__name__}; make one by "
            f"trainer(net, loss, optimizer) and call {where}(trainer, state, data, …)"
        )


def makes_steps(where: str, optimizer: Any) -> None:
    """An optimizer, and no transform alone, whose updates are gradients still: added to the weights, they climb."""
    checks.is_optimizer(where, optimizer)
    takes, steps = checks.role(optimizer)
    if takes and not steps:
        raise ValueError(
            f"{where} expects an optimizer that makes steps, got {optimizer}, whose updates are gradients still and "
            f"would climb; put one behind it: chain({optimizer}, sgd(0.1))"
        )
