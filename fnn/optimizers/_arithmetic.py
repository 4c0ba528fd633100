"""What the optimizers' equations share: leaf-by-leaf arithmetic, averages, and rates.

Averages and equations are computed in float32 at least: in bfloat16, 0.999 is 1 and an average with α = 0.999 would
never forget. Updates come back in the gradient's dtype, so parameters keep theirs. In float32 itself 1 − 1e-8 is 1, so
a decay that is a number (and no tracer) enters by parts that float32 can hold.
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
    """An optimizer from its equations ``(g, state) -> (step, state)``, checked, computed wide and given back narrow.

    Args:
        label: how it prints.
        kind: the NamedTuple of its state, the step counter k first and then averages, which start at 0.
        equations: the slide's lines; the step has the minus sign inside.
        init: the first state, where it is another.
    """

    def start(params: Params) -> Any:
        checks.floats(f"{label}.init", "params", params)
        averages = (zeros(params) for _ in kind._fields[1:])
        return init(params) if init is not None else kind(counter(), *averages)

    def update(gradient: Params, state: Any, params: Params = None) -> tuple[Any, Any]:
        checks.floats(f"{label}.update", "gradient", gradient)
        optimizers_checks.is_state(f"{label}.update", state, kind)
        for average in state[1:2]:
            checks.same_structure(f"{label}.update", "gradient", gradient, "state", average)
        step, state = equations(wide(gradient), state)
        return narrow(step, gradient), state

    return Optimizer(start, update, label, takes="all", steps="all")


def each(equation: Callable[..., Array], *trees: Any, **scalars: Any) -> Any:
    """The equation at every leaf, its scalars (numbers or tracers) in the leaf's dtype."""

    def at_leaf(*leaves: Array) -> Array:
        return equation(*leaves, **{name: jnp.asarray(s, leaves[0].dtype) for name, s in scalars.items()})

    return jax.tree.map(at_leaf, *trees)


def zeros(params: Params) -> Any:
    """An average before its first value."""
    return jax.tree.map(jnp.zeros_like, wide(params))


def average(decay: Any, old: Any, new: Any) -> Any:
    """The exponential moving average, decay·old + (1 − decay)·new, over about 1/(1 − decay) steps.

    A decay that is a number counts in double precision: 1 − decay is rounded once, and what decay loses when it is
    rounded down to the dtype of the leaves is a term of its own.
    """
    if isinstance(decay, Tracer):
        return each(lambda m, g, decay: decay * m + (1 - decay) * g, old, new, decay=decay)

    def at_leaf(m: Array, g: Array) -> Array:
        held, lost = _halves(float(decay), m.dtype)
        fresh = jnp.asarray(1 - float(decay), m.dtype) * g
        return held * m + (fresh + lost * m if lost else fresh)

    return jax.tree.map(at_leaf, old, new)


def _halves(decay: float, dtype: Any) -> tuple[Any, Any]:
    """A decay as a sum of two numbers of the dtype, both ≥ 0, so that an infinite average stays infinite."""
    kind = np.dtype(dtype).type
    held = kind(decay)
    held = held if float(held) <= decay else np.nextafter(held, kind(0))
    return held, kind(decay - float(held))


def calibrated(decay: Any, mean: Any, k: Array) -> Any:
    """mean/(1 − decay^k), an average that started at 0 brought to scale after its k-th value; it divides only once.

    Of a decay that is a number, 1 − decay^k = −expm1(k·log decay), which does not cancel where decay is close to 1.
    """
    if isinstance(decay, Tracer):
        return each(lambda m, decay: m * (1 / (1 - decay ** k.astype(m.dtype))), mean, decay=decay)
    log = math.log(max(float(decay), sys.float_info.min))  # at decay = 0 the power underflows to 0 all the same
    return each(lambda m, log: m * (-1 / jnp.expm1(log * k.astype(m.dtype))), mean, log=log)


def squares(tree: Any) -> Any:
    """G ⊙ g."""
    return jax.tree.map(jnp.square, tree)


def root_plus(G: Array, epsilon: Any) -> Array:
    """√G + ε, the root with slope 0 at G = 0, where the gradient was 0 and moves nothing."""
    return safe_sqrt(G) + jnp.asarray(not_flushed(epsilon, G.dtype), G.dtype)


def counter() -> Array:
    """The step counter before the first step."""
    return jnp.zeros((), jnp.int32)


def next_step(k: Array) -> Array:
    """The step counter one step on: k + 1, and the largest integer of its dtype from there on, for it must not wrap.

    Example:
        >>> import jax.numpy as jnp
        >>> print(next_step(jnp.int32(4)), next_step(jnp.int32(2**31 - 1)))
        5 2147483647
    """
    return jnp.minimum(k, jnp.iinfo(k.dtype).max - 1) + 1


def rate_at(eta: Rate, k: Array) -> Any:
    """The learning rate of step k = 0, 1, …: a schedule's value there, or the number itself."""
    return eta(k) if callable(eta) else eta
