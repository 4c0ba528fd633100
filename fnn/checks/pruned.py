"""Amounts, scopes and masks of pruning."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks.numbers import concrete, number, shown
from fnn.checks.structures import is_function
from fnn.types import TrainState


def amount(value: Any) -> None:
    """A whole number of links, or a fraction of them; a tracer is taken on trust."""
    expected = "a whole number of links >= 0, or a fraction in [0, 1) of those left"
    if np.ndim(value) != 0 or isinstance(value, bool):
        raise TypeError(f"amount must be {expected}, got {shown(value)}")
    known = concrete(value)
    if known is None:
        return
    is_share = jnp.issubdtype(known.dtype, jnp.floating)
    if not (is_share or jnp.issubdtype(known.dtype, jnp.integer)):
        raise TypeError(f"amount must be {expected}, got {shown(value)}")
    if not (0 <= known < 1 if is_share else known >= 0):
        raise ValueError(f"amount must be {expected}, got {shown(value)}")


def scope(value: Any) -> None:
    """Where an amount is taken from."""
    if value not in ("layer", "global"):
        raise ValueError(f'scope must be "layer" or "global", got {shown(value)}')


def amounts(amount_of_round: Any, where_from: Any = "layer") -> None:
    """What a pruner removes in a round."""
    if not callable(amount_of_round):
        amount(amount_of_round)
    scope(where_from)


def qualities(evaluate: Any, tolerance: Any) -> tuple[list[Any], list[Any]]:
    """One function or several that give Q, and for each by how much it may get worse."""
    functions = list(evaluate) if isinstance(evaluate, list | tuple) and evaluate else [evaluate]
    for function in functions:
        is_function("evaluate", function)
    several = isinstance(tolerance, list | tuple)
    tolerances = list(tolerance) if several else [tolerance] * len(functions)
    if several and (callable(evaluate) or len(tolerances) != len(functions)):
        raise ValueError(
            f"tolerance must be one number, or one for each of {len(functions)} functions evaluate, got {tolerance!r}"
        )
    for one in tolerances:
        number("tolerance", one, lambda t: t >= 0, "a number >= 0")
    return functions, tolerances


def retrained(state: Any) -> TrainState:
    """What a retraining of the user's returns."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"retrain must give the TrainState after training, got {type(state).__name__}; take the state alone, as by "
            "run_until_stable(…)[0]"
        )
    return state


def has_rows(leaf: Any) -> None:
    """A leaf whose rows are features."""
    if leaf.ndim < 2:
        raise ValueError(
            f"features are the rows of weight matrices [i, o], got a leaf of shape {leaf.shape}; choose by `of` the "
            "leaves that read the features"
        )


def worth_of_features(value: Any, count: int) -> None:
    """A saliency for each feature."""
    shape = getattr(value, "shape", type(value).__name__)
    if shape != (count,):
        raise ValueError(
            f"a saliency of features must be [{count}], a number for each, or in the shapes of the params, got {shape}"
        )


def no_nan(where: str, saliency: Any, links: Any, flags: Any) -> None:
    """No saliency of a link that is left and may go is NaN, where that can be seen."""
    masks, chosen = jax.tree.leaves(links), jax.tree.leaves(flags)
    for (path, leaf), mask, flag in zip(jax.tree.leaves_with_path(saliency), masks, chosen, strict=True):
        worth, left = concrete(leaf), concrete(mask)
        if not flag or worth is None or left is None:
            continue
        strange = int(np.sum(np.isnan(worth.astype(np.float64)) & left))
        if strange:
            raise ValueError(
                f"{where} expects saliencies that can be ranked, got {strange} NaN of {worth.size} at "
                f"saliency{jax.tree_util.keystr(path)}; look for where they arise in the params, the data or the score"
            )


def some_prunable(flags: Any) -> None:
    """At least one leaf may be pruned."""
    if not any(jax.tree.leaves(flags)):
        raise ValueError(
            "prunable chooses no leaf of the params; choose some, such as the leaves named w (weights_only)"
        )


def has_sparse(found: bool) -> None:
    """A run under whose optimizer removed links stay removed."""
    if not found:
        raise ValueError(
            "removed links would grow again under this run's optimizer; make its trainer with optimizer=sparse(...)"
        )


def is_score(value: Any) -> None:
    """A rule that values links."""
    if not (hasattr(value, "saliency") and callable(value.saliency)):
        hint = "call the factory: magnitude(), not magnitude" if callable(value) else "take one such as magnitude()"
        raise TypeError(
            f"score must be a Score, got {shown(value)}; {hint}, or wrap a function: Score(label, function)"
        )


def quality(value: Any) -> jax.Array:
    """Q as one number."""
    shape = jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf).__name__), value)
    if shape != ():
        raise ValueError(f"evaluate must give Q as one number, lower is better, got {shape}; take the mean")
    return value
