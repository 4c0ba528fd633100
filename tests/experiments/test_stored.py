"""What a report keeps: whole or not at all, looked at when it is read, and finished experiments through every fault."""

import ast
import csv
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.__main__ import Options, main
from experiments.report import Animation, Case, Outcome, Settings, Verdict, record, runner, site, storage
from tests.experiments.reports import GIF, Run, found, one, other, pictures, strict_json

ROOT = Path(__file__).parent.parent.parent


def named(lead: str, *, seconds: float = 1.0) -> Outcome:
    outcome = found(7)
    outcome.name, outcome.title, outcome.seconds, outcome.lead = "one", "The title of one", seconds, lead
    moving = outcome.animations[0]
    outcome.animations = [moving._replace(gif=GIF + lead.encode())]
    return outcome


def stored(folder: Path) -> str | None:
    """What is stored, in a word."""
    found = storage.load(folder, "one")
    if found is not None:
        assert found[0].animations[0].gif == GIF + found[0].lead.encode()
    return found and found[0].lead


# Written whole


class Cut(BaseException):
    """Stands for the end of a process, or of the machine."""


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left on device"), Cut()], ids=["full", "killed"])
@pytest.mark.parametrize("call", ["os.replace", "os.fsync", "pathlib.Path.write_bytes", "pathlib.Path.unlink"])
def test_a_fault_at_any_moment_leaves_the_old_outcome_or_the_new(
    tmp_path: Path, fault: BaseException, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.save(tmp_path, named("old"), "print")
    fails_at, seen = 0, set()
    while True:
        calls = []
        module, _, name = call.rpartition(".")
        before = getattr(os if module == "os" else Path, name)

        def failing(*args: Any, before: Any = before, calls: list = calls, fails_at: int = fails_at, **options: Any):
            calls.append(args)
            if len(calls) > fails_at:
                raise fault
            return before(*args, **options)

        monkeypatch.setattr(call, failing)
        ended = True
        try:
            storage.save(tmp_path, named(f"new {fails_at}"), "print")
        except (OSError, Cut):
            ended = False
        monkeypatch.undo()
        seen.add(now := stored(tmp_path))
        assert now in ("old", f"new {fails_at}")
        if ended and len(calls) <= fails_at:
            break
        storage.save(tmp_path, named("old"), "print")
        fails_at += 1
    assert fails_at > 3
    assert f"new {fails_at}" in seen
    assert "old" in seen or call.endswith("unlink")  # which comes last
    assert set(pictures(tmp_path, "one")) == {"1.svg", "d1.gif", "d1.png", "m1.gif", "m1.png"}


def test_pictures_that_nobody_names_are_gone_when_they_are_old(tmp_path: Path) -> None:
    storage.save(tmp_path, named("old"), "print")
    folder = tmp_path / "pictures"
    before = time.time() - 3 * 24 * 3600
    for name in ("one.9.svg", "one.8.svg", "ones.1.svg"):
        (folder / name).write_text("<svg>", encoding="utf-8")
        if name != "one.8.svg":  # perhaps another run is about to name it
            os.utime(folder / name, (before, before))
    storage.save(tmp_path, named("new"), "print")
    assert len(list(folder.iterdir())) == 5 + 2
    assert {path.name for path in folder.glob("*.?.svg")} == {"one.8.svg", "ones.1.svg"}


def test_two_runs_may_write_a_report_at_once(tmp_path: Path) -> None:
    def write(number: int) -> None:
        storage.save(tmp_path, named(f"by {number}"), "print")
        site.write(tmp_path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(16)))
    assert stored(tmp_path) in {f"by {number}" for number in range(16)}
    site.write(tmp_path)
    assert str(stored(tmp_path)) in (tmp_path / "one.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.draft"))


# Looked at when it is read


def signed(path: Path, **changes: Any) -> None:
    """Change an outcome as if another version had stored it so."""
    plain = strict_json(path) | changes
    del plain["sha256"]
    text = json.dumps(plain, sort_keys=True)
    path.write_text(json.dumps(plain | {"sha256": hashlib.sha256(text.encode()).hexdigest()}), encoding="utf-8")


def text(content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / "results" / "one.json").write_text(content, encoding="utf-8")


def change(**changes: Any) -> Callable[[Path], Any]:
    return lambda folder: signed(folder / "results" / "one.json", **changes)


def replaced(old: str, new: str) -> Callable[[Path], Any]:
    path = Path("results") / "one.json"
    return lambda folder: text((folder / path).read_text(encoding="utf-8").replace(old, new))(folder)


def a_folder(folder: Path) -> None:
    (folder / "results" / "one.json").unlink()
    (folder / "results" / "one.json").mkdir()


def picture(kind: str, length: int | None) -> Callable[[Path], Any]:
    def spoil(folder: Path) -> None:
        *_, path = sorted((folder / "pictures").glob(f"one.*.{kind}"))
        path.unlink() if length is None else path.write_bytes(path.read_bytes()[:length])

    return spoil


VERDICT = {"claim": "", "holds": True, "measured": "", "partly": False, "why": ""}
DAMAGES: dict[str, Callable[[Path], Any]] = {
    "null": text("null"),
    "a list": text("[]"),
    "a number": text("3"),
    "empty": text(""),
    "no outcome": text("{}"),
    "deep": text("[" * 100_000),
    "cut short": lambda folder: text((folder / "results" / "one.json").read_text(encoding="utf-8")[:200])(folder),
    "no UTF-8": lambda folder: (folder / "results" / "one.json").write_bytes(b'{"lead": "\xff"}'),
    "a folder": lambda folder: ((folder / "results" / "one.json").unlink(), (folder / "results" / "one.json").mkdir())[
        1
    ],
    "a digit": replaced("1.001", "1.002"),
    "a word": replaced("Two values", "Six values"),
    "a verdict": replaced('"holds": true', '"holds": false'),
    "seconds null": change(seconds=None),
    "seconds a word": change(seconds="1"),
    "slide 99": change(slide=99),
    "slide x": change(slide="x"),
    "slide true": change(slide=True),
    "slide −1": change(slide=-1),
    "another name": change(name="other"),
    "a name outside": change(name="../evil"),
    "no title": change(title=None),
    "measured 5": change(verdicts=[VERDICT | {"measured": 5}]),
    "holds a word": change(verdicts=[VERDICT | {"holds": "no"}]),
    "verdicts null": change(verdicts=None),
    "verdicts words": change(verdicts=["holds"]),
    "tables null": change(tables=None),
    "cells of numbers": change(tables=[{"caption": "a", "header": ["b"], "rows": [[1]]}]),
    "numbers a list": change(numbers=[1]),
    "figures of old": change(figures=[{"caption": "a", "description": "b", "svg": "one.1.svg", "narrowest": 0}]),
    "what nobody knows": change(colour="red"),
    "svg empty": picture("svg", 0),
    "svg cut short": picture("svg", 3000),
    "svg gone": picture("svg", None),
    "gif of 3 bytes": picture("gif", 3),
    "png gone": picture("png", None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_named_and_counts_as_not_there(run: Run, damage: str) -> None:
    assert run() == 0
    folder = run.folder / "out"
    DAMAGES[damage](folder)
    assert run("other") == 0  # while another experiment is run, it is not shown
    (line,) = [line for line in run.printed.splitlines() if "counts as not there" in line]
    assert line.startswith("results/one.json counts as not there: ")
    assert "The title of one" not in (folder / "index.html").read_text(encoding="utf-8")
    assert not (folder / "one.html").exists()
    assert not (folder.parent / "evil.html").exists()
    with open(folder / "claims.csv", newline="", encoding="utf-8") as file:
        assert {row["experiment"] for row in csv.DictReader(file)} == {"other"}
    if damage == "a folder":
        (folder / "results" / "one.json").rmdir()  # this only its owner can do
    assert run() == 0
    assert "left out without --again: other\n" in run.printed
    assert run() == 0
    assert "left out without --again: one, other" in run.printed
    assert "counts as not there" not in run.printed
    assert set(pictures(folder, "one")) == {"1.svg", "d1.gif", "d1.png", "m1.gif", "m1.png"}


@pytest.mark.parametrize("copy", ["one (conflicted copy)", "two", "one 2"])
def test_a_copy_under_another_name_is_no_experiment(run: Run, copy: str) -> None:
    assert run() == 0
    folder = run.folder / "out"
    claims = (folder / "claims.csv").read_bytes()
    (folder / "results" / f"{copy}.json").write_bytes((folder / "results" / "one.json").read_bytes())
    (folder / "results" / "._one.json").write_bytes(b"what a Mac puts on foreign disks")
    assert run() == 0
    assert f"results/{copy}.json counts as not there: ValueError: it is one, a copy under another name" in run.printed
    assert run.printed.count("counts as not there") == 1
    assert "left out without --again: one, other" in run.printed
    assert (folder / "claims.csv").read_bytes() == claims
    assert {path.name for path in folder.glob("*.html")} == {"index.html", "claims.html", "one.html", "other.html"}


def test_numbers_that_are_damaged_are_written_again(run: Run) -> None:
    assert run() == 0
    path = run.folder / "out" / "results" / "one.csv"
    whole = path.read_bytes()
    for damage in (lambda: path.write_bytes(whole[:9]), path.unlink):
        damage()
        assert run() == 0
        assert path.read_bytes() == whole


def test_a_page_of_the_users_is_left(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine.json").write_text("{}", encoding="utf-8")
    (tmp_path / "mine.html").write_text("My page", encoding="utf-8")
    site.write(tmp_path)
    assert (tmp_path / "mine.html").exists()


def unfit(**parts: Any) -> Callable[[Settings, Any], Outcome]:
    def experiment(settings: Settings, show: Any) -> Outcome:
        outcome = found(7)
        for name, part in parts.items():
            setattr(outcome, name, part)
        return outcome

    return experiment


@pytest.mark.parametrize(
    "parts",
    [
        {"slide": 99},
        {"lead": None},
        {"verdicts": [Verdict("a", (Case("", 5, True),))]},  # pyright: ignore[reportArgumentType]
        {"numbers": {"a": object()}},
        {"animations": [Animation("a", "b", GIF, GIF, GIF, GIF, 1.5, 2)]},  # pyright: ignore[reportArgumentType]
        {"lead": "\ud800"},
    ],
    ids=["slide", "no words", "a number measured", "no number", "seconds a frame", "no letter"],
)
def test_an_outcome_that_pages_cannot_be_made_of_fails_by_itself(run: Run, parts: dict[str, Any]) -> None:
    assert run("one", "other", known={"one": unfit(**parts), "other": other}) == 1
    assert "the outcome of one cannot be stored" in run.printed
    assert "failed: one" in run.printed
    assert storage.names(run.folder / "out") == ["other"]


# Where it is written


def full(*args: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def counted(settings: Settings, show: Any) -> Outcome:
        ran.append(settings)
        return found(7)

    for call in ("os.fsync", "pathlib.Path.write_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(call, full)
            assert run("one", known={"one": counted}) == 2
        assert run.printed == f"--out {run.folder / 'out'} cannot be written: No space left on device\n"
        assert not ran
        assert not list((run.folder / "out").iterdir())


def test_the_front_page_of_something_else_is_not_replaced(run: Run) -> None:
    """A report, with its first experiment or none yet, is."""
    page = run.folder / "out" / "index.html"
    page.parent.mkdir()
    page.write_text("<h1>Our documentation</h1>", encoding="utf-8")
    assert run("one", known={"one": one}) == 2
    assert (
        run.printed
        == f"--out {page.parent} has an index.html that is no report, and would be lost. Name another folder.\n"
    )
    assert page.read_text(encoding="utf-8") == "<h1>Our documentation</h1>"
    page.unlink()
    assert run("one", known={"one": one}) == 0
    shutil.rmtree(page.parent / "results")
    assert run("one", known={"one": one}) == 0


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no folder that nobody can write to")
def test_a_folder_that_may_only_be_read_is_told(run: Run) -> None:
    run.patch.setattr("experiments.report.runner.available", lambda: {"one": one})
    with open(run.folder / "printed", "w+", encoding="utf-8") as file:
        assert main(Options(("one",), out=Path("/proc/self")), Console(file=file, width=200)) == 2
        file.seek(0)
        assert file.read().startswith("--out /proc/self cannot be written: ")


def test_a_disk_that_fills_up_ends_the_run_in_one_line_and_keeps_what_is_finished(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def filling(settings: Settings, show: Any) -> Outcome:
        monkeypatch.setattr("os.replace", full)
        return found(0)

    assert run(known={"one": one, "other": filling}) == 2
    monkeypatch.undo()
    assert "can no longer be written, and what is finished is kept: [Errno 28] No space left" in run.printed
    assert "Traceback" not in run.printed
    again = Run(monkeypatch, run.folder)
    assert again(known={"one": one, "other": other}) == 0
    assert "left out without --again: one\n" in again.printed


# What is kept of a full run


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "ROOT", tmp_path / "root")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "root" / "results")
    monkeypatch.setattr(record, "CLAIMS", tmp_path / "root" / "CLAIMS.md")
    monkeypatch.setattr(record, "PICTURES", ("one.1.svg", "one.m1.gif"))
    (tmp_path / "root" / "results").mkdir(parents=True)
    (tmp_path / "root" / "results" / "gone.csv").write_text("old", encoding="utf-8")
    (tmp_path / "root" / "README.md").write_text(f"«\n{record.BEGIN}old{record.END}\n»", encoding="utf-8")
    return tmp_path / "root"


def test_a_full_run_is_recorded(run: Run, kept: Path) -> None:
    assert run() == 0
    record.record(run.folder / "out")
    assert {path.name for path in (kept / "results").iterdir()} == {
        "claims.csv", "seconds.csv", "one.csv", "other.csv", "one.1.svg", "one.m1.gif"
    }  # fmt: skip
    for name in ("one.csv", "other.csv"):
        assert (kept / "results" / name).read_bytes() == (run.folder / "out" / "results" / name).read_bytes()
    assert (kept / "results" / "claims.csv").read_bytes() == (run.folder / "out" / "claims.csv").read_bytes()
    assert (kept / "results" / "one.m1.gif").read_bytes() == GIF
    readme = (kept / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"«\n{record.BEGIN}6 claims: 2 hold,")
    assert readme.endswith(f"{record.END}\n»")


def test_a_damaged_run_or_half_of_one_is_not_recorded(run: Run, kept: Path) -> None:
    before = {path: path.read_bytes() for path in kept.rglob("*.*")}
    assert run("other") == 0
    with pytest.raises(SystemExit, match=r"has no one\.1\.svg, one\.m1\.gif; run those"):
        record.record(run.folder / "out")
    assert run() == 0
    picture("gif", 3)(run.folder / "out")
    with pytest.raises(SystemExit, match=r"is damaged, run it again: one: Unfit: the file one\.m1"):
        record.record(run.folder / "out")
    assert {path: path.read_bytes() for path in kept.rglob("*.*")} == before


# Signals


TWO = """
import sys
from pathlib import Path
from rich.console import Console
import experiments.claims
from experiments.__main__ import Options, main

experiments.claims.__path__ = [str(Path(__file__).parent / "own")]
if __name__ == "__main__":
    options = Options(("left", "right"), jobs=2, quick=True, out=Path(__file__).parent / "out")
    sys.exit(main(options, Console(width=150)))
"""
BEATING = """
import pathlib, time
def run(settings, show):
    for beat in range(2400):
        pathlib.Path(__file__ + ".beat").write_text(str(beat), encoding="utf-8")
        time.sleep(0.05)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, getattr(signal, "SIGKILL", None)], ids=["terminated", "killed"])
def test_experiments_that_run_beside_end_with_the_run(tmp_path: Path, number: int) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "two.py").write_text(textwrap.dedent(TWO), encoding="utf-8")
    for name in ("left", "right"):
        (tmp_path / "own" / f"{name}.py").write_text(BEATING, encoding="utf-8")
    beats = [tmp_path / "own" / f"{name}.py.beat" for name in ("left", "right")]
    line = [sys.executable, str(tmp_path / "two.py")]
    process = subprocess.Popen(
        line, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    begin = time.monotonic()
    while not all(beat.exists() for beat in beats):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begin < 240
        time.sleep(0.05)
    process.send_signal(number)
    said, complained = process.communicate(timeout=60)  # which the experiments' own ends, too, that hold the pipes
    if number == signal.SIGTERM:
        assert (process.returncode, complained) == (130, b"")
        assert b"interrupted; finished: nothing" in said
    last = [beat.read_bytes() for beat in beats]
    time.sleep(0.5)
    assert [beat.read_bytes() for beat in beats] == last


def test_sigterm_is_ctrl_c(run: Run) -> None:
    def terminated(settings: Settings, show: Any) -> Outcome:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        return found(7)

    before = signal.getsignal(signal.SIGTERM)
    assert run(known={"one": one, "terminated": terminated, "other": other}) == 130
    assert "finished: one." in run.printed
    assert signal.getsignal(signal.SIGTERM) is before
    assert storage.load(run.folder / "out", "one") is not None


def test_ctrl_c_while_all_is_imported_leaves_no_traceback(tmp_path: Path) -> None:
    """A module in JAX's place is where it comes."""
    (tmp_path / "jax.py").write_text(
        "import os, signal, time\n"
        "if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a shell runs in the background\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "--list"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_signals_are_left_alone_outside_of_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def inside() -> Any:
        with runner.signals(runner.interrupt, signal.SIGTERM):
            return signal.getsignal(signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(inside).result() is before
    assert inside() is runner.interrupt


# Letters


def test_a_machine_whose_locale_is_not_utf8_does(tmp_path: Path) -> None:
    outcome = named("Größe ≤ π")
    storage.save(tmp_path, outcome, "print")
    code = f"""
import pathlib, sys
from experiments.report import record, site, storage
folder = pathlib.Path({str(tmp_path)!r})
found, _ = storage.load(folder, "one")
storage.save(folder, found, "again")
site.write(folder)
print(storage.fingerprint("nag"), sys.flags.utf8_mode, ascii(found.lead))
"""
    environment = os.environ | {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-X", "utf8=0", "-c", code]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() == f"{storage.fingerprint('nag')} 0 {outcome.lead!a}"
    assert stored(tmp_path) == outcome.lead
    assert outcome.lead in (tmp_path / "one.html").read_text(encoding="utf-8")


def test_a_terminal_that_lacks_letters_is_no_reason_to_end() -> None:
    environment = os.environ | {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-m", "experiments", "--list"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"digits  Seven optimizers" in done.stdout


def without_encoding(path: Path) -> list[int]:
    """The lines that read or write text in whatever encoding the machine has."""
    found = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and not any(keyword.arg == "encoding" for keyword in node.keywords):
            opens = isinstance(node.func, ast.Name) and node.func.id == "open"
            mode = node.args[1] if opens and len(node.args) > 1 else ast.Constant("r")
            texts = isinstance(node.func, ast.Attribute) and node.func.attr in ("read_text", "write_text")
            if texts or (opens and isinstance(mode, ast.Constant) and "b" not in str(mode.value)):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("folder", ["fnn", "experiments", "tests"])
def test_every_text_file_is_opened_with_its_encoding(folder: str) -> None:
    found = {str(path): without_encoding(path) for path in (ROOT / folder).rglob("*.py")}
    assert found
    assert not {path: lines for path, lines in found.items() if lines}
