"""Means and shares over seeds with their intervals, and the verdicts that follow from them.

A verdict looks at one or more cases. A case holds if its interval lies within the bounds that the claim sets, fails if
it lies outside, and is open if it crosses a bound. The claim holds if all of its cases do, partly if some hold and some
fail, and not if some fail and none holds; it is open if some cases are open and none fails. Cases that are Booleans, a
yes or no of each seed, are shares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import fnn
from experiments.report.outcomes import Case, Claim, Settings, Verdict


class Estimate(Protocol):
    """A value with an interval around it."""

    @property
    def ends(self) -> tuple[float, float]:
        """Where the interval begins and ends."""
        ...

    @property
    def middle(self) -> float:
        """The value."""
        ...


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

    @property
    def middle(self) -> float:
        """The mean."""
        return self.mean

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

    @property
    def middle(self) -> float:
        """The share of the seeds that say yes."""
        return self.yes / self.seeds

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


def sweep_seeds(experiment: Callable[..., Any], settings: Settings, first: int = 2026, **hyper: Any) -> Any:
    """The experiment for every seed that the settings ask for and every value of the hyper-parameters.

    Args:
        experiment: ``(key, **hyper) -> tree of arrays``.
        settings: how many seeds.
        first: the seed of the key that is split into those of all runs, the same in each call.
        hyper: values of each hyper-parameter, [values, …]; float32 or int32, whatever they are given as.

    Returns:
        NumPy arrays with axes [seeds, values of the first hyper-parameter, …] in front.
    """
    keys = jax.random.split(jax.random.key(first), settings.seeds)
    narrow = {"f": jnp.float32, "i": jnp.int32, "b": jnp.bool_}
    values: Any = {name: jnp.asarray(v, narrow[np.asarray(v).dtype.kind]) for name, v in hyper.items()}
    return jax.tree.map(np.asarray, fnn.sweep(experiment, keys, **values))


def by_case(values: Any, names: Iterable[Any], name: str = "{}") -> dict[str, Any]:
    """Values [seeds, cases, …] as {name of the case: values [seeds, …]}; such as `by_case(loss, RATES, "η = {:g}")`."""
    names = list(names)
    if len(names) != np.shape(values)[1]:
        raise ValueError(f"by_case: expected values [seeds, {len(names)}, …], got {np.shape(values)}. Name every case.")
    return {name.format(case): np.asarray(values)[:, i] for i, case in enumerate(names)}


def best(values: Any) -> int:
    """The index of the hyper-parameter with the largest mean over seeds, of values [seeds, hyper-parameters]."""
    return int(np.argmax(np.mean(values, axis=0)))


def intervals(cases: Mapping[Any, Any]) -> dict[str, Interval]:
    """The mean with its interval of each case, whose values are [seeds]."""
    return {str(name): Interval.of(values) for name, values in cases.items()}


def judged(claim: Claim | str, holds: Any, measured: str) -> Verdict:
    """The verdict on a claim of one case that was judged elsewhere."""
    return judged_each(claim, {"": (holds, measured)})


def judged_each(claim: Claim | str, cases: Mapping[str, tuple[Any, str]]) -> Verdict:
    """The verdict on cases that were judged elsewhere, by name: whether each holds, and what was measured."""
    text, why, quantity = _sentence(claim)
    return Verdict(text, tuple(Case(name, said, bool(holds)) for name, (holds, said) in cases.items()), why, quantity)


def bounded(
    claim: Claim | str,
    low: float,
    high: float,
    cases: Mapping[str, Estimate],
    measured: Callable[[Any], str] | Mapping[str, str] = str,
) -> Verdict:
    """The verdict on estimates, by name, that the claim bounds by [low, high].

    Args:
        claim: what is judged.
        low: the least that is allowed; −∞ for no bound.
        high: the most; ∞ for no bound.
        cases: by name, what has an interval.
        measured: how an estimate is said in words, or those words by name.
    """
    text, why, quantity = _sentence(claim)
    said = measured if isinstance(measured, Mapping) else {name: measured(of) for name, of in cases.items()}
    judged = (Case(name, said[name], *_placed(of, low, high)) for name, of in cases.items())
    least, most = (float(bound) if math.isfinite(bound) else None for bound in (low, high))
    return Verdict(text, tuple(judged), why, quantity, (least, most))


def _placed(of: Estimate, low: float, high: float) -> tuple[bool | None, tuple[float, float, float] | None]:
    """Whether an interval lies in [low, high], None where it crosses an end; and the interval, if it is finite."""
    (begin, end), middle = of.ends, of.middle
    interval = (begin, middle, end)
    if low <= begin and end <= high:
        holds = True
    else:
        holds = None if end >= low and begin <= high else False  # NaN fails
    return holds, interval if all(map(math.isfinite, interval)) else None


def at_least(claim: Claim | str, least: float, cases: Any) -> Verdict:
    """Whether the means are `least` or more; cases are values [seeds], or a dict of them by name."""
    return within(claim, least, np.inf, cases)


def at_most(claim: Claim | str, most: float, cases: Any) -> Verdict:
    """Whether the means are `most` or less; cases are values [seeds], or a dict of them by name."""
    return within(claim, -np.inf, most, cases)


def within(claim: Claim | str, low: float, high: float, cases: Any) -> Verdict:
    """Whether the means lie in [low, high]; cases are values [seeds], or a dict of them by name."""
    named = cases if isinstance(cases, Mapping) else {"": cases}
    return bounded(claim, low, high, {name: estimate(values) for name, values in named.items()})


def smaller(
    claim: Claim | str, cases: Mapping[str, tuple[Any, Any]], factor: float = 1.0, *, or_equal: bool = False
) -> Verdict:
    """Whether in each case, "this against that", the first values are below `factor` times the second, seed by seed.

    The verdict is on the differences of the pairs, which leaves out what the seeds have in common; they are printed
    beside the two means. Values that are equal in every seed are not smaller, unless `or_equal`.
    """
    differences, measured = {}, {}
    for name, (one, other) in cases.items():
        difference = np.asarray(one, np.float64) - factor * np.asarray(other, np.float64)
        differences[name] = Interval.of(difference)
        what = "difference" if factor == 1 else f"the first less {factor:g} times the second"
        measured[name] = f"{estimate(one)} against {estimate(other)} ({what} {differences[name]})"
    largest = 0.0 if or_equal else np.nextafter(0.0, -1.0)
    return bounded(claim, -np.inf, float(largest), differences, measured)


def exactly(claim: Claim | str, found: Any, expected: Any, measured: str) -> Verdict:
    """Whether whole numbers, or other values without spread, all equal the expected ones."""
    return judged(claim, (np.asarray(found) == np.asarray(expected)).all(), measured)


def _sentence(claim: Claim | str) -> Claim:
    return Claim(claim) if isinstance(claim, str) else claim
