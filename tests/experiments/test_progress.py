"""What a run says of its time: cheapest first, how long the rest will take, and a lock on the report."""

from typing import Any

import pytest
from filelock import FileLock

from experiments.report import Outcome, Settings
from experiments.report.progress import Progress, expected, recorded, spoken
from experiments.report.runner import available
from tests.experiments.reports import Run, found, one, other


class Clock:
    """Seconds that go by when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_cheapest_come_first_and_the_unknown_count_as_the_median() -> None:
    assert list(expected(["slow", "new", "fast"], {"slow": 90.0, "fast": 1.0, "usual": 5.0})) == ["fast", "new", "slow"]
    assert expected(["new"], {}) == {"new": 60.0}
    assert set(recorded()) <= set(available())
    assert len(recorded()) >= 30


@pytest.mark.parametrize(
    ("seconds", "said"), [(3, "10 s"), (34, "30 s"), (60, "1 min"), (1100, "18 min"), (4800, "1 h 20 min")]
)
def test_a_time_to_come_is_said_roughly(seconds: float, said: str) -> None:
    assert spoken(seconds) == said


def test_the_rest_takes_as_many_times_what_is_expected_as_what_is_finished() -> None:
    clock = Clock()
    progress = Progress({"a": 10.0, "b": 20.0, "c": 30.0}, clock=clock)
    progress.starts("a")
    assert progress.left() == 60
    clock.now += 5
    assert progress.left() == 55
    assert progress.ends("a") == "[1/3]"
    progress.starts("b")  # a machine twice as fast
    assert progress.left() == 25
    clock.now += 4
    progress.says("64 seeds")
    assert progress.left() == 21
    assert progress.__rich__().plain == "[2/3] b · 0:04 · about 20 s left · 64 seeds"
    clock.now += 300  # it takes longer than was expected
    assert progress.left() == 0


def test_several_at_a_time_share_the_rest() -> None:
    clock = Clock()
    progress = Progress({"a": 10.0, "b": 10.0, "c": 20.0}, jobs=2, clock=clock)
    assert progress.left() == 20
    clock.now += 10
    assert [progress.ends(name) for name in "ab"] == ["[1/3]", "[2/3]"]
    assert progress.left() == 10
    assert progress.__rich__().plain == "[3/3] 2 experiments at a time · 0:10 · about 10 s left"


def test_a_line_is_printed_for_an_experiment_and_tables_when_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.__main__.recorded", lambda: {"one": 30.0, "other": 3.0})
    assert run() == 0
    first, _, *lines, last = run.printed.splitlines()
    assert first == "2 experiments, about 30 s on two cores, the cheapest first."
    assert [line.split(" s ·")[0] for line in lines] == ["[1/2] other · 0", "[2/2] one · 0"]
    assert lines[0].endswith("s · ✓ 1 ○ 1 ✗ 1 · The title of other")
    assert last.endswith("index.html")
    assert run("one", again=True, verbose=True) == 0
    assert "Some rows" in run.printed
    assert "open: all are below 2 Measured: first: 1.0005 ± 0.0064; second: 2.001 ± 0.013" in run.printed


def test_the_page_fills_as_the_run_goes_on(run: Run) -> None:
    seen = []

    def last(settings: Settings, log: Any) -> Outcome:
        seen.append({path.name for path in (run.folder / "out").glob("*.html")})
        return found(7)

    assert run(known={"one": one, "last": last}) == 0
    assert seen == [{"index.html", "claims.html", "one.html"}]


def test_a_report_that_another_run_writes_is_left_alone(run: Run) -> None:
    (run.folder / "out").mkdir()
    with FileLock(run.folder / "out" / ".lock"):
        assert run() == 2
    assert "another run is writing" in run.printed
    assert not list((run.folder / "out").glob("*.html"))
    assert run() == 0


def test_the_lock_is_released_when_a_run_is_interrupted(run: Run) -> None:
    def interrupted(settings: Settings, log: Any) -> Outcome:
        raise KeyboardInterrupt

    assert run(known={"interrupted": interrupted}) == 130
    assert run(known={"other": other}) == 0
