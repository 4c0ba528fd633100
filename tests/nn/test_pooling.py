"""Pooling against XLA's own, and its choices at ties and borders."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Layer, gradient
from fnn.nn import average_pool, last, max_pool
from fnn.testing._trees import normal
from tests.checkers import check_backward, check_close
from tests.positions import LAYERS, check_all_laws, each_layer_of, given_layer


@each_layer_of("pooling")
def test_backward_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *given_layer(layer, shape))


@pytest.mark.parametrize("name", ["max_pool that overlaps", "average_pool"])
def test_all_laws_hold(name: str) -> None:
    check_all_laws(*LAYERS["pooling"][name])


def test_the_largest_of_equals_is_the_first() -> None:
    """After ReLU a whole window may be 0; XLA's own pooling sends the error to the first of equals too."""
    layer, x = max_pool(2, stride=1), jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 5, 5, 2)), jnp.float64)

    def xla(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")

    y, _, tape = layer.forward((), (), x, jax.random.key(0))
    error = normal(y, 3)
    check_close((y, layer.backward((), tape, error, gradient)[0]), (xla(x), jax.vjp(xla, x)[1](error)[0]))


def test_places_outside_are_never_the_largest_and_count_as_0_in_means() -> None:
    x = -jnp.ones((1, 2, 1))
    assert max_pool((2,), stride=1, padding="same").apply((), (), x)[0, :, 0].tolist() == [-1, -1]
    assert average_pool((2,), stride=1, padding="same").apply((), (), x)[0, :, 0].tolist() == [-1, -0.5]


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "padding of a whole window": (lambda: max_pool(2, padding=((2, 0), (0, 0))), ValueError, r"from 0 to \[1, 1\]"),
    "a stride without a size": (lambda: average_pool(stride=2), ValueError, "a size of the windows"),
    "an image for a sequence": (
        lambda: last().apply((), (), jnp.ones((2, 3, 4, 1))),
        ValueError,
        r"sequences \[n, t, features\]",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
