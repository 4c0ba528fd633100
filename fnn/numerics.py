"""Arithmetic that keeps its digits, and derivatives that stay finite, where the plain formulas lose them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.dtypes import wide
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


@jax.custom_jvp
def logistic(u: Array) -> Array:
    """s(u) = 1/(1 + e^−u) as `jax.nn.sigmoid`, but differentiated by `logistic_density` instead of s(1 − s).

    Args:
        u: floats of any shape.

    Returns:
        s(u) in the shape and dtype of u.

    Example:
        >>> import jax
        >>> from fnn.numerics import logistic
        >>> print(jax.grad(logistic)(20.0), jax.grad(jax.nn.sigmoid)(20.0))
        2.0611537e-09 0.0
    """
    return jax.nn.sigmoid(u)


@logistic.defjvp
def _logistic_jvp(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Array]:
    (u,) = primals
    return logistic(u), logistic_density(u) * tangents[0]


@jax.custom_jvp
def logistic_density(u: Array) -> Array:
    """The slope s'(u) of s(u) = 1/(1 + e^−u), the density of the logistic distribution, with all digits on both sides.

    Equation: s' = s(u)s(−u) = e/(1 + e)² with e = e^−|u|, where s(1 − s) would take s from 1;
    s'' = s(1 − s)(1 − 2s) = −tanh(u/2) s'.

    Args:
        u: floats of any shape.

    Returns:
        s'(u) in the shape and dtype of u. It can be differentiated any number of times, at the kink of |u| too.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.numerics import logistic_density
        >>> print(logistic_density(jnp.array([-20.0, 0.0, 20.0])))
        [2.0611537e-09 2.5000000e-01 2.0611537e-09]
    """
    e = jnp.exp(-jnp.abs(u))
    return e / jnp.square(1 + e)


@logistic_density.defjvp
def _logistic_density_jvp(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Array]:
    (u,) = primals
    slope = logistic_density(u)
    return slope, -jnp.tanh(u / 2) * slope * tangents[0]


def ratio(part: Array, whole: Array) -> Array:
    """part/whole, where 0/0 is 0 and can be differentiated."""
    return part / jnp.where((part == 0) & (whole == 0), 1, whole)


def units(rows: Array) -> Array:
    """A power of two near the largest entry of each row [n], which divides without rounding; 1 for a row of zeros."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide(rows)), axis=1, initial=0))
    most = jnp.finfo(largest.dtype).maxexp - 3  # beyond it, 1/unit is flushed to 0
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(jnp.frexp(largest)[1], -most, most))


def lengths(rows: Array) -> Array:
    """‖row‖ [n] of each row [n, …] in float32 at least, its squares safe from overflow and underflow."""
    rows = wide(rows.reshape(rows.shape[0], -1))
    unit = units(rows)
    return unit * safe_sqrt(jnp.sum(jnp.square(rows * (1 / unit)[:, None]), axis=1))


def running_mean(mean: Array, new: Array, share: Array) -> Array:
    """The mean with a new number that is this share of all so far, in the mean's dtype: mean + (new − mean)·share.

    With shares 1, ½, ⅓, … a mean of equal numbers is that number, however many there are. An infinite mean stays so.
    """
    new, share = new.astype(mean.dtype), share.astype(mean.dtype)
    return jnp.where(jnp.isinf(mean), mean + new, mean + (new - mean) * share)
