"""σ, σ', σ'' against exact decimals, against `jax.grad`, at the kinks and at the ends of the number line."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Activation
from tests import oracles

ALL = [
    fnn.heaviside,
    fnn.sigmoid,
    fnn.tanh,
    fnn.logarithmic,
    fnn.gaussian,
    fnn.identity,
    fnn.relu,
    fnn.softplus,
    fnn.leaky_relu(0.01),
    fnn.leaky_relu(-0.5),
]
PARTS = ["value", "slope", "curvature"]

every_activation = pytest.mark.parametrize("activation", ALL, ids=str)

SMOOTH = np.array([-100.0, -20.0, -3.0, -1.0, -0.3, -1e-3, 1e-3, 0.3, 1.0, 3.0, 20.0, 100.0])
"""No kink of any activation among them."""

ENDS = [5e-45, 1e-38, 1.0, 20.0, 88.0, 104.0, 1e4, 1e19, 2e19, 1e30]

ULP_OF_ONE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-15}
"""1 − s and 1 − t² are differences from 1, exact to an ulp of 1 and no better."""


def parts(activation: Activation, S: Any) -> tuple[np.ndarray, ...]:
    """Value, slope and curvature at S."""
    f = jax.jit(lambda S: (activation.value(S), activation.slope(S), activation.curvature(S)))
    return tuple(np.asarray(part) for part in f(jnp.asarray(S)))


def ends(dtype: Any) -> np.ndarray:
    """0, ±ENDS and ± the largest finite number of the dtype."""
    positive = np.array([0, *ENDS, float(jnp.finfo(dtype).max)]).astype(dtype)
    return np.concatenate([positive, -positive])


def every_bfloat16(dtype: Any) -> np.ndarray:
    """All finite bfloat16 numbers: every sign, every exponent float32 has, 128 steps between powers of 2."""
    bits = np.arange(2**16, dtype=np.uint16)
    infinite_or_nan = bits & 0x7F80 == 0x7F80
    return bits[~infinite_or_nan].view(jnp.bfloat16).astype(dtype)


@every_activation
def test_equals_the_formulas_in_exact_decimals(activation):
    for got, formula in zip(parts(activation, SMOOTH), oracles.ACTIVATIONS[str(activation)], strict=True):
        np.testing.assert_allclose(got, oracles.exactly(formula, SMOOTH), **ULP_OF_ONE)


@every_activation
def test_derivatives_are_the_automatic_ones(activation):
    _, slope, curvature = parts(activation, SMOOTH)
    of_value, of_slope = (jax.jit(jax.vmap(jax.grad(f)))(SMOOTH) for f in (activation.value, activation.slope))
    np.testing.assert_allclose(slope, of_value, **ULP_OF_ONE)
    np.testing.assert_allclose(curvature, of_slope, **ULP_OF_ONE)


KINKS: list[tuple[Activation, float, Callable | None]] = [
    (fnn.heaviside, 0.0, None),
    (fnn.relu, 0.0, jax.nn.relu),
    (fnn.leaky_relu(0.1), 1.0, lambda S: jax.nn.leaky_relu(S, 0.1)),
    (fnn.leaky_relu(2.0), 1.0, lambda S: jax.nn.leaky_relu(S, 2.0)),
]


@pytest.mark.parametrize("zero", [0.0, -0.0], ids=str)
@pytest.mark.parametrize(("activation", "slope", "judge"), KINKS, ids=[str(activation) for activation, *_ in KINKS])
def test_at_the_kink_the_choice_is_that_of_jax_nn(activation, slope, judge, zero):
    assert parts(activation, zero) == (0, slope, 0)
    if judge is not None:
        assert slope == jax.grad(judge)(zero) == jax.grad(activation.value)(zero)


@every_activation
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("numbers", [ends, every_bfloat16], ids=["ends", "every bfloat16"])
def test_finite_for_every_finite_number(activation, dtype, numbers):
    S = numbers(dtype)
    for name, result in zip(PARTS, parts(activation, S), strict=True):
        finite = np.isfinite(result.astype(np.float32))
        assert finite.all(), f"{name} is not finite at {S[~finite]}"


def test_finite_without_jit_too():
    """Compiled, XLA may fuse away an overflow that stands in the formula."""
    for activation in ALL:
        for part in (activation.value, activation.slope, activation.curvature):
            assert jnp.isfinite(part(jnp.asarray(ends(jnp.float32)))).all()


@every_activation
def test_right_to_six_digits_in_float32(activation):
    S = np.concatenate([-np.geomspace(1e-6, 100, 25), np.geomspace(1e-6, 100, 25)]).astype(np.float32)
    for got, formula in zip(parts(activation, S), oracles.ACTIVATIONS[str(activation)], strict=True):
        # absolute: eight ulps of float32 at 1, see ULP_OF_ONE; relative: e^−S²/2 with S² rounded at 100
        np.testing.assert_allclose(got, oracles.exactly(formula, S), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("size", [1e4, 1e19, 1e30, 3.4e38], ids=str)
def test_logarithmic_stays_right_where_its_square_overflows(size):
    S = np.array([size, -size], np.float32)
    for got, formula in zip(parts(fnn.logarithmic, S), oracles.ACTIVATIONS["logarithmic"], strict=True):
        # six of float32's seven digits; where S² overflows the slope, 1/|S| < 1e-19, may be 0
        np.testing.assert_allclose(got, oracles.exactly(formula, S), rtol=1e-6, atol=1e-19)


@every_activation
def test_keeps_shape_and_dtype(activation):
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64):
        for shape in ((), (3,), (2, 3), (0, 4)):
            S = jax.ShapeDtypeStruct(shape, dtype)
            for part in (activation.value, activation.slope, activation.curvature):
                result = jax.eval_shape(part, S)
                assert (result.shape, result.dtype) == (S.shape, S.dtype)


@every_activation
def test_nan_stays_nan(activation):
    assert np.isnan(parts(activation, np.nan)[0])


def test_slope_of_leaky_relu_may_be_traced():
    S = jnp.asarray([-2.0, 0.0, 3.0], jnp.float32)
    value, slope = jax.jit(lambda a: (fnn.leaky_relu(a).value(S), fnn.leaky_relu(a).slope(S)))(jnp.asarray(0.1))
    assert value.dtype == slope.dtype == jnp.float32
    for got, expected in zip((value, slope), parts(fnn.leaky_relu(0.1), S), strict=False):
        np.testing.assert_array_equal(got, expected)
