"""Means and shares over seeds with their intervals, and the verdicts that follow from them.

A verdict looks at one or more cases, each an interval and the bounds that the claim sets. It holds if every interval
lies within its bounds, and does not hold if every one lies outside; where an interval crosses a bound, or some of the
cases hold and others do not, it holds partly. Cases that are Booleans, a yes or no of each seed, are shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import stats

import fnn
from experiments.report.outcomes import Settings, Verdict


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval, mean ± half."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Any) -> Interval:
        """Of independent values [seeds]."""
        return cls(*map(float, interval(values)))

    @property
    def ends(self) -> tuple[float, float]:
        """Where it begins and ends."""
        return self.mean - self.half, self.mean + self.half

    def __str__(self) -> str:
        """To two digits of the half width; small and large numbers by powers of ten."""
        size = max(abs(self.mean), abs(self.half))
        if self.half == 0 or not np.isfinite(self.half):
            of_mean = of_half = ".4g"
        elif 1e-3 <= size < 1e5:
            of_mean = of_half = f".{np.clip(1 - math.floor(math.log10(self.half)), 0, 5)}f"
            of_half = of_half if self.half >= 1e-5 else ".0e"
        else:
            of_mean = of_half = ".1e"
        return f"{self.mean:{of_mean}} ± {self.half:{of_half}}".replace("-", "−")


class Share(NamedTuple):
    """How many seeds of all say yes, with the exact 95 % interval of Clopper and Pearson (1934)."""

    yes: int
    seeds: int

    @classmethod
    def of(cls, values: Any) -> Share:
        """Of Booleans [seeds]."""
        return cls(int(np.sum(values)), len(values))

    @property
    def ends(self) -> tuple[float, float]:
        """Where it begins and ends: quantiles of Beta(k, n − k + 1) and Beta(k + 1, n − k) for k of n."""
        k, n = self
        low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
        high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.ends
        return f"{self.yes} of {self.seeds} ({low:.2f}–{high:.2f})"


def estimate(values: Any) -> Interval | Share:
    """What values [seeds] say: a share if they are Booleans, else a mean."""
    return Share.of(values) if np.asarray(values).dtype == bool else Interval.of(values)


def interval(values: Any, axis: int = 0, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half width of the Student interval over an axis of independent values.

    Equation: mean ± t·s/√n, with s the unbiased standard deviation and t the quantile for n − 1 degrees of freedom.
    """
    values = np.asarray(values, np.float64)
    n = values.shape[axis]
    if n < 2:
        raise ValueError(f"an interval needs at least 2 values, got {n}")
    spread = values.std(axis=axis, ddof=1) / np.sqrt(n)
    return values.mean(axis=axis), stats.t.ppf((1 + confidence) / 2, n - 1) * spread


def sweep_seeds(experiment: Callable[..., Any], settings: Settings, **hyper: Any) -> Any:
    """The experiment for as many seeds as the settings say and every value of the hyper-parameters.

    Returns:
        NumPy arrays with axes [seeds, values of the first hyper-parameter, …] in front. They are the same in each run:
        the key is fixed.
    """
    keys = jax.random.split(jax.random.key(2026), settings.seeds)
    return jax.tree.map(np.asarray, fnn.sweep(experiment, keys, **hyper))


def at_least(claim: str, least: float, cases: Any, why: str = "") -> Verdict:
    """Whether the means are `least` or more; cases are values [seeds], or a dict of them by name."""
    return within(claim, least, np.inf, cases, why)


def at_most(claim: str, most: float, cases: Any, why: str = "") -> Verdict:
    """Whether the means are `most` or less; cases are values [seeds], or a dict of them by name."""
    return within(claim, -np.inf, most, cases, why)


def within(claim: str, low: float, high: float, cases: Any, why: str = "") -> Verdict:
    """Whether the means lie in [low, high]; cases are values [seeds], or a dict of them by name."""
    named = cases if isinstance(cases, Mapping) else {"": cases}
    intervals = {name: estimate(values) for name, values in named.items()}
    told = [f"{name}: {found}" if name else str(found) for name, found in intervals.items()]
    return _judged(claim, list(intervals.values()), low, high, "; ".join(told), why)


def smaller(
    claim: str,
    cases: Mapping[str, tuple[Any, Any]],
    factor: float = 1.0,
    why: str = "",
    *,
    or_equal: bool = False,
) -> Verdict:
    """Whether in each case, "this against that", the first values are below `factor` times the second, seed by seed.

    The differences of the pairs are what is judged, which takes out what the seeds have in common; they are told beside
    the two means. Values that are equal in every seed are not smaller, unless `or_equal`.
    """
    differences, told = [], []
    for name, (one, other) in cases.items():
        difference = np.asarray(one, np.float64) - factor * np.asarray(other, np.float64)
        differences.append(Interval.of(difference))
        judged = "difference" if factor == 1 else f"the first less {factor:g} times the second"
        told.append(f"{name}: {estimate(one)} against {estimate(other)} ({judged} {differences[-1]})")
    largest = 0.0 if or_equal else np.nextafter(0.0, -1.0)
    return _judged(claim, differences, -np.inf, largest, "; ".join(told), why)


def exactly(claim: str, found: Any, expected: Any, measured: str, why: str = "") -> Verdict:
    """Whether whole numbers, or whatever else has no spread, are what they should be; partly if some of them are."""
    equal = np.asarray(found) == np.asarray(expected)
    return Verdict(claim, bool(equal.all()), measured, bool(equal.any()), why)


def _judged(
    claim: str, intervals: Sequence[Interval | Share], low: float, high: float, measured: str, why: str
) -> Verdict:
    inside = [low <= below and above <= high for below, above in (found.ends for found in intervals)]
    outside = [not (above >= low and below <= high) for below, above in (found.ends for found in intervals)]  # or NaN
    return Verdict(claim, all(inside), measured, not all(outside) and not all(inside), why)
