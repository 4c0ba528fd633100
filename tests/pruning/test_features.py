"""Feature selection: planted features are found, and features go as links do."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    adam,
    dense,
    linear,
    serial,
    sgd,
    squared,
    tanh,
    train,
    trainer,
)
from fnn.pruning import (
    Score,
    all_links,
    feature_pruner,
    features_left,
    first_weights,
    gate_saliency,
    obd,
    prune,
    remove_features,
    remove_links,
    sparse,
)
from tests.checkers import check_close
from tests.problems import normal
from tests.pruning.nets import data


def test_planted_features_are_found() -> None:
    x = normal(jnp.zeros((200, 6)), seed=1)
    sample = x, (jnp.sin(2 * x[:, 2]) + x[:, 4])[:, None]
    net = serial(dense(8, tanh), linear(1))
    learn = trainer(net, squared, adam(0.02), batch_size=20)
    state, _ = train(learn, learn.init(jax.random.key(0), sample), sample, 1500)
    gates = gate_saliency(net, squared)(state.params, state.layer_state, sample, jax.random.key(0))
    assert set(np.argsort(np.asarray(gates))[-2:]) == {2, 4}


def least_squares_by_numpy(
    x: Any, y: Any, w: Any, b: Any, tolerance: float, rounds: int
) -> tuple[Any, Any, list[bool]]:
    """S_j = Σ_h ½ w_jh² (1/n)Σ x_j², two features a round, twenty steps of gradient descent, rolled back at the end."""
    loss = lambda w, b: 0.5 * np.mean(np.sum((x @ w + b - y) ** 2, axis=1))  # noqa: E731
    left, allowed, kept = np.ones(len(w), bool), loss(w, b) + tolerance, []
    for _ in range(rounds):
        worth = 0.5 * np.sum(w**2, axis=1) * np.mean(x**2, axis=0)
        fewer, new_w, new_b = left.copy(), w.copy(), b.copy()
        fewer[sorted(np.flatnonzero(left), key=lambda j: worth[j])[:2]] = False
        new_w[~fewer] = 0
        for _ in range(20):
            error = (x @ new_w + new_b - y) / len(x)
            new_w, new_b = new_w - 0.1 * (x.T @ error) * fewer[:, None], new_b - 0.1 * error.sum(0)
        kept.append(bool(loss(new_w, new_b) <= allowed))
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
    loss = lambda params, state: jnp.mean(squared.value(net.apply(params, state, sample[0]), sample[1]))  # noqa: E731
    rounds = feature_pruner(learn, obd(net, squared), loss, amount=2, retrain=20, tolerance=tolerance)
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
    loss = lambda params, state: jnp.mean(squared.value(net.apply(params, state, data()[0]), data()[1]))  # noqa: E731
    gates = Score("gates", gate_saliency(net, squared))

    def experiment(key: Any) -> Any:
        state, _ = train(learn, learn.init(key, data()), data(), 100)
        pruning, report = prune(feature_pruner(learn, gates, loss, amount=1, retrain=10), state, data(), 2)
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
