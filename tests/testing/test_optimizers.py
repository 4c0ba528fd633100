"""Every optimizer of fnn keeps its laws, and every planted fault breaks the law that is named for it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Optimizer,
    adadelta,
    adam,
    chain,
    clip_by_norm,
    l2,
    linear,
    masked,
    momentum,
    nadam,
    nag,
    rmsprop,
    sgd,
    weights_only,
)
from fnn.testing import Laws, check_layer, check_optimizer
from fnn.testing._steps import LAWS
from tests.testing.faults import OPTIMIZER_FAULTS, PARAMS, X, adam_loop, shaking


def broken(laws: Laws) -> set[str]:
    return {law.name for law in laws.failures}


def skipped(laws: Laws) -> set[str]:
    return {law.name for law in laws.rows if law.outcome == "skipped"}


# Right optimizers


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": sgd(0.1),
    "momentum": momentum(0.1),
    "nag, on a schedule": nag(lambda k: 0.1 / (1 + k.astype(float))),
    "rmsprop": rmsprop(0.1),
    "adadelta": adadelta(),
    "adam": adam(0.1),
    "nadam": nadam(0.1),
    "clip_by_norm": clip_by_norm(1.0),
    "l2": l2(0.1),
    "chain": chain(clip_by_norm(1.0), masked(l2(0.1), weights_only), momentum(0.1)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_our_own_optimizers_keep_all_laws(optimizer):
    laws = check_optimizer(optimizer, PARAMS, steps=3, transform=str(optimizer).startswith(("clip", "l2")))
    laws.raise_if_failed()
    assert ("coupled" in laws.law("leaves are independent").finding) == ("clip" in str(optimizer))
    by_name = "treats leaves differently" in laws.law("runs on one flat vector").finding
    assert by_name == ("masked" in str(optimizer))
    assert skipped(laws) == {"steps equal the reference"}


def test_a_rate_too_large_is_told_from_a_wrong_sign():
    law = check_optimizer(sgd(3.0), PARAMS, steps=3).law("goes down a paraboloid")
    assert (law.outcome, "take a smaller rate" in law.finding) == ("skipped", True)
    for transform in (l2(0.1), clip_by_norm(1.0)):  # unsaid, their updates are steps up
        law = check_optimizer(transform, PARAMS, steps=3).law("goes down a paraboloid")
        assert (law.outcome, "transform=True" in law.finding) == ("broken", True)
    assert check_optimizer(sgd(0.1), PARAMS, steps=3, transform=True).law("goes down a paraboloid").outcome == "broken"


def waiting(steps: int) -> Optimizer:
    """Gradient descent that takes a step every so many gradients only."""

    def update(gradient, k, params=None):
        moves = ((k + 1) % steps == 0).astype(float)
        return jax.tree.map(lambda g: -0.1 * moves.astype(g.dtype) * g, gradient), k + 1

    return Optimizer(lambda params: jnp.zeros((), jnp.int32), update, f"every {steps} steps")


def test_an_optimizer_that_waits_needs_as_many_steps():
    assert check_optimizer(waiting(3), PARAMS, steps=3).passed
    law = check_optimizer(waiting(4), PARAMS, steps=3).law("goes down a paraboloid")
    assert (law.outcome, "needs more steps" in law.finding) == ("broken", True)


def of_leaves(first: Any, equation: Any, label: str) -> Optimizer:
    """An optimizer of single leaves: (g, memory, w) -> (update, memory)."""

    def update(gradient, state, params):
        pairs = jax.tree.map(equation, gradient, state, params)
        return tuple(jax.tree.map(lambda g, pair, i=i: pair[i], gradient, pairs) for i in (0, 1))

    return Optimizer(lambda params: jax.tree.map(first, params), update, label)


RIGHT = {
    "sign": of_leaves(jnp.zeros_like, lambda g, m, w: (-0.1 * jnp.sign(g), m), "sign"),
    "lion": of_leaves(
        jnp.zeros_like, lambda g, m, w: (-0.1 * jnp.sign(0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g), "lion"
    ),
    "adagrad": of_leaves(
        jnp.zeros_like, lambda g, m, w: (-0.1 * g / (jnp.sqrt(m + g * g) + 1e-8), m + g * g), "adagrad"
    ),
    "lars": of_leaves(
        jnp.zeros_like, lambda g, m, w: (-0.01 * g * jnp.linalg.norm(w) / (jnp.linalg.norm(g) + 1e-9), m), "lars"
    ),
    "by signs that stay": of_leaves(
        jnp.zeros_like, lambda g, m, w: (jnp.where(g * m >= 0, -0.1 * jnp.sign(g), jnp.zeros_like(g)), g), "signs"
    ),
    "heavy ball": of_leaves(jnp.zeros_like, lambda g, m, w: (-0.01 * (0.9 * m + g), 0.9 * m + g), "heavy ball"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_optimizers_of_others_are_right_in_low_precision(name):
    laws = check_optimizer(RIGHT[name], PARAMS)
    assert not {law for law in broken(laws) if law.startswith("right in")}, laws


def test_keys_in_a_state_are_compared_by_their_numbers():
    check_optimizer(shaking(), PARAMS, steps=3).raise_if_failed()
    right = linear(3)
    keeping = right._replace(
        label="keeping",
        init=lambda key, x: (right.init(key, x)[0], key),
        apply=lambda params, state, x: right.apply(params, (), x),
    )
    check_layer(keeping, X).raise_if_failed()


def test_adam_follows_its_loop():
    laws = check_optimizer(adam(0.1), PARAMS, reference=adam_loop, steps=4)
    laws.raise_if_failed()
    assert "in 4 steps" in laws.law("steps equal the reference").finding


# Planted faults


@pytest.mark.parametrize(("optimizer", "law", "word"), OPTIMIZER_FAULTS.values(), ids=OPTIMIZER_FAULTS.keys())
def test_a_planted_fault_breaks_the_law_of_its_name(optimizer, law, word):
    laws = check_optimizer(optimizer, PARAMS, reference=adam_loop, steps=3, only=[law])
    assert law in broken(laws), laws
    assert word in laws.law(law).finding


def test_every_law_has_a_fault():
    asked = {question.name for question in LAWS} | {"steps equal the reference"}
    assert asked == {law for _, law, _ in OPTIMIZER_FAULTS.values()}


def test_the_reference_names_the_first_step_and_leaf_that_are_off():
    def loop(w, gradients):
        for k, g in enumerate(gradients):
            w = {name: w[name] - 0.1 * g[name] * (1 + 1e-6 * (k == 2 and name == "b")) for name in w}
            yield w

    finding = check_optimizer(sgd(0.1), PARAMS, reference=loop, steps=4).law("steps equal the reference").finding
    assert "at params['b'] after step 3" in finding
    laws = check_optimizer(sgd(0.1), PARAMS, reference=lambda w, gradients: [w], steps=4)
    assert "each of the 4 steps, got 1" in laws.law("steps equal the reference").finding


# Bad input


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ((adam, PARAMS), {}, TypeError, "Call the factory"),
        ((sgd(0.1), {"w": np.arange(3)}), {}, TypeError, "params of floats"),
        ((sgd(0.1), ()), {}, ValueError, "at least one array"),
        ((sgd(0.1), PARAMS), {"steps": 1}, ValueError, "steps must be a whole number >= 2"),
        ((sgd(0.1), PARAMS), {"reference": 3}, TypeError, "reference must be a function"),
        ((sgd(0.1), PARAMS), {"tolerance": -1.0}, ValueError, "tolerance"),
    ],
)
def test_what_is_no_optimizer(given, options, error, message):
    with pytest.raises(error, match=message):
        check_optimizer(*given, **options)
