"""Matrix decompositions by LAPACK, one matrix at a time also under `jax.vmap`.

LAPACK's batches wait for threads of the same pool that runs the devices of a CPU, so that two devices which each
decompose a batch, as in a `sweep`, would wait for each other for ever.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn.types import Array


@jax.custom_batching.sequential_vmap
def qr(matrix: Array) -> tuple[Array, Array]:
    """Q [m, k] with orthonormal columns and R [k, n] triangular, Q R = matrix [m, n], k = min(m, n)."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


@jax.custom_batching.sequential_vmap
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues [n], rising, and eigenvectors as columns [n, n] of a symmetric matrix [n, n]."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
