"""From layers to the gradient of a mean loss, and the doors between hand-written and automatic gradients."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    autodiff,
    backprop,
    batch_norm,
    dense,
    dropout,
    linear,
    objective,
    remat,
    repeat,
    residual,
    serial,
    softplus,
    squared,
    tanh,
)
from tests.checkers import TOLERANCE, check_close
from tests.problems import NETWORKS, Problem, normal, posed, targets

each_network = pytest.mark.parametrize("problem", NETWORKS.values(), ids=NETWORKS.keys())


NET = serial(
    dense(3, tanh),
    batch_norm(epsilon=0.1),
    repeat(remat(residual(serial(dropout(0.3), dense(3, softplus)))), 2),
    linear(2),
)


SMALL = Problem(NET, squared, 2, 2)


@each_network
def test_backprop_is_value_and_grad_of_the_objective(problem: Problem) -> None:
    automatic = jax.value_and_grad(objective(problem.net, problem.loss), has_aux=True)
    both = jax.jit(lambda *arguments: (backprop(problem.net, problem.loss)(*arguments), automatic(*arguments)))
    check_close(*both(*posed(problem)))


def test_autodiff_is_value_and_grad_of_the_objective() -> None:
    automatic = jax.value_and_grad(objective(NET, squared), has_aux=True)
    check_close(*jax.jit(lambda *arguments: (autodiff(NET, squared)(*arguments), automatic(*arguments)))(*posed(SMALL)))


def test_objective_is_the_mean_loss_of_a_batch() -> None:
    params, state, (x, y), key = posed(SMALL)
    value, new_state = objective(NET, squared)(params, state, (x, y), key)
    a, want_state, _ = NET.forward(params, state, x, key)
    assert float(value) == pytest.approx(0.5 * np.sum((np.asarray(a) - np.asarray(y)) ** 2) / len(x))
    chex.assert_trees_all_equal(new_state, want_state)


def test_jvp_of_backprop_is_the_hessian_times_a_vector() -> None:
    params, *rest = posed(SMALL)
    direction = normal(params, 5)
    flat, unflatten = ravel_pytree(params)

    @jax.jit
    def both(params: Any, direction: Any) -> tuple[Any, Any]:
        _, product = jax.jvp(lambda p: backprop(NET, squared)(p, *rest)[1], (params,), (direction,))
        hessian = jax.hessian(lambda w: objective(NET, squared)(unflatten(w), *rest)[0])(flat)
        return product, unflatten(hessian @ ravel_pytree(direction)[0])

    got, want = both(params, direction)
    check_close(got, want, TOLERANCE["second derivative"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_a_descent_is_a_scan_whose_carry_is_stable(dtype) -> None:
    params, state, batch, key = posed(SMALL, dtype=dtype)

    def step(carry, k):
        params, state = carry
        (value, state), g = backprop(NET, squared)(params, state, batch, k)
        return (jax.tree.map(lambda w, slope: w - 0.1 * slope, params, g), state), value

    (_, new_state), values = jax.eval_shape(
        lambda: jax.lax.scan(step, (params, state), jax.random.split(key, 3))  # a carry that changes would raise
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert values.dtype == dtype


def test_ten_steps_are_traced_once() -> None:
    params, state, batch, key = posed(SMALL)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(backprop(NET, squared), n=1))
    for _ in range(10):
        (_, state), g = step(params, state, batch, key)
        params = jax.tree.map(lambda w, slope: w - 0.1 * slope, params, g)
        key = jax.random.fold_in(key, 1)


def test_row_of_a_vmapped_backprop_is_the_single_run() -> None:
    runs = [posed(SMALL, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    rows = jax.jit(jax.vmap(backprop(NET, squared)))(*stacked)
    check_close(jax.tree.map(lambda leaf: leaf[1], rows), jax.jit(backprop(NET, squared))(*runs[1]))


# from_function


def test_targets_of_every_loss_are_what_it_takes() -> None:
    for problem in NETWORKS.values():
        a = normal(jnp.ones((5, problem.outputs)), 1)
        assert jnp.isfinite(problem.loss.value(a, targets(problem))).all()
