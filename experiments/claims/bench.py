"""How fast is training: fnn beside the floor, plain JAX, and every other library that is installed.

Command: ``python -m experiments bench``; 5 minutes on two CPU cores, 8 with all peers installed.
Expect 32 seeds of 64-64-64-10 in 1.4 times the time that their matrix products alone take, and in a third of the time
of plain JAX on one device. Times are medians of runs in turn, compilation excluded; ratios are taken within each turn.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import jax
import numpy as np
from matplotlib.ticker import LogLocator

import fnn
from experiments import report as r
from experiments.benchmark import child, field
from experiments.benchmark.field import BY_JAX_GRAD, FLOOR, FNN, PLAIN
from experiments.benchmark.problem import random_problem
from experiments.benchmark.timing import (
    LARGE,
    MAIN,
    SHUFFLED,
    WRITTEN,
    ColdStart,
    Race,
    at_least_of_times,
    at_most_of_times,
    cold_starts,
    compiling,
    drawing,
    race,
    spread,
)

MANY = 32
FULL = [((2, 4, 1), 1), (MAIN, 32), ((784, 128, 10), 128), (LARGE, 1024)]
QUICK = [(MAIN, 32)]
RING: Any = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 2, "zorder": 3}
"""how fnn is drawn"""


LEAD = (
    "Networks of ReLU layers are trained by Adam on random data in float32 by every installed library, for one seed "
    f"and for {MANY}. Libraries that can only train seeds one after another are timed on one seed. Plain JAX is the "
    "same training written down with jax.grad, jax.vmap and jax.lax.scan, without any library. Shown are medians "
    "of {rounds} runs in turn, with quartiles; compilation is left out. A claim holds if both quartiles are within its "
    "limit, and is open if only one of them is. {versions}"
)
NOISE = (
    "Times move from run to run, those of matrix products and of peers too; the quartiles say by how much in this one."
)
PRODUCTS = r.Claim(
    "Training {seeds} of the network {network}, takes at most {limit:g} times as long as its matrix products alone.",
    why=NOISE,
    quantity="time over that of the matrix products",
)
FASTER = r.Claim(
    "The BackProp of fnn trains {seeds} of the network {network}, at least {least:g} times as fast as {peer}.",
    why=NOISE,
    quantity="time of {peer} over that of fnn",
)
NO_SLOWER = r.Claim(
    "The BackProp of fnn trains {seeds} of the network {network}, no slower than {peer}.",
    why=NOISE,
    quantity="time of {peer} over that of fnn",
)
DRAWING = r.Claim(
    "A step that draws its batch from {examples:,} shuffled examples takes at most {limit:g} times as long as a step "
    "whose batch was drawn before the training began.",
    why=NOISE,
    quantity="time of the step over that with batches drawn before",
)
COMPILING = r.Claim(
    "Compiling 1000 equal layers, repeated in a loop, takes at most {limit:g} times as long as compiling 10.",
    why=NOISE,
    quantity="compile time, 1000 layers over 10",
)
COLD = r.Claim(
    "From the start of a process to the first trained network, fnn takes at most {limit:g} times as long as plain JAX.",
    why=NOISE,
    quantity="time to the first network, fnn over plain JAX",
)
MEMORY = r.Claim(
    "A sweep of {many:,} seeds of the network {network} takes at most {limit:g} times the peak memory of a sweep of "
    "{few} seeds.",
    quantity="peak memory, {many:,} seeds over {few}",
)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Measure all of it."""
    rounds, once = settings.pick(quick=(2, 1), full=(9, 7))
    log("cold starts")
    cold = cold_starts(once)
    log("peak memory")
    memory = {seeds: child.measured("memory", str(seeds)) for seeds in settings.pick(quick=(64, 512), full=(256, 4096))}
    races, losses = _races(settings.pick(quick=QUICK, full=FULL), rounds, log)
    log("drawing of batches")
    draws = {size: drawing(size, rounds) for size in settings.pick(quick=(1797,), full=(1797, 1_000_000))}
    log("compilation by depth")
    depths = {depth: [compiling(depth) for _ in range(once)] for depth in (10, 1000)}
    return r.Outcome(
        LEAD.format(rounds=rounds, versions=_versions()),
        _verdicts(races, draws, depths, cold, memory),
        title="How fast is training?",
        tables=[*(_table(*key, race) for key, race in races.items()), *_others(draws, depths, cold, memory)],
        figures=[_bars(races)],
        numbers={
            "versions": _versions(),
            "seconds per seed-step": {f"{p}, {s} seeds": _medians(race) for (p, s), race in races.items()},
            "losses": losses,
            "drawing": {examples: _medians(found) for examples, found in draws.items()},
            "compile seconds by depth": {depth: np.median(seconds) for depth, seconds in depths.items()},
            "cold start": {who: [np.median(times) for times in start] for who, start in cold.items()},
            "peak memory": {seeds: found["peak"] for seeds, found in memory.items()},
        },
    )


def _races(
    problems: list[tuple[tuple[int, ...], int]], rounds: int, log: r.Log
) -> tuple[dict[tuple[str, int], Race], dict[str, dict[str, float]]]:
    """By problem and number of seeds, the times and the losses of every contender."""
    races: dict[tuple[str, int], Race] = {}
    losses: dict[str, dict[str, float]] = {}
    for widths, batch in problems:
        problem = random_problem(widths, batch)
        for seeds in (1,) if widths == LARGE else (1, MANY):
            found = race(problem, seeds, rounds, log)
            races[str(problem), seeds], losses[f"{problem}, {seeds} seeds"] = found
    return races, losses


def _versions() -> str:
    return (
        f"fnn {fnn.__version__}, JAX {jax.__version__}, Python {platform.python_version()}, {field.versions()}; "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s), {os.cpu_count()} cores, {_processor()}."
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _medians(race: Race) -> dict[str, float]:
    return {name: float(np.median(seconds)) for name, seconds in race.items()}


def _verdicts(
    races: dict[tuple[str, int], Race],
    draws: dict[int, Race],
    depths: dict[int, list[float]],
    cold: dict[str, ColdStart],
    memory: dict[int, dict[str, float]],
) -> list[r.Verdict]:
    def of_products(seeds: str, network: str, limit: float, race: Race) -> r.Verdict:
        claim = PRODUCTS.filled(seeds=seeds, network=network, limit=limit)
        return at_most_of_times(claim, limit, race[FNN] / race[FLOOR])

    def of_peers(seeds: str, network: str, race: Race, peers: dict[str, float]) -> list[r.Verdict]:
        claims = {
            peer: (FASTER if least > 1 else NO_SLOWER).filled(seeds=seeds, network=network, least=least, peer=peer)
            for peer, least in peers.items()
            if peer in race
        }
        return [at_least_of_times(claim, peers[peer], race[peer] / race[FNN]) for peer, claim in claims.items()]

    main, large = str(random_problem(MAIN, 32)), str(random_problem(LARGE, 1024))
    many, one, of_large = races[main, MANY], races[main, 1], races.get((large, 1))
    seeds = f"{MANY} seeds"
    of_many: dict[str, float] = {PLAIN: 2, field.FLAX: 6, field.TORCH: 25, field.ENSEMBLE: 5, field.SKLEARN: 12}
    verdicts = [of_products(seeds, main, 1.35, many), *of_peers(seeds, main, many, of_many)]
    verdicts += of_peers("one seed", main, one, {field.FLAX: 2.5, field.TORCH: 8, BY_JAX_GRAD: 1})
    if of_large is not None:
        verdicts.append(of_products("one seed", large, 1.15, of_large))
        verdicts += of_peers("one seed", large, of_large, {field.TORCH: 1})
    return [*verdicts, *_of_surroundings(draws, depths, cold, memory)]


def _of_surroundings(
    draws: dict[int, Race],
    depths: dict[int, list[float]],
    cold: dict[str, ColdStart],
    memory: dict[int, dict[str, float]],
) -> list[r.Verdict]:
    """The verdicts on drawing, compiling, starting and memory."""

    def at_most(claim: r.Claim, limit: float, ratios: Any, **values: Any) -> r.Verdict:
        return at_most_of_times(claim.filled(limit=limit, **values), limit, ratios)

    drawn = [at_most(DRAWING, 1.05, found[SHUFFLED] / found[WRITTEN], examples=size) for size, found in draws.items()]
    (few, small), (many, big) = ((seeds, found["peak"]) for seeds, found in memory.items())
    small_network = "-".join(map(str, child.SMALL))
    return [
        *drawn,
        at_most(COMPILING, 1.3, np.array(depths[1000]) / np.array(depths[10])),
        at_most(COLD, 1.1, cold["fnn"].first / cold["plain JAX"].first),
        at_most(MEMORY, 1.25, big / small, many=many, few=few, network=small_network),
    ]


def _table(problem: str, seeds: int, race: Race) -> r.Table:
    quickest_first = sorted(race.items(), key=lambda item: float(np.median(item[1])))
    rows = {
        name: {"µs per seed-step": spread(seconds * 1e6), "in fnn's time": spread(seconds / race[FNN])}
        for name, seconds in quickest_first
    }
    caption = f"{problem}, {_seeds(seeds)}. The ratios of the last column are taken within each turn, so that their "
    return r.table(caption + "median need not be the ratio of the medians", "who", rows)


def _seeds(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _others(
    draws: dict[int, Race],
    depths: dict[int, list[float]],
    cold: dict[str, ColdStart],
    memory: dict[int, dict[str, float]],
) -> list[r.Table]:
    drawn = [
        (f"{examples:,}", name.replace("written down", "drawn"), str(spread(s * 1e6)), str(spread(s / found[WRITTEN])))
        for examples, found in draws.items()
        for name, s in found.items()
    ]
    starts = [(who, str(spread(start.imported)), str(spread(start.first))) for who, start in cold.items()]
    compiled = [(str(depth), str(spread(seconds))) for depth, seconds in depths.items()]
    peaks = [(f"{n:,}", f"{found['peak'] / 2**20:.0f} MiB", f"{found['seconds']:.1f}") for n, found in memory.items()]
    return [
        r.Table(
            "Steps of one seed by how their batches are drawn; ratios within each turn",
            ("examples", "batches", "µs per step", "in the time of those drawn before"),
            drawn,
        ),
        r.Table("Seconds from the start of a process", ("who", "imported", "first network trained"), starts),
        r.Table("BackProp in repeat", ("hidden layers", "seconds to trace and compile"), compiled),
        r.Table("Peak memory of a sweep, with compilation", ("seeds", "peak", "seconds"), peaks),
    ]


def _bars(races: dict[tuple[str, int], Race]) -> r.Figure:
    names = list(dict.fromkeys(name for race in races.values() for name in race))
    with r.figure(5.4, 2.2 + 0.8 * len(races)) as canvas:
        axes = canvas.subplots()
        for i, name in enumerate(names):
            height = 0.6 * i / len(names) - 0.3
            points = [
                (_medians(race)[name] * 1e6, row + height) for row, race in enumerate(races.values()) if name in race
            ]
            ring = RING if name == FNN else {}
            color = r.COLORS[i % len(r.COLORS)]
            axes.plot(*zip(*points, strict=True), "osD^vP*<>X"[i], color=color, label=name, **ring)
        labels = [f"{problem}\n{_seeds(seeds)}" for problem, seeds in races]
        axes.set(xscale="log", xlabel="µs per seed-step", yticks=range(len(races)), yticklabels=labels)
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 100 * low else (1, 3)))
        axes.minorticks_off()
        axes.invert_yaxis()
        canvas.legend(ncols=2, loc="outside upper center")
        return r.finished(
            canvas,
            "Time for one step of one seed; in each row one below the other, fnn as an open ring",
            "Points on a logarithmic axis, a row for each network and number of seeds: fnn is close to the matrix "
            "products alone where these are large; the libraries that are called for every step are far behind where "
            "they are small.",
        )
