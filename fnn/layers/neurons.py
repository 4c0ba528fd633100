"""Layers of neurons: weights, a bias, and in `dense` an activation (slides "Linear models", "BackProp")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.initializers import Initializer, glorot_uniform, zeros
from fnn.layers.second_order import diagonal, plus_diagonal, scaled, through_weights
from fnn.types import Activation, Array, Layer, Params, Reading, State, written


class LinearTape(NamedTuple):
    """What BackProp keeps of a linear layer."""

    x: Array
    """inputs [n, i]"""


class DenseTape(NamedTuple):
    """What BackProp keeps of a dense layer."""

    x: Array
    """inputs [n, i]"""
    S: Array
    """pre-activations [n, o]"""
    z: Array
    """slopes σ'(S) [n, o]"""


def _affine(label: str, width: int, w: Initializer, b: Initializer) -> tuple[Callable, Callable]:
    """init and S(params, x) = x w + b of a layer of weights, for `linear` and `dense`."""
    checks.is_initializer("w", w)
    checks.is_initializer("b", b)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        key_w, key_b = jax.random.split(key)
        shape = (x.shape[1], width)
        return {"w": w(key_w, shape, x.dtype), "b": b(key_b, shape[1:], x.dtype)}, ()

    def pre_activation(params: Params, x: Array) -> Array:
        checks.fits(label, x, params, ("w", "b"))
        return x @ params["w"] + params["b"][None, :]

    return init, pre_activation


def _curve(params: Params, x: Array, c: Array, read: Reading) -> tuple[Array, Any]:
    """From the curvature c at S = x w + b to that at x, and what is read on the way."""
    at_weights = diagonal(c)
    readings = {"w": read.outer(jnp.square(x), at_weights), "b": read.rows(at_weights)}
    return through_weights(c, params["w"]), readings


def linear(width: int, *, w: Initializer | None = None, b: Initializer | None = None) -> Layer:
    """A layer of linear neurons, y = x w + b (slide "Linear models").

    Equations, with ε = ∂L/∂y::

        y_no    = Σ_i x_ni w_io + b_o
        ∂L/∂x_ni = Σ_o ε_no w_io
        ∂L/∂w_io = Σ_n x_ni ε_no               ∂²L/∂w_io² = Σ_n x_ni² c_noo
        ∂L/∂b_o  = Σ_n ε_no                    ∂²L/∂b_o²  = Σ_n c_noo
        ∂²L/∂x_ni∂x_nj = Σ_op w_io c_nop w_jp,     c = ∂²L/∂y²

    The lecture's bias enters as −w_0, a weight of the constant feature x_0 = −1: b = −w_0.

    Args:
        width: number of neurons o.
        w: initializer of the weights [i, o]; `glorot_uniform()` if not given.
        b: initializer of the biases [o]; `zeros()` if not given.

    Returns:
        A layer with params ``{"w": [i, o], "b": [o]}`` and no state.

    Raises:
        ValueError: x that is not [n, i], or of another width than the weights.
        TypeError: x that is not floats of the weights' dtype.
    """
    width = checks.count("width", width)
    label = written("linear", width, w=(w, None), b=(b, None))
    init, pre_activation = _affine(label, width, w or glorot_uniform(), b or zeros())

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, LinearTape]:
        return pre_activation(params, x), state, LinearTape(x)

    def backward(params: Params, tape: LinearTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, tape.x.shape[0], width)
        readings = {"w": read.outer(tape.x, error), "b": read.rows(error)}
        return error @ params["w"].T, readings

    def curve(params: Params, tape: LinearTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        checks.curvature(label, error, c, tape.x.shape[0], width)
        c, readings = _curve(params, tape.x, c, read)
        return error @ params["w"].T, c, readings

    return Layer(label, init, lambda params, state, x: pre_activation(params, x), forward, backward, curve)


def dense(
    width: int,
    activation: Activation,
    *,
    w: Initializer | None = None,
    b: Initializer | None = None,
) -> Layer:
    """A layer of neurons, x^l = σ(S^l) (slides "Fast gradient", "BackProp"): the lecture's recursion itself.

    Equations, with ε = ∂L/∂y, y = x^l, x = x^{l−1}::

        S_no    = Σ_i x_ni w_io + b_o        y_no = σ(S_no)        z_no = σ'(S_no)
        ∂L/∂x_ni = Σ_o ε_no z_no w_io
        ∂L/∂w_io = Σ_n x_ni ε_no z_no
        ∂L/∂b_o  = Σ_n ε_no z_no
        ∂²L/∂S_no∂S_np = z_no c_nop z_np + [o = p] σ''(S_no) ε_no,   c = ∂²L/∂y²;   further as in `linear`

    Args:
        width: number of neurons o.
        activation: σ, such as `tanh`.
        w: initializer of the weights [i, o]; `glorot_uniform()` if not given.
        b: initializer of the biases [o]; `zeros()` if not given.

    Returns:
        A layer with params ``{"w": [i, o], "b": [o]}`` and no state, equal to ``serial(linear(width),
        activate(activation))`` with one tape.

    Raises:
        ValueError: x that is not [n, i], or of another width than the weights.
        TypeError: x that is not floats of the weights' dtype; an activation without derivatives.
    """
    width = checks.count("width", width)
    checks.is_activation("dense", activation)
    label = written("dense", width, activation, w=(w, None), b=(b, None))
    init, pre_activation = _affine(label, width, w or glorot_uniform(), b or zeros())

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, DenseTape]:
        S = pre_activation(params, x)
        return activation.value(S), state, DenseTape(x, S, z=activation.slope(S))

    def backward(params: Params, tape: DenseTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.z.shape)
        at_S = error * tape.z
        readings = {"w": read.outer(tape.x, at_S), "b": read.rows(at_S)}
        return at_S @ params["w"].T, readings

    def curve(params: Params, tape: DenseTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        checks.curvature(label, error, c, *tape.z.shape)
        at_S = plus_diagonal(scaled(c, tape.z), activation.curvature(tape.S) * error)
        c, readings = _curve(params, tape.x, at_S, read)
        return (error * tape.z) @ params["w"].T, c, readings

    return Layer(
        label,
        init,
        lambda params, state, x: activation.value(pre_activation(params, x)),
        forward,
        backward,
        curve,
    )
