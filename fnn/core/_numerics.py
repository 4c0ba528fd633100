"""Arithmetic without the losses of the plain formulas: digits, derivatives at 0, the small terms of long sums.

Its matrix decompositions by LAPACK take one matrix at a time, also under `jax.vmap`: LAPACK's batches wait for threads
of the pool that also runs the devices of a CPU, so two devices that each decompose a batch, as in a `sweep`, would
deadlock.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fnn.core.types import Array


@jax.custom_jvp
def safe_sqrt(x: Array) -> Array:
    """√x with slope 0 at x = 0, so that a norm or the root of an average can be differentiated at 0.

    Equation: √x for x ≥ 0; the slope is 1/(2√x) for x > 0, and 0 at x = 0, which lies between the one-sided slopes ∓1
    of √(t²) = |t|. Elsewhere, NaN included, as `jnp.sqrt`.

    Args:
        x: floats of any shape.

    Returns:
        √x, in the shape and dtype of x.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn.core._numerics import safe_sqrt
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
    """s(u) = 1/(1 + e^−u) as `jax.nn.sigmoid`, but with the automatic slope s(u)s(−u) in place of s(1 − s).

    Args:
        u: floats of any shape.

    Returns:
        s(u) in the shape and dtype of u.

    Example:
        >>> import jax
        >>> from fnn.core._numerics import logistic
        >>> print(jax.grad(logistic)(20.0), jax.grad(jax.nn.sigmoid)(20.0))
        2.0611537e-09 0.0
    """
    return jax.nn.sigmoid(u)


@logistic.defjvp
def _logistic_jvp(primals: tuple[Array], tangents: tuple[Any]) -> tuple[Array, Array]:
    (u,) = primals
    return logistic(u), jax.nn.sigmoid(u) * jax.nn.sigmoid(-u) * tangents[0]


@jax.custom_jvp
def logistic_density(u: Array) -> Array:
    """The slope s'(u) of s(u) = 1/(1 + e^−u), the density of the logistic distribution, accurate on both sides.

    Equation: s' = s(u)s(−u) = e/(1 + e)² with e = e^−|u|, where s(1 − s) would cancel for large u;
    s'' = s(1 − s)(1 − 2s) = −tanh(u/2) s'.

    Args:
        u: floats of any shape.

    Returns:
        s'(u) in the shape and dtype of u. It can be differentiated any number of times, at the kink of |u| too.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.core._numerics import logistic_density
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
    """part/whole, with 0/0 = 0 and a finite derivative there."""
    return part / jnp.where((part == 0) & (whole == 0), 1, whole)


def not_flushed(epsilon: Any, dtype: Any) -> Any:
    """ε, at least the smallest normal number of the dtype: a smaller one is flushed to 0 and no safe divisor."""
    return epsilon if isinstance(epsilon, Tracer) else max(float(epsilon), float(jnp.finfo(dtype).tiny))


def units(rows: Array) -> Array:
    """A power of two near the largest entry of each row [n], a divisor without rounding; 1 for a row of zeros."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide(rows)), axis=1, initial=0))
    most = jnp.finfo(largest.dtype).maxexp - 3  # beyond it, 1/unit is flushed to 0
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(jnp.frexp(largest)[1], -most, most))


def lengths(rows: Array) -> Array:
    """‖row‖ [n] of each row [n, …] in float32 at least, without overflow or underflow of the squares."""
    rows = wide(rows.reshape(rows.shape[0], -1))
    unit = units(rows)
    return unit * safe_sqrt(jnp.sum(jnp.square(rows * (1 / unit)[:, None]), axis=1))


def norm_in_units(tree: Any) -> tuple[Array, Array]:
    """A power of two near the largest entry of a tree, and the norm of all leaves divided by it."""
    leaves = jax.tree.leaves(wide(tree))
    if not leaves:
        return jnp.ones(()), jnp.zeros(())
    dtype = max((leaf.dtype for leaf in leaves), key=lambda d: jnp.finfo(d).bits)
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0).astype(dtype) for leaf in leaves])
    unit = units(largest[None])[0]
    return unit, safe_sqrt(sum(jnp.sum(jnp.square(leaf.astype(dtype) / unit)) for leaf in leaves))


class Sum(NamedTuple):
    """A compensated sum of many trees of numbers, in float32 at least, extended by `plus` and finished by `mean`."""

    total: Any
    """the rounded sum"""
    lost: Any
    """the rounding error of the last addition, which is added with the next term"""


def no_sum(like: Any) -> Sum:
    """The sum of no terms, for terms in the structure, shapes and dtypes of `like`."""

    def zero(leaf: Any) -> Array:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return wide(jnp.zeros(leaf.shape, leaf.dtype if is_float else jnp.float32))

    zeros = jax.tree.map(zero, like)
    return Sum(zeros, zeros)


def plus(sum: Sum, terms: Any) -> Sum:
    """The sum with one more term; its rounding error is kept and added with the next term.

    Equations, for every number, with t the total and v the term::

        y := v + lost        s := t + y        lost := (t − (s − (s − t))) + (y − (s − t))

    where the new `lost` is exactly the rounding error of s. Once the total is not finite, it is 0.

    Args:
        sum: the sum so far.
        terms: a tree of arrays.

    Returns:
        The new sum.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn.core._numerics import mean, no_sum, plus
        >>> v, million = jnp.float32(0.1), 10**6
        >>> compensated = jax.lax.fori_loop(0, million, lambda _, sum: plus(sum, v), no_sum(v))
        >>> plain = jax.lax.fori_loop(0, million, lambda _, sum: sum + v, 0.0) / million
        >>> print(mean(compensated, million), f"{plain:.4f}")
        0.1 0.1010

    Source: W. Kahan, *Further remarks on reducing truncation errors*, 1965, with the rounding error by D. Knuth, *The
    Art of Computer Programming* 2, 4.2.2, which needs no comparison of s and y.
    """

    def added(t: Array, lost: Array, v: Array) -> tuple[Array, Array]:
        y = v.astype(t.dtype) + lost
        s = t + y
        gained = s - t
        return s, jnp.where(jnp.isfinite(s), (t - (s - gained)) + (y - gained), 0)

    totals, structure = jax.tree.flatten(sum.total)
    pairs = list(map(added, totals, jax.tree.leaves(sum.lost), structure.flatten_up_to(terms)))
    return Sum(
        total=structure.unflatten(total for total, _ in pairs),
        lost=structure.unflatten(lost for _, lost in pairs),
    )


def mean(sum: Sum, count: int) -> Any:
    """The sum divided by the number of its terms."""
    return jax.tree.map(lambda total: total / count, sum.total)


@jax.custom_batching.sequential_vmap
def qr(matrix: Array) -> tuple[Array, Array]:
    """Q [m, k] with orthonormal columns and R [k, n] triangular, Q R = matrix [m, n], k = min(m, n)."""
    q, r = jnp.linalg.qr(matrix)
    return q, r


@jax.custom_batching.sequential_vmap
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues [n] in ascending order and eigenvectors as columns [n, n] of a symmetric matrix [n, n]."""
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


def wide(tree: Any) -> Any:
    """The tree with every leaf in float32 at least."""

    def widened(leaf: Array) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float32) if jnp.finfo(leaf.dtype).bits < 32 else leaf

    return jax.tree.map(widened, tree)


def narrow(tree: Any, like: Any) -> Any:
    """The tree with every leaf in the dtype of the corresponding leaf of `like`."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def wide_integers(labels: Array) -> Array:
    """Integers in int32 at least, so that a comparison with the number of classes cannot wrap around."""
    return labels.astype(jnp.int32) if jnp.iinfo(labels.dtype).bits < 32 else labels
