"""Broken laws that compare with JAX's derivatives, asked again: JAX itself may be no judge there.

**Rounding.** The slope of tanh is 1 − t² for JAX, which is 0 where t rounds to 1 and a layer's own sech² is right
still. So the judge is computed with noise on each of its steps, and an error of no more than eight times what rounding
so costs the judge is no error.

**Kinks.** `jnp.maximum(x, 0)` has slope ½ at 0 for JAX, 0 or 1 for somebody else. So x and the params are moved off,
eight times, by about a thousandth. If JAX's own gradient jumps between these points, the law is asked at one of them;
and the layer's own backward at x must lie between what it gives there, but for once the width of that range.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core.types import Layer
from fnn.testing._asking import Measured, Question, Skipped, ask
from fnn.testing._equations import CHANGE, noisy
from fnn.testing._judges import least_scales, leaves
from fnn.testing._subject import Subject
from fnn.testing._trees import STEP, aside, distance, norm
from fnn.testing.reports import Law, Outcome

SLACK, SEEDS = 8, (1, 2)

EPS = float(np.finfo(np.float64).eps)

POINTS = 8

JUMP = 0.05
"""Of the largest entry of a leaf: more than a smooth gradient changes by within such steps."""

# Rounding


def asked_to_rounding(questions: list[Question], layer: Layer, given: tuple[Any, ...], tolerance: float) -> list[Law]:
    """The laws that hold where the cost of rounding to the judge is allowed.

    Args:
        questions: those that are broken.
        layer: the layer they are asked of.
        given: its params, state, x and key.
        tolerance: largest relative error beside that.

    Returns:
        The laws that hold then.
    """
    if not _loses(layer, given, tolerance):
        return []
    of_noise = [Question(q.name, partial(_with_noise, q.measure, layer), _within_noise) for q in questions]
    laws = ask(of_noise, partial(Subject, layer), *given, tolerance=tolerance)
    return [law for law in laws if law.outcome is Outcome.HOLDS]


def _loses(layer: Layer, given: tuple[Any, ...], tolerance: float) -> bool:
    """Whether rounding may cost JAX's own gradients a thousandth of the tolerance; else no more is compiled."""
    by_jax = lambda *given: Subject(layer, *given).by_jax  # noqa: E731
    try:
        pair = jax.device_get(jax.jit(lambda *given: (by_jax(*given), noisy(by_jax, SEEDS[0])(*given)))(*given))
    except Exception:  # its fault breaks other laws
        return False
    plain, moved = (jax.tree.leaves(tree) for tree in pair)
    costs = [distance(u, v) * EPS / CHANGE for u, v in zip(moved, plain, strict=True)]
    return any(SLACK * cost > 1e-3 * tolerance * norm(v) for cost, v in zip(costs, plain, strict=True))


def _with_noise(measure: Callable[[Any], Measured | str], layer: Layer, s: Subject) -> Measured:
    plain = measure(s)
    if isinstance(plain, str):
        raise Skipped(plain)
    again = lambda *given: measure(Subject(layer, *given))  # noqa: E731
    return {"plain": plain, "moved": [noisy(again, seed)(*s.given) for seed in SEEDS]}


def _within_noise(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """Every leaf within the tolerance and what rounding costs what was wanted."""
    plain, worst = found["plain"], 0.0
    least = least_scales(plain)
    moved = [[wanted for _, _, wanted in leaves(each)] for each in found["moved"]]
    for i, (where, got, wanted) in enumerate(leaves(plain)):
        cost = max(distance(each[i], wanted) for each in moved) * EPS / CHANGE
        off, scale = distance(got, wanted), max(norm(wanted), least[where])
        if not off <= tolerance * scale + SLACK * cost:
            return Outcome.BROKEN, where
        worst = max(worst, off)
    return Outcome.HOLDS, f"off by {worst:.1e}, which jax.vjp itself loses to rounding here"


# Kinks


class _Beside(NamedTuple):
    """Points beside x and the params."""

    params: Any
    x: Any
    between: bool
    """whether backward at x lies between what it gives there"""


def _beside(layer: Layer, given: tuple[Any, Any, Any, Any]) -> _Beside | None:
    """The points beside a kink; None where there is none, or where the layer does not run at all."""
    params, state, x, key = given
    points = [(params, x), *(aside((params, x), sign, seed) for seed in range(POINTS // 2) for sign in (1, -1))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)

    def passes(at: Any) -> Any:
        s = Subject(layer=layer, params=at[0], state=state, x=at[1], key=key)
        return s.by_hand, s.by_jax

    try:
        by_hand, by_jax = jax.device_get(jax.jit(lambda points: jax.lax.map(passes, points))(stacked))
    except Exception:  # its fault breaks other laws
        return None
    jumps = [
        np.max(np.abs(g[1:] - g[0]), initial=0) > JUMP * np.max(np.abs(g), initial=0) for g in jax.tree.leaves(by_jax)
    ]
    if not any(jumps):
        return None
    between = all(_between(leaf[0], leaf[1:]) for leaf in jax.tree.leaves(by_hand))
    return _Beside(points[1][0], points[1][1], between)


def _between(at: np.ndarray, beside: np.ndarray) -> bool:
    low, high = np.min(beside, axis=0), np.max(beside, axis=0)
    slack = high - low + STEP * np.max(np.abs(beside), initial=0)
    return bool(np.all((at >= low - slack) & (at <= high + slack)))


def asked_beside(
    questions: list[Question], broken: dict[str, Law], layer: Layer, given: tuple[Any, ...], tolerance: float
) -> list[Law]:
    """The laws that hold beside x, where x and the params lie on a kink; the findings name the kink.

    Args:
        questions: those that are broken.
        broken: the laws they broke, by name.
        layer: the layer they are asked of.
        given: its params, state, x and key.
        tolerance: largest relative error.

    Returns:
        The laws that hold there: still broken where backward at x is not between the slopes beside it.
    """
    beside = _beside(layer, given)
    if beside is None:
        return []
    laws = ask(questions, partial(Subject, layer), beside.params, given[1], beside.x, given[3], tolerance=tolerance)
    held = [law for law in laws if law.outcome is Outcome.HOLDS]
    if not beside.between:
        outside = "x lies on a kink of forward, and backward is not between the slopes beside it"
        return [Law(law.name, Outcome.BROKEN, f"{outside}: {broken[law.name].finding}") for law in held]
    return [law._replace(finding=f"{law.finding} beside x, which lies on a kink of forward") for law in held]
