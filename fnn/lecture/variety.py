"""Measures of the diversity of a layer's neurons (slide "Heuristics for the initial approximation", item 3)."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._numerics import safe_sqrt, units, wide
from fnn.core.types import Array


def diversity(outputs: Array) -> Array:
    """The diversity of a layer's outputs, ``1 − mean_{h<k} |corr(x_h, x_k)|`` over examples.

    ``|corr| = 1`` means that one neuron is an affine function of the other, which the next layer could compute from it.
    So a diversity of 0 means that all neurons are equal up to scale and shift, 1 that they are uncorrelated. A constant
    neuron contributes nothing and counts as fully correlated with every other.

    Args:
        outputs: of a layer [n, h], with at least two examples and two neurons.

    Returns:
        A scalar in [0, 1].

    Raises:
        ValueError: fewer examples or neurons.
        TypeError: outputs that are not floats.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 2.0, 1.0], [-1.0, -2.0, 1.0], [1.0, 2.0, -1.0], [-1.0, -2.0, -1.0]])
        >>> print(diversity(x[:, :2]), diversity(x[:, 1:]), round(float(diversity(x)), 4))
        0.0 1.0 0.6667
    """
    _several("diversity", "outputs", outputs, least_rows=2)
    from_first = outputs - outputs[:1]  # makes a constant neuron exactly 0
    return _mean_distance(from_first - jnp.mean(from_first, axis=0, keepdims=True))


def weight_diversity(w: Array) -> Array:
    """The diversity of the directions of a layer's weights, ``1 − mean_{h<k} |cos(w_h, w_k)|``.

    Args:
        w: weights of a layer [i, h], with at least two neurons. A neuron whose weights are all 0 counts as parallel to
            every other.

    Returns:
        A scalar in [0, 1]: 0 for parallel weights, 1 for orthogonal ones.

    Raises:
        ValueError: fewer neurons.
        TypeError: weights that are not floats.

    Example:
        >>> import jax.numpy as jnp
        >>> print(weight_diversity(jnp.eye(3)), weight_diversity(jnp.array([[1.0, -2.0], [0.0, 0.0]])))
        1.0 0.0
    """
    _several("weight_diversity", "w", w, least_rows=1)
    return _mean_distance(w)


def _mean_distance(u: Array) -> Array:
    """1 − mean |cos| over the pairs of different columns; the |cos| with a column of zeros is 1."""
    rows = wide(u.T)
    rows = rows / units(rows)[:, None]  # their squares neither overflow nor underflow
    norms = safe_sqrt(jnp.sum(jnp.square(rows), axis=1))
    is_zero = norms == 0
    unit = rows / jnp.where(is_zero, 1, norms)[:, None]
    cosine = jnp.where(is_zero[:, None] | is_zero[None, :], 1, jnp.minimum(jnp.abs(unit @ unit.T), 1))
    h = u.shape[1]
    return 1 - jnp.sum(jnp.where(jnp.eye(h, dtype=bool), 0, cosine)) / (h * (h - 1))


def _several(where: str, what: str, array: Any, least_rows: int) -> None:
    """Raise an error unless the array is a matrix of floats with two columns or more to compare."""
    checks.is_array(where, array)
    if len(array.shape) != 2 or array.shape[0] < least_rows or array.shape[1] < 2:
        rows = "1 row" if least_rows == 1 else f"{least_rows} rows"
        raise ValueError(
            f"{where}: expected {what} with at least {rows} and 2 columns, got shape {tuple(array.shape)}. Pass one "
            "column for each neuron."
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{where}: expected floats, got {array.dtype}. Convert by x.astype(jnp.float32).")
