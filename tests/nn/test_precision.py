"""Mixed precision: computed narrow, kept wide, and the layer itself where both are the same."""

from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Layer,
    as_function,
    backprop,
    batch_norm,
    columns,
    dense,
    dropout,
    from_function,
    gradient,
    gram,
    inference_mode,
    linear,
    map_layers,
    mixed_precision,
    per_example,
    prelu,
    relu,
    repeat,
    residual,
    second_derivatives,
    second_moment,
    serial,
    signal_to_noise,
    squared,
    squared_norm,
    tanh,
    train,
    trainer,
    variance,
    watch,
)
from fnn.core import contributions
from fnn.nn import drop_records, monte_carlo, thinned_average
from tests.checkers import check_backward, check_close, norm
from tests.problems import COMBINATORS, LAYERS, Given, given

WITHIN = ("serial", "columns, nested", "residual", "grouped", "everything")
WITHIN += ("repeat of batch_norm", "remat of batch_norm")
CASES = LAYERS | {name: COMBINATORS[name] for name in WITHIN}
NARROW = 1e-5
"""Of float32 within float64: its spacing, 1.2e-7, through a few layers of a few examples."""

bfloat16 = partial(mixed_precision, dtype=jnp.bfloat16)
every_case = pytest.mark.parametrize("name", CASES)


def passes(layer: Layer, at: Given) -> Any:
    """What both modes and backward give; only shapes matter of the error that comes in."""
    y, state, tape = layer.forward(*at)
    return layer.apply(*at[:3]), y, state, layer.backward(at.params, tape, jnp.cos(y), gradient)


@cache
def alone(name: str) -> tuple[Given, Any]:
    """Arguments of a case, and what its layer gives of them."""
    at = given(*CASES[name])
    return at, jax.jit(partial(passes, CASES[name].layer))(at)


def off(got: Any, want: Any) -> float:
    """‖got − want‖/‖want‖ of whole trees, the same in structure, shapes and dtypes."""
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    difference = jax.tree.map(lambda u, v: np.asarray(u, np.float64) - np.asarray(v, np.float64), got, want)
    return norm(difference) / norm(want)


def dtypes(tree: Any) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


# Laws


@every_case
def test_in_its_own_dtype_it_is_the_layer(name: str) -> None:
    at, want = alone(name)
    got = jax.jit(partial(passes, mixed_precision(CASES[name].layer, "float64")))(at)
    chex.assert_trees_all_equal(got, want)


@every_case
def test_narrow_within_it_is_the_layer_up_to_rounding_in_dtypes_of_its_own(name: str) -> None:
    at, want = alone(name)
    got = jax.jit(partial(passes, mixed_precision(CASES[name].layer, jnp.float32)))(at)
    least = 1e-12 if jax.tree.leaves(at.params) else 0  # it did compute in float32, if it computed anything
    assert least <= off(got, want) < NARROW


@every_case
def test_backward_is_the_vjp_of_the_narrow_forward(name: str) -> None:
    layer, inputs = CASES[name]
    check_backward(mixed_precision(layer, jnp.float32), *given(layer, inputs), rtol=NARROW)


@pytest.mark.parametrize("name", ["serial", "columns, nested", "repeat of batch_norm", "grouped", "everything"])
def test_it_composes_from_within_as_other_layers_do(name: str) -> None:
    """A policy for parts: every layer by itself narrow in a wide network."""
    at, want = alone(name)
    partly = map_layers(partial(mixed_precision, dtype=jnp.float32), CASES[name].layer)
    got = jax.jit(partial(passes, partly))(at)
    assert 1e-12 < off(got, want) < NARROW


def test_within_itself_it_is_itself() -> None:
    at, once = alone("serial")[0], mixed_precision(CASES["serial"].layer, jnp.float32)
    got, want = (jax.jit(partial(passes, each))(at) for each in (mixed_precision(once, jnp.float32), once))
    chex.assert_trees_all_equal(got, want)


def test_init_rounds_nothing(key: jax.Array) -> None:
    got, want = (net.init(key, X) for net in (bfloat16(NET), NET))
    chex.assert_trees_all_equal(got, want)


# In bfloat16

X = jax.random.normal(jax.random.key(0), (128, 8), jnp.float32)
Y = jnp.sin(2 * X[:, :3])
NET = serial(dense(32, relu), batch_norm(), dense(32, tanh), linear(3))
SMOOTH = serial(dense(4, tanh), linear(3))


def at_start(net: Layer) -> Any:
    """Arguments of backprop(net, squared), in float32."""
    return *jax.jit(net.init)(jax.random.key(1), X), (X, Y), jax.random.key(2)


NETS = {
    "prelu": serial(linear(32), prelu(), linear(3)),
    "batch_norm": serial(dense(32, tanh), batch_norm(), dense(32, tanh), linear(3)),
    "dropout": serial(dense(32, tanh), dropout(0.3), linear(3)),
    "columns": serial(columns((3, dense(8, tanh)), (5, linear(8))), linear(3)),
    "residual": serial(repeat(residual(dense(8, tanh)), 4), linear(3)),
}


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_gradients_are_near_and_all_outside_is_float32(name: str) -> None:
    """One rounding is 2⁻⁹ at most. Where it moves an S over a kink the slope is another: with ReLU they are farther."""
    params, state, batch, key = at = at_start(NETS[name])
    want, got = (jax.jit(backprop(net, squared))(*at)[1] for net in (NETS[name], bfloat16(NETS[name])))
    assert 2**-12 < off(got, want) < 2**-7
    outside = jax.eval_shape(partial(passes, bfloat16(NETS[name])), Given(params, state, batch[0], key))
    _, after, tape = jax.eval_shape(bfloat16(NETS[name]).forward, params, state, batch[0], key)
    assert (dtypes(outside), dtypes(tape)) == ({"float32"}, {"bfloat16"})
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


READINGS = [per_example, squared_norm, gram, second_moment, variance, signal_to_noise, contributions]


@pytest.mark.parametrize("read", READINGS, ids=str)
def test_other_readings_come_in_the_dtype_of_the_params(read: Any) -> None:
    at = at_start(SMOOTH)
    want, got = (jax.jit(backprop(n, squared, read))(*at)[1] for n in (SMOOTH, bfloat16(SMOOTH)))
    assert dtypes(got) == {"float32"}
    assert off(got, want) < 2**-4  # squares of squares, for instance


def test_second_derivatives_go_through() -> None:
    at = at_start(SMOOTH)
    want, got = (jax.jit(second_derivatives(n, squared))(*at)[1] for n in (SMOOTH, bfloat16(SMOOTH)))
    assert 2**-12 < off(got, want) < 2**-4


@pytest.mark.parametrize("exact", [False, True])
def test_errors_and_curvatures_come_back_in_the_dtypes_they_came_in(exact: bool) -> None:
    at = given(SMOOTH, 8)

    @partial(jax.jit, static_argnums=0)
    def curved(net: Layer, at: Given) -> Any:
        y, _, tape = net.forward(*at)
        c = jnp.cos(y)[:, :, None] * jnp.cos(y)[:, None, :] if exact else jnp.cos(y)
        assert net.curve is not None
        return net.curve(at.params, tape, y, c, gradient)

    got, want = (curved(net, at) for net in (mixed_precision(SMOOTH, jnp.float32), SMOOTH))
    assert 1e-12 < off(got, want) < NARROW


def test_examples_may_be_narrower_than_the_params() -> None:
    """y and ∂L/∂x are then as narrow as x; what is read at the params is as wide as they are."""
    params, state, _, key = at_start(SMOOTH)
    x = X.astype(jnp.bfloat16)
    applied_y, y, _, (error, readings) = jax.eval_shape(partial(passes, bfloat16(SMOOTH)), Given(params, state, x, key))
    assert (dtypes((applied_y, y, error)), dtypes(readings)) == ({"bfloat16"}, {"float32"})
    f = as_function(bfloat16(SMOOTH))
    value = lambda p, x: jnp.sum(f(p, state, x, key)[0]).astype(jnp.float32)  # noqa: E731
    through_the_door = jax.eval_shape(jax.grad(value, (0, 1)), params, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(through_the_door, (params, x))


def test_params_of_several_dtypes_are_read_in_the_widest(key: jax.Array) -> None:
    params, state = linear(3).init(key, X)
    _, _, tape = bfloat16(linear(3)).forward(params, state, X, key)
    mixed = {"w": params["w"], "b": params["b"].astype(jnp.bfloat16)}
    _, readings = bfloat16(linear(3)).backward(mixed, tape, Y.astype(jnp.bfloat16), gradient)
    assert dtypes(readings) == {"float32"}


def test_whole_numbers_and_keys_are_never_cast(key: jax.Array) -> None:
    """A table of words, looked up by whole numbers, whose layer counts its batches and keeps a key."""
    table = lambda key, x: {"words": jax.random.normal(key, (5, 2), jnp.float32), "order": jnp.arange(5)}  # noqa: E731
    look_up = from_function(table, lambda p, x: p["words"][p["order"][x[:, 0]]], "look_up")

    def init(key: jax.Array, x: Any) -> Any:
        return look_up.init(key, x)[0], {"key": key, "batches": jnp.zeros((), jnp.int32)}

    def forward(params: Any, state: Any, x: Any, key: Any) -> Any:
        y, _, tape = look_up.forward(params, (), x, key)
        assert y.dtype == jnp.bfloat16
        return y, {"key": state["key"], "batches": state["batches"] + 1}, tape

    layer, x = bfloat16(look_up._replace(init=init, forward=forward)), jnp.array([[0], [3], [3]])
    params, state = layer.init(key, x)
    y, after, _ = layer.forward(params, state, x, key)
    assert (after["key"], after["batches"]) == (key, 1)
    chex.assert_trees_all_equal_dtypes(after, state)
    chex.assert_trees_all_close(y, params["words"][x[:, 0]], atol=2**-6)
    chex.assert_trees_all_equal_shapes_and_dtypes(layer.apply(params, state, x), y)


# Looked into


def test_it_is_looked_into_as_other_combinators() -> None:
    assert str(inference_mode(bfloat16(NET))) == f"mixed_precision({inference_mode(NET)}, bfloat16)"
    at = at_start(NET)
    _, seen = jax.jit(backprop(watch(bfloat16(NET)), squared))(*at)
    assert dtypes(seen) == {"float32"}
    check_close(drop_records(seen), jax.jit(backprop(bfloat16(NET), squared))(*at)[1], rtol=2**-7)


def test_dropout_within_it_is_averaged_over() -> None:
    net = serial(dense(4, tanh), dropout(0.5), linear(1))
    params, state, _, key = at_start(net)
    average = thinned_average(bfloat16(net), params, state, X)
    np.testing.assert_allclose(average, net.apply(params, state, X), atol=2**-5)
    assert monte_carlo(bfloat16(net), 2)(params, state, X, key).dtype == jnp.float32


# Statistics and training


def test_batch_norm_takes_its_statistics_in_float32() -> None:
    """Near 300 the numbers of bfloat16 are 2 apart: it has neither the sum of 4096 of them nor their mean."""
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
    net = mixed_precision(linear(1, w=fnn.nn.constant(1.0)), jnp.bfloat16)
    data = jnp.ones((4, 1), jnp.float32), jnp.zeros((4, 1), jnp.float32)
    learn = trainer(net, squared, fnn.adam(1e-4), batch_size=4)
    state, _ = train(learn, learn.init(jax.random.key(0), data), data, 1000)
    assert state.params["w"].dtype == jnp.float32
    np.testing.assert_allclose(state.params["w"], 0.9, atol=0.005)


def test_training_in_bfloat16_gets_where_float32_gets() -> None:
    losses = []
    for net in (NET, mixed_precision(NET, jnp.bfloat16)):
        learn = trainer(net, squared, fnn.adam(0.003), batch_size=32)
        start = learn.init(jax.random.key(0), (X, Y))
        state, metrics = train(learn, start, (X, Y), 600, every=100)
        chex.assert_trees_all_equal_shapes_and_dtypes(start, state)
        losses.append(np.asarray(metrics["loss"]))
    assert losses[0][-1] < losses[0][0] / 5
    np.testing.assert_allclose(losses[1][-1], losses[0][-1], rtol=0.25)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64, jnp.bfloat16])
def test_a_constant_neuron_is_0_however_small_epsilon_is(dtype: Any) -> None:
    net, x = fnn.batch_norm(epsilon=1e-320), jnp.full((4, 2), 3.0, dtype)
    params, state = net.init(jax.random.key(0), x)
    y, state, tape = net.forward(params, state, x, jax.random.key(1))
    assert not np.any(y)
    assert np.isfinite(net.backward(params, tape, jnp.zeros_like(x), fnn.gradient)[0].astype(float)).all()
    assert np.isfinite(net.apply(params, state, x).astype(float)).all()
