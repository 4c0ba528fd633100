"""Whether a judge by JAX has lost its number to rounding, so that being far off it says nothing.

The slope of tanh is 1 − t² for JAX, which is 0 where t rounds to 1 and a layer's own sech² is right still. So where a
law that compares with JAX is broken, the judge is computed with noise on each of its steps; what is off by no more than
eight times what rounding so costs the judge is not off.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from fnn.core.types import Layer
from fnn.testing._asking import Measured, NotAsked, Question, ask
from fnn.testing._equations import CHANGE, noisy
from fnn.testing._judges import leaves, scales
from fnn.testing._passes import Subject
from fnn.testing._trees import norm
from fnn.testing.reports import BROKEN, HOLDS, Law

SLACK, SEEDS = 8, (1, 2)

EPS = float(np.finfo(np.float64).eps)


def asked_to_rounding(
    laws: list[Law], questions: list[Question], layer: Layer, given: tuple[Any, ...], tolerance: float
) -> list[Law]:
    """The laws, those of the questions that are broken asked again, with what rounding costs the judge allowed.

    Args:
        laws: all that were asked.
        questions: those that compare with JAX's gradients.
        layer: whose laws they are.
        given: its params, state, x and key.
        tolerance: largest relative error beside that.

    Returns:
        The laws in their order.
    """
    broken = {law.name for law in laws if law.verdict == BROKEN}
    doubtful = [question for question in questions if question.name in broken]
    if not doubtful or not _loses(layer, given, tolerance):
        return laws
    of_noise = [
        Question(q.name, partial(_with_noise, q.measure, layer), partial(_judged, tolerance=tolerance))
        for q in doubtful
    ]
    held = {law.name: law for law in ask(of_noise, partial(Subject, layer), *given) if law.verdict == HOLDS}
    return [held.get(law.name, law) for law in laws]


def _loses(layer: Layer, given: tuple[Any, ...], tolerance: float) -> bool:
    """Whether rounding may cost JAX's own gradients a thousandth of the tolerance; else no more is compiled."""
    by_jax = lambda *given: Subject(layer, *given).by_jax  # noqa: E731
    try:
        pair = jax.device_get(jax.jit(lambda *given: (by_jax(*given), noisy(by_jax, SEEDS[0])(*given)))(*given))
    except Exception:  # what is wrong with it is told by the laws
        return False
    plain, moved = (jax.tree.leaves(tree) for tree in pair)
    costs = [norm(u - v) * EPS / CHANGE for u, v in zip(moved, plain, strict=True)]
    return any(SLACK * cost > 1e-3 * tolerance * norm(v) for cost, v in zip(costs, plain, strict=True))


def _with_noise(measure: Callable[[Any], Measured | str], layer: Layer, s: Subject) -> Measured:
    plain = measure(s)
    if isinstance(plain, str):
        raise NotAsked(plain)
    again = lambda *given: measure(Subject(layer, *given))  # noqa: E731
    return {"plain": plain, "moved": [noisy(again, seed)(*s.given) for seed in SEEDS]}


def _judged(found: Measured, tolerance: float) -> tuple[str, str]:
    """Every leaf within the tolerance and what rounding costs what was wanted."""
    plain, worst = found["plain"], 0.0
    least = scales(plain)
    moved = [[wanted for _, _, wanted in leaves(each)] for each in found["moved"]]
    for i, (where, got, wanted) in enumerate(leaves(plain)):
        cost = max(norm(each[i] - wanted) for each in moved) * EPS / CHANGE
        off, scale = norm(got - wanted), max(norm(wanted), least[where])
        if not off <= tolerance * scale + SLACK * cost:
            return BROKEN, where
        worst = max(worst, off)
    return HOLDS, f"off by {worst:.1e}, which jax.vjp itself loses to rounding here"
