"""Checks shared by several layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.errors import NeedsMoreExamples
from fnn.core.types import Activation


def fits(where: str, x: Any, params: Any, names: Sequence[str]) -> None:
    """Raise unless x fits a layer's params: a dict with these names, the first leaf as long as x is wide, one dtype."""
    checks.features(where, x)
    if not isinstance(params, dict) or set(params) != set(names):
        got = set(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(f"{where}: expected params {set(names)}, got {got}. Pass the params that its own init made.")
    first = params[names[0]]
    if x.shape[1] != first.shape[0]:
        raise ValueError(
            f"{where} was initialised for {first.shape[0]} features, got {x.shape[1]} (x has shape {x.shape}). "
            "Initialise the network with an x of this width."
        )
    if x.dtype != first.dtype:
        raise TypeError(
            f"{where} has {first.dtype} parameters, got {x.dtype} examples. Convert by "
            f"x.astype(jnp.{first.dtype}), or initialise with an x of {x.dtype}."
        )


def error(where: str, got: Any, n: int, width: int) -> None:
    """Raise ValueError unless the error at a layer has the shape of the layer's output."""
    if jnp.shape(got) != (n, width):
        raise ValueError(
            f"{where}.backward: expected an error of the output's shape {(n, width)}, got {jnp.shape(got)}. "
            "Pass ∂L/∂y for the y of the forward pass that left this tape."
        )


def curvature(where: str, error: Any, c: Any, n: int, width: int) -> None:
    """Raise ValueError unless the error and the curvature at a layer fit; the latter a diagonal or one matrix each."""
    if jnp.shape(error) != (n, width) or jnp.shape(c) not in ((n, width), (n, width, width)):
        raise ValueError(
            f"{where}.curve: expected an error of the output's shape {(n, width)} and a curvature {(n, width)} (the "
            f"diagonal) or {(n, width, width)} (exact), got {jnp.shape(error)} and {jnp.shape(c)}. Pass ∂L/∂y and "
            "∂²L/∂y² for the y of the forward pass that left this tape."
        )


def batch_of_several(where: str, x: Any) -> int:
    """The number of examples of x; raises NeedsMoreExamples if it is too small for batch statistics."""
    if x.shape[0] < 2:
        raise NeedsMoreExamples(
            f"{where}: expected at least 2 examples for its batch statistics in training, got {x.shape[0]}. "
            "Enlarge the batch, or use net.apply for inference."
        )
    return x.shape[0]


def flag(name: str, value: Any) -> None:
    """Raise TypeError unless the value is a bool; 0 and 1 are not."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {checks.shown(value)}")


def is_activation(where: str, value: Any) -> None:
    """Raise TypeError unless the value is an activation, which has its derivatives."""
    if not isinstance(value, Activation):
        raise TypeError(
            f"{where}: expected an fnn Activation such as fnn.tanh, got {checks.shown(value)}. Give a function of your "
            "own its derivatives: Activation(label, value, slope, curvature)."
        )


def parts(where: str, expected: int, **trees: Any) -> None:
    """Raise unless the params and the state of a composite are plain tuples with one entry per part."""
    for name, tree in trees.items():
        wanted = f"{where}: expected its {name} as a tuple with one entry for each of its {expected} parts"
        if type(tree) is not tuple:
            raise TypeError(f"{wanted}, got {type(tree).__name__}. Pass the {name} that its own init made.")
        if len(tree) != expected:
            raise ValueError(f"{wanted}, got {len(tree)} entries. Pass the {name} that its own init made.")


def some_layers(where: str, values: Sequence[Any]) -> None:
    """Raise unless there is at least one value and all are layers."""
    if not values:
        raise ValueError(f"{where}: expected at least one layer, got none. Pass serial() for the input itself.")
    for value in values:
        checks.is_layer(where, value)


def keeps_shape(where: str, x: Any, y: Any) -> None:
    """Raise ValueError unless a layer's output y has the shape and dtype of its input x."""
    if x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(
            f"{where}: expected a layer that keeps the shape, got {x.shape} {x.dtype} in and {y.shape} {y.dtype} out. "
            f"Make its last layer {x.shape[-1]} wide."
        )


def same_outputs(where: str, one: Any, other: Any) -> None:
    """Raise ValueError unless two layers of one input have outputs of the same shape and dtype."""
    if one.shape != other.shape or one.dtype != other.dtype:
        raise ValueError(
            f"{where}: expected two outputs of the same shape, got {one.shape} {one.dtype} and {other.shape} "
            f"{other.dtype}. Give both layers the same number of neurons."
        )


def scores(where: str, a: Any) -> None:
    """Raise ValueError unless a is a network's output [n, M] of floats."""
    if jnp.ndim(a) != 2 or not jnp.issubdtype(jnp.result_type(a), jnp.floating):
        raise ValueError(
            f"{where}: expected the network's output a as floats [n, M], got {jnp.result_type(a)} of shape "
            f"{jnp.shape(a)}. Pass a batch of outputs."
        )
