"""Mixed precision: computed narrow, kept wide, and the layer itself where both are the same."""

from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkers import norm
from problems import COMBINATORS, LAYERS, NETWORKS, given, posed

import fnn
from fnn import (
    Layer,
    applied,
    autodiff,
    backprop,
    batch_norm,
    contributions,
    dense,
    gram,
    in_precision,
    linear,
    per_object,
    relu,
    run,
    second_derivatives,
    second_moment,
    serial,
    squared,
    squared_norm,
    tanh,
    trainer,
    watch,
)

WITHIN = ("serial", "columns", "residual", "repeat of batch_norm", "parallel", "remat of batch_norm", "everything")
CASES = LAYERS | {name: COMBINATORS[name] for name in WITHIN}


def in_dtype(dtype: Any, tree: Any) -> Any:
    floats = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if floats(leaf) else leaf, tree)


def passes(layer: Layer, at: Any) -> Any:
    """What forward and backward give; only shapes matter of the error that comes in."""
    y, state, tape = layer.forward(*at)
    return y, state, layer.backward(at.params, tape, jnp.cos(y), fnn.gradient)


@pytest.mark.parametrize("name", CASES)
def test_in_its_own_dtype_it_is_the_layer(name: str) -> None:
    at, layer = given(*CASES[name]), CASES[name].layer
    got, want = (jax.jit(partial(passes, each))(at) for each in (in_precision(layer, jnp.float64), layer))
    chex.assert_trees_all_equal(got, want)
    np.testing.assert_array_equal(in_precision(layer, "float64").apply(*at[:3]), layer.apply(*at[:3]))


@pytest.mark.parametrize("name", CASES)
def test_narrow_within_it_is_the_layer_up_to_rounding_in_dtypes_of_its_own(name: str) -> None:
    at, layer = given(*CASES[name]), CASES[name].layer
    got, want = (jax.jit(partial(passes, each))(at) for each in (in_precision(layer, jnp.float32), layer))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    difference = jax.tree.map(jnp.subtract, *(jax.tree.leaves((r[0], r[2])) for r in (got, want)))
    assert norm(difference) < 1e-5 * norm((want[0], want[2]))
    if jax.tree.leaves(at.params):
        assert norm(difference) > 1e-12 * norm((want[0], want[2]))  # it did compute in float32


@pytest.mark.parametrize("name", ["softmax regression", "residual", "prelu"])
def test_backward_is_the_gradient_of_the_narrow_forward(name: str) -> None:
    problem = NETWORKS[name]
    net, at = in_precision(problem.net, jnp.float32), posed(problem, 7)
    (_, _), by_hand = jax.jit(backprop(net, problem.loss))(*at)
    (_, _), automatic = jax.jit(autodiff(net, problem.loss))(*at)
    difference = jax.tree.map(jnp.subtract, by_hand, automatic)
    assert norm(difference) < 1e-6 * norm(automatic)


X = jax.random.normal(jax.random.key(0), (128, 8), jnp.float32)
Y = jnp.sin(2 * X[:, :3])
NET = serial(dense(32, relu), batch_norm(), dense(32, tanh), linear(3))


def test_bfloat16_gradients_are_near_and_come_in_float32() -> None:
    at = (*NET.init(jax.random.key(1), X), (X, Y), jax.random.key(2))
    (_, want_state), want = backprop(NET, squared)(*at)
    (value, state), g = backprop(in_precision(NET, jnp.bfloat16), squared)(*at)
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes((g, state), (want, want_state))
    off = norm(jax.tree.map(jnp.subtract, g, want)) / norm(want)
    assert 2**-12 < off < 2**-5


@pytest.mark.parametrize("read", [per_object, squared_norm, gram, second_moment, contributions], ids=str)
def test_other_readings_come_in_the_networks_dtype(read: Any) -> None:
    net = serial(dense(4, tanh), linear(3))
    at = (*net.init(jax.random.key(1), X), (X, Y), jax.random.key(2))
    want, got = (backprop(n, squared, read)(*at)[1] for n in (net, in_precision(net, jnp.bfloat16)))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    assert norm(jax.tree.map(jnp.subtract, got, want)) < 2**-4 * norm(want)


def test_second_derivatives_go_through() -> None:
    net = serial(dense(4, tanh), linear(3))
    at = (*net.init(jax.random.key(1), X), (X, Y), jax.random.key(2))
    want, got = (second_derivatives(n, squared)(*at)[1] for n in (net, in_precision(net, jnp.bfloat16)))
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    assert norm(jax.tree.map(jnp.subtract, got, want)) < 2**-4 * norm(want)


def test_it_is_looked_into_as_other_combinators() -> None:
    net = in_precision(NET, jnp.bfloat16)
    assert str(applied(net)) == f"in_precision({applied(NET)}, bfloat16)"
    at = (*net.init(jax.random.key(1), X), (X, Y), jax.random.key(2))
    _, seen = backprop(watch(net), squared)(*at)
    assert seen[0].readings["w"].dtype == jnp.float32


def test_batch_norm_takes_its_statistics_in_float32() -> None:
    """Numbers near 300 with a spread of 1 are in bfloat16 2 apart: their sum of squares would be noise."""
    x = (300 + 10 * jax.random.normal(jax.random.key(0), (4096, 1))).astype(jnp.bfloat16)
    layer = batch_norm()
    params, state = layer.init(jax.random.key(0), x)
    y, state, _ = layer.forward(params, state, x, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(state.mean / state.weight, exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(state.variance / state.weight, exact.var(axis=0, ddof=1), rtol=1e-3)
    assert y.dtype == layer.apply(params, state, x).dtype == jnp.bfloat16


def test_steps_below_the_spacing_of_the_narrow_dtype_add_up() -> None:
    """From w = 1 in steps of 1e-4, which bfloat16 cannot add to 1: its spacing there is 0.004."""
    net = in_precision(linear(1, w=fnn.constant(1.0)), jnp.bfloat16)
    data = jnp.ones((4, 1), jnp.float32), jnp.zeros((4, 1), jnp.float32)
    learn = trainer(net, squared, fnn.adam(1e-4), batch_size=4)
    state, _ = run(learn, learn.init(jax.random.key(0), data), data, 1000)
    assert state.params["w"].dtype == jnp.float32
    np.testing.assert_allclose(state.params["w"], 0.9, atol=0.005)


def test_training_in_bfloat16_gets_where_float32_gets() -> None:
    losses = []
    for net in (NET, in_precision(NET, jnp.bfloat16)):
        learn = trainer(net, squared, fnn.adam(0.003), batch_size=32)
        start = learn.init(jax.random.key(0), (X, Y))
        state, metrics = run(learn, start, (X, Y), 600, every=100)
        chex.assert_trees_all_equal_shapes_and_dtypes(start, state)
        losses.append(np.asarray(metrics["loss"]))
    assert losses[0][-1] < losses[0][0] / 5
    np.testing.assert_allclose(losses[1][-1], losses[0][-1], rtol=0.25)
