"""Optimizers where numbers end: decays next to 1, gradients of 0, ε next to 0, counters at 2³¹.

Right values are float64 loops in NumPy, difference quotients of them, and closed forms.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Optimizer, apply_updates, chain, clip_by_norm, sgd
from fnn.optimizers._arithmetic import next_step
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

    @jax.jit
    def derivatives(eta: Any, h: Any) -> Any:
        expected = (last(eta + h) - last(eta - h)) / (2 * h)
        return expected, [jax.vmap(of(last))(eta[None])[0] for of in (jax.grad, jax.jacfwd)]

    expected, found = derivatives(jnp.asarray(0.05), 1e-6)
    np.testing.assert_allclose(found, [expected] * 2, rtol=1e-6)


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
