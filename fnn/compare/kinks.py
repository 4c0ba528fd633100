"""Beside a kink: whether two gradients that differ where the slope of Q jumps are as good as each other.

At a kink any slope between those on either side will do, and JAX itself takes 0 or ½ for the same ReLU, written in two
ways. So the point is moved off the kink, eight times: all params and x at random and back, and all biases up and
down. Where the two differ there as well it is no matter of the kink, and difference quotients at that point tell who
is wrong. Where they do not, both must lie between what they are at the moved points and the slopes of Q to either
side, but for once the width of that range: of the many terms of an entry each may take another side than in any
of the points.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.compare import verdicts
from fnn.compare.costs import Compared
from fnn.compare.quotients import Quotients, quotients_of
from fnn.compare.report import relative_between
from fnn.compare.rounding import flat_leaves
from fnn.compare.verdicts import Kind, Verdict
from fnn.types import Array

PAIRS = 3
"""Random directions to move in, each there and back."""


def beside(
    found: list[Verdict], exact: list[list[np.ndarray]], quotients: list[Quotients | None], of: Compared
) -> list[Verdict]:
    """The verdicts on the leaves, where "differ at a kink" has been looked into.

    Args:
        found: the verdict on each leaf.
        exact: the two gradients' flat leaves in float64.
        quotients: of each leaf.
        of: what is compared.

    Returns:
        A verdict a leaf.
    """
    at_kink = [i for i, verdict in enumerate(found) if verdict.kind is Kind.AT_KINK]
    if not at_kink:
        return found
    points = [_moved(of.given, direction, sign) for direction in range(PAIRS + 1) for sign in (1, -1)]
    trees = [[jax.jit(f)(*point)[1] for f in of.functions] for point in points]
    there = [[flat_leaves(tree) for tree in both] for both in trees]
    apart = np.array([relative_between(of.paths, both) for both in there])
    worst = int(np.argmax(np.max(apart[:, at_kink], axis=1)))
    judged = None
    for i in at_kink:
        if np.all(apart[:, i] <= of.tolerance):
            found[i] = _between(of.names, [e[i] for e in exact], quotients[i], np.stack([v[i] for _, v in there]))
            continue
        if judged is None:
            judged = quotients_of(of.mean_loss, trees[worst][1], points[worst], there[worst], of.entries, of.steps)
        verdict = verdicts.of_leaf(of.names, apart[worst, i], of.tolerance, [e[i] for e in there[worst]], judged[i])
        found[i] = verdict if verdict.kind.is_told else found[i]
    return found


def _moved(given: tuple[Any, ...], direction: int, sign: int) -> tuple[Any, ...]:
    """The arguments with params and x moved by a thousandth; in direction 0 only the biases, all to one side."""
    params, state, (x, y), *others = given
    rng = np.random.default_rng(direction)

    def move(leaf: Any) -> Array:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating) or (direction == 0 and np.ndim(leaf) > 1):
            return leaf
        step = 1e-3 * (float(jnp.max(jnp.abs(leaf), initial=0)) or 1.0) * sign
        way = rng.choice((-1, 1), np.shape(leaf)) * rng.uniform(0.5, 1, np.shape(leaf)) if direction else 1.0
        return leaf + jnp.asarray(step * way, leaf.dtype)

    params, x = jax.tree.map(move, (params, x))
    return params, state, (x, y), *others


def _between(names: tuple[str, str], exact: list[np.ndarray], found: Quotients | None, samples: np.ndarray) -> Verdict:
    """Whether each of the two lies between the slopes beside the kinks; samples are those of the moved points."""
    assert found is not None
    at, error = found.at[found.kink], found.beside_error[:, found.kink]
    slopes = np.where(np.isfinite(error), found.beside[:, found.kink], samples[:2, at])
    slopes = np.concatenate([slopes, samples[:, at]])
    low, high = np.min(slopes, axis=0), np.max(slopes, axis=0)
    slack = high - low + 10 * np.max(np.where(np.isfinite(error), error, 0), axis=0, initial=0)
    slack += 1e-9 * np.max(np.abs(exact[1]), initial=0)
    right = [bool(np.all((g[at] >= low - slack) & (g[at] <= high + slack))) for g in exact]
    return Verdict("differ at a kink", Kind.AT_KINK) if all(right) else verdicts.wrong(names, right)
