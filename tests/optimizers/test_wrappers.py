"""Decoupled decay and accumulated gradients, each beside its loop in NumPy."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    adam,
    apply_updates,
    backprop,
    chain,
    clip_by_norm,
    dense,
    l2,
    linear,
    serial,
    sgd,
    squared,
    tanh,
    weights_only,
)
from fnn.optimizers import accumulated, decoupled_decay, ramp
from fnn.testing import check_optimizer
from tests import oracles
from tests.testing.faults import PARAMS

G = np.random.default_rng(0).normal(size=(10, 3))
W = np.array([1.0, -2.0, 0.5])


def path(optimizer: Any) -> np.ndarray:
    """The weights after each step on the gradients G."""

    def step(carry: Any, g: Any) -> Any:
        w, state = carry
        updates, state = optimizer.update(g, state, w)
        w = apply_updates(w, updates)
        return (w, state), w

    w = jnp.asarray(W)
    return np.asarray(jax.lax.scan(step, (w, optimizer.init(w)), jnp.asarray(G))[1])


def adamw(eta: Any, strength: float) -> np.ndarray:
    """Algorithm 2 of Loshchilov & Hutter, line by line, with η_t in place of αη_t."""
    w, m, v, rows = W, 0.0, 0.0, []
    for t, g in enumerate(G):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        m_hat, v_hat = m / (1 - 0.9 ** (t + 1)), v / (1 - 0.999 ** (t + 1))
        w = w - eta(t) * (m_hat / (np.sqrt(v_hat) + 1e-8) + strength * w)
        rows.append(w)
    return np.stack(rows)


def test_around_adam_it_is_adamw() -> None:
    np.testing.assert_allclose(path(decoupled_decay(adam(0.1), 0.1, 0.3)), adamw(lambda t: 0.1, 0.3), rtol=1e-12)
    rate = ramp(0.1, 0.5, 4)
    want = adamw(lambda t: 0.1 + 0.1 * min(t, 4), 0.3)
    np.testing.assert_allclose(path(decoupled_decay(adam(rate), rate, 0.3)), want, rtol=1e-12)


def test_around_sgd_it_is_l2() -> None:
    want = oracles.sgd_l2(W, lambda w, k: G[k], len(G), 0.1, 0.3)
    np.testing.assert_allclose(path(decoupled_decay(sgd(0.1), 0.1, 0.3)), want, rtol=1e-13)
    np.testing.assert_allclose(path(chain(l2(0.3), sgd(0.1))), want, rtol=1e-13)


def test_a_mask_says_what_decays() -> None:
    params = {"w": jnp.array([2.0]), "b": jnp.array([2.0])}
    still = jax.tree.map(jnp.zeros_like, params)
    for mask in (weights_only, {"w": True, "b": False}):
        optimizer = decoupled_decay(sgd(0.1), 0.1, 0.5, mask)
        updates, _ = optimizer.update(still, optimizer.init(params), params)
        np.testing.assert_allclose([updates["w"][0], updates["b"][0]], [-0.1, 0.0])
    assert str(decoupled_decay(adam(0.1), 0.1, 0.5, weights_only)) == (
        "decoupled_decay(adam(0.1), 0.1, 0.5, mask=weights_only)"
    )
    with pytest.raises(ValueError, match="expected a mask in the structure"):
        decoupled_decay(sgd(0.1), 0.1, 0.5, {"w": True}).init(params)


def test_gradients_are_accumulated_into_their_mean() -> None:
    found = path(accumulated(sgd(0.1), 3))
    w, want = W, []
    for k in range(len(G)):
        if (k + 1) % 3 == 0:
            w = w - 0.1 * G[k - 2 : k + 1].mean(0)
        want.append(w)
    np.testing.assert_allclose(found, want, rtol=1e-13)
    np.testing.assert_allclose(path(accumulated(adam(0.1), 1)), path(adam(0.1)), rtol=1e-13)


def test_accumulated_batches_are_one_large_batch() -> None:
    net, x = serial(dense(4, tanh), linear(1)), jax.random.normal(jax.random.key(1), (12, 2))
    y = jnp.sum(x, axis=1, keepdims=True)
    params, state = net.init(jax.random.key(0), x)
    gradient = lambda rows: backprop(net, squared)(params, state, (x[rows], y[rows]), jax.random.key(2))[1]  # noqa: E731
    optimizer = accumulated(adam(0.1), 3)
    memory = optimizer.init(params)
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
        updates, memory = optimizer.update(gradient(rows), memory, params)
    want, _ = adam(0.1).update(gradient(slice(0, 12)), adam(0.1).init(params), params)
    chex.assert_trees_all_close(updates, want, rtol=1e-10)


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        (decoupled_decay(adam(0.1), 0.1, 0.01), 3),
        (decoupled_decay(sgd(0.1), ramp(0.0, 0.1, 2), 0.01, weights_only), 3),
        (accumulated(adam(0.1), 2), 4),
        (accumulated(chain(clip_by_norm(1.0), sgd(0.1)), 3), 6),
    ],
    ids=str,
)
def test_they_keep_the_laws_of_optimizers(optimizer: Any, steps: int) -> None:
    check_optimizer(optimizer, PARAMS, steps=steps).raise_if_failed()


def test_what_they_need_is_told() -> None:
    with pytest.raises(ValueError, match="expected an optimizer that makes steps"):
        decoupled_decay(l2(0.1), 0.1, 0.1)
    with pytest.raises(ValueError, match="strength must be a finite number >= 0"):
        decoupled_decay(sgd(0.1), 0.1, -0.1)
    with pytest.raises(ValueError, match="steps must be a whole number >= 1"):
        accumulated(sgd(0.1), 0)
    w = jnp.ones(2)
    with pytest.raises(TypeError, match="expected an AccumulationState"):
        accumulated(sgd(0.1), 2).update(w, (), w)
