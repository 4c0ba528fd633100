"""Activation functions σ(S) with σ' and σ'' by hand (slides "Activation functions", "ReLU and PReLU").

Every function is elementwise, keeps shape and dtype, and is finite with finite derivatives for every finite S: the
slide's e^z and e^{2z} overflow as printed, so each is written in a form that does not. No form subtracts two nearly
equal numbers: 1 − s, 1 − t² and S² − 1 are computed without the difference, so that they keep their digits.

The slide "One-layer net" requires that σ be continuous, monotone and preferably differentiable. H is not continuous
and G is not monotone, though both are on the next slide; the others are all three, ReLU except at its kink.

Where a derivative jumps, its value is that of `jax.grad` of the function of the same name in `jax.nn`:

=============== ======= ==========================================================
activation      σ(0)    σ'(0)
=============== ======= ==========================================================
`heaviside`     0       0, as everywhere
`relu`          0       0
`leaky_relu(α)` 0       1: `jax.nn.leaky_relu` puts S = 0 on the positive side
=============== ======= ==========================================================

Example:
    >>> import jax.numpy as jnp
    >>> from fnn import tanh
    >>> S = jnp.array([-1.0, 0.0, 1e30])
    >>> tanh
    tanh
    >>> print(tanh.value(S), tanh.slope(S))
    [-0.7615942  0.         1.       ] [0.4199743 1.        0.       ]
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import logistic, logistic_density, wide
from fnn.core.types import Activation, Array


def _heaviside(S: Array) -> Array:
    return jnp.where(jnp.isnan(S), S, (S > 0).astype(S.dtype))


def _relu_slope(S: Array) -> Array:
    # [S > 0]. A product with a converted comparison becomes a selection, which XLA does not vectorise on a CPU: the
    # backward pass of a small network would take three times as long.
    return jnp.maximum(jnp.sign(S), 0)


def _sigmoid_curvature(S: Array) -> Array:
    return -jnp.tanh(S / 2) * logistic_density(S)


@jax.custom_jvp
def _tanh(S: Array) -> Array:
    return jnp.tanh(S)


@_tanh.defjvp
def _tanh_jvp(S: tuple[Array], tangent: tuple[Array]) -> tuple[Array, Array]:
    s = jax.nn.sigmoid
    return _tanh(*S), 4 * s(2 * S[0]) * s(-2 * S[0]) * tangent[0]  # JAX has 1 − t², which cancels to 0 at ±9


def _tanh_slope(S: Array) -> Array:
    return 4 * logistic_density(2 * S)


def _tanh_curvature(S: Array) -> Array:
    return -2 * jnp.tanh(S) * _tanh_slope(S)


def _asinh_slope(S: Array) -> Array:
    m = jax.lax.stop_gradient(jnp.maximum(jnp.abs(S), 1))  # the slope is the same for every m; with m = 1, S² overflows
    return jax.lax.rsqrt(jnp.square(S / m) + jnp.square(1 / m)) / m


def _asinh_curvature(S: Array) -> Array:
    slope = _asinh_slope(S)
    return -(S * slope) * slope * slope


def _gaussian(S: Array) -> Array:
    wider = wide(S)  # S² rounded to few digits would change the value by a factor e^{±S²·eps}
    return jnp.exp(-wider * wider / 2).astype(S.dtype)


def _gaussian_slope(S: Array) -> Array:
    return -S * _gaussian(S)


def _gaussian_curvature(S: Array) -> Array:
    return (S - 1) * _gaussian(S) * (S + 1)  # S² − 1 would cancel at 1, and (S² − 1)·G would be ∞·0 far out


heaviside = Activation(
    label="heaviside",
    value=_heaviside,
    slope=jnp.zeros_like,
    curvature=jnp.zeros_like,
    doc="H(S) = [S > 0], the threshold of the McCulloch–Pitts neuron. H' = 0: nothing is learned through it.",
)

sigmoid = Activation(
    label="sigmoid",
    value=logistic,
    slope=logistic_density,
    curvature=_sigmoid_curvature,
    doc="s = 1/(1 + e^−S);  s' = s(1 − s) = s(S)s(−S);  s'' = s(1 − s)(1 − 2s) = −tanh(S/2) s'.",
)

tanh = Activation(
    label="tanh",
    value=_tanh,
    slope=_tanh_slope,
    curvature=_tanh_curvature,
    doc="t = tanh S;  t' = 1 − t² = 4s'(2S) with s' of the sigmoid;  t'' = −2t(1 − t²).",
)

logarithmic = Activation(
    label="logarithmic",
    value=jnp.arcsinh,
    slope=_asinh_slope,
    curvature=_asinh_curvature,
    doc="""L = ln(S + √(S² + 1)) = asinh S;  L' = 1/√(S² + 1);  L'' = −S/(S² + 1)^{3/2}.

    Unbounded: it has no asymptote to saturate at.
    """,
)

gaussian = Activation(
    label="gaussian",
    value=_gaussian,
    slope=_gaussian_slope,
    curvature=_gaussian_curvature,
    doc="G = e^{−S²/2};  G' = −S·G;  G'' = (S² − 1)·G. The slide gives no formula; the course's other texts do.",
)

identity = Activation(
    label="identity",
    value=lambda S: S,
    slope=jnp.ones_like,
    curvature=jnp.zeros_like,
    doc="Z = S, the linear neuron;  Z' = 1;  Z'' = 0.",
)

relu = Activation(
    label="relu",
    value=jax.nn.relu,
    slope=_relu_slope,
    curvature=jnp.zeros_like,
    doc="max(0, S);  slope [S > 0], so 0 at the kink;  curvature 0.",
)

softplus = Activation(
    label="softplus",
    value=jax.nn.softplus,
    slope=logistic,
    curvature=logistic_density,
    doc="ln(1 + e^S), the smooth ReLU;  slope s = 1/(1 + e^−S);  curvature s(1 − s).",
)


def _normal_density(S: Array) -> Array:
    return _gaussian(S) * math.sqrt(0.5 / math.pi)


def _normal_distribution(S: Array) -> Array:
    return 0.5 * jax.scipy.special.erfc(-S * math.sqrt(0.5))


gelu = Activation(
    label="gelu",
    value=lambda S: S * _normal_distribution(S),
    slope=lambda S: _normal_distribution(S) + S * _normal_density(S),
    curvature=lambda S: _normal_density(S) * (2 - S * S),
    doc="""S·Φ(S) with the normal distribution Φ and its density φ;  slope Φ + Sφ;  curvature φ(2 − S²).

    The exact form, as `jax.nn.gelu(approximate=False)` and torch's default (D. Hendrycks, K. Gimpel, 2016).
    """,
)

silu = Activation(
    label="silu",
    value=lambda S: S * logistic(S),
    slope=lambda S: logistic(S) + S * logistic_density(S),
    curvature=lambda S: logistic_density(S) * (2 - S * jnp.tanh(S / 2)),
    doc="S·s(S) with the sigmoid s, also called swish;  slope s + Ss';  curvature s'(2 − S tanh(S/2)).",
)


def leaky_relu(alpha: float = 0.01) -> Activation:
    """max(0, S) + α·min(0, S) with a fixed α; slope 1 for S ≥ 0 and α below; curvature 0.

    Args:
        alpha: slope of the negative side, a finite number or a tracer. The layer `prelu` trains it.

    Returns:
        The activation.

    Raises:
        ValueError: an alpha that is not one finite number.

    Example:
        >>> import jax.numpy as jnp
        >>> print(leaky_relu(0.1).value(jnp.array([-2.0, 3.0])))
        [-0.2  3. ]
    """
    checks.finite("alpha", alpha)

    def slope(S: Array) -> Array:
        return jnp.where(S >= 0, jnp.ones_like(S), jnp.asarray(alpha, S.dtype))

    return Activation(
        label=call_repr("leaky_relu", alpha),
        value=lambda S: jnp.where(S >= 0, S, jnp.asarray(alpha, S.dtype) * S),
        slope=slope,
        curvature=jnp.zeros_like,
        doc="max(0, S) + α·min(0, S) with a fixed α;  slope 1 for S ≥ 0 and α below;  curvature 0.",
    )


def activation_from(f: Callable[[Array], Array]) -> Activation:
    """An activation of one function of one number, with automatic derivatives.

    Args:
        f: ``S -> σ(S)``, from a scalar to a scalar, differentiable twice by JAX.

    Returns:
        An `Activation` whose label is the function's name.

    Raises:
        TypeError: f is not a function.
        ValueError: when called, for an f that changes the shape or dtype of a scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.nn import activation_from
        >>> swish = activation_from(jax.nn.swish)
        >>> print(swish.value(jnp.zeros(2)), swish.slope(jnp.zeros(2)), swish.curvature(jnp.zeros(2)))
        [0. 0.] [0.5 0.5] [0.5 0.5]
    """
    checks.is_function("activation_from", f)
    label = call_repr("activation_from", f)

    def each(of: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def of_array(S: Array) -> Array:
            one = jax.ShapeDtypeStruct((), S.dtype)
            found = jax.eval_shape(f, one)
            if (getattr(found, "shape", None), getattr(found, "dtype", None)) != ((), S.dtype):
                raise ValueError(f"{label}: expected f to map a {S.dtype} scalar to one, got {found}.")
            return jax.vmap(of)(S.reshape(-1)).reshape(S.shape)

        return of_array

    return Activation(label, each(f), each(jax.grad(f)), each(jax.grad(jax.grad(f))), f.__doc__ or "")
