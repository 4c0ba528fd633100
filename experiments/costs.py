"""The costs of two functions of the same arguments: operations, memory, and times taken in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Cost(NamedTuple):
    """The cost of a compiled function."""

    flops: float
    bytes_accessed: float
    temporary_bytes: float
    compile_seconds: float
    run_seconds: float
    """median of the timed runs; NaN without any"""


class Costs(NamedTuple):
    """The costs of two functions, and the median of the ratios of their run times, first over second."""

    first: Cost
    second: Cost
    time_ratio: float

    def ratios(self) -> dict[str, float]:
        """First over second, for each cost; 1 where neither needs any."""
        pairs = zip(Cost._fields, self.first, self.second, strict=True)
        return {name: (u / v if v else 1.0) for name, u, v in pairs} | {"run_seconds": self.time_ratio}


def costs(first: Callable[..., Any], second: Callable[..., Any], given: tuple[Any, ...], rounds: int) -> Costs:
    """The costs of two functions, compiled for the same arguments and run in turn.

    Args:
        first: a function of arrays, such as ``backprop(net, loss)``.
        second: another one of the same arguments, such as ``autodiff(net, loss)``.
        given: their arguments.
        rounds: timed runs of each; 0 leaves the timing out.
    """
    programs, compile_seconds = [], []
    for function in (first, second):
        begin = time.perf_counter()
        programs.append(jax.jit(function).lower(*given).compile())
        compile_seconds.append(time.perf_counter() - begin)
    run_first, run_second = ((lambda program=program: program(*given)) for program in programs)
    seconds = _interleaved(run_first, run_second, rounds)
    ratio = float(np.median(np.divide(*seconds))) if rounds else float("nan")
    one, other = (_cost(*each) for each in zip(programs, compile_seconds, seconds, strict=True))
    return Costs(one, other, ratio)


def _cost(program: Any, compile_seconds: float, runs: list[float]) -> Cost:
    analysis, memory = program.cost_analysis() or {}, program.memory_analysis()
    return Cost(
        flops=float(analysis.get("flops", np.nan)),
        bytes_accessed=float(analysis.get("bytes accessed", np.nan)),
        temporary_bytes=float(memory.temp_size_in_bytes) if memory is not None else np.nan,
        compile_seconds=compile_seconds,
        run_seconds=float(np.median(runs)) if runs else np.nan,
    )


def _interleaved(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds a call, in turn and in changing order, so that a slow moment of the machine meets both alike."""

    def timed(function: Callable[[], Any], calls: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready([function() for _ in range(calls)][-1])
        return (time.perf_counter() - begin) / calls

    seconds: tuple[list[float], list[float]] = ([], [])
    if not rounds:
        return seconds
    timed(second, 1)
    calls = max(1, int(2e-3 / max(timed(first, 3), 1e-9)))  # about 2 ms a sample, well above the clock's grain
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            seconds[which].append(timed((first, second)[which], calls))
    return seconds
