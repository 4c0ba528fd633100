"""Networks whose examples have positions: images and sequences, with a loss and what goes in and is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Layer,
    Loss,
    activate,
    binary_cross_entropy,
    branches,
    columns,
    dense,
    dropout,
    grouped,
    leaky_relu,
    linear,
    prelu,
    product,
    relu,
    remat,
    repeat,
    residual,
    serial,
    sigmoid,
    softmax_cross_entropy,
    squared,
    tanh,
    tied,
)
from fnn.nn import (
    attention,
    average_pool,
    class_weighted,
    conv,
    dot_attention,
    each_position,
    elman_cell,
    embedding,
    flatten,
    gelu,
    group_norm,
    gru,
    gru_cell,
    last,
    layer_norm,
    lstm,
    lstm_cell,
    max_pool,
    positional,
    recurrent,
    rms_norm,
    rnn,
    silu,
    smoothed,
    transformer_block,
)
from fnn.testing import check_layer
from fnn.testing._trees import normal


class Posed(NamedTuple):
    """A network with a loss, the shape of an example and how its target is drawn."""

    net: Layer
    loss: Loss
    shape: tuple[int, ...]
    target: Callable[[np.random.Generator, int], np.ndarray]
    tokens: int = 0
    """how many there are, for a network of whole numbers"""


def _classes(m: int, *positions: int, least: int = 0) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, n: rng.integers(least, m, (n, *positions))


def _numbers(*shape: int) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda rng, n: rng.standard_normal((n, *shape))


cross_entropy, F64 = softmax_cross_entropy, jnp.float64

LAYERS: dict[str, dict[str, tuple[Layer, tuple[int, ...]]]] = {
    "convolutions": {
        "conv": (conv(3, 3), (5, 4, 2)),
        "conv, valid": (conv(2, (2, 3), padding="valid"), (4, 5, 3)),
        "conv with stride and dilation": (conv(2, 3, stride=2, dilation=(1, 2), padding=((1, 0), (2, 4))), (6, 7, 2)),
        "conv that leaves places over": (conv(2, 2, stride=3, padding="valid", bias=False), (6, 7, 2)),
        "conv of sequences": (conv(3, (3,), stride=(2,)), (6, 2)),
        "conv of volumes": (conv(2, (2, 1, 2)), (3, 2, 3, 2)),
        "conv of one channel": (conv(3, 3, stride=2), (5, 6, 1)),
        "conv of one place": (conv(3, 1), (3, 3, 2)),
        "grouped conv": (grouped(conv(2, 3), 2), (4, 3, 4)),
    },
    "pooling": {
        "max_pool": (max_pool(2), (4, 5, 2)),
        "max_pool that overlaps": (max_pool(3, stride=2, padding="same"), (5, 4, 2)),
        "max_pool of tiles": (max_pool((2, 3)), (4, 6, 2)),
        "average_pool": (average_pool(2), (4, 6, 2)),
        "average_pool that overlaps": (average_pool(3, stride=1, padding=((1, 1), (2, 0))), (4, 4, 2)),
        "average_pool of sequences": (average_pool((3,)), (7, 2)),
        "average_pool of everything": (average_pool(), (3, 4, 2)),
        "flatten": (flatten(), (3, 2, 2)),
        "last": (last(), (4, 3)),
    },
    "normalization": {
        "layer_norm": (layer_norm(), (3, 4)),
        "layer_norm of rows": (layer_norm(epsilon=0.1), (4,)),
        "rms_norm": (rms_norm(), (2, 5)),
        "group_norm": (group_norm(2), (2, 3, 4)),
        "group_norm of rows": (group_norm(1), (4,)),
    },
    "embeddings": {
        "positional": (positional(), (3, 2)),
    },
    "attentions": {
        "dot_attention": (dot_attention(), (4, 6)),
        "dot_attention, causal": (dot_attention(causal=True), (4, 6)),
        "attention": (attention(4, 2, causal=True), (3, 5)),
        "transformer_block": (transformer_block(4, 2), (3, 4)),
    },
    "recurrence": {
        "elman": (recurrent(elman_cell()), (4, 3)),
        "elman, leaky": (recurrent(elman_cell(leaky_relu(0.1)), reverse=True), (4, 3)),
        "lstm_cell": (recurrent(lstm_cell()), (4, 8)),
        "gru_cell": (recurrent(gru_cell()), (4, 6)),
        "lstm": (lstm(3, reverse=True), (4, 2)),
        "gru": (gru(2), (4, 3)),
        "rnn in both directions": (branches(rnn(2), rnn(3, sigmoid, reverse=True)), (4, 3)),
    },
}
"""By module the layers of images and sequences, with the shape of an example."""


def each_layer_of(module: str) -> pytest.MarkDecorator:
    """A test for each layer of one module."""
    found = LAYERS[module]
    return pytest.mark.parametrize(("layer", "shape"), found.values(), ids=found.keys())


def given_layer(layer: Layer, shape: tuple[int, ...], n: int = 3) -> tuple[Any, Any, Any, Any]:
    """Arguments for a forward pass, with random params."""
    x = normal(jax.ShapeDtypeStruct((n, *shape), jnp.float64), 1)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    return normal(params, 2, scale=0.7), state, x, jax.random.key(0)


def check_all_laws(layer: Layer, shape: tuple[int, ...]) -> None:
    """The laws of `check_layer`, at three random examples."""
    check_layer(layer, normal(jax.ShapeDtypeStruct((3, *shape), jnp.float64), 1)).raise_if_failed()


NETWORKS: dict[str, Posed] = {
    "conv, max pool, flatten": Posed(
        serial(conv(3, 3), activate(tanh), max_pool(2), flatten(), linear(3)), cross_entropy, (6, 5, 2), _classes(3)
    ),
    "conv with stride, dilation, padding": Posed(
        serial(
            conv(4, (3, 2), stride=2, padding=((1, 1), (0, 1)), dilation=(1, 2), bias=False),
            prelu(),
            average_pool(),
            linear(2),
        ),
        squared,
        (6, 7, 2),
        _numbers(2),
    ),
    "conv, 1-d": Posed(
        serial(conv(3, (3,), padding="valid"), activate(sigmoid), average_pool((2,)), flatten(), linear(2)),
        squared,
        (7, 2),
        _numbers(2),
    ),
    "conv, 3-d": Posed(
        serial(conv(2, (2, 1, 3), stride=(1, 2, 1)), activate(tanh), average_pool(), linear(2)),
        cross_entropy,
        (3, 3, 3, 2),
        _classes(2),
    ),
    "conv of one channel": Posed(
        serial(conv(3, 3, stride=2), activate(tanh), conv(2, 3, padding="valid"), flatten(), linear(3)),
        cross_entropy,
        (7, 6, 1),
        _classes(3),
    ),
    "grouped conv": Posed(
        serial(grouped(conv(2, 3), 2), activate(tanh), average_pool(), linear(2)), squared, (4, 4, 4), _numbers(2)
    ),
    "depthwise conv, columns": Posed(
        serial(
            grouped(conv(1, 3), 3),
            columns((1, activate(tanh)), (2, dense(2, sigmoid))),
            average_pool(2, padding="same"),
            flatten(),
            linear(2),
        ),
        cross_entropy,
        (5, 4, 3),
        _classes(2),
    ),
    "overlapping max pool": Posed(
        serial(conv(2, 3), activate(relu), max_pool(3, stride=2, padding="same"), flatten(), linear(2)),
        cross_entropy,
        (6, 5, 2),
        _classes(2),
    ),
    "residual convs in repeat": Posed(
        serial(conv(3, 3), repeat(residual(serial(conv(3, 3), activate(tanh))), 2), average_pool(), linear(2)),
        cross_entropy,
        (4, 4, 2),
        _classes(2),
    ),
    "remat, layer norm, gelu": Posed(
        serial(remat(conv(3, 3)), layer_norm(), activate(gelu), average_pool(), linear(2)),
        squared,
        (4, 4, 2),
        _numbers(2),
    ),
    "group norm, silu": Posed(
        serial(conv(4, 3), group_norm(2), activate(silu), flatten(), linear(2)), squared, (3, 4, 2), _numbers(2)
    ),
    "rms norm of rows": Posed(serial(dense(5, tanh), rms_norm(), linear(2)), squared, (3,), _numbers(2)),
    "causal transformer": Posed(
        serial(
            embedding(7, 4, dtype=F64),
            positional(),
            repeat(transformer_block(4, 2, causal=True, hidden=5), 2),
            layer_norm(),
            linear(7),
        ),
        each_position(cross_entropy, ignore=-1),
        (5,),
        _classes(7, 5, least=-1),
        tokens=7,
    ),
    "attention of everything": Posed(
        serial(linear(4), residual(attention(4, 1, bias=False)), average_pool(), linear(3)),
        cross_entropy,
        (5, 2),
        _classes(3),
    ),
    "elman": Posed(serial(rnn(4), last(), linear(2)), squared, (5, 3), _numbers(2)),
    "lstm, weighted classes": Posed(
        serial(embedding(6, 3, dtype=F64), lstm(3), linear(5)),
        each_position(smoothed(class_weighted(cross_entropy, [1.0, 2.0, 0.5, 1.0, 3.0]), 0.1)),
        (4,),
        _classes(5, 4),
        tokens=6,
    ),
    "gru in both directions": Posed(
        serial(branches(gru(3), gru(2, reverse=True)), average_pool(), linear(2)), squared, (5, 3), _numbers(2)
    ),
    "repeated lstm": Posed(
        serial(linear(3), repeat(lstm(3), 2), last(), linear(2)), cross_entropy, (4, 2), _classes(2)
    ),
    "a loss at every pixel": Posed(
        serial(conv(3, 3), activate(tanh), linear(2)),
        each_position(binary_cross_entropy, mean=False),
        (3, 4, 1),
        lambda rng, n: rng.integers(0, 2, (n, 3, 4, 2)),
    ),
    "dropout at positions": Posed(
        serial(dense(4, tanh), dropout(0.3), average_pool(), linear(2)), squared, (5, 3), _numbers(2)
    ),
    "tied at positions": Posed(
        serial(tied(serial(dense(2, tanh), prelu(), dense(2, sigmoid)), {2: 0}), last()),
        squared,
        (4, 2),
        _numbers(2),
    ),
    "gates at positions": Posed(
        serial(product(linear(3), dense(3, sigmoid)), last(), linear(2)), squared, (4, 2), _numbers(2)
    ),
}


def given(posed: Posed, n: int = 4, seed: int = 0, dtype: Any = F64) -> tuple[Any, Any, Any, Any]:
    """Arguments (params, state, (x, y), key) of `backprop(net, loss)`, with random params."""
    key, rng = jax.random.key(seed), np.random.default_rng(seed)
    if posed.tokens:
        x = jnp.asarray(rng.integers(posed.tokens, size=(n, *posed.shape)))
    else:
        x = normal(jax.ShapeDtypeStruct((n, *posed.shape), dtype), seed + 1)
    y = posed.target(rng, n)
    params, state = jax.eval_shape(posed.net.init, key, x)
    params = normal(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params), seed + 2, scale=0.5)
    return params, state, (x, jnp.asarray(y, dtype if y.dtype.kind == "f" else y.dtype)), key
