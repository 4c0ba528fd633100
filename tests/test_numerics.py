"""A root that can be differentiated at 0."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.numerics import safe_sqrt

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
    compiled = jax.jit(safe_sqrt).lower(jnp.ones(7)).compile().as_text()
    assert "sqrt" in compiled
    assert not {"select", "compare"} & set(re.split(r"\W+", compiled))
