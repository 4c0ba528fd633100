"""Activation functions σ(S) with σ' and σ'' by hand (slides "Activation functions", "ReLU and PReLU").

Every function is elementwise, keeps shape and dtype, and is finite with finite derivatives for every finite S: the
slide's e^z and e^{2z} overflow as printed, so each is written in a form that does not.

Where a derivative jumps, the choice is that of `jax.grad` of the function of the same name in `jax.nn`:

=============== ======= ==========================================================
activation      σ(0)    σ'(0)
=============== ======= ==========================================================
`heaviside`     0       0, as everywhere
`relu`          0       0
`leaky_relu(α)` 0       1: `jax.nn.leaky_relu` counts S = 0 to the positive side
=============== ======= ==========================================================

Example:
    >>> import jax.numpy as jnp
    >>> from fnn import tanh
    >>> S = jnp.array([-1.0, 0.0, 1e30])
    >>> tanh
    tanh
    >>> print(tanh.value(S), tanh.slope(S))
    [-0.7615942  0.         1.       ] [0.41997433 1.         0.        ]
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.types import Activation, Array, written


def _heaviside(S: Array) -> Array:
    return jnp.where(jnp.isnan(S), S, (S > 0).astype(S.dtype))


def _relu_slope(S: Array) -> Array:
    # [S > 0]. A product with a converted comparison becomes a selection, which XLA does not vectorise on a CPU: in a
    # small network the backward pass of this layer then takes three times as long.
    return jnp.maximum(jnp.sign(S), 0)


def _sigmoid_slope(S: Array) -> Array:
    s = jax.nn.sigmoid(S)
    return s * (1 - s)


def _sigmoid_curvature(S: Array) -> Array:
    s = jax.nn.sigmoid(S)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_slope(S: Array) -> Array:
    t = jnp.tanh(S)
    return 1 - t * t


def _tanh_curvature(S: Array) -> Array:
    t = jnp.tanh(S)
    return -2 * t * (1 - t * t)


def _asinh_slope(S: Array) -> Array:
    return jax.lax.rsqrt(S * S + 1)  # where S² overflows this is 0, and 1/√(S² + 1) below 1e-19


def _asinh_curvature(S: Array) -> Array:
    slope = _asinh_slope(S)
    return -(S * slope) * slope * slope


def _gaussian(S: Array) -> Array:
    return jnp.exp(-S * S / 2)


def _gaussian_slope(S: Array) -> Array:
    return -S * _gaussian(S)


def _gaussian_curvature(S: Array) -> Array:
    g = _gaussian(S)
    return S * (S * g) - g  # (S² − 1)g would be ∞·0 far out


heaviside = Activation("heaviside", _heaviside, jnp.zeros_like, jnp.zeros_like)
"""H(S) = [S > 0], the threshold of the McCulloch–Pitts neuron. H' = 0: nothing learns through it."""

sigmoid = Activation("sigmoid", jax.nn.sigmoid, _sigmoid_slope, _sigmoid_curvature)
"""s = 1/(1 + e^−S);  s' = s(1 − s);  s'' = s(1 − s)(1 − 2s)."""

tanh = Activation("tanh", jnp.tanh, _tanh_slope, _tanh_curvature)
"""t = tanh S;  t' = 1 − t²;  t'' = −2t(1 − t²)."""

logarithmic = Activation("logarithmic", jnp.arcsinh, _asinh_slope, _asinh_curvature)
"""L = ln(S + √(S² + 1)) = asinh S;  L' = 1/√(S² + 1);  L'' = −S/(S² + 1)^{3/2}. Unbounded: it has no asymptote to
paralyse on."""

gaussian = Activation("gaussian", _gaussian, _gaussian_slope, _gaussian_curvature)
"""G = e^{−S²/2};  G' = −S·G;  G'' = (S² − 1)·G. The slide gives no formula; the course's other texts do."""

identity = Activation("identity", lambda S: S, jnp.ones_like, jnp.zeros_like)
"""Z = S, the linear neuron;  Z' = 1;  Z'' = 0."""

relu = Activation("relu", jax.nn.relu, _relu_slope, jnp.zeros_like)
"""max(0, S);  slope [S > 0], so 0 at the kink;  curvature 0."""

softplus = Activation("softplus", jax.nn.softplus, jax.nn.sigmoid, _sigmoid_slope)
"""ln(1 + e^S), the smooth ReLU;  slope s = 1/(1 + e^−S);  curvature s(1 − s)."""


def leaky_relu(alpha: float = 0.01) -> Activation:
    """max(0, S) + α·min(0, S) with α fixed; slope 1 for S ≥ 0 and α below; curvature 0.

    Args:
        alpha: slope of the negative side, a finite number or a tracer. The layer `prelu` trains it.

    Returns:
        The activation.

    Raises:
        ValueError: where alpha is not one finite number.

    Example:
        >>> import jax.numpy as jnp
        >>> print(leaky_relu(0.1).value(jnp.array([-2.0, 3.0])))
        [-0.2  3. ]
    """
    checks.finite("alpha", alpha)

    def slope(S: Array) -> Array:
        return jnp.where(S >= 0, jnp.ones_like(S), jnp.asarray(alpha, S.dtype))

    return Activation(
        label=written("leaky_relu", alpha),
        value=lambda S: jnp.where(S >= 0, S, jnp.asarray(alpha, S.dtype) * S),
        slope=slope,
        curvature=jnp.zeros_like,
    )
