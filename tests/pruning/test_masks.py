"""Which links are left: removed exactly as many as asked, w_0 among them, and kept at 0 by every optimizer."""

from __future__ import annotations

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    adadelta,
    adam,
    chain,
    dense,
    l2,
    masked,
    momentum,
    nadam,
    nag,
    repeat,
    rmsprop,
    sgd,
    squared,
    tanh,
    train,
    trainer,
    weights_only,
)
from fnn.optimizers import nag_weights
from fnn.pruning import (
    all_links,
    remove_features,
    remove_least,
    remove_links,
    share_left,
    sparse,
    weights_and_biases,
)
from tests.checkers import check_close
from tests.problems import normal
from tests.pruning.nets import NET, data, learner

# Masks


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("amount", [0, 3, 0.5, 100])
def test_the_least_salient_go_first(scope: str, amount: Any) -> None:
    params = (
        {"w": normal(jnp.zeros((4, 5)), seed=1), "b": normal(jnp.zeros(5), seed=2)},
        {
            "w": normal(jnp.zeros((5, 2)), seed=3),
            "b": normal(jnp.zeros(2), seed=4),
        },
    )
    links = all_links(params)
    links[0]["w"] = links[0]["w"].at[1].set(False)
    got = jax.jit(lambda a: remove_least(params, links, a, scope=scope))(amount)
    flat = [
        np.where(np.asarray(left["w"]), np.asarray(p["w"]), np.inf).ravel()
        for p, left in zip(params, links, strict=True)
    ]
    groups = [np.concatenate(flat)] if scope == "global" else flat
    want = []
    for group in groups:
        living = int(np.isfinite(group).sum())
        number = round(amount * living) if isinstance(amount, float) else min(amount, living)
        gone = sorted(range(len(group)), key=lambda i, group=group: group[i])[:number]
        want.append(np.isfinite(group) & ~np.isin(np.arange(len(group)), gone))
    np.testing.assert_array_equal(np.concatenate([np.asarray(part["w"]).ravel() for part in got]), np.concatenate(want))
    assert bool(jnp.all(got[0]["b"])), "biases are left alone"
    assert np.isclose(share_left(got), np.concatenate(want).mean())


def test_every_copy_of_a_repeat_is_a_layer() -> None:
    params, _ = repeat(dense(3, tanh), 4).init(jax.random.key(0), jnp.ones((1, 3)))
    links = remove_least(jax.tree.map(jnp.abs, params), all_links(params), 2)
    np.testing.assert_array_equal(jnp.sum(links["w"], axis=(1, 2)), [7] * 4)


def test_what_may_be_pruned_is_chosen() -> None:
    params = {"w": jnp.ones((2, 2)), "b": jnp.arange(3.0)}
    links = remove_least(params, all_links(params), 1, prunable={"w": False, "b": True})
    np.testing.assert_array_equal(links["b"], [False, True, True])
    assert bool(jnp.all(links["w"]))
    assert float(share_left(links, {"w": False, "b": True})) == pytest.approx(2 / 3)


# Optimizers


OPTIMIZERS = [
    chain(l2(0.1), sgd(0.1)),
    chain(l2(0.1), momentum(0.1)),
    chain(l2(0.1), nag(0.1)),
    rmsprop(0.01),
    adadelta(1.0),
    adam(0.01),
    chain(l2(0.1), nadam(0.01)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_removed_links_stay_exactly_zero_and_the_rest_moves(optimizer: Any) -> None:
    learn = learner(optimizer)
    state, _ = train(learn, learn.init(jax.random.key(0), data()), data(), 10)
    links = remove_least(jax.tree.map(jnp.abs, state.params), all_links(state.params), 0.5)
    pruned = remove_links(state, links)
    after, _ = train(learn, pruned, data(), 10)
    for w, before, left in zip(*map(jax.tree.leaves, (after.params, state.params, links)), strict=True):
        assert np.all(np.asarray(w)[~np.asarray(left)] == 0)
        assert np.any(np.asarray(w)[np.asarray(left)] != np.asarray(before)[np.asarray(left)])
    remembered = ravel_pytree(jax.tree.map(lambda left: ~left, links))[0]
    params_like = lambda node: jax.tree.structure(node) == jax.tree.structure(links)  # noqa: E731
    for node in jax.tree.leaves(after.optimizer_state.inner, is_leaf=params_like):
        if params_like(node):
            assert np.all(np.asarray(ravel_pytree(node)[0])[np.asarray(remembered)] == 0)


def test_the_weights_of_nag_are_zero_too() -> None:
    optimizer = nag(0.1)
    learn = learner(optimizer)
    state, _ = train(learn, learn.init(jax.random.key(0), data()), data(), 10)
    links = remove_least(jax.tree.map(jnp.abs, state.params), all_links(state.params), 0.5)
    after, _ = train(learn, remove_links(state, links), data(), 3)
    weights = nag_weights(after.params, after.optimizer_state.inner)
    for w, left in zip(*map(jax.tree.leaves, (weights, links)), strict=True):
        assert np.all(np.asarray(w)[~np.asarray(left)] == 0)


def test_with_all_links_left_it_is_the_optimizer_itself() -> None:
    plain = trainer(NET, squared, adam(0.02), batch_size=10)
    one, _ = train(plain, plain.init(jax.random.key(0), data()), data(), 20)
    other, _ = train(learner(), learner().init(jax.random.key(0), data()), data(), 20)
    check_close(one.params, other.params)


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


def test_what_is_no_memory_of_links_is_left_alone() -> None:
    """A number for each leaf, and counts in its shape, stand in the structure of the params and mean something else."""
    plain = momentum(0.1)

    def init(params: Any) -> Any:
        rates = jax.tree.map(lambda w: jnp.ones((), w.dtype), params)
        counts = jax.tree.map(lambda w: jnp.ones(w.shape, jnp.int32), params)
        return plain.init(params), rates, counts

    def update(g: Any, state: Any, params: Any = None) -> Any:
        updates, velocity = plain.update(g, state[0], params)
        return updates, (velocity, *state[1:])

    learn = trainer(NET, squared, sparse(plain._replace(init=init, update=update)), batch_size=10)
    state = learn.init(jax.random.key(0), data())
    links = jax.tree.map(jnp.zeros_like, all_links(state.params))
    pruned = remove_links(state, links)
    chex.assert_trees_all_equal(pruned.optimizer_state.inner[1:], state.optimizer_state.inner[1:])
