"""How much the neurons of a layer differ (slide "Heuristics for the initial approximation", item 3)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.types import Array


def diversity(outputs: Array) -> Array:
    """How little the neurons of a layer repeat each other: ``1 − mean_{h<k} |corr(x_h, x_k)|`` over examples.

    The correlation tells how nearly one neuron is an affine function of the other, which the next layer could make
    of it. So 0 means that all neurons are one up to scale and shift, 1 that they are uncorrelated. A constant neuron
    adds nothing to any other and counts as fully correlated with it.

    Args:
        outputs: of a layer [n, h], two examples and two neurons or more.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: fewer examples or neurons.
        TypeError: no floats.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 2.0, 1.0], [-1.0, -2.0, 1.0], [1.0, 2.0, -1.0], [-1.0, -2.0, -1.0]])
        >>> print(diversity(x[:, :2]), diversity(x[:, 1:]), round(float(diversity(x)), 4))
        0.0 1.0 0.6667
    """
    _several("diversity", "outputs", outputs, least_rows=2)
    from_first = outputs - outputs[:1]  # by which a constant neuron is 0 exactly
    return _mean_distance(from_first - jnp.mean(from_first, axis=0, keepdims=True))


def weight_diversity(w: Array) -> Array:
    """How little the neurons' weights point the same way or the opposite: ``1 − mean_{h<k} |cos(w_h, w_k)|``.

    Args:
        w: weights of a layer [i, h], two neurons or more. A neuron whose weights are all 0 counts as parallel to
            every other.

    Returns:
        A scalar in [0, 1]: 0 for parallel weights, 1 for orthogonal ones.

    Raises:
        ValueError: fewer neurons.
        TypeError: no floats.

    Example:
        >>> import jax.numpy as jnp
        >>> print(weight_diversity(jnp.eye(3)), weight_diversity(jnp.array([[1.0, -2.0], [0.0, 0.0]])))
        1.0 0.0
    """
    _several("weight_diversity", "w", w, least_rows=1)
    return _mean_distance(w)


def _mean_distance(u: Array) -> Array:
    """1 − mean |cos| over the pairs of different columns; the cosine with a column of zeros is 1."""
    largest = jnp.max(jnp.abs(u), axis=0)
    is_zero = largest == 0
    u = u / jnp.where(is_zero, 1, largest)[None, :]  # so that squares do not overflow
    squares = jnp.sum(jnp.square(u), axis=0)
    unit = u / jnp.sqrt(jnp.where(is_zero, 1, squares))[None, :]
    cosine = jnp.where(is_zero[:, None] | is_zero[None, :], 1, jnp.minimum(jnp.abs(unit.T @ unit), 1))
    h = u.shape[1]
    return 1 - jnp.sum(jnp.where(jnp.eye(h, dtype=bool), 0, cosine)) / (h * (h - 1))


def _several(where: str, what: str, array: Any, least_rows: int) -> None:
    """A matrix of floats with two columns or more to compare."""
    checks.is_array(where, array)
    if len(array.shape) != 2 or array.shape[0] < least_rows or array.shape[1] < 2:
        raise ValueError(
            f"{where} compares the columns of {what} with {least_rows} rows and 2 columns or more, got "
            f"shape {tuple(array.shape)}"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{where} expects floats, got {array.dtype}; convert by x.astype(jnp.float32)")
