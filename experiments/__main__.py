"""Run the experiments and write the report: `python -m experiments`."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while all this is imported ends it without a traceback

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

import jax
import tyro
from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

import fnn
from experiments import own_table, tables, user_network
from experiments.report import Experiment, Outcome, Settings, TableGiven, Word, runner, site, storage
from experiments.report.progress import QUICK, Progress, expected, recorded, spoken
from fnn.training import _files as files

OWN_TABLE = "own_table"
"""The page about a user's table."""
OF_NETWORK = ("loss", "features", "examples")
"""The options that say what a user's network is given."""
COLORS = {Word.HOLDS: "green", Word.PARTLY: "yellow", Word.OPEN: "blue", Word.FAILS: "red"}


@dataclass
class Options:
    """Run fnn's experiments and write a report, REPORT/index.html, that any browser opens.

    Without names all of them are run, the cheapest first, except those that the report has already, made by the same
    code with the same options. The report shows each as soon as it is finished. Ctrl-C, or SIGTERM, leaves a report of
    what is finished, and the same command goes on from there. The exit status is 1 if an experiment fails, or if
    something does not hold of your own network, such as that its gradient by hand is right, 2 for options that make no
    sense and where the report cannot be written, and 130 after Ctrl-C.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Experiments to run; see --list. By default all."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Print the tables and the verdicts too, not one line an experiment."""
    list: bool = False
    """List the experiments and run nothing."""
    again: bool = False
    """Run even what is finished."""
    quick: bool = False
    """A small version of each: fewer seeds, steps and timed runs, programs compiled without optimisation. Shows that
    all works; its numbers are rough, its times mean nothing."""
    seeds: int | None = None
    """Independent runs of what is random, 2 or more. By default 32, with --quick 4."""
    out: Path | None = None
    """Folder of the report. By default report, with --quick report/quick, with --network report/network, with --data
    report/data/ and the name of the table."""
    jobs: int | None = None
    """Experiments that run at a time. By default 1, so that each has all cores and its times are true; with --quick as
    many as there are cores."""
    device: Literal["cpu", "gpu", "tpu"] | None = None
    """Where to run. By default the best there is."""
    data: Path | None = None
    """A table of your own, for a page about it alone: what networks make of it beside scikit-learn, and a model to
    keep. A .csv, .tsv or .txt of any usual separator, decimal mark and encoding, an .xlsx, a .parquet, or an .npz with
    x [rows, features] and y [rows]. All that is taken and left out is said first."""
    answer: str | None = None
    """The column of the table to predict; with --data. By default the only one that is named so, such as "target", else
    the last."""
    answer_is: Literal["classes", "numbers"] | None = None
    """What the answer is taken for; with --data. By default words are classes, and so are whole numbers of at most 20
    values."""
    network: str | None = None
    """MODULE:NAME of your own network, for `gradients` and `backprop`: a layer, or a function that makes one."""
    loss: str = "squared"
    """A loss of fnn by name, or MODULE:NAME of your own; with --network."""
    features: int = 8
    """Features of the random examples that your network is given; with --network."""
    examples: int = 32
    """How many examples it is given; with --network."""


class UsageError(ValueError):
    """Options that make no sense; the message is one line."""


def main(options: Options, console: Console) -> int:
    """Run what was asked for; see `Options` for the exit status, which is 130 after Ctrl-C."""
    try:
        if options.device is not None and not options.list:
            use_device(options.device)
        known = runner.available()
        if options.list:
            for name in known:
                console.print(f"[bold]{name}[/]  {escape(runner.title(name))}", soft_wrap=True)
            return 0
        with runner.signals(runner.interrupt, signal.SIGTERM):
            return run(options, known | {OWN_TABLE: own_table.run} if options.data else known, console)
    except (UsageError, *runner.REFUSED) as error:
        console.print(f"[red]{escape(str(error))}", soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("[yellow]interrupted")
        return 130


def run(options: Options, known: dict[str, Experiment], console: Console) -> int:
    """Run the experiments, each into the report as soon as it is finished, unless another run writes it."""
    names, settings = chosen(options, known), settings_of(options)
    print_table(console, settings)
    folder = folder_of(options)
    try_to_write(folder)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return into(folder, names, settings, options, known, console)
    except Timeout:
        raise UsageError(f"another run is writing {folder}; wait until it ends, or give another --out") from None


def into(
    folder: Path,
    names: tuple[str, ...],
    settings: Settings,
    options: Options,
    known: dict[str, Experiment],
    console: Console,
) -> int:
    """Run the experiments that the report in the folder has not yet."""
    table = options.data and (options.data.read_bytes(), settings.data)
    prints = {name: storage.fingerprint(name, settings.seeds, settings.quick, table) for name in names}
    finished = [] if options.again or options.network else [name for name in names if _is_stored(folder, name, prints)]
    for name, why in storage.damaged(folder).items():
        console.print(f"[yellow]results/{escape(name)}.json counts as not there: {escape(why)}", soft_wrap=True)
    progress = progress_of([name for name in names if name not in finished], options)
    if finished:
        console.print(
            f"[dim]in the report already, and left out without --again: {', '.join(finished)}", soft_wrap=True
        )
        written(folder)
    announce(console, progress, folder)
    failed, disproved = [], False
    try:
        with console.status(progress):
            for name, found in runner.each(known, [*progress.times], settings, progress):
                why = found.traceback if isinstance(found, runner.Failed) else None
                if isinstance(found, Outcome):
                    found.command = command(name, options, settings.seeds)
                    why = written(folder, found, prints[name])
                place = progress.ends(name)
                if why:
                    console.print(f"{escape(place)} [red]{name} failed", escape(why), sep="\n")
                    failed.append(name)
                elif isinstance(found, Outcome):
                    finished.append(name)
                    disproved |= settings.problem is not None and any(v.word is not Word.HOLDS for v in found.verdicts)
                    print_outcome(console, place, found, options.verbose or settings.problem is not None)
    except KeyboardInterrupt:
        console.print(f"\n[yellow]interrupted; finished: {', '.join(finished) or 'nothing'}. {_where(folder)}")
        return 130
    console.print(_where(folder))
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}")
    return int(bool(failed) or disproved)


def progress_of(names: list[str], options: Options) -> Progress:
    """What is left to run, the cheapest first, and how long that may take."""
    seconds = {name: QUICK * of for name, of in recorded().items()} if options.quick else recorded()
    return Progress(expected(names, seconds), jobs_of(options, len(names)))


def announce(console: Console, progress: Progress, folder: Path) -> None:
    """Say how much is to be run, and where it can be seen meanwhile."""
    count = len(progress.times)
    if count > 1:
        page = folder / "index.html"
        console.print(f"{count} experiments, about {spoken(progress.left())} on two cores, the cheapest first.")
        console.print(f"{page} shows each as soon as it is finished: open it, and reload it later.", soft_wrap=True)


def written(folder: Path, outcome: Outcome | None = None, fingerprint: str = "") -> str | None:
    """Store an outcome, if there is one, and write the pages; what is wrong with the outcome, if something is."""
    try:
        if outcome is not None:
            storage.save(folder, outcome, fingerprint)
        site.write(folder)
    except storage.Unfit as error:
        return str(error)
    except OSError as error:
        raise UsageError(f"{folder} can no longer be written, and what is finished is kept: {error}") from None
    return None


def is_of_others(folder: Path) -> bool:
    """Whether a folder has a front page that no report wrote."""
    page = folder / "index.html"
    return page.is_file() and b'content="python -m experiments"' not in page.read_bytes()[:2000]


def try_to_write(folder: Path) -> None:
    """Check that a report can be written, and replaces no other page, before hours are spent on its experiments."""
    if is_of_others(folder):
        raise UsageError(f"--out {folder} has an index.html that is no report, and would be lost. Name another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be a folder: {error.strerror}") from None
    try:
        files.try_to_write(folder)
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written: {error.strerror}") from None


def jobs_of(options: Options, count: int) -> int:
    """How many of so many experiments run at a time; a user's network is in this process only."""
    if options.network is not None or count < 2:
        return 1
    return options.jobs or ((os.cpu_count() or 1) if options.quick else 1)


def _is_stored(folder: Path, name: str, prints: dict[str, str]) -> bool:
    stored = storage.load(folder, name)
    return stored is not None and stored[1] == prints[name]


def use_device(device: str) -> None:
    """Make it the device that everything runs on; before anything is computed."""
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(device, device)  # for the processes of --jobs
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    try:
        found = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # what JAX raises without a plugin for the device has no words
        why = (str(error).splitlines() or ["JAX is not installed for it"])[0]
        raise UsageError(f"--device {device} is unavailable: {why}") from None
    if found != device:
        raise UsageError(f"--device {device} comes too late: JAX runs on {found} already")


def chosen(options: Options, known: dict[str, Experiment]) -> tuple[str, ...]:
    """The names of the experiments to run."""
    asked = dict.fromkeys(options.names)
    strange = [name for name in asked if name not in known]
    if strange:
        near = [close for name in strange for close in get_close_matches(name, known, 1)]
        hint = f"did you mean {', '.join(near)}?" if len(near) == len(strange) else f"there are: {', '.join(known)}"
        raise UsageError(f"no experiment named {', '.join(strange)}; {hint}")
    if options.network is not None and not set(asked) <= set(runner.takers("network")):
        raise UsageError(f"--network goes with {', '.join(runner.takers('network'))}, not with {', '.join(asked)}")
    if options.data is not None and set(asked) - {OWN_TABLE}:
        raise UsageError(f"--data makes a page about the table alone and takes no experiments, got {', '.join(asked)}")
    if options.data is None and (options.answer, options.answer_is) != (None, None):
        raise UsageError("--answer and --answer-is go with --data alone")
    if options.network is not None and options.data is not None:
        raise UsageError("--network and --data go with different experiments; give one of them")
    if options.network is not None:
        return tuple(asked or runner.takers("network"))
    if options.data is not None:
        return (OWN_TABLE,)
    return tuple(asked or known)


def settings_of(options: Options) -> Settings:
    """The settings of the experiments."""
    seeds = options.seeds if options.seeds is not None else (4 if options.quick else 32)
    if seeds < 2:
        raise UsageError(f"--seeds must be 2 or more, for an interval needs two values; got {seeds}")
    if options.jobs is not None and options.jobs < 1:
        raise UsageError(f"--jobs must be 1 or more, got {options.jobs}")
    if options.network is None and any(getattr(options, name) != getattr(Options, name) for name in OF_NETWORK):
        raise UsageError(f"{', '.join(f'--{name}' for name in OF_NETWORK)} go with --network alone")
    users = None
    if options.network is not None:
        users = user_network.load(options.network, options.loss, options.features, options.examples)
    table = options.data and TableGiven(str(options.data), options.answer, options.answer_is)
    return Settings(seeds, options.quick, users, table)


def folder_of(options: Options) -> Path:
    """The folder of the report: a quick run, or one with a user's network, never replaces a full run."""
    if options.out is not None:
        return options.out
    parts = [part for part in ("quick", "network") if getattr(options, part)]
    return Path("report", *parts, *(("data", options.data.name) if options.data else ()))


def command(name: str, options: Options, seeds: int) -> str:
    """The command that reproduces an outcome."""
    given = f"python -m experiments{'' if options.data else f' {name}'} --seeds {seeds}"
    given += " --quick" if options.quick else ""
    given += f" --device {options.device}" if options.device else ""
    given += f" --data {shlex.quote(str(options.data))}" if options.data else ""
    given += f" --answer {shlex.quote(options.answer)}" if options.answer else ""
    given += f" --answer-is {options.answer_is}" if options.answer_is else ""
    if options.network is None:
        return given
    network = f"--network {options.network} --loss {options.loss}"
    return f"{given} {network} --features {options.features} --examples {options.examples}"


def print_table(console: Console, settings: Settings) -> None:
    """Print what is made of a user's table, if there is one."""
    if settings.data is not None:
        for line in tables.described(tables.read(Path(settings.data.path), *settings.data[1:])):
            style = "[yellow]" if line.startswith("warning") else ""
            console.print(f"{style}{escape(line)}", soft_wrap=True, highlight=False)


def print_outcome(console: Console, place: str, outcome: Outcome, verbose: bool) -> None:
    """Print a line; or tables and verdicts as well."""
    words = Counter(verdict.word for verdict in outcome.verdicts)
    marks = " ".join(f"[{COLORS[word]}]{site.MARKS[word]} {words[word]}[/]" for word in Word if words[word])
    line = f"{escape(place)} [bold]{outcome.name}[/] · {outcome.seconds:.0f} s · {marks} · {escape(outcome.title)}"
    console.print(line, highlight=False, soft_wrap=True)
    if not verbose:
        return
    for table in outcome.tables:
        shown = RichTable(*table.header, title=table.caption, title_justify="left")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
    for verdict in outcome.verdicts:
        said = escape(f"{verdict.claim} Measured: {verdict.measured}")
        console.print(f"[{COLORS[verdict.word]}]{verdict.word}[/]: {said}", highlight=False)
    console.print()


def _where(folder: Path) -> str:
    page = folder / "index.html"
    return f"report: {page}" if page.exists() else "there is no report yet"


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to end
    options = tyro.cli(Options, prog="python -m experiments", config=(tyro.conf.FlagCreatePairsOff,))
    if options.quick:
        runner.compile_unoptimised()
    if not options.list:
        fnn.use_cores()
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(options, Console(width=None if sys.stdout.isatty() else 150)))
