"""Readings: the quantities that one backward pass can gather at the parameters.

At a weight matrix, example n of a batch contributes g_n = x_n ε_nᵀ; the readings below keep different quantities of
these contributions. Let g_n be the gradient of example n's own loss L_n and Q = (1/n) Σ L_n. Then
`backprop(net, loss, read)` gives, leaf by leaf of the parameters:

================== ================================== ============= =====================================
reading            value                              leaf's shape  cost in gradients
================== ================================== ============= =====================================
`gradient`         g = ∂Q/∂w = (1/n) Σ g_n            [i, o]        1
`squared_norm`     ‖g_n‖² of this leaf                [n]           0.8, no outer product is formed
`gram`             ⟨g_n, g_m⟩ of this leaf            [n, n]        1.2, products [n, i] × [i, n]
`second_moment`    (1/n) Σ g_n²                       [i, o]        1.1, the product of squares
`variance`         (1/n) Σ (g_n − g)²                 [i, o]        1.4, both products
`signal_to_noise`  g² / variance                      [i, o]        1.5
`per_example`      g_n                                [n, i, o]     3 to 14, all of it writing; n × memory
`contributions`    x_n and ε_n themselves             `Outer`       less than a gradient, as norms
================== ================================== ============= =====================================

The costs are measured on 64-256-256-10 with 128 examples on two CPU cores, where `jax.vmap` of `jax.grad` costs 33
(``python -m experiments quantities``).

The squared norm and the Gram matrix of whole gradients are sums over leaves. The second moment is the diagonal of the
*empirical Fisher matrix* (1/n) Σ g_n g_nᵀ, with the observed labels. Norms and Gram matrix use the identity
⟨x εᵀ, x' ε'ᵀ⟩ = ⟨x, x'⟩⟨ε, ε'⟩, for norms in I. Goodfellow, *Efficient per-example gradient computations*, 2015.

Squares and their sums are computed in float32 at least; norms and Gram matrix remain in it, the others have the dtype
of the parameters.

Weights used at several positions of an example, as in a convolution or at all steps of a sequence, contribute
g_n = Σ_p x_np ε_npᵀ. Layers read them by `at_weights`, which computes each reading of these sums, at a cost of its own
(see `Reading.shared`), and other parameters by the rows that `over_positions` sums.

Every reading is a function of the `contributions`, and `gathered` computes it from them later. A backward pass that is
vmapped over several errors is read once in this way, whatever their number (see `fnn.derivatives.gauss_newton`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _shared
from fnn.core._numerics import ratio, wide
from fnn.core._shared import FULL
from fnn.core.types import Array, Params, Reading


class Outer(NamedTuple):
    """The contributions x_n ε_nᵀ to a weight matrix, as two factors; in `repeat` the depth axis follows the example."""

    x: Array
    """[n, …, i]"""
    error: Array
    """[n, …, o]"""


class Shared(NamedTuple):
    """The contributions Σ_p x_np ε_npᵀ to a weight matrix used at several positions p, as two factors."""

    x: Array
    """[n, …, p, i]"""
    error: Array
    """[n, …, p, o]"""


def is_outer(node: Any) -> bool:
    """True for the contributions to a weight matrix; the others are rows [n, …], as for a bias."""
    return isinstance(node, Outer | Shared)


def at_weights(read: Reading, x: Array, error: Array) -> Any:
    """The reading at a weight matrix w, for products x w at any number of positions.

    Args:
        read: a reading.
        x: the inputs of the products, [n, …, i], with the positions between the first axis and the last.
        error: ∂L/∂(x w) [n, …, o], at the same positions.

    Returns:
        ``read.outer(x, error)`` for rows [n, i]; with positions ``read.shared``, or for a reading without it the
        right, but more expensive ``read.rows`` of each example's sum over the positions.
    """
    if error.ndim == 2:
        return read.outer(x, error)
    x, error = _one_position_axis(x), _one_position_axis(error)
    return read.rows(_shared.each(x, error)) if read.shared is None else read.shared(x, error)


def _one_position_axis(x: Array) -> Array:
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def over_positions(terms: Array) -> Array:
    """Terms [n, …, o] summed over the positions, [n, o]: an example's contribution to a parameter [o]."""
    return terms if terms.ndim == 2 else jnp.sum(terms, axis=tuple(range(1, terms.ndim - 1)))


def has_weights(node: Any) -> bool:
    """True for the contributions to the params {"w"} or {"w", "b"} of a layer of weights."""
    return isinstance(node, dict) and is_outer(node.get("w"))


def _unchanged(stacked: Array) -> Array:
    return stacked


def _examples_first(stacked: Array) -> Array:
    return jnp.moveaxis(stacked, 0, 1)


def _sum_over_depth(stacked: Array) -> Array:
    return jnp.sum(stacked, axis=0)


def _flat(rows: Array) -> Array:
    return rows.reshape(rows.shape[0], -1)


def _square_per_example(rows: Array) -> Array:
    return jnp.sum(jnp.square(_flat(wide(rows))), axis=1)


def _inner_products(rows: Array) -> Array:
    rows = _flat(wide(rows))
    return jnp.matmul(rows, rows.T, precision=FULL)


def beyond_rounding(difference: Array, of: Array, n: int) -> Array:
    """A difference of two sums over n examples, or 0 where it is at most n eps of the minuend `of`: mere rounding."""
    return jnp.where(difference <= max(8, n) * jnp.finfo(of.dtype).eps * of, 0, difference)


def _resolved(var: Array, mean: Array, n: int) -> Array:
    """A variance from n differences to the mean, or 0 where these are rounding."""
    blur = max(8, n) * jnp.finfo(mean.dtype).eps * mean
    return jnp.where(var <= jnp.square(blur), 0, var)


def _of_moments(label: str, combine: Any, doc: str, share: Array | None = None) -> Reading:
    """A reading computed from the mean g and the variance of the examples' gradients, in float32 at least.

    The examples count by their shares ω_n; without those, each by 1/n.
    """

    def summed(u: Array, v: Array) -> Array:
        """Σ_n ω_n u_n v_nᵀ."""
        if share is None:
            return jnp.matmul(u.T, v, precision=FULL) / u.shape[0]
        return jnp.matmul((u * share.astype(u.dtype)[:, None]).T, v, precision=FULL)

    def averaged(g: Array) -> Array:
        """Σ_n ω_n g_n."""
        return jnp.mean(g, axis=0) if share is None else jnp.tensordot(share.astype(g.dtype), g, 1)

    def of_outer(x: Array, error: Array) -> Array:
        n = x.shape[0]
        u = wide(x)
        v = wide(error)
        mean = summed(u, v)
        moment = summed(jnp.square(u), jnp.square(v))
        var = beyond_rounding(moment - jnp.square(mean), moment, n)
        return combine(mean, var).astype(error.dtype)

    def of_rows(rows: Array) -> Array:
        n = rows.shape[0]
        g = wide(rows)
        mean = averaged(g)
        var = averaged(jnp.square(g - mean[None]))
        return combine(mean, _resolved(var, mean, n)).astype(rows.dtype)

    def of_shared(x: Array, error: Array) -> Array:
        n = x.shape[0]
        shares = jnp.full(n, 1 / n, wide(x).dtype) if share is None else share
        mean = _shared.total(wide(x) * shares.astype(wide(x).dtype)[:, None, None], wide(error))
        var = _shared.summed(lambda g: jnp.square(g - mean), x, error, shares)
        return combine(mean, _resolved(var, mean, n)).astype(error.dtype)

    return Reading(
        label=label,
        outer=of_outer,
        rows=of_rows,
        stack=_unchanged,
        scale=lambda n: 1.0,
        linear=False,
        doc=doc,
        weighted=lambda share: _of_moments(label, combine, doc, share),
        shared=of_shared,
    )


gradient = Reading(
    label="gradient",
    outer=lambda x, error: x.T @ error,
    rows=lambda rows: jnp.sum(rows, axis=0),
    stack=_unchanged,
    scale=lambda n: 1 / n,
    linear=True,
    doc="Σ_n x_n ε_nᵀ: the sum of the contributions, which is the gradient.",
    shared=_shared.total,
)

per_example = Reading(
    label="per_example",
    outer=lambda x, error: x[:, :, None] * error[:, None, :],
    rows=_unchanged,
    stack=_examples_first,
    scale=lambda n: 1.0,
    linear=False,
    doc="x_n ε_nᵀ for every example: the result of `jax.vmap(jax.grad(...))`, with the example as the first axis.",
)

squared_norm = Reading(
    label="squared_norm",
    outer=lambda x, error: _square_per_example(x) * _square_per_example(error),
    rows=_square_per_example,
    stack=_sum_over_depth,
    scale=lambda n: 1.0,
    linear=False,
    doc="‖x_n‖²‖ε_n‖²: the squared norm of each example's gradient, without forming that gradient.",
    shared=_shared.squared_norms,
)

gram = Reading(
    label="gram",
    outer=lambda x, error: _inner_products(x) * _inner_products(error),
    rows=_inner_products,
    stack=_sum_over_depth,
    scale=lambda n: 1.0,
    linear=False,
    doc="⟨x_n, x_m⟩⟨ε_n, ε_m⟩: the inner products of the examples' gradients, without forming a gradient.",
    shared=_shared.inner_products,
)

second_moment = Reading(
    label="second_moment",
    outer=lambda x, error: (jnp.square(wide(x)).T @ jnp.square(wide(error))).astype(error.dtype),
    rows=lambda rows: jnp.sum(jnp.square(wide(rows)), axis=0).astype(rows.dtype),
    stack=_unchanged,
    scale=lambda n: 1 / (jnp.sqrt(n) if isinstance(n, jax.Array) else math.sqrt(n)),
    linear=False,
    doc="Σ_n x_n² ε_n²ᵀ: the sum of the squared contributions, elementwise.",
    shared=lambda x, error: _shared.summed(jnp.square, x, error).astype(error.dtype),
)

variance = _of_moments(
    "variance",
    lambda mean, var: var,
    doc="""(1/n) Σ_n (g_n − g)², the variance within the batch; times n/(n − 1) it estimates that of the population.

    At weights it is a difference of moments, (1/n) Σ g_n² − g²; a difference of at most n eps of the first, with
    n ≥ 8, is rounding and counts as 0. At other parameters g is subtracted first, which resolves all but (n eps g)².
    """,
)

signal_to_noise = _of_moments(
    "signal_to_noise",
    lambda g, var: ratio(jnp.square(g), var),
    doc="""g²/variance of every parameter, with the threshold of `variance`.

    It is infinite where the examples agree to rounding, as in a batch of one, and 0 where g is 0.
    """,
)

contributions = Reading(
    label="contributions",
    outer=Outer,
    rows=_unchanged,
    stack=_examples_first,
    scale=lambda n: 1.0,
    linear=False,
    doc="""x_n and ε_n of every example, not reduced: an `Outer` at each weight matrix, or a `Shared` if it is used at
    several positions, and rows [n, …] at other parameters.""",
    shared=Shared,
)


def gathered(read: Reading, kept: Any) -> Params:
    """The readings computed from `contributions`, equal to those of the backward pass.

    Args:
        read: a reading.
        kept: the result of the reading `contributions`, in the shape of the params.

    Returns:
        The readings, in the shape of the params.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import backprop, linear, second_moment, squared
        >>> from fnn.core import contributions, gathered
        >>> net, x, y = linear(1), jnp.ones((4, 3)), jnp.zeros((4, 1))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> _, kept = backprop(net, squared, contributions)(params, state, (x, y), jax.random.key(1))
        >>> kept["w"].x.shape, kept["w"].error.shape, gathered(second_moment, kept)["w"].shape
        ((4, 3), (4, 1), (3, 1))
    """

    def of(node: Any) -> Any:
        if not is_outer(node):
            return read.rows(node)
        if node.error.ndim == (2 if isinstance(node, Outer) else 3):
            return at_weights(read, *node)
        return read.stack(jax.vmap(of)(type(node)(*(jnp.moveaxis(factor, 1, 0) for factor in node))))

    return jax.tree.map(of, kept, is_leaf=is_outer)
