"""Layers of neurons: weights, an optional bias, and in `dense` an activation (slides "Linear models", "BackProp")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.readings import at_weights, over_positions
from fnn.core.types import Activation, Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import beside, weights_of
from fnn.nn._second_order import diagonal, plus_diagonal, scaled, through_weights
from fnn.nn.initializers import Initializer


class LinearTape(NamedTuple):
    """The tape of a linear layer."""

    x: Array
    """inputs [n, …, i]"""


class DenseTape(NamedTuple):
    """The tape of a dense layer."""

    x: Array
    """inputs [n, …, i]"""
    S: Array
    """pre-activations [n, …, o]"""
    z: Array
    """slopes σ'(S) [n, …, o]"""


def _affine(
    label: str, width: int, w: Initializer | None, b: Initializer | None, bias: bool
) -> tuple[Callable, Callable]:
    """The functions init and S(params, x) = x w + b, or x w without a bias, shared by `linear` and `dense`."""
    drawn = weights_of(label, width, w, b, bias)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return drawn(key, x.shape[-1], x.dtype), ()

    def pre_activation(params: Params, x: Array) -> Array:
        nn_checks.fits(label, x, params, ("w", "b") if bias else ("w",))
        S = x @ params["w"]
        return S + beside(params["b"], S) if bias else S

    return init, pre_activation


def _read(params: Params, read: Reading, x: Array, at_S: Array) -> Any:
    """The readings at w, from x_n [i] and the error at S_n [o], and at b, if there is one, from the error at S_n."""
    at_w = {"w": at_weights(read, x, at_S)}
    return at_w | {"b": read.rows(over_positions(at_S))} if "b" in params else at_w


def _curve(params: Params, x: Array, c: Array, read: Reading) -> tuple[Array, Any]:
    """The curvature at x from the curvature c at S = x w + b, and the readings at the weights."""
    readings = _read(params, read, jnp.square(x), diagonal(c))
    return through_weights(c, params["w"]), readings


def linear(width: int, *, w: Initializer | None = None, b: Initializer | None = None, bias: bool = True) -> Layer:
    """A layer of linear neurons, y = x w + b (slide "Linear models").

    Equations, with ε = ∂L/∂y::

        y_no    = Σ_i x_ni w_io + b_o
        ∂L/∂x_ni = Σ_o ε_no w_io
        ∂L/∂w_io = Σ_n x_ni ε_no               ∂²L/∂w_io² = Σ_n x_ni² c_noo
        ∂L/∂b_o  = Σ_n ε_no                    ∂²L/∂b_o²  = Σ_n c_noo
        ∂²L/∂x_ni∂x_nj = Σ_op w_io c_nop w_jp,     c = ∂²L/∂y²

    The lecture's bias is −w_0, with w_0 the weight of the constant feature x_0 = −1: b = −w_0. The slide's linear
    models have none, a(x) = ⟨w, x⟩; that is ``bias=False``.

    At the positions p of a sequence or an image the neurons are the same, y_npo = Σ_i x_npi w_io + b_o, and the sums
    over n run over n and p.

    Args:
        width: number of neurons o.
        w: initializer of the weights [i, o]; by default `glorot_uniform()`.
        b: initializer of the biases [o]; by default `zeros()`.
        bias: whether the neurons have biases; y = x w without them. The weights drawn are the same either way.

    Returns:
        A layer with params ``{"w": [i, o], "b": [o]}``, or ``{"w": [i, o]}`` without biases, and no state.

    Raises:
        ValueError: an x that is not [n, …, i] or does not have the weights' width; a ``b`` with ``bias=False``.
        TypeError: an x that is not floats of the weights' dtype; a ``bias`` that is neither True nor False.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = linear(2, bias=False)
        >>> params, state = layer.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> layer, {name: leaf.shape for name, leaf in params.items()}
        (linear(2, bias=False), {'w': (3, 2)})
        >>> layer.apply(params, state, jnp.zeros((1, 3)))
        Array([[0., 0.]], dtype=float32)
    """
    width = checks.count("width", width)
    label = call_repr("linear", width, w=(w, None), b=(b, None), bias=(bias, True))
    init, pre_activation = _affine(label, width, w, b, bias)

    def apply(params: Params, state: State, x: Array) -> Array:
        return pre_activation(params, x)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, LinearTape]:
        return pre_activation(params, x), state, LinearTape(x)

    def backward(params: Params, tape: LinearTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x.shape[:-1], width)
        readings = _read(params, read, tape.x, error)
        return error @ params["w"].T, readings

    def curve(params: Params, tape: LinearTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        nn_checks.curvature(label, error, c, *tape.x.shape[:-1], width)
        c, readings = _curve(params, tape.x, c, read)
        return error @ params["w"].T, c, readings

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward, curve=curve)


def dense(
    width: int,
    activation: Activation,
    *,
    w: Initializer | None = None,
    b: Initializer | None = None,
    bias: bool = True,
) -> Layer:
    """A layer of neurons, x^l = σ(S^l) (slides "Fast gradient", "BackProp"): the lecture's recursion itself.

    Equations, with ε = ∂L/∂y, y = x^l, x = x^{l−1}::

        S_no    = Σ_i x_ni w_io + b_o        y_no = σ(S_no)        z_no = σ'(S_no)
        ∂L/∂x_ni = Σ_o ε_no z_no w_io
        ∂L/∂w_io = Σ_n x_ni ε_no z_no
        ∂L/∂b_o  = Σ_n ε_no z_no
        ∂²L/∂S_no∂S_np = z_no c_nop z_np + [o = p] σ''(S_no) ε_no,   c = ∂²L/∂y²;   further as in `linear`

    Errata. Slide "Differentiating a superposition": with W^l of size (H_{l−1} + 1) × H_l the matrix form
    x^l = σ^l(W^l x^{l−1}) needs Wᵀ; here x is a row, and S = x w. Slide "L layers": H_0 = n is printed with features
    j = 0 … d, and H_L = M with outputs a_m from m = 0; both start at 1, as H_0 = d and H_L = M require. The index 0 is
    that of the constant x_0 = −1 prepended to a layer's input; no output has it.

    Args:
        width: number of neurons o.
        activation: σ, such as `tanh`.
        w: initializer of the weights [i, o]; by default `glorot_uniform()`.
        b: initializer of the biases [o]; by default `zeros()`.
        bias: whether the neurons have biases; S = x w without them. The weights drawn are the same either way.

    Returns:
        A layer with params ``{"w": [i, o], "b": [o]}``, or ``{"w": [i, o]}`` without biases, and no state, equal to
        ``serial(linear(width), activate(activation))`` with one tape.

    Raises:
        ValueError: an x that is not [n, …, i] or does not have the weights' width; a ``b`` with ``bias=False``.
        TypeError: an x that is not floats of the weights' dtype; an activation without derivatives; a ``bias`` that is
            neither True nor False.
    """
    width = checks.count("width", width)
    nn_checks.is_activation("dense", activation)
    label = call_repr("dense", width, activation, w=(w, None), b=(b, None), bias=(bias, True))
    init, pre_activation = _affine(label, width, w, b, bias)

    def apply(params: Params, state: State, x: Array) -> Array:
        return activation.value(pre_activation(params, x))

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, DenseTape]:
        S = pre_activation(params, x)
        return activation.value(S), state, DenseTape(x, S, z=activation.slope(S))

    def backward(params: Params, tape: DenseTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.z.shape)
        at_S = error * tape.z
        readings = _read(params, read, tape.x, at_S)
        return at_S @ params["w"].T, readings

    def curve(params: Params, tape: DenseTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        nn_checks.curvature(label, error, c, *tape.z.shape)
        at_S = plus_diagonal(scaled(c, tape.z), activation.curvature(tape.S) * error)
        c, readings = _curve(params, tape.x, at_S, read)
        return (error * tape.z) @ params["w"].T, c, readings

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward, curve=curve)
