"""What a check of laws asks for."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn.checks.arrays import features
from fnn.checks.numbers import concrete, not_negative
from fnn.checks.structures import floats, is_function, is_layer, is_optimizer


def of_layer(layer: Any, x: Any, params: Any, state: Any, tolerance: Any) -> None:
    """A layer, two finite objects or more, params of floats, and those wherever there is a state."""
    is_layer("check_layer", layer)
    features("check_layer", x)
    not_negative("tolerance", tolerance)
    if x.shape[0] < 2:
        raise ValueError(
            f"check_layer needs at least 2 objects, to tell whether the layer couples them, got x of shape {x.shape}"
        )
    known = concrete(x)
    if known is None:
        raise TypeError("check_layer compiles programs of its own and gives words: call it outside jit and vmap")
    if not np.isfinite(known.astype(np.float64)).all():
        raise ValueError("check_layer needs a finite x, got NaN or infinity; what the layer makes of it is its own")
    if params is not None:
        floats("check_layer", "params", params)
    if params is None and state is not None:
        raise ValueError("check_layer got a state without params; give both, or params alone, or neither")


def of_optimizer(optimizer: Any, params: Any, reference: Any, tolerance: Any) -> None:
    """An optimizer, params of floats, and a reference that can be called."""
    is_optimizer("check_optimizer", optimizer)
    floats("check_optimizer", "params", params)
    not_negative("tolerance", tolerance)
    if not jax.tree.leaves(params):
        raise ValueError("check_optimizer needs params with at least one array, got none")
    if reference is not None:
        is_function("reference", reference)


def path_of_reference(path: Any, steps: int, params: Any) -> list[Any]:
    """The params after each of the steps, one tree a step in the structure of the params."""
    path = list(path)
    if len(path) != steps:
        raise ValueError(f"reference must give the params after each of the {steps} steps, got {len(path)} of them")
    for tree in path:
        if jax.tree.structure(tree) != jax.tree.structure(params):
            raise ValueError(
                f"reference must give trees in the structure of the params, {jax.tree.structure(params)}, got "
                f"{jax.tree.structure(tree)}"
            )
    return path
