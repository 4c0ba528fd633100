"""How fast is training: fnn beside the floor, plain JAX, and every other library that is installed.

Command: ``python -m experiments bench``; 4 minutes on two CPU cores, 12 with all peers installed.
Expect 32 seeds of 64-64-64-10 in 1.35 times the time that their matrix products alone take, and in about half the time
of plain JAX on one device. Times are medians of runs in turn, compilation excluded; ratios are taken within each turn.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import jax
import numpy as np

import fnn
from experiments.contenders import child, field
from experiments.contenders.field import BY_JAX_GRAD, FLOOR, FNN, PLAIN
from experiments.contenders.problem import posed
from experiments.contenders.timing import LARGE, MAIN, ColdStart, Race, cold_starts, compiling, drawing, race, spread
from experiments.report import COLORS, Figure, Outcome, Settings, Show, Table, Verdict, figure, finished

NOISE = "Times move from run to run, those of the floor and of peers too; the quartiles say by how much in this one."
MANY = 32
FULL = [((2, 4, 1), 1), (MAIN, 32), ((784, 128, 10), 128), (LARGE, 1024)]
QUICK = [(MAIN, 32)]


def run(settings: Settings, show: Show) -> Outcome:
    """Measure all of it."""
    rounds, quick = (2, True) if settings.quick else (9, False)
    show("cold starts")
    cold = cold_starts(1 if quick else 7)
    show("peak memory")
    memory = {seeds: child.measured("memory", str(seeds)) for seeds in ((64, 512) if quick else (256, 4096))}
    races: dict[tuple[str, int], Race] = {}
    losses: dict[str, dict[str, float]] = {}
    for widths, batch in QUICK if quick else FULL:
        for seeds in (1,) if widths == LARGE else (1, MANY):
            problem = posed(widths, batch)
            key = str(problem), seeds
            races[key], losses[f"{problem}, {seeds} seeds"] = race(problem, seeds, rounds, show)
    show("drawing of batches")
    draws = {objects: drawing(objects, rounds) for objects in ((1797,) if quick else (1797, 1_000_000))}
    show("compilation by depth")
    depths = {depth: [compiling(depth) for _ in range(1 if quick else 7)] for depth in (10, 1000)}
    return Outcome(
        title="How fast is training?",
        lead="Networks of ReLU layers are trained by Adam on random data in float32 by everyone that is installed, "
        f"one seed and {MANY}. Those who train one seed after another are timed with one. Medians of {rounds} runs in "
        f"turn, with quartiles; compilation is left out. {_versions()}",
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
        with open("/proc/cpuinfo") as file:
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
) -> list[Verdict]:
    verdicts = []

    def at_most(claim: str, limit: float, ratios: Any) -> None:
        found = spread(ratios)
        verdicts.append(Verdict(f"{claim}: at most {limit:g}", found.median <= limit, str(found), why=NOISE))

    def times(race: Race, peer: str, least: float, what: str) -> None:
        if peer in race:
            found = spread(race[peer] / race[FNN])
            claim = f"{what}: at least {least:g} times as fast as {peer}"
            verdicts.append(Verdict(claim, found.median >= least, f"{found} times", why=NOISE))

    main = str(posed(MAIN, 32))
    many, one, large = races[main, MANY], races[main, 1], races.get((str(posed(LARGE, 1024)), 1))
    at_most(f"{MANY} seeds of {main}: time in that of their matrix products", 1.35, many[FNN] / many[FLOOR])
    for peer, least in ((PLAIN, 2), (field.FLAX, 6), (field.TORCH, 25), (field.ENSEMBLE, 5), (field.SKLEARN, 12)):
        times(many, peer, least, f"{MANY} seeds of {main}")
    for peer, least in ((field.FLAX, 2.5), (field.TORCH, 8), (BY_JAX_GRAD, 1)):
        times(one, peer, least, f"one seed of {main}")
    if large is not None:
        name = str(posed(LARGE, 1024))
        at_most(f"{name}: time in that of its matrix products", 1.15, large[FNN] / large[FLOOR])
        times(large, field.TORCH, 1, name)
    for objects, found in draws.items():
        claim = f"shuffling {objects:,} objects: step with it over one with an order written down before"
        at_most(claim, 1.05, found["shuffled"] / found["listed"])
    ratios = np.array(depths[1000]) / np.array(depths[10])
    at_most("compile time of 1000 layers in `repeat` over that of 10", 1.3, ratios)
    at_most("cold start over that of plain JAX", 1.1, cold["fnn"].first / cold["plain"].first)
    (few, small), (lots, big) = ((seeds, found["peak"]) for seeds, found in memory.items())
    claim = f"peak memory of {lots:,} seeds of {'-'.join(map(str, child.SMALL))} over that of {few}"
    at_most(claim, 1.25, big / small)
    return verdicts


def _table(problem: str, seeds: int, race: Race) -> Table:
    rows = [
        (name, str(spread(seconds * 1e6)), str(spread(seconds / race[FNN])))
        for name, seconds in sorted(race.items(), key=lambda item: float(np.median(item[1])))
    ]
    seeds_told = "one seed" if seeds == 1 else f"{seeds} seeds"
    return Table(f"{problem}, {seeds_told}", ("who", "µs per seed-step", "in fnn's time"), rows)


def _others(
    draws: dict[int, Race],
    depths: dict[int, list[float]],
    cold: dict[str, ColdStart],
    memory: dict[int, dict[str, float]],
) -> list[Table]:
    drawn = [
        (f"{objects:,}", name, str(spread(s * 1e6)), str(spread(s / found["neighbours"])))
        for objects, found in draws.items()
        for name, s in found.items()
    ]
    starts = [(who, str(spread(start.imported)), str(spread(start.first))) for who, start in cold.items()]
    compiled = [(str(depth), str(spread(seconds))) for depth, seconds in depths.items()]
    peaks = [(f"{n:,}", f"{found['peak'] / 2**20:.0f} MiB", f"{found['seconds']:.1f}") for n, found in memory.items()]
    return [
        Table("Drawing of batches, one seed", ("objects", "batches", "µs per step", "in neighbours'"), drawn),
        Table("Seconds from the start of a process", ("who", "imported", "first network trained"), starts),
        Table("BackProp in repeat", ("hidden layers", "seconds to trace and compile"), compiled),
        Table("Peak memory of a sweep, with compilation", ("seeds", "peak", "seconds"), peaks),
    ]


def _bars(races: dict[tuple[str, int], Race]) -> Figure:
    names = list(dict.fromkeys(name for race in races.values() for name in race))
    with figure(6.4, 0.9 + 0.75 * len(races)) as canvas:
        axes = canvas.subplots()
        for row, race in enumerate(races.values()):
            for name, seconds in _medians(race).items():
                i = names.index(name)
                marker = "osD^v"[i // len(COLORS)]
                label = name if row == next(j for j, r in enumerate(races.values()) if name in r) else None
                axes.plot(seconds * 1e6, row, marker, color=COLORS[i % len(COLORS)], label=label, markersize=7)
        told = [f"{problem}\n{'one seed' if seeds == 1 else f'{seeds} seeds'}" for problem, seeds in races]
        axes.set(xscale="log", xlabel="µs per seed-step", yticks=range(len(races)), yticklabels=told)
        axes.invert_yaxis()
        axes.legend(ncols=3, fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.25 / (0.3 + 0.25 * len(races))))
        return finished(
            canvas,
            "Time for one step of one seed",
            "Points: fnn takes the least time of all who train, close to that of the matrix products alone.",
        )
