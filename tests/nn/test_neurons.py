"""Linear and dense layers: the formulas by loops, with and without a bias."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    activate,
    dense,
    gradient,
    linear,
    serial,
    sgd,
    squared,
    tanh,
)
from fnn.lecture import pretrain
from tests.checkers import TOLERANCE, check_close
from tests.nn.laws import check_laws, each_case_of
from tests.problems import Case, given, normal


@each_case_of("neurons")
def test_neurons_keep_their_laws(case: Case) -> None:
    check_laws(case)


# Messages that name what to do, and harm nobody who does it


def test_a_stack_of_tasks_is_told_of_vmap():
    """Where positions have no meaning."""
    data = jnp.ones((5, 4, 3)), jnp.ones((5, 1))
    with pytest.raises(ValueError, match=r"reshape.*jax\.vmap"):
        pretrain(jax.random.key(0), serial(linear(2)), data, squared, optimizer=sgd(0.1), steps=1)


# The backward pass


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
