"""Hyper-parameters, counts and tolerances."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state, take_current_trace


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where it is traced and cannot be looked at."""
    return None if isinstance(value, Tracer) else np.asarray(value)


def shown(value: Any) -> str:
    """The value as it prints, or its type where that would bury the message."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def number(name: str, value: Any, allowed: Callable[[Any], Any], expected: str) -> None:
    """A hyper-parameter is a scalar in its range; tracers are taken on trust, schedules are not."""
    if callable(value):
        raise TypeError(f"{name} must be {expected}, got a function; only a learning rate may be one")
    if isinstance(value, str) or hasattr(value, "_fields"):
        raise TypeError(f"{name} must be a number, {expected}, got {shown(value)}")
    if np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be one number, {expected}, got an array of shape {np.shape(value)}; "
            "to try several values, build the optimizer or network inside the function that jax.vmap "
            "or fnn.sweep maps"
        )
    known = concrete(value)
    if known is None:
        return
    if known.dtype == bool or not (np.issubdtype(known.dtype, np.number) or known.dtype.kind == "V"):
        raise TypeError(f"{name} must be a number, {expected}, got {shown(value)}")
    if not allowed(float(known)):
        raise ValueError(f"{name} must be {expected}, got {shown(value)}")


def fraction(name: str, value: Any) -> None:
    """A probability or decay in [0, 1)."""
    number(name, value, lambda v: 0 <= v < 1, "in [0, 1)")


def positive(name: str, value: Any) -> None:
    """A finite number above zero."""
    number(name, value, lambda v: 0 < v < np.inf, "a finite number > 0")


def not_negative(name: str, value: Any) -> None:
    """A finite number, zero allowed."""
    number(name, value, lambda v: 0 <= v < np.inf, "a finite number >= 0")


def finite(name: str, value: Any) -> None:
    """A finite number of either sign."""
    number(name, value, np.isfinite, "a finite number")


def rate(name: str, value: Any) -> None:
    """A learning rate: a number or tracer, or a schedule from the step to one."""
    if not callable(value):
        not_negative(name, value)


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, returned as an int."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {shown(value)}") from None
    if isinstance(value, bool) or whole < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {shown(value)}")
    return whole


def steps(name: str, value: Any) -> int:
    """A number of steps that one program counts in int32."""
    whole = count(name, value)
    if whole >= 2**31:
        raise ValueError(f"{name} must be below 2³¹ = {2**31} in one call, got {value!r}; go on in another call")
    return whole


def flag(name: str, value: Any) -> None:
    """Yes or no, and no number that may look like it."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")


def divisor(name: str, value: Any, of: str, whole: int) -> int:
    """A count that divides another."""
    part = count(name, value)
    if whole % part:
        raise ValueError(
            f"{name} must divide {of}, got {name}={part} and {of}={whole}; take {of}={whole - whole % part}"
        )
    return part


def stopping_rule(quality_tolerance: Any, weights_tolerance: Any, quality_floor: Any, either: Any) -> None:
    """At least one tolerance, and nothing that goes with one that is missing."""
    given = {"quality_tolerance": quality_tolerance, "weights_tolerance": weights_tolerance}
    if all(value is None for value in given.values()):
        raise ValueError(f"give {' or '.join(given)}, or both: without them nothing tells when to stop")
    for name, value in (*given.items(), ("quality_floor", quality_floor)):
        if value is not None:
            not_negative(name, value)
    flag("either", either)
    if either and None in given.values():
        raise ValueError(f"either=True expects {' and '.join(given)}, got one of them; give both, or leave it out")
    floor = concrete(quality_floor)
    if quality_tolerance is None and (floor is None or floor != 0):
        raise ValueError(f"quality_floor expects quality_tolerance beside it, got {quality_floor!r} alone; give both")


def patience(chunks: Any, validate: Any) -> None:
    """Patience waits for a validation value."""
    if chunks is None:
        return
    count("patience", chunks)
    if validate is None:
        raise ValueError("patience needs validate, a function (params, state) -> held-out loss, to wait for")


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
            f'{shown(metrics)}; let its step and update give {{"loss": …}}'
        )


def values(name: str, sequence: Any) -> Any:
    """The values of a hyper-parameter, as an array whose first axis is swept."""
    try:
        array = jnp.asarray(sequence)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be numbers to sweep over, got {shown(sequence)}; sweep over arrays only"
        ) from None
    if array.ndim == 0:
        raise ValueError(
            f"{name} must be a sequence of values to sweep over, got {sequence!r}; write {name}=[{sequence!r}], or fix "
            "it by functools.partial(experiment, ...)"
        )
    if array.shape[0] == 0:
        raise ValueError(f"{name} is empty: a sweep needs at least one value")
    exact = concrete(sequence) if concrete(array) is not None else None
    if (
        exact is not None
        and np.issubdtype(exact.dtype, np.floating)
        and np.any((exact != 1) & (np.asarray(array) == 1))
    ):
        raise ValueError(
            f"{name} expects values that {array.dtype} can tell from 1, got {shown(sequence)}; sweep them under "
            "jax.enable_x64(True)"
        )
    return array


def some_devices(devices: Any) -> tuple[Any, ...]:
    """Devices to run on, at least one."""
    if not devices:
        raise ValueError("devices is empty: a sweep needs at least one; leave it out for all of this process")
    return tuple(devices)


def sample_size(size: Any) -> int:
    """A number of objects that indices in int32 reach."""
    size = count("size", size)
    if size >= 2**31:
        raise ValueError(f"a draw expects a size below 2³¹ = {2**31}, got {size}; cut the sample into several")
    return size


def drawn(chosen: Any, batch_size: int, size: int) -> None:
    """What a drawing rule gave: so many indices, within the sample where they can be looked at."""
    expected = f"draw expects a rule that gives batch_size indices, integers [{batch_size}] in 0..{size - 1}"
    is_array = hasattr(chosen, "dtype")
    if not (is_array and np.shape(chosen) == (batch_size,) and jnp.issubdtype(chosen.dtype, jnp.integer)):
        got = f"{chosen.dtype} {list(np.shape(chosen))}" if is_array else type(chosen).__name__
        raise ValueError(f"{expected}, got {got}; change the rule, (key, step, size, batch_size) -> indices")
    known = concrete(chosen)
    if known is not None and known.size and not (known.min() >= 0 and known.max() < size):
        raise ValueError(f"{expected}, got indices {known.min()}..{known.max()}; keep them below `size`")


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


def batch_fits(batch_size: int, size: int) -> None:
    """A batch of different objects holds no more than there are."""
    if batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {size} objects of data; take batch_size <= {size}, "
            "or draw=with_replacement"
        )
