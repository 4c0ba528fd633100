"""Schedules: learning rates as functions of the step t = 0, 1, …, for the η of every optimizer.

Any function from the step, an int32 scalar, to a rate is a schedule; these are the usual ones. Their numbers of steps
are whole; their rates may be tracers, so that `fnn.sweep` can vary them. A schedule counts the steps of its own
optimizer: under `accumulated` these are fewer than the batches.

Example:
    >>> import jax.numpy as jnp
    >>> from fnn import adam
    >>> rate = warm_up(cosine_decay(0.1, 90), 10)
    >>> rate
    warm_up(cosine_decay(0.1, 90), 10)
    >>> [round(float(rate(jnp.int32(t))), 4) for t in (0, 5, 10, 55, 100)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    >>> optimizer = adam(rate)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.types import Array, Rate
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import rate_at


class Schedule(NamedTuple):
    """A function from the step t to a rate, which prints as the call that made it."""

    rate: Callable[[Array], Array]
    label: str

    def __call__(self, step: Array) -> Array:
        """The rate of a step."""
        return self.rate(step)

    def __repr__(self) -> str:
        return self.label


def ramp(start: Any, end: Any, steps: int) -> Schedule:
    """A rate that changes linearly from `start` at t = 0 to `end` at t = steps, where it stays.

    Equation::

        η_t = start + (end − start)·min(t, steps)/steps
    """
    checks.not_negative("start", start)
    checks.not_negative("end", end)
    steps = checks.count("steps", steps)
    return Schedule(lambda t: _between(start, end, _progress(t, steps)), call_repr("ramp", start, end, steps))


def cosine_decay(eta: Any, steps: int, end: Any = 0.0) -> Schedule:
    """A rate that falls from η at t = 0 to `end` at t = steps along half a cosine, and stays there.

    Equation::

        η_t = end + (η − end)·(1 + cos(π·min(t, steps)/steps))/2

    Source: I. Loshchilov, F. Hutter, *SGDR: Stochastic gradient descent with warm restarts*, 2017, without restarts;
    `joined` makes restarts of several of them.
    """
    checks.not_negative("eta", eta)
    checks.not_negative("end", end)
    steps = checks.count("steps", steps)

    def rate(t: Array) -> Array:
        half = jnp.pi / 2 * _progress(t, steps)
        return _between(end, eta, jnp.square(jnp.cos(half)))  # (1 + cos 2α)/2 = cos²α

    return Schedule(rate, call_repr("cosine_decay", eta, steps, end=(end, 0.0)))


def exponential_decay(eta: Any, factor: Any, every: int, stairs: bool = False) -> Schedule:
    """A rate that is multiplied by `factor` in every `every` steps.

    Equation::

        η_t = η·factor^(t/every)                with stairs: η·factor^⌊t/every⌋
    """
    checks.not_negative("eta", eta)
    checks.positive("factor", factor)
    every = checks.count("every", every)
    known = checks.concrete(factor)
    log = jnp.log(_float(factor)) if known is None else math.log(known)  # of a factor close to 1, float32 keeps nothing

    def rate(t: Array) -> Array:
        whole, part = jnp.divmod(t, every)
        power = _float(whole) if stairs else _float(whole) + _float(part) / every
        return _float(eta) * jnp.exp(power * _float(log))

    return Schedule(rate, call_repr("exponential_decay", eta, factor, every, stairs=(stairs, False)))


def piecewise_constant(rates: Mapping[int, Any]) -> Schedule:
    """A rate for each stretch of steps: ``{0: 0.1, 1000: 0.01}`` is 0.1 up to step 999 and 0.01 from step 1000 on."""
    starts = [checks.count("the step of a rate", start, least=0) for start in rates]
    if starts[:1] != [0] or starts != sorted(set(starts)):
        raise ValueError(
            f"piecewise_constant: expected rising steps from 0 on, got {starts}. Begin with the rate of step 0."
        )
    for start, eta in rates.items():
        checks.not_negative(f"the rate from step {start}", eta)

    def rate(t: Array) -> Array:
        place = jnp.sum(jnp.asarray(t) >= jnp.asarray(starts, jnp.result_type(t))) - 1
        return jnp.stack([_float(eta) for eta in rates.values()])[place]

    return Schedule(rate, call_repr("piecewise_constant", dict(rates)))


def joined(*parts: Any) -> Schedule:
    """Schedules one after another: pairs (schedule or number, steps), the last without steps. Each starts at its t = 0.

    Example:
        >>> import jax.numpy as jnp
        >>> saw = joined((cosine_decay(1.0, 2), 2), (cosine_decay(0.5, 2), 2), 0.0)
        >>> [round(float(saw(jnp.int32(t))), 3) for t in range(5)]
        [1.0, 0.5, 0.5, 0.25, 0.0]
    """
    if not parts:
        raise TypeError("joined: expected schedules, got none. Pass pairs (schedule, steps) and a last schedule.")
    timed, last = parts[:-1], parts[-1]
    if not all(isinstance(part, tuple) and not callable(part) and len(part) == 2 for part in timed):
        raise TypeError(
            f"joined: expected pairs (schedule, steps) before the last schedule, got {checks.shown(timed)}."
        )
    pieces = [(eta, checks.count("steps", steps)) for eta, steps in timed]
    for eta in [*(eta for eta, _ in pieces), last]:
        optimizers_checks.rate("a rate of joined", eta)

    ends = list(accumulate((steps for _, steps in pieces), initial=0))

    def rate(t: Array) -> Array:
        found = _float(rate_at(last, jnp.maximum(t - ends[-1], 0)))
        for (eta, steps), end in zip(reversed(pieces), reversed(ends[1:]), strict=True):
            own = jnp.clip(t - (end - steps), 0, steps)
            found = jnp.where(t < end, _float(rate_at(eta, own)), found)
        return found

    return Schedule(rate, call_repr("joined", *parts))


def warm_up(eta: Rate, steps: int, start: Any = 0.0) -> Schedule:
    """A rate that rises linearly from `start` over the first steps to the schedule's first rate, then the schedule.

    Equation::

        η_t = start + (η(0) − start)·t/steps    for t < steps          η(t − steps) after that

    Step 0 has the rate `start`; a `start` of 0 makes it a step that changes nothing but the averages.
    """
    optimizers_checks.rate("eta", eta)
    checks.not_negative("start", start)
    steps = checks.count("steps", steps)

    def rate(t: Array) -> Array:
        first = rate_at(eta, jnp.zeros_like(t))
        rising = _between(start, first, _progress(t, steps))
        return jnp.where(t < steps, rising, _float(rate_at(eta, jnp.maximum(t - steps, 0))))

    return Schedule(rate, call_repr("warm_up", eta, steps, start=(start, 0.0)))


def _float(number: Any) -> Array:
    """A number in JAX's default precision."""
    return jnp.asarray(number, jnp.result_type(float))


def _progress(t: Array, steps: int) -> Array:
    """min(t, steps)/steps."""
    return _float(jnp.minimum(t, steps)) / steps


def _between(start: Any, end: Any, part: Array) -> Array:
    """The number at a part of the way from start to end, exact at both."""
    return (1 - part) * _float(start) + part * _float(end)
