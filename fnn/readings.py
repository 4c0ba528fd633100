"""What one backward pass can tell besides the gradient.

At a weight matrix, object n of a batch contributes g_n = x_n ε_nᵀ; the readings below differ in what they keep of
these contributions. Let g_n be the gradient of object n's own loss L_n and Q = (1/n) Σ L_n. Then
`backprop(net, loss, read)` gives, leaf by leaf of the parameters:

================ ========================= ============= =========================================
reading          what                      leaf's shape  cost beside one gradient
================ ========================= ============= =========================================
`gradient`       ∂Q/∂w = (1/n) Σ g_n       [i, o]        1
`per_object`     g_n                       [n, i, o]     writes n gradients
`squared_norm`   ‖g_n‖² of this leaf       [n]           less: no outer product is formed
`second_moment`  (1/n) Σ g_n²              [i, o]        1: the same product of squares
================ ========================= ============= =========================================

The squared norm of a whole gradient is the sum over leaves. The identity behind it, ‖x εᵀ‖² = ‖x‖²‖ε‖², is from
I. Goodfellow, *Efficient per-example gradient computations*, 2015.
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from fnn.types import Array, Reading


def _unchanged(stacked: Array) -> Array:
    return stacked


def _square_per_object(rows: Array) -> Array:
    return jnp.sum(jnp.square(rows), axis=tuple(range(1, rows.ndim)))


gradient = Reading(
    label="gradient",
    outer=lambda x, error: x.T @ error,
    rows=lambda rows: jnp.sum(rows, axis=0),
    stack=_unchanged,
    scale=lambda n: 1 / n,
    linear=True,
)
"""Σ_n x_n ε_nᵀ: the sum of the contributions, which is what a gradient is."""

per_object = Reading(
    label="per_object",
    outer=lambda x, error: x[:, :, None] * error[:, None, :],
    rows=_unchanged,
    stack=lambda readings: jnp.moveaxis(readings, 0, 1),
    scale=lambda n: 1.0,
    linear=False,
)
"""x_n ε_nᵀ for every object: what `jax.vmap(jax.grad(...))` gives, with the object as the first axis."""

squared_norm = Reading(
    label="squared_norm",
    outer=lambda x, error: _square_per_object(x) * _square_per_object(error),
    rows=_square_per_object,
    stack=lambda readings: jnp.sum(readings, axis=0),
    scale=lambda n: 1.0,
    linear=False,
)
"""‖x_n‖²‖ε_n‖²: the squared norm of each object's gradient, never forming that gradient."""

second_moment = Reading(
    label="second_moment",
    outer=lambda x, error: jnp.square(x).T @ jnp.square(error),
    rows=lambda rows: jnp.sum(jnp.square(rows), axis=0),
    stack=_unchanged,
    scale=lambda n: 1 / math.sqrt(n),
    linear=False,
)
"""Σ_n x_n² ε_n²ᵀ: the sum of the squared contributions, elementwise."""
