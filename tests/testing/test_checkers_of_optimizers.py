"""The tests tested: every optimizer and loss here is wrong in one way, and its check must find out."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import Loss, Optimizer, tree_norm
from fnn.optimizers import nag_weights
from tests import oracles
from tests.nn.test_losses import check_curvature, check_falls_with_margin, check_slope, check_value
from tests.optimizers.cases import (
    CASES,
    HYPER,
    as_held,
    check_clip,
    check_l2,
    check_nag,
    check_optimizer,
    check_vmap,
)

# Optimizers: the vehicle and, by keyword, the faults. Without a keyword each is right, which is tested first.


def vector_optimizer(slots: int, step: Callable) -> Optimizer:
    """An optimizer of the whole vector: step(k, g, *slots) -> (update, *slots), k = 0, 1, …"""

    def init(params: Any) -> Any:
        w, _ = ravel_pytree(params)
        return (jnp.zeros((), w.dtype), *[jnp.zeros_like(w)] * slots)

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        g, unravel = ravel_pytree(gradient)
        k, *memory = state
        change, *memory = step(k, g, *memory)
        return unravel(change), (k + 1, *memory)

    return Optimizer(init, update)


def root(G: Any, epsilon: Any, inside: bool) -> Any:
    return jnp.sqrt(G + epsilon) if inside else jnp.sqrt(G) + epsilon


def sgd(eta: Any, *, sign: int = 1, off: float = 1.0) -> Optimizer:
    return vector_optimizer(0, lambda k, g: (-sign * off * eta * g,))


def momentum(eta: Any, gamma: Any = 0.9, *, share: bool = True, off: float = 1.0) -> Optimizer:
    def step(k: Any, g: Any, v: Any) -> Any:
        v = gamma * v + (1 - gamma if share else 1) * g
        return -off * eta * v, v

    return vector_optimizer(1, step)


def rmsprop(
    eta: Any, alpha: Any = 0.9, epsilon: Any = 1e-8, *, inside: bool = False, swapped: bool = False
) -> Optimizer:
    def step(k: Any, g: Any, G: Any) -> Any:
        old, new = (1 - alpha, alpha) if swapped else (alpha, 1 - alpha)
        G = old * G + new * g * g
        return -eta * g / root(G, epsilon, inside), G

    return vector_optimizer(1, step)


def adadelta(
    eta: Any = 1.0, alpha: Any = 0.9, epsilon: Any = 1e-3, *, fresh: bool = False, inside: bool = False
) -> Optimizer:
    def step(k: Any, g: Any, G: Any, Delta: Any) -> Any:
        G = alpha * G + (1 - alpha) * g * g
        scale = g / root(G, epsilon, inside)
        delta = scale * root(Delta, epsilon, inside)
        Delta = alpha * Delta + (1 - alpha) * delta * delta
        return -eta * (scale * root(Delta, epsilon, inside) if fresh else delta), G, Delta

    return vector_optimizer(2, step)


def adam(
    eta: Any,
    gamma: Any = 0.9,
    alpha: Any = 0.999,
    epsilon: Any = 1e-8,
    *,
    calibrated: bool = True,
    first: int = 1,
    inside: bool = False,
    swapped: bool = False,
    share: bool = True,
    off: float = 1.0,
    nesterov: Callable | None = None,
) -> Optimizer:
    if swapped:
        gamma, alpha = alpha, gamma

    def step(k: Any, g: Any, v: Any, G: Any) -> Any:
        k = k + first
        v = gamma * v + (1 - gamma if share else 1) * g
        G = alpha * G + (1 - alpha) * g * g
        v_hat, G_hat = (v / (1 - gamma**k), G / (1 - alpha**k)) if calibrated else (v, G)
        direction = nesterov(gamma, k, v, v_hat, g) if nesterov else v_hat
        return -off * eta * direction / root(G_hat, epsilon, inside), v, G

    return vector_optimizer(2, step)


def nadam(
    eta: Any, gamma: Any = 0.9, alpha: Any = 0.999, epsilon: Any = 1e-8, *, ahead: int = 0, **fault: Any
) -> Optimizer:
    def nesterov(gamma: Any, k: Any, v: Any, v_hat: Any, g: Any) -> Any:
        return gamma * v / (1 - gamma ** (k + ahead)) + (1 - gamma) / (1 - gamma**k) * g

    return adam(eta, gamma, alpha, epsilon, nesterov=nesterov, **fault)


HANDMADE = {"sgd": sgd, "momentum": momentum, "rmsprop": rmsprop, "adadelta": adadelta, "adam": adam, "nadam": nadam}

FAULTS = {
    "sgd climbs": ("sgd", {"sign": -1}),
    "sgd's rate is off by 0.1 %": ("sgd", {"off": 1.001}),
    "momentum lacks 1 - gamma": ("momentum", {"share": False}),
    "momentum's rate is off by 0.1 %": ("momentum", {"off": 0.999}),
    "rmsprop has epsilon inside the root": ("rmsprop", {"inside": True}),
    "rmsprop takes alpha for 1 - alpha": ("rmsprop", {"swapped": True}),
    "adadelta uses the new Delta": ("adadelta", {"fresh": True}),
    "adadelta has epsilon inside the roots": ("adadelta", {"inside": True}),
    "adam lacks the bias correction": ("adam", {"calibrated": False}),
    "adam counts k from 2": ("adam", {"first": 2}),
    "adam has epsilon inside the root": ("adam", {"inside": True}),
    "adam swaps gamma and alpha": ("adam", {"swapped": True}),
    "adam lacks 1 - gamma": ("adam", {"share": False}),
    "adam's rate is off by 0.1 %": ("adam", {"off": 1.001}),
    "nadam calibrates by gamma^(k+1)": ("nadam", {"ahead": 1}),
    "nadam lacks the bias correction of G": ("nadam", {"calibrated": False}),
    "nadam is adam": ("adam", {}),
}


@pytest.mark.parametrize("name", HANDMADE)
def test_the_vehicle_is_right_without_a_fault(name):
    for kind in ("defaults", "other"):
        check_optimizer(HANDMADE[name], CASES[name].oracle, HYPER[kind](CASES[name]))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_optimizer_is_found(fault):
    name, keywords = FAULTS[fault]
    oracle = oracles.nadam if fault == "nadam is adam" else CASES[name].oracle
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_optimizer(lambda **hyper: HANDMADE[name](**hyper, **keywords), oracle, HYPER["defaults"](CASES[name]))


def test_a_rate_that_ignores_its_schedule_is_found():
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_optimizer(lambda eta: fnn.adam(eta(jnp.zeros(()))), oracles.adam, HYPER["schedule"](CASES["adam"]))


def test_a_hyper_parameter_shared_by_the_vmapped_rows_is_found():
    deaf = CASES["momentum"]._replace(make=lambda eta, gamma: fnn.momentum(eta, 0.7))
    rows = [{"eta": 0.1, "gamma": 0.7}, {"eta": 0.1, "gamma": 0.5}]
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_vmap(deaf, ["gamma"], rows)


# NAG


def late_nag(eta: Any, gamma: float = 0.9) -> Optimizer:
    """Looks ahead by the rate of the step before: right without a schedule only."""
    right = fnn.nag(eta, gamma)
    if not callable(eta):
        return right
    rate: Any = eta
    late = fnn.nag(lambda k: rate(jnp.maximum(k - 1, 0)), gamma)
    return Optimizer(right.init, lambda g, state, params: late.update(g, state, params))


NAG_FAULTS = {
    "the gradient is taken at w": (fnn.momentum, as_held, "defaults"),
    "gamma is lost from the look-ahead": (lambda eta: fnn.nag(eta, 0.9), nag_weights, "other"),
    "the look-ahead is given back as w": (fnn.nag, as_held, "defaults"),
    "the look-ahead is by the last rate": (late_nag, nag_weights, "schedule"),
}


@pytest.mark.parametrize("fault", NAG_FAULTS)
def test_a_wrong_nag_is_found(fault):
    make, weights, kind = NAG_FAULTS[fault]
    hyper = HYPER[kind](CASES["nag"])
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_nag(lambda eta, **gamma: make(eta) if fault.startswith("gamma") else make(eta, **gamma), weights, hyper)


# Transforms


def transform(f: Callable) -> Optimizer:
    return Optimizer(lambda params: (), lambda g, state, params=None: (f(g, params), state))


def scaled(g: Any, theta: Any, norm: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.where(norm > theta, leaf * theta / norm, leaf), g)


CLIP_FAULTS = {
    "per leaf": lambda theta: transform(
        lambda g, _: jax.tree.map(lambda leaf: scaled(leaf, theta, tree_norm(leaf)), g)
    ),
    "per entry": lambda theta: transform(lambda g, _: jax.tree.map(lambda leaf: jnp.clip(leaf, -theta, theta), g)),
    "below too": lambda theta: transform(lambda g, _: jax.tree.map(lambda leaf: leaf * theta / tree_norm(g), g)),
    "by the square": lambda theta: transform(lambda g, _: scaled(g, theta, tree_norm(g) ** 2)),
    "not exact": lambda theta: transform(lambda g, _: scaled(g, theta, tree_norm(g) * 1.001)),
    "never": lambda theta: transform(lambda g, _: g),
}


def test_the_clip_is_right_without_a_fault():
    check_clip(lambda theta: transform(lambda g, _: scaled(g, theta, tree_norm(g))))


@pytest.mark.parametrize("fault", CLIP_FAULTS)
def test_a_wrong_clip_is_found(fault):
    with pytest.raises(AssertionError, match=r"Not equal to tolerance|Arrays are not equal"):
        check_clip(CLIP_FAULTS[fault])


@pytest.mark.parametrize("factor", [2.0, -1.0, 0.0, 1.001], ids=["2 lambda", "grows weights", "idle", "off by 0.1 %"])
def test_a_wrong_l2_is_found(factor):
    def wrong(strength: float) -> Optimizer:
        return transform(lambda g, w: jax.tree.map(lambda g, w: g + factor * strength * w, g, w))

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_l2(wrong)


# Losses


def printed_sigmoid() -> Loss:
    """The slide's sigmoid loss as printed, 1/(1 + e^−M), with its right derivatives."""
    right = fnn.sigmoid_margin
    value, slope, curvature = ((lambda a, y, part=part: part(a, -y)) for part in right[1:4])
    return Loss("printed", value=value, slope=slope, curvature=curvature)


def scaled_by(factor: float, f: Callable) -> Callable:
    return lambda a, y: factor * f(a, y)


def times(factor: float, *parts: str) -> Callable[[Loss], Loss]:
    """A loss with these parts off by a factor."""

    def wrong(loss: Loss) -> Loss:
        return loss._replace(**{part: scaled_by(factor, getattr(loss, part)) for part in parts})

    return wrong


def softmax_of(f: Callable) -> Callable[[Loss], Loss]:
    return lambda loss: loss._replace(curvature=lambda a, y: f(jax.nn.softmax(a, axis=1)))


LOSS_FAULTS = {
    "squared lacks the half": (fnn.squared, times(2.0, "value", "slope", "curvature"), check_value),
    "squared has a plus": (fnn.squared, lambda loss: loss._replace(value=lambda a, y: loss.value(a, -y)), check_value),
    "mean over outputs, not sum": (fnn.squared, times(1 / 3, "value", "slope", "curvature"), check_value),
    "slope off by 0.1 %": (fnn.logistic_margin, times(1.001, "slope"), check_slope),
    "softmax slope off by 0.1 %": (fnn.softmax_cross_entropy, times(0.999, "slope"), check_slope),
    "slope of the mean": (fnn.squared, times(1 / 7, "slope"), check_slope),
    "slope lacks its sign": (fnn.exponential_margin, times(-1.0, "slope"), check_slope),
    "curvature off by 0.1 %": (fnn.binary_cross_entropy, times(1.001, "curvature"), check_curvature),
    "softmax curvature is p": (fnn.softmax_cross_entropy, softmax_of(lambda p: p), check_curvature),
    "softmax curvature is p squared": (fnn.softmax_cross_entropy, softmax_of(lambda p: p * p), check_curvature),
    "sigmoid as printed, by value": (fnn.sigmoid_margin, lambda _: printed_sigmoid(), check_value),
    "sigmoid as printed, by margin": (
        fnn.sigmoid_margin,
        lambda _: printed_sigmoid(),
        lambda loss, _: check_falls_with_margin(loss),
    ),
}


@pytest.mark.parametrize("fault", LOSS_FAULTS)
def test_a_wrong_loss_is_found(fault):
    loss, broken, check = LOSS_FAULTS[fault]
    check(loss, str(loss))
    with pytest.raises(AssertionError, match=r"Not equal to tolerance|increases with the margin"):
        check(broken(loss), str(loss))
