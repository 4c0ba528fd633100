"""Attention, recurrence, embeddings and norms within examples, against loops written from their equations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Layer, branches, gradient, leaky_relu, sigmoid
from fnn.nn import (
    attention,
    dot_attention,
    elman_cell,
    embedding,
    group_norm,
    gru,
    gru_cell,
    layer_norm,
    lstm,
    lstm_cell,
    positional,
    recurrent,
    rms_norm,
    rnn,
    transformer_block,
)
from fnn.testing import check_layer
from fnn.testing._trees import normal
from tests.checkers import check_backward, check_close

LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "layer_norm": (layer_norm(), (3, 4)),
    "layer_norm of rows": (layer_norm(epsilon=0.1), (4,)),
    "rms_norm": (rms_norm(), (2, 5)),
    "group_norm": (group_norm(2), (2, 3, 4)),
    "group_norm of rows": (group_norm(1), (4,)),
    "positional": (positional(), (3, 2)),
    "dot_attention": (dot_attention(), (4, 6)),
    "dot_attention, causal": (dot_attention(causal=True), (4, 6)),
    "attention": (attention(4, 2, causal=True), (3, 5)),
    "transformer_block": (transformer_block(4, 2), (3, 4)),
    "elman": (recurrent(elman_cell()), (4, 3)),
    "elman, leaky": (recurrent(elman_cell(leaky_relu(0.1)), reverse=True), (4, 3)),
    "lstm_cell": (recurrent(lstm_cell()), (4, 8)),
    "gru_cell": (recurrent(gru_cell()), (4, 6)),
    "lstm": (lstm(3, reverse=True), (4, 2)),
    "gru": (gru(2), (4, 3)),
    "rnn in both directions": (branches(rnn(2), rnn(3, sigmoid, reverse=True)), (4, 3)),
}

each_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())


def _given(layer: Layer, shape: tuple[int, ...], n: int = 3) -> tuple[Any, Any, Any, Any]:
    x = normal(jax.ShapeDtypeStruct((n, *shape), jnp.float64), 1)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    return normal(params, 2, scale=0.7), state, x, jax.random.key(0)


@each_layer
def test_backward_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *_given(layer, shape))


@pytest.mark.parametrize(
    "name", ["layer_norm", "rms_norm", "group_norm", "positional", "dot_attention, causal", "lstm_cell", "gru_cell"]
)
def test_all_laws_hold(name: str) -> None:
    layer, shape = LAYERS[name]
    check_layer(layer, normal(jax.ShapeDtypeStruct((3, *shape), jnp.float64), 1)).raise_if_failed()


def test_all_laws_hold_for_tokens() -> None:
    x = jnp.asarray(np.random.default_rng(0).integers(5, size=(3, 4)))
    check_layer(embedding(5, 3), x).raise_if_failed()


def _softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max())
    return e / e.sum()


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_a_mean_of_values(causal: bool) -> None:
    """One head after another, one step after another."""
    layer = attention(6, 2, causal=causal)
    params, state, x, _ = _given(layer, (4, 5))
    got = np.asarray(layer.apply(params, state, x))
    first, _, last = params
    for n in range(len(x)):
        qkv = np.asarray(x[n]) @ np.asarray(first["w"]) + np.asarray(first["b"])
        heads = []
        for head in np.split(qkv, 2, axis=1):
            q, k, v = np.split(head, 3, axis=1)
            seen = lambda t: t + 1 if causal else len(q)  # noqa: E731
            rows = [_softmax(k[: seen(t)] @ q[t] / np.sqrt(3)) @ v[: seen(t)] for t in range(len(q))]
            heads.append(np.stack(rows))
        want = np.concatenate(heads, axis=1) @ np.asarray(last["w"]) + np.asarray(last["b"])
        np.testing.assert_allclose(got[n], want, rtol=1e-12, atol=1e-12)


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
    params, state, x, _ = _given(layer, (5, 2))
    got = np.asarray(layer.apply(params, state, x))
    first, loop = (jax.tree.map(np.asarray, part) for part in params)
    for n in range(len(x)):
        h = c = np.zeros(3)
        for t in range(5)[:: -1 if reverse else 1]:
            a, s = np.asarray(x[n, t]) @ first["w"] + first["b"], h @ loop["w"] + loop.get("b", 0)
            h, c = step(a, s, h, c)
            np.testing.assert_allclose(got[n, t], h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("layer", "axes"), [(layer_norm(), (2,)), (group_norm(1), (1, 2))], ids=["layer_norm", "group_norm"]
)
def test_normalised_within_each_example(layer: Layer, axes: tuple[int, ...]) -> None:
    params, state = layer.init(jax.random.key(0), jnp.zeros((1, 5, 4)))
    y = np.asarray(layer.apply(params, state, 3 + 2 * normal(jnp.zeros((2, 5, 4)), 1)))
    np.testing.assert_allclose(y.mean(axis=axes), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(axis=axes), 1, rtol=1e-4)


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
    assert through.shape == x.shape and not through.any()


def test_tokens_beyond_the_table_are_told_or_nan() -> None:
    layer = embedding(3, 2)
    params, state = layer.init(jax.random.key(0), jnp.array([[0]]))
    with pytest.raises(ValueError, match=r"from 0 to 2, got also \[-1, 3\]"):
        layer.apply(params, state, jnp.array([[-1, 3, 0]]))
    y = jax.jit(lambda x: layer.apply(params, state, x))(jnp.array([[-1, 3, 0]]))
    assert np.isnan(y[0, :2]).all() and np.isfinite(y[0, 2]).all()


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "floats for tokens": (lambda: embedding(3, 2).init(jax.random.key(0), jnp.ones((2, 3))), TypeError, "whole numbers"),
    "no multiple of three": (lambda: dot_attention().apply((), (), jnp.ones((2, 3, 4))), ValueError, r"\[q \| k \| v\]"),
    "no multiple of the heads": (lambda: attention(5, 2), ValueError, "multiple of 2 heads"),
    "no multiple of the gates": (lambda: recurrent(lstm_cell()).init(jax.random.key(0), jnp.ones((2, 3, 5))), ValueError, "4 gates"),
    "a factory for a cell": (lambda: recurrent(lstm_cell), TypeError, "expected a cell"),  # pyright: ignore[reportArgumentType]
    "rows for a sequence": (lambda: lstm(3).init(jax.random.key(0), jnp.ones((2, 3))), ValueError, "sequences"),
    "no multiple of the groups": (lambda: group_norm(3).init(jax.random.key(0), jnp.ones((2, 4))), ValueError, "multiple of 3"),
    "more positions": (lambda: positional().apply({"positions": jnp.ones((3, 2))}, (), jnp.ones((1, 4, 2))), ValueError, r"got \(4, 2\)"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_causal_step_does_not_see_later_ones() -> None:
    layer = transformer_block(4, 2, causal=True)
    params, state, x, _ = _given(layer, (5, 4))
    y = layer.apply(params, state, x)
    check_close(layer.apply(params, state, x.at[:, 3:].set(9.0))[:, :3], y[:, :3])
