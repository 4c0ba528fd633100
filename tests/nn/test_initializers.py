"""First weights: bounds, variances, bases, dtypes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import dense, linear, serial, tanh
from fnn.nn import constant, glorot_uniform, he, orthogonal, uniform, uniform_fan_in, uniform_fan_out, zeros

INPUTS, OUTPUTS = 1200, 800
SIZE = INPUTS * OUTPUTS

every_dtype = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)


def drawn(initializer, shape=(INPUTS, OUTPUTS), dtype=jnp.float64, seed=0) -> np.ndarray:
    return np.asarray(jax.jit(lambda key: initializer(key, shape, dtype))(jax.random.key(seed)))


UNIFORM = [
    (uniform_fan_in(), 1 / math.sqrt(INPUTS)),
    (uniform_fan_in(gain=2.0), 2 / math.sqrt(INPUTS)),
    (uniform_fan_out(), 1 / math.sqrt(OUTPUTS)),  # the slide's H_l, as printed
    (uniform_fan_out(gain=0.5), 0.5 / math.sqrt(OUTPUTS)),
    (uniform(0.3), 0.3),
    (glorot_uniform(), math.sqrt(6 / (INPUTS + OUTPUTS))),
    (glorot_uniform(gain=0.5), 0.5 * math.sqrt(6 / (INPUTS + OUTPUTS))),
    (glorot_uniform(gain=math.sqrt(6)), 6 / math.sqrt(INPUTS + OUTPUTS)),  # the slide's constant, as printed
]


@pytest.mark.parametrize(
    ("initializer", "bound"),
    UNIFORM,
    ids=["fan_in", "fan_in, gain 2", "slide's H_l", "fan_out, gain 1/2", "bound", "glorot", "gain 1/2", "slide's 6"],
)
def test_uniform_fills_its_bounds_and_no_more(initializer, bound):
    w = drawn(initializer)
    assert np.abs(w).max() <= bound
    # the largest of N uniform numbers misses the end by 1/N of the width on average; ten times that is rare
    assert w.max() > bound * (1 - 20 / SIZE)
    assert w.min() < -bound * (1 - 20 / SIZE)


VARIANCES = [
    (uniform_fan_in(), 1 / (3 * INPUTS)),
    (uniform_fan_in(math.sqrt(3)), 1 / INPUTS),
    (uniform_fan_out(math.sqrt(3)), 1 / OUTPUTS),
    (uniform(0.3), 0.03),
    (glorot_uniform(), 2 / (INPUTS + OUTPUTS)),
    (glorot_uniform(2.0), 8 / (INPUTS + OUTPUTS)),
    (he(), 2 / INPUTS),
]


@pytest.mark.parametrize(("initializer", "variance"), VARIANCES, ids=lambda case: getattr(case, "__name__", ""))
def test_mean_is_zero_and_variance_is_the_formula(initializer, variance):
    w = drawn(initializer)
    # five standard errors: of a mean √(var/N), of a normal sample's variance var·√(2/N), a uniform one's is less
    assert abs(w.mean()) < 5 * math.sqrt(variance / SIZE)
    assert abs(w.var() / variance - 1) < 5 * math.sqrt(2 / SIZE)


@pytest.mark.parametrize(
    ("initializer", "forward", "back"),
    [
        (uniform_fan_in(), 1 / 3, 1 / 6),
        (uniform_fan_in(math.sqrt(3)), 1, 1 / 2),
        (uniform_fan_out(), 2 / 3, 1 / 3),
        (uniform_fan_out(math.sqrt(3)), 2, 1),
    ],
    ids=lambda case: getattr(case, "__name__", ""),
)
def test_the_mean_square_changes_by_the_stated_factor_a_layer(initializer, forward, back):
    """Forward gain²H_{l−1}/(3·fan), back gain²H_l/(3·fan), for layers that halve the width: 1200, 600, 300."""
    x, ε = (np.random.default_rng(seed).standard_normal((200, width)) for seed, width in ((1, 1200), (2, 300)))
    net = serial(linear(600, w=initializer), linear(300, w=initializer))
    (first, second), _ = net.init(jax.random.key(3), x)
    y = x @ np.asarray(first["w"]) @ np.asarray(second["w"])
    through = ε @ np.asarray(second["w"]).T @ np.asarray(first["w"]).T
    # a mean of 60,000 squares that share 300 and 600 columns of weights: about √(2/300) off, three times that allowed
    assert abs(np.mean(y**2) / forward**2 - 1) < 3 * math.sqrt(2 / 300)
    assert abs(np.mean(through**2) / back**2 - 1) < 3 * math.sqrt(2 / 300)


def test_biases_are_drawn_by_the_slides_rule_with_a_bound_that_is_written_out():
    layer = linear(40_000, w=zeros(), b=uniform(1 / math.sqrt(64)))
    b = np.asarray(layer.init(jax.random.key(0), jnp.ones((1, 64)))[0]["b"])
    assert 0.9999 / 8 < np.abs(b).max() <= 1 / 8
    assert abs(b.var() * 3 * 64 - 1) < 5 * math.sqrt(2 / 40_000)


def test_he_is_normal_and_looks_at_the_inputs_only():
    # the kurtosis of N normal numbers is 3 with a standard error of √(24/N)
    w = drawn(he())
    assert abs((w**4).mean() / w.var() ** 2 - 3) < 5 * math.sqrt(24 / SIZE)
    assert abs(drawn(he(), (INPUTS, 2 * OUTPUTS)).var() / w.var() - 1) < 10 * math.sqrt(2 / SIZE)


@pytest.mark.parametrize(("shape", "gain"), [((7, 7), 1.0), ((9, 4), 1.5), ((4, 9), 0.5), ((1, 1), 1.0)], ids=str)
def test_orthogonal_is_a_basis_of_the_shorter_side(shape, gain):
    w = drawn(orthogonal(gain), shape)
    gram = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(min(shape)), atol=1e-14)  # a few ulps of 1


def test_orthogonal_bases_are_uniform():
    """Both signs of the determinant occur, and every entry has mean 0 and variance 1/n (Haar)."""
    n, draws = 3, 2000
    make = jax.jit(jax.vmap(lambda key: orthogonal()(key, (n, n), jnp.float64)))
    w = np.asarray(make(jax.random.split(jax.random.key(0), draws)))
    # five standard errors of a fair coin, of a mean, and of a variance (x² of one coordinate has variance < 1/n²)
    assert abs((np.linalg.det(w) > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(draws)
    assert np.abs(w.mean(axis=0)).max() < 5 / math.sqrt(n * draws)
    assert np.abs((w**2).mean(axis=0) - 1 / n).max() < 5 / (n * math.sqrt(draws))


@every_dtype
@pytest.mark.parametrize(
    "initializer",
    [uniform(0.3), uniform_fan_in(), uniform_fan_out(), glorot_uniform(), he(), orthogonal(), zeros(), constant(0.1)],
    ids=lambda i: i.__name__,
)
def test_dtype_and_shape_are_those_asked_for(initializer, dtype):
    w = jax.eval_shape(lambda key: initializer(key, (6, 5), dtype), jax.random.key(0))
    assert (w.shape, w.dtype) == ((6, 5), dtype)


@pytest.mark.parametrize("initializer", [uniform_fan_in(), he(), orthogonal()], ids=lambda i: i.__name__)
def test_bfloat16_weights_are_the_float32_ones_to_two_digits(initializer):
    half, single = (
        drawn(initializer, (300, 200), jnp.bfloat16).astype(float),
        drawn(initializer, (300, 200), jnp.float32),
    )
    # eight bits: an ulp of bfloat16 is 0.8 %; of the spread, for the draws themselves differ
    assert abs(half.std() / single.std() - 1) < 0.02
    assert np.abs(half).max() < 1.1 * np.abs(single).max()


@pytest.mark.parametrize("initializer", [uniform_fan_in(), he(), orthogonal()], ids=lambda i: i.__name__)
def test_a_key_is_a_matrix_and_another_key_another(initializer):
    make = jax.jit(lambda key: initializer(key, (6, 5), jnp.float32))
    first, again, other = (np.asarray(make(jax.random.key(seed))) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).all()


@every_dtype
def test_biases_start_at_zero_or_at_the_constant(dtype):
    x = jax.ShapeDtypeStruct((2, 4), dtype)
    params, _ = linear(3).init(jax.random.key(0), x)
    assert params["b"].dtype == params["w"].dtype == dtype
    assert (params["b"] == 0).all()
    params, _ = dense(3, tanh, b=constant(-0.5)).init(jax.random.key(0), x)
    assert params["b"].dtype == dtype
    assert (params["b"] == -0.5).all()


def test_layers_start_as_told_and_by_glorot_otherwise():
    key, x = jax.random.key(3), jax.ShapeDtypeStruct((1, INPUTS), jnp.float64)
    bound = math.sqrt(6 / (INPUTS + OUTPUTS))
    params, _ = linear(OUTPUTS).init(key, x)
    assert bound * 0.99 < jnp.abs(params["w"]).max() <= bound
    params, _ = linear(20, w=orthogonal()).init(key, x)
    np.testing.assert_allclose(params["w"].T @ params["w"], np.eye(20), atol=1e-13)  # ulps of 1 over 1200 terms


@pytest.mark.parametrize(
    ("initializer", "written"),
    [
        (uniform(0.5), "uniform(0.5)"),
        (uniform_fan_in(), "uniform_fan_in()"),
        (uniform_fan_in(2.0), "uniform_fan_in(gain=2.0)"),
        (uniform_fan_out(2.0), "uniform_fan_out(gain=2.0)"),
        (glorot_uniform(), "glorot_uniform()"),
        (glorot_uniform(2.0), "glorot_uniform(gain=2.0)"),
        (orthogonal(), "orthogonal()"),
        (he(), "he()"),
        (constant(0.1), "constant(0.1)"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_prints_as_written(initializer, written):
    assert initializer.__name__ == written
    assert str(linear(3, w=initializer)) == f"linear(3, w={written})"


@pytest.mark.parametrize("shape", [(3,), (0, 3), (3, 0), (2, 3, 4)])
def test_only_matrices_have_inputs_and_outputs(shape):
    with pytest.raises(ValueError, match="expected a weight matrix of shape"):
        glorot_uniform()(jax.random.key(0), shape, jnp.float32)
