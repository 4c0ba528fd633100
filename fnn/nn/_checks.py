"""Checks shared by several layers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.errors import NeedsMoreExamples, Unsupported
from fnn.core.types import Activation


def fits(
    where: str, x: Any, params: Any, names: Sequence[str], width_of: Callable[[int], int] = lambda length: length
) -> None:
    """Raise unless x fits a layer's params: a dict with these names, one dtype, and the first leaf for x of this width.

    Args:
        where: the layer.
        x: its input.
        params: its params.
        names: of the params.
        width_of: the width of x, from the length of the first leaf; by default that length itself.
    """
    checks.features(where, x)
    if not isinstance(params, dict) or set(params) != set(names):
        got = set(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(f"{where}: expected params {set(names)}, got {got}. Pass the params that its own init made.")
    first = params[names[0]]
    width = width_of(first.shape[0])
    if x.shape[-1] != width:
        raise ValueError(
            f"{where} was initialised for {width} features, got {x.shape[-1]} (x has shape {x.shape}). "
            "Initialise the network with an x of this width."
        )
    if x.dtype != first.dtype:
        raise TypeError(
            f"{where} has {first.dtype} parameters, got {x.dtype} examples. Convert by "
            f"x.astype(jnp.{first.dtype}), or initialise with an x of {x.dtype}."
        )


def error(where: str, got: Any, *shape: int) -> None:
    """Raise ValueError unless the error at a layer has the shape of the layer's output."""
    if jnp.shape(got) != shape:
        raise ValueError(
            f"{where}.backward: expected an error of the output's shape {shape}, got {jnp.shape(got)}. "
            "Pass ∂L/∂y for the y of the forward pass that left this tape."
        )


def curvature(where: str, error: Any, c: Any, *shape: int) -> None:
    """Raise unless the error and the curvature at a layer of rows fit; the latter a diagonal or one matrix each."""
    rows_only(f"{where}.curve", shape)
    n, width = shape
    if jnp.shape(error) != (n, width) or jnp.shape(c) not in ((n, width), (n, width, width)):
        raise ValueError(
            f"{where}.curve: expected an error of the output's shape {(n, width)} and a curvature {(n, width)} (the "
            f"diagonal) or {(n, width, width)} (exact), got {jnp.shape(error)} and {jnp.shape(c)}. Pass ∂L/∂y and "
            "∂²L/∂y² for the y of the forward pass that left this tape."
        )


def rows_only(where: str, shape: tuple[int, ...]) -> None:
    """Raise Unsupported for outputs with positions, whose second derivatives no pass carries."""
    if len(shape) != 2:
        raise Unsupported(
            f"{where}: expected outputs [n, features] for a pass with second derivatives, got shape {shape}. Use "
            "ggn_diagonal, ggn_vector_product or hessian_vector_product of fnn.derivatives."
        )


def sequence(where: str, x: Any) -> None:
    """Raise unless x is a batch of sequences [n, t, features] of floats."""
    checks.features(where, x)
    if len(x.shape) != 3:
        raise ValueError(
            f"{where}: expected sequences [n, t, features], got shape {x.shape}. Give x one position axis, the steps."
        )


def batch_of_several(where: str, x: Any) -> int:
    """The number of values of each feature; raises NeedsMoreExamples if it is too small for batch statistics."""
    values = math.prod(x.shape[:-1])
    if values < 2:
        raise NeedsMoreExamples(
            f"{where}: expected at least 2 examples for its batch statistics in training, got {values}. "
            "Enlarge the batch, or use net.apply for inference."
        )
    return values


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


def is_initializer(name: str, value: Any) -> None:
    """Raise TypeError unless the value is a function (key, shape, dtype) -> array."""
    try:
        inspect.signature(value).bind("key", "shape", "dtype")
    except TypeError:
        called = getattr(value, "__name__", None)
        hint = f"Call the factory: {name}={called}()." if callable(value) else "Use one such as fnn.nn.he()."
        expected = "an initializer (key, shape, dtype) -> array"
        raise TypeError(f"{name} must be {expected}, got {checks.shown(value)}. {hint}") from None


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
        has_positions = jnp.ndim(a) > 2
        hint = "End the network with flatten(), average_pool() or last(), or take each_position(loss)."
        raise ValueError(
            f"{where}: expected the network's output a as floats [n, M], got {jnp.result_type(a)} of shape "
            f"{jnp.shape(a)}. {hint if has_positions else 'Pass a batch of outputs.'}"
        )
