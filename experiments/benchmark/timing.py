"""Times of the contenders, in turn, and of what surrounds training: drawing, compiling, starting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments.benchmark import child, field, ours
from experiments.benchmark.problem import Problem, random_problem, shuffled_batches
from experiments.report import Claim, Log, Verdict, bounded

MAIN, LARGE = (64, 64, 64, 10), (784, 1024, 1024, 10)
SECONDS = 0.25
"""The further steps of a longer run take about so long."""
SHORT = 2
"""epochs"""

Name = TypeVar("Name", bound=Hashable)


class Spread(NamedTuple):
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    @property
    def ends(self) -> tuple[float, float]:
        """The quartiles."""
        return self.low, self.high

    @property
    def middle(self) -> float:
        """The median."""
        return self.median

    def __str__(self) -> str:
        return self.beside(None)

    def beside(self, limit: float | None) -> str:
        """In words, with so many digits that nothing is rounded to the limit."""
        digits = 0 if self.median >= 100 else 1 if self.median >= 10 else 2
        if 0 < self.median < 0.1:
            digits = 1 - math.floor(math.log10(self.median))
        while digits < 6 and any(value != limit == round(value, digits) for value in self):
            digits += 1
        median, low, high = (f"{value:.{digits}f}" for value in self)
        return median if self.low == self.high else f"{median} ({low}–{high})"


def spread(values: Any) -> Spread:
    """Of the values of all turns, or of the only one."""
    return Spread(*map(float, np.percentile(values, (50, 25, 75))))


def at_most_of_times(claim: Claim | str, limit: float, ratios: Any) -> Verdict:
    """Whether both quartiles of the ratios of all turns are within the limit; open if one of them is."""
    return bounded(claim, -math.inf, limit, {"": spread(ratios)}, lambda found: found.beside(limit))


def at_least_of_times(claim: Claim | str, least: float, ratios: Any) -> Verdict:
    """Whether both quartiles of the ratios of all turns reach the limit; open if one of them does."""
    return bounded(claim, least, math.inf, {"": spread(ratios)}, lambda found: f"{found.beside(least)} times")


def in_turn(functions: dict[Name, Callable[[], Any]], rounds: int) -> dict[Name, np.ndarray]:
    """Seconds [rounds] of each function, all run once in each turn, every other turn backwards."""
    seconds: dict[Name, list[float]] = {name: [] for name in functions}
    for i in range(rounds):
        for name in list(functions)[:: 1 if i % 2 else -1]:
            begin = time.perf_counter()
            jax.block_until_ready(functions[name]())
            seconds[name].append(time.perf_counter() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


Race = dict[str, np.ndarray]
"""Seconds for one step of one seed [rounds], of each contender."""


def race(problem: Problem, seeds: int, rounds: int, log: Log) -> tuple[Race, dict[str, float]]:
    """The times of all contenders on one problem, and their mean losses over the first two epochs.

    Timed are a short run of two epochs and a longer one; the difference is what the further steps take. So the first
    weights, and all that comes before the first step, do not count. (A single step would be no loop: XLA compiles
    something else.)
    """
    runs, further, losses = {}, {}, {}
    for contender in field.installed():
        if contender.name == field.COMPILED and problem.widths not in (MAIN, LARGE):
            continue  # it compiles for half a minute
        log(f"{problem}, {seeds} seeds: warming up {contender.name}")
        own_seeds = seeds if contender.many else 1
        train = contender.prepare(problem, own_seeds)
        train(SHORT * problem.batches)
        begin = time.perf_counter()
        losses[contender.name] = train(SHORT * problem.batches)
        more = SHORT * int(np.clip(SECONDS / (time.perf_counter() - begin), 1, 100))
        train((SHORT + more) * problem.batches)
        runs |= {(contender.name, n): partial(train, n * problem.batches) for n in (SHORT, SHORT + more)}
        further[contender.name] = more, own_seeds * problem.batches
    log(f"{problem}, {seeds} seeds: timing")
    seconds = in_turn(runs, rounds)
    times = {
        name: (seconds[name, SHORT + more] - seconds[name, SHORT]) / (more * per_epoch)
        for name, (more, per_epoch) in further.items()
    }
    return times, losses


SHUFFLED, WRITTEN = "shuffled", "written down before"


def neighbours(key: jax.Array, step: Any, size: int, batch_size: int) -> jax.Array:
    """Batches in the order of the sample: what drawing costs if nothing is drawn."""
    return step % (size // batch_size) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)


def drawing(examples: int, rounds: int) -> Race:
    """Seconds for a step of one seed by how its batch is drawn.

    Examples from an order written down before the first step are as far apart in the memory as shuffled ones; nothing
    is left to do but to fetch them.
    """
    problem, steps = random_problem(MAIN, 32, examples), 4000
    order = jnp.asarray(np.stack(shuffled_batches(problem, steps, seed=0)), jnp.int32)

    def written(key: jax.Array, step: Any, size: int, batch_size: int) -> jax.Array:
        return order[step]

    rules = {SHUFFLED: fnn.shuffled, WRITTEN: written, "in the order of the sample": neighbours}
    rules |= {"drawn with replacement": fnn.with_replacement}
    runs = {name: partial(ours.by_hand(problem, 1, draw=draw), steps) for name, draw in rules.items()}
    in_turn(runs, 1)
    return {name: seconds / steps for name, seconds in in_turn(runs, rounds).items()}


def compiling(depth: int) -> float:
    """Seconds to trace and compile BackProp through so many hidden layers in `repeat`."""
    net = fnn.serial(fnn.dense(64, fnn.tanh), fnn.repeat(fnn.dense(64, fnn.tanh), depth), fnn.linear(10))
    batch = jax.ShapeDtypeStruct((32, 64), jnp.float32), jax.ShapeDtypeStruct((32,), jnp.int32)
    key = jax.random.key(0)
    params, state = jax.eval_shape(net.init, key, batch[0])
    jax.clear_caches()
    begin = time.perf_counter()
    jax.jit(fnn.backprop(net, fnn.softmax_cross_entropy)).lower(params, state, batch, key).compile()
    return time.perf_counter() - begin


class ColdStart(NamedTuple):
    """Seconds [rounds] from the start of a process."""

    imported: np.ndarray
    first: np.ndarray
    """to the first network trained"""


def cold_starts(rounds: int) -> dict[str, ColdStart]:
    """Of fnn and of plain JAX, in turn."""
    found: dict[str, list[dict[str, float]]] = {"fnn": [], "plain JAX": []}
    for _ in range(rounds):
        for who in found:
            found[who].append(child.measured("cold", who.split()[0]))
    return {
        who: ColdStart(*(np.array([run[at] - run["begin"] for run in runs]) for at in ("imported", "first")))
        for who, runs in found.items()
    }
