"""One neuron: against least squares and scikit-learn, the sign of its threshold, and the lecture's matrices."""

from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    activate,
    batch_norm,
    chain,
    columns,
    dense,
    exponential_margin,
    hinge_margin,
    identity,
    l2,
    linear,
    logistic_margin,
    masked,
    prelu,
    relu,
    repeat,
    residual,
    serial,
    sgd,
    sigmoid,
    sigmoid_margin,
    squared,
    tanh,
    train_until_stable,
    trainer,
    weights_only,
)
from fnn.lecture import (
    Built,
    apply,
    classify,
    from_lecture,
    linear_classifier,
    linear_regression,
    mcculloch_pitts,
    neuron,
    neurons,
    parameter_count,
    to_lecture,
)
from fnn.nn import orthogonal

KEY = jax.random.key(0)


def examples(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def everyone(key: jax.Array, step: jax.Array, size: int, batch_size: int) -> jax.Array:
    return jnp.arange(size)


def fitted(net: Any, loss: Any, optimizer: Any, x: np.ndarray, y: np.ndarray, max_steps: int = 20_000) -> Any:
    """Full batches until the weights stand still."""
    data = jnp.asarray(x), jnp.asarray(y)
    learn = trainer(net, loss, optimizer, batch_size=len(x), draw=everyone)
    start = learn.init(KEY, data)
    return train_until_stable(learn, start, data, max_steps=max_steps, every=100, weights_tolerance=1e-10)[0].params


# Linear models


def test_linear_regression_is_least_squares():
    x = examples(60, 3, seed=0) @ np.asarray([[1.0, 0.3, 0.0], [0.0, 0.8, 0.2], [0.0, 0.0, 1.2]]) + 0.5
    y = x @ [[2.0], [-1.0], [0.5]] + 3 + examples(60, 1, seed=1)
    params = fitted(linear_regression(), squared, sgd(0.4), x, y)
    w_0, *w = np.linalg.lstsq(np.column_stack([-np.ones(60), x]), y[:, 0])[0]
    np.testing.assert_allclose(params["w"][:, 0], w, atol=1e-7)
    np.testing.assert_allclose(to_lecture(params)[:, 0], [w_0, *w], atol=1e-7)


def test_linear_regression_as_printed_is_least_squares_through_the_origin():
    """Q sums squares, the trainer has the mean of halves: the minimum is the same, without a constant column."""
    x, y = examples(60, 3, seed=0) + 0.5, examples(60, 1, seed=1) + 3
    params = fitted(linear_regression(bias=False), squared, sgd(0.4), x, y)
    assert params.keys() == {"w"}
    np.testing.assert_allclose(params["w"], np.linalg.lstsq(x, y)[0], atol=1e-7)
    slope = 2 * x.T @ (x @ np.asarray(params["w"]) - y)
    assert np.abs(slope).max() < 1e-5


def test_the_linear_classifier_as_printed_has_a_boundary_through_the_origin():
    net, params = linear_classifier(bias=False), {"w": jnp.asarray([[1.0], [-2.0]])}
    x = jnp.asarray([[0.0, 0.0], [3.0, 1.0], [1.0, 1.0]])
    assert classify(net, params, (), x).tolist() == [-1, 1, -1]
    assert str(net) == "linear(1, w=zeros(), bias=False)"


@pytest.mark.parametrize("C", [0.05, 2.0])
def test_logistic_regression_is_scikit_learns(C):
    """scikit-learn has C Σ_n ln(1 + e^−M) + ½‖w‖²; the mean loss + λ/2‖w‖² is that over Cn where λ = 1/(Cn)."""
    from sklearn.linear_model import LogisticRegression

    n = 80
    x = examples(n, 2, seed=2) + np.asarray([0.3, -0.6])
    y = np.where(x @ [1.5, -1.0] + 0.7 + examples(n, 1, seed=3)[:, 0] > 0, 1, -1)
    regularised = chain(masked(l2(1 / (C * n)), weights_only), sgd(1.0))
    params = fitted(linear_classifier(), logistic_margin, regularised, x, y)
    want = LogisticRegression(C=C, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(params["w"][:, 0], want.coef_[0], atol=1e-4)
    np.testing.assert_allclose(params["b"], want.intercept_, atol=1e-4)
    np.testing.assert_array_equal(classify(linear_classifier(), params, (), jnp.asarray(x)), want.predict(x))


@pytest.mark.parametrize("loss", [logistic_margin, hinge_margin, exponential_margin, sigmoid_margin], ids=str)
def test_every_margin_loss_separates_what_can_be_separated(loss):
    x = examples(100, 2, seed=4)
    score = x @ [1.0, 2.0] - 0.8
    x, y = x[np.abs(score) > 0.3], np.sign(score[np.abs(score) > 0.3])
    net = linear_classifier()
    params = fitted(net, loss, sgd(0.5), x, y, max_steps=1000)
    np.testing.assert_array_equal(classify(net, params, (), jnp.asarray(x)), y)


def test_linear_models_start_at_zero_or_as_told():
    x = jnp.ones((1, 4))
    for model in (linear_regression, linear_classifier):
        assert str(model()) == "linear(1, w=zeros())"
        assert not model().init(KEY, x)[0]["w"].any()
        np.testing.assert_allclose(jnp.linalg.norm(model(orthogonal()).init(KEY, x)[0]["w"]), 1.0)


def test_classes_are_signs_and_minus_one_on_the_boundary():
    params = {"w": jnp.asarray([[1.0]]), "b": jnp.asarray([-1.0])}
    x = jnp.asarray([[0.0], [1.0], [2.0], [jnp.nan], [jnp.inf], [-jnp.inf]])
    classes = jax.jit(lambda x: classify(linear_classifier(), params, (), x))(x)
    assert classes.tolist() == [-1, -1, 1, 0, 1, -1]
    assert classes.dtype == jnp.int32
    inside = classify(mcculloch_pitts(), params, (), x[:3])
    assert inside.tolist() == [-1, -1, 1]


# The neuron


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("activation", [identity, tanh, sigmoid])
def test_a_neuron_is_the_formula(activation, dtype):
    w, x = examples(5, 1, seed=5)[:, 0], examples(7, 5, seed=6)
    built = neuron(jnp.asarray(w, dtype), 0.7, activation)
    got = apply(built, jnp.asarray(x, dtype))
    sums = [sum(w_j * f_j for w_j, f_j in zip(w, f, strict=True)) - 0.7 for f in x]
    assert got.dtype == dtype
    sigma = {"identity": lambda S: S, "tanh": np.tanh, "sigmoid": lambda S: 1 / (1 + np.exp(-S))}[str(activation)]
    np.testing.assert_allclose(got[:, 0], sigma(np.asarray(sums)), rtol=1e-5 if dtype == jnp.float32 else 1e-12)


def test_the_threshold_is_subtracted():
    x = jnp.asarray([[1.0], [2.0], [3.0]])
    assert apply(neuron(jnp.ones(1), 2.0), x)[:, 0].tolist() == [0, 0, 1]
    assert neuron(jnp.ones(1), 2.0).params["b"].tolist() == [-2]
    assert from_lecture(jnp.asarray([[2.0], [1.0]]))["b"].tolist() == [-2]
    assert to_lecture({"w": jnp.ones((1, 1)), "b": jnp.full((1,), -2.0)}).tolist() == [[2], [1]]


def test_neurons_are_built_of_traced_weights():
    w, w_0, x = jnp.asarray(examples(4, 2, seed=7)), jnp.arange(4.0), jnp.asarray(examples(3, 2, seed=8))
    got = jax.vmap(lambda w, w_0: apply(neuron(w, w_0, identity), x)[:, 0])(w, w_0)
    np.testing.assert_allclose(got, np.asarray(w) @ np.asarray(x).T - np.arange(4.0)[:, None], rtol=1e-12)


# The lecture's matrices

NETWORKS = {
    "one neuron": mcculloch_pitts(),
    "three layers": serial(dense(5, tanh), dense(3, sigmoid), linear(2)),
    "nested": serial(serial(dense(4, tanh)), columns((1, dense(2, tanh)), (3, linear(1))), linear(2)),
    "layers without weights": serial(linear(4), activate(relu), residual(dense(4, tanh)), linear(1)),
    "repeated": serial(repeat(dense(3, tanh), 4), linear(2)),
    "other params": serial(linear(4), batch_norm(), prelu(), linear(2)),
    "no bias": serial(dense(4, tanh, bias=False), linear(2), linear(1, bias=False)),
    "its own σ for each neuron": serial(linear(4), columns((1, activate(tanh)), (3, activate(relu))), linear(2)),
}

every_network = pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS.keys())


def drawn_params(net: Any, dtype: Any = jnp.float64) -> Any:
    """Params at random, the first of each row 0 or −0."""
    params, _ = jax.eval_shape(net.init, KEY, jax.ShapeDtypeStruct((2, 3), dtype))
    rng = np.random.default_rng(9)

    def of(leaf: Any) -> jax.Array:
        numbers = rng.standard_normal(leaf.shape)
        numbers[..., 0] *= 0.0
        return jnp.asarray(numbers, dtype)

    return jax.tree.map(of, params)


def assert_same_bits(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@jax.jit
def there_and_back(params: Any) -> Any:
    weights = to_lecture(params)
    back = from_lecture(weights)
    return weights, back, to_lecture(back)


@every_network
def test_to_the_lecture_and_back_and_there_again_is_exact(net):
    params = drawn_params(net)
    weights, back, again = there_and_back(params)
    assert_same_bits(back, params)
    assert_same_bits(again, weights)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_way_back_is_exact_in_other_dtypes_and_without_jit(dtype):
    params = drawn_params(NETWORKS["three layers"], dtype)
    assert_same_bits(from_lecture(to_lecture(params)), params)


def test_matrices_compute_what_the_network_computes():
    widths = [3, 5, 4, 2]
    net = serial(dense(5, tanh), dense(4, tanh), dense(2, tanh))
    params, x = drawn_params(net), examples(6, 3, seed=10)
    weights = to_lecture(params)
    assert [m.shape for m in weights] == [(i + 1, o) for i, o in pairwise(widths)]
    y = x
    for matrix in weights:
        y = np.tanh(np.column_stack([-np.ones(len(y)), y]) @ np.asarray(matrix))
    np.testing.assert_allclose(apply(Built(net, params, ((), (), ())), jnp.asarray(x)), y, rtol=1e-12)


def test_what_has_no_matrix_stays_as_it_is():
    params = drawn_params(NETWORKS["other params"])
    weights = to_lecture(params)
    assert weights[1] is params[1]
    assert weights[2] is params[2]
    assert set(weights[2]) == {"alpha"}


def test_a_layer_without_a_bias_has_no_row_of_thresholds():
    params = drawn_params(NETWORKS["no bias"])
    first, middle, last = to_lecture(params)
    assert first is params[0]
    assert last is params[2]
    assert middle.shape == (5, 2)
    assert parameter_count(params) == 3 * 4 + 5 * 2 + 2 * 1


def test_the_slides_W_are_the_leaves():
    params = drawn_params(NETWORKS["its own σ for each neuron"])
    W, structure = jax.tree.flatten(to_lecture(params))
    assert [W_l.shape for W_l in W] == [(4, 4), (5, 2)]
    x = examples(6, 3, seed=10)
    S = np.column_stack([-np.ones(6), x]) @ W[0]
    y = np.column_stack([-np.ones(6), np.tanh(S[:, :1]), np.maximum(S[:, 1:], 0)]) @ W[1]
    net = NETWORKS["its own σ for each neuron"]
    state = net.init(KEY, jnp.asarray(x))[1]
    back = from_lecture(jax.tree.unflatten(structure, W))
    assert_same_bits(back, params)
    np.testing.assert_allclose(apply(Built(net, back, state), jnp.asarray(x)), y, rtol=1e-12)


def test_a_batch_of_params_is_converted_at_once():
    singles = [drawn_params(NETWORKS["three layers"]), drawn_params(serial(dense(5, tanh), dense(3, tanh), linear(2)))]
    params = jax.tree.map(lambda a, b: jnp.stack([a, 2 * b]), *singles)
    weights, back, _ = there_and_back(params)
    assert [m.shape for m in weights] == [(2, 4, 5), (2, 6, 3), (2, 4, 2)]
    assert_same_bits(back, params)
    assert_same_bits(jax.vmap(to_lecture)(params), weights)


@pytest.mark.parametrize("widths", [[1, 1], [3, 5, 4, 2], [7, 1, 9]])
def test_dim_W_is_the_slides_sum(widths):
    net = serial(*(dense(width, tanh) for width in widths[1:]))
    params, _ = jax.eval_shape(net.init, KEY, jax.ShapeDtypeStruct((2, widths[0]), jnp.float64))
    assert parameter_count(params) == sum((below + 1) * width for below, width in pairwise(widths))
    assert parameter_count(drawn_params(NETWORKS["repeated"])) == 4 * 12 + 8
    assert parameter_count(drawn_params(NETWORKS["other params"])) == 16 + 4 + 4 + 4 + 10


# Bad input

untyped: Any = neurons
W, B = jnp.ones((3, 2)), jnp.ones(2)
WRONG = {
    "weights of a layer": (lambda: neuron(W, 0.0), ValueError, r"w \[d\].*\(3, 2\) and \(\).*from_lecture"),
    "no weights": (lambda: neuron(W[:0, 0], 0.0), ValueError, r"\(0,\)"),
    "thresholds": (lambda: neuron(B, B), ValueError, r"\(2,\) and \(2,\)"),
    "a list": (lambda: untyped.neuron([1.0], 0.0), TypeError, "array, got list"),
    "whole numbers": (lambda: neuron(jnp.ones(2, int), 0.0), TypeError, "int64.*astype"),
    "two dtypes": (lambda: neuron(B, jnp.float32(1)), TypeError, "float64 and float32"),
    "a function for an activation": (lambda: untyped.neuron(B, 0.0, jnp.tanh), TypeError, "fnn Activation"),
    "classes by two outputs": (
        lambda: classify(linear(2), {"w": W, "b": B}, (), jnp.ones((1, 3))),
        ValueError,
        r"one output \[n, 1\], got \(1, 2\)",
    ),
    "classes by no layer": (lambda: untyped.classify(linear, {}, (), W), TypeError, "Call the factory"),
    "b of another length": (lambda: to_lecture(({"w": W, "b": B[:1]},)), ValueError, r"\(3, 2\) and \(1,\)"),
    "w without inputs": (lambda: to_lecture({"w": B, "b": B}), ValueError, r"w \[i, o\]"),
    "w and b of two dtypes": (lambda: to_lecture({"w": W, "b": B.astype("float32")}), TypeError, "one dtype"),
    "matrices to matrices": (lambda: to_lecture((W,)), ValueError, r"\(3, 2\) without a name.*from_lecture"),
    "params from params": (
        lambda: from_lecture(({"w": W, "b": B},)),
        ValueError,
        "Leave params as they are.*to_lecture",
    ),
    "a vector from the lecture": (lambda: from_lecture((B,)), ValueError, r"row of w_0 first.*\(2,\)"),
    "thresholds alone": (lambda: from_lecture((W[:1],)), ValueError, r"\(1, 2\)"),
    "lists from the lecture": (lambda: from_lecture(([[1.0]],)), TypeError, "array, got float"),
}


@pytest.mark.parametrize(("call", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
