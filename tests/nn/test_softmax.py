"""The softmax's cross-entropy against NumPy in extended precision, by labels and by probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import softmax_cross_entropy as loss

A = np.array([[0.5, -1.0, 2.0], [30.0, -30.0, 0.0], [1e4, 0.0, -1e4], [0.0, 0.0, 0.0]])
LABELS = np.array([2, 1, 0, 1])
SOFT = np.array([[0.2, 0.3, 0.5], [0.0, 0.9, 0.1], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
TARGETS = {"labels": (LABELS, np.eye(3)[LABELS]), "probabilities": (SOFT, SOFT)}


def softmax(a: np.ndarray) -> np.ndarray:
    e = np.exp(np.asarray(a, np.longdouble) - a.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("y", "p"), TARGETS.values(), ids=TARGETS.keys())
def test_value_slope_and_hessian(y, p):
    q = softmax(A)
    largest = A.max(axis=1, keepdims=True)
    below = np.log(np.exp(np.asarray(A - largest, np.longdouble)).sum(axis=1))
    value = np.sum(p * (below[:, None] + largest - A), axis=1)
    a, y = jnp.asarray(A), jnp.asarray(y)
    np.testing.assert_allclose(loss.value(a, y), value.astype(float), rtol=1e-13)
    np.testing.assert_allclose(loss.slope(a, y), (q - p).astype(float), rtol=1e-9, atol=1e-15)
    H = np.einsum("nm,mk->nmk", q, np.eye(3)) - np.einsum("nm,nk->nmk", q, q)
    assert loss.hessian is not None
    assert loss.root is not None
    np.testing.assert_allclose(loss.hessian(a, y), H.astype(float), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(loss.curvature(a, y), np.einsum("nmm->nm", H).astype(float), rtol=1e-9, atol=1e-15)
    R = loss.root(a, y)
    np.testing.assert_allclose(R @ jnp.swapaxes(R, 1, 2), H.astype(float), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=jnp.dtype)
def test_probabilities_keep_the_dtype_of_the_outputs(dtype):
    a, y = jnp.asarray(A[[0, 3]], dtype), jnp.asarray([[0.125, 0.375, 0.5], [0.25, 0.25, 0.5]], dtype)
    assert loss.value(a, y).dtype == loss.slope(a, y).dtype == dtype
    exact = loss.slope(jnp.asarray(a, jnp.float64), jnp.asarray(y, jnp.float64))
    assert float(jnp.max(jnp.abs(loss.slope(a, y).astype(jnp.float64) - exact))) < 4 * float(jnp.finfo(dtype).eps)


def test_what_is_neither_is_refused():
    a = jnp.zeros((2, 3))
    with pytest.raises(TypeError, match="expected integer labels, got float64 of shape"):
        loss.value(a, jnp.zeros(2))
    with pytest.raises(ValueError, match="rows of probabilities that add up to 1, got sums from 0 to 2"):
        loss.slope(a, jnp.asarray([[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]))
    with pytest.raises(ValueError, match=r"expected labels 0\.\.2"):
        loss.root(a, jnp.asarray([0, 3]))  # type: ignore[misc]
    assert np.isnan(jax.jit(loss.value)(a, jnp.asarray([0, 3]))).tolist() == [False, True]
