"""Rounds of pruning to the letter: what a round does and takes back, a stopping rule, two losses.

The right results are loops in Python or NumPy that decide in plain numbers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    TrainState,
    adam,
    squared,
    train,
    train_until_stable,
    trainer,
)
from fnn.pruning import (
    Score,
    all_links,
    at_random,
    feature_pruner,
    features_left,
    magnitude,
    obd,
    prune,
    pruner,
    remove_features,
    remove_least,
    remove_links,
    schedule,
)
from tests.checkers import check_close
from tests.pruning.nets import NET, data, evaluate, learner

# Until a minimum


def until_stable(learn: Any, tolerance: float = 0.02) -> Any:
    return lambda state, data: train_until_stable(
        learn, state, data, max_steps=400, every=20, weights_tolerance=tolerance
    )[0]


def test_retraining_may_go_on_until_a_minimum(trained: TrainState) -> None:
    learn, score = learner(), obd(NET, squared)
    again = until_stable(learn)
    pruning, report = prune(pruner(learn, score, evaluate, amount=4, retrain=again), trained, data(), 2)
    state, links, steps = trained, all_links(trained.params), []
    for k in range(2):
        saliency = score.saliency(state.params, state.layer_state, data(), jax.random.key(0))
        links = remove_least(saliency, links, 4)
        before = remove_links(state, links)
        state, end = train_until_stable(learn, before, data(), max_steps=400, every=20, weights_tolerance=0.02)
        steps.append(int(end.steps))
        check_close(report["loss"][k], evaluate(state.params, state.layer_state))
    check_close(pruning.state.params, state.params)
    assert max(steps) < 400, "the rule stops it"
    assert int(pruning.state.step - trained.step) == sum(steps)


def test_many_seeds_stop_each_by_itself() -> None:
    learn = learner()
    rounds = pruner(learn, at_random(), evaluate, amount=3, retrain=until_stable(learn, 0.05))

    def experiment(key: Any) -> Any:
        pruning, report = prune(rounds, learn.init(key, data()), data(), 2)
        return pruning.state.step, report["loss"]

    keys = jax.random.split(jax.random.key(3), 3)
    many = jax.jit(jax.vmap(experiment))(keys)
    assert len(set(np.asarray(many[0]).tolist())) > 1
    for k in range(3):
        check_close(jax.tree.map(lambda leaf, k=k: leaf[k], many), experiment(keys[k]), 1e-9)


# Two losses


def held_out(params: Any, state: Any) -> Any:
    x, y = data(60)
    return jnp.mean(squared.value(NET.apply(params, state, x[40:]), y[40:]))


@pytest.mark.parametrize("tolerance", [(0.05, np.inf), (np.inf, 0.08), (0.05, 0.01), 0.1, np.inf], ids=str)
def test_either_of_two_losses_rolls_back(trained: TrainState, tolerance: Any) -> None:
    learn, both = learner(), (evaluate, held_out)
    rounds = pruner(learn, magnitude(), both, amount=0.3, retrain=5, tolerance=tolerance)
    pruning, report = prune(rounds, trained, data(), 6)
    slack = tolerance if isinstance(tolerance, tuple) else (tolerance,) * 2
    whole = [float(f(trained.params, trained.layer_state)) for f in both]
    state, links, kept = trained, all_links(trained.params), []
    for k in range(6):
        fewer = remove_least(jax.tree.map(jnp.abs, state.params), links, 0.3)
        new, _ = train(learn, remove_links(state, fewer), data(), 5)
        found = [float(f(new.params, new.layer_state)) for f in both]
        np.testing.assert_allclose(report["loss"][k], found, rtol=1e-9)
        kept.append(all(Q0 + t >= Q for Q, Q0, t in zip(found, whole, slack, strict=True)))
        if not kept[-1]:
            break
        state, links = new, fewer
    np.testing.assert_array_equal(report["kept"], kept + [False] * (6 - len(kept)))
    check_close(pruning.state.params, state.params)
    np.testing.assert_array_equal(ravel_pytree(pruning.links)[0], ravel_pytree(links)[0])
    assert pruning.loss.shape == (2,)
    assert all(kept) == (tolerance == np.inf)


# Refusals


def _rounds(**changed: Any) -> Any:
    options = {"evaluate": evaluate, "amount": 1, "retrain": 0} | changed
    return pruner(learner(), magnitude(), options.pop("evaluate"), **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _rounds(tolerance=(1, 2)), ValueError, r"one number, or one for each of 1 functions.*\(1, 2\)"),
        (lambda: _rounds(evaluate=(evaluate, held_out), tolerance=(1,)), ValueError, "one for each of 2 functions"),
        (
            lambda: _rounds(evaluate=(evaluate, held_out), tolerance=(1, -1)),
            ValueError,
            "tolerance must be a number >= 0",
        ),
        (lambda: _rounds(evaluate=(evaluate, 3.0)), TypeError, "evaluate must be a function"),
        (lambda: _rounds(evaluate=()), TypeError, "evaluate must be a function"),
        (lambda: _rounds(retrain=2.5), TypeError, "retrain must be a whole number"),
        (
            lambda: feature_pruner(learner(), magnitude(), evaluate, amount=1.5, retrain=0),
            ValueError,
            "amount: expected",
        ),
        (
            lambda: remove_features(jnp.ones(3), {"w": jnp.ones((2, 2), bool)}, 1),
            ValueError,
            r"each feature, \[2\].*\(3,\)",
        ),
        (lambda: features_left({"w": jnp.ones(2, bool)}), ValueError, r"rows of weight matrices.*\(2,\)"),
        (lambda: features_left({"b": jnp.ones((2, 2), bool)}), ValueError, "got one that chooses none"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_retraining_that_gives_no_state_is_refused(trained: TrainState) -> None:
    learn = learner()
    rounds = _rounds(retrain=lambda state, data: train(learn, state, data, 5))
    with pytest.raises(TypeError, match=r"retrain: expected .* the TrainState.*tuple.*train_until_stable"):
        prune(rounds, trained, data(), 1)


# A pruned network, and rounds as the slide has them


def test_a_pruned_network_is_trained_from_the_start(trained: TrainState) -> None:
    learn = learner()
    links = remove_least(jax.tree.map(jnp.abs, trained.params), all_links(trained.params), 0.5)
    fresh = remove_links(learn.init(jax.random.key(7), data()), links)
    after, _ = train(learn, fresh, data(), 50)
    assert evaluate(after.params, after.layer_state) < evaluate(fresh.params, fresh.layer_state)
    assert int(sum(jnp.sum(w == 0) for w in jax.tree.leaves(after.params))) == int(
        sum(jnp.sum(~m) for m in jax.tree.leaves(links))
    )


def test_a_round_is_what_the_slide_says(trained: TrainState) -> None:
    """Rank, remove, retrain, evaluate: one round against the same by hand."""
    learn, score = learner(), obd(NET, squared)
    pruning, report = prune(pruner(learn, score, evaluate, amount=3, retrain=20), trained, data(), 1)
    saliency = score.saliency(trained.params, trained.layer_state, data(), jax.random.key(0))
    links = remove_least(saliency, all_links(trained.params), 3)
    at_once = remove_links(trained, links)
    after, _ = train(learn, at_once, data(), 20)
    check_close(pruning.state.params, after.params)
    np.testing.assert_array_equal(ravel_pytree(pruning.links)[0], ravel_pytree(links)[0])
    check_close(report["at_once"][0], evaluate(at_once.params, at_once.layer_state))
    check_close(report["loss"][0], evaluate(after.params, after.layer_state))
    assert float(report["left"][0]) == pytest.approx(24 / 30)


def test_a_round_that_worsens_q_is_rolled_back_and_the_last(trained: TrainState) -> None:
    rounds = pruner(learner(), magnitude(), evaluate, amount=0.3, retrain=5, tolerance=0.05)
    pruning, report = prune(rounds, trained, data(), 8)
    kept = np.asarray(report["kept"])
    number = int(kept.sum())
    assert 0 < number < 7
    assert list(kept) == [True] * number + [False] * (8 - number)
    whole = float(evaluate(trained.params, trained.layer_state))
    assert np.all(np.asarray(report["loss"])[:number] <= whole + 0.05)
    assert float(report["loss"][number]) > whole + 0.05
    assert float(pruning.loss) == float(report["loss"][number - 1])
    assert int(pruning.round) == number + 1
    assert bool(pruning.stopped)
    shorter, _ = prune(rounds, trained, data(), number)
    check_close(pruning.state.params, shorter.state.params)
    np.testing.assert_array_equal(ravel_pytree(pruning.links)[0], ravel_pytree(shorter.links)[0])


def test_many_seeds_at_once_are_the_single_runs() -> None:
    learn = learner()

    def experiment(key: Any) -> Any:
        state = learn.init(key, data())
        return prune(pruner(learn, at_random(), evaluate, amount=schedule(0.6, 3), retrain=10), state, data(), 3)[1]

    keys = jax.random.split(jax.random.key(3), 3)
    many = jax.jit(jax.vmap(experiment))(keys)
    check_close(jax.tree.map(lambda leaf: leaf[1], many), experiment(keys[1]), 1e-9)
    np.testing.assert_allclose(many["left"][:, -1], 13 / 30)  # 0.4, but for whole links in every round


def test_pruning_again_compiles_nothing(trained: TrainState) -> None:
    traces = []

    def counted(params: Any, state: Any) -> Any:
        traces.append(1)
        return evaluate(params, state)

    rounds = pruner(learner(), magnitude(), counted, amount=0.1, retrain=5)
    prune(rounds, trained, data(), 2)
    first = len(traces)
    prune(rounds, trained._replace(step=trained.step + 1), data(), 2)
    assert len(traces) == first


# Refusals of a pruner


def _pruner(**changed: Any) -> Any:
    options = {"score": magnitude(), "evaluate": evaluate, "amount": 1, "retrain": 0} | changed
    return pruner(learner(), options.pop("score"), options.pop("evaluate"), **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _pruner(score=magnitude), TypeError, r"score: expected a Score.*magnitude\(\)"),
        (lambda: _pruner(amount=1.5), ValueError, r"amount: expected a whole number.*fraction in \[0, 1\).*1.5"),
        (lambda: _pruner(amount=-1), ValueError, "amount: expected a whole number.*-1"),
        (lambda: _pruner(amount="all"), TypeError, "amount: expected .*'all'"),
        (lambda: _pruner(scope="net"), ValueError, 'scope: expected "layer" or "global"'),
        (lambda: _pruner(retrain=-1), ValueError, "retrain must be a whole number >= 0"),
        (lambda: _pruner(tolerance=-0.1), ValueError, "tolerance must be a number >= 0"),
        (lambda: _pruner(evaluate=3.0), TypeError, "evaluate must be a function"),
        (lambda: schedule(1.0, 3), ValueError, r"final must be in \[0, 1\)"),
        (lambda: remove_least({"w": 1.0}, {"b": True}, 1), ValueError, "saliency and links differ in structure"),
        (
            lambda: remove_least({"b": jnp.ones(2)}, {"b": jnp.ones(2, bool)}, 1),
            ValueError,
            "got one that chooses none",
        ),
    ],
)
def test_a_pruner_that_makes_no_sense_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_run_whose_optimizer_is_not_sparse_is_refused(trained: TrainState) -> None:
    learn = trainer(NET, squared, adam(0.01), batch_size=10)
    state = learn.init(jax.random.key(0), data())
    with pytest.raises(ValueError, match=r"grow again.*sparse\(\.\.\.\)"):
        remove_links(state, all_links(state.params))
    with pytest.raises(ValueError, match="links and params differ in structure"):
        remove_links(trained, all_links(trained.params)[0])


def test_a_loss_that_is_no_number_is_refused(trained: TrainState) -> None:
    with pytest.raises(ValueError, match=r"Q as one number.*\(40,\)"):
        _pruner(evaluate=lambda p, s: squared.value(NET.apply(p, s, data()[0]), data()[1])).init(trained)


def test_a_score_of_ones_own(trained: TrainState) -> None:
    mine = Score("mine", lambda params, state, batch, key: jax.tree.map(lambda w: -jnp.abs(w), params))
    pruning, _ = prune(_pruner(score=mine, amount=1), trained, data(), 1)
    w = np.abs(np.asarray(trained.params[0]["w"]))
    assert not bool(pruning.links[0]["w"][np.unravel_index(w.argmax(), w.shape)])
