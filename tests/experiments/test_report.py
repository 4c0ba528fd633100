"""The report: what is stored, the pages, the command line, and how verdicts follow from intervals."""

import csv
import math
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from experiments import claims, data
from experiments.__main__ import Options, main
from experiments.report import (
    Claim,
    Interval,
    Outcome,
    Settings,
    Share,
    Verdict,
    at_least,
    at_most,
    best,
    by_case,
    error_bars,
    estimate,
    exactly,
    figure,
    interval,
    intervals,
    judged,
    percent,
    record,
    runner,
    scientific,
    smaller,
    spoken,
    storage,
    sweep_seeds,
    table,
    within,
)
from experiments.report.runner import available
from tests.experiments.reports import Run, found, one, other, pictures, strict_json

ROOT = Path(__file__).parent.parent.parent


def interrupted(settings: Settings, log: Callable[[str], None]) -> Outcome:
    """Cut short."""
    raise KeyboardInterrupt


def broken(settings: Settings, log: Callable[[str], None]) -> Outcome:
    """Fails."""
    raise ArithmeticError("no luck")


class Elements(HTMLParser):
    """Every element of a page, with its attributes; and its words."""

    VOID = ("meta", "br", "link", "img", "hr", "input", "source")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return Run(monkeypatch, tmp_path)


@pytest.fixture
def pages(run: Run) -> dict[str, str]:
    assert run() == 0
    return {path.name: path.read_text(encoding="utf-8") for path in (run.folder / "out").glob("*.html")}


# The pages


def test_there_is_a_front_page_and_one_for_each_experiment(pages: dict[str, str]) -> None:
    assert set(pages) == {"index.html", "one.html", "other.html"}
    front = pages["index.html"]
    assert front.index("The title of one") < front.index("The title of other")  # the lecture's order, then beyond it
    for word, count in (("holds", 2), ("holds partly", 2), ("does not hold", 2)):
        assert len(re.findall(rf">\W*{word}\s*<", front)) == count
    for text in (front, pages["one.html"]):
        assert "a &lt;em&gt;loss&lt;/em&gt; is below 0" in text
        assert "The second is not." in text
    assert "a &lt; b" in pages["one.html"]
    assert "Two values &amp; their means." in pages["one.html"]
    assert 'python -m experiments one <span class="whole">--seeds</span> 32' in pages["one.html"]


def test_many_cases_are_folded_on_the_front_page_alone(run: Run) -> None:
    def many(settings: Settings, log: Any) -> Outcome:
        outcome = found(7)
        outcome.verdicts = [Verdict("there are many", True, "; ".join(f"case {i}: {i}" for i in range(9)))]
        return outcome

    assert run("one", known={"one": many}) == 0
    front, page = ((run.folder / "out" / name).read_text(encoding="utf-8") for name in ("index.html", "one.html"))
    assert "<summary>6 more</summary>" in front
    assert "more</summary>" not in page
    assert all(f"case {i}: {i}" in text for i in range(9) for text in (front, page))


def test_the_front_page_has_contents_by_slides(pages: dict[str, str]) -> None:
    contents = pages["index.html"].split("Contents")[1].split("</details>")[0]
    assert contents.index('href="#slide-7"') < contents.index("The title of one") < contents.index('href="#slide-0"')
    assert contents.index('href="#slide-0"') < contents.index("The title of other")


def test_the_site_needs_nothing_but_itself(run: Run, pages: dict[str, str]) -> None:
    for text in pages.values():
        elements = Elements(text)
        assert not elements.open
        assert not {tag for tag, _ in elements.found} & {"script", "iframe"}
        attributes = [a[name] for _, a in elements.found for name in ("src", "srcset", "href") if a.get(name)]
        ids = [a["id"] for _, a in elements.found if "id" in a]
        assert len(ids) == len(set(ids))
        for target in map(str, attributes):
            if target.startswith("#"):
                assert target[1:] in ids
            elif not target.startswith("data:"):
                assert (run.folder / "out" / target).is_file(), target
    style = (run.folder / "out" / "style.css").read_text(encoding="utf-8")
    assert "@import" not in style
    assert "url(" not in style


def test_pictures_have_sizes_and_words(pages: dict[str, str]) -> None:
    for text in pages.values():
        elements = Elements(text).found
        pictures = [a for tag, a in elements if tag == "img"]
        assert len(pictures) == 2
        assert all(int(str(a["width"])) > 0 and int(str(a["height"])) > 0 and len(str(a["alt"])) > 5 for a in pictures)
        assert ("html", "en") in [(tag, a.get("lang")) for tag, a in elements]
        assert all(a.get("scope") in ("col", "row") for tag, a in elements if tag == "th")


def test_a_picture_takes_the_colours_of_the_page(run: Run, pages: dict[str, str]) -> None:
    svg = pictures(run.folder / "out", "one")["1.svg"].decode("utf-8")
    assert svg.startswith("<svg viewBox=")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "prefers-color-scheme:dark" in svg
    assert svg == found(7).figures[0].svg


# What is stored


def test_the_numbers_are_stored_as_json_and_csv(run: Run) -> None:
    assert run() == 0
    results = run.folder / "out" / "results"
    stored = strict_json(results / "one.json")
    assert stored["numbers"] == {"values": [[1.0, 2.0], [1.001, 2.002]], "lost": None, "nested": {"mean": 1.5}}
    assert [v["verdict"] for v in stored["verdicts"]] == ["holds", "holds partly", "does not hold"]
    with open(results / "one.csv", newline="", encoding="utf-8") as file:
        rows = {row["quantity"]: row["value"] for row in csv.DictReader(file)}
    assert rows["values.1.0"] == "1.001"
    assert rows["nested.mean"] == "1.5"
    with open(run.folder / "out" / "claims.csv", newline="", encoding="utf-8") as file:
        claims = list(csv.DictReader(file))
    assert [(c["experiment"], c["slide"], c["verdict"]) for c in claims[:2]] == [
        ("one", "7", "holds"),
        ("one", "7", "holds partly"),
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
    assert {path.name for path in storage._files("mine")} >= {"mine.py", "data.py", "outcomes.py"}
    (tmp_path / "mine.py").write_text("from experiments import data, report, costs\n", encoding="utf-8")
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
    for word in ("--only", "--list", "--again", "--quick", "--seeds", "--out", "--device", "--data", "Ctrl-C"):
        assert word in shown.stdout, f"--help does not mention {word}"


def test_the_list_names_every_experiment() -> None:
    shown = command_line("--list")
    assert shown.returncode == 0
    assert "digits  Seven optimizers" in shown.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("digit",)}, r"no experiment named digit; there are: one, other"),
        ({"only": ("digit", "one")}, r"no experiment named digit; there are: one, other"),
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
    assert all(
        "This is a quick run" in (tmp_path / page).read_text(encoding="utf-8") for page in ("index.html", "neuron.html")
    )


def test_only_a_quick_run_says_that_it_is_one(run: Run) -> None:
    assert run("one") == 0
    assert run("other", quick=True) == 0
    told = {
        page: "quick run" in (run.folder / "out" / f"{page}.html").read_text(encoding="utf-8")
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


def test_only_and_names_are_the_same(run: Run) -> None:
    assert run(only=("other",)) == 0
    assert {path.stem for path in (run.folder / "out" / "results").glob("*.json")} == {"other"}


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
    assert lines[4].startswith("2 claims: 1 hold, 0 hold partly, 1 do not hold. ")
    assert lines[6:] == [
        "## XOR",
        "",
        "| experiment | claim | verdict | measured |",
        "| --- | --- | --- | --- |",
        "| [`a`](claims/a.py) | \\|x\\| is 1. | ✓ holds | p: 1; q: 2; r: 3; 1 more |",
        "|  | It is 2. *Why not: it is 3.* | ✗ does not hold | 3 |",
    ]


def test_writing_the_claims_changes_one_line_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "CLAIMS", tmp_path / "CLAIMS.md")
    (tmp_path / "README.md").write_text(f"before\n{record.BEGIN}old\n{record.END}\nafter", encoding="utf-8")
    found = [claim | {"why": ""} for claim in TWO_CLAIMS]
    record.write_claims(found)
    line = (
        "2 claims: 1 hold, 0 hold partly, 1 do not hold; [experiments/CLAIMS.md](experiments/CLAIMS.md) lists them all."
    )
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert readme == f"before\n{record.BEGIN}{line}\n{record.END}\nafter"
    assert (tmp_path / "CLAIMS.md").read_text(encoding="utf-8") == record.page(found)


# Statistics


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(3).normal(size=(7, 4))
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 6, values.mean(axis=0), stats.sem(values, axis=0))
    np.testing.assert_allclose(mean - half, low, rtol=1e-12)
    np.testing.assert_allclose(mean + half, high, rtol=1e-12)


def test_interval_of_equal_values_is_a_point() -> None:
    mean, half = interval([0.25, 0.25, 0.25])
    assert (float(mean), float(half)) == (0.25, 0.0)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5).normal(size=(5, 4000))
    mean, half = interval(draws)
    share = float(np.mean(np.abs(mean) <= half))
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_interval_needs_two() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        interval([1.0])


# (k of n, the ends by the published table of Clopper–Pearson at 95 %)
@pytest.mark.parametrize(
    ("count", "seeds", "ends"), [(0, 10, (0, 0.3085)), (5, 10, (0.1871, 0.8129)), (10, 10, (0.6915, 1))]
)
def test_shares_have_exact_intervals(count: int, seeds: int, ends: tuple[float, float]) -> None:
    found = estimate(np.arange(seeds) < count)
    assert isinstance(found, Share)
    assert found.ends == pytest.approx(ends, abs=1e-4)
    assert str(found) == f"{count} of {seeds} ({ends[0]:.2f}–{ends[1]:.2f})"


def test_a_share_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5).random((4000, 20)) < 0.9
    inside = [low <= 0.9 <= high for low, high in (Share.of(row).ends for row in draws)]
    assert np.mean(inside) >= 0.95


def test_a_comparison_tells_the_difference_that_it_judges() -> None:
    told = smaller("", {"pairs": (WIDE, np.add(WIDE, 0.5))}).measured
    assert told == "pairs: 2.0 ± 5.0 against 2.5 ± 5.0 (difference −0.5 ± 0)"
    assert "the first less 0.5 times the second" in smaller("", {"pairs": (LOW, HIGH)}, factor=0.5).measured


LOW, HIGH, WIDE, LOST = [1.0, 1.1, 0.9], [3.0, 3.1, 2.9], [0.0, 2.0, 4.0], [1.0, math.nan, 1.0]


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (at_most("", 2, LOW), "holds"),
        (at_most("", 2, HIGH), "does not hold"),
        (at_most("", 2, WIDE), "holds partly"),
        (at_most("", 2, {"a": LOW, "b": HIGH}), "holds partly"),
        (at_most("", 2, {"a": HIGH, "b": HIGH}), "does not hold"),
        (at_least("", 2, HIGH), "holds"),
        (at_least("", 2, LOW), "does not hold"),
        (within("", 0.5, 1.5, LOW), "holds"),
        (within("", 2, 2.5, LOW), "does not hold"),
        (at_most("", 2, LOST), "does not hold"),
        (at_least("", 2, {"a": HIGH, "b": LOST}), "holds partly"),
        (smaller("", {"a": (LOW, HIGH)}), "holds"),
        (smaller("", {"a": (HIGH, LOW)}), "does not hold"),
        (smaller("", {"a": (LOW, LOW)}, factor=0.5), "does not hold"),
        (smaller("", {"pairs": (WIDE, np.add(WIDE, 0.1))}), "holds"),
        (smaller("", {"equal": (LOW, LOW)}), "does not hold"),
        (smaller("", {"equal": (LOW, LOW)}, or_equal=True), "holds"),
        (at_least("", 0.8, np.full(32, True)), "holds"),
        (at_least("", 0.9, np.full(32, True)), "holds partly"),
        (at_least("", 0.9, np.arange(32) < 16), "does not hold"),
        (exactly("", [4, 14], [4, 14], ""), "holds"),
        (exactly("", [4, 15], [4, 14], ""), "holds partly"),
        (exactly("", [5, 15], [4, 14], ""), "does not hold"),
    ],
)
def test_verdicts_follow_from_intervals(verdict: Verdict, word: str) -> None:
    assert verdict.word == word


@pytest.mark.parametrize(
    ("mean", "half", "written"),
    [
        (14.7188, 0.6294, "14.72 ± 0.63"),
        (0.97431, 0.00341, "0.9743 ± 0.0034"),
        (157.1, 1.829, "157.1 ± 1.8"),
        (-2600.0, 90.0, "−2600 ± 90"),
        (1.0, 1e-9, "1.00000 ± 1e−09"),
        (2e-8, 3e-9, "2.0e−08 ± 3.0e−09"),
        (1.0, 0.0, "1 ± 0"),
        (math.nan, math.nan, "nan ± nan"),
    ],
)
def test_intervals_are_written_to_two_digits_of_their_half(mean: float, half: float, written: str) -> None:
    assert str(Interval(mean, half)) == written


def test_why_is_told_of_what_does_not_hold_alone() -> None:
    assert at_most(Claim("", "a reason"), 2, LOW).explanation == ""
    assert at_most(Claim("", "a reason"), 2, HIGH).explanation == "a reason"
    assert at_most(Claim("", "a reason"), 2, WIDE).explanation == "a reason"


def test_a_sweep_is_the_same_each_time() -> None:
    def experiment(key: jax.Array, eta: jax.Array) -> jax.Array:
        return eta * jax.random.normal(key, (), np.float32)

    first, again = (sweep_seeds(experiment, Settings(3, True), eta=np.array([1.0, 2.0], np.float32)) for _ in range(2))
    assert first.shape == (3, 2)
    np.testing.assert_array_equal(first, again)


def test_a_sweep_takes_plain_numbers_and_narrows_them() -> None:
    def experiment(key: jax.Array, rate: jax.Array, count: jax.Array, flag: jax.Array) -> dict[str, jax.Array]:
        return {"rate": rate, "count": count, "flag": flag}

    found = sweep_seeds(experiment, Settings(2, True), rate=(0.5, 2.0), count=range(3), flag=np.array([True, False]))
    assert {name: values.dtype for name, values in found.items()} == {"rate": "float32", "count": "int32", "flag": bool}
    assert found["rate"].shape == (2, 2, 3, 2)
    np.testing.assert_array_equal(found["count"][0, 0, :, 0], range(3))


def test_the_first_seed_makes_other_keys() -> None:
    def experiment(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (), np.float32)

    usual, again, other = (sweep_seeds(experiment, Settings(3, True), first=first) for first in (2026, 2026, 1989))
    np.testing.assert_array_equal(usual, again)
    assert not np.any(usual == other)


# Helpers


def test_a_setting_is_picked_for_quick_and_for_full_runs() -> None:
    assert [Settings(2, quick).pick(quick=1, full=2) for quick in (True, False)] == [1, 2]


def test_cases_are_named_along_the_second_axis() -> None:
    values = np.arange(6.0).reshape(2, 3)
    found = by_case(values, (0.1, 0.2, 10), "η = {:g}")
    assert list(found) == ["η = 0.1", "η = 0.2", "η = 10"]
    np.testing.assert_array_equal(found["η = 0.2"], [1.0, 4.0])
    assert intervals(found)["η = 10"] == Interval.of([2.0, 5.0])
    with pytest.raises(ValueError, match=r"by_case: expected values \[seeds, 2, …\], got \(2, 3\)"):
        by_case(values, (1, 2))


def test_the_best_setting_has_the_largest_mean() -> None:
    assert best([[0.0, 3.0, 2.0], [4.0, 0.0, 2.5]]) == 2


def test_a_table_writes_intervals_shares_and_words() -> None:
    rows = {"sgd": {"loss": np.array([1.0, 1.0]), "learned": np.array([True, False]), "η": "0.1"}}
    found = table("A caption", "who", rows)
    assert found.header == ("who", "loss", "learned", "η")
    assert found.rows == [("sgd", "1 ± 0", "1 of 2 (0.01–0.99)", "0.1")]


def test_numbers_are_said_in_words() -> None:
    assert spoken({"a": [0.254, 0.5], "b": np.array([1.0])}) == "a: 0.25, 0.50; b: 1.00"
    assert percent(0.256) == "26\u00a0%"
    assert percent(0.256, 1) == "25.6\u00a0%"
    assert scientific(2.5e-7) == "2.5e−07"


def test_error_bars_are_drawn_for_every_name() -> None:
    with figure() as canvas:
        axes = canvas.subplots()
        error_bars(axes, [1, 2], {"one": np.ones((3, 2)), "two": np.arange(6.0).reshape(3, 2)})
        assert [bars.get_label() for bars in axes.containers] == ["one", "two"]
        np.testing.assert_allclose(axes.containers[1][0].get_ydata(), [2.0, 3.0])


def test_a_claim_is_filled_in_with_its_reason() -> None:
    claim = Claim("It takes {steps} steps.", "{steps} are few").filled(steps=3)
    assert claim == ("It takes 3 steps.", "3 are few")
    verdict = judged(claim, False, "4", True)
    assert (verdict.claim, verdict.word, verdict.explanation) == ("It takes 3 steps.", "holds partly", "3 are few")
    assert judged(claim, True, "3", True).explanation == ""


def test_a_split_takes_every_example_once() -> None:
    x, y = np.arange(20.0), np.arange(20)
    parts = data.split(jax.random.key(0), (x, y), 5, 3)
    assert [len(part[0]) for part in parts] == [5, 3, 12]
    assert sorted(np.concatenate([np.asarray(part[1]) for part in parts])) == list(range(20))
    assert all((np.asarray(part[0]) == np.asarray(part[1])).all() for part in parts)
    train, validation, test = data.train_validation_test(jax.random.key(0), (x, y), 0.2)
    assert [len(part[0]) for part in (train, validation, test)] == [12, 4, 4]


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
