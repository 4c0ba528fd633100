"""Recurrent layers against loops over steps, written from their cells' equations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Layer
from fnn.nn import gru, lstm, lstm_cell, recurrent, rnn
from tests.checkers import check_backward
from tests.positions import LAYERS, check_all_laws, each_layer_of, given_layer


@each_layer_of("recurrence")
def test_backward_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *given_layer(layer, shape))


@pytest.mark.parametrize("name", ["lstm_cell", "gru_cell"])
def test_all_laws_hold(name: str) -> None:
    check_all_laws(*LAYERS["recurrence"][name])


def _s(u: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-u))


def _elman(a: np.ndarray, s: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.tanh(a + s), c


def _lstm(a: np.ndarray, s: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, f, g, o = np.split(a + s, 4)
    c = _s(f) * c + _s(i) * np.tanh(g)
    return _s(o) * np.tanh(c), c


def _gru(a: np.ndarray, s: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    (a_r, a_z, a_m), (s_r, s_z, s_m) = np.split(a, 3), np.split(s, 3)
    r, z = _s(a_r + s_r), _s(a_z + s_z)
    return (1 - z) * np.tanh(a_m + r * s_m) + z * h, c


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("make", "step"), [(rnn, _elman), (lstm, _lstm), (gru, _gru)], ids=["rnn", "lstm", "gru"])
def test_recurrence_is_a_loop_over_steps(make: Any, step: Any, reverse: bool) -> None:
    layer = make(3, reverse=reverse)
    params, state, x, _ = given_layer(layer, (5, 2))
    got = np.asarray(layer.apply(params, state, x))
    first, loop = (jax.tree.map(np.asarray, part) for part in params)
    for n in range(len(x)):
        h = c = np.zeros(3)
        for t in range(5)[:: -1 if reverse else 1]:
            a, s = np.asarray(x[n, t]) @ first["w"] + first["b"], h @ loop["w"] + loop.get("b", 0)
            h, c = step(a, s, h, c)
            np.testing.assert_allclose(got[n, t], h, rtol=1e-12, atol=1e-12)


untyped: Any = lstm_cell
untyped_factory: Any = fnn.nn.he

BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no multiple of the gates": (
        lambda: recurrent(lstm_cell()).init(jax.random.key(0), jnp.ones((2, 3, 5))),
        ValueError,
        "4 gates",
    ),
    "sequences of another width": (
        lambda: recurrent(lstm_cell()).apply({"w": jnp.ones((2, 8))}, (), jnp.ones((2, 3, 12))),
        ValueError,
        "initialised for 8 features, got 12",
    ),
    "a factory for an initializer": (lambda: recurrent(lstm_cell(), w=untyped_factory), TypeError, "Call the factory"),
    "a factory for a cell": (lambda: recurrent(untyped), TypeError, "expected a cell"),
    "rows for a sequence": (lambda: lstm(3).init(jax.random.key(0), jnp.ones((2, 3))), ValueError, "sequences"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
