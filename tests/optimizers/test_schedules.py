"""Schedules against their formulas in NumPy, at every step and far beyond the last."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn.optimizers import cosine_decay, exponential_decay, joined, piecewise_constant, ramp, warm_up
from tests import oracles
from tests.optimizers.cases import CASES, path_on, random_gradients, slide

FAR = 2**31 - 1

FORMULAS: dict[str, tuple[Any, Callable[[int], float]]] = {
    "ramp": (ramp(0.1, 0.5, 8), lambda t: 0.1 + 0.4 * min(t, 8) / 8),
    "cosine_decay": (cosine_decay(0.3, 7), lambda t: 0.15 * (1 + math.cos(math.pi * min(t, 7) / 7))),
    "cosine_decay to an end": (
        cosine_decay(0.3, 7, end=0.1),
        lambda t: 0.1 + 0.1 * (1 + math.cos(math.pi * min(t, 7) / 7)),
    ),
    "exponential_decay": (exponential_decay(0.3, 0.5, 4), lambda t: 0.3 * 0.5 ** (t / 4)),
    "exponential_decay, stairs": (exponential_decay(0.3, 0.5, 4, stairs=True), lambda t: 0.3 * 0.5 ** (t // 4)),
    "piecewise_constant": (
        piecewise_constant({0: 0.3, 3: 0.1, 9: 0.01}),
        lambda t: 0.3 if t < 3 else 0.1 if t < 9 else 0.01,
    ),
    "joined": (
        joined((ramp(0.0, 1.0, 4), 3), (0.2, 2), cosine_decay(0.5, 4)),
        lambda t: t / 4 if t < 3 else 0.2 if t < 5 else 0.25 * (1 + math.cos(math.pi * min(t - 5, 4) / 4)),
    ),
    "joined, alone": (joined(0.3), lambda t: 0.3),
    "warm_up of a number": (warm_up(0.4, 5), lambda t: 0.4 * min(t, 5) / 5),
    "warm_up": (
        warm_up(exponential_decay(0.4, 0.5, 2), 5, start=0.1),
        lambda t: 0.1 + 0.3 * t / 5 if t < 5 else 0.4 * 0.5 ** ((t - 5) / 2),
    ),
}


@pytest.mark.parametrize(("schedule", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
def test_a_schedule_is_its_formula(schedule: Any, formula: Callable[[int], float]) -> None:
    steps = [*range(20), 1000, FAR]
    found = jax.jit(jax.vmap(schedule))(jnp.asarray(steps, jnp.int32))
    np.testing.assert_allclose(found, [formula(t) for t in steps], rtol=1e-13, atol=1e-16)
    assert float(schedule(4)) == pytest.approx(formula(4))
    narrow = jax.vmap(schedule)(jnp.asarray(steps[:20], jnp.int32)).astype(jnp.float32)
    np.testing.assert_allclose(narrow, [formula(t) for t in steps[:20]], rtol=1e-6, atol=1e-7)


def test_in_float32_the_rate_at_the_last_step_has_its_digits() -> None:
    with jax.enable_x64(False):
        for schedule, want in (
            (exponential_decay(0.5, 0.999999999, 1), 0.5 * 0.999999999**FAR),
            (cosine_decay(0.5, FAR), 0.0),
            (ramp(0.0, 0.5, FAR), 0.5),
        ):
            rate = schedule(jnp.int32(FAR))
            assert rate.dtype == jnp.float32
            np.testing.assert_allclose(rate, want, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize("make", [fnn.sgd, fnn.adam, fnn.nag], ids=lambda make: make.__name__)
def test_an_optimizer_takes_its_rate_of_each_step(make: Any) -> None:
    schedule, formula = FORMULAS["joined"]
    gradients = random_gradients(12)
    weights = CASES[make.__name__].weights
    got = jax.jit(lambda: path_on(make(schedule), gradients, weights))()
    oracle = getattr(oracles, make.__name__)
    np.testing.assert_allclose(
        got, slide(oracle, gradients, {"eta": lambda k: formula(int(k))}), rtol=1e-12, atol=1e-13
    )


def test_rates_may_be_swept() -> None:
    def rate(key: jax.Array, eta: Any, factor: Any) -> Any:
        return exponential_decay(eta, factor, 2)(jnp.int32(4))

    found = fnn.sweep(rate, jax.random.split(jax.random.key(0), 1), eta=[1.0, 2.0], factor=[0.5, 0.1])
    np.testing.assert_allclose(found[0], [[0.25, 0.01], [0.5, 0.02]])


def test_schedules_print_as_they_were_written() -> None:
    assert str(fnn.adam(warm_up(cosine_decay(0.1, 90, end=0.01), 10))) == (
        "adam(warm_up(cosine_decay(0.1, 90, end=0.01), 10))"
    )
    assert str(piecewise_constant({0: 0.1, 5: 0.2})) == "piecewise_constant({0: 0.1, 5: 0.2})"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ramp(0.1, 0.2, 0), "steps must be a whole number >= 1"),
        (lambda: cosine_decay(-1.0, 5), "eta must be a finite number >= 0"),
        (lambda: exponential_decay(0.1, 0.0, 5), "factor must be a finite number > 0"),
        (lambda: piecewise_constant({3: 0.1}), r"rising steps from 0 on, got \[3\]"),
        (lambda: piecewise_constant({0: 0.1, 5: 0.2, 3: 0.1}), r"rising steps from 0 on, got \[0, 5, 3\]"),
        (lambda: warm_up(-0.1, 5), "eta must be a finite number >= 0"),
    ],
)
def test_schedules_out_of_range_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("parts", [(), (0.1, 0.2), ((0.1, 5), (0.2, 3), (0.1, 2))])
def test_joined_needs_pairs_and_a_last_schedule(parts: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="joined"):
        joined(*parts)
