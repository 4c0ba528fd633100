"""Arithmetic shared by the optimizers: leaf-by-leaf equations, averages, and rates.

Averages and equations are computed in float32 at least: in bfloat16, 0.999 rounds to 1 and an average with α = 0.999
would never forget. Updates are returned in the gradient's dtype, so parameters keep theirs. In float32 itself, 1 − 1e-8
rounds to 1, so a decay that is a number (not a tracer) is split into parts that float32 can represent.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnn.core import _checks as checks
from fnn.core._numerics import narrow, not_flushed, safe_sqrt, wide
from fnn.core.types import Array, Optimizer, Params, Rate
from fnn.optimizers import _checks as optimizers_checks


def from_equations(
    label: str,
    kind: Any,
    equations: Callable[[Any, Any], tuple[Any, Any]],
    init: Callable[[Params], Any] | None = None,
) -> Optimizer:
    """An optimizer from its equations ``(g, state) -> (step, state)``, computed in float32 at least.

    Args:
        label: how it prints.
        kind: the NamedTuple of its state: the step counter k first, then averages, which start at 0.
        equations: the slide's lines; the step includes the minus sign.
        init: the initial state, if it is not k = 0 and averages of 0.
    """

    def start(params: Params) -> Any:
        checks.floats(f"{label}.init", "params", params)
        averages = (zeros(params) for _ in kind._fields[1:])
        return init(params) if init is not None else kind(counter(), *averages)

    def update(gradient: Params, state: Any, params: Params = None) -> tuple[Any, Any]:
        checks.floats(f"{label}.update", "gradient", gradient)
        optimizers_checks.is_state(f"{label}.update", state, kind)
        if len(state) > 1:
            checks.same_structure(f"{label}.update", "gradient", gradient, "state", state[1])
        step, state = equations(wide(gradient), state)
        return narrow(step, gradient), state

    return Optimizer(init=start, update=update, label=label, takes="all", steps="all")


def each(equation: Callable[..., Array], *trees: Any, **scalars: Any) -> Any:
    """The equation applied at every leaf, with its scalars (numbers or tracers) in the leaf's dtype."""

    def at_leaf(*leaves: Array) -> Array:
        return equation(*leaves, **{name: jnp.asarray(s, leaves[0].dtype) for name, s in scalars.items()})

    return jax.tree.map(at_leaf, *trees)


def zeros(params: Params) -> Any:
    """The initial value of an average."""
    return jax.tree.map(jnp.zeros_like, wide(params))


def average(decay: Any, old: Any, new: Any) -> Any:
    """The exponential moving average, decay·old + (1 − decay)·new, over about 1/(1 − decay) steps.

    A decay that is a number is used in double precision: 1 − decay is rounded once, and the error of rounding the
    decay down to the dtype of the leaves is added as a separate term.
    """
    if isinstance(decay, Tracer):
        return each(lambda m, g, decay: decay * m + (1 - decay) * g, old, new, decay=decay)

    def at_leaf(m: Array, g: Array) -> Array:
        held, lost = _halves(float(decay), m.dtype)
        fresh = jnp.asarray(1 - float(decay), m.dtype) * g
        return held * m + (fresh + lost * m if lost else fresh)

    return jax.tree.map(at_leaf, old, new)


def _halves(decay: float, dtype: Any) -> tuple[Any, Any]:
    """A decay as the sum of two numbers of the dtype, both ≥ 0, so that an infinite average stays infinite."""
    kind = np.dtype(dtype).type
    held = kind(decay)
    held = held if float(held) <= decay else np.nextafter(held, kind(0))
    return held, kind(decay - float(held))


def calibrated(decay: Any, mean: Any, k: Array) -> Any:
    """mean/(1 − decay^k), the average after k values corrected for its start at 0, with a single division.

    For a decay that is a number, 1 − decay^k = −expm1(k·log decay), which does not cancel for a decay close to 1.
    """
    if isinstance(decay, Tracer):
        return each(lambda m, decay: m * (1 / (1 - decay ** k.astype(m.dtype))), mean, decay=decay)
    log = math.log(max(float(decay), sys.float_info.min))  # at decay = 0 the power underflows to 0 all the same
    return each(lambda m, log: m * (-1 / jnp.expm1(log * k.astype(m.dtype))), mean, log=log)


def squares(tree: Any) -> Any:
    """G ⊙ g."""
    return jax.tree.map(jnp.square, tree)


def root_plus(G: Array, epsilon: Any) -> Array:
    """√G + ε, where the root has slope 0 at G = 0: the gradient was 0 and there is no step."""
    return safe_sqrt(G) + jnp.asarray(not_flushed(epsilon, G.dtype), G.dtype)


def counter() -> Array:
    """The step counter before the first step."""
    return jnp.zeros((), jnp.int32)


def next_step(k: Array) -> Array:
    """The step counter after one more step: k + 1, clamped to the largest integer of its dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> print(next_step(jnp.int32(4)), next_step(jnp.int32(2**31 - 1)))
        5 2147483647
    """
    return jnp.minimum(k, jnp.iinfo(k.dtype).max - 1) + 1


def rate_at(eta: Rate, k: Array) -> Any:
    """The learning rate of step k = 0, 1, …: the schedule's value at k, or the number itself."""
    return eta(k) if callable(eta) else eta
