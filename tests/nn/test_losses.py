"""ℒ, ∂ℒ/∂a and ∂²ℒ/∂a² against exact decimals and automatic derivatives, at the kink, and with bad labels.

The `check_…` functions are the laws themselves; `test_tests_optimizers` holds that they find faults.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Loss
from tests import oracles

MARGIN = [fnn.logistic_margin, fnn.hinge_margin, fnn.exponential_margin, fnn.sigmoid_margin]


ALL = [fnn.squared, *MARGIN, fnn.binary_cross_entropy, fnn.softmax_cross_entropy]


LABELLED = [*MARGIN, fnn.binary_cross_entropy, fnn.softmax_cross_entropy]


every_loss = pytest.mark.parametrize("loss", ALL, ids=str)


every_margin_loss = pytest.mark.parametrize("loss", MARGIN, ids=str)


EXACT_64: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-14}
"""Values of order one in float64, with a few digits of room for a log of a sum of exponents."""


def targets(name: str, n: int, m: int, seed: int = 1) -> jax.Array:
    """Random targets of the kind that the loss of this name takes."""
    random = np.random.default_rng(seed)
    if name == "softmax_cross_entropy":
        return jnp.asarray(random.integers(0, m, n))
    if name == "squared":
        return jnp.asarray(random.normal(size=(n, m)))
    return jnp.asarray(
        random.integers(0, 2, (n, m)) if name == "binary_cross_entropy" else random.choice([-1, 1], (n, m))
    )


def outputs(n: int, m: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(3 * np.random.default_rng(seed).normal(size=(n, m)))


def check_value(loss: Loss, name: str) -> None:
    """The value is the formula's, per example."""
    a, y = outputs(7, 3), targets(name, 7, 3)
    got = jax.jit(loss.value)(a, y)
    np.testing.assert_allclose(got, oracles.losses(name, np.asarray(a), np.asarray(y)), **EXACT_64)


def check_slope(loss: Loss, name: str) -> None:
    """The slope is the derivative of the value, per example: examples are weighted at random to tell them apart."""
    a, y = outputs(7, 3), targets(name, 7, 3)
    weights = jnp.asarray(np.random.default_rng(2).normal(size=7))
    automatic = jax.jit(jax.grad(lambda a: jnp.vdot(weights, loss.value(a, y))))(a)
    by_hand = jax.jit(lambda a: weights[:, None] * loss.slope(a, y))(a)
    np.testing.assert_allclose(by_hand, automatic, **EXACT_64)


def check_curvature(loss: Loss, name: str) -> None:
    """The curvature is the diagonal of each example's Hessian."""
    a, y = outputs(7, 3), targets(name, 7, 3)

    def of_example(a_n: jax.Array, y_n: jax.Array) -> jax.Array:
        return jnp.diag(jax.hessian(lambda a_n: loss.value(a_n[None], y_n[None])[0])(a_n))

    np.testing.assert_allclose(jax.jit(loss.curvature)(a, y), jax.jit(jax.vmap(of_example))(a, y), **EXACT_64)


def check_falls_with_margin(loss: Loss) -> None:
    """A margin loss does not increase with M = ay, for either class, and falls somewhere."""
    M = np.linspace(-6, 6, 49)[:, None]
    for label in (1, -1):
        y = np.full(M.shape, label)
        value, slope = jax.jit(lambda a, y: (loss.value(a, y), loss.slope(a, y)))(M * y, y)
        assert (np.diff(value) <= 0).all(), "increases with the margin"
        assert value[0] > value[-1]
        assert (np.asarray(slope) * y <= 0).all()


@every_loss
def test_value_is_the_formula(loss):
    check_value(loss, str(loss))


@every_loss
def test_slope_is_the_derivative_of_value(loss):
    check_slope(loss, str(loss))


@every_loss
def test_curvature_is_the_diagonal_of_the_hessian(loss):
    check_curvature(loss, str(loss))


@every_loss
def test_hessian_is_that_of_jax_and_the_root_is_one_of_it(loss):
    """Without a Hessian of its own the diagonal is all of it, and so is the square of the root's diagonal."""
    a, y = outputs(7, 3), targets(str(loss), 7, 3)

    def of_example(a_n: jax.Array, y_n: jax.Array) -> jax.Array:
        return jax.hessian(lambda a_n: loss.value(a_n[None], y_n[None])[0])(a_n)

    def full(part: Any) -> Any:
        return part if part.ndim == 3 else jax.vmap(jnp.diag)(part)

    @jax.jit
    def both(a: jax.Array, y: jax.Array) -> Any:
        R = None if loss.root is None else full(loss.root(a, y))
        by_hand = full(loss.curvature(a, y) if loss.hessian is None else loss.hessian(a, y))
        squared = by_hand if R is None else jnp.einsum("nmc,nkc->nmk", R, R)
        return by_hand, squared, jax.vmap(of_example)(a, y)

    by_hand, squared, automatic = both(a, y)
    np.testing.assert_allclose(by_hand, automatic, **EXACT_64)
    np.testing.assert_allclose(squared, automatic, **EXACT_64)
    assert (loss.hessian is None) == (loss is not fnn.softmax_cross_entropy)
    assert (loss.root is None) == (loss is fnn.sigmoid_margin)


@every_margin_loss
def test_margin_loss_falls_with_the_margin(loss):
    check_falls_with_margin(loss)


def test_sigmoid_margin_is_not_the_slides_misprint():
    value = fnn.sigmoid_margin.value(jnp.asarray([[2.0]]), jnp.asarray([[1]]))
    np.testing.assert_allclose(value, [1 / (1 + np.exp(2.0))], rtol=1e-14)


def test_squared_has_the_minus_sign_and_the_half():
    a, y = jnp.asarray([[3.0, 1.0]]), jnp.asarray([[1.0, 2.0]])
    assert fnn.squared.value(a, y).tolist() == [2.5]
    assert fnn.squared.slope(a, y).tolist() == [[2.0, -1.0]]
    assert fnn.squared.value(a, a).tolist() == [0.0]


@pytest.mark.parametrize("y", [1, -1])
def test_hinge_at_its_kink_is_as_relu(y):
    a, y = jnp.asarray([[1.0 * y]]), jnp.asarray([[y]])
    automatic = jax.grad(lambda a: fnn.hinge_margin.value(a, y).sum())(a)
    assert fnn.hinge_margin.slope(a, y) == automatic == 0
    assert fnn.hinge_margin.curvature(a, y) == 0


@every_loss
@pytest.mark.parametrize("size", [1e4, -1e4], ids=["+1e4", "-1e4"])
def test_logits_of_ten_thousand_are_never_nan(loss, size):
    a, y = np.array([[size, -size, 0.0]] * 3, np.float32), np.asarray(targets(str(loss), 3, 3))
    y = y.astype(a.dtype) if loss is fnn.squared else y
    results = jax.jit(lambda a, y: (loss.value(a, y), loss.slope(a, y), loss.curvature(a, y)))(a, y)
    for result in map(np.asarray, results):
        assert result.dtype == np.float32
        assert not np.isnan(result).any()
        assert loss is fnn.exponential_margin or np.isfinite(result).all()
    with np.errstate(over="ignore"):
        expected = oracles.losses(str(loss), a, y).astype(np.float32)
    # float32 has 24 bits: 1e-6 is eight of its ulps
    np.testing.assert_allclose(results[0], expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [*MARGIN, fnn.binary_cross_entropy], ids=str)
@pytest.mark.parametrize(("dtype", "digits"), [("float32", 1e-5), ("bfloat16", 0.03)], ids=["float32", "bfloat16"])
def test_small_losses_of_sure_and_right_targets_keep_their_digits(loss, dtype, digits):
    """ln(1 + e^−20) = 2.1e-9 is no zero: nothing is taken from a number near 1 or near a."""
    a, y = np.array([[3.0, 10.0, 20.0], [-3.0, -10.0, -20.0]]), np.array([[1] * 3, [-1] * 3])
    y = (y + 1) // 2 if loss is fnn.binary_cross_entropy else y
    automatic = jax.jit(jax.grad(lambda a: loss.value(a, y).sum()))(a)
    value, slope = jax.jit(lambda a: (loss.value(a, y), loss.slope(a, y)))(jnp.asarray(a, dtype))
    np.testing.assert_allclose(value.astype(float), oracles.losses(str(loss), a, y), rtol=digits)
    np.testing.assert_allclose(slope.astype(float), automatic, rtol=digits)


def test_exponential_margin_overflows_to_infinity():
    a, y = jnp.asarray([[-1e4]], jnp.float32), jnp.asarray([[1]])
    assert jnp.isposinf(fnn.exponential_margin.value(a, y)).all()


@pytest.mark.parametrize("loss", LABELLED, ids=str)
@pytest.mark.parametrize("bad", [2, -2, 100], ids=str)
def test_a_traced_bad_label_makes_its_example_nan(loss, bad):
    m = 1 if loss is not fnn.softmax_cross_entropy else 2
    a, y = outputs(4, m), np.asarray(targets(str(loss), 4, m)).reshape(4).copy()
    y[2] = bad
    value, slope = jax.jit(lambda a, y: (loss.value(a, y), loss.slope(a, y)))(a, y)
    assert np.isnan(value).tolist() == [False, False, True, False]
    assert np.isnan(slope).tolist() == [[bad_example] * m for bad_example in np.isnan(value)]


@pytest.mark.parametrize("loss", [fnn.squared, *MARGIN, fnn.binary_cross_entropy], ids=str)
@pytest.mark.parametrize("part", ["value", "slope", "curvature"])
def test_for_one_output_y_may_have_one_axis(loss, part):
    a, y = outputs(5, 1), targets(str(loss), 5, 1)
    f = jax.jit(getattr(loss, part))
    np.testing.assert_array_equal(f(a, y[:, 0]), f(a, y))


@pytest.mark.parametrize("loss", LABELLED[:-1], ids=str)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "float32", "float64", "bfloat16"])
def test_labels_may_be_integers_or_floats(loss, dtype):
    a, y = outputs(5, 2), np.ones((5, 2)) if dtype == "uint8" else np.asarray(targets(str(loss), 5, 2))
    value = jax.jit(loss.value)
    np.testing.assert_array_equal(value(a, y.astype(dtype)), value(a, y))


@pytest.mark.parametrize("dtype", ["bool", "uint8"])
def test_yes_and_no_may_be_bools_or_bytes(dtype):
    a, y = outputs(5, 2), targets("binary_cross_entropy", 5, 2)
    np.testing.assert_array_equal(
        fnn.binary_cross_entropy.value(a, y.astype(dtype)), fnn.binary_cross_entropy.value(a, y)
    )


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_class_labels_may_be_any_integers(dtype):
    a, y = outputs(5, 3), targets("softmax_cross_entropy", 5, 3)
    value = jax.jit(fnn.softmax_cross_entropy.value)
    np.testing.assert_array_equal(value(a, y.astype(dtype)), value(a, y))


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_keeps_dtype_and_judges_examples_apart(loss, dtype):
    a, y = outputs(5, 3).astype(dtype), targets(str(loss), 5, 3)
    y = y.astype(dtype) if loss is fnn.squared else y
    results = [jax.eval_shape(part, a, y) for part in (loss.value, loss.slope, loss.curvature)]
    assert [(result.shape, result.dtype) for result in results] == [((5,), dtype), ((5, 3), dtype), ((5, 3), dtype)]


def test_shifting_the_logits_changes_nothing():
    a, y = outputs(6, 4), targets("softmax_cross_entropy", 6, 4)
    f = jax.jit(lambda a: (fnn.softmax_cross_entropy.value(a, y), fnn.softmax_cross_entropy.slope(a, y)))
    (value, slope), (shifted, _) = f(a), f(a + 100)
    np.testing.assert_allclose(np.sum(slope, axis=1), 0, atol=1e-15)
    np.testing.assert_allclose(shifted, value, rtol=1e-12)


def test_two_classes_are_one_logit():
    """softmax over (0, a) is the sigmoid of a, and with labels ±1 the logistic loss of the margin."""
    a, y = outputs(6, 1), targets("binary_cross_entropy", 6, 1)
    of_two = jax.jit(fnn.softmax_cross_entropy.value)(jnp.concatenate([jnp.zeros_like(a), a], axis=1), y[:, 0])
    np.testing.assert_allclose(jax.jit(fnn.binary_cross_entropy.value)(a, y), of_two, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(fnn.logistic_margin.value)(a, 2 * y - 1), of_two, rtol=1e-12)


# Messages that name what to do


@pytest.mark.parametrize(
    ("y", "says", "says_not"),
    [
        (np.eye(3, dtype=int)[[0, 2]], "argmax", "yes or no"),
        (np.full((2, 3), 0.5), "add up to 1", "argmax"),
        (np.array([[1.5, -0.5, 0], [0, 0, 1]]), "least entry -0.5", "argmax"),
        (np.full((2, 3), 1 / 3, np.float32), "probabilities of a's dtype", "argmax"),
        (np.array([[1, 1, 0], [0, 1, 1]]), "binary_cross_entropy", "Convert one-hot"),
        (np.array([0.0, 2.0]), "astype(int)", "argmax"),
        (np.array([[0], [2]]), "y[:, 0]", "argmax"),
    ],
)
def test_argmax_is_advised_for_one_hot_rows_only(y, says, says_not):
    with pytest.raises((TypeError, ValueError)) as raised:
        fnn.softmax_cross_entropy.value(jnp.zeros((2, 3)), y)
    assert says in str(raised.value)
    assert says_not not in str(raised.value)


# Targets that are probabilities


PROBABILITIES = {
    "softmax_cross_entropy": np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.75, 0.25]]),
    "binary_cross_entropy": np.array([[0.2, 0.3, 0.9], [1.0, 0.0, 0.5], [0.0, 0.75, 0.25]]),
}


def expected_loss(name: str, a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mean of the loss over labels drawn with the probabilities y, by sums over the labels."""
    if name == "softmax_cross_entropy":
        return np.sum([y[:, m] * oracles.losses(name, a, np.full(len(a), m)) for m in range(a.shape[1])], axis=0)
    one = lambda a, t: np.logaddexp(0, (1 - 2 * t) * a)  # noqa: E731
    return np.sum(y * one(a, 1) + (1 - y) * one(a, 0), axis=1)


@pytest.mark.parametrize("size", [1.0, 1e4], ids=["small", "large"])
@pytest.mark.parametrize("name", PROBABILITIES)
def test_soft_targets_cost_the_mean_over_labels(name, size):
    loss, y = getattr(fnn, name), jnp.asarray(PROBABILITIES[name])
    a = size * outputs(3, 3)
    np.testing.assert_allclose(loss.value(a, y), expected_loss(name, np.asarray(a), np.asarray(y)), rtol=1e-12)
    slope, curvature = (
        jax.grad(lambda a: loss.value(a, y).sum()),
        jax.hessian(lambda a, y: loss.value(a[None], y[None])[0]),
    )
    chex.assert_trees_all_close(loss.slope(a, y), slope(a), rtol=1e-12, atol=1e-14)
    H = jax.vmap(curvature)(a, y)
    chex.assert_trees_all_close(loss.curvature(a, y), jnp.diagonal(H, axis1=1, axis2=2), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", PROBABILITIES)
def test_one_hot_probabilities_are_labels_to_the_last_digit(name):
    a = outputs(7, 3)
    labels = targets(name, 7, 3)
    soft = jax.nn.one_hot(labels, 3, dtype=a.dtype) if labels.ndim == 1 else labels.astype(a.dtype)
    loss = getattr(fnn, name)
    for part in ("value", "slope", "curvature", "root"):
        hard = getattr(loss, part)(a, labels)
        np.testing.assert_allclose(getattr(loss, part)(a, soft), hard, rtol=1e-15, atol=0)


def test_a_traced_target_that_is_no_probability_is_nan():
    assert np.isnan(jax.jit(fnn.binary_cross_entropy.value)(jnp.zeros((1, 1)), jnp.full((1, 1), 1.5)))
    with pytest.raises(ValueError, match=r"between 0 and 1, got -1 to 0\.5.*Convert labels -1, 1"):
        fnn.binary_cross_entropy.value(jnp.zeros((1, 2)), jnp.asarray([[-1.0, 0.5]]))
