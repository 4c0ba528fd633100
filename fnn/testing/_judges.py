"""The judges: from pairs of trees (got, wanted) to an outcome and a finding in words."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from fnn.testing._asking import Judge, Measured, each_leaf
from fnn.testing._trees import norm_of_all, numbers, relative_error
from fnn.testing.reports import Outcome

LEAST = 1e-3
"""The part of a tree's norm that a leaf of it is measured by at least."""


def close(hint: str) -> Judge:
    """The relative error ‖got − wanted‖/‖wanted‖ of every leaf is small; see `relative_errors`."""

    def judge(found: Measured, tolerance: float) -> tuple[Outcome, str]:
        errors = relative_errors(found)
        if not errors:
            return Outcome.HOLDS, "no leaves to compare"
        where, worst = largest(errors)
        finding = f"off by {worst:.1e} at {where}"
        return (Outcome.HOLDS, finding) if worst <= tolerance else (Outcome.BROKEN, f"{finding}: {hint}")

    return judge


def equal(hint: str) -> Judge:
    """Every leaf is equal to the last bit; NaN equals NaN, which is another law's matter."""

    def judge(found: Measured, tolerance: float) -> tuple[Outcome, str]:
        for where, got, wanted in leaves(found):
            if not np.array_equal(got, wanted, equal_nan=jnp.issubdtype(got.dtype, jnp.inexact)):
                off = np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64)))
                return Outcome.BROKEN, f"off by {off:.1e} at {where}: {hint}"
        return Outcome.HOLDS, "to the last bit"

    return judge


def repeated(hint: str) -> Judge:
    """The same again: equal but for what a compiler makes of one equation in two places, which may round otherwise."""
    to_the_bit, nearly = equal(hint), close(hint)

    def judge(found: Measured, tolerance: float) -> tuple[Outcome, str]:
        outcome, finding = to_the_bit(found, tolerance)
        return (outcome, finding) if outcome is Outcome.HOLDS else nearly(found, tolerance)

    return judge


def finite(hint: str) -> Judge:
    """No NaN and no infinity in what was got."""

    def judge(found: Measured, tolerance: float) -> tuple[Outcome, str]:
        for where, got, _ in leaves(found):
            if strange := int(np.sum(~np.isfinite(got))):
                return Outcome.BROKEN, f"{strange} of {got.size} numbers are NaN or infinite at {where}: {hint}"
        return Outcome.HOLDS, "all numbers are finite"

    return judge


def leaves(found: Measured) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The name of every leaf, what was got and what was wanted."""
    return [
        (where, numbers(u), numbers(v))
        for name, (got, wanted) in found.items()
        for where, u, v in each_leaf(name, got, wanted)
    ]


def relative_errors(found: Measured, least: float = LEAST) -> dict[str, float]:
    """The `relative_error` of each leaf, measured by a `least` part of its tree at least."""
    scales = least_scales(found, least)
    return {where: relative_error(got, wanted, scales[where]) for where, got, wanted in leaves(found)}


def least_scales(found: Measured, least: float = LEAST) -> dict[str, float]:
    """Of each leaf a `least` part of ‖wanted‖ of all its tree."""
    scales = {}
    for name, pair in found.items():
        rows = leaves({name: pair})
        whole = norm_of_all([wanted for _, _, wanted in rows])
        scales |= {where: least * whole for where, _, _ in rows}
    return scales


def largest(errors: dict[str, float]) -> tuple[str, float]:
    """The largest of the errors and where it is; NaN is larger than any number."""
    return max(errors.items(), key=lambda pair: np.inf if np.isnan(pair[1]) else pair[1])
