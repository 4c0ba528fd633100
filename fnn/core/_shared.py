"""Weights shared by positions: the sums over positions that readings of them need.

Example n uses a weight matrix w [i, o] at each of its positions p and contributes the sum over them. With x [n, p, i]
and ε [n, p, o]::

    g_n = Σ_p x_np ε_npᵀ                  ⟨g_n, g_m⟩ = Σ_pq ⟨x_np, x_mq⟩⟨ε_np, ε_mq⟩

Norms and inner products are computed from the right-hand side or from the g_n themselves, whichever takes fewer
multiplications; which one is known from the shapes. The right-hand side adds terms of both signs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from fnn.core._numerics import wide
from fnn.core.types import Array

FULL = jax.lax.Precision.HIGHEST
"""The precision of products whose difference is taken: by default a GPU multiplies float32 with ten bits only."""


def total(x: Array, error: Array) -> Array:
    """Σ_n g_n [i, o]."""
    return x.reshape(-1, x.shape[-1]).T @ error.reshape(-1, error.shape[-1])


def each(x: Array, error: Array, precision: jax.lax.Precision | None = None) -> Array:
    """g_n [n, i, o]."""
    return jnp.einsum("npi,npo->nio", x, error, precision=precision)


def squared_norms(x: Array, error: Array) -> Array:
    """‖g_n‖² [n]."""
    x, error = wide(x), wide(error)
    _, p, i = x.shape
    o = error.shape[-1]
    return _norms_by_pairs(x, error) if p * (i + o) < i * o else _norms_by_sums(x, error)


def _norms_by_pairs(x: Array, error: Array) -> Array:
    of_x = jnp.einsum("npi,nqi->npq", x, x, precision=FULL)
    of_error = jnp.einsum("npo,nqo->npq", error, error, precision=FULL)
    return jnp.maximum(jnp.sum(of_x * of_error, axis=(1, 2)), 0)


def _norms_by_sums(x: Array, error: Array) -> Array:
    return jnp.sum(jnp.square(each(x, error, FULL)), axis=(1, 2))


def inner_products(x: Array, error: Array) -> Array:
    """⟨g_n, g_m⟩ [n, n]."""
    x, error = wide(x), wide(error)
    n, p, i = x.shape
    o = error.shape[-1]
    return _products_by_pairs(x, error) if n * p**2 * (i + o) < (n + p) * i * o else _products_by_sums(x, error)


def _products_by_pairs(x: Array, error: Array) -> Array:
    of_x = jnp.einsum("npi,mqi->npmq", x, x, precision=FULL)
    of_error = jnp.einsum("npo,mqo->npmq", error, error, precision=FULL)
    return jnp.sum(of_x * of_error, axis=(1, 3))


def _products_by_sums(x: Array, error: Array) -> Array:
    g = each(x, error, FULL).reshape(x.shape[0], -1)
    return jnp.matmul(g, g.T, precision=FULL)


def summed(term: Callable[[Array], Array], x: Array, error: Array, share: Array | None = None) -> Array:
    """Σ_n ω_n term(g_n) [i, o], with few of the g_n at a time; ω_n = 1 by default.

    A CPU takes one example after another: it is slow at sums over examples. On a GPU so many small products would wait
    for each other (measured on an H200: 1.6 to 11 gradients), so it forms as many g_n as have `MOST` numbers.
    """
    share = jnp.ones(x.shape[0], wide(x).dtype) if share is None else share.astype(wide(x).dtype)
    one_by_one, in_chunks = partial(_one_by_one, term), partial(_in_chunks, term)
    return jax.lax.platform_dependent(wide(x), wide(error), share, cpu=one_by_one, default=in_chunks)


MOST = 2**24
"""numbers of all g_n that `summed` forms at a time on an accelerator, 64 MiB in float32"""


def _one_by_one(term: Callable[[Array], Array], x: Array, error: Array, share: Array) -> Array:
    def add(sum: Array, example: tuple[Array, Array, Array]) -> tuple[Array, None]:
        x, error, share = example
        return sum + share * term(jnp.matmul(x.T, error, precision=FULL)), None

    zero = jnp.zeros((x.shape[-1], error.shape[-1]), error.dtype)
    return jax.lax.scan(add, zero, (x, error, share))[0]


def _in_chunks(term: Callable[[Array], Array], x: Array, error: Array, share: Array, most: int = MOST) -> Array:
    n = x.shape[0]
    size = min(n, max(1, most // (x.shape[-1] * error.shape[-1])))
    whole = n // size * size

    def of(part: tuple[Array, Array, Array]) -> Array:
        x, error, share = part
        return jnp.einsum("n,nio->io", share, jax.vmap(term)(each(x, error, FULL)), precision=FULL)

    def add(sum: Array, part: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return sum + of(part), None

    zero = jnp.zeros((x.shape[-1], error.shape[-1]), error.dtype)
    parts = jax.tree.map(lambda rows: rows[:whole].reshape(-1, size, *rows.shape[1:]), (x, error, share))
    sum = jax.lax.scan(add, zero, parts)[0]
    return sum if whole == n else sum + of((x[whole:], error[whole:], share[whole:]))
