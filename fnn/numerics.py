"""Arithmetic whose derivatives stay finite where those of the plain functions do not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.types import Array


@jax.custom_jvp
def safe_sqrt(x: Array) -> Array:
    """√x with slope 0 at x = 0, so that a norm or a root of an average can be differentiated where it is 0.

    Equation: √x for x ≥ 0; the slope is 1/(2√x) for x > 0, and 0 at x = 0, which lies between the one-sided slopes ∓1
    of √(t²) = |t|. Elsewhere, NaN included, as `jnp.sqrt`.

    Args:
        x: floats of any shape.

    Returns:
        √x, in the shape and dtype of x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn.numerics import safe_sqrt
        >>> norm = lambda g: safe_sqrt(jnp.sum(jnp.square(g)))
        >>> print(jax.grad(norm)(jnp.zeros(2)), jax.grad(norm)(jnp.array([3.0, 4.0])))
        [0. 0.] [0.6 0.8]
    """
    return jnp.sqrt(x)


@safe_sqrt.defjvp
def _safe_sqrt_jvp(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Array]:
    root = safe_sqrt(*primals)
    is_zero = root == 0
    return root, jnp.where(is_zero, 0, 0.5 / jnp.where(is_zero, 1, root)) * tangents[0]
