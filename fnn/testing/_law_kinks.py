"""Whether x lies on a kink of forward, where `jax.vjp` takes one of many slopes that are all as good.

`jnp.maximum(x, 0)` has slope ½ at 0 for JAX, 0 or 1 for somebody else. So where a law that compares with JAX is broken,
x and the params are moved off, eight times, by about a thousandth. If JAX's own gradient jumps between these points,
the law is asked at one of them; and what the layer's own backward gives at x must lie between what it gives there, but
for once the width of that range.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core.types import Layer
from fnn.testing._asking import Question, ask
from fnn.testing._passes import Subject
from fnn.testing._trees import is_float
from fnn.testing.reports import BROKEN, HOLDS, Law

POINTS = 8

STEP = 1e-3

JUMP = 0.05
"""Of the largest entry of a leaf: more than a smooth gradient changes by within such steps."""


class Beside(NamedTuple):
    """Points beside x and the params."""

    params: Any
    x: Any
    between: bool
    """whether backward at x lies between what it gives there"""


def found(layer: Layer, given: tuple[Any, Any, Any, Any]) -> Beside | None:
    """The points beside a kink; None where there is none, or where the layer does not run at all."""
    params, state, x, key = given
    points = [(params, x), *(_moved((params, x), seed, sign) for seed in range(POINTS // 2) for sign in (1, -1))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)

    def passes(at: Any) -> Any:
        s = Subject(layer=layer, params=at[0], state=state, x=at[1], key=key)
        return s.by_hand, s.by_jax

    try:
        by_hand, by_jax = jax.device_get(jax.jit(lambda points: jax.lax.map(passes, points))(stacked))
    except Exception:  # what is wrong with it is told by the laws
        return None
    jumps = [
        np.max(np.abs(g[1:] - g[0]), initial=0) > JUMP * np.max(np.abs(g), initial=0) for g in jax.tree.leaves(by_jax)
    ]
    if not any(jumps):
        return None
    between = all(_between(leaf[0], leaf[1:]) for leaf in jax.tree.leaves(by_hand))
    return Beside(points[1][0], points[1][1], between)


def _moved(tree: Any, seed: int, sign: int) -> Any:
    """Every float moved by about a thousandth of the largest of its leaf, up or down."""
    rng = np.random.default_rng(seed)

    def move(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        step = STEP * (float(jnp.max(jnp.abs(leaf), initial=0)) or 1.0) * sign
        return leaf + step * jnp.asarray(rng.choice((-1, 1), leaf.shape) * rng.uniform(0.5, 1, leaf.shape), leaf.dtype)

    return jax.tree.map(move, tree)


def _between(at: np.ndarray, beside: np.ndarray) -> bool:
    low, high = np.min(beside, axis=0), np.max(beside, axis=0)
    slack = high - low + STEP * np.max(np.abs(beside), initial=0)
    return bool(np.all((at >= low - slack) & (at <= high + slack)))


def asked_beside(
    laws: list[Law], questions: list[Question], layer: Layer, given: tuple[Any, Any, Any, Any]
) -> list[Law]:
    """The laws, those of the questions that are broken asked again where x and the params are off a kink.

    Args:
        laws: all that were asked.
        questions: those that compare with JAX's gradients.
        layer: whose laws they are.
        given: its params, state, x and key.

    Returns:
        The laws in their order; the findings name the kink.
    """
    broken = {law.name for law in laws if law.verdict == BROKEN}
    doubtful = [question for question in questions if question.name in broken]
    beside = found(layer, given) if doubtful else None
    if beside is None:
        return laws
    again = ask(doubtful, partial(Subject, layer), beside.params, given[1], beside.x, given[3])
    held = {law.name: law.finding for law in again if law.verdict == HOLDS}

    def told(law: Law) -> Law:
        if law.name not in held:
            return law
        if not beside.between:
            return law._replace(
                finding=f"x lies on a kink of forward, and not between the slopes beside it: {law.finding}"
            )
        return Law(law.name, HOLDS, f"{held[law.name]} beside x, which lies on a kink of forward")

    return [told(law) for law in laws]
