"""Checks that masks, rounds and features share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks


def amount(value: Any) -> None:
    """A whole number of links, or a fraction of them; a tracer is taken on trust."""
    expected = "a whole number of links >= 0, or a fraction in [0, 1) of those left"
    if np.ndim(value) != 0 or isinstance(value, bool):
        raise TypeError(f"amount must be {expected}, got {checks.shown(value)}")
    known = checks.concrete(value)
    if known is None:
        return
    is_share = jnp.issubdtype(known.dtype, jnp.floating)
    if not (is_share or jnp.issubdtype(known.dtype, jnp.integer)):
        raise TypeError(f"amount must be {expected}, got {checks.shown(value)}")
    if not (0 <= known < 1 if is_share else known >= 0):
        raise ValueError(f"amount must be {expected}, got {checks.shown(value)}")


def scope(value: Any) -> None:
    """Where an amount is taken from."""
    if value not in ("layer", "global"):
        raise ValueError(f'scope must be "layer" or "global", got {checks.shown(value)}')


def amounts(amount_of_round: Any, where_from: Any = "layer") -> None:
    """What a pruner removes in a round."""
    if not callable(amount_of_round):
        amount(amount_of_round)
    scope(where_from)


def no_nan(where: str, saliency: Any, links: Any, flags: Any) -> None:
    """No saliency of a link that is left and may go is NaN, where that can be seen."""
    masks, chosen = jax.tree.leaves(links), jax.tree.leaves(flags)
    for (path, leaf), mask, flag in zip(jax.tree.leaves_with_path(saliency), masks, chosen, strict=True):
        worth, left = checks.concrete(leaf), checks.concrete(mask)
        if not flag or worth is None or left is None:
            continue
        strange = int(np.sum(np.isnan(worth.astype(np.float64)) & left))
        if strange:
            raise ValueError(
                f"{where} expects saliencies that can be ranked, got {strange} NaN of {worth.size} at "
                f"saliency{jax.tree_util.keystr(path)}; look for where they arise in the params, the data or the score"
            )
