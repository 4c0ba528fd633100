"""Checks that several optimizers share."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks


def rate(name: str, value: Any) -> None:
    """A learning rate: a number or tracer, or a schedule from the step to one."""
    if not callable(value):
        checks.not_negative(name, value)


def is_state(where: str, state: Any, kind: type) -> None:
    """The state of one certain optimizer."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{where} takes a {kind.__name__}, got {type(state).__name__}; the state of a chain is a tuple, "
            "pass the part that belongs to it"
        )


def is_mask(where: str, mask: Any, tree: Any) -> None:
    """A mask holds one bool for each leaf."""
    if jax.tree.structure(mask) != jax.tree.structure(tree):
        raise ValueError(
            f"{where} takes a mask in the structure of the params:\n  mask:   {jax.tree.structure(mask)}\n"
            f"  params: {jax.tree.structure(tree)}\nmake it by jax.tree.map, or pass a function such as weights_only"
        )
    strange = [leaf for leaf in jax.tree.leaves(mask) if not isinstance(leaf, bool | np.bool_)]
    if strange:
        raise TypeError(f"{where} takes a mask of bools, got {strange[0]!r}")


def needs_params(where: str, params: Any) -> None:
    """An optimizer's update that looks at the weights must be given them."""
    if params is None:
        raise ValueError(f"{where} looks at the weights: call update(gradient, state, params)")
