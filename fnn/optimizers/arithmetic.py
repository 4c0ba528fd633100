"""What the optimizers' equations share: leaf-by-leaf arithmetic, averages, and rates.

Averages and equations are computed in float32 at least: in bfloat16, 0.999 is 1 and an average with α = 0.999 would
never forget. Updates come back in the gradient's dtype, so parameters keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.dtypes import narrow, wide
from fnn.types import Array, Optimizer, Params, Rate


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
        checks.is_state(f"{label}.update", state, kind)
        for average in state[1:2]:
            checks.same_structure(f"{label}.update", "gradient", gradient, "state", average)
        step, state = equations(wide(gradient), state)
        return narrow(step, gradient), state

    return Optimizer(start, update, label)


def each(equation: Callable[..., Array], *trees: Any, **scalars: Any) -> Any:
    """The equation at every leaf, its scalars (numbers or tracers) in the leaf's dtype."""

    def at_leaf(*leaves: Array) -> Array:
        return equation(*leaves, **{name: jnp.asarray(s, leaves[0].dtype) for name, s in scalars.items()})

    return jax.tree.map(at_leaf, *trees)


def zeros(params: Params) -> Any:
    """An average before its first value."""
    return jax.tree.map(jnp.zeros_like, wide(params))


def average(decay: Any, old: Any, new: Any) -> Any:
    """The exponential moving average, decay·old + (1 − decay)·new, over about 1/(1 − decay) steps."""
    return each(lambda m, g, decay: decay * m + (1 - decay) * g, old, new, decay=decay)


def calibrated(decay: Any, mean: Any, k: Array) -> Any:
    """mean/(1 − decay^k), an average that started at 0 brought to scale after its k-th value; it divides only once."""
    return each(lambda m, decay: m * (1 / (1 - decay ** k.astype(m.dtype))), mean, decay=decay)


def squares(tree: Any) -> Any:
    """G ⊙ g."""
    return jax.tree.map(jnp.square, tree)


def counter() -> Array:
    """The step counter before the first step."""
    return jnp.zeros((), jnp.int32)


def rate_at(eta: Rate, k: Array) -> Any:
    """The learning rate of step k = 0, 1, …: a schedule's value there, or the number itself."""
    return eta(k) if callable(eta) else eta
