"""Which of two gradients is wrong, if one is: what difference quotients that know their own error can tell."""

from __future__ import annotations

import numpy as np

from fnn.compare.quotients import Quotients


def of_leaf(
    names: tuple[str, str], relative: float, tolerance: float, exact: list[np.ndarray], found: Quotients | None
) -> str:
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
        return "both not finite" if not any(finite) else f"{names[finite.index(False)]} wrong, not finite"
    agree = relative <= tolerance
    if found is None:
        return _digits(relative) if agree else "differ"
    counts = ~found.kink & np.isfinite(found.error)
    u, v = (g[found.at[counts]] for g in exact)
    D, E = found.value[counts], found.error[counts]
    if agree:
        negligible = 1e-6 * np.max(np.abs(exact[1]), initial=0)
        away = np.minimum(np.abs(u - D), np.abs(v - D)) > 100 * E + negligible
        return f"{_digits(relative)}, but not with the quotients" if away.any() else _digits(relative)
    apart = np.abs(u - v)
    told = apart > 30 * E
    if not told.any():
        at_kinks = np.abs(exact[0] - exact[1])[found.at[found.kink]]
        return "differ at a kink" if at_kinks.any() else "difference quotient unreliable"
    first, second = (bool(np.all(np.abs(g - D)[told] < (10 * E + 1e-3 * apart)[told])) for g in (u, v))
    return f"{names[first]} wrong" if first != second else "both wrong"


def of_all(names: tuple[str, str], verdicts: list[str], between: list[float]) -> str:
    """The gravest of the leaves' verdicts.

    Args:
        names: what the two are called.
        verdicts: of each leaf.
        between: how far the two are apart in each leaf.

    Returns:
        One verdict; "both wrong" where each is wrong in a leaf.
    """
    found = set(verdicts)
    wrong = [f"{name} wrong" for name in names]
    if found.issuperset(wrong):
        found.add("both wrong")
    grave = ["both not finite", *(f"{verdict}, not finite" for verdict in wrong), "both wrong", *wrong]
    for verdict in (*grave, "differ", "differ at a kink", "difference quotient unreliable"):
        if verdict in found:
            return verdict
    digits = _digits(max(between, default=0.0))
    return f"{digits}, but not with the quotients" if any("but not" in verdict for verdict in found) else digits


def _digits(relative: float) -> str:
    return f"agree to {16 if relative <= 1e-16 else int(-np.log10(relative))} digits"
