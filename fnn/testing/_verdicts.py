"""Which of two gradients is wrong, if one is, as far as difference quotients with a known error can show."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

import numpy as np

from fnn.testing._quotients import Quotients


class Kind(Enum):
    """The kinds of a verdict, the gravest first, and how each reads."""

    BOTH_NOT_FINITE = "both not finite{there}"
    NOT_FINITE = "{name} wrong{there}, not finite"
    BOTH_WRONG = "both wrong{there}"
    WRONG = "{name} wrong{there}"
    DIFFER = "differ{there}"
    DIFFER_BEYOND_ROUNDING = "differ by more than the rounding of {dtype}"
    RETURNED_DIFFER = "{name} differ{there}"
    AT_KINK = "differ at a kink"
    UNRELIABLE = "difference quotient unreliable"
    NOT_WITH_QUOTIENTS = "agree to {digits} digits, but not with the quotients"
    AGREE_TO_ROUNDING = "agree to the rounding of {dtype}"
    AGREE = "agree to {digits} digits"


class Verdict(NamedTuple):
    """A verdict on two gradients; it prints in words."""

    kind: Kind
    whose: int | None = None
    """which of the two is wrong, 0 or 1; None for both, for neither, and where that is not known"""
    name: str = ""
    """the name of that one; where they return more that differs, its name"""
    dtype: str = ""
    """the dtype in which it is so; empty for float64"""
    digits: int = 0
    """the digits to which the two agree"""

    @property
    def agree(self) -> bool:
        """Whether the two agree, and the quotients do not contradict."""
        return self.kind in (Kind.AGREE, Kind.AGREE_TO_ROUNDING)

    @property
    def blames(self) -> bool:
        """Whether it is known who is wrong."""
        return self.kind in (Kind.BOTH_NOT_FINITE, Kind.NOT_FINITE, Kind.BOTH_WRONG, Kind.WRONG)

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return self.kind not in (Kind.BOTH_NOT_FINITE, Kind.NOT_FINITE)

    def __str__(self) -> str:
        there = f" in {self.dtype}" if self.dtype else ""
        return self.kind.value.format(there=there, name=self.name, dtype=self.dtype, digits=self.digits)


def not_finite(names: tuple[str, str], finite: Sequence[bool], dtype: str = "") -> Verdict:
    """The verdict where one of the two, or both, are not finite."""
    if not any(finite):
        return Verdict(Kind.BOTH_NOT_FINITE, dtype=dtype)
    whose = list(finite).index(False)
    return Verdict(Kind.NOT_FINITE, whose, names[whose], dtype)


def wrong(names: tuple[str, str], right: Sequence[bool], dtype: str = "") -> Verdict:
    """The verdict where one of the two, or both, are wrong, or where two that differ are both as good as the other."""
    if right[0] == right[1]:
        return Verdict(Kind.BOTH_WRONG, dtype=dtype)
    whose = list(right).index(False)
    return Verdict(Kind.WRONG, whose, names[whose], dtype)


def to_rounding(dtype: str, *, agree: bool) -> Verdict:
    """The verdict where the forward pass itself rounds to a dtype, so that nothing else can be judged."""
    return Verdict(Kind.AGREE_TO_ROUNDING if agree else Kind.DIFFER_BEYOND_ROUNDING, dtype=dtype)


def of_leaf(
    names: tuple[str, str], relative: float, tolerance: float, exact: list[np.ndarray], found: Quotients | None
) -> Verdict:
    """The verdict on one leaf of the two gradients.

    Args:
        names: what the two are called.
        relative: how far they are apart.
        tolerance: how far they may be.
        exact: both, flat, in float64.
        found: quotients at some of the entries; None where nothing judges.

    Returns:
        One of the verdicts of `fnn.compare_gradients`; "differ" without quotients.
    """
    finite = [bool(np.isfinite(g).all()) for g in exact]
    if not all(finite):
        return not_finite(names, finite)
    agree = relative <= tolerance
    if found is None:
        return _to_digits(relative) if agree else Verdict(Kind.DIFFER)
    counts = ~found.kink & np.isfinite(found.error)
    u, v = (g[found.at[counts]] for g in exact)
    D, E = found.value[counts], found.error[counts]
    if agree:
        negligible = 1e-6 * np.max(np.abs(exact[1]), initial=0)
        away = np.minimum(np.abs(u - D), np.abs(v - D)) > 100 * E + negligible
        return _to_digits(relative, Kind.NOT_WITH_QUOTIENTS if away.any() else Kind.AGREE)
    apart = np.abs(u - v)
    visible = apart > 30 * E
    if not visible.any():
        if np.abs(exact[0] - exact[1])[found.at[found.kink]].any():
            return Verdict(Kind.AT_KINK)
        return Verdict(Kind.UNRELIABLE)
    return wrong(names, [bool(np.all(np.abs(g - D)[visible] < (10 * E + 1e-3 * apart)[visible])) for g in (u, v)])


def of_all(found: Sequence[Verdict], between: Sequence[float], rounds_to: str = "") -> Verdict:
    """The gravest of the verdicts.

    Args:
        found: those of the leaves, and on what else the two return.
        between: how far the two are apart in each leaf.
        rounds_to: the dtype to which the forward pass itself rounds, if it does.

    Returns:
        One verdict; "both wrong" where each is wrong in a leaf.
    """
    blamed = {verdict.whose: verdict for verdict in found if verdict.kind is Kind.WRONG}
    if {0, 1} <= blamed.keys():
        found = [*found, Verdict(Kind.BOTH_WRONG, dtype=blamed[0].dtype and blamed[1].dtype)]
    kinds = list(Kind)
    gravest = min(found, key=lambda v: (kinds.index(v.kind), v.whose or 0), default=_to_digits(0))
    if gravest.kind is Kind.AGREE and rounds_to:
        return to_rounding(rounds_to, agree=True)
    if gravest.kind in (Kind.AGREE, Kind.NOT_WITH_QUOTIENTS):
        return _to_digits(max(between, default=0.0), gravest.kind)
    return gravest


def _to_digits(relative: float, kind: Kind = Kind.AGREE) -> Verdict:
    return Verdict(kind, digits=16 if relative <= 1e-16 else int(-np.log10(relative)))
