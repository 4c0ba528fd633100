"""Difference quotients that know how far to trust themselves.

At one parameter w, with D(h) = (Q(w + h) − Q(w − h))/2h on a ladder of steps h, h/4, h/16, …::

    R(h) = (16 D(h/4) − D(h))/15                  dQ/dw + O(h⁴): the term in h² is gone (L. Richardson, 1911)
    J(h) = (Q(w + h) − 2Q(w) + Q(w − h))/h        how far the two one-sided quotients are apart: h Q'' + O(h³)
    K(h) = (J(h) − 4J(h/4))²/max(|J(h)|, |4J(h/4)|)
    E(h) = 2|R(h) − R(h/4)| + K(h) + K(h/4) + 4 r/(h/16)

E is how far R may be off: by its truncation, by kinks, and by the rounding r of Q. The step with the least E is taken,
for every parameter by itself. Where Q is smooth J falls by 4 from rung to rung, and K is next to nothing. Where there
is a kink of Q between w − h and w + h it does not: then K is about as large as the jump of slope, and tells what
``|R(h) − R(h/4)|`` can miss, for with many kinks around the two agree on a wrong number sooner or later. If J does not
fall down to the least step, the kink is at w itself, and only the quotients to either side mean anything there::

    F±(h) = ±(Q(w ± h) − Q(w))/h,   R±(h) = (4 F±(h/4) − F±(h))/3      the slopes beside w + O(h²)

All numbers have scales of their own: wavelengths in metres differ by 1e-7, and a second in 1.7e9 is one. So where J
has not fallen yet at the last rung the ladder is built on downwards, until it falls, or rounding hides it, or w ± h is
w. Steps are powers of two, so that w ± h is exact. The rounding r is no less than ``eps |Q|``, and no less than what Q
changes by where the last digits of all numbers do, as for an x of 1.7e9, of which the forward pass takes differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.core import _checks as checks
from fnn.core.types import Array, Params
from fnn.testing._trees import changed

EXAMPLES = "x"
"""The path of ∂Q/∂x, the errors that arrive at the examples."""

LADDER = 10
"""Steps from a quarter down to 1e-6, in units of max(1, |w|), and as many again where these are too large."""

MOST_LADDERS = 4

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
    beside: np.ndarray
    """the slopes below and above, [2, k]"""
    beside_error: np.ndarray
    """the estimates of how far these are off, [2, k]"""


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True)
class Point:
    """Where Q is differentiated: the params, whose leaves keep their paths, and the examples, with the path "x"."""

    params: Params
    x: Array

    def tree_flatten_with_keys(self) -> tuple[Any, None]:
        """The keys are words, which `jax.tree_util.keystr` puts one after another."""
        return (("", self.params), (EXAMPLES, self.x)), None

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
    params, state, batch, key, *_ = given
    w = Point(params, batch[0]) if isinstance(tree, Point) else params
    if mean_loss is None or not jax.tree.leaves(w):
        return [None] * len(exact[0])
    _gradient_of("compare", exact[1], w)

    def Q(w: Any) -> Array:
        at, examples = (w.params, (w.x, *batch[1:])) if isinstance(w, Point) else (w, batch)
        return mean_loss(at, state, examples, key)[0]

    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(w)]
    chosen = _chosen(list(zip(*exact, strict=True)), entries, key)
    return list(difference_quotients(Q, w, chosen, _steps(steps, paths)))


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
    given = np.concatenate([np.full(len(c), np.nan if h is None else h) for c, h in zip(chosen, steps, strict=True)])

    def around(i: Array, hs: Array) -> Array:
        """Q(w ± h) for every step, [2, LADDER]."""
        both = jax.lax.map(lambda h: mean_loss(unravel(w.at[i].add(h))), jnp.concatenate([hs, -hs]))
        return both.reshape(2, LADDER)

    program = jax.jit(lambda at, ladder: jax.lax.map(lambda both: around(*both), (at, ladder), batch_size=16))
    Q0, rounding = _rounding(mean_loss, params)
    found = _descended(
        lambda ladder: np.asarray(program(jnp.asarray(at), jnp.asarray(ladder))), Q0, rounding, np.asarray(w)[at], given
    )
    ends = np.cumsum([len(c) for c in chosen])[:-1]
    parts = zip(*(np.split(field, ends, axis=-1) for field in found), strict=True)
    return [Quotients(c, *part) for c, part in zip(chosen, parts, strict=True)]


def _rounding(mean_loss: Callable[[Any], Array], params: Any) -> tuple[float, float]:
    """Q, and how far rounding may have moved it."""
    Q0 = float(mean_loss(params))
    changes = [abs(float(mean_loss(changed(params, _EPS, seed))) - Q0) for seed in range(4)]
    return Q0, max([_EPS * abs(Q0), *(change for change in changes if np.isfinite(change))])


def _descended(
    Q_at: Callable[[np.ndarray], np.ndarray], Q0: float, rounding: float, w: np.ndarray, given: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What `_extrapolated` finds on one ladder, or on more of them downwards where one does not reach down enough."""
    is_given = ~np.isnan(given)
    top = np.where(is_given, given, 2.0 ** np.floor(np.log2(0.25 * np.maximum(1, np.abs(w)))))
    least = np.where(is_given, 0, 2 * np.spacing(np.abs(w)))[:, None]
    h, Q = np.zeros((len(w), 0)), np.zeros((len(w), 2, 0))
    found: tuple[np.ndarray, ...] = ()
    for i in range(MOST_LADDERS):
        rungs = top[:, None] * 0.25 ** np.arange(i * LADDER, (i + 1) * LADDER)[None, :]
        values = np.where((rungs < least)[:, None, :], np.nan, Q_at(rungs))
        h, Q = np.concatenate([h, rungs], axis=1), np.concatenate([Q, values], axis=2)
        found = _extrapolated(Q, Q0, h, is_given, rounding)
        value, error, _, kink, *_ = found
        with np.errstate(invalid="ignore"):
            visible = np.abs(Q[:, 0, -1] - 2 * Q0 + Q[:, 1, -1]) > _hidden(Q0, rounding)
            settled = is_given | ~visible | (~kink & (error <= 1e-3 * np.abs(value)))
        if settled.all():
            break
    return found


def _extrapolated(
    Q: np.ndarray, Q0: float, h: np.ndarray, is_given: np.ndarray, rounding: float
) -> tuple[np.ndarray, ...]:
    """(value, error, step, kink, beside, beside_error) from Q [k, 2, rungs] at steps h [k, rungs]."""
    above, below = Q[:, 0], Q[:, 1]
    with np.errstate(invalid="ignore", over="ignore"):
        D = (above - below) / (2 * h)
        R = (16 * D[:, 1:] - D[:, :-1]) / 15
        jump = (above - 2 * Q0 + below) / h
        K = _kinked(jump)
        E = 2 * np.abs(R[:, :-1] - R[:, 1:]) + K[:, :-1] + K[:, 1:] + 4 * rounding / h[:, 2:]
        F = np.stack([(Q0 - below) / h, (above - Q0) / h])
        beside = (4 * F[:, :, 1:] - F[:, :, :-1]) / 3
        beside_error = 2 * np.abs(beside[:, :, :-1] - beside[:, :, 1:]) + 8 * rounding / h[None, :, 2:]
        kink = _jumps(jump, _hidden(Q0, rounding) / h)
    E = _consistent(R[:, :-1], np.where(np.isnan(E), np.inf, E))
    beside_error = np.where(np.isnan(beside_error), np.inf, beside_error)
    best, rows = np.where(is_given, 0, np.argmin(E, axis=1)), np.arange(len(h))
    least = np.argmin(beside_error, axis=2)[:, :, None]
    of_sides = (np.take_along_axis(each, least, axis=2)[:, :, 0] for each in (beside, beside_error))
    return R[rows, best], E[rows, best], h[rows, best], kink, *of_sides


def _hidden(Q0: float, rounding: float) -> float:
    """So much of Q hides a jump: a thousand times the spacing of Q, or some of the rounding that is measured."""
    return max(1e3 * _EPS * abs(Q0), 30 * rounding)


def _consistent(R: np.ndarray, E: np.ndarray) -> np.ndarray:
    """E [k, rungs], where no R is better than those of smaller steps leave possible.

    What is flat but for a step at w has quotients near 0 and errors near 0 at all steps that are too large.
    """
    with np.errstate(invalid="ignore"):
        beyond = np.abs(R[:, :, None] - R[:, None, :]) - E[:, None, :]
    beyond = np.where(np.isfinite(beyond), beyond, 0) * np.triu(np.ones(beyond.shape[1:]), 1)[None]
    return E + np.max(beyond, axis=2, initial=0)


def _kinked(jump: np.ndarray) -> np.ndarray:
    """K at every rung but the last."""
    here, below = jump[:, :-1], 4 * jump[:, 1:]
    larger = np.maximum(np.abs(here), np.abs(below))
    return np.where(larger == 0, 0, np.square(here - below) / np.where(larger == 0, 1, larger))


def _jumps(jump: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Whether the jump of slope stays as the step falls, at the two smallest steps where rounding does not hide it."""
    with np.errstate(invalid="ignore"):
        seen = np.abs(jump) > noise
    both = seen[:, :-1] & seen[:, 1:]
    finest = both.shape[1] - 1 - np.argmax(both[:, ::-1], axis=1)
    rows = np.arange(len(jump))
    stays = np.abs(jump[rows, finest + 1]) > 0.6 * np.abs(jump[rows, finest])
    return both.any(axis=1) & stays


def _steps(given: Any, paths: Sequence[str]) -> list[float | None]:
    """A step for each leaf, or None where it is to be chosen."""
    if not isinstance(given, dict):
        if given is not None:
            checks.positive("steps", given)
        return [given] * len(paths)
    strange = [path for path in given if path not in paths]
    if strange:
        raise ValueError(f"steps has {strange}, which are no leaves of the params; these are {list(paths)}")
    for path, step in given.items():
        checks.positive(f"the step of {path}", step)
    return [given.get(path) for path in paths]


def _gradient_of(where: str, leaves: Sequence[np.ndarray], params: Any) -> None:
    """Leaves as large as those of the params, so that difference quotients can judge them."""
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    if [leaf.size for leaf in leaves] != sizes:
        raise ValueError(
            f"{where} with a mean_loss takes gradients, which have the shapes of the params, {sizes} numbers a leaf, "
            f"got {[leaf.size for leaf in leaves]}; leave mean_loss out for other quantities"
        )
