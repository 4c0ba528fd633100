"""Beside a kink: whether two gradients that differ where the slope of Q jumps are as good as each other.

At a kink any slope between those on either side will do, and JAX itself takes 0 or ½ for the same ReLU, written in two
ways. So the point is moved off the kink: all params and x at random and back, and all biases up and down. Where the
two differ at random as well it may be no matter of the kink, and difference quotients at that point tell who is wrong.
Where they do not, or quotients cannot tell there either, both must lie between the slopes of Q to either side and what
the two agree on at the moved points, but for once the width of that range: of the many terms of an entry each
may take another side than in any of the points. Where biases do not move them to one side all together, as many
examples may always lie above as below, and the width is that of each example by itself, on average: all above, and
all below, are no further off.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks
from fnn.core.errors import Unsupported
from fnn.core.types import Array
from fnn.testing._programs import Compared
from fnn.testing._quotients import EXAMPLES, Quotients, quotients_of
from fnn.testing._trees import aside, flat_leaves
from fnn.testing._verdicts import Kind, Verdict, of_leaf, wrong
from fnn.testing.comparisons import relative_between

PAIRS = 8
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
    points = [_moved(of.given, sign, seed) for seed in (None, *range(1, PAIRS + 1)) for sign in (1, -1)]
    programs = [jax.jit(f) for f in of.functions]
    trees = [[f(*point)[1] for f in programs] for point in points]
    there = [[flat_leaves(tree) for tree in both] for both in trees]
    apart = np.array([relative_between(of, both) for both in there])
    agree = apart <= of.tolerance

    @cache
    def judged(point: int) -> list[Quotients | None]:
        return quotients_of(of.mean_loss, trees[point][1], points[point], there[point], of.entries, of.steps)

    for i in at_kink:
        at_random = np.where(agree[2:, i], 0, apart[2:, i])
        worst = 2 + int(np.argmax(at_random))
        if not agree[worst, i]:
            both = [e[i] for e in there[worst]]
            found[i] = of_leaf(of.names, apart[worst, i], of.tolerance, both, judged(worst)[i])
        if not found[i].blames:
            samples = np.stack([v[i] for (_, v), right in zip(there, agree[:, i], strict=True) if right] or [[]])
            by_example = 0.0 if agree[:2, i].all() else _widths(of, i, points, quotients[i])
            found[i] = _between(of.names, [e[i] for e in exact], quotients[i], samples, by_example)
    return found


def _moved(given: tuple[Any, ...], sign: int, seed: int | None) -> tuple[Any, ...]:
    """The arguments with params and x moved `aside`."""
    params, state, batch, *others = given
    if isinstance(batch, tuple):  # (x, y) or (x, y, weight)
        params, x = aside((params, batch[0]), sign, seed)
        return params, state, (x, *batch[1:]), *others
    params, batch = aside((params, batch), sign, seed)
    return params, state, batch, *others


def _between(
    names: tuple[str, str],
    exact: list[np.ndarray],
    found: Quotients | None,
    samples: np.ndarray,
    by_example: np.ndarray | float,
) -> Verdict:
    """Whether each of the two lies between the slopes beside the kinks, but for their range, or that by example.

    Samples [points, size] are what the two agree on at the moved points; without any the slopes of Q alone count.
    """
    assert found is not None
    at, error = found.at[found.kink], found.beside_error[:, found.kink]
    slopes = np.where(np.isfinite(error), found.beside[:, found.kink], np.nan)
    slopes = np.concatenate([slopes, samples[:, at]]) if samples.size else slopes
    known = np.isfinite(slopes).any(axis=0)
    low = np.min(slopes, axis=0, where=np.isfinite(slopes), initial=np.inf)
    high = np.max(slopes, axis=0, where=np.isfinite(slopes), initial=-np.inf)
    slack = np.maximum(np.where(known, high - low, 0), by_example)
    slack += 10 * np.max(np.where(np.isfinite(error), error, 0), axis=0, initial=0)
    slack += 1e-9 * np.max(np.abs(exact[1]), initial=0)
    right = [bool(np.all(((g[at] >= low - slack) & (g[at] <= high + slack))[known])) for g in exact]
    return Verdict(Kind.AT_KINK) if all(right) else wrong(names, right)


def _widths(of: Compared, leaf: int, points: list[Any], found: Quotients | None) -> np.ndarray | float:
    """How far apart an example's automatic gradient is at the moved points, its mean over the examples [kinks]."""
    assert found is not None
    n, at = checks.examples("batch", of.given[2]), found.at[found.kink]
    if of.paths[leaf] == EXAMPLES:
        return 0.0

    def of_example(point: tuple[Any, ...], example: Any) -> Array:
        params, state, _, *others = point
        tree = of.functions[1](params, state, jax.tree.map(lambda a: a[None], example), *others)[1]
        return jax.tree.leaves(tree)[leaf].reshape(-1)[at]

    program = jax.jit(lambda point: jax.lax.map(partial(of_example, point), point[2], batch_size=16))
    try:
        each = np.stack([program(point) for point in points])
    except Unsupported:  # a batch of one, as by batch norm: n examples at random are √n/2 times as wide
        each = np.stack([flat_leaves(of.functions[1](*point)[1])[leaf][at] for point in points])[:, None]
        return 0.5 * n**0.5 * np.ptp(each, axis=0)[0]
    return np.mean(np.ptp(each, axis=0), axis=0)
