"""The diversity of neurons: distances of correlations and cosines, and closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.lecture import diversity, weight_diversity

NOISE = np.random.default_rng(3)


varied, varied_weights = jax.jit(diversity), jax.jit(weight_diversity)


def test_diversity_is_the_mean_distance_of_correlations():
    outputs = NOISE.standard_normal((50, 5)) @ NOISE.standard_normal((5, 4)) + 3
    correlation = np.asarray(np.corrcoef(outputs, rowvar=False))
    wanted = 1 - np.mean([abs(correlation[h, k]) for h in range(4) for k in range(h)])
    np.testing.assert_allclose(varied(outputs), wanted, rtol=1e-12)
    moved = outputs * [1, -2, 1e200, 1e-200] + [1, 2, 3, 0]
    np.testing.assert_allclose(varied(moved), wanted, rtol=1e-9)


def test_weight_diversity_is_the_mean_distance_of_cosines():
    w = NOISE.standard_normal((5, 4))
    cosines = [abs(w[:, h] @ w[:, k]) / np.linalg.norm(w[:, h]) / np.linalg.norm(w[:, k])
               for h in range(4) for k in range(h)]  # fmt: skip
    np.testing.assert_allclose(varied_weights(w), 1 - np.mean(cosines), rtol=1e-12)
    assert varied_weights(np.eye(3)) == 1
    np.testing.assert_allclose(varied_weights(np.array([[1.0, 0.0], [0.0, 0.0]])), 0, atol=1e-15)


def test_diversity_in_closed_form():
    u, v = np.array([1.0, -1.0, 1.0, -1.0]), np.array([1.0, 1.0, -1.0, -1.0])
    dead = np.full(4, 0.1)

    def of(*neurons):
        return float(varied(np.stack(neurons, axis=1)))

    assert of(u, u) == pytest.approx(0, abs=1e-15)
    assert of(u, 3 - 2 * u) == pytest.approx(0, abs=1e-15)
    assert of(u, v) == 1
    assert of(u, u, v) == pytest.approx(2 / 3)
    assert of(u, dead) == 0
    assert of(dead, dead) == 0
    assert of(u, v, dead) == pytest.approx(1 / 3)
    assert of(np.full(7, 0.1), np.arange(7.0) ** 2) == 0  # the mean of seven 0.1 is not 0.1 in float arithmetic
    slope = jax.jit(jax.grad(diversity))(np.stack([u + 0.5 * v, v, dead], axis=1))
    assert np.all(np.isfinite(slope))


# Bad input


def test_diversity_needs_something_to_compare():
    for bad in (jnp.ones((5, 1)), jnp.ones((1, 5)), jnp.ones(5)):
        with pytest.raises(ValueError, match="diversity: expected outputs with at least 2 rows and 2 columns"):
            diversity(bad)
    with pytest.raises(ValueError, match="weight_diversity: expected w with at least 1 row and 2 columns"):
        weight_diversity(jnp.ones((5, 1)))
    with pytest.raises(TypeError, match="diversity: expected floats"):
        diversity(jnp.ones((5, 2), int))
    a_list: Any = [[1.0, 2.0]]
    with pytest.raises(TypeError, match="diversity: expected an array"):
        diversity(a_list)
