"""Masks: optimizers of some leaves, and parts that are frozen."""

import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    adam,
    apply_updates,
    chain,
    clip_by_norm,
    l2,
    masked,
    momentum,
    sgd,
    weights_only,
)
from fnn.optimizers import MomentumState, by_part, freeze, mask_of_parts
from tests.optimizers.cases import start


def widths(*sizes: int) -> tuple:
    """Params of dense layers of these widths."""
    return tuple({"w": jnp.zeros((i, o)), "b": jnp.zeros(o)} for i, o in itertools.pairwise(sizes))


# Freezing


def test_a_mask_is_true_in_the_parts_named():
    params = widths(5, 4, 4, 3)
    mask = mask_of_parts(params, [0, (-1, "b")])
    assert mask == ({"w": True, "b": True}, {"w": False, "b": False}, {"w": False, "b": True})
    assert mask_of_parts(params, {1: 0}) == mask_of_parts(params, [1])
    state: Any = MomentumState(1.0, (2.0,))  # pyright: ignore[reportArgumentType]
    assert mask_of_parts(state, ["v"]) == (False, (True,))
    eleven = tuple(float(i) for i in range(11))
    assert mask_of_parts(eleven, [1]) == (False, True, *[False] * 9)


def random_like(params: Any, seed: int) -> Any:
    noise = np.random.default_rng(seed)
    return jax.tree.map(lambda w: jnp.asarray(noise.standard_normal(w.shape)), params)


@pytest.mark.parametrize("as_function", [False, True])
def test_frozen_parts_stay_and_the_others_move_as_if_alone(as_function):
    params = start = random_like(widths(3, 4, 4, 2), 7)
    optimizer = chain(clip_by_norm(1.0), l2(0.1), momentum(0.1))
    mask = mask_of_parts(params, [0, 1])
    frozen = freeze(optimizer, (lambda params: mask) if as_function else mask)
    step, step_alone = jax.jit(frozen.update), jax.jit(optimizer.update)
    state, alone, state_alone = frozen.init(params), params[2], optimizer.init(params[2])
    for seed in range(5):
        g = random_like(params, seed)
        updates, state = step(g, state, params)
        params = apply_updates(params, updates)
        updates, state_alone = step_alone(g[2], state_alone, alone)
        alone = apply_updates(alone, updates)
    chex.assert_trees_all_equal(params[:2], start[:2], strict=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), params[2], alone)
    assert not np.array_equal(params[2]["w"], start[2]["w"])
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(state_alone))


def test_what_cannot_freeze_says_why():
    params = widths(3, 4, 2)
    with pytest.raises(TypeError, match=r"freeze: expected optimizers.*Call the factory first"):
        freeze(adam, mask_of_parts(params, [0]))
    with pytest.raises(ValueError, match="expected a mask in the structure of the params"):
        freeze(adam(0.1), (True, False)).init(params)
    with pytest.raises(TypeError, match="expected a mask of bools"):
        freeze(adam(0.1), jax.tree.map(lambda w: 1.0, params))
    assert repr(freeze(adam(0.1), mask_of_parts(params, [0]))) == "freeze(adam(0.1), mask)"


# Masks


def test_masked_l2_spares_the_biases():
    params, g = start(), jax.tree.map(jnp.ones_like, start())
    optimizer = masked(l2(0.5), weights_only)
    updates, _ = optimizer.update(g, optimizer.init(params), params)
    np.testing.assert_allclose(updates[0]["w"], 1 + 0.5 * params[0]["w"], rtol=1e-15)
    for new, old in zip(
        jax.tree.leaves((updates[0]["b"], updates[1:])), jax.tree.leaves((g[0]["b"], g[1:])), strict=True
    ):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    "mask",
    [weights_only, ({"w": True, "b": False}, (), {"scale": False}, (False,))],
    ids=["function", "tree"],
)
def test_masked_keeps_state_for_the_chosen_leaves_only(mask):
    params, g = start(), start()
    optimizer = masked(fnn.adam(0.1), mask)
    state = optimizer.init(params)
    assert [leaf.shape for leaf in jax.tree.leaves((state.v, state.G))] == [(3, 2), (3, 2)]
    updates, after = optimizer.update(g, state, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    alone = fnn.adam(0.1)
    expected = alone.update(g[0]["w"], alone.init(params[0]["w"]), params[0]["w"])[0]
    np.testing.assert_array_equal(updates[0]["w"], expected)
    np.testing.assert_array_equal(updates[0]["b"], g[0]["b"])


def test_weights_only_chooses_the_leaves_named_w():
    assert weights_only(start()) == ({"w": True, "b": False}, (), {"scale": False}, (False,))
    assert weights_only(jnp.ones(3)) is False


# by_part


def test_each_part_has_its_own_optimizer() -> None:
    params = ({"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, {"w": jnp.ones((2, 1)), "b": jnp.ones(1)})
    g = jax.tree.map(lambda leaf: 2 * jnp.ones_like(leaf), params)
    optimizer = by_part({0: sgd(0.1), (1, "b"): momentum(0.5)}, otherwise=adam(0.01))
    updates, state = optimizer.update(g, optimizer.init(params), params)
    again, _ = optimizer.update(g, state, params)
    for want, at in ((-0.2, updates[0]), (-0.01, updates[1]["w"]), (-0.1, updates[1]["b"]), (-0.19, again[1]["b"])):
        for leaf in jax.tree.leaves(at):
            np.testing.assert_allclose(leaf, want, rtol=1e-6)
    assert str(optimizer) == "by_part({0: sgd(0.1), (1, 'b'): momentum(0.5)}, otherwise=adam(0.01))"


def test_masks_are_parts_too_and_a_trainer_takes_it() -> None:
    optimizer = by_part({weights_only: chain(l2(0.1), sgd(0.1))}, otherwise=sgd(1.0))
    assert str(optimizer) == "by_part({'weights_only': chain(l2(0.1), sgd(0.1))}, otherwise=sgd(1.0))"
    params = {"w": jnp.ones(1), "b": jnp.ones(1)}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose([updates["w"][0], updates["b"][0]], [-0.11, -1.0])
    data = jnp.ones((4, 1)), jnp.ones((4, 1))
    learn = fnn.trainer(fnn.linear(1), fnn.squared, optimizer, batch_size=2)
    fnn.train(learn, learn.init(jax.random.key(0), data), data, 3)


@pytest.mark.parametrize(
    ("parts", "otherwise", "words"),
    [
        ({0: sgd(0.1)}, None, r"each weight in one part, got 1\.b in none\. Pass otherwise"),
        ({0: sgd(0.1), (0, "w"): sgd(0.2)}, sgd(0.3), r"each weight in one part, got 0\.w in 2\. Remove it"),
        ({5: sgd(0.1)}, sgd(0.3), "has no part 5"),
    ],
)
def test_a_weight_in_two_parts_or_none_is_named(parts: Any, otherwise: Any, words: str) -> None:
    params = ({"w": jnp.ones(1), "b": jnp.ones(1)}, {"w": jnp.ones(1), "b": jnp.ones(1)})
    with pytest.raises(ValueError, match=words):
        by_part(parts, otherwise).init(params)


def test_parts_have_optimizers_that_make_steps() -> None:
    with pytest.raises(ValueError, match="expected an optimizer that makes steps"):
        by_part({0: l2(0.1)})
    with pytest.raises(TypeError, match="by_part: expected a dict from parts to optimizers"):
        by_part([sgd(0.1)])  # pyright: ignore[reportArgumentType]
