"""No digit is lost to a difference of nearly equal numbers: every σ and ℒ against decimals of 120 digits, per dtype.

The automatic derivative of a formula that cancels cancels too, so it is no judge here. Below the smallest normal number
of a dtype an error is counted in units of that number.
"""

from decimal import Decimal, localcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.derivatives import ggn_diagonal, ggn_vector_product
from fnn.derivatives.gauss_newton import root_columns
from fnn.derivatives.hessian import loss_hessian
from tests import oracles

DTYPES = [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: jnp.dtype(dtype).name)

SMOOTH = [fnn.sigmoid, fnn.tanh, fnn.logarithmic, fnn.gaussian, fnn.softplus]

POINTS = np.array(
    [1e-30, 1e-8, 1e-4, 1e-3, 0.02, 0.3, 0.9, 0.99, 0.9999, 1, 1.0001, 1.01, 1.7, 3, 4.5, 6, 8, 9, 12, 17, 20, 30, 36.5]
)
"""Both sides of 0, the zeros of G'' and of t'', and where s and t round to 1 in each dtype."""

BOTH_SIDES = np.concatenate([-POINTS[::-1], [0], POINTS])

FEW_ULPS = 6
"""Of a product of three rounded numbers and an exponential."""


def ulps(got: Any, right: np.ndarray, dtype: Any) -> np.ndarray:
    """The error in units of the last digit of the right number, or of the smallest normal one."""
    limits = jnp.finfo(dtype)
    unit = float(limits.eps) * np.abs(right)
    unit = np.where(np.abs(right) > float(limits.tiny), unit, float(limits.tiny))
    return np.abs(np.asarray(got, np.float64) - right) / unit


def assert_digits(got: Any, right: np.ndarray, dtype: Any, allowed: float = FEW_ULPS) -> None:
    assert got.dtype == dtype
    error = ulps(got, right, dtype)
    assert error.max() <= allowed, (
        f"{error.max():.1f} ulps: {got.ravel()[error.argmax()]}, {right.ravel()[error.argmax()]}"
    )


# Activations


@every_dtype
@pytest.mark.parametrize("activation", SMOOTH, ids=str)
def test_activations_keep_their_digits(activation, dtype):
    S = jnp.asarray(BOTH_SIDES).astype(dtype)
    of_square = np.square(np.asarray(S, np.float64)) if activation is fnn.gaussian else 0  # e^−S²/2 with S² rounded
    with np.errstate(all="raise"):
        allowed = FEW_ULPS + of_square / 2 * (dtype in (jnp.float64, jnp.float32))
    for part, formula in zip(
        (activation.value, activation.slope, activation.curvature), oracles.ACTIVATIONS[str(activation)], strict=True
    ):
        right = oracles.exactly(formula, np.asarray(S, np.float64))
        for f in (part, jax.jit(part)):
            assert f(S).dtype == dtype
            assert (ulps(f(S), right, dtype) <= allowed).all(), part


@pytest.mark.parametrize("activation", SMOOTH, ids=str)
def test_what_is_differentiated_keeps_its_digits_too(activation):
    """A Hessian-vector product differentiates slopes: σ'' once more, by σ' in JAX, to five digits in float32."""
    S = jnp.asarray(BOTH_SIDES[np.abs(BOTH_SIDES) > 1e-4], jnp.float32)
    right = oracles.exactly(oracles.ACTIVATIONS[str(activation)][2], np.asarray(S, np.float64))
    got = jax.jit(jax.vmap(jax.grad(activation.slope)))(S)
    away = np.abs(np.abs(np.asarray(S)) - 1) > 0.1  # from the zero of G''
    np.testing.assert_allclose(np.asarray(got)[away], right[away], rtol=1e-5, atol=1e-37)


def test_third_derivatives_pass_through_zero():
    """tanh''' = −2 + 8t² − 6t⁴ and s''' = −1/8 at 0, whatever stands in the slopes."""
    assert float(jax.grad(jax.grad(fnn.tanh.slope))(0.0)) == -2
    assert float(jax.grad(jax.grad(fnn.sigmoid.slope))(0.0)) == -0.125
    assert float(jax.grad(jax.grad(jax.grad(jax.grad(fnn.tanh.slope))))(0.0)) == pytest.approx(16)


@pytest.mark.parametrize("size", [20.0, 300.0, 6e4], ids=str)
def test_logarithmic_in_float16_where_its_square_overflows(size):
    S = jnp.asarray([size, -size], jnp.float16)
    right = oracles.exactly(oracles.ACTIVATIONS["logarithmic"][1], np.asarray(S, np.float64))
    assert_digits(fnn.logarithmic.slope(S), right, jnp.float16)


# Losses


def s(u: Decimal) -> Decimal:
    return 1 / (1 + (-u).exp())


OF_MARGIN = {
    "logistic_margin": (lambda M: (1 + (-M).exp()).ln(), lambda M: -s(-M), lambda M: s(M) * s(-M)),
    "hinge_margin": (lambda M: max(0, 1 - M), lambda M: -int(M < 1), lambda M: 0),
    "exponential_margin": (lambda M: (-M).exp(), lambda M: -(-M).exp(), lambda M: (-M).exp()),
    "sigmoid_margin": (lambda M: s(-M), lambda M: -s(M) * s(-M), lambda M: s(M) * s(-M) * (s(M) - s(-M))),
}
"""ℒ, ℒ' and ℒ'' by M."""


@every_dtype
@pytest.mark.parametrize("y", [1, -1])
@pytest.mark.parametrize(
    "loss", [fnn.logistic_margin, fnn.hinge_margin, fnn.exponential_margin, fnn.sigmoid_margin], ids=str
)
def test_margin_losses_keep_their_digits(loss, y, dtype):
    a = jnp.asarray(BOTH_SIDES[np.abs(BOTH_SIDES) < (10 if dtype == jnp.float16 else 40)], dtype)[:, None]
    M = np.asarray(a, np.float64)[:, 0] * y
    value, slope, curvature = (oracles.exactly(f, M) for f in OF_MARGIN[str(loss)])
    targets = jnp.full(a.shape, y)
    assert_digits(loss.value(a, targets), value, dtype)
    assert_digits(loss.slope(a, targets)[:, 0], y * slope, dtype)
    assert_digits(loss.curvature(a, targets)[:, 0], curvature, dtype)
    if loss.root is not None:
        assert_digits(loss.root(a, targets)[:, 0], np.sqrt(curvature), dtype)


@every_dtype
@pytest.mark.parametrize("y", [0, 1])
def test_binary_cross_entropy_keeps_its_digits(y, dtype):
    loss: Any = fnn.binary_cross_entropy
    a = jnp.asarray(BOTH_SIDES[np.abs(BOTH_SIDES) < (10 if dtype == jnp.float16 else 40)], dtype)[:, None]
    value, slope, curvature = (
        oracles.exactly(f, (2 * y - 1) * np.asarray(a[:, 0], float)) for f in OF_MARGIN["logistic_margin"]
    )
    targets = jnp.full(a.shape, y)
    assert_digits(loss.value(a, targets), value, dtype)
    assert_digits(loss.slope(a, targets)[:, 0], (2 * y - 1) * slope, dtype)
    assert_digits(loss.curvature(a, targets)[:, 0], curvature, dtype)
    assert_digits(loss.root(a, targets)[:, 0], np.sqrt(curvature), dtype)


LOGITS = np.array(
    [
        [0.0, 0.0, 0.0],
        [1e-3, 0.0, -1e-3],
        [3.0, 0.0, -1.0],
        [15.0, 0.0, 1.0],
        [20.0, 0.0, 20.0],
        [-17.0, 17.0, 0.0],
        [36.0, -36.0, 0.0],
        [1026.0, 1024.0, 1020.0],
        [2.0**20 + 2, 2.0**20, -(2.0**20)],
        [-1e4, 9.0, 8.0],
    ]
)
"""Undecided, ties, confident rows, and large offsets."""


def exact_cross_entropy(a: np.ndarray, label: int) -> tuple[np.ndarray, ...]:
    """Value, slope, Hessian of every row of logits, in decimals."""
    values, slopes, hessians = [], [], []
    with localcontext(oracles.EXACT):
        for row in a:
            e = [Decimal(float(a_m)).exp() for a_m in row]
            p = [e_m / sum(e) for e_m in e]
            values.append(float(-p[label].ln()))
            slopes.append([float(p_m - int(m == label)) for m, p_m in enumerate(p)])
            hessians.append([[float(p_m * (int(m == k) - p_k)) for k, p_k in enumerate(p)] for m, p_m in enumerate(p)])
    return np.array(values), np.array(slopes), np.array(hessians)


def logits(dtype: Any) -> jax.Array:
    a = jnp.asarray(LOGITS).astype(dtype)
    return a[jnp.isfinite(a).all(axis=1)]


@every_dtype
@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_keeps_its_digits(label, dtype):
    a = logits(dtype)
    value, slope, hessian = exact_cross_entropy(np.asarray(a, np.float64), label)
    y = jnp.full(len(a), label)
    loss: Any = fnn.softmax_cross_entropy
    for wrapped in (lambda f: f, jax.jit):
        assert_digits(wrapped(loss.value)(a, y), value, dtype)
        assert_digits(wrapped(loss.slope)(a, y), slope, dtype)
        assert_digits(wrapped(loss.curvature)(a, y), np.diagonal(hessian, axis1=1, axis2=2), dtype)
        assert_digits(
            wrapped(loss_hessian)(loss, a, y) if wrapped is not jax.jit else jax.jit(loss.hessian)(a, y), hessian, dtype
        )


@pytest.mark.parametrize("label", [0, 1, 2])
def test_cross_entropy_differentiated_keeps_its_digits(label):
    """The gradient of the value and the Jacobian of the slope, which Hessian-vector products take, in float32."""
    a = logits(jnp.float32)
    _, slope, hessian = exact_cross_entropy(np.asarray(a, np.float64), label)
    y, loss = jnp.asarray([label]), fnn.softmax_cross_entropy
    of_value = jax.vmap(jax.grad(lambda a: loss.value(a[None], y)[0]))(a)
    of_slope = jax.vmap(jax.jacfwd(lambda a: loss.slope(a[None], y)[0]))(a)
    assert_digits(of_value, slope, jnp.float32)
    assert_digits(of_slope, hessian, jnp.float32)


def test_the_root_squared_is_the_hessian_of_a_confident_example():
    a, y = logits(jnp.float32), jnp.zeros(len(LOGITS), int)
    _, _, hessian = exact_cross_entropy(np.asarray(a, np.float64), 0)
    columns = np.asarray(root_columns(fnn.softmax_cross_entropy, a, y), np.float64)
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    squares = np.square(columns).sum(axis=0)
    np.testing.assert_allclose(squares, diagonal, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("gap", [10.0, 18.0, 30.0])
def test_no_confident_example_makes_the_gauss_newton_matrix_indefinite(gap):
    """Two classes with a gap g between the logits: ∂²ℒ/∂a² = s(g)s(−g)·[[1, −1], [−1, 1]], eigenvalues 0 and 2."""
    net = fnn.linear(2)
    loss: Any = fnn.softmax_cross_entropy
    a = jnp.asarray([[-gap / 2, gap / 2]], jnp.float32)
    curvature = float(1 / (1 + np.exp(-gap)) / (1 + np.exp(gap)))
    hessian = np.asarray(loss.hessian(a, jnp.array([1])), np.float64)[0] / curvature
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [0, 2], atol=1e-6)
    x = jnp.ones((1, 1), jnp.float32)
    params = {"w": a, "b": jnp.zeros(2, jnp.float32)}
    given = params, (), (x, jnp.array([1])), jax.random.key(0)
    for diagonal in (fnn.second_derivatives(net, loss), ggn_diagonal(net, loss)):
        np.testing.assert_allclose(np.asarray(diagonal(*given)[1]["b"]) / curvature, [1, 1], rtol=1e-5)
    v = {"w": jnp.asarray([[0.0, 1.0]], jnp.float32), "b": jnp.zeros(2, jnp.float32)}
    np.testing.assert_allclose(ggn_vector_product(net, loss)(*given, v)["b"] / curvature, [-1, 1], rtol=1e-5)


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_logit_of_minus_infinity_is_a_class_ruled_out(label):
    """As if the class were not there; where it is the label, the loss is infinite and its slope still 1 too much."""
    a, y = jnp.asarray([[0.5, -0.5, -jnp.inf]]), jnp.asarray([label])
    loss: Any = fnn.softmax_cross_entropy
    p = np.append(np.exp([0.5, -0.5]) / np.exp([0.5, -0.5]).sum(), 0)
    one_hot = np.eye(3)[label]
    np.testing.assert_allclose(loss.value(a, y)[0], -np.log(p[label]) if p[label] else np.inf, rtol=1e-12)
    np.testing.assert_allclose(loss.slope(a, y)[0], p - one_hot, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda a: loss.value(a, y)[0])(a)[0], p - one_hot, rtol=1e-12)
    right = np.diag(p) - np.outer(p, p)
    np.testing.assert_allclose(loss.hessian(a, y)[0], right, rtol=1e-12)
    np.testing.assert_allclose(jax.jacfwd(lambda a: loss.slope(a, y)[0])(a)[:, 0], right, atol=1e-15)
    root = np.asarray(loss.root(a, y)[0])
    np.testing.assert_allclose(root @ root.T, right, atol=1e-15)


# Labels


@pytest.mark.parametrize(
    ("dtype", "classes", "label"),
    [
        ("uint8", 256, 255),
        ("uint8", 300, 5),
        ("int8", 128, 127),
        ("int8", 200, 3),
        ("int16", 40_000, 7),
        ("uint16", 65_536, 65_535),
        ("uint32", 3, 2),
        ("int64", 3, 2),
        ("uint64", 3, 2),
    ],
)
def test_labels_in_every_integer_dtype(dtype, classes, label):
    """ln M for equal logits, and one column of the slope is the label's."""
    loss, a, y = fnn.softmax_cross_entropy, jnp.zeros((1, classes), jnp.float32), jnp.asarray([label], dtype)
    for wrapped in (lambda f: f, jax.jit):
        np.testing.assert_allclose(wrapped(loss.value)(a, y), [np.log(classes)], rtol=1e-5)
        slope = np.asarray(wrapped(loss.slope)(a, y)[0])
        assert np.flatnonzero(slope < 0).tolist() == [label]
        np.testing.assert_allclose(slope[label], 1 / classes - 1, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "bad"), [("int8", -1), ("uint8", 3), ("uint32", 2**32 - 1), ("int64", 2**32 + 1)])
def test_a_traced_label_out_of_range_is_nan_in_every_integer_dtype(dtype, bad):
    loss, a = fnn.softmax_cross_entropy, jnp.zeros((2, 3))
    value, slope = jax.jit(lambda y: (loss.value(a, y), loss.slope(a, y)))(jnp.asarray([1, bad], dtype))
    assert np.isnan(value).tolist() == [False, True]
    assert np.isnan(slope).tolist() == [[False] * 3, [True] * 3]


def test_a_traced_float_label_is_not_rounded_to_one_that_is_allowed():
    y = jnp.asarray([[1.001], [1.0]], jnp.float32)
    value = jax.jit(fnn.binary_cross_entropy.value)(jnp.zeros((2, 1), jnp.bfloat16), y)
    assert np.isnan(value.astype(jnp.float32)).tolist() == [True, False]
