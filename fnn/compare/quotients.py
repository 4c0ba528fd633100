"""Difference quotients that know how far to trust themselves.

At one parameter w, with D(h) = (Q(w + h) − Q(w − h))/2h on a ladder of steps h, h/4, h/16, …::

    R(h) = (16 D(h/4) − D(h))/15                  dQ/dw + O(h⁴): the term in h² is gone (L. Richardson, 1911)
    J(h) = (Q(w + h) − 2Q(w) + Q(w − h))/h        how far the two one-sided quotients are apart: h Q'' + O(h³)
    K(h) = (J(h) − 4J(h/4))²/max(|J(h)|, |4J(h/4)|)
    E(h) = 2|R(h) − R(h/4)| + K(h) + K(h/4) + 4 eps |Q|/(h/16)

E is how far R may be off: by its truncation, by kinks, and by rounding in Q. The step with the least E is taken, for
every parameter by itself. Where Q is smooth J falls by 4 from rung to rung, and K is next to nothing. Where there is a
kink of Q between w − h and w + h it does not: then K is about as large as the jump of slope, and tells what |R(h) −
R(h/4)| can miss, for with many kinks around the two agree on a wrong number sooner or later. If J does not fall down to
the least step, the kink is at w itself, and no quotient means anything there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.checks import comparisons
from fnn.types import Array, Params

OBJECTS = "x"
"""The path of ∂Q/∂x, the errors that arrive at the objects."""

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


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Point:
    """Where Q is differentiated: the params, whose leaves keep their paths, and the objects, with the path "x"."""

    params: Params
    x: Array

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """The keys are words, which `jax.tree_util.keystr` puts one after another."""
        return (("", self.params), (OBJECTS, self.x)), None

    @classmethod
    def tree_unflatten(cls, _: None, children: Any) -> Point:
        """The point again."""
        return cls(*children)


def quotients_of(
    mean_loss: Callable[..., Any] | None,
    tree: Any,
    given: tuple[Any, ...],
    exact: list[list[np.ndarray]],
    entries: int,
    steps: Any,
) -> list[Quotients | None]:
    """Quotients at the entries of each leaf where the two differ most, and at others at random."""
    params, state, (x, y), key, *_ = given
    w = Point(params, x) if isinstance(tree, Point) else params
    if mean_loss is None or not jax.tree.leaves(w):
        return [None] * len(exact[0])
    comparisons.gradient_of("compare", exact[1], w)

    def Q(w: Any) -> Array:
        at, objects = (w.params, w.x) if isinstance(w, Point) else (w, x)
        return mean_loss(at, state, (objects, y), key)[0]

    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(w)]
    chosen = _chosen(list(zip(*exact, strict=True)), entries, key)
    return list(difference_quotients(Q, w, chosen, comparisons.steps(steps, paths)))


def _chosen(pairs: list[tuple[np.ndarray, np.ndarray]], entries: int, key: Array) -> list[np.ndarray]:
    """The entries of each pair of flat leaves where the two differ most, and others at random."""
    generator = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))

    def some(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        worst = np.argsort(-np.nan_to_num(np.abs(u - v), nan=np.inf), kind="stable")[: (entries + 3) // 4]
        others = generator.permutation(u.size)
        return np.sort(np.concatenate([worst, others[~np.isin(others, worst)]])[:entries])

    return [some(u, v) for u, v in pairs]


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
        jump = (above - 2 * Q0 + below) / h
        K = _kinked(jump)
        E = 2 * np.abs(R[:, :-1] - R[:, 1:]) + K[:, :-1] + K[:, 1:] + 4 * _EPS * abs(Q0) / h[:, 2:]
    E = np.where(np.isnan(E), np.inf, E)
    best = np.where(is_given, 0, np.argmin(E, axis=1))
    rows = np.arange(len(h))
    return R[rows, best], E[rows, best], h[rows, best], _jumps(jump, 1e3 * _EPS * abs(Q0) / h)


def _kinked(jump: np.ndarray) -> np.ndarray:
    """K at every rung but the last."""
    here, below = jump[:, :-1], 4 * jump[:, 1:]
    larger = np.maximum(np.abs(here), np.abs(below))
    return np.where(larger == 0, 0, np.square(here - below) / np.where(larger == 0, 1, larger))


def _jumps(jump: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether the jump of slope stays as the step falls, at the two smallest steps where rounding does not hide it."""
    seen = np.abs(jump) > noise
    both = seen[:, :-1] & seen[:, 1:]
    finest = both.shape[1] - 1 - np.argmax(both[:, ::-1], axis=1)
    rows = np.arange(len(jump))
    stays = np.abs(jump[rows, finest + 1]) > 0.6 * np.abs(jump[rows, finest])
    return both.any(axis=1) & stays
