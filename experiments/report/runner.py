"""Running experiments: one after another, or several at a time in processes of their own."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.pool import Pool
from typing import Any, NamedTuple

import fnn
from experiments import claims, user_network
from experiments.report.outcomes import Experiment, Log, Outcome, Settings
from experiments.report.progress import Progress
from experiments.tables.errors import Unreadable

REFUSED = (user_network.Refused, Unreadable)
"""What a user gave cannot be taken: one line says why."""


UNOPTIMISED = (
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
)
"""What keeps XLA from optimising programs for the CPU, which takes most of the time of compiling them."""


class Failed(NamedTuple):
    """Why an experiment has no outcome."""

    traceback: str


def modules() -> dict[str, Any]:
    """Every experiment's module by name: the files in `experiments.claims`."""
    names = (module.name for module in pkgutil.iter_modules(claims.__path__))
    return {name: importlib.import_module(f"{claims.__name__}.{name}") for name in names}


def available() -> dict[str, Experiment]:
    """Every experiment by name."""
    return {name: module.run for name, module in modules().items()}


def takers(kind: str) -> tuple[str, ...]:
    """The experiments that accept a user's "network", as they declare by TAKES."""
    return tuple(name for name, module in modules().items() if getattr(module, "TAKES", "") == kind)


def title(name: str) -> str:
    """The first line of an experiment's docstring."""
    return (sys.modules[f"{claims.__name__}.{name}"].__doc__ or name).strip().splitlines()[0].rstrip(".")


def compile_unoptimised() -> None:
    """Compile in a quarter of the time, this process and those it starts; before anything is computed.

    XLA ends a process that is given a flag it does not know, so another process tries them first. Where it fails,
    programs are compiled as always. Flags of the user's own come last and win.
    """
    flags = {"XLA_FLAGS": " ".join((*UNOPTIMISED, os.environ.get("XLA_FLAGS", "")))}
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    if subprocess.run(start, env=os.environ | flags | {"JAX_PLATFORMS": "cpu"}, capture_output=True).returncode == 0:
        os.environ |= flags


def timed(name: str, experiment: Experiment, settings: Settings, log: Log) -> Outcome:
    """An experiment's outcome, with its name, title and time."""
    begin = time.perf_counter()
    outcome = experiment(settings, log)
    outcome.name, outcome.title, outcome.seconds = name, outcome.title or title(name), time.perf_counter() - begin
    outcome.quick = settings.quick
    return outcome


def each(
    known: dict[str, Experiment], names: Sequence[str], settings: Settings, progress: Progress
) -> Iterator[tuple[str, Outcome | Failed]]:
    """The outcomes of the experiments named, as they come; of `progress.jobs` at a time if that is more than one.

    Raises:
        Refused, Unreadable: an experiment cannot take what the user gave.
    """
    if progress.jobs == 1:
        for name in names:
            progress.starts(name)
            yield name, _tried(name, known[name], settings, progress.says)
        return
    with _pool(min(progress.jobs, len(names))) as pool:
        yield from pool.imap_unordered(_in_process, [(name, settings) for name in names])


def _tried(name: str, experiment: Experiment, settings: Settings, log: Log) -> Outcome | Failed:
    try:
        return timed(name, experiment, settings, log)
    except REFUSED:
        raise
    except Exception:
        return Failed(traceback.format_exc())


def _pool(size: int) -> Pool:
    """Processes that end with this one, however it ends; Ctrl-C is for this one, which then ends them."""
    with signals(signal.SIG_IGN, signal.SIGINT):  # they inherit it, so that it holds while they import, too
        return multiprocessing.get_context("spawn").Pool(size, _prepare_process)


@contextmanager
def signals(handler: Any, *numbers: int) -> Iterator[None]:
    """Have a handler for signals in the block; outside of the main thread, which alone can, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in numbers]
    try:
        yield
    finally:
        for number, old in before:
            signal.signal(number, old)


def interrupt(number: int, frame: Any) -> None:
    """Do on a signal what Ctrl-C does."""
    raise KeyboardInterrupt


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    fnn.use_cores()


def _end_with(process: Any) -> None:
    """End this process when that one has ended, even if it was killed and could not say so."""
    process.join()
    os._exit(1)


def _in_process(given: tuple[str, Settings]) -> tuple[str, Outcome | Failed]:
    name, settings = given
    return name, _tried(name, available()[name], settings, lambda words: None)
