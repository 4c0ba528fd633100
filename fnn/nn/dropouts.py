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
from fnn.nn._common import beside, without_parameters
from fnn.nn._second_order import scaled


class DropoutTape(NamedTuple):
    """The tape of a dropout."""

    mask: Array
    """ξ, or ξ/(1 − p) for the inverted form, [n, o]"""


def _masking(label: str, mask: Callable[[Array, Array], Array], apply: Callable, modes: Modes | None) -> Layer:
    """The layer y = ξ∘x with ξ [n, o] = mask(x, key); backward multiplies by the same ξ."""

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

    init = without_parameters(label)
    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward, curve=curve, modes=modes)


def _dropping(label: str, p: float, training_scale: Any, inference_scale: Any) -> Layer:
    """The layer y = training_scale·ξ∘x in training and y = inference_scale·x in inference, with P(ξ = 0) = p."""

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return jnp.asarray(inference_scale, x.dtype) * x

    def drawn(x: Array, key: Array) -> Array:
        stays = jax.random.bernoulli(key, 1 - p, (x.size,)).reshape(x.shape)  # flat: compiles sooner under vmap
        return jnp.where(stays, jnp.asarray(training_scale, x.dtype), jnp.zeros((), x.dtype))

    def fixed(x: Array, key: Array) -> Array:
        return jnp.full(x.shape, jnp.asarray(inference_scale, x.dtype))

    def thinned(mask: Array) -> Layer:
        def given(x: Array, key: Array) -> Array:
            checks.features(label, x, mask.shape[0])
            return jnp.broadcast_to(beside((mask * training_scale).astype(x.dtype), x), x.shape)

        return _masking(f"thinned({label})", given, apply, None)

    inference = _masking(f"inference_mode({label})", fixed, apply, None)
    return _masking(label, drawn, apply, Modes(inference=inference, keep=1 - p, thinned=thinned))


def _is_probability(p: Any) -> None:
    """Raise unless p is a probability in [0, 1)."""
    checks.fraction("p, the probability of dropping a neuron,", p)


def dropout(p: float) -> Layer:
    """Neurons switched off with probability p in training and multiplied by 1 − p in inference (slide "Dropout").

    Equations::

        training    y_no = ξ_no x_no,  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no
        inference   y_no = (1 − p) x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, independently for each example.

    Raises:
        ValueError: p outside [0, 1).
    """
    _is_probability(p)
    return _dropping(call_repr("dropout", p), p, training_scale=1.0, inference_scale=1 - p)


def inverted_dropout(p: float) -> Layer:
    """Dropout with the correction 1/(1 − p) in training, so that inference is the identity (slide "Inverted Dropout").

    Equations::

        training    y_no = ξ_no x_no/(1 − p),  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no/(1 − p)
        inference   y_no = x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, independently for each example.

    Raises:
        ValueError: p outside [0, 1).
    """
    _is_probability(p)
    return _dropping(call_repr("inverted_dropout", p), p, training_scale=1 / (1 - p), inference_scale=1.0)
