"""Layers of neurons: weights, a bias, and in `dense` an activation (slides "Linear models", "BackProp")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fnn import checks
from fnn.initializers import Initializer, glorot_uniform, zeros
from fnn.types import Activation, Array, Layer, Params, Reading, State, written


class LinearTape(NamedTuple):
    """What BackProp keeps of a linear layer."""

    x: Array
    """inputs [n, i]"""


class DenseTape(NamedTuple):
    """What BackProp keeps of a dense layer."""

    x: Array
    """inputs [n, i]"""
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


def linear(width: int, *, w: Initializer | None = None, b: Initializer | None = None) -> Layer:
    """A layer of linear neurons, y = x w + b (slide "Linear models").

    Equations, with ε = ∂L/∂y::

        y_no    = Σ_i x_ni w_io + b_o
        ∂L/∂x_ni = Σ_o ε_no w_io
        ∂L/∂w_io = Σ_n x_ni ε_no
        ∂L/∂b_o  = Σ_n ε_no

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

    return Layer(label, init, lambda params, state, x: pre_activation(params, x), forward, backward)


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
        return activation.value(S), state, DenseTape(x, z=activation.slope(S))

    def backward(params: Params, tape: DenseTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.z.shape)
        at_S = error * tape.z
        readings = {"w": read.outer(tape.x, at_S), "b": read.rows(at_S)}
        return at_S @ params["w"].T, readings

    return Layer(
        label,
        init,
        lambda params, state, x: activation.value(pre_activation(params, x)),
        forward,
        backward,
    )
