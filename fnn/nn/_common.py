"""Helpers shared by layers and compositions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fnn.core import _checks as checks
from fnn.core.readings import gradient
from fnn.core.types import Array, Layer, Params, State


def without_parameters(label: str) -> Callable[[Array, Any], tuple[Params, State]]:
    """The init of a layer without parameters and state."""

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return (), ()

    return init


def back_to_x(layer: Layer, params: Params, tape: Any, error: Array) -> Array:
    """The error at a layer's input, without readings."""
    return layer.backward(params, tape, error, gradient)[0]


def output(layer: Layer, params: Params, state: State, x: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a layer's output for an input x, traced through its apply."""
    return jax.eval_shape(layer.apply, params, state, jax.ShapeDtypeStruct(x.shape, x.dtype))
