"""The judges: from pairs of trees (got, wanted) to a verdict and a finding in words."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.derivatives import _checks as derivatives_checks
from fnn.testing._asking import Judge, Measured
from fnn.testing._trees import named, norm
from fnn.testing.reports import BROKEN, HOLDS


def by_shape(found: Measured) -> tuple[str, str]:
    """For a law that holds or not by shapes and dtypes; nothing is left to judge."""
    return HOLDS, ""


def close(tolerance: float, look_at: str) -> Judge:
    """The relative error ‖got − wanted‖/‖wanted‖ of every leaf is small; see `relative_errors`."""

    def judge(found: Measured) -> tuple[str, str]:
        errors = relative_errors(found)
        if not errors:
            return HOLDS, "no leaves to compare"
        where, worst = max(errors.items(), key=lambda pair: np.inf if np.isnan(pair[1]) else pair[1])
        finding = f"off by {worst:.1e} at {where}"
        return (HOLDS, finding) if worst <= tolerance else (BROKEN, f"{finding}: {look_at}")

    return judge


def equal(look_at: str) -> Judge:
    """Every leaf is equal to the last bit; NaN equals NaN, which is another law's matter."""

    def judge(found: Measured) -> tuple[str, str]:
        for where, got, wanted in leaves(found):
            if not np.array_equal(got, wanted, equal_nan=jnp.issubdtype(got.dtype, jnp.inexact)):
                off = np.max(np.abs(got.astype(np.float64) - wanted.astype(np.float64)))
                return BROKEN, f"off by {off:.1e} at {where}: {look_at}"
        return HOLDS, "to the last bit"

    return judge


def repeated(tolerance: float, look_at: str) -> Judge:
    """The same again: equal but for what a compiler makes of one equation in two places, which may round otherwise."""
    to_the_bit, nearly = equal(look_at), close(tolerance, look_at)

    def judge(found: Measured) -> tuple[str, str]:
        verdict, finding = to_the_bit(found)
        return (verdict, finding) if verdict == HOLDS else nearly(found)

    return judge


def finite(look_at: str) -> Judge:
    """No NaN and no infinity in what was got."""

    def judge(found: Measured) -> tuple[str, str]:
        for where, got, _ in leaves(found):
            if strange := int(np.sum(~np.isfinite(got))):
                return BROKEN, f"{strange} of {got.size} numbers are NaN or infinite at {where}: {look_at}"
        return HOLDS, "all numbers are finite"

    return judge


def leaves(found: Measured) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """The name of every leaf, what was got and what was wanted."""
    return [
        (named(name, keys), _wide(u), _wide(v))
        for name, (got, wanted) in found.items()
        for (keys, u), v in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True)
    ]


def _wide(leaf: Any) -> np.ndarray:
    """Floats in float64, others as they are; of the keys of `jax.random.key` their numbers."""
    leaf = np.asarray(jax.random.key_data(leaf) if derivatives_checks.is_key(leaf) else leaf)
    return leaf.astype(np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def relative_errors(found: Measured) -> dict[str, float]:
    """‖got − wanted‖/‖wanted‖ of each leaf, where no ‖wanted‖ counts as less than a thousandth of all its tree.

    A leaf that is 0 in exact arithmetic, such as the gradient of a bias ahead of `batch_norm`, has nothing but rounding
    to be relative to. Where all of the tree is 0, another number is infinitely far off.
    """
    errors, least = {}, scales(found)
    for where, got, wanted in leaves(found):
        got, wanted = got.astype(np.float64), wanted.astype(np.float64)
        difference, scale = norm(got - wanted), max(norm(wanted), least[where])
        errors[where] = float(difference / scale) if scale else (0.0 if difference == 0 else np.inf)
    return errors


def scales(found: Measured) -> dict[str, float]:
    """Of each leaf a thousandth of ‖wanted‖ of all its tree."""
    of_tree = {}
    for name, pair in found.items():
        rows = leaves({name: pair})
        whole = norm(np.array([norm(wanted) for _, _, wanted in rows]))
        of_tree |= {where: 1e-3 * whole for where, _, _ in rows}
    return of_tree
