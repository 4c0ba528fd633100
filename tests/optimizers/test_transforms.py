"""Chains, clipping and L2: exact above the threshold and idle below, in order and out of order."""

from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Optimizer, apply_updates, chain, clip_by_norm, l2, masked, sgd, tree_norm, weights_only
from fnn.optimizers import SGDState, freeze
from fnn.pruning import sparse
from tests import oracles
from tests.optimizers.cases import check_clip, check_l2, path_on, random_gradients, start

# Alone


def test_l2_then_sgd_is_the_slides_step():
    check_l2(l2)


def test_clip_is_exact_above_and_idle_below():
    check_clip(clip_by_norm)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1e30, 1e38, 3e38], ids=str)
@pytest.mark.parametrize("mode", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_clip_tames_gradients_whose_square_overflows(size, dtype, mode):
    g = jnp.asarray([size, -size, 0, 0], dtype)
    updates, _ = mode(lambda g: clip_by_norm(2.0).update(g, (), None))(g)
    expected = np.array([2**0.5, -(2**0.5), 0, 0])
    np.testing.assert_allclose(updates.astype(float), expected, rtol=4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-44], ids=str)
def test_clip_leaves_vanishing_gradients_alone(size):
    g = jnp.full(4, size, jnp.float32)
    assert (clip_by_norm(1.0).update(g, (), None)[0] == g).all()


def test_clip_does_not_hide_nan():
    assert jnp.isnan(clip_by_norm(1.0).update(jnp.asarray([jnp.nan, 1.0]), (), None)[0][0])


def test_norm_is_of_all_leaves_together():
    np.testing.assert_allclose(tree_norm(({"w": jnp.full((2, 2), 2.0)}, jnp.asarray(3.0))), 5.0, rtol=1e-15)
    assert tree_norm(()) == 0


# Chains


def test_order_in_a_chain_matters():
    """Clipping before L2 leaves the weight decay unclipped; after, it is part of the clipped gradient."""
    g, w = jnp.asarray([3.0, -4.0]), jnp.asarray([10.0, 20.0])
    clip_first = chain(clip_by_norm(1.0), l2(0.1), sgd(0.5))
    l2_first = chain(l2(0.1), clip_by_norm(1.0), sgd(0.5))
    for optimizer, direction in (
        (clip_first, oracles.clipped(np.asarray(g), 1.0) + 0.1 * np.asarray(w)),
        (l2_first, oracles.clipped(np.asarray(g) + 0.1 * np.asarray(w), 1.0)),
    ):
        updates, state = optimizer.update(g, optimizer.init(w), w)
        np.testing.assert_allclose(updates, -0.5 * direction, rtol=1e-14)
        chex.assert_trees_all_equal(state, ((), (), SGDState(jnp.ones((), jnp.int32))))


def test_chain_of_nothing_changes_nothing_and_chains_nest():
    g = start()
    chex.assert_trees_all_equal(chain().update(g, chain().init(g), g), (g, ()))
    flat = chain(clip_by_norm(1.0), l2(0.1), fnn.adam(0.1))
    nested = chain(clip_by_norm(1.0), chain(l2(0.1), fnn.adam(0.1)))
    gradients = random_gradients(5)
    both = jax.jit(lambda: (path_on(flat, gradients), path_on(nested, gradients)))()
    np.testing.assert_array_equal(*both)


def test_foreign_pairs_stand_in_chains_and_masks():
    """A pair with init and update of another library: its state is a dict, its update takes params by name."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda u: 2 * u, updates), {"count": state["count"] + 1}

    foreign = SimpleNamespace(init=lambda params: {"count": 0}, update=update)
    g = start()
    optimizer = chain(masked(foreign, weights_only), foreign, sgd(0.5))
    updates, state = optimizer.update(g, optimizer.init(g), g)
    expected = jax.tree.map(lambda is_weight, leaf: -0.5 * (4 if is_weight else 2) * leaf, weights_only(g), g)
    chex.assert_trees_all_close(updates, expected, rtol=1e-15)
    assert state[:2] == ({"count": 1}, {"count": 1})


def test_apply_updates_keeps_the_params_dtype():
    params, updates = start(jnp.bfloat16), start(jnp.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(apply_updates(params, updates), params)


def test_vmap_over_the_transforms_hyper_parameters():
    g, w = jnp.asarray([3.0, -4.0]), jnp.asarray([10.0, 20.0])

    def direction(theta: Any, strength: Any) -> Any:
        optimizer = chain(clip_by_norm(theta), l2(strength))
        return optimizer.update(g, optimizer.init(w), w)[0]

    thetas, strengths = jnp.asarray([0.5, 10.0]), jnp.asarray([0.1, 0.0])
    loop = [direction(float(t), float(s)) for t, s in zip(thetas, strengths, strict=True)]
    np.testing.assert_allclose(jax.vmap(direction)(thetas, strengths), loop, rtol=1e-15)


# Differentiated


@pytest.mark.parametrize("derivative", [jax.jacfwd, jax.jacrev], ids=["forward", "reverse"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_clipping_has_the_slopes_of_its_equation(derivative, dtype):
    """The identity where ‖g‖ ≤ θ, at 0 too, and (θ/‖g‖)(I − ggᵀ/‖g‖²) above."""
    of = lambda theta: derivative(lambda g: clip_by_norm(theta).update(g, (), None)[0])  # noqa: E731
    for theta in (1.0, jnp.asarray(jnp.inf, dtype)):
        slope = of(theta) if theta == 1.0 else jax.jit(lambda g, t: of(t)(g))
        for g in ([0.0, 0.0], [0.3, -0.4]):
            given = (jnp.asarray(g, dtype),) if theta == 1.0 else (jnp.asarray(g, dtype), theta)
            np.testing.assert_array_equal(slope(*given), np.eye(2))
    g = np.array([3.0, 4.0])
    right = (np.eye(2) - np.outer(g, g) / 25) / 5
    np.testing.assert_allclose(of(1.0)(jnp.asarray(g, dtype)), right, atol=2 * float(jnp.finfo(dtype).eps))
    norm = derivative(tree_norm)
    np.testing.assert_array_equal(norm(jnp.zeros(2, dtype)), np.zeros(2))
    np.testing.assert_allclose(norm(jnp.asarray(g, dtype)), g / 5, rtol=4 * float(jnp.finfo(dtype).eps))


def test_clipping_nothing_raises_no_false_alarm():
    with jax.debug_nans(True):
        for g in (jnp.zeros(3), (jnp.zeros(2), jnp.zeros(()))):
            clip_by_norm(1.0).update(g, (), None)


def test_a_nan_anywhere_makes_all_of_a_clipped_gradient_nan():
    """The norm is NaN, so that no θ/‖g‖ is known: the other leaves do not pass as long as they came."""
    bad = {"a": jnp.asarray([jnp.nan, 1.0]), "b": jnp.asarray([1e3])}
    for mode in (lambda f: f, jax.jit):
        updates = mode(lambda g: clip_by_norm(1.0).update(g, (), None)[0])(bad)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(updates))


# Chains out of order


ADAM = fnn.adam(0.01)


WRONG = {
    "a decay after a step": lambda: chain(ADAM, l2(0.1)),
    "clipping after a step": lambda: chain(ADAM, clip_by_norm(1.0)),
    "not next to it": lambda: chain(clip_by_norm(1.0), fnn.nag(0.1), chain(), l2(0.1)),
    "a masked decay": lambda: chain(ADAM, masked(l2(0.1), weights_only)),
    "in a chain of transforms": lambda: chain(ADAM, chain(clip_by_norm(1.0), l2(0.1))),
    "after a chain that ends in a step": lambda: chain(chain(l2(0.1), sgd(0.1)), clip_by_norm(1.0)),
    "after a step at some leaves": lambda: chain(masked(ADAM, weights_only), l2(0.1)),
    "after a masked chain": lambda: chain(masked(chain(clip_by_norm(1.0), ADAM), weights_only), clip_by_norm(1.0)),
    "after a frozen one": lambda: chain(freeze(ADAM, weights_only), masked(l2(0.1), weights_only)),
    "after a sparse one": lambda: chain(sparse(chain(l2(0.1), ADAM)), l2(0.1)),
    "a frozen transform": lambda: chain(ADAM, freeze(l2(0.1), weights_only)),
    "two steps": lambda: chain(ADAM, sgd(1.0)),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG.keys())
def test_what_takes_gradients_is_refused_behind_a_step(make):
    with pytest.raises(ValueError, match=r"chain: expected gradients to reach .*, got the steps.*\. (Put|Leave out)"):
        make()


def test_a_chain_out_of_order_is_told_how_to_be_in_order():
    with pytest.raises(ValueError, match=r"Put l2\(0\.1\) before adam\(0\.01\)"):
        chain(ADAM, l2(0.1))


FOREIGN = SimpleNamespace(init=lambda params: (), update=lambda g, state, params=None: (g, state))


RIGHT = {
    "transforms first": lambda: chain(clip_by_norm(1.0), chain(masked(l2(0.1), weights_only)), ADAM),
    "optimizers for different leaves": lambda: chain(
        masked(ADAM, weights_only), masked(l2(0.1), lambda p: False), masked(sgd(0.1), lambda p: False)
    ),
    "frozen": lambda: chain(l2(0.1), freeze(chain(l2(0.1), ADAM), weights_only)),
    "all frozen at last": lambda: chain(ADAM, freeze(chain(), weights_only)),
    "sparse": lambda: chain(clip_by_norm(1.0), sparse(chain(l2(0.1), ADAM))),
    "a foreign pair after a step": lambda: chain(ADAM, FOREIGN),
    "a pair of a user's after a step": lambda: chain(ADAM, Optimizer(*vars(FOREIGN).values())),
    "after a foreign pair": lambda: chain(FOREIGN, l2(0.1), ADAM),
    "nothing after a step": lambda: chain(ADAM, chain()),
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT.keys())
def test_chains_in_order_pass(make):
    make()


def test_decay_in_a_chain_in_order_shrinks_the_weights():
    w = jnp.ones(1)
    optimizer = chain(l2(0.1), ADAM)
    assert float(optimizer.update(jnp.zeros(1), optimizer.init(w), w)[0][0]) < 0
