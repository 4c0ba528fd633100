"""Embeddings against loops over tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Layer, gradient
from fnn.nn import embedding, positional
from fnn.testing import check_layer
from fnn.testing._trees import normal
from tests.checkers import check_backward
from tests.positions import LAYERS, check_all_laws, each_layer_of, given_layer


@each_layer_of("embeddings")
def test_backward_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *given_layer(layer, shape))


@pytest.mark.parametrize("name", ["positional"])
def test_all_laws_hold(name: str) -> None:
    check_all_laws(*LAYERS["embeddings"][name])


def test_all_laws_hold_for_tokens() -> None:
    x = jnp.asarray(np.random.default_rng(0).integers(5, size=(3, 4)))
    check_layer(embedding(5, 3), x).raise_if_failed()


def test_embedding_reads_rows_and_adds_up_errors() -> None:
    layer, x = embedding(6, 2, dtype=jnp.float64), jnp.array([[1, 5, 5], [0, 5, 1]])
    params, state = layer.init(jax.random.key(0), x)
    y, _, tape = layer.forward(params, state, x, jax.random.key(1))
    np.testing.assert_array_equal(y, np.asarray(params["table"])[np.asarray(x)])
    error, want = normal(y, 2), np.zeros((6, 2))
    for n in range(2):
        for t in range(3):
            want[int(x[n, t])] += np.asarray(error[n, t])
    through, readings = layer.backward(params, tape, error, gradient)
    np.testing.assert_allclose(readings["table"], want, rtol=1e-12)
    assert through.shape == x.shape
    assert not through.any()


def test_tokens_beyond_the_table_are_told_or_nan() -> None:
    layer = embedding(3, 2)
    params, state = layer.init(jax.random.key(0), jnp.array([[0]]))
    with pytest.raises(ValueError, match=r"from 0 to 2, got also \[-1, 3\]"):
        layer.apply(params, state, jnp.array([[-1, 3, 0]]))
    y = jax.jit(lambda x: layer.apply(params, state, x))(jnp.array([[-1, 3, 0]]))
    assert np.isnan(y[0, :2]).all()
    assert np.isfinite(y[0, 2]).all()


untyped: Any = fnn.nn.he

BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "a factory for an initializer": (lambda: embedding(3, 2, table=untyped), TypeError, "Call the factory: table=he()"),
    "floats for tokens": (
        lambda: embedding(3, 2).init(jax.random.key(0), jnp.ones((2, 3))),
        TypeError,
        "whole numbers",
    ),
    "more positions": (
        lambda: positional().apply({"positions": jnp.ones((3, 2))}, (), jnp.ones((1, 4, 2))),
        ValueError,
        r"got \(4, 2\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
