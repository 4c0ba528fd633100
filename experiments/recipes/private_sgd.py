"""Differentially private SGD (Abadi et al. 2016): Poisson batches, clipped gradients of each example, and noise.

Equation, for a batch that takes each of ℓ examples with probability q::

    g := (Σ_n min(1, θ/‖g_n‖) g_n + N(0, σ²θ²))/(qℓ)
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import permuted
from fnn.derivatives import clip_per_example


def poisson(q: float) -> Any:
    """For ``draw=``; a batch that exceeds batch_size, its room, has weights NaN, not a smaller share of the sample."""

    def draw(key: jax.Array, step: Any, size: int, batch_size: int) -> tuple[jax.Array, jax.Array]:
        count = jax.random.binomial(jax.random.fold_in(key, step), size, q).astype(jnp.int32)
        position = jnp.arange(batch_size, dtype=jnp.int32)
        weight = jnp.where(count > batch_size, jnp.nan, (position < count).astype(float))
        return permuted(key, step, jnp.minimum(position, size - 1), size), weight

    return draw


def private(theta: float, sigma: float, expected: float) -> Any:
    """For ``gradient=``; `expected` is qℓ."""

    def noisy(clipped: Any, params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        found, g = clipped(params, state, batch, key)
        count, (leaves, structure) = jnp.sum(batch[2]), jax.tree.flatten(g)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        noise = [sigma * theta * jax.random.normal(key, g.shape, g.dtype) for g, key in zip(leaves, keys, strict=True)]
        return found, structure.unflatten([(count * g + e) / expected for g, e in zip(leaves, noise, strict=True)])

    return lambda net, loss: lambda *given: noisy(clip_per_example(theta)(net, loss), *given)
