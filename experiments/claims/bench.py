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

NOISE = (
    "times move from run to run, those of matrix products and of peers too; the quartiles say by how much in this one"
)
MANY = 32
FULL = [((2, 4, 1), 1), (MAIN, 32), ((784, 128, 10), 128), (LARGE, 1024)]
QUICK = [(MAIN, 32)]


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Measure all of it."""
    rounds, quick = (2, True) if settings.quick else (9, False)
    log("cold starts")
    cold = cold_starts(1 if quick else 7)
    log("peak memory")
    memory = {seeds: child.measured("memory", str(seeds)) for seeds in ((64, 512) if quick else (256, 4096))}
    races: dict[tuple[str, int], Race] = {}
    losses: dict[str, dict[str, float]] = {}
    for widths, batch in QUICK if quick else FULL:
        for seeds in (1,) if widths == LARGE else (1, MANY):
            problem = random_problem(widths, batch)
            key = str(problem), seeds
            races[key], losses[f"{problem}, {seeds} seeds"] = race(problem, seeds, rounds, log)
    log("drawing of batches")
    draws = {objects: drawing(objects, rounds) for objects in ((1797,) if quick else (1797, 1_000_000))}
    log("compilation by depth")
    depths = {depth: [compiling(depth) for _ in range(1 if quick else 7)] for depth in (10, 1000)}
    return r.Outcome(
        title="How fast is training?",
        lead="Networks of ReLU layers are trained by Adam on random data in float32 by every installed library, for "
        f"one seed and for {MANY}. Libraries that can only train seeds one after another are timed on one seed. Plain "
        "JAX is the same training written down with jax.grad, jax.vmap and jax.lax.scan, without any library. Told are "
        f"medians of {rounds} runs in turn, with quartiles; compilation is left out. A claim holds if both quartiles "
        f"are within its limit, and holds partly if one of them is. {_versions()}",
        verdicts=_verdicts(races, draws, depths, cold, memory),
        tables=[*(_table(*key, race) for key, race in races.items()), *_others(draws, depths, cold, memory)],
        figures=[_bars(races)],
        numbers={
            "versions": _versions(),
            "seconds per seed-step": {f"{p}, {s} seeds": _medians(race) for (p, s), race in races.items()},
            "losses": losses,
            "drawing": {str(objects): _medians(found) for objects, found in draws.items()},
            "compile seconds by depth": {str(depth): float(np.median(s)) for depth, s in depths.items()},
            "cold start": {who: [float(np.median(times)) for times in start] for who, start in cold.items()},
            "peak memory": {str(seeds): found["peak"] for seeds, found in memory.items()},
        },
    )


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
    verdicts = []

    def at_most(claim: str, limit: float, than: str, ratios: Any, why: str = NOISE) -> None:
        verdicts.append(at_most_of_times(f"{claim} takes at most {limit:g} times {than}", limit, ratios, why))

    def faster(race: Race, peer: str, least: float, what: str) -> None:
        if peer in race:
            than = f"at least {least:g} times as fast as" if least > 1 else "no slower than"
            claim = f"fnn's BackProp trains {what} {than} {peer}"
            verdicts.append(at_least_of_times(claim, least, race[peer] / race[FNN], NOISE))

    main = str(random_problem(MAIN, 32))
    many, one, large = races[main, MANY], races[main, 1], races.get((str(random_problem(LARGE, 1024)), 1))
    alone = "as long as its matrix products alone"
    at_most(f"training {MANY} seeds of {main},", 1.35, alone, many[FNN] / many[FLOOR])
    for peer, least in ((PLAIN, 2), (field.FLAX, 6), (field.TORCH, 25), (field.ENSEMBLE, 5), (field.SKLEARN, 12)):
        faster(many, peer, least, f"{MANY} seeds of {main},")
    for peer, least in ((field.FLAX, 2.5), (field.TORCH, 8), (BY_JAX_GRAD, 1)):
        faster(one, peer, least, f"one seed of {main},")
    if large is not None:
        what = f"one seed of {random_problem(LARGE, 1024)},"
        at_most(f"training {what}", 1.15, alone, large[FNN] / large[FLOOR])
        faster(large, field.TORCH, 1, what)
    for objects, found in draws.items():
        claim = f"a step whose batch is drawn from {objects:,} shuffled objects"
        at_most(claim, 1.05, "as long as one whose batch was written down before", found[SHUFFLED] / found[WRITTEN])
    ratios = np.array(depths[1000]) / np.array(depths[10])
    at_most("compiling 1000 layers in repeat", 1.3, "as long as compiling 10", ratios)
    claim = "fnn, from the start of a process to the first network trained,"
    at_most(claim, 1.1, "as long as plain JAX", cold["fnn"].first / cold["plain JAX"].first)
    (few, small), (lots, big) = ((seeds, found["peak"]) for seeds, found in memory.items())
    claim = f"a sweep of {lots:,} seeds of {'-'.join(map(str, child.SMALL))}"
    at_most(claim, 1.25, f"the peak memory of one of {few} seeds", big / small, why="")
    return verdicts


def _table(problem: str, seeds: int, race: Race) -> r.Table:
    rows = [
        (name, str(spread(seconds * 1e6)), str(spread(seconds / race[FNN])))
        for name, seconds in sorted(race.items(), key=lambda item: float(np.median(item[1])))
    ]
    seeds_told = "one seed" if seeds == 1 else f"{seeds} seeds"
    caption = (
        f"{problem}, {seeds_told}. The ratios of the last column are taken within each turn, so that their median "
    )
    caption += "need not be the ratio of the medians"
    return r.Table(caption, ("who", "µs per seed-step", "in fnn's time"), rows)


def _others(
    draws: dict[int, Race],
    depths: dict[int, list[float]],
    cold: dict[str, ColdStart],
    memory: dict[int, dict[str, float]],
) -> list[r.Table]:
    drawn = [
        (f"{objects:,}", name, str(spread(s * 1e6)), str(spread(s / found[WRITTEN])))
        for objects, found in draws.items()
        for name, s in found.items()
    ]
    starts = [(who, str(spread(start.imported)), str(spread(start.first))) for who, start in cold.items()]
    compiled = [(str(depth), str(spread(seconds))) for depth, seconds in depths.items()]
    peaks = [(f"{n:,}", f"{found['peak'] / 2**20:.0f} MiB", f"{found['seconds']:.1f}") for n, found in memory.items()]
    return [
        r.Table(
            "Steps of one seed by how their batches are drawn; ratios within each turn",
            ("objects", "batches", "µs per step", "in the time of those written down before"),
            drawn,
        ),
        r.Table("Seconds from the start of a process", ("who", "imported", "first network trained"), starts),
        r.Table("BackProp in repeat", ("hidden layers", "seconds to trace and compile"), compiled),
        r.Table("Peak memory of a sweep, with compilation", ("seeds", "peak", "seconds"), peaks),
    ]


def _bars(races: dict[tuple[str, int], Race]) -> r.Figure:
    names = list(dict.fromkeys(name for race in races.values() for name in race))
    with r.figure(6.4, 1.3 + 0.8 * len(races)) as canvas:
        axes = canvas.subplots()
        for i, name in enumerate(names):
            height = 0.6 * i / len(names) - 0.3
            points = [
                (_medians(race)[name] * 1e6, row + height) for row, race in enumerate(races.values()) if name in race
            ]
            ring = (
                {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 2, "zorder": 3} if name == FNN else {}
            )
            axes.plot(
                *zip(*points, strict=True), "osD^vP*<>X"[i], color=r.COLORS[i % len(r.COLORS)], label=name, **ring
            )
        told = [f"{problem}\n{'one seed' if seeds == 1 else f'{seeds} seeds'}" for problem, seeds in races]
        axes.set(xscale="log", xlabel="µs per seed-step", yticks=range(len(races)), yticklabels=told)
        axes.invert_yaxis()
        canvas.legend(ncols=4, fontsize=8, loc="outside upper center")
        return r.finished(
            canvas,
            "Time for one step of one seed; in each row one below the other, fnn as an open ring",
            "Points on a logarithmic axis, a row for each network and number of seeds: fnn is close to the matrix "
            "products alone where these are large; the libraries that are called for every step are far behind where "
            "they are small.",
        )
