"""Neurons switched off at random in training (slides "Dropout", "Inverted Dropout")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.types import Array, Layer, Modes, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import without_parameters
from fnn.nn._second_order import scaled


class DropoutTape(NamedTuple):
    """What BackProp keeps of a dropout."""

    mask: Array
    """ξ, or ξ/(1 − p) for the inverted form, [n, o]"""


def _masking(label: str, mask: Callable[[Array, Array], Array], apply: Callable, modes: Modes | None) -> Layer:
    """Y = ξ∘x with ξ [n, o] = mask(x, key), which is as linear backwards as forwards."""

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, DropoutTape]:
        checks.features(label, x)
        tape = DropoutTape(mask(x, key))
        return tape.mask * x, state, tape

    def backward(params: Params, tape: DropoutTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.mask.shape)
        return error * tape.mask, ()

    def curve(params: Params, tape: DropoutTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        nn_checks.curvature(label, error, c, *tape.mask.shape)
        return error * tape.mask, scaled(c, tape.mask), ()

    return Layer(label, without_parameters(label), apply, forward, backward, curve, modes=modes)


def _dropping(label: str, p: float, kept: Callable[[Any], Any], inferred: Callable[[Any], Any]) -> Layer:
    """Y = ξ·kept(1 − p)·x in training and y = inferred(1 − p)·x in application, P(ξ = 0) = p."""
    checks.fraction("p, the probability of dropping a neuron,", p)

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return jnp.asarray(inferred(1 - p), x.dtype) * x

    def drawn(x: Array, key: Array) -> Array:
        stays = jax.random.bernoulli(key, 1 - p, (x.size,)).reshape(x.shape)  # flat: compiles sooner under vmap
        return jnp.where(stays, jnp.asarray(kept(1 - p), x.dtype), jnp.zeros((), x.dtype))

    def rule(x: Array, key: Array) -> Array:
        return jnp.full(x.shape, jnp.asarray(inferred(1 - p), x.dtype))

    def thinned(mask: Array) -> Layer:
        def given(x: Array, key: Array) -> Array:
            checks.features(label, x, mask.shape[0])
            return jnp.broadcast_to((mask * kept(1 - p)).astype(x.dtype)[None, :], x.shape)

        return _masking(f"thinned({label})", given, apply, None)

    modes = Modes(_masking(f"inference_mode({label})", rule, apply, None), 1 - p, thinned)
    return _masking(label, drawn, apply, modes)


def dropout(p: float) -> Layer:
    """Switch each neuron off with probability p in training, multiply by 1 − p in application (slide "Dropout").

    Equations::

        training      y_no = ξ_no x_no,  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no
        application   y_no = (1 − p) x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, anew for each example.

    Raises:
        ValueError: p outside [0, 1).
    """
    return _dropping(call_repr("dropout", p), p, kept=lambda keep: 1.0, inferred=lambda keep: keep)


def inverted_dropout(p: float) -> Layer:
    """Dropout whose inference needs neither a correction nor p (slide "Inverted Dropout").

    Equations::

        training      y_no = ξ_no x_no/(1 − p),  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no/(1 − p)
        application   y_no = x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, anew for each example.

    Raises:
        ValueError: p outside [0, 1).
    """
    return _dropping(call_repr("inverted_dropout", p), p, kept=lambda keep: 1 / keep, inferred=lambda keep: 1.0)
