"""Layer-wise pre-training: each neuron is the linear model it should be, of what it should see and nothing else."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Loss,
    Optimizer,
    activate,
    batch_norm,
    binary_cross_entropy,
    columns,
    dense,
    dropout,
    grouped,
    identity,
    linear,
    logistic_margin,
    relu,
    remat,
    repeat,
    residual,
    serial,
    sgd,
    softmax_cross_entropy,
    squared,
    sweep,
    tanh,
)
from fnn.lecture import diversity, weight_diversity
from fnn.lecture import pretrain as pretrain_as_usual
from fnn.lecture.pretraining import _of_one_target
from fnn.nn import constant

EXAMPLES = 40


KEY = jax.random.key(7)


NOISE = np.random.default_rng(3)


X = NOISE.standard_normal((EXAMPLES, 4))


Y = X @ [0.5, -0.3, 0.2, 0.1] + 0.4 + 0.3 * NOISE.standard_normal(EXAMPLES)


DATA = jnp.asarray(X), jnp.asarray(Y)


LINEAR = serial(dense(6, identity), linear(1))


FULL = {"optimizer": sgd(0.4), "steps": 400, "batch_size": EXAMPLES}
"""Gradient steps on all examples, enough of them to reach the least squares of well-scaled data to 1e-9."""


pretrain = partial(pretrain_as_usual, subsample=None, inputs=None)


varied, varied_weights = jax.jit(diversity), jax.jit(weight_diversity)


def least_squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The weights [i + 1, …] of the best linear model, the bias last."""
    return np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]


def rows(layer: dict) -> np.ndarray:
    """The weights of a layer as [i + 1, o], the bias last."""
    return np.vstack([layer["w"], layer["b"][None]])


# What a neuron is


def test_without_randomness_all_neurons_are_one_linear_model():
    params = pretrain(KEY, LINEAR, DATA, squared, restart=False, head=False, **FULL)
    wanted = least_squares(X, Y)
    np.testing.assert_array_equal(rows(params[0]), rows(params[0])[:, :1].repeat(6, axis=1))
    np.testing.assert_allclose(rows(params[0])[:, 0], wanted, rtol=1e-9)
    assert varied(X @ np.asarray(params[0]["w"])) < 1e-12
    early = pretrain(KEY, LINEAR, DATA, squared, restart=False, head=False, **FULL | {"steps": 3})
    np.testing.assert_array_equal(rows(early[0]), rows(early[0])[:, :1].repeat(6, axis=1))


def test_each_neuron_sees_its_inputs_only_and_fits_them():
    params = pretrain(KEY, LINEAR, DATA, squared, inputs=0.6, head=False, **FULL)
    seen = np.asarray(params[0]["w"] != 0)
    assert seen.sum(axis=0).tolist() == [2] * 6
    assert len({tuple(column) for column in seen.T}) > 1
    for column, w, b in zip(seen.T, params[0]["w"].T, params[0]["b"], strict=True):
        np.testing.assert_allclose([*w[column], b], least_squares(X[:, column], Y), rtol=1e-9)


def test_each_neuron_sees_its_examples_only():
    """Example n is the only one with feature n: where a weight stays as it began, its example was never looked at."""
    n = 10
    x, y = jnp.eye(n), 1 + jnp.arange(n, dtype=float)
    net = serial(dense(8, identity, w=constant(0.25)), linear(1, w=constant(0.5)))
    options = {"optimizer": sgd(0.4), "steps": 60, "batch_size": 2, "head": False}
    params = pretrain(KEY, net, (x, y), squared, subsample=0.44, **options)
    looked_at = np.asarray(params[0]["w"] != 0.25)
    assert looked_at.sum(axis=0).tolist() == [4] * 8
    assert len({tuple(column) for column in looked_at.T}) > 4
    assert looked_at.any(axis=1).all()
    error = np.asarray(params[0]["w"]) + np.asarray(params[0]["b"]) - np.asarray(y)[:, None]
    assert np.abs(error[looked_at]).max() < np.abs(error[~looked_at]).max()
    np.testing.assert_array_equal(params[1]["w"], np.full((8, 1), 0.5))


def test_of_several_outputs_each_neuron_has_one_dealt_out_evenly():
    y = np.column_stack([Y, -X[:, 0], Y + X[:, 1]])
    net = serial(dense(6, identity), linear(3))
    params = pretrain(KEY, net, (DATA[0], jnp.asarray(y)), squared, head=False, **FULL)
    distance = np.abs(rows(params[0])[:, :, None] - least_squares(X, y)[:, None, :]).max(axis=0)
    assert np.sort(distance.argmin(axis=1)).tolist() == [0, 0, 1, 1, 2, 2]
    assert distance.min(axis=1).max() < 1e-9


@pytest.mark.parametrize("loss", [softmax_cross_entropy, binary_cross_entropy], ids=str)
def test_classifiers_are_logistic_regressions(loss):
    from sklearn.linear_model import LogisticRegression

    labels = np.digitize(Y + NOISE.standard_normal(EXAMPLES), [0.0, 0.8])
    one_hot = (labels[:, None] == np.arange(3)).astype(float)
    targets = jnp.asarray(labels) if loss is softmax_cross_entropy else jnp.asarray(one_hot)
    options = {"optimizer": sgd(1.0), "steps": 3000, "batch_size": EXAMPLES, "head": False}
    params = pretrain(KEY, serial(dense(6, tanh), linear(3)), (DATA[0], targets), loss, **options)
    wanted = []
    for y in one_hot.T:
        model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(X, y)
        wanted.append([*model.coef_[0], model.intercept_[0]])
    distance = np.abs(rows(params[0])[:, :, None] - np.transpose(wanted)[:, None, :]).max(axis=0)
    assert np.sort(distance.argmin(axis=1)).tolist() == [0, 0, 1, 1, 2, 2]
    assert distance.min(axis=1).max() < 1e-4


# Layer after layer


def test_a_layer_learns_from_the_one_before_it_in_application():
    net = serial(dense(2, tanh), dropout(0.25), batch_norm(epsilon=0.5), dense(3, identity), linear(1))
    options = {"optimizer": sgd(0.9), "steps": 4000, "batch_size": EXAMPLES, "head": False}
    params = pretrain(KEY, net, DATA, squared, inputs=0.5, **options)
    assert (np.asarray(params[0]["w"]) != 0).sum(axis=0).tolist() == [2, 2]
    assert (np.asarray(params[3]["w"]) != 0).sum(axis=0).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(params[2]["gamma"], [1, 1])
    below = 0.75 * np.tanh(X @ np.asarray(params[0]["w"]) + np.asarray(params[0]["b"])) / np.sqrt(1.5)
    for w, b in zip(np.asarray(params[3]["w"]).T, params[3]["b"], strict=True):
        np.testing.assert_allclose([*w[w != 0], b], least_squares(below[:, w != 0], Y), rtol=1e-6)


def test_linear_and_activate_are_dense_and_nests_are_flat():
    options = {"optimizer": sgd(0.4), "steps": 20, "batch_size": EXAMPLES, "inputs": 0.5, "head": False}
    fixed: Any = {"w": constant(0.3)}
    dense_net = serial(dense(5, tanh, **fixed), linear(1))
    split = serial(serial(linear(5, **fixed), activate(tanh)), serial(linear(1)))
    flat = pretrain(KEY, dense_net, DATA, squared, **options)
    nested = pretrain(KEY, split, DATA, squared, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), nested[0][0], flat[0])
    assert jax.tree.structure(nested) == jax.tree.structure(split.init(KEY, DATA[0])[0])
    assert len(np.unique(np.asarray(flat[0]["w"]), axis=1).T) > 1


def descended(x: np.ndarray, y: np.ndarray, w: np.ndarray, sigma: str, steps: int, bias: bool = True) -> np.ndarray:
    """[w, b] after gradient steps of ½(σ(⟨w, x⟩ + b) − y)² in the mean, η = 0.4, from w and b = 0, by a NumPy loop."""
    inputs = np.column_stack([x, np.ones(len(x)) if bias else np.zeros(len(x))])
    u = np.append(w, 0.0)
    for _ in range(steps):
        S = inputs @ u
        a, z = {"tanh": (np.tanh(S), 1 - np.tanh(S) ** 2), "identity": (S, 1), "relu": (np.maximum(S, 0), S > 0)}[sigma]
        u = u - 0.4 * inputs.T @ ((a - y) * z) / len(x)
    return u


OWN = {
    "columns": columns((1, activate(tanh)), (2, activate(identity)), (3, activate(relu))),
    "nested": columns((3, columns((1, activate(tanh)), (2, activate(identity)))), (3, serial(activate(relu)))),
}


@pytest.mark.parametrize("own", OWN.values(), ids=OWN.keys())
def test_a_neuron_that_has_its_own_sigma_learns_with_it(own):
    net = serial(linear(6), own, linear(1))
    options = {"optimizer": sgd(0.4), "steps": 30, "batch_size": EXAMPLES, "head": False}
    params = pretrain(KEY, net, DATA, squared, **options)
    start = net.init(jax.random.split(KEY)[0], DATA[0])[0][0]["w"]
    sigmas = ["tanh", *["identity"] * 2, *["relu"] * 3]
    want = [descended(X, Y, np.asarray(w), sigma, 30) for w, sigma in zip(start.T, sigmas, strict=True)]
    np.testing.assert_allclose(rows(params[0]).T, want, rtol=1e-9)


def test_neurons_without_a_bias_are_models_through_the_origin():
    net = serial(linear(5, bias=False), activate(tanh), dense(3, identity, bias=False), linear(1, bias=False))
    params = pretrain(KEY, net, DATA, squared, optimizer=sgd(0.4), steps=30, batch_size=EXAMPLES, head=False)
    start = net.init(jax.random.split(KEY)[0], DATA[0])[0]
    first = [descended(X, Y, w, "tanh", 30, bias=False)[:-1] for w in np.asarray(start[0]["w"]).T]
    np.testing.assert_allclose(params[0]["w"].T, first, rtol=1e-9)
    below = np.tanh(X @ np.transpose(first))
    second = [descended(below, Y, w, "identity", 30, bias=False)[:-1] for w in np.asarray(start[2]["w"]).T]
    np.testing.assert_allclose(params[2]["w"].T, second, rtol=1e-9)
    np.testing.assert_array_equal(params[3]["w"], start[3]["w"])
    assert [set(layer) for layer in params if layer] == [{"w"}] * 3


def test_classifiers_without_a_bias_too():
    y = jnp.asarray(np.where(Y > 0.4, 1, -1))
    net = serial(dense(4, tanh, bias=False), linear(1))
    params = pretrain(
        KEY, net, (DATA[0], y), logistic_margin, head=False, **FULL | {"optimizer": sgd(1.0), "steps": 3000}
    )
    M = np.asarray(y)[:, None] * (X @ np.asarray(params[0]["w"]))
    assert (
        np.abs(X.T @ (np.asarray(y)[:, None] / (1 + np.exp(M)))).max() / EXAMPLES < 1e-6
    )  # the slope of the mean loss


def test_what_a_layer_is_does_not_hang_on_its_label():
    options = {"optimizer": sgd(0.4), "steps": 10, "batch_size": EXAMPLES, "head": False}
    nets = [serial(linear(5), sigma, linear(1)) for sigma in (activate(tanh), activate(tanh)._replace(label="σ"))]
    usual, renamed = (pretrain(KEY, net, DATA, squared, **options)[0] for net in nets)
    jax.tree.map(np.testing.assert_array_equal, usual, renamed)
    others = [residual(activate(tanh)), dropout(0.0)._replace(label="activate(dropout)")]
    nets = [serial(linear(5), layer, linear(1)) for layer in (*others, serial())]
    as_lines = [pretrain(KEY, net, DATA, squared, **options)[0] for net in nets]
    for params in as_lines[:-1]:
        jax.tree.map(np.testing.assert_array_equal, params, as_lines[-1])


HIDING = {
    "residual": residual(dense(4, tanh)),
    "repeat": repeat(dense(4, tanh), 2),
    "columns": columns((2, dense(2, tanh)), (2, activate(relu))),
    "grouped": grouped(linear(2), 2),
    "remat": remat(serial(dense(4, tanh), linear(4, bias=False))),
    "within a serial": serial(serial(repeat(residual(linear(4)), 2))),
}


@pytest.mark.parametrize("layer", HIDING.values(), ids=HIDING.keys())
def test_neurons_that_are_passed_over_are_named_and_keep_their_first_values(layer):
    net = serial(layer, dense(3, tanh), linear(1))
    named = re.escape(
        str(layer).replace("serial(serial(repeat(residual(linear(4)), 2)))", "repeat(residual(linear(4)), 2)")
    )
    with pytest.warns(UserWarning, match=f"got neurons within {named}, which .*Put these neurons into a serial"):
        params = pretrain(KEY, net, DATA, squared, optimizer=sgd(0.4), steps=1, batch_size=EXAMPLES)
    start = net.init(jax.random.split(KEY)[0], DATA[0])[0]
    jax.tree.map(np.testing.assert_array_equal, params[0], start[0])
    assert (np.asarray(params[1]["w"]) != np.asarray(start[1]["w"])).all()


def test_neurons_behind_the_head_are_named_where_the_head_is_not_trained():
    net = serial(dense(3, tanh), linear(2), grouped(linear(1), 2))
    options = {"optimizer": sgd(0.4), "steps": 1, "batch_size": EXAMPLES}
    data = DATA[0], jnp.stack([DATA[1]] * 2, axis=1)
    pretrain(KEY, net, data, squared, **options)
    with pytest.warns(UserWarning, match=r"within grouped\(linear\(1\), 2\), which"):
        pretrain(KEY, net, data, squared, head=False, **options)


def test_other_composites_keep_their_first_values():
    net = serial(residual(dense(4, tanh, w=constant(0.3), b=constant(0.1))), linear(1))
    with pytest.warns(UserWarning, match="residual"):
        params = pretrain(KEY, net, DATA, squared, **FULL)
    np.testing.assert_array_equal(params[0]["w"], np.full((4, 4), 0.3))
    outputs = X + np.tanh(X.sum(axis=1, keepdims=True) * 0.3 + 0.1)
    np.testing.assert_allclose(rows(params[1])[:, 0], least_squares(outputs, Y), rtol=1e-5)


def test_the_head_is_trained_on_the_loss_of_the_network():
    """A lone layer is the head; with all three outputs in one model, softmax regression has a gradient of 0."""
    labels = np.digitize(Y + 0.5 * X[:, 1] ** 2, [0.0, 0.8])
    options = {"optimizer": sgd(0.5), "steps": 3000, "batch_size": EXAMPLES}
    params = pretrain(KEY, linear(3), (DATA[0], jnp.asarray(labels)), softmax_cross_entropy, **options)
    scores = X @ np.asarray(params["w"]) + np.asarray(params["b"])
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    gradient = X.T @ (p - (labels[:, None] == np.arange(3))) / EXAMPLES
    assert np.abs(gradient).max() < 1e-4


# As a function


def test_the_key_decides_and_compiling_once_is_enough():
    traces = []

    def update(gradient, state, params=None):
        traces.append(jax.tree.leaves(gradient)[0].shape)
        return sgd(0.1).update(gradient, state, params)

    counting = Optimizer(sgd(0.1).init, update)
    layer = dense(4, tanh)
    net = serial(layer, layer, layer, linear(1))  # the layers are one example and 4 wide: they are compiled once
    options = {"optimizer": counting, "steps": 3, "subsample": 0.5, "batch_size": 20, "head": False}
    first = pretrain(KEY, net, DATA, squared, **options)
    once = len(traces)
    again = pretrain(KEY, net, DATA, squared, **options)
    other = pretrain(jax.random.key(8), net, DATA, squared, **options)
    assert len(traces) == once
    pretrain(KEY, serial(layer, linear(1)), DATA, squared, **options)
    assert len(traces) == once
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert np.all(first[0]["w"] != other[0]["w"])
    assert not np.array_equal(first[0]["w"], first[1]["w"])


def test_it_is_swept_over_keys_and_rates_from_starts_of_the_layers_own_init():
    def experiment(key, eta):
        return pretrain(key, LINEAR, DATA, squared, optimizer=sgd(eta), steps=3, batch_size=EXAMPLES, head=False)[0]

    keys = jax.random.split(KEY, 2)
    swept = sweep(experiment, keys, eta=[0.0, 0.2])
    assert swept["w"].shape == (2, 2, 4, 6)
    start = np.asarray(swept["w"][0, 0])
    assert len(np.unique(start, axis=1).T) == 6
    assert 0.5 < np.abs(start).max() / np.sqrt(6 / 10) <= 1  # glorot_uniform, the default
    alone = experiment(keys[1], 0.2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1, 1], b, rtol=1e-12), swept, alone)


def test_a_pretrained_network_starts_better_than_glorot_and_the_more_randomness_the_more_varied():
    x = jax.random.normal(KEY, (100, 6))
    y = jnp.tanh(x[:, 0] - x[:, 1]) * jnp.cos(x[:, 2])
    net, optimizer = serial(dense(16, tanh), linear(1)), sgd(0.1)
    loss = jax.jit(lambda params: jnp.mean(squared.value(net.apply(params, ((), ()), x), y)))

    def trained(key, **options):
        batch = {"steps": 150, "batch_size": 50 if "subsample" in options else 100}
        return pretrain(key, net, (x, y), squared, optimizer=optimizer, **batch, **options)

    def diversity_of(params):
        return varied(np.tanh(np.asarray(x) @ np.asarray(params[0]["w"]) + np.asarray(params[0]["b"])))

    for key in jax.random.split(KEY, 4):
        params = trained(key, inputs=0.5)
        assert loss(params) < 0.7 * np.var(y) / 2 < loss(net.init(key, x)[0])  # the best constant has var(y)/2
    amounts = {"restart": False}, {"subsample": 0.5}, {"subsample": 0.5, "inputs": 0.5}
    nothing, some, more = (diversity_of(trained(KEY, head=False, **amount)) for amount in amounts)
    assert nothing < 1e-12 < some < more
    usual = pretrain_as_usual(KEY, net, (x, y), squared, optimizer=optimizer, steps=150, batch_size=50, head=False)
    assert diversity_of(usual) == more > 0.4


# Bad input


def given(net: Any = LINEAR, data: Any = DATA, loss: Any = squared, **options: Any) -> Any:
    return pretrain(KEY, net, data, loss, **{"optimizer": sgd(0.1), "steps": 1, "head": False} | options)


def test_what_cannot_be_pretrained_says_why():
    with pytest.raises(TypeError, match=r"pretrain: expected layers.*Call the factory"):
        given(net=linear)
    with pytest.raises(TypeError, match="loss must be an fnn Loss"):
        given(loss=jnp.square)
    with pytest.raises(TypeError, match="pretrain: expected optimizers"):
        given(optimizer=sgd)
    with pytest.raises(ValueError, match=r"expected layers with params .*dense, linear.*without one"):
        given(net=serial(residual(dense(4, tanh)), dropout(0.5)), data=(DATA[0], DATA[0]))
    with pytest.raises(ValueError, match="squared: expected y of shape"):
        given(data=(DATA[0], DATA[0]))
    with pytest.raises(ValueError, match=r"pretrain: expected a batch \[n, features\]"):
        given(data=(DATA[1], DATA[1]))
    with pytest.raises(ValueError, match="expected targets between 0 and 1"):
        given(loss=binary_cross_entropy)
    coupled = Loss("coupled", squared.value, squared.slope, squared.curvature, lambda a, y: a[:, :, None])
    with pytest.raises(ValueError, match="got coupled, which couples the outputs"):
        given(loss=coupled)
    with pytest.raises(
        ValueError, match=r"at most the 20 of 40 examples .*got batch_size 32\. Choose batch_size <= 20"
    ):
        given(subsample=0.5)
    with pytest.raises(TypeError, match="inputs: expected a Python number, which determines shapes, got a tracer"):
        jax.jit(lambda share: given(inputs=share))(0.5)
    with pytest.raises(ValueError, match="NaN or infinity in x"):
        given(data=(DATA[0].at[0, 0].set(jnp.nan), DATA[1]))
    with pytest.raises(ValueError, match="steps must be a whole number >= 1"):
        given(steps=0)


@pytest.mark.parametrize("name", ["inputs", "subsample"])
@pytest.mark.parametrize("share", [0, 1.5, -0.1])
def test_shares_are_in_0_to_1(name, share):
    with pytest.raises(ValueError, match=rf"{name} must be a fraction in \(0, 1\], or None for all"):
        given(**{name: share})


# Labels of more classes than their dtype counts, elsewhere


def test_pretraining_tells_class_261_from_label_5():
    loss = _of_one_target(fnn.softmax_cross_entropy, jnp.asarray(261))
    slope = loss.slope(jnp.zeros((2, 1)), jnp.asarray([5, 6], jnp.uint8))
    np.testing.assert_array_equal(slope, [[0.5], [0.5]])  # s(0) − 0 for both
    slope = _of_one_target(fnn.softmax_cross_entropy, jnp.asarray(5)).slope(
        jnp.zeros((2, 1)), jnp.asarray([5, 6], jnp.uint8)
    )
    np.testing.assert_array_equal(slope, [[-0.5], [0.5]])
