"""Every experiment in its quick version with two seeds, and what all of them have in common."""

import ast
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fnn
from experiments import pruned_digits
from experiments.benchmark import backpack, child, field, timing
from experiments.claims import bench, digits, gradients, paralysis, quantities
from experiments.report import Outcome, Settings, site, storage
from experiments.report.runner import available, timed

LONGEST = 60
"""lines of a pure experiment"""


def smaller_bench(patch: pytest.MonkeyPatch) -> None:
    for module in (bench, timing):
        patch.setattr(module, "MAIN", (2, 3, 2))
    patch.setattr(bench, "QUICK", [((2, 3, 2), 32)])
    patch.setattr(bench, "compiling", lambda depth: 1.0)
    patch.setattr(timing, "SECONDS", 1e-3)
    patch.setattr(field, "installed", lambda: field.CONTENDERS[:3])  # plain JAX promotes ranks, which is an error here
    times = {"begin": 0.0, "imported": 1.0, "first": 2.0, "peak": 1e8, "seconds": 1.0}
    patch.setattr(child, "measured", lambda *arguments: times)


def smaller_digits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(digits, "OPTIMIZERS", ("nag", "adam"))
    patch.setattr(digits, "network", lambda classes: fnn.linear(classes, w=fnn.zeros()))


def smaller_gradients(patch: pytest.MonkeyPatch) -> None:
    zoo, compared, faults = gradients.sound_networks(), gradients.compared, gradients.faults()
    patch.setattr(gradients, "sound_networks", lambda: {name: zoo[name] for name in ("linear regression", "watch")})
    patch.setattr(gradients, "compared", lambda net, loss, rounds: compared(net, loss, 2))
    patch.setattr(gradients, "faults", lambda: {name: faults[name] for name in ("a missing transpose",)})


def smaller_paralysis(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(paralysis, "HIDDEN", 2)
    patch.setattr(paralysis, "LAYERS", range(1, 3))


def smaller_pruning(patch: pytest.MonkeyPatch) -> None:
    small = fnn.serial(fnn.dense(3, fnn.tanh), fnn.linear(10))
    patch.setattr(pruned_digits, "NET", small)
    scores = pruned_digits.scores(small)
    few = ("OBD, exact", "OBD, one pass", "|w|", "random")
    patch.setattr(pruned_digits, "SCORES", {name: scores[name] for name in few})


def smaller_quantities(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(quantities, "WIDE", fnn.serial(fnn.dense(4, fnn.tanh), fnn.linear(10)))
    patch.setattr(quantities, "SMALL", fnn.linear(10))
    patch.setattr(backpack, "is_installed", lambda: False)


SMALLER = {
    "bench": smaller_bench,
    "digits": smaller_digits,
    "gradients": smaller_gradients,
    "paralysis": smaller_paralysis,
    "pruning": smaller_pruning,
    "saliency": smaller_pruning,
    "quantities": smaller_quantities,
}
"""Those which take long even in their quick versions."""


def numbers(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in numbers(item)]
    value = value.tolist() if hasattr(value, "tolist") else value
    return [leaf for item in value for leaf in numbers(item)] if isinstance(value, list | tuple) else [value]


@pytest.fixture(params=available())
def outcome(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    run = available()[request.param]
    SMALLER.get(request.param, lambda patch: None)(monkeypatch)
    return timed(request.param, run, Settings(seeds=2, quick=True), lambda words: None)


def test_it_runs_and_says_what_it_found(outcome: Outcome, tmp_path: Path) -> None:
    assert len(outcome.title) > 10
    assert len(outcome.lead) > 80
    assert outcome.verdicts
    assert outcome.figures or outcome.animations
    assert 0 <= outcome.slide < len(site.SLIDES)
    for verdict in outcome.verdicts:
        assert len(verdict.claim) > 10
        assert verdict.measured
    for picture in (*outcome.figures, *outcome.animations):
        assert len(picture.caption) > 20
        assert len(picture.description) > 20
    for table in outcome.tables:
        assert {len(row) for row in table.rows} == {len(table.header)}
    found = numbers(outcome.numbers)
    assert found
    assert all(isinstance(value, int | float | str | bool | None) for value in found)
    assert any(isinstance(value, float) and math.isfinite(value) for value in found)
    storage.save(tmp_path, outcome, "made of this")
    stored = storage.load(tmp_path, outcome.name)
    assert stored is not None
    assert stored[0].verdicts == list(outcome.verdicts)
    assert stored[0].figures == list(outcome.figures)
    assert site.write(tmp_path).exists()


@pytest.mark.parametrize("name", available())
def test_its_docstring_says_how_long_it_takes_and_what_to_expect(name: str) -> None:
    told = re.sub(r"\s+", " ", str(sys.modules[f"experiments.claims.{name}"].__doc__))
    assert f"Command: ``python -m experiments {name}``; " in told
    assert re.search(r"(second|minute)[^;]* on two CPU cores", told)
    assert "Expect" in told


@pytest.mark.parametrize("name", available())
def test_its_pure_function_is_short(name: str) -> None:
    tree = ast.parse(Path(str(sys.modules[f"experiments.claims.{name}"].__file__)).read_text(encoding="utf-8"))
    pure = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("experiment")]
    assert all(f.end_lineno - f.lineno < LONGEST for f in pure if f.end_lineno is not None)


def test_importing_the_experiments_computes_nothing() -> None:
    code = (
        "from experiments.report.runner import available\n"
        "from jax._src import xla_bridge\n"
        "assert available() and not xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
