"""Difference quotients that know how far to trust themselves.

At one parameter w, with D(h) = (Q(w + h) − Q(w − h))/2h on a ladder of steps h, h/4, h/16, …::

    R(h) = (16 D(h/4) − D(h))/15                 dQ/dw + O(h⁴): the term in h² is gone (L. Richardson, 1911)
    E(h) = 2 |R(h) − R(h/4)| + 4 eps |Q|/(h/16)  how far it may be off: by its truncation, and by rounding in Q

and the step with the least E is taken, for every parameter by itself. Where Q has a kink, the two one-sided quotients
differ by its jump of slope, J(h) = (Q(w + h) − 2Q(w) + Q(w − h))/h. A smooth Q has J ≈ h Q'', which falls with h; at a
kink J does not fall, and no quotient means anything there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.types import Array

LADDER = 10
"""Steps from a quarter down to 1e-6, in units of max(1, |w|)."""
_EPS = float(np.finfo(np.float64).eps)


class Quotients(NamedTuple):
    """∂Q/∂w at k entries of a leaf, by differences."""

    at: np.ndarray
    """which entries of the flat leaf, [k]"""
    value: np.ndarray
    """[k]"""
    error: np.ndarray
    """the quotients' own estimate of how far they are off, [k]"""
    step: np.ndarray
    """the steps taken, [k]"""
    kink: np.ndarray
    """where the slope jumps, [k] of bools"""


def difference_quotients(
    mean_loss: Callable[[Any], Array], params: Any, chosen: list[np.ndarray], steps: list[float | None]
) -> list[Quotients]:
    """Quotients at chosen entries of every leaf, in float64.

    Args:
        mean_loss: Q as a function of the params alone.
        params: float64 params.
        chosen: for each leaf which entries of it, flat.
        steps: for each leaf the step, or None to have it chosen.

    Returns:
        One `Quotients` a leaf.
    """
    w, unravel = ravel_pytree(params)
    starts = np.cumsum([0, *(leaf.size for leaf in jax.tree.leaves(params))])[:-1]
    at = np.concatenate([s + c for s, c in zip(starts, chosen, strict=True)]).astype(int)
    given = [np.full(len(c), np.nan if h is None else h) for c, h in zip(chosen, steps, strict=True)]
    h = np.concatenate(given)
    is_given = ~np.isnan(h)
    top = np.where(is_given, h, 0.25 * np.maximum(1, np.abs(np.asarray(w)[at])))
    ladder = top[:, None] * 0.25 ** np.arange(LADDER)[None, :]

    def around(i: Array, hs: Array) -> Array:
        """Q(w ± h) for every step, [2, LADDER]."""
        return jnp.stack([jax.lax.map(lambda h, s=s: mean_loss(unravel(w.at[i].add(s * h))), hs) for s in (1, -1)])

    program = jax.jit(lambda at, ladder: jax.lax.map(lambda both: around(*both), (at, ladder), batch_size=16))
    Q = np.asarray(program(jnp.asarray(at), jnp.asarray(ladder)))
    found = _extrapolated(Q, float(mean_loss(params)), ladder, is_given)
    ends = np.cumsum([len(c) for c in chosen])[:-1]
    parts = zip(*(np.split(field, ends) for field in found), strict=True)
    return [Quotients(c, *part) for c, part in zip(chosen, parts, strict=True)]


def _extrapolated(Q: np.ndarray, Q0: float, h: np.ndarray, is_given: np.ndarray) -> tuple[np.ndarray, ...]:
    """(value, error, step, kink), each [k], from Q [k, 2, LADDER] at steps h [k, LADDER]."""
    above, below = Q[:, 0], Q[:, 1]
    with np.errstate(invalid="ignore", over="ignore"):
        D = (above - below) / (2 * h)
        R = (16 * D[:, 1:] - D[:, :-1]) / 15
        E = 2 * np.abs(R[:, :-1] - R[:, 1:]) + 4 * _EPS * abs(Q0) / h[:, 2:]
        jump = (above - 2 * Q0 + below) / h
    E = np.where(np.isnan(E), np.inf, E)
    best = np.where(is_given, 0, np.argmin(E, axis=1))
    rows = np.arange(len(h))
    return R[rows, best], E[rows, best], h[rows, best], _jumps(jump, 1e3 * _EPS * abs(Q0) / h)


def _jumps(jump: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether the jump of slope stays as the step falls, at the two smallest steps where rounding does not hide it."""
    seen = np.abs(jump) > noise
    both = seen[:, :-1] & seen[:, 1:]
    finest = both.shape[1] - 1 - np.argmax(both[:, ::-1], axis=1)
    rows = np.arange(len(jump))
    stays = np.abs(jump[rows, finest + 1]) > 0.6 * np.abs(jump[rows, finest])
    return both.any(axis=1) & stays
