"""Checks shared by several optimizers."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks


def rate(name: str, value: Any) -> None:
    """Raise unless the value is a learning rate: a number or tracer, or a schedule from the step to one."""
    if not callable(value):
        checks.not_negative(name, value)


def hyper_parameters(eta: Any, **others: Any) -> None:
    """Raise unless the learning rate η, the decays γ and α and the divisor's ε, as far as given, are in range."""
    allowed = {"gamma": checks.fraction, "alpha": checks.fraction, "epsilon": checks.positive}
    rate("eta", eta)
    for name, value in others.items():
        allowed[name](name, value)


def is_state(where: str, state: Any, kind: type) -> None:
    """Raise TypeError unless the state is of the optimizer's kind."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{where}: expected {_with_article(kind.__name__)}, got {type(state).__name__}. From the state of a chain, "
            "a tuple, pass the part of this optimizer."
        )


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"


def is_mask(where: str, mask: Any, tree: Any) -> None:
    """Raise unless a mask has one bool per leaf of the tree."""
    if jax.tree.structure(mask) != jax.tree.structure(tree):
        raise ValueError(
            f"{where}: expected a mask in the structure of the params, got\n  mask:   {jax.tree.structure(mask)}\n"
            f"  params: {jax.tree.structure(tree)}\nMake it by jax.tree.map, or pass a function such as weights_only."
        )
    strange = [leaf for leaf in jax.tree.leaves(mask) if not isinstance(leaf, bool | np.bool_)]
    if strange:
        raise TypeError(f"{where}: expected a mask of bools, got {strange[0]!r}")


def needs_params(where: str, params: Any) -> None:
    """Raise ValueError if the params are missing in an update that depends on them."""
    if params is None:
        raise ValueError(f"{where}: expected the weights, got None. Call update(gradient, state, params).")


def makes_steps(where: str, optimizer: Any) -> None:
    """Raise ValueError for a transform without an optimizer: its updates are gradients and would increase the loss."""
    checks.is_optimizer(where, optimizer)
    takes, steps = checks.role(optimizer)
    if takes and not steps:
        raise ValueError(
            f"{where}: expected an optimizer that makes steps, got {optimizer}, whose updates are still gradients and "
            f"would increase the loss. Put an optimizer behind it: chain({optimizer}, sgd(0.1))."
        )
