"""Each layer by itself: its backward pass, its kinks, training and inference, its dtypes, its init."""

import math
from itertools import product

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Layer,
    activate,
    batch_norm,
    dense,
    dropout,
    gradient,
    heaviside,
    inverted_dropout,
    leaky_relu,
    linear,
    prelu,
    relu,
    serial,
    tanh,
)
from fnn.testing import check_layer
from tests.checkers import TOLERANCE, check_backward, check_close
from tests.problems import EVERY_LAYER, LAYERS, Case, given, normal

each_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
every_layer = pytest.mark.parametrize("case", EVERY_LAYER.values(), ids=EVERY_LAYER.keys())
each_dropout = pytest.mark.parametrize("factory", [dropout, inverted_dropout])

DEVIATIONS = 5
"""How many standard errors a mean may be off: one run in two million is, and the keys are fixed."""


# The backward pass


@each_layer
def test_backward_is_the_vjp_of_forward(case: Case) -> None:
    check_backward(case.layer, *given(case.layer, case.inputs))


@each_layer
def test_backward_is_linear_in_the_error(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs)
    y, _, tape = case.layer.forward(params, state, x, key)
    one, other = normal(y, 1), normal(y, 2)
    back = lambda error: case.layer.backward(params, tape, error, gradient)  # noqa: E731
    check_close(back(2 * one - other), jax.tree.map(lambda u, v: 2 * u - v, back(one), back(other)))


@pytest.mark.parametrize("case", [c for c in LAYERS.values() if "drop" not in str(c.layer)], ids=str)
def test_apply_is_forward_without_its_tape_where_there_is_one_stage(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs)
    if state == ():
        chex.assert_trees_all_equal(case.layer.apply(params, state, x), case.layer.forward(params, state, x, key)[0])


def test_dense_is_linear_and_activate(key: jax.Array) -> None:
    one, two = dense(3, tanh), serial(linear(3), activate(tanh))
    params, _, x, _ = given(one, 4)
    y, _, tape = one.forward(params, (), x, key)
    same, _, tapes = two.forward((params, ()), ((), ()), x, key)
    error = normal(y, 1)
    through, readings = one.backward(params, tape, error, gradient)
    same_through, (same_readings, _) = two.backward((params, ()), tapes, error, gradient)
    check_close((y, through, readings), (same, same_through, same_readings), TOLERANCE["same program"])


# Without a bias


@pytest.mark.parametrize(
    "make", [linear, lambda width, **options: dense(width, tanh, **options)], ids=["linear", "dense"]
)
def test_a_layer_without_a_bias_is_the_formula(make, key: jax.Array) -> None:
    """y, ∂L/∂x, ∂L/∂w and their second derivatives by loops over n, i, o, from S = x w alone."""
    layer = make(2, bias=False)
    params, state, x, _ = given(layer, 3)
    w, x_, ε = np.asarray(params["w"]), np.asarray(x), np.asarray(normal(jnp.zeros((5, 2)), 1))
    S = np.array([[sum(x_[n, i] * w[i, o] for i in range(3)) for o in range(2)] for n in range(5)])
    σ = np.tanh(S) if "tanh" in str(layer) else S
    z = 1 - σ**2 if "tanh" in str(layer) else np.ones_like(S)
    bend = -2 * σ * z if "tanh" in str(layer) else np.zeros_like(S)
    y, _, tape = layer.forward(params, state, x, key)
    through, readings = layer.backward(params, tape, jnp.asarray(ε), gradient)
    c = np.square(ε) + 0.5
    _, curved, second = layer.curve(params, tape, jnp.asarray(ε), jax.vmap(jnp.diag)(jnp.asarray(c)), gradient)
    at_S = c * z**2 + ε * bend
    loops = range(5), range(3), range(2)
    want_w, want_ww, want_x, want_xx = np.zeros((3, 2)), np.zeros((3, 2)), np.zeros((5, 3)), np.zeros((5, 3, 3))
    for n, i, o in product(*loops):
        want_x[n, i] += ε[n, o] * z[n, o] * w[i, o]
        want_w[i, o] += x_[n, i] * ε[n, o] * z[n, o]
        want_ww[i, o] += x_[n, i] ** 2 * at_S[n, o]
        want_xx[n, i] += w[i, o] * at_S[n, o] * w[:, o]
    check_close((y, through, readings["w"]), (jnp.asarray(σ), jnp.asarray(want_x), jnp.asarray(want_w)))
    check_close((curved, second["w"]), (jnp.asarray(want_xx), jnp.asarray(want_ww)), TOLERANCE["second derivative"])
    assert readings.keys() == second.keys() == params.keys() == {"w"}


def test_a_layer_without_a_bias_starts_with_the_weights_of_one_with_a_bias(key: jax.Array) -> None:
    x = jnp.ones((1, 4))
    for make in (linear, lambda width, **options: dense(width, tanh, **options)):
        with_bias, without = make(3).init(key, x)[0], make(3, bias=False).init(key, x)[0]
        np.testing.assert_array_equal(without["w"], with_bias["w"])
    assert str(linear(3, bias=False)) == "linear(3, bias=False)"
    assert str(dense(3, tanh, bias=False)) == "dense(3, tanh, bias=False)"
    assert str(linear(3, bias=True)) == "linear(3)"


def test_laws_hold_without_a_bias() -> None:
    for layer in (linear(3, bias=False), dense(3, tanh, bias=False)):
        assert check_layer(layer, jnp.linspace(-1, 1, 20).reshape(5, 4)).passed


# Kinks

AT_THE_KINK = jnp.asarray([[0.0, -0.0, 2.0], [-3.0, 0.0, -0.0]])
KINKS = {
    "relu": (activate(relu), [[0, 0, 1], [0, 0, 0]], jax.nn.relu),
    "leaky_relu": (activate(leaky_relu(0.1)), [[1, 1, 1], [0.1, 1, 1]], lambda x: jax.nn.leaky_relu(x, 0.1)),
    "prelu": (prelu(0.1), [[1, 1, 1], [0.1, 1, 1]], lambda x: jax.nn.leaky_relu(x, 0.1)),
    "heaviside": (activate(heaviside), [[0, 0, 0], [0, 0, 0]], lambda x: jnp.heaviside(x, jnp.zeros(1)[None])),
}


@pytest.mark.parametrize(("layer", "slopes", "in_jax"), KINKS.values(), ids=KINKS.keys())
def test_slope_at_the_kink_is_the_documented_one_and_that_of_jax(layer: Layer, slopes: list, in_jax, key) -> None:
    params, state = layer.init(key, AT_THE_KINK)
    y, pull = jax.vjp(in_jax, AT_THE_KINK)
    got, _, tape = layer.forward(params, state, AT_THE_KINK, key)
    error, _ = layer.backward(params, tape, jnp.ones_like(got), gradient)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(error, np.asarray(slopes, float))
    np.testing.assert_array_equal(error, pull(jnp.ones_like(y))[0])
    check_backward(layer, params, state, AT_THE_KINK, key)


def test_alpha_of_prelu_gets_nothing_from_what_is_not_negative(key: jax.Array) -> None:
    params, tape = {"alpha": jnp.full(3, 0.1)}, prelu().forward({"alpha": jnp.full(3, 0.1)}, (), AT_THE_KINK, key)[2]
    _, readings = prelu().backward(params, tape, jnp.ones((2, 3)), gradient)
    np.testing.assert_array_equal(readings["alpha"], [-3, 0, 0])


# Dropout


@each_dropout
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_the_fraction_p_and_scales_the_rest(factory, p: float, key: jax.Array) -> None:
    x = jnp.full((100, 90), 3.0)
    y, _, tape = factory(p).forward((), (), x, key)
    kept = 1 if factory is dropout else 1 / (1 - p)
    np.testing.assert_array_equal(np.unique(tape.mask), [0, kept])
    np.testing.assert_array_equal(y, tape.mask * x)
    dropped = int((tape.mask == 0).sum())
    assert abs(dropped - x.size * p) < DEVIATIONS * math.sqrt(x.size * p * (1 - p))


@each_dropout
def test_dropout_draws_for_each_example_and_key_anew(factory, key: jax.Array) -> None:
    x = jnp.ones((2, 64))
    first, second = (factory(0.5).forward((), (), x, k)[0] for k in jax.random.split(key))
    again = factory(0.5).forward((), (), x, jax.random.split(key)[0])[0]
    assert (first[0] != first[1]).any()
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)


@each_dropout
def test_dropping_nothing_is_the_identity(factory, key: jax.Array) -> None:
    _, _, x, _ = given(factory(0.0), 4)
    y, _, tape = factory(0.0).forward((), (), x, key)
    error, _ = factory(0.0).backward((), tape, x, gradient)
    chex.assert_trees_all_equal(y, factory(0.0).apply((), (), x), error, x)


@each_dropout
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_mean_of_training_over_masks_is_the_application(factory, p: float, key: jax.Array) -> None:
    draws = 4000
    _, _, x, _ = given(factory(p), 4)
    y = jax.vmap(lambda k: factory(p).forward((), (), x, k)[0])(jax.random.split(key, draws))
    kept = 1 if factory is dropout else 1 / (1 - p)
    standard_error = jnp.abs(x) * kept * math.sqrt(p * (1 - p) / draws)
    assert (jnp.abs(y.mean(0) - factory(p).apply((), (), x)) < DEVIATIONS * standard_error).all()


def test_application_stage_of_dropouts(key: jax.Array) -> None:
    x = normal(jnp.ones((3, 4)), 1)
    np.testing.assert_allclose(dropout(0.25).apply((), (), x), 0.75 * x, rtol=TOLERANCE["same program"])
    np.testing.assert_array_equal(inverted_dropout(0.25).apply((), (), x), x)


@each_dropout
def test_p_may_be_traced(factory, key: jax.Array) -> None:
    x = jnp.ones((3, 4))
    traced = jax.jit(lambda p: (factory(p).forward((), (), x, key)[0], factory(p).apply((), (), x)))(0.3)
    check_close(traced, (factory(0.3).forward((), (), x, key)[0], factory(0.3).apply((), (), x)))


# Batch normalisation


def batches(count: int) -> list[jax.Array]:
    return [2 + 3 * normal(jnp.ones((6, 4)), seed) for seed in range(count)]


def test_batch_norm_normalises_then_scales_and_shifts(key: jax.Array) -> None:
    params, state, _, _ = given(batch_norm(), 4)
    (x,) = batches(1)
    y, _, _ = batch_norm().forward(params, state, x, key)
    x_hat = (y - params["beta"][None]) / params["gamma"][None]
    variance = np.var(x, axis=0)
    np.testing.assert_allclose(np.mean(x_hat, axis=0), 0, atol=TOLERANCE["same gradient"])
    np.testing.assert_allclose(np.var(x_hat, axis=0), variance / (variance + 1e-5), rtol=TOLERANCE["same gradient"])


@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_batch_norm_applies_exponential_means_calibrated_from_the_first_batch_on(count, rate, key) -> None:
    layer = batch_norm(rate=rate)
    params, state, _, _ = given(layer, 4)
    for x in batches(count):
        _, state, _ = layer.forward(params, state, x, key)
    weights = np.array([(1 - rate) ** (count - 1 - j) for j in range(count)])
    weights = weights / weights.sum()
    mean = sum(w * np.mean(x, axis=0) for w, x in zip(weights, batches(count), strict=True))
    variance = sum(w * np.var(x, axis=0, ddof=1) for w, x in zip(weights, batches(count), strict=True))
    x = normal(jnp.ones((3, 4)), 99)
    gamma, beta = np.asarray(params["gamma"]), np.asarray(params["beta"])
    want = gamma * (np.asarray(x) - np.asarray(mean)) / np.sqrt(np.asarray(variance) + 1e-5) + beta
    np.testing.assert_allclose(layer.apply(params, state, x), want, rtol=TOLERANCE["same gradient"])


def test_batch_norm_applies_mean_0_and_variance_1_before_any_training() -> None:
    params, state, x, _ = given(batch_norm(), 4)
    want = params["gamma"][None] * x / math.sqrt(1 + 1e-5) + params["beta"][None]
    np.testing.assert_allclose(batch_norm().apply(params, state, x), want, rtol=TOLERANCE["same gradient"])


def test_batch_norm_applied_treats_each_example_by_itself(key: jax.Array) -> None:
    params, state, x, _ = given(batch_norm(), 4)
    _, state, _ = batch_norm().forward(params, state, x, key)
    together, alone = batch_norm().apply(params, state, x), batch_norm().apply(params, state, x[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-15)  # compiled apart: one rounding may differ


def test_batch_norm_passes_no_error_along_the_mean_and_the_scale_of_a_batch(key: jax.Array) -> None:
    # What moves all examples alike, or stretches them all, is undone by the normalisation; ε leaves ε/σ² of the latter.
    layer = batch_norm(epsilon=1e-14)
    params, state, x, _ = given(layer, 4)
    y, _, tape = layer.forward(params, state, x, key)
    for error in (jnp.ones_like(y), tape.x_hat):
        through, _ = layer.backward(params, tape, error, gradient)
        np.testing.assert_allclose(through, 0, atol=TOLERANCE["same gradient"])


# What every layer and combinator does


@every_layer
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_dtype_is_kept_and_stable_as_a_carry(case: Case, dtype) -> None:
    params, state, x, key = given(case.layer, case.inputs, dtype=dtype)

    def three_steps(params, state):
        def step(carry, k):
            params, state = carry
            y, state, tape = case.layer.forward(params, state, x, k)
            error, _ = case.layer.backward(params, tape, jnp.ones_like(y), gradient)
            return (params, state), (y, error, case.layer.apply(params, state, x))

        return jax.lax.scan(step, (params, state), jax.random.split(key, 3))

    (_, new_state), arrays = jax.eval_shape(three_steps, params, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, arrays))} <= {jnp.dtype(dtype)}
    average = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype(average)}


@every_layer
def test_readings_have_the_shapes_and_dtypes_of_the_params(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs, dtype=jnp.bfloat16)

    def readings():
        y, _, tape = case.layer.forward(params, state, x, key)
        return case.layer.backward(params, tape, jnp.ones_like(y), gradient)[1]

    if "watch" not in str(case.layer):
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(readings), params)


@each_layer
def test_init_needs_only_a_shape(case: Case, key: jax.Array) -> None:
    x = jnp.zeros((2, case.inputs))
    from_shape = case.layer.init(key, jax.ShapeDtypeStruct(x.shape, x.dtype))
    chex.assert_trees_all_equal(from_shape, case.layer.init(key, x), strict=True)


@every_layer
def test_init_of_several_keys_stacks_what_one_key_gives(case: Case, key: jax.Array) -> None:
    init = lambda k: case.layer.init(k, jax.ShapeDtypeStruct((2, case.inputs), jnp.float64))  # noqa: E731
    one, several = jax.eval_shape(init, key), jax.eval_shape(jax.jit(jax.vmap(init)), jax.random.split(key, 3))
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), one)
    chex.assert_trees_all_equal_shapes_and_dtypes(several, stacked)


@pytest.mark.parametrize("name", ["dense tanh", "batch_norm", "serial", "columns", "repeat"])
def test_init_goes_through_jit_and_vmap(name: str, key: jax.Array) -> None:
    layer, inputs = EVERY_LAYER[name]
    init = lambda k: layer.init(k, jax.ShapeDtypeStruct((2, inputs), jnp.float64))  # noqa: E731
    several = jax.jit(jax.vmap(init))(jax.random.split(key, 2))
    check_close(jax.tree.map(lambda leaf: leaf[1], several), init(jax.random.split(key, 2)[1]))


@every_layer
def test_forward_is_plain_jax(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs)
    program = str(jax.make_jaxpr(case.layer.forward)(params, state, x, key))
    assert "custom_vjp" not in program
