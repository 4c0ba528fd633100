"""Elementwise layers: an activation, and one with a trained slope."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.readings import over_positions
from fnn.core.types import Activation, Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import beside, without_parameters
from fnn.nn._second_order import diagonal, plus_diagonal, scaled


class ActivateTape(NamedTuple):
    """The tape of an activation."""

    S: Array
    """inputs [n, o], the pre-activations of the neurons"""
    z: Array
    """slopes σ'(S) [n, o]"""


class PReLUTape(NamedTuple):
    """The tape of a PReLU."""

    x: Array
    """inputs [n, o]"""


def activate(activation: Activation) -> Layer:
    """An activation as a layer, y = σ(x); ∂L/∂x = ε σ'(x), ∂²L/∂x² = σ' c σ' + diag(σ''∘ε).

    Args:
        activation: σ, such as `relu`.

    Returns:
        A layer without parameters and state.

    Raises:
        TypeError: an activation without derivatives.
    """
    nn_checks.is_activation("activate", activation)
    label = f"activate({activation})"

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return activation.value(x)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, ActivateTape]:
        return apply(params, state, x), state, ActivateTape(S=x, z=activation.slope(x))

    def backward(params: Params, tape: ActivateTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.z.shape)
        return error * tape.z, ()

    def curve(params: Params, tape: ActivateTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        nn_checks.curvature(label, error, c, *tape.z.shape)
        return error * tape.z, plus_diagonal(scaled(c, tape.z), activation.curvature(tape.S) * error), ()

    init = without_parameters(label)
    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward, curve=curve)


def prelu(alpha: float = 0.25) -> Layer:
    """Parametric ReLU, y = max(0, x) + α min(0, x) with a trained α for each neuron (slide "ReLU and PReLU").

    Equations, with ε = ∂L/∂y::

        ∂L/∂x_no = ε_no (1 if x_no ≥ 0 else α_o)        at 0 as `jax.nn.leaky_relu`
        ∂L/∂α_o  = Σ_n ε_no min(0, x_no)         ∂²L/∂α_o² = Σ_n c_noo min(0, x_no)²,   c = ∂²L/∂y²

    Args:
        alpha: initial value of every slope; 0.25 as in He et al. 2015.

    Returns:
        A layer with params ``{"alpha": [o]}`` and no state.
    """
    checks.finite("alpha", alpha)
    label = call_repr("prelu", alpha=(alpha, 0.25))

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return {"alpha": jnp.full(x.shape[-1], alpha, x.dtype)}, ()

    def apply(params: Params, state: State, x: Array) -> Array:
        nn_checks.fits(label, x, params, ("alpha",))
        return jnp.where(x >= 0, x, beside(params["alpha"], x) * x)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, PReLUTape]:
        return apply(params, state, x), state, PReLUTape(x)

    def slope(params: Params, x: Array) -> Array:
        return jnp.where(x >= 0, jnp.ones_like(x), beside(params["alpha"], x))

    def negative_part(x: Array) -> Array:
        return jnp.where(x >= 0, jnp.zeros_like(x), x)

    def backward(params: Params, tape: PReLUTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x.shape)
        return error * slope(params, tape.x), {"alpha": read.rows(over_positions(error * negative_part(tape.x)))}

    def curve(params: Params, tape: PReLUTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        nn_checks.curvature(label, error, c, *tape.x.shape)
        z = slope(params, tape.x)
        readings = {"alpha": read.rows(diagonal(c) * jnp.square(negative_part(tape.x)))}
        return error * z, scaled(c, z), readings

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward, curve=curve)
