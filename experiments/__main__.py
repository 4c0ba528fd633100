"""Run the experiments and write the report: `python -m experiments`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

import experiments
import fnn
from experiments import page, posed
from experiments.outcomes import Outcome, Settings, Show

Experiment = Callable[[Settings, Show], Outcome]
TAKING_NETWORKS = ("gradients", "backprop")
"""The experiments that look at a network, their own or a user's."""


@dataclass
class Options:
    """Run fnn's experiments and write a report, REPORT/index.html, that any browser opens.

    Without names all of them are run. Ctrl-C leaves a report of what is finished. The exit status is 1 if something
    does not hold of your own network, such as that its gradient by hand is right, and 2 if it cannot be run.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiments to run; by default all: backprop, bench, digits, gradients, pruning, quantities."""
    quick: bool = False
    """A small version of each: fewer seeds, steps and timed runs. Shows that all works; its numbers are rough."""
    seeds: int | None = None
    """Independent runs of what is random, 2 or more. By default 32, with --quick 4."""
    out: Path = Path("report")
    """Folder for index.html and results/*.json."""
    network: str | None = None
    """MODULE:NAME of your own network, for `gradients` and `backprop`: a layer, or a function that makes one."""
    loss: str = "squared"
    """A loss of fnn by name, or MODULE:NAME of your own; with --network."""
    features: int = 8
    """Features of the random objects that your network is given; with --network."""
    objects: int = 32
    """How many objects it is given; with --network."""


def available() -> dict[str, Experiment]:
    """Every experiment by name: the modules of this package that have a function `run`."""
    names = (module.name for module in pkgutil.iter_modules(experiments.__path__) if module.name != "__main__")
    modules = {name: importlib.import_module(f"experiments.{name}") for name in names}
    return {name: module.run for name, module in modules.items() if hasattr(module, "run")}


def main(options: Options, console: Console) -> int:
    """Run what was asked for.

    The exit status is 0; 1 if something that is said of the user's network does not hold; 2 for options that make no
    sense, and a network that cannot be run; or 130 after Ctrl-C.
    """
    known = available()
    strange = [name for name in options.names if name not in known]
    if strange:
        console.print(f"[red]no experiment named {', '.join(strange)}; there are: {', '.join(known)}")
        return 2
    seeds = options.seeds if options.seeds is not None else (4 if options.quick else 32)
    if seeds < 2:
        console.print(f"[red]--seeds must be 2 or more, for an interval needs two values; got {seeds}")
        return 2
    users, names = None, options.names or tuple(known)
    if options.network is not None:
        names = options.names or TAKING_NETWORKS
        if not set(names) <= set(TAKING_NETWORKS):
            console.print(f"[red]--network goes with {' and '.join(TAKING_NETWORKS)}, not with {', '.join(names)}")
            return 2
        try:
            users = posed.load(options.network, options.loss, options.features, options.objects)
        except posed.Refused as error:
            console.print(f"[red]{escape(str(error))}", soft_wrap=True)
            return 2
    outcomes: list[Outcome] = []
    try:
        for name in names:
            begin = time.perf_counter()
            with console.status(name) as status:
                outcome = known[name](Settings(seeds, options.quick, users), status.update)
            outcome.seconds = time.perf_counter() - begin
            outcome.command = _command(name, options, seeds)
            outcomes.append(outcome)
            _print(console, outcome)
            written = page.write(options.out, outcomes)
            console.print(f"[dim]{name} took {outcome.seconds:.0f} s; report: {written}\n")
    except KeyboardInterrupt:
        finished = ", ".join(outcome.name for outcome in outcomes) or "nothing"
        console.print(f"\n[yellow]interrupted; the report holds what is finished: {finished}")
        return 130
    except posed.Refused as error:
        console.print(f"[red]{escape(str(error))}", soft_wrap=True)
        return 2
    of_users = [verdict for outcome in outcomes for verdict in outcome.verdicts if users is not None]
    return int(not all(verdict.holds for verdict in of_users))


def _command(name: str, options: Options, seeds: int) -> str:
    command = f"python -m experiments {name} --seeds {seeds}" + (" --quick" if options.quick else "")
    if options.network is None:
        return command
    given = f"--network {options.network} --loss {options.loss}"
    return f"{command} {given} --features {options.features} --objects {options.objects}"


def _print(console: Console, outcome: Outcome) -> None:
    console.print(f"[bold]{outcome.title}")
    for table in outcome.tables:
        shown = RichTable(*table.header, title=table.caption, title_justify="left")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for verdict in outcome.verdicts:
        word = "[green]holds" if verdict.holds else "[red]does not hold"
        console.print(f"{word}[/]: {escape(f'{verdict.claim}: {verdict.measured}')}", highlight=False)


if __name__ == "__main__":
    fnn.use_cores()
    options = tyro.cli(Options, prog="python -m experiments")
    sys.exit(main(options, Console(width=None if sys.stdout.isatty() else 150)))
