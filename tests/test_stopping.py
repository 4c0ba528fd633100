"""Runs that end by themselves: when Q and W are stable, or when validation no longer improves; each row of a sweep."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_training import LEARN, NET, problem

import fnn
from fnn import fit, linear, run, run_early_stopping, run_until_stable, sgd, squared, sweep, trainer


def test_linear_regression_stabilises_at_the_least_squares_solution() -> None:
    x, y = problem()
    learn = trainer(linear(2), squared, sgd(0.2), batch_size=len(x))
    state, ended = run_until_stable(
        learn, learn.init(jax.random.key(0), (x, y)), (x, y), max_steps=20_000, every=10, weights_tolerance=1e-13
    )
    best = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)[0]
    assert bool(ended.stable)
    assert int(ended.steps) == int(state.step) < 20_000
    np.testing.assert_allclose(state.params["w"], best[:-1], rtol=1e-9)
    np.testing.assert_allclose(state.params["b"], best[-1], rtol=1e-9)


@pytest.mark.parametrize(
    "tolerances",
    [{"quality_tolerance": 0.05}, {"weights_tolerance": 0.01}, {"quality_tolerance": 0.05, "weights_tolerance": 0.01}],
)
def test_run_until_stable_is_the_literal_loop(tolerances: dict[str, float]) -> None:
    data, every = problem(), 20
    state = start = LEARN.init(jax.random.key(0), data)
    steps = 0
    for steps in range(every, 2001, every):
        old, (state, _) = state, run(LEARN, state, data, every)
        flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(s.params)]) for s in (old, state)]
        weights = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
        first = np.inf if steps == every else abs(state.quality - old.quality) / old.quality
        changes = {"quality_tolerance": first, "weights_tolerance": weights}
        if all(changes[name] <= tolerance for name, tolerance in tolerances.items()):
            break
    end, ended = run_until_stable(LEARN, start, data, max_steps=2000, every=every, **tolerances)
    assert (int(ended.steps), bool(ended.stable)) == (steps, True)
    chex.assert_trees_all_equal(end.params, state.params)


def test_what_never_stabilises_is_said_so() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    _, ended = run_until_stable(LEARN, start, data, max_steps=40, every=20, weights_tolerance=0.0)
    assert (int(ended.steps), bool(ended.stable)) == (40, False)


# Early stopping


X, Y = problem(60)
HELD_OUT = X[40:], Y[40:] + 0.5 * jax.random.normal(jax.random.key(5), Y[40:].shape)
DATA = X[:10], Y[:10] + 0.5 * jax.random.normal(jax.random.key(6), Y[:10].shape)


def validate(params: Any, state: Any) -> jax.Array:
    return jnp.mean(squared.value(NET.apply(params, state, HELD_OUT[0]), HELD_OUT[1]))


def stopping(key: jax.Array, eta: Any = 0.03, **options: Any) -> tuple[Any, Any]:
    learn = trainer(NET, squared, fnn.adam(eta), batch_size=5)
    given = {"max_steps": 1000, "every": 10, "validate": validate, "patience": 3} | options
    return run_early_stopping(learn, learn.init(key, DATA), DATA, **given)


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_is_what_fit_does(patience: int) -> None:
    learn = trainer(NET, squared, fnn.adam(0.03), batch_size=5)
    start = learn.init(jax.random.key(0), DATA)
    done = fit(learn, start, DATA, 1000, chunk=10, validate=validate, patience=patience, progress=False)
    options = {"max_steps": 1000, "every": 10, "validate": validate, "patience": patience}
    best, end = run_early_stopping(learn, start, DATA, **options)
    assert done.stopped == "early stop"
    assert (int(end.steps), bool(end.stopped)) == (int(done.state.step), True)
    assert int(end.best_step) == int(best.step) == int(done.best.step) < int(end.steps)
    assert float(end.validation) == pytest.approx(done.history["validation"].min(), rel=1e-12)
    chex.assert_trees_all_close(best.params, done.best.params, rtol=1e-12)
    assert float(validate(best.params, best.state)) == pytest.approx(float(end.validation), rel=1e-12)


def test_max_steps_end_it_too() -> None:
    best, end = stopping(jax.random.key(0), eta=1e-5, max_steps=40)
    assert (int(end.steps), bool(end.stopped), int(best.step)) == (40, False, 40)


def test_nan_is_never_the_lowest_and_leaves_the_first_state() -> None:
    best, end = stopping(jax.random.key(0), eta=float("1e300"), validate=lambda params, state: validate(params, state))
    assert (int(end.best_step), int(best.step), bool(end.stopped)) == (0, 0, True)
    assert not np.isfinite(end.validation)


def test_every_seed_of_a_sweep_stops_by_itself() -> None:
    keys = jax.random.split(jax.random.key(3), 6)

    def experiment(key: jax.Array, eta: jax.Array) -> Any:
        best, end = stopping(key, eta)
        return best.params, end

    params, ends = sweep(experiment, keys, eta=[0.03, 0.1])
    assert len(set(ends.steps.ravel().tolist())) > 3
    assert bool(jnp.all(ends.stopped))
    for i, j in ((0, 0), (3, 1), (5, 0)):
        row = jax.tree.map(lambda leaf, at=(i, j): leaf[at], (params, ends))
        chex.assert_trees_all_close(row, jax.jit(experiment)(keys[i], jnp.asarray((0.03, 0.1)[j])), rtol=1e-9)


def test_validation_may_look_at_what_is_swept() -> None:
    def experiment(key: jax.Array, width: jax.Array) -> jax.Array:
        _, end = stopping(key, validate=lambda params, state: width * validate(params, state))
        return end.validation

    found = sweep(experiment, jax.random.split(jax.random.key(3), 2), width=[1.0, 2.0])
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0], rtol=1e-9)
