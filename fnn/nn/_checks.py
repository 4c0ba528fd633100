"""Checks that several layers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.errors import NeedsMoreExamples
from fnn.core.types import Activation


def fits(where: str, x: Any, params: Any, names: Sequence[str]) -> None:
    """Examples that fit a layer's own params: these leaves, the first of them as long as x is wide, one dtype."""
    checks.features(where, x)
    if not isinstance(params, dict) or set(params) != set(names):
        got = set(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(f"{where} takes params {set(names)}, got {got}; pass the params that its own init made")
    first = params[names[0]]
    if x.shape[1] != first.shape[0]:
        raise ValueError(
            f"{where} was initialised for {first.shape[0]} features, got {x.shape[1]} (x has shape {x.shape}); "
            "initialise the network with an x of this width"
        )
    if x.dtype != first.dtype:
        raise TypeError(
            f"{where} has {first.dtype} parameters and got {x.dtype} examples; convert one: "
            f"x.astype(jnp.{first.dtype}), or initialise with an x of {x.dtype}"
        )


def error(where: str, got: Any, n: int, width: int) -> None:
    """The error that arrives at a layer has the shape of what the layer put out."""
    if jnp.shape(got) != (n, width):
        raise ValueError(
            f"{where}.backward expects an error of its output's shape {(n, width)}, got {jnp.shape(got)}; "
            "pass ∂L/∂y for the y of the forward pass that left this tape"
        )


def curvature(where: str, error: Any, c: Any, n: int, width: int) -> None:
    """The error and the curvature that arrive at a layer, either the diagonal or one matrix an example."""
    if jnp.shape(error) != (n, width) or jnp.shape(c) not in ((n, width), (n, width, width)):
        raise ValueError(
            f"{where}.curve expects an error of its output's shape {(n, width)} and a curvature {(n, width)} (the "
            f"diagonal) or {(n, width, width)} (exact), got {jnp.shape(error)} and {jnp.shape(c)}; pass ∂L/∂y and "
            "∂²L/∂y² for the y of the forward pass that left this tape"
        )


def batch_of_several(where: str, x: Any) -> int:
    """Batch statistics need two examples or more."""
    if x.shape[0] < 2:
        raise NeedsMoreExamples(
            f"{where} takes statistics over a batch and needs at least 2 examples to train, got {x.shape[0]}; "
            "enlarge the batch, or use net.apply for inference mode"
        )
    return x.shape[0]


def flag(name: str, value: Any) -> None:
    """Yes or no, and no number that may look like it."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {checks.shown(value)}")


def is_activation(where: str, value: Any) -> None:
    """An activation with its derivatives."""
    if not isinstance(value, Activation):
        raise TypeError(
            f"{where} takes an fnn Activation such as fnn.tanh, got {checks.shown(value)}; a function of your own "
            "needs its derivatives: Activation(label, value, slope, curvature)"
        )


def parts(where: str, expected: int, **trees: Any) -> None:
    """The params and the state of a composite are plain tuples with one entry a part."""
    for name, tree in trees.items():
        takes = f"{where} has {expected} parts and takes its {name} as a tuple of as many"
        if type(tree) is not tuple:
            raise TypeError(f"{takes}, got {type(tree).__name__}; pass the {name} that its own init made")
        if len(tree) != expected:
            raise ValueError(f"{takes}, got {len(tree)} entries; pass the {name} that its own init made")


def keeps_shape(where: str, x: Any, y: Any) -> None:
    """A layer around which, or after which, its own input must fit."""
    if x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(
            f"{where} needs a layer that keeps the shape, got {x.shape} {x.dtype} in and {y.shape} {y.dtype} out; "
            f"make its last layer {x.shape[-1]} wide"
        )
