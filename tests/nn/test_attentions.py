"""Attention against loops over heads and steps."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Layer
from fnn.nn import attention, dot_attention, transformer_block
from tests.checkers import check_backward, check_close
from tests.positions import LAYERS, check_all_laws, each_layer_of, given_layer


@each_layer_of("attentions")
def test_backward_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *given_layer(layer, shape))


@pytest.mark.parametrize("name", ["dot_attention, causal"])
def test_all_laws_hold(name: str) -> None:
    check_all_laws(*LAYERS["attentions"][name])


def _softmax(s: np.ndarray) -> np.ndarray:
    e = np.exp(s - s.max())
    return e / e.sum()


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_a_mean_of_values(causal: bool) -> None:
    """One head after another, one step after another."""
    layer = attention(6, 2, causal=causal)
    params, state, x, _ = given_layer(layer, (4, 5))
    got = np.asarray(layer.apply(params, state, x))
    first, _, last = params
    for n in range(len(x)):
        qkv = np.asarray(x[n]) @ np.asarray(first["w"]) + np.asarray(first["b"])
        heads = []
        for head in np.split(qkv, 2, axis=1):
            q, k, v = np.split(head, 3, axis=1)
            seen = [t + 1 if causal else 4 for t in range(4)]
            rows = [_softmax(k[:u] @ q[t] / np.sqrt(3)) @ v[:u] for t, u in enumerate(seen)]
            heads.append(np.stack(rows))
        want = np.concatenate(heads, axis=1) @ np.asarray(last["w"]) + np.asarray(last["b"])
        np.testing.assert_allclose(got[n], want, rtol=1e-12, atol=1e-12)


def test_a_causal_step_does_not_see_later_ones() -> None:
    layer = transformer_block(4, 2, causal=True)
    params, state, x, _ = given_layer(layer, (5, 4))
    y = layer.apply(params, state, x)
    check_close(layer.apply(params, state, x.at[:, 3:].set(9.0))[:, :3], y[:, :3])


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no multiple of three": (
        lambda: dot_attention().apply((), (), jnp.ones((2, 3, 4))),
        ValueError,
        r"\[q \| k \| v\]",
    ),
    "no multiple of the heads": (lambda: attention(5, 2), ValueError, "multiple of 2 heads"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
