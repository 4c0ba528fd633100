"""Initial values for weights (slide "Heuristics for the initial approximation").

An initializer is a function ``(key, shape, dtype) -> array``; for a weight matrix shape is (H_{l−1}, H_l) = (inputs,
outputs). The factories below return one. Layer-by-layer and pre-trained starts (3 and 4 on the slide) need data
and are not initializers. Random numbers are drawn flat and then reshaped: the numbers are the same, and XLA compiles a
vmapped draw of a narrow matrix several times faster.

Example:
    >>> import jax, jax.numpy as jnp
    >>> w = orthogonal()(jax.random.key(0), (3, 3), jnp.float32)
    >>> print(jnp.round(jnp.abs(w.T @ w)))
    [[1. 0. 0.]
     [0. 1. 0.]
     [0. 0. 1.]]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import qr
from fnn.core.types import Array

Initializer = Callable[[Array, tuple[int, ...], Any], Array]


def _named(label: str, initializer: Initializer) -> Initializer:
    initializer.__name__ = initializer.__qualname__ = label
    return initializer


def _uniform(bound: Callable[[int, int], float], label: str) -> Initializer:
    """An initializer with uniform numbers on ±bound(inputs, outputs)."""

    def initializer(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        fan_in, fan_out = _weight_shape(label, shape)
        r = bound(fan_in, fan_out)
        return jax.random.uniform(key, (fan_in * fan_out,), dtype, -r, r).reshape(shape)  # flat: see above

    return _named(label, initializer)


def uniform(bound: float) -> Initializer:
    """Uniform numbers on ±bound, of variance bound²/3, for arrays of any shape, including biases.

    On the slide, w_0h is drawn like the other w_kh. The shape of a bias does not contain the number of inputs, so the
    bound must be given.

    Args:
        bound: > 0.

    Example: a layer on 64 inputs whose w_0 is drawn like its w.
        >>> import math
        >>> from fnn import dense, tanh
        >>> dense(32, tanh, w=uniform_fan_in(), b=uniform(1 / math.sqrt(64)))
        dense(32, tanh, w=uniform_fan_in(), b=uniform(0.125))
    """
    checks.positive("bound", bound)

    def initializer(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)  # flat: see above

    return _named(call_repr("uniform", bound), initializer)


def uniform_fan_in(gain: float = 1.0) -> Initializer:
    """w ~ uniform(±gain/√H_{l−1}): the mean square of a layer's sums S is gain²/3 of that of its inputs.

    Slide, heuristic 1. Errata: the statement that it "evens out the variances of the outputs" is false as printed. The
    variance of w is 1/(3H_{l−1}), so S = Σ_k w_k x_k has the mean square E[x²]/3: a third is left after each layer.
    ``gain=math.sqrt(3)`` preserves it, exactly (in the mean) for linear neurons. Also, the slide writes H_l; the
    variance of a sum is that of its H_{l−1} terms. The slide's own H_l is `uniform_fan_out`.

    Args:
        gain: factor on the bound, > 0; 1 is the slide's.

    Example: the factor by which the mean square changes in each of four layers of 512 linear neurons.
        >>> import jax, jax.numpy as jnp, math
        >>> from fnn import linear, serial
        >>> x = jax.random.normal(jax.random.key(0), (64, 512))
        >>> for gain in (1, math.sqrt(3)):
        ...     net = serial(*[linear(512, w=uniform_fan_in(gain))] * 4)
        ...     y = net.apply(*net.init(jax.random.key(1), x), x)
        ...     print(f"{jnp.mean(jnp.square(y)) ** (1 / 4):.2f}")
        0.33
        1.00
    """
    checks.positive("gain", gain)
    return _uniform(lambda fan_in, fan_out: gain / math.sqrt(fan_in), call_repr("uniform_fan_in", gain=(gain, 1.0)))


def uniform_fan_out(gain: float = 1.0) -> Initializer:
    """w ~ uniform(±gain/√H_l), with the layer's own number of neurons: slide, heuristic 1, to the letter.

    The mean square of a layer's sums is gain²H_{l−1}/(3H_l) of that of its inputs. With gain=√3 the mean square of the
    *errors* is preserved in the backward pass, ε_k = Σ_h ε_h w_kh, a sum over H_l terms. If all layers have the same
    width, it equals `uniform_fan_in`.

    Args:
        gain: factor on the bound, > 0; 1 is the slide's.
    """
    checks.positive("gain", gain)
    return _uniform(lambda fan_in, fan_out: gain / math.sqrt(fan_out), call_repr("uniform_fan_out", gain=(gain, 1.0)))


def glorot_uniform(gain: float = 1.0) -> Initializer:
    """w ~ uniform(±gain·√6/√(H_{l−1} + H_l)): evens out the variances of the gradients.

    Slide, heuristic 2. Erratum: the slide prints 6/√(…); Glorot & Bengio 2010 have √6/√(…), the default here.
    The slide's literal constant is ``gain=math.sqrt(6)``.

    Args:
        gain: factor on the bound, > 0; 1 suits tanh.
    """
    checks.positive("gain", gain)
    return _uniform(
        lambda fan_in, fan_out: gain * math.sqrt(6 / (fan_in + fan_out)),
        call_repr("glorot_uniform", gain=(gain, 1.0)),
    )


def he() -> Initializer:
    """w ~ normal(0, 2/H_{l−1}): preserves the mean square through ReLU, which halves it (He et al. 2015, fan-in)."""

    def initializer(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        fan_in, fan_out = _weight_shape("he()", shape)
        return math.sqrt(2 / fan_in) * jax.random.normal(key, (fan_in * fan_out,), dtype).reshape(shape)

    return _named("he()", initializer)


def orthogonal(gain: float = 1.0) -> Initializer:
    """A random orthogonal basis, uniform (Haar): gain·Q from the QR decomposition of a normal matrix.

    Slide, heuristic 5. For shape (i, o) the columns are orthonormal if i ≥ o, the rows if i ≤ o. The signs of R's
    diagonal are moved into Q; otherwise Q would not be uniform (Mezzadri 2007). Half precision is computed in float32.

    Args:
        gain: factor on the basis, > 0.
    """
    checks.positive("gain", gain)
    label = call_repr("orthogonal", gain=(gain, 1.0))

    def initializer(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        fan_in, fan_out = _weight_shape(label, shape)
        wide = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
        tall = jax.random.normal(key, (max(fan_in, fan_out), min(fan_in, fan_out)), wide)
        q, r = qr(tall)
        q = q * jnp.sign(jnp.diag(r))[None, :]
        return (gain * (q if fan_in >= fan_out else q.T)).astype(dtype)

    return _named(label, initializer)


def zeros() -> Initializer:
    """0 everywhere, for biases only: weights that start equal stay equal."""
    return _named("zeros()", lambda key, shape, dtype: jnp.zeros(shape, dtype))


def constant(value: float) -> Initializer:
    """The same finite value everywhere, for a bias that starts every ReLU alive or the initial slope of a PReLU."""
    checks.finite("value", value)
    return _named(call_repr("constant", value), lambda key, shape, dtype: jnp.full(shape, value, dtype))


def _weight_shape(where: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape (inputs, outputs) of a weight matrix; raises ValueError for other shapes."""
    if len(shape) != 2 or min(shape) < 1:
        hint = " Draw biases [o] by b=uniform(bound) or zeros()." if len(shape) == 1 else ""
        raise ValueError(f"{where}: expected a weight matrix of shape (inputs, outputs), both >= 1, got {shape}.{hint}")
    return shape[0], shape[1]
