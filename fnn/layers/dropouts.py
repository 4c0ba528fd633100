"""Neurons switched off at random in training (slides "Dropout", "Inverted Dropout")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.layers.shared import without_parameters
from fnn.types import Array, Layer, Params, Reading, State, written


class DropoutTape(NamedTuple):
    """What BackProp keeps of a dropout."""

    mask: Array
    """ξ, or ξ/(1 − p) for the inverted form, [n, o]"""


def _dropping(label: str, p: float, kept: Callable[[Any], Any], applied: Callable[[Any], Any]) -> Layer:
    """Y = ξ·kept(1 − p)·x in training and y = applied(1 − p)·x in application, P(ξ = 0) = p."""
    checks.fraction("p, the probability of dropping a neuron,", p)

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return jnp.asarray(applied(1 - p), x.dtype) * x

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, DropoutTape]:
        checks.features(label, x)
        kept_neurons = jax.random.bernoulli(key, 1 - p, x.shape)
        mask = jnp.where(kept_neurons, jnp.asarray(kept(1 - p), x.dtype), jnp.zeros((), x.dtype))
        return mask * x, state, DropoutTape(mask)

    def backward(params: Params, tape: DropoutTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.mask.shape)
        return error * tape.mask, ()

    return Layer(label, without_parameters(label), apply, forward, backward)


def dropout(p: float) -> Layer:
    """Switch each neuron off with probability p in training, multiply by 1 − p in application (slide "Dropout").

    Equations::

        training      y_no = ξ_no x_no,  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no
        application   y_no = (1 − p) x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, anew for each object.

    Raises:
        ValueError: p outside [0, 1).
    """
    return _dropping(written("dropout", p), p, kept=lambda keep: 1.0, applied=lambda keep: keep)


def inverted_dropout(p: float) -> Layer:
    """Dropout whose application stage needs neither a correction nor p (slide "Inverted Dropout").

    Equations::

        training      y_no = ξ_no x_no/(1 − p),  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no/(1 − p)
        application   y_no = x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, anew for each object.

    Raises:
        ValueError: p outside [0, 1).
    """
    return _dropping(written("inverted_dropout", p), p, kept=lambda keep: 1 / keep, applied=lambda keep: 1.0)
