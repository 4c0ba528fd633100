"""The report: what is stored, the pages, the command line, and how verdicts follow from intervals."""

import csv
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console

from experiments import claims, data
from experiments.__main__ import Options, main
from experiments.report import (
    Outcome,
    Settings,
    record,
    runner,
    storage,
)
from experiments.report.runner import available
from tests.experiments.reports import Run, found, one, other, strict_json

ROOT = Path(__file__).parent.parent.parent


def interrupted(settings: Settings, log: Callable[[str], None]) -> Outcome:
    """Cut short."""
    raise KeyboardInterrupt


def broken(settings: Settings, log: Callable[[str], None]) -> Outcome:
    """Fails."""
    raise ArithmeticError("no luck")


# What is stored


def test_the_numbers_are_stored_as_json_and_csv(run: Run) -> None:
    assert run() == 0
    results = run.folder / "out" / "results"
    stored = strict_json(results / "one.json")
    assert stored["numbers"] == {"values": [[1.0, 2.0], [1.001, 2.002]], "lost": None, "nested": {"mean": 1.5}}
    assert [v["verdict"] for v in stored["verdicts"]] == ["holds", "open", "does not hold"]
    with open(results / "one.csv", newline="", encoding="utf-8") as file:
        rows = {row["quantity"]: row["value"] for row in csv.DictReader(file)}
    assert rows["values.1.0"] == "1.001"
    assert rows["nested.mean"] == "1.5"
    with open(run.folder / "out" / "claims.csv", newline="", encoding="utf-8") as file:
        claims = list(csv.DictReader(file))
    assert [(c["experiment"], c["slide"], c["verdict"]) for c in claims[:2]] == [
        ("one", "7", "holds"),
        ("one", "7", "open"),
    ]


def test_what_is_stored_is_what_was_found(run: Run) -> None:
    assert run("one") == 0
    stored = storage.load(run.folder / "out", "one")
    assert stored is not None
    again = found(7)
    assert stored[0].verdicts == again.verdicts
    assert stored[0].tables == again.tables
    assert stored[0].figures == again.figures
    assert stored[0].animations == again.animations


def test_a_damaged_result_is_run_again(run: Run) -> None:
    assert run("one") == 0
    (run.folder / "out" / "results" / "one.json").write_text('{"lead": "cut sho', encoding="utf-8")
    assert run("one") == 0
    assert "already" not in run.printed
    assert storage.load(run.folder / "out", "one") is not None


def test_fewer_pictures_than_before_leave_none_behind(run: Run) -> None:
    def plain(settings: Settings, log: Any) -> Outcome:
        outcome = found(7)
        outcome.figures, outcome.animations = (), ()
        return outcome

    assert run("one") == 0
    assert run("one", known={"one": plain}, again=True) == 0
    assert not list((run.folder / "out" / "pictures").iterdir())


# Going on


def test_what_is_finished_is_not_run_again(run: Run) -> None:
    assert run() == 0
    assert run() == 0
    assert "left out without --again: one, other" in run.printed
    assert run("one", again=True) == 0
    assert "already" not in run.printed
    assert run("one", seeds=5) == 0  # other settings are another result
    assert "already" not in run.printed
    assert {"one.html", "other.html"} <= {path.name for path in (run.folder / "out").iterdir()}


def test_another_code_is_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "__path__", [*claims.__path__, str(tmp_path)])
    (tmp_path / "mine.py").write_text("from experiments import data, report\n", encoding="utf-8")
    before = storage.fingerprint("mine", 2)
    assert before == storage.fingerprint("mine", 2)
    assert before != storage.fingerprint("mine", 3)
    assert {path.name for path in storage._files("mine")} >= {"mine.py", "data.py"}
    (tmp_path / "mine.py").write_text("from experiments import data, user_network\n", encoding="utf-8")
    assert before != storage.fingerprint("mine", 2)


def test_ctrl_c_leaves_the_report_of_what_is_finished(run: Run) -> None:
    assert run(known={"one": one, "interrupted": interrupted, "other": other}) == 130
    assert "finished: one" in run.printed
    text = (run.folder / "out" / "index.html").read_text(encoding="utf-8")
    assert "The title of one" in text
    assert text.rstrip().endswith("</html>")
    assert run(known={"one": one, "interrupted": other, "other": other}) == 0
    assert "left out without --again: one\n" in run.printed


def test_an_experiment_that_fails_does_not_stop_the_others(run: Run) -> None:
    assert run(known={"broken": broken, "other": other}) == 1
    assert "failed: broken" in run.printed
    assert "no luck" in run.printed
    assert (run.folder / "out" / "other.html").exists()
    assert not (run.folder / "out" / "broken.html").exists()


# The command line


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    line = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_help_says_what_every_option_does() -> None:
    shown = command_line("--help")
    assert shown.returncode == 0
    for word in ("--verbose", "--list", "--again", "--quick", "--seeds", "--out", "--device", "--data", "Ctrl-C"):
        assert word in shown.stdout, f"--help does not mention {word}"


def test_the_list_names_every_experiment() -> None:
    shown = command_line("--list")
    assert shown.returncode == 0
    assert "digits  Seven optimizers" in shown.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("digit",)}, r"no experiment named digit; there are: one, other"),
        ({"names": ("digit", "one")}, r"no experiment named digit; there are: one, other"),
        ({"names": ("othe", "one")}, r"no experiment named othe; did you mean other\?"),
        ({"seeds": 1}, r"--seeds must be 2 or more.*got 1"),
        ({"seeds": 0}, r"--seeds must be 2 or more.*got 0"),
        ({"features": 3}, r"--loss, --features, --examples go with --network alone"),
        ({"jobs": 0}, r"--jobs must be 1 or more, got 0"),
        ({"data": Path("nowhere.csv"), "network": "a:b"}, r"--network and --data go with different experiments"),
        ({"data": Path("nowhere.csv")}, r"nowhere\.csv: there is no such file"),
        ({"data": Path(__file__), "names": ("one",)}, r"--data makes a page about the table alone .* got one"),
        ({"answer": "a"}, r"--answer and --answer-is go with --data alone"),
    ],
)
def test_what_makes_no_sense_is_refused(run: Run, options: dict[str, Any], message: str) -> None:
    assert run(*options.pop("names", ()), **options) == 2
    assert re.search(message, run.printed)
    assert run.printed.count("\n") == 1
    assert not (run.folder / "out").exists()


def test_several_experiments_run_at_a_time(tmp_path: Path) -> None:
    shown = command_line("backprop", "neuron", "--quick", "--jobs", "2", "--out", str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    assert {path.stem for path in (tmp_path / "results").glob("*.json")} == {"backprop", "neuron"}
    assert all("A quick run" in (tmp_path / page).read_text(encoding="utf-8") for page in ("index.html", "neuron.html"))


def test_only_a_quick_run_says_that_it_is_one(run: Run) -> None:
    assert run("one") == 0
    assert run("other", quick=True) == 0
    told = {
        page: "A quick run" in (run.folder / "out" / f"{page}.html").read_text(encoding="utf-8")
        for page in ("one", "other")
    }
    assert told == {"one": False, "other": True}


@pytest.mark.parametrize("known", [True, False])
def test_flags_that_xla_does_not_know_are_not_given_to_it(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "UNOPTIMISED", ("--xla_backend_optimization_level=0",) if known else ("--xla_what",))
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=nowhere")
    runner.compile_unoptimised()
    flags = "--xla_backend_optimization_level=0 --xla_dump_to=nowhere" if known else "--xla_dump_to=nowhere"
    assert os.environ["XLA_FLAGS"] == flags


def test_a_device_that_is_not_there_is_refused() -> None:
    for device in {"tpu", "gpu"} - {jax.default_backend()}:
        shown = command_line("backprop", "--device", device)
        assert shown.returncode == 2
        assert f"--device {device} is unavailable" in shown.stdout


def test_a_folder_that_cannot_be_is_refused_before_anything_is_run(run: Run) -> None:
    (run.folder / "out").write_text("a file", encoding="utf-8")
    assert run() == 2
    assert "cannot be a folder" in run.printed


def test_a_rough_run_takes_the_place_of_no_other() -> None:
    from experiments.__main__ import folder_of

    assert folder_of(Options()) == Path("report")
    assert folder_of(Options(quick=True)) == Path("report/quick")
    assert folder_of(Options(network="a:b")) == Path("report/network")
    assert folder_of(Options(data=Path("a/b.csv"))) == Path("report/data/b.csv")
    assert folder_of(Options(quick=True, out=Path("here"))) == Path("here")


# A new experiment


def test_a_new_experiment_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sine,) = re.findall(r"``sine\.py``::\n\n(.*?)\n(?=\S)", str(claims.__doc__), flags=re.DOTALL)
    sine = textwrap.dedent(sine)
    (tmp_path / "sine.py").write_text(sine, encoding="utf-8")
    monkeypatch.setattr(claims, "__path__", [*claims.__path__, str(tmp_path)])
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        assert main(Options(("sine",), seeds=3, out=tmp_path / "out"), Console(file=nowhere, width=150)) == 0
    stored = strict_json(tmp_path / "out" / "results" / "sine.json")
    assert stored["title"] == "A hidden layer learns a sine"
    assert stored["verdicts"][0]["verdict"] == "holds"
    sys.modules.pop("experiments.claims.sine")


# What is committed


def test_the_page_of_claims_is_that_of_the_last_full_run() -> None:
    found = record.read(record.RESULTS / "claims.csv")
    assert {claim["experiment"] for claim in found} <= set(available())
    assert all(claim["why"] for claim in found if claim["verdict"] == "does not hold")
    assert record.CLAIMS.read_text(encoding="utf-8") == record.page(found)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.split(record.BEGIN)[1].split(record.END)[0] == f"{record.counts(found)}\n"


TWO_CLAIMS = [
    {"experiment": "a", "slide": "5", "claim": "|x| is 1.", "verdict": "holds", "measured": "p: 1; q: 2; r: 3; s: 4"},
    {"experiment": "a", "slide": "5", "claim": "It is 2.", "verdict": "does not hold", "measured": "3"},
]


def test_the_page_of_claims_counts_them_folds_cases_and_gives_reasons() -> None:
    found = [claim | {"why": why} for claim, why in zip(TWO_CLAIMS, ("", "it is 3"), strict=True)]
    lines = record.page(found).splitlines()
    assert lines[4].startswith("2 claims: 1 hold, 0 hold partly, 0 are open, 1 do not hold. ")
    assert lines[6:] == [
        "## XOR",
        "",
        "| experiment | claim | verdict | measured |",
        "| --- | --- | --- | --- |",
        "| [`a`](claims/a.py) | \\|x\\| is 1. | ✓ holds | p: 1; q: 2; r: 3; 1 more |",
        "|  | It is 2. *Why: it is 3* | ✗ does not hold | 3 |",
    ]


def test_writing_the_claims_changes_one_line_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "CLAIMS", tmp_path / "CLAIMS.md")
    (tmp_path / "README.md").write_text(f"before\n{record.BEGIN}old\n{record.END}\nafter", encoding="utf-8")
    found = [claim | {"why": ""} for claim in TWO_CLAIMS]
    record.write_claims(found)
    counts = "2 claims: 1 hold, 0 hold partly, 0 are open, 1 do not hold"
    line = f"{counts}; see [CLAIMS.md](experiments/CLAIMS.md)."
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme == f"before\n{record.BEGIN}{line}\n{record.END}\nafter"
    assert (tmp_path / "CLAIMS.md").read_text(encoding="utf-8") == record.page(found)


# Tables


def test_the_tables_of_scikit_learn() -> None:
    sizes = {
        t.label: (*t.x.shape, t.classes) for t in (data.digits(), data.breast_cancer(), data.wine(), data.diabetes())
    }
    assert sizes == {
        "digits": (1797, 64, 10),
        "breast cancer": (569, 30, 2),
        "wine": (178, 13, 3),
        "diabetes": (442, 10, 0),
    }
