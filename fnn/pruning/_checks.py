"""Checks shared by masks, rounds and features."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks


def amount(value: Any) -> None:
    """Raise an error unless the value is a whole number of links or a fraction of them; a tracer passes."""
    message = (
        "amount: expected a whole number of links >= 0, or a fraction in [0, 1) of those left, got "
        f"{checks.shown(value)}. Pass one number, or a function from the round to one."
    )
    if np.ndim(value) != 0 or isinstance(value, bool):
        raise TypeError(message)
    known = checks.concrete(value)
    if known is None:
        return
    is_fraction = jnp.issubdtype(known.dtype, jnp.floating)
    if not (is_fraction or jnp.issubdtype(known.dtype, jnp.integer)):
        raise TypeError(message)
    if not (0 <= known < 1 if is_fraction else known >= 0):
        raise ValueError(message)


def scope(value: Any) -> None:
    """Raise ValueError unless the scope of an amount is known."""
    if value not in ("layer", "global"):
        raise ValueError(f'scope: expected "layer" or "global", got {checks.shown(value)}. Choose one of the two.')


def amounts(amount_of_round: Any, scope_of_amount: Any = "layer") -> None:
    """Raise an error unless a pruner's amount and scope are valid."""
    if not callable(amount_of_round):
        amount(amount_of_round)
    scope(scope_of_amount)


def no_nan(where: str, saliency: Any, links: Any, flags: Any) -> None:
    """Raise ValueError if a concrete saliency of a remaining, prunable link is NaN."""
    masks = jax.tree.leaves(links)
    chosen = jax.tree.leaves(flags)
    for (path, leaf), mask, flag in zip(jax.tree.leaves_with_path(saliency), masks, chosen, strict=True):
        worth = checks.concrete(leaf)
        left = checks.concrete(mask)
        if not flag or worth is None or left is None:
            continue
        nans = int(np.sum(np.isnan(worth.astype(np.float64)) & left))
        if nans:
            raise ValueError(
                f"{where}: expected saliencies that can be ranked, got {nans} NaN of {worth.size} at "
                f"saliency{jax.tree_util.keystr(path)}. Look for their origin in the params, the data or the score."
            )
