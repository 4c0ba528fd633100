"""Convolutions and pooling against loops over places, written from their equations."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Layer, gradient, grouped, linear
from fnn.core import Unsupported
from fnn.nn import average_pool, conv, flatten, last, max_pool
from fnn.testing import check_layer
from fnn.testing._trees import normal
from tests.checkers import check_backward, check_close

LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "conv": (conv(3, 3), (5, 4, 2)),
    "conv, valid": (conv(2, (2, 3), padding="valid"), (4, 5, 3)),
    "conv with stride and dilation": (conv(2, 3, stride=2, dilation=(1, 2), padding=((1, 0), (2, 4))), (6, 7, 2)),
    "conv that leaves places over": (conv(2, 2, stride=3, padding="valid", bias=False), (6, 7, 2)),
    "conv of sequences": (conv(3, (3,), stride=(2,)), (6, 2)),
    "conv of volumes": (conv(2, (2, 1, 2)), (3, 2, 3, 2)),
    "conv of one channel": (conv(3, 3, stride=2), (5, 6, 1)),
    "conv of one place": (conv(3, 1), (3, 3, 2)),
    "grouped conv": (grouped(conv(2, 3), 2), (4, 3, 4)),
    "max_pool": (max_pool(2), (4, 5, 2)),
    "max_pool that overlaps": (max_pool(3, stride=2, padding="same"), (5, 4, 2)),
    "max_pool of tiles": (max_pool((2, 3)), (4, 6, 2)),
    "average_pool": (average_pool(2), (4, 6, 2)),
    "average_pool that overlaps": (average_pool(3, stride=1, padding=((1, 1), (2, 0))), (4, 4, 2)),
    "average_pool of sequences": (average_pool((3,)), (7, 2)),
    "average_pool of everything": (average_pool(), (3, 4, 2)),
    "flatten": (flatten(), (3, 2, 2)),
    "last": (last(), (4, 3)),
}

each_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS.keys())


def _given(layer: Layer, shape: tuple[int, ...], n: int = 3) -> tuple[Any, Any, Any, Any]:
    x = normal(jax.ShapeDtypeStruct((n, *shape), jnp.float64), 1)
    params, state = jax.eval_shape(layer.init, jax.random.key(0), x)
    return normal(params, 2), state, x, jax.random.key(0)


@each_layer
def test_backward_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *_given(layer, shape))


@pytest.mark.parametrize("name", ["conv with stride and dilation", "max_pool that overlaps", "average_pool"])
def test_all_laws_hold(name: str) -> None:
    layer, shape = LAYERS[name]
    check_layer(layer, normal(jax.ShapeDtypeStruct((3, *shape), jnp.float64), 1)).raise_if_failed()


def _windows(x: np.ndarray, size: Any, stride: Any, dilation: Any, pairs: Any, fill: float) -> Any:
    """The windows of one image [h, w, c], by the place of their output: loops over places."""
    padded = np.pad(x, [*pairs, (0, 0)], constant_values=fill)
    reach = [(k - 1) * r + 1 for k, r in zip(size, dilation, strict=True)]
    counts = [(m - f) // s + 1 for m, f, s in zip(padded.shape, reach, stride, strict=False)]
    for p in itertools.product(*map(range, counts)):
        ends = [slice(i * s, i * s + f, r) for i, s, f, r in zip(p, stride, reach, dilation, strict=True)]
        yield p, counts, padded[tuple(ends)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "stride", "dilation", "pairs"),
    [((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))), ((2, 3), (2, 3), (1, 2), ((0, 1), (2, 4))), ((2, 2), (3, 1), (2, 1), ((0, 0), (0, 0)))],
)
def test_conv_is_a_neuron_that_looks_through_windows(channels: int, size: Any, stride: Any, dilation: Any, pairs: Any) -> None:
    layer = conv(4, size, stride=stride, dilation=dilation, padding=pairs)
    params, state, x, _ = _given(layer, (6, 9, channels))
    y = np.asarray(layer.apply(params, state, x))
    w, b = (np.asarray(params[name]) for name in ("w", "b"))
    for n in range(len(x)):
        seen = 0
        for p, counts, window in _windows(np.asarray(x[n]), size, stride, dilation, pairs, 0.0):
            np.testing.assert_allclose(y[n][p], window.reshape(-1) @ w + b, rtol=1e-12, atol=1e-12)
            seen += 1
        assert y.shape[1:-1] == tuple(counts) and seen == np.prod(counts)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("places", [4, 5, 7])
def test_same_is_the_padding_of_jax(places: int, stride: int) -> None:
    layer = conv(2, (3,), stride=stride)
    params, state, x, _ = _given(layer, (places, 2))
    want = jax.lax.conv_general_dilated(
        x, params["w"].reshape(3, 2, 2), (stride,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    check_close(layer.apply(params, state, x), want + params["b"][None, None, :])


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


BAD: dict[str, tuple[Any, str]] = {
    "rows for an image": (lambda: conv(3, 3).init(jax.random.key(0), jnp.ones((2, 4))), r"got shape \(2, 4\)"),
    "a window too large": (lambda: conv(3, 9, padding="valid").init(jax.random.key(0), jnp.ones((2, 4, 4, 1))), "at least one window"),
    "other channels": (lambda: conv(3, 2).apply({"w": jnp.ones((4, 3)), "b": jnp.ones(3)}, (), jnp.ones((2, 4, 4, 3))), "initialised for 1 features"),
    "an unknown padding": (lambda: conv(3, 3, padding="SAME"), "padding 'same', 'valid'"),
    "padding of a whole window": (lambda: max_pool(2, padding=((2, 0), (0, 0))), r"from 0 to \[1, 1\]"),
    "a stride too many": (lambda: conv(3, 3, stride=(1, 1, 1)), "a stride for each of 2 dimensions"),
    "a stride without a size": (lambda: average_pool(stride=2), "a size of the windows"),
    "an image for a sequence": (lambda: last().apply((), (), jnp.ones((2, 3, 4, 1))), r"sequences \[n, t, features\]"),
    "b without bias": (lambda: conv(3, 3, bias=False, b=lambda key, shape, dtype: jnp.zeros(shape)), "no b for a layer"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_an_error_of_another_shape_is_told() -> None:
    layer = conv(2, 3)
    params, _, x, _ = _given(layer, (4, 4, 1))
    _, _, tape = layer.forward(params, (), x, jax.random.key(0))
    with pytest.raises(ValueError, match=r"an error of the output's shape \(3, 4, 4, 2\)"):
        layer.backward(params, tape, jnp.ones((3, 4, 2)), gradient)


def test_second_derivatives_name_what_to_use() -> None:
    from fnn import second_derivatives, serial, squared

    net = serial(conv(2, 3), flatten(), linear(1))
    params, state, x, key = _given(net, (4, 4, 1))
    with pytest.raises(Unsupported, match="ggn_diagonal"):
        second_derivatives(net, squared)(params, state, (x, x[:, 0, 0]), key)
