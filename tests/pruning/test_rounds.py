"""Rounds of pruning to the letter: a stopping rule, two qualities, w_0 among the links, features; and odd scores.

The right results are loops in Python or NumPy that decide in plain numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    TrainState,
    adam,
    chain,
    dense,
    linear,
    masked,
    momentum,
    repeat,
    serial,
    sgd,
    squared,
    tanh,
    train,
    train_until_stable,
    trainer,
    weights_only,
)
from fnn.pruning import (
    Score,
    all_links,
    at_random,
    feature_pruner,
    features_left,
    first_weights,
    gate_saliency,
    magnitude,
    obd,
    prune,
    pruner,
    remove_features,
    remove_least,
    remove_links,
    share_left,
    sparse,
    weights_and_biases,
)
from tests.checkers import check_close
from tests.pruning.test_masks import NET, data, evaluate, learner, trained  # noqa: F401, the fixture

# Exactly as many links as asked


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("amount", [2, 0.5])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_traced_scores_that_are_no_numbers_cost_as_many_links_as_asked(scope: str, amount: Any, odd: float) -> None:
    """Finite ones first, then infinite ones, then NaN; what is gone never counts."""
    values = np.array([[odd, 3.0, odd], [1.0, odd, 2.0]])
    left = np.array([[True, False, True], [True, True, True]])
    got = jax.jit(lambda s: remove_least({"w": s}, {"w": jnp.asarray(left)}, amount, scope=scope))(jnp.asarray(values))
    number = 2 if amount == 2 else round(0.5 * left.sum())
    living = np.flatnonzero(left)
    flat = values.ravel()
    gone = sorted(living, key=lambda k: (np.isnan(flat[k]), 0 if np.isnan(flat[k]) else flat[k]))[:number]
    want = left.copy().ravel()
    want[gone] = False
    np.testing.assert_array_equal(np.asarray(got["w"]).ravel(), want)


@pytest.mark.parametrize("values", [[np.nan] * 4, [np.inf] * 4, [np.nan, 1.0, np.inf, 0.0]])
def test_after_links_are_gone_none_is_counted_twice(values: list[float]) -> None:
    links = {"w": jnp.asarray([[True, True, False, True]])}
    for number in (3, 2, 1, 0):
        assert int(links["w"].sum()) == number
        links = jax.jit(lambda s, links: remove_least({"w": s}, links, 1))(jnp.asarray([values]), links)


def test_nan_that_can_be_seen_is_refused() -> None:
    saliency = {"w": jnp.asarray([[1.0, jnp.nan]]), "b": jnp.asarray([jnp.nan])}
    with pytest.raises(
        ValueError, match=r"remove_least: expected saliencies .* got 1 NaN of 2 at saliency\['w'\]\. Look"
    ):
        remove_least(saliency, all_links(saliency), 1)
    gone = {"w": jnp.asarray([[True, False]]), "b": jnp.asarray([True])}
    assert not remove_least(saliency, gone, 1)["w"].any(), "links that are gone do not count, nor do biases"
    with pytest.raises(ValueError, match=r"remove_features: expected saliencies .* got 1 NaN of 1"):
        remove_features(saliency, all_links(saliency), 1)


@pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int8, jnp.uint8], ids=lambda d: d.__name__
)
def test_an_amount_may_be_in_any_dtype(dtype: Any) -> None:
    """In bfloat16 itself 0.5 of 600 links is 300, and of 602 it is not 301."""
    params = {"w": jnp.arange(602.0).reshape(2, 301)}
    amount, number = (
        (jnp.asarray(0.5, dtype), 301) if jnp.issubdtype(dtype, jnp.floating) else (jnp.asarray(7, dtype), 7)
    )
    for given in (amount, np.asarray(amount)):
        left = remove_least(params, all_links(params), given)["w"].ravel()
        np.testing.assert_array_equal(left, np.arange(602) >= number)
    with pytest.raises(ValueError, match="amount: expected"):
        remove_least(params, all_links(params), jnp.asarray(1.5, jnp.bfloat16))


# w_0 is a link of its layer


def test_biases_are_ranked_with_the_weights_of_their_layer() -> None:
    rng = np.random.default_rng(5)
    params = tuple({"w": rng.normal(size=(i, o)), "b": rng.normal(size=o)} for i, o in ((4, 5), (5, 2)))
    worth = jax.tree.map(lambda leaf: jnp.asarray(np.abs(leaf)), params)
    links = remove_least(worth, all_links(worth), 6, prunable=weights_and_biases)
    for layer, left in zip(params, links, strict=True):
        extended = np.vstack([layer["b"], layer["w"]])  # the slide's W, w_0h in row 0
        least = np.sort(np.abs(extended).ravel())[6]
        np.testing.assert_array_equal(np.vstack([left["b"], left["w"]]), np.abs(extended) >= least)
    assert float(share_left(links, weights_and_biases)) == pytest.approx(1 - 12 / 37)


def test_the_bias_of_every_copy_is_ranked_with_its_copy() -> None:
    params, _ = repeat(dense(3, tanh), 4).init(jax.random.key(0), jnp.ones((1, 3)))
    worth = {"w": jnp.abs(params["w"]), "b": jnp.full((4, 3), 1e-6) + 1e-7 * jnp.arange(12.0).reshape(4, 3)}
    links = remove_least(worth, all_links(params), 2, prunable=weights_and_biases)
    np.testing.assert_array_equal(links["b"], [[False, False, True]] * 4)
    assert bool(links["w"].all())


def test_leaves_that_are_no_entries_of_one_dict_are_layers_of_their_own() -> None:
    worth = (jnp.asarray([[1.0, 2.0]]), jnp.asarray([[3.0, 4.0]]))
    links = remove_least(worth, all_links(worth), 1, prunable=(True, True))
    np.testing.assert_array_equal(np.concatenate(links), [[False, True], [False, True]])


# What an optimizer remembers of some of the leaves


class LeftOut(NamedTuple):
    """What another library puts in the place of a leaf that is masked."""


class Velocity(NamedTuple):
    """The state of a foreign optimizer under a mask of its library's."""

    count: Any
    v: Any


def foreign_masked() -> Any:
    """Momentum for the weights, whose state holds `LeftOut()` beside the biases."""
    chosen = lambda tree: [{"w": part["w"], "b": LeftOut()} for part in tree]  # noqa: E731

    def update(g: Any, state: Any, params: Any = None) -> Any:
        v = [{"w": 0.9 * old["w"] + new["w"], "b": LeftOut()} for old, new in zip(state.v, g, strict=True)]
        updates = tuple({"w": -0.1 * of["w"], "b": -0.1 * new["b"]} for of, new in zip(v, g, strict=True))
        return updates, Velocity(state.count + 1, tuple(v))

    init = lambda params: Velocity(jnp.zeros((), int), tuple(chosen(jax.tree.map(jnp.zeros_like, params))))  # noqa: E731
    return type("Pair", (), {"init": staticmethod(init), "update": staticmethod(update)})()


REMEMBERS = {
    "masked": sparse(
        chain(masked(momentum(0.1), weights_only), masked(sgd(0.1), lambda p: jax.tree.map(lambda w: w.ndim == 1, p)))
    ),
    "another library's": sparse(foreign_masked()),
    "sparse within": chain(
        masked(sparse(momentum(0.1)), weights_only), masked(sgd(0.1), lambda p: jax.tree.map(lambda w: w.ndim == 1, p))
    ),
    "all": sparse(momentum(0.1)),
}


@pytest.mark.parametrize("optimizer", REMEMBERS.values(), ids=REMEMBERS.keys())
def test_velocities_under_a_mask_lose_removed_links(optimizer: Any) -> None:
    learn = trainer(NET, squared, optimizer, batch_size=10)
    state, _ = train(learn, learn.init(jax.random.key(0), data()), data(), 10)
    links = remove_least(jax.tree.map(jnp.abs, state.params), all_links(state.params), 0.5)
    pruned = remove_links(state, links)
    assert jax.tree.structure(pruned) == jax.tree.structure(state)
    removed = {tuple(np.shape(part["w"])): ~np.asarray(part["w"]) for part in links}
    moving = [
        (np.asarray(new), np.asarray(old), removed[np.shape(old)])
        for new, old in zip(
            jax.tree.leaves(pruned.optimizer_state), jax.tree.leaves(state.optimizer_state), strict=True
        )
        if np.shape(old) in removed and np.asarray(old).dtype != bool
    ]
    assert len(moving) == 2
    for new, old, gone in moving:
        assert (new[gone] == 0).all()
        assert (old[gone] != 0).all()
        np.testing.assert_array_equal(new[~gone], old[~gone])
    after, _ = train(learn, pruned, data(), 3)
    for part, left in zip(after.params, links, strict=True):
        assert (np.asarray(part["w"])[~np.asarray(left["w"])] == 0).all()


# Until a minimum


def until_stable(learn: Any, tolerance: float = 0.02) -> Any:
    return lambda state, data: train_until_stable(
        learn, state, data, max_steps=400, every=20, weights_tolerance=tolerance
    )[0]


def test_retraining_may_go_on_until_a_minimum(trained: TrainState) -> None:  # noqa: F811
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
        check_close(report["quality"][k], evaluate(state.params, state.layer_state))
    check_close(pruning.state.params, state.params)
    assert max(steps) < 400, "the rule stops it"
    assert int(pruning.state.step - trained.step) == sum(steps)


def test_many_seeds_stop_each_by_itself() -> None:
    learn = learner()
    rounds = pruner(learn, at_random(), evaluate, amount=3, retrain=until_stable(learn, 0.05))

    def experiment(key: Any) -> Any:
        pruning, report = prune(rounds, learn.init(key, data()), data(), 2)
        return pruning.state.step, report["quality"]

    keys = jax.random.split(jax.random.key(3), 3)
    many = jax.jit(jax.vmap(experiment))(keys)
    assert len(set(np.asarray(many[0]).tolist())) > 1
    for k in range(3):
        check_close(jax.tree.map(lambda leaf, k=k: leaf[k], many), experiment(keys[k]), 1e-9)


# Two qualities


def held_out(params: Any, state: Any) -> Any:
    x, y = data(60)
    return jnp.mean(squared.value(NET.apply(params, state, x[40:]), y[40:]))


@pytest.mark.parametrize("tolerance", [(0.05, np.inf), (np.inf, 0.08), (0.05, 0.01), 0.1, np.inf], ids=str)
def test_either_of_two_qualities_rolls_back(trained: TrainState, tolerance: Any) -> None:  # noqa: F811
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
        np.testing.assert_allclose(report["quality"][k], found, rtol=1e-9)
        kept.append(all(Q0 + t >= Q for Q, Q0, t in zip(found, whole, slack, strict=True)))
        if not kept[-1]:
            break
        state, links = new, fewer
    np.testing.assert_array_equal(report["kept"], kept + [False] * (6 - len(kept)))
    check_close(pruning.state.params, state.params)
    np.testing.assert_array_equal(ravel_pytree(pruning.links)[0], ravel_pytree(links)[0])
    assert pruning.quality.shape == (2,)
    assert all(kept) == (tolerance == np.inf)


# Features


def least_squares_by_numpy(
    x: Any, y: Any, w: Any, b: Any, tolerance: float, rounds: int
) -> tuple[Any, Any, list[bool]]:
    """S_j = Σ_h ½ w_jh² (1/n)Σ x_j², two features a round, twenty steps of gradient descent, rolled back at the end."""
    quality = lambda w, b: 0.5 * np.mean(np.sum((x @ w + b - y) ** 2, axis=1))  # noqa: E731
    left, allowed, kept = np.ones(len(w), bool), quality(w, b) + tolerance, []
    for _ in range(rounds):
        worth = 0.5 * np.sum(w**2, axis=1) * np.mean(x**2, axis=0)
        fewer, new_w, new_b = left.copy(), w.copy(), b.copy()
        fewer[sorted(np.flatnonzero(left), key=lambda j: worth[j])[:2]] = False
        new_w[~fewer] = 0
        for _ in range(20):
            error = (x @ new_w + new_b - y) / len(x)
            new_w, new_b = new_w - 0.1 * (x.T @ error) * fewer[:, None], new_b - 0.1 * error.sum(0)
        kept.append(bool(quality(new_w, new_b) <= allowed))
        if not kept[-1]:
            break
        w, b, left = new_w, new_b, fewer
    return left, w, kept


@pytest.mark.parametrize(("steps", "tolerance", "number"), [(2000, 0.0, 0), (50, 0.002, 2), (50, np.inf, 3)])
def test_features_go_as_a_numpy_loop_has_them_go(steps: int, tolerance: float, number: int) -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(50, 8)) * rng.uniform(0.3, 2, size=8)
    y = x @ (rng.normal(size=(8, 3)) * 2.0 ** -np.arange(8)[:, None]) + 0.1 * rng.normal(size=(50, 3))
    net = linear(3)
    learn = trainer(net, squared, sparse(sgd(0.1)), batch_size=50)
    sample = jnp.asarray(x), jnp.asarray(y)
    state, _ = train(learn, learn.init(jax.random.key(0), sample), sample, steps)
    quality = lambda params, state: jnp.mean(squared.value(net.apply(params, state, sample[0]), sample[1]))  # noqa: E731
    rounds = feature_pruner(learn, obd(net, squared), quality, amount=2, retrain=20, tolerance=tolerance)
    pruning, report = prune(rounds, state, sample, 3)
    w, b = (np.asarray(state.params[name]) for name in ("w", "b"))
    left, want, kept = least_squares_by_numpy(x, y, w, b, tolerance, 3)
    np.testing.assert_array_equal(features_left(pruning.links), left)
    np.testing.assert_allclose(pruning.state.params["w"], want, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(report["kept"], kept + [False] * (3 - len(kept)))
    assert sum(kept) == number
    np.testing.assert_allclose(report["left"][: len(kept)], 1 - 0.25 * np.arange(1, len(kept) + 1))


def test_features_of_a_deep_net_go_row_by_row_under_vmap_too() -> None:
    net = serial(dense(5, tanh), dense(4, tanh), linear(2))
    learn = trainer(net, squared, sparse(adam(0.02)), batch_size=10)
    quality = lambda params, state: jnp.mean(squared.value(net.apply(params, state, data()[0]), data()[1]))  # noqa: E731
    gates = Score("gates", gate_saliency(net, squared))

    def experiment(key: Any) -> Any:
        state, _ = train(learn, learn.init(key, data()), data(), 100)
        pruning, report = prune(feature_pruner(learn, gates, quality, amount=1, retrain=10), state, data(), 2)
        return state, pruning, report

    keys = jax.random.split(jax.random.key(1), 2)
    many = jax.jit(jax.vmap(lambda key: experiment(key)[1:]))(keys)
    for k, key in enumerate(keys):
        state, pruning, report = experiment(key)
        left = np.ones(4, bool)
        for _ in range(2):
            worth = np.asarray(gates.saliency(state.params, state.layer_state, data(), key))
            left[min(np.flatnonzero(left), key=lambda j, worth=worth: worth[j])] = False
            links = all_links(state.params)
            links[0]["w"] = links[0]["w"] & jnp.asarray(left)[:, None]
            state, _ = train(learn, remove_links(state, links), data(), 10)
        check_close(pruning.state.params, state.params)
        np.testing.assert_array_equal(features_left(pruning.links), left)
        check_close(jax.tree.map(lambda leaf, k=k: leaf[k], many[1]), report, 1e-9)
        np.testing.assert_array_equal(report["left"], [0.75, 0.5])


def test_features_in_slices_are_the_rows_one_after_the_other() -> None:
    """S_j = 2, 10, 1, 18 of the slice of four, and 9, 0, 3 of two slices of one and two more."""
    params = ({"w": jnp.ones((4, 2)), "b": jnp.ones(2)}, {"w": jnp.ones((3, 1, 3))}, {"w": jnp.ones((7, 2))})
    saliency = jax.tree.map(jnp.zeros_like, params)
    saliency[0]["w"] = jnp.asarray([[1.0, 1.0], [5.0, 5.0], [1.0, 0.0], [9.0, 9.0]])
    saliency[1]["w"] = jnp.asarray([[[9.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]])
    of = ({"w": True, "b": False}, {"w": True}, {"w": False})
    left = [False, True, False, True, True, False, True]
    for given in (saliency, jnp.asarray([2.0, 10.0, 1.0, 18.0, 9.0, 0.0, 3.0])):
        links = remove_features(given, all_links(params), 3, of=of)
        np.testing.assert_array_equal(features_left(links, of), left)
        np.testing.assert_array_equal(links[0]["w"], np.repeat(np.array(left)[:4, None], 2, axis=1))
        np.testing.assert_array_equal(links[1]["w"], np.repeat(np.array(left)[4:, None, None], 3, axis=2))
        assert bool(links[2]["w"].all())
        assert bool(links[0]["b"].all())
    assert first_weights(params) == ({"w": True, "b": False}, {"w": False}, {"w": False})


def test_a_feature_is_left_while_one_of_its_links_is_and_counts_by_those() -> None:
    links = {"w": jnp.asarray([[True, False], [False, False], [True, True]])}
    np.testing.assert_array_equal(features_left(links), [True, False, True])
    saliency = {"w": jnp.asarray([[2.0, 9.0], [0.0, 0.0], [2.0, 1.0]])}  # S_j = 2, gone, 3
    after = remove_features(saliency, links, 1)
    np.testing.assert_array_equal(after["w"], [[False, False], [False, False], [True, True]])


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


def test_a_retraining_that_gives_no_state_is_refused(trained: TrainState) -> None:  # noqa: F811
    learn = learner()
    rounds = _rounds(retrain=lambda state, data: train(learn, state, data, 5))
    with pytest.raises(TypeError, match=r"retrain: expected .* the TrainState.*tuple.*train_until_stable"):
        prune(rounds, trained, data(), 1)
