"""Runs that end by themselves: when Q and W are stable, or when validation no longer improves; each row of a sweep."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Trainer,
    TrainState,
    fit,
    linear,
    sgd,
    squared,
    sweep,
    train,
    train_until_stable,
    train_with_early_stopping,
    trainer,
)
from tests.training.learners import LEARN, NET, problem


def test_linear_regression_stabilises_at_the_least_squares_solution() -> None:
    x, y = problem()
    learn = trainer(linear(2), squared, sgd(0.2), batch_size=len(x))
    state, ended = train_until_stable(
        learn, learn.init(jax.random.key(0), (x, y)), (x, y), max_steps=20_000, every=10, weights_tolerance=1e-13
    )
    best = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)[0]
    assert bool(ended.stable)
    assert int(ended.steps) == int(state.step) < 20_000
    np.testing.assert_allclose(state.params["w"], best[:-1], rtol=1e-9)
    np.testing.assert_allclose(state.params["b"], best[-1], rtol=1e-9)


@pytest.mark.parametrize(
    "tolerances",
    [
        {"running_loss_tolerance": 0.05},
        {"weights_tolerance": 0.01},
        {"running_loss_tolerance": 0.05, "weights_tolerance": 0.01},
    ],
)
def test_run_until_stable_is_the_literal_loop(tolerances: dict[str, Any]) -> None:
    data, every = problem(), 20
    state = start = LEARN.init(jax.random.key(0), data)
    steps = 0
    for steps in range(every, 2001, every):
        old, (state, _) = state, train(LEARN, state, data, every)
        flat = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(s.params)]) for s in (old, state)]
        weights = np.linalg.norm(flat[1] - flat[0]) / np.linalg.norm(flat[0])
        first = np.inf if steps == every else abs(state.running_loss - old.running_loss) / old.running_loss
        changes = {"running_loss_tolerance": first, "weights_tolerance": weights}
        if all(changes[name] <= tolerance for name, tolerance in tolerances.items()):
            break
    end, ended = train_until_stable(LEARN, start, data, max_steps=2000, every=every, **tolerances)
    assert (int(ended.steps), bool(ended.stable)) == (steps, True)
    chex.assert_trees_all_equal(end.params, state.params)


def test_what_never_stabilises_is_said_so() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    _, ended = train_until_stable(LEARN, start, data, max_steps=40, every=20, weights_tolerance=0.0)
    assert (int(ended.steps), bool(ended.stable)) == (40, False)


# Early stopping by what is written beforehand: step t makes the params t, and look j finds script[j]


def init(script: jax.Array, data: Any) -> TrainState:
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, script, (), zero, jnp.zeros(()), jax.random.key(0))


def step(state: TrainState, data: Any) -> tuple[TrainState, dict[str, jax.Array]]:
    return state._replace(params=state.params + 1, step=state.step + 1), {"loss": jnp.zeros(())}


COUNT = Trainer(init, step, step, "count")
EVERY, LOOKS = 5, 9


def written(state: TrainState) -> jax.Array:
    return state.layer_state[state.params // EVERY - 1]


NOTHING: Any = ()


def by_script(script: jax.Array, patience: int) -> tuple[TrainState, fnn.training.EarlyStop]:
    options: dict[str, Any] = {"max_steps": EVERY * LOOKS, "every": EVERY, "validate": written, "patience": patience}
    return train_with_early_stopping(COUNT, init(script, ()), NOTHING, **options)


def literal_loop(script: np.ndarray, patience: int) -> tuple[int, int, float, bool]:
    lowest, best, look = np.inf, 0, 0
    for look, value in enumerate(script, 1):
        if value < lowest:
            lowest, best = value, look
        if look - best >= patience:
            return look * EVERY, best * EVERY, lowest, True
    return look * EVERY, best * EVERY, lowest, False


@pytest.mark.parametrize("patience", [1, 2, 4])
def test_early_stopping_is_the_literal_loop_and_fit(patience: int) -> None:
    """Ties, NaN and infinity among the values; a row that has ended sees no lower value further on."""
    drawn = np.random.default_rng(1).choice([1.0, 2.0, 3.0, 4.0, np.nan, np.inf], (200, LOOKS))
    scripts = np.vstack([[np.nan] * LOOKS, [np.inf] * LOOKS, np.arange(LOOKS, 0.0, -1), np.arange(LOOKS), drawn])
    best, end = jax.vmap(lambda script: by_script(script, patience))(jnp.asarray(scripts))
    expected = [literal_loop(script, patience) for script in scripts]
    for found, column in zip(end, zip(*expected, strict=True), strict=True):
        np.testing.assert_array_equal(found, column)
    np.testing.assert_array_equal(best.params, end.best_step)
    np.testing.assert_array_equal(best.step, end.best_step)
    assert len({steps for steps, _, _, _ in expected}) > 3
    for row in range(12):
        start = init(jnp.asarray(scripts[row]), ())
        nothing: Any = ()
        options = {"chunk": EVERY, "validate": written, "patience": patience, "progress": False}
        done = fit(COUNT, start, nothing, EVERY * LOOKS, **options)
        assert (int(done.state.step), int(done.best.step)) == (int(end.steps[row]), int(end.best_step[row]))
        assert (done.stopped == "early stop") == bool(end.stopped[row])
        assert len(done.history["step"]) == int(end.steps[row]) // EVERY
        chex.assert_trees_all_equal(
            by_script(start.layer_state, patience), jax.tree.map(lambda leaf, at=row: leaf[at], (best, end))
        )


# Early stopping of a network


X, Y = problem(60)
HELD_OUT = X[40:], Y[40:] + 0.5 * jax.random.normal(jax.random.key(5), Y[40:].shape)
DATA = X[:10], Y[:10] + 0.5 * jax.random.normal(jax.random.key(6), Y[:10].shape)


def validate(state: TrainState) -> jax.Array:
    a = NET.apply(state.params, state.layer_state, HELD_OUT[0])
    return jnp.mean(squared.value(a, HELD_OUT[1]))


def stopping(key: jax.Array, eta: Any = 0.03, **options: Any) -> tuple[Any, Any]:
    learn = trainer(NET, squared, fnn.adam(eta), batch_size=5)
    given = {"max_steps": 1000, "every": 10, "validate": validate, "patience": 3} | options
    return train_with_early_stopping(learn, learn.init(key, DATA), DATA, **given)


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_is_what_fit_does(patience: int) -> None:
    learn = trainer(NET, squared, fnn.adam(0.03), batch_size=5)
    start = learn.init(jax.random.key(0), DATA)
    done = fit(learn, start, DATA, 1000, chunk=10, validate=validate, patience=patience, progress=False)
    options = {"max_steps": 1000, "every": 10, "validate": validate, "patience": patience}
    best, end = train_with_early_stopping(learn, start, DATA, **options)
    assert done.stopped == "early stop"
    assert (int(end.steps), bool(end.stopped)) == (int(done.state.step), True)
    assert int(end.best_step) == int(best.step) == int(done.best.step) < int(end.steps)
    assert float(end.validation) == pytest.approx(done.history["validation"].min(), rel=1e-12)
    chex.assert_trees_all_close(best.params, done.best.params, rtol=1e-12)
    assert float(validate(best)) == pytest.approx(float(end.validation), rel=1e-12)


def test_max_steps_end_it_too() -> None:
    best, end = stopping(jax.random.key(0), eta=1e-5, max_steps=40)
    assert (int(end.steps), bool(end.stopped), int(best.step)) == (40, False, 40)


def test_every_seed_of_a_sweep_stops_by_itself() -> None:
    keys = jax.random.split(jax.random.key(3), 6)

    def experiment(key: jax.Array, eta: jax.Array) -> Any:
        best, end = stopping(key, eta)
        return best.params, end

    params, ends = sweep(experiment, keys, eta=[0.03, 0.1])
    assert len(set(ends.steps.ravel().tolist())) > 3
    assert bool(jnp.all(ends.stopped))
    single = jax.jit(experiment)
    for i, j in np.ndindex(6, 2):
        row = jax.tree.map(lambda leaf, at=(i, j): leaf[at], (params, ends))
        chex.assert_trees_all_close(row, single(keys[i], jnp.asarray((0.03, 0.1)[j])), rtol=1e-9)


@pytest.mark.parametrize("key_is_swept", [True, False])
def test_validation_may_look_at_what_is_swept(key_is_swept: bool) -> None:
    fixed = jax.random.key(9)  # then validate alone holds a tracer

    def experiment(key: jax.Array, height: jax.Array) -> jax.Array:
        options = {"max_steps": 40, "validate": lambda state: height * validate(state)}
        return stopping(key if key_is_swept else fixed, **options)[1].validation

    found = sweep(experiment, jax.random.split(jax.random.key(3), 2), height=[1.0, 2.0])
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0], rtol=1e-9)
    assert bool(found[0, 0] != found[1, 0]) == key_is_swept


def test_a_second_early_stopping_compiles_nothing() -> None:
    traces = []

    def counted(state: TrainState) -> jax.Array:
        traces.append(state)
        return validate(state)

    learn = trainer(NET, squared, sgd(0.1), batch_size=5)
    options = {"max_steps": 40, "every": 10, "validate": counted, "patience": 2}
    train_with_early_stopping(learn, learn.init(jax.random.key(0), DATA), DATA, **options)
    once = len(traces)
    train_with_early_stopping(learn, learn.init(jax.random.key(1), DATA), DATA, **options)
    assert len(traces) == once


# What is 0, and the slide's "and/or"


def scripted(losses: Any, params: Any) -> tuple[Trainer, TrainState]:
    """A trainer whose Q and W after step t are those written beforehand; before the first step there is no Q."""
    Q, W = jnp.asarray(losses, float), jnp.asarray(params, float)

    def step(state: TrainState, data: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        after = state.step + 1
        return state._replace(params=W[after], step=after, running_loss=Q[state.step]), {"loss": Q[state.step]}

    start = TrainState(W[0], (), (), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf), jax.random.key(0))
    return Trainer(lambda key, data: start, step, lambda state, batch: step(state, batch)), start


@pytest.mark.parametrize("every", [1, 2])
def test_q_and_w_that_are_0_and_stay_so_are_stable(every: int) -> None:
    learn, start = scripted([0.0] * 8, [0.0] * 9)
    cases: list[tuple[dict[str, Any], int]] = [({"running_loss_tolerance": 0.1}, 2), ({"weights_tolerance": 0.1}, 1)]
    for options, at in cases:
        _, end = train_until_stable(learn, start, NOTHING, max_steps=8, every=every, **options)
        assert (int(end.steps), bool(end.stable), float(end.weights_change)) == (at * every, True, 0.0)


def test_what_leaves_0_is_not_stable() -> None:
    learn, start = scripted([0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    cases: list[tuple[dict[str, Any], int]] = [({"running_loss_tolerance": 0.0}, 2), ({"weights_tolerance": 0.0}, 1)]
    for options, at in cases:
        _, end = train_until_stable(learn, start, NOTHING, max_steps=4, every=1, **options)
        assert (int(end.steps), bool(end.stable)) == (at, True)
    moves, start = scripted([0.0, 1.0, 2.0, 2.0], [0.0, 1.0, 2.0, 2.0, 2.0])
    _, end = train_until_stable(moves, start, NOTHING, max_steps=2, every=1, running_loss_tolerance=10.0)
    assert not bool(end.stable)
    assert float(end.running_loss_change) == np.inf


Q_THEN_W = ([8.0, 4.0, 4.0, 4.0, 4.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0])
"""Q stays after step 3, W after step 5."""


@pytest.mark.parametrize(
    ("options", "at"),
    [
        ({"running_loss_tolerance": 1e-3}, 3),
        ({"weights_tolerance": 1e-3}, 5),
        ({"running_loss_tolerance": 1e-3, "weights_tolerance": 1e-3}, 5),
        ({"running_loss_tolerance": 1e-3, "weights_tolerance": 1e-3, "either": True}, 3),
        ({"running_loss_tolerance": 0.0, "running_loss_floor": 5.0}, 2),
    ],
)
def test_q_and_or_w(options: dict[str, Any], at: int) -> None:
    learn, start = scripted(*Q_THEN_W)
    _, end = train_until_stable(learn, start, NOTHING, max_steps=6, every=1, **options)
    assert (int(end.steps), bool(end.stable)) == (at, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "expected a stopping criterion, got none"),
        ({"running_loss_tolerance": -1.0}, ">= 0"),
        ({"weights_tolerance": 0.1, "either": True}, r"got one of them\. Pass both"),
        (
            {"weights_tolerance": 0.1, "running_loss_floor": 0.1},
            "expected running_loss_tolerance with running_loss_floor",
        ),
    ],
)
def test_rules_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    learn, start = scripted(*Q_THEN_W)
    with pytest.raises(ValueError, match=told):
        train_until_stable(learn, start, NOTHING, max_steps=6, every=1, **options)


def test_a_loss_that_reaches_0_ends_the_loop() -> None:
    x, y = jnp.array([[2.0, 0.0], [-2.0, 0.0]] * 8), jnp.array([1, -1] * 8)
    learn = trainer(linear(1, w=fnn.nn.zeros()), fnn.hinge_margin, sgd(0.5), batch_size=16, running_loss_rate=1.0)
    _, end = train_until_stable(
        learn, learn.init(jax.random.key(0), (x, y)), (x, y), max_steps=100, every=10, running_loss_tolerance=1e-3
    )
    assert (int(end.steps), bool(end.stable), float(end.running_loss_change)) == (20, True, 0.0)
