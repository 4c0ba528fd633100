"""Convolutions against loops over places, written from their equations."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Layer, gradient, linear, second_derivatives, serial, squared
from fnn.core import Unsupported
from fnn.nn import conv, flatten
from tests.checkers import check_backward, check_close
from tests.positions import LAYERS, check_all_laws, each_layer_of, given_layer


@each_layer_of("convolutions")
def test_backward_is_jax_vjp(layer: Layer, shape: tuple[int, ...]) -> None:
    check_backward(layer, *given_layer(layer, shape))


@pytest.mark.parametrize("name", ["conv with stride and dilation"])
def test_all_laws_hold(name: str) -> None:
    check_all_laws(*LAYERS["convolutions"][name])


def _windows(x: np.ndarray, size: Any, stride: Any, dilation: Any, pairs: Any, fill: float) -> Any:
    """The windows of one image [h, w, c], by the place of their output: loops over places."""
    padded = np.pad(x, [*pairs, (0, 0)], constant_values=fill)
    reach = [(k - 1) * r + 1 for k, r in zip(size, dilation, strict=True)]
    counts = [(m - f) // s + 1 for m, f, s in zip(padded.shape, reach, stride, strict=False)]
    for p in itertools.product(*map(range, counts)):
        ends = [slice(i * s, i * s + f, r) for i, s, f, r in zip(p, stride, reach, dilation, strict=True)]
        yield p, padded[tuple(ends)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("size", "stride", "dilation", "pairs"),
    [
        ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
        ((2, 3), (2, 3), (1, 2), ((0, 1), (2, 4))),
        ((2, 2), (3, 1), (2, 1), ((0, 0), (0, 0))),
    ],
)
def test_conv_is_a_neuron_that_looks_through_windows(
    channels: int, size: Any, stride: Any, dilation: Any, pairs: Any
) -> None:
    layer = conv(4, size, stride=stride, dilation=dilation, padding=pairs)
    params, state, x, _ = given_layer(layer, (6, 9, channels))
    y = np.asarray(layer.apply(params, state, x))
    w, b = (np.asarray(params[name]) for name in ("w", "b"))
    for n in range(len(x)):
        seen = []
        for p, window in _windows(np.asarray(x[n]), size, stride, dilation, pairs, 0.0):
            np.testing.assert_allclose(y[n][p], window.reshape(-1) @ w + b, rtol=1e-12, atol=1e-12)
            seen.append(p)
        assert sorted(seen) == list(np.ndindex(*y.shape[1:-1]))


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("places", [4, 5, 7])
def test_same_is_the_padding_of_jax(places: int, stride: int) -> None:
    layer = conv(2, (3,), stride=stride)
    params, state, x, _ = given_layer(layer, (places, 2))
    want = jax.lax.conv_general_dilated(
        x, params["w"].reshape(3, 2, 2), (stride,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    check_close(layer.apply(params, state, x), want + params["b"][None, None, :])


def test_an_error_of_another_shape_is_told() -> None:
    layer = conv(2, 3)
    params, _, x, _ = given_layer(layer, (4, 4, 1))
    _, _, tape = layer.forward(params, (), x, jax.random.key(0))
    with pytest.raises(ValueError, match=r"an error of the output's shape \(3, 4, 4, 2\)"):
        layer.backward(params, tape, jnp.ones((3, 4, 2)), gradient)


def test_second_derivatives_name_what_to_use() -> None:
    net = serial(conv(2, 3), flatten(), linear(1))
    params, state, x, key = given_layer(net, (4, 4, 1))
    with pytest.raises(Unsupported, match="ggn_diagonal"):
        second_derivatives(net, squared)(params, state, (x, x[:, 0, 0]), key)


def _conv(*shape: int) -> None:
    conv(3, 3).init(jax.random.key(0), jnp.ones(shape))


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "rows for an image": (lambda: _conv(2, 4), ValueError, r"got shape \(2, 4\)"),
    "a window too large": (
        lambda: conv(3, 9, padding="valid").init(jax.random.key(0), jnp.ones((2, 4, 4, 1))),
        ValueError,
        "at least one window",
    ),
    "other channels": (
        lambda: conv(3, 2).apply({"w": jnp.ones((4, 3)), "b": jnp.ones(3)}, (), jnp.ones((2, 4, 4, 3))),
        ValueError,
        "initialised for 1 features",
    ),
    "an unknown padding": (lambda: conv(3, 3, padding="SAME"), ValueError, "padding 'same', 'valid'"),
    "no size": (lambda: conv(3, ()), ValueError, "in at least one dimension"),
    "a stride too many": (lambda: conv(3, 3, stride=(1, 1, 1)), ValueError, "a stride for each of 2 dimensions"),
    "b without bias": (lambda: conv(3, 3, bias=False, b=fnn.nn.zeros()), ValueError, "no b for a layer"),
}


@pytest.mark.parametrize(("call", "error", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_told(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
