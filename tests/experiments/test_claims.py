"""The experiments: each runs on made-up results, some in their quick version, and all say their words and are short."""

import ast
import csv
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from experiments import claims, pruned_digits
from experiments import report as r
from experiments.claims import gradients
from experiments.report import Animation, Outcome, Settings, animated, record, site, statistics, storage
from experiments.report.mathematics import displayed, prose
from experiments.report.runner import available, modules, timed

LONGEST = 60
"""lines of a function of an experiment"""
FOLDER = Path(claims.__path__[0])
PATHS = {name: FOLDER / f"{name}.py" for name in available()}
WITHOUT_SEEDS = ("backprop", "bench", "gradient_cost", "gradients", "parallel", "quantities")
"""the experiments that sweep over no seeds"""
SWEPT = tuple(name for name in available() if name not in WITHOUT_SEEDS)


# Short, and by themselves


def functions(path: Path) -> dict[str, int]:
    """The lines of every function of a file, by name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)}


def test_the_folder_holds_experiments_and_nothing_else() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.name != "__pycache__"} == {
        "__init__.py", *(path.name for path in PATHS.values())
    }  # fmt: skip
    assert len(PATHS) >= 30


@pytest.mark.parametrize("name", PATHS)
def test_its_functions_are_short(name: str) -> None:
    lines = functions(PATHS[name])
    assert "run" in lines
    assert name not in SWEPT or any(function.startswith("experiment") for function in lines)
    assert {function: number for function, number in lines.items() if number > LONGEST} == {}
    assert lines["run"] <= 45
    assert len(PATHS[name].read_text(encoding="utf-8").splitlines()) <= 350


def test_a_long_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("def run():\n" + "    pass\n" * LONGEST, encoding="utf-8")
    assert functions(tmp_path / "long.py") == {"run": LONGEST + 1}


@pytest.mark.parametrize("name", PATHS)
def test_it_imports_no_other_experiment(name: str) -> None:
    found = list(ast.walk(ast.parse(PATHS[name].read_text(encoding="utf-8"))))
    imported = {node.module or "" for node in found if isinstance(node, ast.ImportFrom)}
    imported |= {f"{node.module}.{a.name}" for node in found if isinstance(node, ast.ImportFrom) for a in node.names}
    imported |= {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    assert not {module for module in imported if module.startswith("experiments.claims")}


def test_importing_the_experiments_computes_nothing() -> None:
    code = (
        "from experiments.report.runner import available\n"
        "from jax._src import xla_bridge\n"
        "assert available() and not xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# Words


@pytest.mark.parametrize("name", PATHS)
def test_its_docstring_says_how_long_it_takes_and_what_to_expect(name: str) -> None:
    told = re.sub(r"\s+", " ", str(modules()[name].__doc__))
    assert f"Command: ``python -m experiments {name}``; " in told
    assert re.search(r"(second|minute)[^;]* on two CPU cores", told)
    assert "Expect" in told


def is_sentence(claim: str) -> bool:
    """Whether a claim is a whole sentence, with nothing left to fill in."""
    return claim[:1].isupper() and claim.endswith(".") and len(claim) > 20 and not re.search(r"\{\w+(:[^}]*)?\}", claim)


@pytest.mark.parametrize("claim", ["one neuron learns a half plane.", "One neuron learns", "It takes {steps} steps."])
def test_what_is_no_sentence_is_found(claim: str) -> None:
    assert not is_sentence(claim)


def test_recorded_claims_are_sentences() -> None:
    found = [claim["claim"] for claim in record.read(record.RESULTS / "claims.csv")]
    assert len(found) > 100
    assert [claim for claim in found if not is_sentence(claim)] == []


def test_recorded_claims_say_what_their_numbers_are_and_why_they_fail() -> None:
    found = record.read(record.RESULTS / "claims.csv")
    assert [claim["claim"] for claim in found if "±" in claim["measured"] and not claim["quantity"]] == []
    whys = [claim["why"] for claim in found if claim["why"]]
    assert len(whys) > 30
    assert [why for why in whys if not is_sentence(why)] == []


@pytest.mark.parametrize("name", PATHS)
def test_its_formulas_are_mathml(name: str) -> None:
    module = modules()[name]
    formulas = displayed(getattr(module, "EQUATION", ""))
    parts = [str(formula) for formula in (*formulas, prose(getattr(module, "LEAD", "")))]
    assert [part for part in parts if re.search(r"[\\$]|<mi>[&{}]</mi>", part)] == []
    assert all(re.fullmatch(r"[^_^{}\\]*", re.sub(r"\{[^}]*\}", "", text)) for text in texts(module, plain=True))


def texts(module: Any, plain: bool = False) -> list[str]:
    """The claims that a module declares, as patterns of what may be filled in."""
    values = [value for name, value in vars(module).items() if name.isupper()]
    groups = [list(value.values()) if isinstance(value, dict) else value for value in values]
    flat = [leaf for group in groups for leaf in jax.tree.leaves(group, is_leaf=lambda v: isinstance(v, r.Claim))]
    found = [leaf.text for leaf in flat if isinstance(leaf, r.Claim)]
    return found if plain else [re.sub(r"\\\{\w+(:[^}]*)?\\\}", ".+", re.escape(text)) for text in found]


@pytest.mark.parametrize("name", PATHS)
def test_recorded_claims_are_those_that_it_declares(name: str) -> None:
    found = [claim["claim"] for claim in record.read(record.RESULTS / "claims.csv") if claim["experiment"] == name]
    assert found
    assert [claim for claim in found if not any(re.fullmatch(text, claim) for text in texts(modules()[name]))] == []


# Outcomes


def numbers(value: Any) -> list[Any]:
    value = value._asdict() if hasattr(value, "_asdict") else value
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in numbers(item)]
    value = value.tolist() if hasattr(value, "tolist") else value
    return [leaf for item in value for leaf in numbers(item)] if isinstance(value, list | tuple) else [value]


def check(outcome: Outcome, folder: Path) -> None:
    """An outcome has all that the report shows, can be stored, and is read as it was."""
    assert len(outcome.title) > 10
    assert len(outcome.lead) > 80
    assert not re.search(r"\{\w+\}", outcome.lead)
    assert outcome.verdicts
    assert outcome.figures or outcome.animations
    assert 0 <= outcome.slide < len(site.SLIDES)
    for verdict in outcome.verdicts:
        assert is_sentence(verdict.claim)
        assert verdict.measured
        assert not re.search(r"\{\w+(:[^}]*)?\}", verdict.why)
    for picture in (*outcome.figures, *outcome.animations):
        assert len(picture.caption) > 20
        assert len(picture.description) > 20
    for table in outcome.tables:
        assert {len(row) for row in table.rows} == {len(table.header)}
    found = numbers(outcome.numbers)
    assert found
    assert all(isinstance(value, int | float | str | bool | None) for value in found)
    assert any(isinstance(value, float) and math.isfinite(value) for value in found)
    storage.save(folder, outcome, "made of this")
    stored = storage.load(folder, outcome.name)
    assert stored is not None
    assert stored[0].verdicts == list(outcome.verdicts)
    assert stored[0].figures == list(outcome.figures)
    with open(folder / "results" / f"{outcome.name}.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + len(found)
    assert site.write(folder).exists()


def run(name: str) -> Outcome:
    return timed(name, available()[name], Settings(seeds=2, quick=True), lambda words: None)


def made_up(shape: jax.ShapeDtypeStruct, axes: tuple[int, ...]) -> np.ndarray:
    """Numbers of a shape and a dtype, further axes in front."""
    random, size = np.random.default_rng(7), (*axes, *shape.shape)
    if shape.dtype == bool:
        return random.random(size) < 0.5
    if np.issubdtype(shape.dtype, np.integer):
        return random.integers(0, 5, size).astype(shape.dtype)
    return random.uniform(0.1, 0.9, size).astype(shape.dtype)


def only_shapes(experiment: Any, keys: jax.Array, **hyper: jax.Array) -> Any:
    """As `fnn.sweep`, but nothing is compiled or computed: the experiment is traced, and the results are made up."""
    values = {name: jax.ShapeDtypeStruct(v.shape[1:], v.dtype) for name, v in hyper.items()}
    shapes = jax.eval_shape(lambda key, values: experiment(key, **values), keys[0], values)
    axes = (len(keys), *(len(v) for v in hyper.values()))
    return jax.tree.map(lambda shape: made_up(shape, axes), shapes)


@pytest.fixture
def without_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    def for_all_seeds(experiment: Any, settings: Settings) -> Any:
        key, number = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct((), np.int32)
        shapes = jax.eval_shape(experiment, key, number)
        return lambda number: jax.tree.map(lambda shape: made_up(shape, (settings.seeds,)), shapes)

    def last_frame(draw: Any, frames: int, *words: str, **options: Any) -> Animation:
        return animated(lambda canvas, k: draw(canvas, frames - 1), 1, *words, **options)

    monkeypatch.setattr(statistics.fnn, "sweep", only_shapes)
    monkeypatch.setattr(r, "animated", last_frame)
    monkeypatch.setattr(pruned_digits, "for_all_seeds", for_all_seeds)


@pytest.mark.filterwarnings("ignore")  # of numbers that mean nothing
@pytest.mark.parametrize("name", SWEPT)
def test_it_traces_and_reports(name: str, without_computing: None, tmp_path: Path) -> None:
    check(run(name), tmp_path)


def smaller_gradients(patch: pytest.MonkeyPatch) -> None:
    networks, compared, faults = gradients.sound_networks(), gradients.compared, gradients.faults()
    few = {name: networks[name] for name in ("linear regression", "watch")}
    patch.setattr(gradients, "sound_networks", lambda: few)
    patch.setattr(gradients, "compared", lambda net, loss, rounds: compared(net, loss, 2))
    patch.setattr(gradients, "faults", lambda: {name: faults[name] for name in ("a missing transpose",)})


@pytest.mark.parametrize("name", [name for name in gradients.faults() if name != "none"])
def test_a_planted_fault_changes_a_number(name: str) -> None:
    """A thousand times a gradient of 0 is no fault: by hand and by JAX something differs, or is not finite."""
    net, _ = gradients.faults()[name]
    of_dtype = jnp.float32 if "float32" in name else jnp.float64
    x = jax.random.normal(jax.random.key(5), (7, 4), of_dtype)
    params, state = net.init(jax.random.key(6), x)
    y, pull = jax.vjp(lambda p, x: net.forward(p, state, x, jax.random.key(7))[0], params, x)
    _, _, tape = net.forward(params, state, x, jax.random.key(7))
    error = jnp.cos(y)
    by_hand, by_jax = net.backward(params, tape, error, fnn.gradient), pull(error)[::-1]
    pairs = zip(jax.tree.leaves(by_hand), jax.tree.leaves(by_jax), strict=True)
    assert not all(jnp.allclose(u, v, rtol=1e-9, atol=1e-12) for u, v in pairs)


QUICK = {
    "momentum": lambda patch: None,
    "backprop": lambda patch: None,
    "gradients": smaller_gradients,
}
"""The experiments that the tests run, made smaller where they take long even in their quick versions. All experiments
run in ``python -m experiments --quick``, whose exit status is 1 if one fails."""


@pytest.mark.parametrize("name", QUICK)
def test_it_runs_and_its_outcome_is_whole(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    QUICK[name](monkeypatch)
    outcome = run(name)
    check(outcome, tmp_path)
    if name == "momentum":
        assert outcome.verdicts[0].word == "holds"
