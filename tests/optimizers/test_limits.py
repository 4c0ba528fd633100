"""Optimizers where numbers end: decays next to 1, gradients of 0, ε next to 0, counters at 2³¹; chains out of order.

Right values are float64 loops in NumPy, difference quotients of them, and closed forms.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Optimizer, apply_updates, chain, clip_by_norm, l2, masked, sgd, tree_norm, weights_only
from fnn.optimizers import freeze
from fnn.optimizers._arithmetic import next_step
from fnn.pruning import sparse
from tests import oracles

EPS = float(jnp.finfo(jnp.float32).eps)
TOP = 2**31 - 1


def nag_ahead(*args: Any, **options: Any) -> np.ndarray:
    """The look-ahead that `nag` holds."""
    return oracles.nag_paths(*args, **options)[1]


LOOPS: dict[str, tuple[Callable[..., Optimizer], Callable[..., np.ndarray], tuple[str, ...]]] = {
    "momentum": (fnn.momentum, oracles.momentum, ("gamma",)),
    "nag": (fnn.nag, nag_ahead, ("gamma",)),
    "rmsprop": (fnn.rmsprop, oracles.rmsprop, ("alpha",)),
    "adadelta": (fnn.adadelta, oracles.adadelta, ("alpha",)),
    "adam": (fnn.adam, oracles.adam, ("gamma", "alpha")),
    "nadam": (fnn.nadam, oracles.nadam, ("gamma", "alpha")),
}
"""An optimizer with averages, the slide's loop, and its decays."""

CASES = [pytest.param(name, decay, id=f"{name} {decay}") for name, of in LOOPS.items() for decay in of[2]]


def updates_of(optimizer: Any, gradients: np.ndarray, start: Callable[[Any], Any] = lambda state: state) -> np.ndarray:
    """The updates on gradients [steps, dim] that do not depend on w, in the dtype of the gradients."""
    w = jnp.zeros_like(gradients[0])

    def step(state: Any, g: Any) -> Any:
        updates, state = optimizer.update(g, state, w)
        return state, updates

    return np.asarray(jax.lax.scan(step, start(optimizer.init(w)), jnp.asarray(gradients))[1], np.float64)


# Decays next to 1


@pytest.mark.parametrize("below", [0.3, 0.1, 1e-3, 1e-5, 1e-7, 3e-8, 1e-8], ids=lambda below: f"1-{below}")
@pytest.mark.parametrize(("name", "decay"), CASES)
def test_a_decay_next_to_1_counts_in_double_precision(name, decay, below):
    """Float32 steps are those of the float64 loop up to a few ulps; 1 − 3e-8 lies in the middle of two float32."""
    make, loop, _ = LOOPS[name]
    gradients = np.random.default_rng(3).uniform(0.5, 2, size=(20, 40)).astype(np.float32)
    hyper = {"eta": 0.1, decay: 1 - below}
    path = loop(np.zeros(40), lambda w, k: np.float64(gradients[k]), len(gradients), **hyper)
    right = np.diff(path, axis=0, prepend=np.zeros((1, 40)))
    np.testing.assert_allclose(updates_of(make(**hyper), gradients), right, rtol=6 * EPS)


@pytest.mark.parametrize("below", [1e-3, 1e-5], ids=lambda below: f"1-{below}")
def test_an_average_in_float32_has_no_bias_of_its_decay(below):
    """Over 20,000 steps float32 rounds hither and thither; what γ loses in float32 would add up to 1e-5 and more."""
    gradients = np.random.default_rng(4).uniform(0.5, 2, size=(20_000, 40)).astype(np.float32)
    v = np.zeros(40)
    for g in gradients.astype(np.float64):
        v = (1 - below) * v + (1 - (1 - below)) * g
    updates = updates_of(fnn.momentum(1.0, gamma=1 - below), gradients)
    assert abs(np.mean(-updates[-1] / v) - 1) < 5e-6


@pytest.mark.parametrize(("name", "decay"), CASES)
def test_an_average_that_overflowed_stays_infinite(name, decay):
    """Its decay is a sum of two terms in float32, whose signs must not differ: ∞ − ∞ would be NaN for ever."""
    make, _, _ = LOOPS[name]
    infinite = lambda state: state._replace(**{f: state[i] + jnp.inf for i, f in enumerate(state._fields) if f == "G"})  # noqa: E731
    for below in (1e-3, 1e-5, 1e-8):
        updates = updates_of(make(eta=0.1, **{decay: 1 - below}), np.ones((3, 2), np.float32), infinite)
        assert np.isfinite(updates).all()


@pytest.mark.parametrize("make", [fnn.adam, fnn.nadam, fnn.rmsprop, fnn.adadelta], ids=lambda make: make.__name__)
@pytest.mark.parametrize("epsilon", [1e-39, 1e-45, 1e-300])
def test_a_zero_gradient_makes_a_zero_step_under_the_smallest_epsilon(make, epsilon):
    for mode in (lambda f: f, jax.jit):
        updates = mode(lambda g: first_updates(make(eta=0.1, epsilon=epsilon), g))(jnp.zeros(3, jnp.float32))
        np.testing.assert_array_equal(updates, 0)


def first_updates(optimizer: Any, g: Any) -> Any:
    return optimizer.update(g, optimizer.init(g), g)[0]


# Gradients of exactly 0


def slopes(w: Any, xp: Any) -> Any:
    """The gradient of a net whose second unit is dead."""
    return xp.stack([w[0] - 2.0, xp.maximum(w[1] - 10.0, 0.0)])


LEARNED = {name: (make, loop) for name, (make, loop, _) in LOOPS.items()} | {
    "nag": (fnn.nag, nag_ahead),
    "clipped": (lambda eta: chain(clip_by_norm(0.7), sgd(eta)), None),
}


def loop_of(name: str) -> Callable[..., np.ndarray]:
    if name != "clipped":
        return LEARNED[name][1]
    return lambda w, g, steps, eta: oracles.sgd(w, lambda w, k: oracles.clipped(g(w, k), 0.7), steps, eta)


@pytest.mark.parametrize("name", LEARNED)
def test_a_dead_unit_leaves_the_derivative_by_eta_right(name):
    """Forward, reverse and under vmap, against difference quotients of the float64 loop."""
    make, loop = LEARNED[name][0], loop_of(name)

    def last(eta: Any) -> Any:
        optimizer, w = make(eta), jnp.asarray([1.0, 0.5])
        state = optimizer.init(w)
        for _ in range(3):
            updates, state = optimizer.update(slopes(w, jnp), state, w)
            w = apply_updates(w, updates)
        return jnp.square(w[0] - 2) / 2

    def right(eta: float, h: float = 1e-5) -> float:
        ends = [loop(np.array([1.0, 0.5]), lambda w, k: slopes(w, np), 3, eta=e)[-1, 0] for e in (eta - h, eta + h)]
        return float(np.diff(np.square(np.array(ends) - 2) / 2)[0] / (2 * h))

    etas = (0.1, 0.25)
    expected = [right(eta) for eta in etas]
    for derivative in (jax.grad(last), jax.jacfwd(last)):
        np.testing.assert_allclose([derivative(eta) for eta in etas], expected, rtol=1e-6)
        np.testing.assert_allclose(jax.jit(jax.vmap(derivative))(jnp.asarray(etas)), expected, rtol=1e-6)
    if name == "adam":
        assert expected[0] == pytest.approx(-2.07737, abs=5e-6)


@pytest.mark.parametrize("make", [fnn.adam, fnn.nadam, fnn.rmsprop, fnn.adadelta], ids=lambda make: make.__name__)
def test_a_constant_feature_leaves_the_derivative_through_a_run_right(make):
    x = jax.random.normal(jax.random.key(0), (20, 3)).at[:, 2].set(0.0)
    data = x, x[:, :1]
    net = fnn.linear(1)

    def last(eta: Any) -> Any:
        learn = fnn.trainer(net, fnn.squared, chain(clip_by_norm(0.5), make(eta)), batch_size=5)
        state, _ = fnn.train(learn, learn.init(jax.random.key(1), data), data, steps=3)
        return jnp.mean(fnn.squared.value(net.apply(state.params, state.layer_state, x), data[1]))

    h = 1e-6
    expected = (last(0.05 + h) - last(0.05 - h)) / (2 * h)
    for derivative in (jax.grad(last), jax.jacfwd(last)):
        np.testing.assert_allclose(derivative(0.05), expected, rtol=1e-6)
        np.testing.assert_allclose(jax.vmap(derivative)(jnp.asarray([0.05]))[0], expected, rtol=1e-6)


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


ROOTS = ("rmsprop", "adadelta", "adam", "nadam")


@pytest.mark.parametrize(("optimizer", "name"), [(of, name) for of in ROOTS for name in (*LOOPS[of][2], "epsilon")])
def test_a_dead_unit_leaves_the_other_hyper_gradients_right(optimizer, name):
    """By a decay, at 0 too, and by ε, against one-sided or central difference quotients of the float64 loop."""
    make, loop, _ = LOOPS[optimizer]

    def last(value: Any) -> Any:
        pair, w = make(eta=0.1, **{name: value}), jnp.asarray([1.0, 0.5])
        state = pair.init(w)
        for _ in range(3):
            updates, state = pair.update(slopes(w, jnp), state, w)
            w = apply_updates(w, updates)
        return w[0]

    def ends(value: float) -> float:
        return loop(np.array([1.0, 0.5]), lambda w, k: slopes(w, np), 3, eta=0.1, **{name: value})[-1, 0]

    h = 1e-6
    for value in (0.1, 0.6) if name == "epsilon" else (0.0, 0.3, 0.9):
        if value:
            right = (ends(value + h) - ends(value - h)) / (2 * h)
        else:
            right = (4 * ends(h) - ends(2 * h) - 3 * ends(0.0)) / (2 * h)
        for derivative in (jax.grad(last), jax.jacfwd(last)):
            np.testing.assert_allclose(derivative(value), right, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["sgd", *LOOPS])
def test_zero_gradients_raise_no_false_alarm(name):
    optimizer, w = (fnn.sgd if name == "sgd" else LOOPS[name][0])(eta=0.1), jnp.zeros(3)
    with jax.debug_nans(True), jax.debug_infs(True):
        optimizer.update(w, optimizer.init(w), w)
        jax.grad(lambda eta: jnp.sum(chain(clip_by_norm(1.0), sgd(eta)).update(w, ((), sgd(0.1).init(w)), w)[0]))(0.1)


# Counters at 2³¹


@pytest.mark.parametrize("name", ["sgd", *LOOPS])
def test_a_counter_stays_at_its_largest_value(name):
    """Schedules see no negative step, and steps go on."""
    make = fnn.sgd if name == "sgd" else LOOPS[name][0]
    seen = lambda k: jnp.where(k < 0, jnp.nan, 0.1).astype(jnp.float32)  # noqa: E731
    for eta in (0.1, seen):
        optimizer, g = make(eta), jnp.ones(1, jnp.float32)
        state = optimizer.init(g)._replace(k=jnp.asarray(TOP - 2, jnp.int32))
        for k in (TOP - 1, TOP, TOP, TOP):
            updates, state = optimizer.update(g, state, g)
            assert (int(state.k), state.k.dtype) == (k, jnp.int32)
            assert float(updates[0]) < 0


@pytest.mark.parametrize("make", [fnn.adam, fnn.nadam], ids=lambda make: make.__name__)
def test_calibration_stays_right_past_the_largest_step(make):
    """There 1 − γ^k and 1 − α^k are 1."""
    gradients = np.linspace(1, 2, 6)[:, None]
    updates = updates_of(make(0.1), gradients, lambda state: state._replace(k=jnp.asarray(TOP - 2, jnp.int32)))
    v = G = 0.0
    for (g,), update in zip(gradients, updates, strict=True):
        v, G = 0.9 * v + 0.1 * g, 0.999 * G + 0.001 * g * g
        direction = v if make is fnn.adam else 0.9 * v + 0.1 * g
        np.testing.assert_allclose(update, -0.1 * direction / (np.sqrt(G) + 1e-8), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int32], ids=lambda d: d.__name__)
def test_the_next_step_saturates_in_every_dtype(dtype):
    top = int(jnp.iinfo(dtype).max)
    for k in (0, 1, top - 2, top - 1, top):
        after = next_step(jnp.asarray(k, dtype))
        assert (int(after), after.dtype) == (min(k + 1, top), dtype)


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
