"""A root that can be differentiated at 0, and sums that lose nothing."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.core._numerics import lengths, logistic_density, mean, no_sum, norm_in_units, plus, ratio, safe_sqrt

X = [0.0, 1e-30, 0.25, 1.0, 9.0, 1e30]


DERIVATIVES = {
    "jacfwd": jax.jacfwd(safe_sqrt),
    "grad": jax.grad(safe_sqrt),
    "vmap of grad": lambda x: jax.vmap(jax.grad(safe_sqrt))(x[None])[0],
    "jit of grad": jax.jit(jax.grad(safe_sqrt)),
}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=jnp.dtype)
@pytest.mark.parametrize("how", DERIVATIVES)
def test_value_and_slope_in_every_dtype(how, dtype):
    for x in np.asarray(X, np.float64):
        if dtype == jnp.float16 and not (x == 0 or 1e-7 < x < 6e4):
            continue
        rounded = float(jnp.asarray(x, dtype))
        right = 0.5 / np.sqrt(rounded) if rounded else 0.0
        eps = float(jnp.finfo(dtype).eps)
        assert safe_sqrt(jnp.asarray(x, dtype)).dtype == dtype
        assert float(safe_sqrt(jnp.asarray(x, dtype))) == pytest.approx(np.sqrt(rounded), rel=eps)
        found = DERIVATIVES[how](jnp.asarray(x, dtype))
        assert found.dtype == dtype
        assert float(found) == pytest.approx(right, rel=2 * eps)


@pytest.mark.parametrize("first", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize("second", [jax.grad, jax.jacfwd])
def test_second_derivatives_are_finite_at_0(first, second):
    assert float(second(first(safe_sqrt))(0.0)) == 0
    assert float(second(first(safe_sqrt))(4.0)) == pytest.approx(-1 / 32)
    assert float(second(second(first(safe_sqrt)))(4.0)) == pytest.approx(3 / 256)


def test_a_norm_has_slope_0_at_0():
    def norm(g):
        return safe_sqrt(jnp.sum(jnp.square(g)))

    assert np.array_equal(jax.grad(norm)(jnp.zeros(3)), np.zeros(3))
    assert np.array_equal(jax.hessian(norm)(jnp.zeros(3)), np.zeros((3, 3)))
    assert np.allclose(jax.grad(norm)(jnp.array([3.0, 4.0])), [0.6, 0.8])


def test_what_is_no_square_stays_visible():
    for bad in (jnp.nan, -1.0):
        assert np.isnan(safe_sqrt(bad))
        assert np.isnan(jax.grad(safe_sqrt)(bad))


def test_forward_costs_one_root():
    compiled = jax.jit(safe_sqrt).lower(jnp.ones(7)).compile().as_text() or ""
    assert "sqrt" in compiled
    assert not {"select", "compare"} & set(re.split(r"\W+", compiled))


# Sums of many terms


def summed(terms, dtype):
    terms = jnp.asarray(terms, dtype)
    return jax.lax.scan(lambda sum, v: (plus(sum, v), None), no_sum(terms[0]), terms)[0]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=jnp.dtype)
def test_a_sum_is_the_exact_sum_rounded_once(dtype):
    generator = np.random.default_rng(0)
    for terms in (generator.normal(size=10_000), np.full(10_000, 0.1), [1.0, *[1e-4] * 9999], [1e4, 1.0, -1e4] * 999):
        rounded = np.asarray(jnp.asarray(terms, dtype), np.float64)
        found = mean(summed(terms, dtype), len(rounded))
        assert found.dtype == (jnp.float64 if dtype == jnp.float64 else jnp.float32)
        eps = float(jnp.finfo(found.dtype).eps)
        bound = 2 * eps * (abs(math.fsum(rounded)) + eps * np.sum(np.abs(rounded))) / len(rounded)
        assert abs(float(found) - math.fsum(rounded) / len(rounded)) <= bound


def test_what_is_not_finite_stays_as_it_is():
    assert mean(summed([1.0, np.inf, 1.0], jnp.float32), 3) == np.inf
    assert np.isnan(mean(summed([1.0, np.nan, 1.0], jnp.float32), 3))
    assert np.isnan(mean(summed([np.inf, -np.inf, 1.0], jnp.float32), 3))


def test_sums_go_through_vmap_and_grad_and_hold_trees():
    terms = jnp.arange(6.0).reshape(3, 2)
    found = jax.vmap(lambda t: mean(summed(t, jnp.float64), 2))(terms)
    np.testing.assert_allclose(found, [0.5, 2.5, 4.5])
    np.testing.assert_allclose(jax.grad(lambda t: mean(summed(t, jnp.float64), 2))(terms[0]), [0.5, 0.5])
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": (jnp.zeros((), int), {})}
    assert mean(plus(plus(no_sum(tree), tree), tree), 2)["a"].tolist() == [1.0, 1.0]


# Lengths and quotients


def test_ratio_of_nothing_to_nothing_is_0():
    assert np.array_equal(ratio(jnp.array([0.0, 0.0, 1.0, 3.0]), jnp.array([0.0, 2.0, 0.0, 2.0])), [0, 0, np.inf, 1.5])
    assert np.array_equal(jax.grad(lambda part: ratio(part, jnp.array([0.0, 2.0])).sum())(jnp.zeros(2)), [1, 0.5])


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
def test_lengths_at_every_scale(size):
    rows = jnp.asarray([[3.0, 4.0], [0.0, 0.0]], jnp.float32) * jnp.asarray(size, jnp.float32)
    np.testing.assert_allclose(lengths(rows), [5 * size, 0], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda rows: lengths(rows).sum())(rows)).all()


def test_the_norm_of_a_tree_is_that_of_its_widest_dtype_at_every_scale():
    for largest in (3e-200, 3.0, 3e200):
        tree = {"wide": jnp.asarray([largest, -largest]), "narrow": jnp.asarray([4.0, 3.0], jnp.float32)}
        unit, norm = norm_in_units(tree)
        assert float(unit) * float(norm) == pytest.approx(math.hypot(largest, largest, 5.0), rel=1e-15)
    assert [float(part) for part in norm_in_units({})] == [1.0, 0.0]


def test_slopes_of_the_logistic_density():
    """s″ = s(1 − s)(1 − 2s), here from e^u, and odd."""
    for u in (-3.0, -0.5, 0.0, 0.5, 3.0):
        s = 1 / (1 + math.exp(-u))
        assert float(jax.grad(logistic_density)(u)) == pytest.approx(s * (1 - s) * (1 - 2 * s), rel=1e-14, abs=1e-17)
