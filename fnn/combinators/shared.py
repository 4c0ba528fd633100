"""What combinators share."""

from __future__ import annotations

from typing import Any

import jax

from fnn.types import Layer, Params, State


def output(layer: Layer, params: Params, state: State, x: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a layer's output, from the layer's own apply."""
    return jax.eval_shape(layer.apply, params, state, jax.ShapeDtypeStruct(x.shape, x.dtype))
