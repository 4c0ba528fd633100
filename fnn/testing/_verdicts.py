"""Which of two gradients is wrong, if one is: what difference quotients that know their own error can tell."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

import numpy as np

from fnn.testing._quotients import Quotients


class Kind(Enum):
    """What a verdict says, the gravest first."""

    BOTH_NOT_FINITE = auto()
    NOT_FINITE = auto()
    BOTH_WRONG = auto()
    WRONG = auto()
    DIFFER = auto()
    RETURNED_DIFFER = auto()
    AT_KINK = auto()
    UNRELIABLE = auto()
    NOT_WITH_QUOTIENTS = auto()
    AGREE = auto()

    @property
    def is_told(self) -> bool:
        """Whether it is known who is wrong."""
        return self in (Kind.BOTH_NOT_FINITE, Kind.NOT_FINITE, Kind.BOTH_WRONG, Kind.WRONG)

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return self not in (Kind.BOTH_NOT_FINITE, Kind.NOT_FINITE)


class Verdict(str):
    """A verdict in words, which knows what it says."""

    kind: Kind
    whose: int | None
    """which of the two is wrong, 0 or 1; None for both, for neither, and where that is not known"""
    dtype: str
    """the dtype in which it is so; empty for float64"""

    def __new__(cls, words: str, kind: Kind, whose: int | None = None, dtype: str = "") -> Verdict:
        """The words, and what they say."""
        verdict = super().__new__(cls, words)
        verdict.kind, verdict.whose, verdict.dtype = kind, whose, dtype
        return verdict

    def __reduce__(self) -> tuple[type[Verdict], tuple[str, Kind, int | None, str]]:
        """For copies and pickles."""
        return Verdict, (str(self), self.kind, self.whose, self.dtype)


def not_finite(names: tuple[str, str], finite: Sequence[bool], dtype: str = "") -> Verdict:
    """The verdict where one of the two, or both, are not finite."""
    there = f" in {dtype}" if dtype else ""
    if not any(finite):
        return Verdict(f"both not finite{there}", Kind.BOTH_NOT_FINITE, None, dtype)
    whose = list(finite).index(False)
    return Verdict(f"{names[whose]} wrong{there}, not finite", Kind.NOT_FINITE, whose, dtype)


def wrong(names: tuple[str, str], right: Sequence[bool], dtype: str = "") -> Verdict:
    """The verdict where one of the two, or both, are wrong, or where two that differ are both as good as the other."""
    there = f" in {dtype}" if dtype else ""
    if right[0] == right[1]:
        return Verdict(f"both wrong{there}", Kind.BOTH_WRONG, None, dtype)
    whose = list(right).index(False)
    return Verdict(f"{names[whose]} wrong{there}", Kind.WRONG, whose, dtype)


def differ(dtype: str = "") -> Verdict:
    """The verdict where nobody judges."""
    return Verdict(f"differ in {dtype}" if dtype else "differ", Kind.DIFFER, None, dtype)


def to_rounding(dtype: str, *, agree: bool) -> Verdict:
    """The verdict where the forward pass itself rounds to a dtype, and nobody can tell more."""
    if agree:
        return Verdict(f"agree to the rounding of {dtype}", Kind.AGREE)
    return Verdict(f"differ by more than the rounding of {dtype}", Kind.DIFFER, None, dtype)


def of_leaf(
    names: tuple[str, str], relative: float, tolerance: float, exact: list[np.ndarray], found: Quotients | None
) -> Verdict:
    """The verdict on one leaf of the two gradients.

    Args:
        names: what the two are called.
        relative: how far they are apart.
        tolerance: how far they may be.
        exact: both, flat, in float64.
        found: quotients at some of the entries; None where there is nobody to judge.

    Returns:
        One of the verdicts of `fnn.compare_gradients`; "differ" without quotients.
    """
    finite = [bool(np.isfinite(g).all()) for g in exact]
    if not all(finite):
        return not_finite(names, finite)
    agree = relative <= tolerance
    if found is None:
        return _digits(relative) if agree else differ()
    counts = ~found.kink & np.isfinite(found.error)
    u, v = (g[found.at[counts]] for g in exact)
    D, E = found.value[counts], found.error[counts]
    if agree:
        negligible = 1e-6 * np.max(np.abs(exact[1]), initial=0)
        away = np.minimum(np.abs(u - D), np.abs(v - D)) > 100 * E + negligible
        return _not_with_quotients(_digits(relative)) if away.any() else _digits(relative)
    apart = np.abs(u - v)
    told = apart > 30 * E
    if not told.any():
        if np.abs(exact[0] - exact[1])[found.at[found.kink]].any():
            return Verdict("differ at a kink", Kind.AT_KINK)
        return Verdict("difference quotient unreliable", Kind.UNRELIABLE)
    return wrong(names, [bool(np.all(np.abs(g - D)[told] < (10 * E + 1e-3 * apart)[told])) for g in (u, v)])


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
        found = [*found, wrong(("", ""), (False, False), blamed[0].dtype and blamed[1].dtype)]
    kinds = list(Kind)
    gravest = min(found, key=lambda v: (kinds.index(v.kind), v.whose or 0), default=_digits(0))
    if gravest.kind is Kind.AGREE:
        return to_rounding(rounds_to, agree=True) if rounds_to else _digits(max(between, default=0.0))
    return _not_with_quotients(_digits(max(between))) if gravest.kind is Kind.NOT_WITH_QUOTIENTS else gravest


def _not_with_quotients(digits: Verdict) -> Verdict:
    return Verdict(f"{digits}, but not with the quotients", Kind.NOT_WITH_QUOTIENTS)


def _digits(relative: float) -> Verdict:
    return Verdict(f"agree to {16 if relative <= 1e-16 else int(-np.log10(relative))} digits", Kind.AGREE)
