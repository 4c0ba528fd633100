"""Batch normalisation: the batch's statistics in training, exponential means of them in inference."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Layer,
    batch_norm,
    gradient,
)
from fnn.nn import group_norm, layer_norm
from tests.checkers import TOLERANCE, check_backward
from tests.nn.laws import check_laws, each_case_of
from tests.positions import LAYERS, check_all_laws, each_layer_of, given_layer
from tests.problems import Case, given, normal


@each_case_of("normalization")
def test_normalizations_keep_their_laws(case: Case) -> None:
    check_laws(case)


# Batch normalisation


def batches(count: int) -> list[jax.Array]:
    return [2 + 3 * normal(jnp.ones((6, 4)), seed) for seed in range(count)]


def test_batch_norm_normalises_then_scales_and_shifts(key: jax.Array) -> None:
    params, state, _, _ = given(batch_norm(), 4)
    (x,) = batches(1)
    y, _, _ = batch_norm().forward(params, state, x, key)
    x_hat = (y - params["beta"][None]) / params["gamma"][None]
    variance = np.var(x, axis=0)
    np.testing.assert_allclose(np.mean(x_hat, axis=0), 0, atol=TOLERANCE["same gradient"])
    np.testing.assert_allclose(np.var(x_hat, axis=0), variance / (variance + 1e-5), rtol=TOLERANCE["same gradient"])


@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_batch_norm_applies_exponential_means_calibrated_from_the_first_batch_on(count, rate, key) -> None:
    layer = batch_norm(rate=rate)
    params, state, _, _ = given(layer, 4)
    for x in batches(count):
        _, state, _ = layer.forward(params, state, x, key)
    weights = np.array([(1 - rate) ** (count - 1 - j) for j in range(count)])
    weights = weights / weights.sum()
    mean = sum(w * np.mean(x, axis=0) for w, x in zip(weights, batches(count), strict=True))
    variance = sum(w * np.var(x, axis=0, ddof=1) for w, x in zip(weights, batches(count), strict=True))
    x = normal(jnp.ones((3, 4)), 99)
    gamma, beta = np.asarray(params["gamma"]), np.asarray(params["beta"])
    want = gamma * (np.asarray(x) - np.asarray(mean)) / np.sqrt(np.asarray(variance) + 1e-5) + beta
    np.testing.assert_allclose(layer.apply(params, state, x), want, rtol=TOLERANCE["same gradient"])


def test_batch_norm_applies_mean_0_and_variance_1_before_any_training() -> None:
    params, state, x, _ = given(batch_norm(), 4)
    want = params["gamma"][None] * x / math.sqrt(1 + 1e-5) + params["beta"][None]
    np.testing.assert_allclose(batch_norm().apply(params, state, x), want, rtol=TOLERANCE["same gradient"])


def test_batch_norm_applied_treats_each_example_by_itself(key: jax.Array) -> None:
    params, state, x, _ = given(batch_norm(), 4)
    _, state, _ = batch_norm().forward(params, state, x, key)
    together, alone = batch_norm().apply(params, state, x), batch_norm().apply(params, state, x[:1])
    np.testing.assert_allclose(together[:1], alone, rtol=1e-15)  # compiled apart: one rounding may differ


def test_batch_norm_passes_no_error_along_the_mean_and_the_scale_of_a_batch(key: jax.Array) -> None:
    # What moves all examples alike, or stretches them all, is undone by the normalisation; ε leaves ε/σ² of the latter.
    layer = batch_norm(epsilon=1e-14)
    params, state, x, _ = given(layer, 4)
    y, _, tape = layer.forward(params, state, x, key)
    for error in (jnp.ones_like(y), tape.x_hat):
        through, _ = layer.backward(params, tape, error, gradient)
        np.testing.assert_allclose(through, 0, atol=TOLERANCE["same gradient"])


def test_its_label_has_what_differs_from_the_defaults() -> None:
    assert str(batch_norm()) == str(batch_norm(epsilon=1e-5, rate=0.1)) == "batch_norm()"
    assert str(batch_norm(epsilon=2e-5, rate=0.2)) == "batch_norm(epsilon=2e-05, rate=0.2)"


# Within examples


@each_layer_of("normalization")
def test_backward_within_examples_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *given_layer(layer, shape))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm"])
def test_all_laws_hold_within_examples(name: str) -> None:
    check_all_laws(*LAYERS["normalization"][name])


@pytest.mark.parametrize(
    ("layer", "axes"), [(layer_norm(), (2,)), (group_norm(1), (1, 2))], ids=["layer_norm", "group_norm"]
)
def test_normalised_within_each_example(layer: Layer, axes: tuple[int, ...]) -> None:
    params, state = layer.init(jax.random.key(0), jnp.zeros((1, 5, 4)))
    y = np.asarray(layer.apply(params, state, 3 + 2 * normal(jnp.zeros((2, 5, 4)), 1)))
    np.testing.assert_allclose(y.mean(axis=axes), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=axes), 1, rtol=1e-4)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no multiple of the groups": (
        lambda: group_norm(3).init(jax.random.key(0), jnp.ones((2, 4))),
        ValueError,
        "multiple of 3",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
