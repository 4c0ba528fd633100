"""Saliencies: at a minimum the rise of Q, elsewhere ½w²h; and the schedule that arrives at its sparsity."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    TrainState,
    batch_norm,
    dense,
    dropout,
    inference_mode,
    linear,
    objective,
    serial,
    softmax_cross_entropy,
    squared,
    tanh,
)
from fnn.pruning import (
    at_random,
    feature_saliency,
    gate_saliency,
    magnitude,
    obd,
    schedule,
    taylor,
)
from tests.checkers import TOLERANCE, check_close
from tests.problems import Problem, posed
from tests.pruning.nets import NET, data, evaluate

EXACT = TOLERANCE["second derivative"]


def least_squares() -> tuple[Any, Any, Any]:
    """Two linear neurons at the minimum of Q, by NumPy: ∇Q = 0 and Q is quadratic, as the method assumes."""
    x, y = data()
    extended = np.column_stack([np.asarray(x), np.ones(len(x))])
    solution = np.linalg.lstsq(extended, np.asarray(y), rcond=None)[0]
    return {"w": jnp.asarray(solution[:-1]), "b": jnp.asarray(solution[-1])}, x, y


# Saliencies


def test_at_the_minimum_of_a_quadratic_the_saliency_is_the_rise_of_q() -> None:
    params, x, y = least_squares()
    Q = lambda params: float(jnp.mean(squared.value(linear(2).apply(params, (), x), y)))  # noqa: E731
    saliency = obd(linear(2), squared).saliency(params, (), (x, y), jax.random.key(0))
    for leaf, index in [("w", (0, 0)), ("w", (3, 1)), ("w", (1, 0)), ("b", (1,))]:
        without = params | {leaf: params[leaf].at[index].set(0.0)}
        assert np.isclose(saliency[leaf][index], Q(without) - Q(params), rtol=1e-9)
    gates = gate_saliency(linear(2), squared)(params, (), (x, y), jax.random.key(0))
    for feature in range(4):
        without = params | {"w": params["w"].at[feature].set(0.0)}
        assert np.isclose(gates[feature], Q(without) - Q(params), rtol=1e-9)
    check_close(feature_saliency(saliency["w"]), gates)  # one layer: nothing is beside the diagonal


def test_the_saliency_is_half_w_squared_h_of_the_inference_mode() -> None:
    net = serial(dense(4, tanh), dropout(0.5), batch_norm(), linear(3))
    problem = Problem(inference_mode(net), softmax_cross_entropy, 3, 3)
    params, state, batch, key = arguments = posed(problem)
    flat, unravel = ravel_pytree(params)
    Q = lambda p: objective(problem.net, problem.loss)(unravel(p), state, batch, key)[0]  # noqa: E731
    want = unravel(0.5 * jnp.square(flat) * jnp.diagonal(jax.jit(jax.hessian(Q))(flat)))
    got = jax.jit(obd(net, softmax_cross_entropy).saliency)(*arguments)
    check_close(got, want, EXACT)
    check_close(jax.jit(obd(net, softmax_cross_entropy, chunk=2).saliency)(*arguments), want, EXACT)
    check_close(
        jax.jit(taylor(net, softmax_cross_entropy).saliency)(*arguments), unravel(abs(flat * jax.grad(Q)(flat)))
    )
    one_pass = jax.jit(obd(net, softmax_cross_entropy, exact=False).saliency)(*arguments)
    check_close(one_pass[3], want[3], EXACT)
    with pytest.raises(AssertionError, match="relative errors"):
        check_close(one_pass[0], want[0], 0.01)
    with pytest.raises(AssertionError, match="relative errors"):  # σ'' counts
        check_close(jax.jit(obd(net, softmax_cross_entropy, gauss_newton=True).saliency)(*arguments), want, 0.01)


def test_predicted_and_actual_rises_rank_the_links_alike(trained: TrainState) -> None:
    x, y = data()
    flat, unravel = ravel_pytree(trained.params)
    Q = jax.jit(lambda p: evaluate(unravel(p), trained.layer_state))
    actual = jax.jit(jax.vmap(lambda i: Q(flat.at[i].set(0.0)) - Q(flat)))(jnp.arange(flat.size))
    saliency = obd(NET, squared).saliency(trained.params, trained.layer_state, (x, y), jax.random.key(0))
    rank = lambda values: np.argsort(np.argsort(np.asarray(values)))  # noqa: E731
    assert np.corrcoef(rank(ravel_pytree(saliency)[0]), rank(actual))[0, 1] > 0.9


def test_scores_print_as_they_were_written() -> None:
    scores = obd(NET, squared), obd(NET, squared, exact=False, gauss_newton=True), magnitude(), at_random()
    assert list(map(str, scores)) == ["obd()", "obd(exact=False, gauss_newton=True)", "magnitude()", "at_random()"]


# The loop


def test_a_schedule_arrives_at_its_sparsity() -> None:
    for power in (1, 3):
        left, shares = 1.0, []
        for r in range(5):
            left *= 1 - float(schedule(0.9, 5, power)(jnp.asarray(r)))
            shares.append(1 - left)
        np.testing.assert_allclose(shares, [0.9 * (1 - (1 - (r + 1) / 5) ** power) for r in range(5)], rtol=1e-12)
