"""What the optimizers' equations share: leaf-by-leaf arithmetic, averages, and rates.

Averages and equations are computed in float32 at least: in bfloat16, 0.999 is 1 and an average with α = 0.999 would
never forget. Updates come back in the gradient's dtype, so parameters keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.types import Array, Params, Rate


def each(equation: Callable[..., Array], *trees: Any, **scalars: Any) -> Any:
    """The equation at every leaf, its scalars (numbers or tracers) in the leaf's dtype."""

    def at_leaf(*leaves: Array) -> Array:
        return equation(*leaves, **{name: jnp.asarray(s, leaves[0].dtype) for name, s in scalars.items()})

    return jax.tree.map(at_leaf, *trees)


def wide(tree: Any) -> Any:
    """Every leaf in float32 at least."""

    def widened(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf

    return jax.tree.map(widened, tree)


def narrow(tree: Any, like: Any) -> Any:
    """Every leaf in the dtype of the leaf beside it."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def zeros(params: Params) -> Any:
    """An average before its first value."""
    return jax.tree.map(jnp.zeros_like, wide(params))


def average(decay: Any, old: Any, new: Any) -> Any:
    """The exponential moving average, decay·old + (1 − decay)·new, over about 1/(1 − decay) steps."""
    return each(lambda m, g, decay: decay * m + (1 - decay) * g, old, new, decay=decay)


def calibrated(decay: Any, mean: Any, k: Array) -> Any:
    """mean/(1 − decay^k), an average that started at 0 brought to scale after its k-th value."""
    return each(lambda m, decay: m / (1 - decay ** k.astype(m.dtype)), mean, decay=decay)


def squares(tree: Any) -> Any:
    """G ⊙ g."""
    return jax.tree.map(jnp.square, tree)


def start() -> Array:
    """The step counter before the first step."""
    return jnp.zeros((), jnp.int32)


def rate_at(eta: Rate, k: Array) -> Any:
    """The learning rate of step k = 0, 1, …: a schedule's value there, or the number itself."""
    return eta(k) if callable(eta) else eta
