"""The intervals of a claim's cases, drawn one below the other beside the bounds that the claim sets: a forest plot."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from experiments.report.outcomes import Case, Verdict
from experiments.report.plots import power

_DECADES = 1.5
"""from this many on positive numbers stand on a logarithmic axis"""
_MARGIN = 0.06
"""of the axis beyond the outermost end, as a share of what is between"""


class Row(NamedTuple):
    """A case, and where its interval is drawn, in per cent of the width."""

    case: Case
    place: tuple[float, float, float] | None
    """lower end, value and upper end; None for a case without an interval"""


class Forest(NamedTuple):
    """Where everything is drawn, in per cent of the width."""

    rows: list[Row]
    allowed: tuple[float, float]
    """what lies within the bounds of the claim"""
    ticks: list[tuple[float, str]]


def forest(verdict: Verdict) -> Forest | None:
    """The drawing of a verdict; None if no case has an interval."""
    intervals = [case.interval for case in verdict.cases if case.interval]
    if not intervals:
        return None
    bounds = [bound for bound in verdict.bounds if bound is not None]
    shown = np.array([end for interval in intervals for end in interval] + bounds)
    logarithmic = bool(shown.min() > 0 and shown.max() >= 10**_DECADES * shown.min())
    scale: Callable[..., np.ndarray] = np.log10 if logarithmic else np.asarray
    low, high = scale(shown).min(), scale(shown).max()
    margin = _MARGIN * (high - low) or 1.0
    low, width = low - margin, high - low + 2 * margin

    def place(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else round(float(100 * (scale(value) - low) / width), 2)

    rows = [Row(case, _three(case, lambda end: place(end, 0.0))) for case in verdict.cases]
    least, most = verdict.bounds
    locator = LogLocator(numticks=4) if logarithmic else MaxNLocator(3)
    ends = (10**low, 10 ** (low + width)) if logarithmic else (low, low + width)
    ticks = [(place(tick, 0.0), power(round(float(tick), 12))) for tick in locator.tick_values(*ends)]
    return Forest(rows, (place(least, 0.0), place(most, 100.0)), [tick for tick in ticks if 0 <= tick[0] <= 100])


def _three(case: Case, place: Callable[[float], float]) -> tuple[float, float, float] | None:
    if case.interval is None:
        return None
    low, middle, high = map(place, case.interval)
    return low, middle, high
