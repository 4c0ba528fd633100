"""Averages of the weights and lookahead, each beside its loop in NumPy."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import adam, apply_updates, chain, clip_by_norm, l2, linear, sgd, squared, train, trainer
from fnn.optimizers import averaged_weights, exponential_average, freeze, lookahead, uniform_average
from fnn.testing import check_optimizer
from tests.testing.faults import PARAMS

G = np.random.default_rng(0).normal(size=(12, 3))


def held(optimizer: Any, dtype: Any = float) -> tuple[np.ndarray, np.ndarray]:
    """The weights and their average after each step on the gradients G."""
    w = jnp.asarray([1.0, -2.0, 0.5], dtype)

    def step(carry: Any, g: Any) -> Any:
        w, state = carry
        updates, state = optimizer.update(g.astype(dtype), state, w)
        w = apply_updates(w, updates)
        return (w, state), (w, averaged_weights(w, state))

    path, mean = jax.lax.scan(step, (w, optimizer.init(w)), jnp.asarray(G))[1]
    return np.asarray(path, float), np.asarray(mean, float)


def test_the_exponential_average_begins_at_the_first_weights() -> None:
    path, found = held(exponential_average(sgd(0.1), 0.7))
    mean = np.array([1.0, -2.0, 0.5])
    for w, got in zip(path, found, strict=True):
        mean = 0.7 * mean + 0.3 * w
        np.testing.assert_allclose(got, mean, rtol=1e-13)
    np.testing.assert_allclose(path, np.array([1.0, -2.0, 0.5]) - 0.1 * np.cumsum(G, axis=0), rtol=1e-12)


@pytest.mark.parametrize("start", [0, 5])
def test_the_uniform_average_is_the_mean_of_the_weights_from_its_start(start: int) -> None:
    path, found = held(uniform_average(sgd(0.1), start))
    for k, got in enumerate(found):
        np.testing.assert_allclose(got, path[min(k, start) : k + 1].mean(0) if k >= start else path[k], rtol=1e-12)


def test_an_average_in_bfloat16_forgets_nothing() -> None:
    """γ = 0.999 in bfloat16 itself would be 1."""
    path, found = held(exponential_average(sgd(0.1), 0.999), jnp.bfloat16)
    mean = np.array([1.0, -2.0, 0.5])
    for w in path:
        mean = 0.999 * mean + 0.001 * w
    np.testing.assert_allclose(found[-1], mean, rtol=2**-8)


def test_lookahead_is_its_loop() -> None:
    w = slow = np.array([1.0, -2.0, 0.5])
    optimizer, got = lookahead(sgd(0.1), every=3, alpha=0.25), jnp.asarray(w)
    state = optimizer.init(got)
    for k, g in enumerate(G):
        updates, state = optimizer.update(jnp.asarray(g), state, got)
        got = apply_updates(got, updates)
        w = w - 0.1 * g
        if (k + 1) % 3 == 0:
            w = slow = slow + 0.25 * (w - slow)
        np.testing.assert_allclose(got, w, rtol=1e-13)


@pytest.mark.parametrize(
    "optimizer",
    [
        exponential_average(adam(0.1)),
        uniform_average(chain(l2(0.1), sgd(0.1)), 1),
        lookahead(adam(0.1), every=2),
        exponential_average(lookahead(freeze(sgd(0.1), lambda params: jax.tree.map(lambda leaf: False, params)))),
    ],
    ids=str,
)
def test_they_keep_the_laws_of_optimizers(optimizer: Any) -> None:
    check_optimizer(optimizer, PARAMS, steps=3).raise_if_failed()


def test_the_average_is_read_in_validate_anywhere_in_a_chain() -> None:
    x = jnp.arange(8.0)[:, None] / 8
    data = x, 3 * x
    optimizer = chain(clip_by_norm(1.0), uniform_average(sgd(0.1)))
    learn = trainer(linear(1), squared, optimizer, batch_size=4)
    start = learn.init(jax.random.key(0), data)

    def mean_weight(state: Any) -> Any:
        return averaged_weights(state.params, state.optimizer_state)["w"][0, 0]

    _, metrics = train(learn, start, data, 6, every=1, validate=mean_weight)
    weights = [train(learn, start, data, k)[0].params["w"][0, 0] for k in range(1, 7)]
    np.testing.assert_allclose(metrics["validation"], np.cumsum(weights) / np.arange(1, 7), rtol=1e-12)


def test_no_average_and_two_are_told() -> None:
    w = jnp.ones(2)
    with pytest.raises(ValueError, match="one average of the weights, got 0"):
        averaged_weights(w, sgd(0.1).init(w))
    twice = exponential_average(uniform_average(sgd(0.1)))
    assert averaged_weights(w, exponential_average(sgd(0.1)).init(w)).shape == (2,)
    with pytest.raises(ValueError, match="got 2"):
        averaged_weights(w, (twice.init(w).optimizer, twice.init(w).optimizer))


@pytest.mark.parametrize("around", [exponential_average, uniform_average, lookahead], ids=lambda f: f.__name__)
def test_they_need_an_optimizer_that_makes_steps_and_params(around: Any) -> None:
    with pytest.raises(ValueError, match="expected an optimizer that makes steps"):
        around(l2(0.1))
    optimizer, w = around(sgd(0.1)), jnp.ones(2)
    with pytest.raises(ValueError, match="expected the weights, got None"):
        optimizer.update(w, optimizer.init(w))
    with pytest.raises(ValueError, match=r"expected gradients to reach l2\(0\.1\), got the steps of"):
        chain(optimizer, l2(0.1))


def test_traced_rates_are_swept() -> None:
    def last(key: jax.Array, gamma: Any, alpha: Any) -> Any:
        w, optimizer = jnp.ones(2), exponential_average(lookahead(sgd(0.1), every=2, alpha=alpha), gamma)
        state = optimizer.init(w)
        for g in G[:2, :2]:
            updates, state = optimizer.update(jnp.asarray(g), state, w)
            w = apply_updates(w, updates)
        return w, state.mean

    found = fnn.sweep(last, jax.random.split(jax.random.key(0), 1), gamma=[0.5, 0.9], alpha=[0.5, 1.0])
    for i, gamma in enumerate((0.5, 0.9)):
        for j, alpha in enumerate((0.5, 1.0)):
            row = jax.tree.map(lambda leaf, i=i, j=j: leaf[0, i, j], found)
            chex.assert_trees_all_close(row, last(jax.random.key(0), gamma, alpha), rtol=1e-13)
