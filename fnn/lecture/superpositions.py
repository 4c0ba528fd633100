"""Kolmogorov's superposition of functions of one variable (slide "Kolmogorov 1957"), as a trainable network."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.types import Array, Layer
from fnn.lecture.approximators import Function
from fnn.nn.compositions import serial
from fnn.nn.copies import grouped
from fnn.nn.functions import from_function


def kolmogorov(d: int, *, inner: Layer, outer: Layer) -> Layer:
    """Kolmogorov's superposition with trainable functions of one variable (slide "Kolmogorov 1957").

    Equation::

        a(x) = Σ_{i=1}^{2d+1} σ_i(Σ_{j=1}^d f_ij(x_j))

    Each f_ij is an `inner` network and each σ_i an `outer` one, with separate weights. In the theorem the f_ij are the
    same for all a; here they are trained like the rest.

    Args:
        d: number of variables.
        inner: a layer from [n, 1] to [n, 1], such as ``serial(dense(8, tanh), linear(1))``.
        outer: a layer of the same widths.

    Returns:
        A layer from [n, d] to [n, 1]. The middle of its params are those of the f_ij [2d+1, d, …] and of the σ_i
        [2d+1, …].

    Raises:
        TypeError: `inner` or `outer` is not a layer.
        ValueError: d < 1, layers of another width; in init, x is not [n, d].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import dense, linear, serial, tanh
        >>> small = serial(dense(8, tanh), linear(1))
        >>> net = kolmogorov(2, inner=small, outer=small)
        >>> (_, (f, _, sigma), _), state = params, _ = net.init(jax.random.key(0), jnp.zeros((1, 2)))
        >>> f[0]["w"].shape, sigma[0]["w"].shape
        ((5, 2, 1, 8), (5, 1, 8))
    """
    d = checks.count("d", d)
    _one_variable("kolmogorov: inner", inner)
    _one_variable("kolmogorov: outer", outer)
    terms = 2 * d + 1
    label = f"kolmogorov({d}, inner={inner}, outer={outer})"

    def copied(x: Array) -> Array:
        checks.rows(label, x, d)
        return jnp.tile(x, (1, terms))

    total = _wiring("total", lambda x: jnp.sum(x, axis=1, keepdims=True))
    term = serial(grouped(inner, d), total, outer)
    return serial(_wiring("copies", copied), grouped(term, terms), total)._replace(label=label)


def _wiring(label: str, f: Function) -> Layer:
    """A layer without parameters."""
    return from_function(lambda key, x: (), lambda params, x: f(x), label)


def _one_variable(where: str, layer: Any) -> None:
    """Raise an error unless the value is a layer from one feature to one."""
    checks.is_layer(where, layer)

    def output(x: jax.Array) -> jax.Array:
        params, state = layer.init(jax.random.key(0), x)
        return layer.apply(params, state, x)

    y = jax.eval_shape(output, jax.ShapeDtypeStruct((2, 1), jnp.float32))
    if y.shape != (2, 1):
        raise ValueError(
            f"{where}: expected a layer of one variable, from [n, 1] to [n, 1], got one to [n, {y.shape[-1]}]: "
            f"{layer}. End it by linear(1)."
        )
