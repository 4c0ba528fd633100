"""Dropout and inverted dropout: what is dropped, what is scaled, and what is applied."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    dropout,
    gradient,
    inverted_dropout,
)
from tests.checkers import TOLERANCE, check_close
from tests.nn.laws import check_laws, each_case_of
from tests.problems import Case, given, normal


@each_case_of("dropouts")
def test_dropouts_keep_their_laws(case: Case) -> None:
    check_laws(case)


each_dropout = pytest.mark.parametrize("factory", [dropout, inverted_dropout])


DEVIATIONS = 5
"""How many standard errors a mean may be off: one run in two million is, and the keys are fixed."""


# Dropout


@each_dropout
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_drops_the_fraction_p_and_scales_the_rest(factory, p: float, key: jax.Array) -> None:
    x = jnp.full((100, 90), 3.0)
    y, _, tape = factory(p).forward((), (), x, key)
    kept = 1 if factory is dropout else 1 / (1 - p)
    np.testing.assert_array_equal(np.unique(tape.mask), [0, kept])
    np.testing.assert_array_equal(y, tape.mask * x)
    dropped = int((tape.mask == 0).sum())
    assert abs(dropped - x.size * p) < DEVIATIONS * math.sqrt(x.size * p * (1 - p))


@each_dropout
def test_dropout_draws_for_each_example_and_key_anew(factory, key: jax.Array) -> None:
    x = jnp.ones((2, 64))
    first, second = (factory(0.5).forward((), (), x, k)[0] for k in jax.random.split(key))
    again = factory(0.5).forward((), (), x, jax.random.split(key)[0])[0]
    assert (first[0] != first[1]).any()
    assert (first != second).any()
    np.testing.assert_array_equal(first, again)


@each_dropout
def test_dropping_nothing_is_the_identity(factory, key: jax.Array) -> None:
    _, _, x, _ = given(factory(0.0), 4)
    y, _, tape = factory(0.0).forward((), (), x, key)
    error, _ = factory(0.0).backward((), tape, x, gradient)
    chex.assert_trees_all_equal(y, factory(0.0).apply((), (), x), error, x)


@each_dropout
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_mean_of_training_over_masks_is_the_application(factory, p: float, key: jax.Array) -> None:
    draws = 4000
    _, _, x, _ = given(factory(p), 4)
    y = jax.vmap(lambda k: factory(p).forward((), (), x, k)[0])(jax.random.split(key, draws))
    kept = 1 if factory is dropout else 1 / (1 - p)
    standard_error = jnp.abs(x) * kept * math.sqrt(p * (1 - p) / draws)
    assert (jnp.abs(y.mean(0) - factory(p).apply((), (), x)) < DEVIATIONS * standard_error).all()


def test_inference_of_dropouts(key: jax.Array) -> None:
    x = normal(jnp.ones((3, 4)), 1)
    np.testing.assert_allclose(dropout(0.25).apply((), (), x), 0.75 * x, rtol=TOLERANCE["same program"])
    np.testing.assert_array_equal(inverted_dropout(0.25).apply((), (), x), x)
    for layer, scale in ((dropout(0.25), 0.75), (inverted_dropout(0.25), 1.0)):
        y, _, _ = fnn.inference_mode(layer).forward((), (), x, key)
        np.testing.assert_allclose(y, scale * x, rtol=TOLERANCE["same program"])


def test_labels_of_dropouts() -> None:
    assert [str(dropout(0.25)), str(inverted_dropout(0.5))] == ["dropout(0.25)", "inverted_dropout(0.5)"]


@each_dropout
def test_p_may_be_traced(factory, key: jax.Array) -> None:
    x = jnp.ones((3, 4))
    traced = jax.jit(lambda p: (factory(p).forward((), (), x, key)[0], factory(p).apply((), (), x)))(0.3)
    check_close(traced, (factory(0.3).forward((), (), x, key)[0], factory(0.3).apply((), (), x)))


def test_modes_tell_the_probability_of_staying() -> None:
    for layer in (fnn.dropout(0.3), fnn.inverted_dropout(0.3)):
        assert layer.modes is not None
        assert layer.modes.keep == pytest.approx(0.7)
