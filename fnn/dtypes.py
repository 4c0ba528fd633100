"""Numbers made wider for sums, averages and comparisons, and narrow again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.types import Array


def wide(tree: Any) -> Any:
    """Every leaf in float32 at least."""

    def widened(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf

    return jax.tree.map(widened, tree)


def narrow(tree: Any, like: Any) -> Any:
    """Every leaf in the dtype of the leaf beside it."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def wide_integers(labels: Array) -> Array:
    """Integers in int32 at least, so that a comparison with the number of classes cannot wrap around."""
    return labels.astype(jnp.int32) if jnp.iinfo(labels.dtype).bits < 32 else labels
