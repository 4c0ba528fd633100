"""Every optimizer beside its slide's loop, and the laws that each must keep."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import Optimizer, apply_updates, chain, sgd
from fnn.optimizers import AdaDeltaState, AdamState, MomentumState, NAGState, RMSPropState, SGDState, nag_weights
from tests import oracles

STEPS = 50


EXACT_64: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-13}
"""Fifty float64 steps from weights of order one; atol is for weights that come close to zero."""


def schedule(k: Any) -> Any:
    """A learning rate that differs in every step."""
    return 0.1 / (1 + 0.3 * k.astype(float))


def as_held(params: Any, state: Any) -> Any:
    """The weights are the params."""
    return params


class Case(NamedTuple):
    """An optimizer, its slide, hyper-parameters other than the defaults, and the way from the params to w."""

    make: Callable[..., Optimizer]
    oracle: Callable[..., np.ndarray]
    other: dict[str, float]
    state: type
    letters: tuple[str, ...]
    weights: Callable[[Any, Any], Any] = as_held


CASES = {
    "sgd": Case(fnn.sgd, oracles.sgd, {}, SGDState, ("k",)),
    "momentum": Case(fnn.momentum, oracles.momentum, {"gamma": 0.7}, MomentumState, ("k", "v")),
    "nag": Case(fnn.nag, oracles.nag, {"gamma": 0.7}, NAGState, ("k", "v", "reach"), nag_weights),
    "rmsprop": Case(fnn.rmsprop, oracles.rmsprop, {"alpha": 0.7, "epsilon": 1e-3}, RMSPropState, ("k", "G")),
    "adadelta": Case(
        fnn.adadelta, oracles.adadelta, {"alpha": 0.7, "epsilon": 1e-2}, AdaDeltaState, ("k", "G", "Delta")
    ),
    "adam": Case(fnn.adam, oracles.adam, {"gamma": 0.7, "alpha": 0.8, "epsilon": 1e-2}, AdamState, ("k", "v", "G")),
    "nadam": Case(fnn.nadam, oracles.nadam, {"gamma": 0.7, "alpha": 0.8, "epsilon": 1e-2}, AdamState, ("k", "v", "G")),
}


HYPER = {
    "defaults": lambda case: {"eta": 0.1},
    "other": lambda case: {"eta": 0.03, **case.other},
    "schedule": lambda case: {"eta": schedule},
}


MODULES = {
    "descent": ("sgd", "momentum", "nag"),
    "adaptive": ("rmsprop", "adadelta"),
    "adaptive_moments": ("adam", "nadam"),
}


def each_of(module: str) -> pytest.MarkDecorator:
    """A test for each optimizer of one module."""
    return pytest.mark.parametrize("case", [CASES[name] for name in MODULES[module]], ids=MODULES[module])


every_optimizer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def start(dtype: Any = float) -> Any:
    """Params of tuples, dicts and a scalar."""
    random = np.random.default_rng(0)
    w = (
        {"w": random.normal(size=(3, 2)), "b": random.normal(size=2)},
        (),
        {"scale": random.normal()},
        (random.normal(size=4),),
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), w)


def random_gradients(steps: int = STEPS) -> np.ndarray:
    """Gradients [steps, dim] of the params of `start`, of sizes from 1e-4 to 10, so that ε is felt and so is G."""
    random = np.random.default_rng(1)
    dim = ravel_pytree(start())[0].size
    return random.normal(size=(steps, dim)) * 10 ** random.uniform(-4, 1, size=dim)


def paths(optimizer: Any, params: Any, gradient: Callable, steps: int, weights: Callable) -> tuple[Any, Any]:
    """The lecture's weights, and the params held, after every step, each [steps, dim]; one scan."""

    def step(carry: Any, k: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(gradient(params, k), state, params)
        params = apply_updates(params, updates)
        return (params, state), (ravel_pytree(weights(params, state))[0], ravel_pytree(params)[0])

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[1]


def path_on(optimizer: Any, gradients: Any, weights: Callable = as_held) -> Any:
    """w after every step from `start`, on gradients [steps, dim] that do not depend on w."""
    params = start()
    unravel = ravel_pytree(params)[1]
    return paths(optimizer, params, lambda _, k: unravel(jnp.asarray(gradients)[k]), len(gradients), weights)[0]


def slide(oracle: Callable, gradients: np.ndarray, hyper: dict) -> np.ndarray:
    """What the slide's loop makes of the same start and gradients."""
    return oracle(np.asarray(ravel_pytree(start())[0]), lambda w, k: gradients[k], len(gradients), **hyper)


def check_optimizer(make: Callable[..., Any], oracle: Callable, hyper: dict, weights: Callable = as_held) -> None:
    """Fifty steps on random gradients are the slide's loop."""
    gradients = random_gradients()
    got = jax.jit(lambda: path_on(make(**hyper), gradients, weights))()
    np.testing.assert_allclose(got, slide(oracle, gradients, hyper), **EXACT_64)


def check_nag(make: Callable[..., Any], weights: Callable, hyper: dict) -> None:
    """The literal loop, its gradient taken at w − ηγv: both w and the look-ahead, on a quadratic and a wave."""
    random = np.random.default_rng(2)
    w, root = random.normal(size=5), random.normal(size=(5, 5))
    A = root @ root.T / 5
    got, held = jax.jit(
        lambda: paths(make(**hyper), jnp.asarray(w), lambda w, k: A @ w + jnp.cos(3 * w), STEPS, weights)
    )()
    path, ahead = oracles.nag_paths(w, lambda w, k: A @ w + np.cos(3 * w), STEPS, **hyper)
    np.testing.assert_allclose(got, path, **EXACT_64)
    np.testing.assert_allclose(held, ahead, **EXACT_64)


def check_vmap(case: Case, traced: list[str], rows: list[dict]) -> None:
    """Row i of one vmapped run is the slide's loop with row i's hyper-parameters; the others are those of row 0."""
    gradients = random_gradients(6)
    rows = [{**rows[0], **{name: row[name] for name in traced}} for row in rows]
    stacked = {name: jnp.asarray([row[name] for row in rows]) for name in traced}
    run = jax.vmap(lambda hyper: path_on(case.make(**{**rows[0], **hyper}), gradients, case.weights))
    for got, hyper in zip(jax.jit(run)(stacked), rows, strict=True):
        np.testing.assert_allclose(got, slide(case.oracle, gradients, hyper), **EXACT_64)


def check_l2(make_l2: Callable[[float], Any], make_sgd: Callable[[float], Any] = sgd) -> None:
    """Before sgd: w := w(1 − ηλ) − ηg."""
    gradients = random_gradients(10)
    got = jax.jit(lambda: path_on(chain(make_l2(0.3), make_sgd(0.1)), gradients))()
    np.testing.assert_allclose(got, slide(oracles.sgd_l2, gradients, {"eta": 0.1, "strength": 0.3}), **EXACT_64)


def check_clip(make: Callable[[float], Any]) -> None:
    """If ‖g‖ > θ then g := gθ/‖g‖ over the whole vector, and otherwise g as it is, bit for bit."""
    g, unravel = ravel_pytree(start())
    norm = float(np.linalg.norm(g))
    clip = jax.jit(lambda theta: ravel_pytree(make(theta).update(unravel(g), (), None)[0])[0])
    for theta in (norm / 7, norm * 0.999):
        result = clip(theta)
        np.testing.assert_allclose(result, oracles.clipped(np.asarray(g), theta), rtol=1e-14)
        np.testing.assert_allclose(np.linalg.norm(result), theta, rtol=1e-14)
    for theta in (norm * 1.001, norm * 7):
        np.testing.assert_array_equal(clip(theta), g)
