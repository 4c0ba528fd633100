"""Convolutions: neurons that look through windows, the same at every place of an image or a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.readings import at_weights, over_positions
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn import _windows
from fnn.nn._common import beside, weights_of
from fnn.nn.initializers import Initializer
from fnn.nn.neurons import LinearTape


def conv(
    channels: int,
    size: int | Sequence[int],
    *,
    stride: int | Sequence[int] = 1,
    padding: str | Sequence[tuple[int, int]] = "same",
    dilation: int | Sequence[int] = 1,
    w: Initializer | None = None,
    b: Initializer | None = None,
    bias: bool = True,
) -> Layer:
    """A convolution: linear neurons that see a window of an image [n, h, w, c] or a sequence [n, t, c].

    Equations, with ε = ∂L/∂y, p the place of an output, κ the offset within the window, s the stride, r the dilation,
    l the padding before the first place, and u = p s + κ r − l the place seen; all but the channels are vectors::

        y_npo      = Σ_κi x_nui w_κio + b_o
        ∂L/∂w_κio  = Σ_np x_nui ε_npo                       ∂L/∂b_o = Σ_np ε_npo
        ∂L/∂x_nui  = Σ_{p, κ: p s + κ r − l = u} Σ_o ε_npo w_κio

    The three sums are convolutions: of x by w; of ε, spread out by the stride, by w turned around; and of x by ε. The
    weights are the matrix of a neuron, w [k·c, o] for windows of k places, in the order of a kernel of the shape
    ``(*size, c, o)``. Readings of single examples see the windows as positions. A grouped
    convolution is ``grouped(conv(o // g, size), g)``.

    Args:
        channels: number of neurons o.
        size: of the window; an int for a square of an image, or a number for each position axis: (3,) for a sequence.
        stride: places from one window to the next; one number, or one for each position axis.
        padding: zeros around x: "same" for ⌈places/stride⌉ outputs with half of the padding, rounded down, in front;
            "valid" for none; or a pair (before, behind) for each position axis.
        dilation: places from one place of a window to the next.
        w: initializer of the weights [k·c, o]; by default `glorot_uniform()`.
        b: initializer of the biases [o]; by default `zeros()`.
        bias: whether the neurons have biases.

    Returns:
        A layer with params ``{"w": [k·c, o], "b": [o]}``, or ``{"w": [k·c, o]}`` without biases, and no state. It has
        no `curve`; see `fnn.derivatives.ggn_diagonal`.

    Raises:
        ValueError: an x of another rank, of another number of channels, or smaller than the window.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.nn import conv
        >>> layer, x = conv(6, 5, stride=2), jnp.ones((10, 28, 28, 3))
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> layer, params["w"].shape, layer.apply(params, state, x).shape
        (conv(6, 5, stride=2), (75, 6), (10, 14, 14, 6))
    """
    channels = checks.count("channels", channels)
    options = {"stride": (stride, 1), "padding": (padding, "same"), "dilation": (dilation, 1)}
    label = call_repr("conv", channels, size, **options, w=(w, None), b=(b, None), bias=(bias, True))
    of = _windows.windows(label, size, stride, dilation, padding)
    drawn = weights_of(label, channels, w, b, bias)
    names = ("w", "b") if bias else ("w",)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        _windows.fit(label, of, x)
        return drawn(key, of.places * x.shape[-1], x.dtype), ()

    def apply(params: Params, state: State, x: Array) -> Array:
        nn_checks.fits(label, x, params, names, lambda inputs: inputs // of.places)
        S = _products(of, _windows.fit(label, of, x), x, params["w"])
        return S + beside(params["b"], S) if bias else S

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, LinearTape]:
        return apply(params, state, x), state, LinearTape(x)

    def backward(params: Params, tape: LinearTape, error: Array, read: Reading) -> tuple[Array, Any]:
        laid = _windows.fit(label, of, tape.x)
        nn_checks.error(label, error, len(tape.x), *laid.number, channels)
        if read.linear and tape.x.shape[-1] > 1:
            at_w = read.rows(_at_weights(of, laid, tape.x, error)[None])
        else:
            at_w = at_weights(read, _columns(of, laid, tape.x), error)
        readings = {"w": at_w} | ({"b": read.rows(over_positions(error))} if bias else {})
        return _at_inputs(of, laid, error, params["w"], tape.x.shape[1:]), readings

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward)


def _columns(of: _windows.Windows, laid: _windows.Fit, x: Array) -> Array:
    """The windows as rows of inputs [n, *number, k·c]."""
    cuts = _windows.cut(of, laid, x)
    return cuts.reshape(*cuts.shape[:-2], cuts.shape[-2] * cuts.shape[-1])


def _products(of: _windows.Windows, laid: _windows.Fit, x: Array, w: Array) -> Array:
    """Σ_κi x_nui w_κio [n, *number, o]; for a single channel, where windows are small, by a product of matrices."""
    if x.shape[-1] == 1:
        return _columns(of, laid, x) @ w
    kernel = w.reshape(*of.size, x.shape[-1], w.shape[-1])
    axes = _axes(of, kernel=(-1, -2))
    return jax.lax.conv_general_dilated(
        x, kernel, of.stride, laid.padding, rhs_dilation=of.dilation, dimension_numbers=axes
    )


def _at_inputs(of: _windows.Windows, laid: _windows.Fit, error: Array, w: Array, shape: Sequence[int]) -> Array:
    """∂L/∂x [n, *places, c], for x of this shape after its first axis."""
    *places, c = shape
    if c == 1:
        cuts = (error @ w.T).reshape(*error.shape[:-1], of.places, c)
        return _windows.add_up(of, laid, cuts, places)
    kernel = jnp.flip(w.reshape(*of.size, c, w.shape[-1]), range(len(places)))
    padding = [(f - low, f - high) for f, (low, high) in zip(of.reach, laid.padding, strict=True)]
    ones, axes = (1,) * len(places), _axes(of, kernel=(-2, -1))
    return jax.lax.conv_general_dilated(
        error, kernel, ones, padding, lhs_dilation=of.stride, rhs_dilation=of.dilation, dimension_numbers=axes
    )


def _at_weights(of: _windows.Windows, laid: _windows.Fit, x: Array, error: Array) -> Array:
    """∂L/∂w [k·c, o]: channels take the place of examples, and examples that of channels."""
    d = len(of.size)
    places = range(1, d + 1)
    axes = jax.lax.ConvDimensionNumbers((d + 1, 0, *places), (d + 1, 0, *places), (d, d + 1, *range(d)))
    kernel = jax.lax.conv_general_dilated(
        x, error, of.dilation, laid.padding, rhs_dilation=of.stride, dimension_numbers=axes
    )
    return kernel.reshape(of.places * x.shape[-1], error.shape[-1])


def _axes(of: _windows.Windows, kernel: tuple[int, int]) -> jax.lax.ConvDimensionNumbers:
    """The axes of images [n, *places, c], and of kernels [*size, c, o] with those of their outputs and inputs."""
    d = len(of.size)
    images = (0, d + 1, *range(1, d + 1))
    return jax.lax.ConvDimensionNumbers(images, (*(axis + d + 2 for axis in kernel), *range(d)), images)
