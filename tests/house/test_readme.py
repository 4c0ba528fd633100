"""The README's Python blocks run as they stand, one after another in one fresh process without the tests' settings."""

import importlib
import inspect
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import fnn
import fnn.lecture
import fnn.lecture.pretraining

README = Path(fnn.__file__).parents[1] / "README.md"


def test_every_python_block_runs_and_prints_what_its_comments_say() -> None:
    fence = r"^(?:<!-- needs: (\w+) -->\n)?```python\n(.*?)^```$"
    blocks = re.findall(fence, README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    code = "\n".join(f"exec({block!r}, {{}})" for needed, block in blocks if not needed or find_spec(needed))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for promised in ("(8, 3, 4)", "manual–diff.", "(128, 64) (128, 64)", "(128,)"):
        assert promised in done.stdout


def test_the_commands_that_ci_takes_from_the_readme_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    for name in ("experiments", "tests"):
        command = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", text)
        assert command
        assert command[1].startswith("python3 -m venv .venv && .venv/bin/pip install")


def slide_table() -> list[list[str]]:
    """The rows [slide, functions, experiments]."""
    section = README.read_text(encoding="utf-8").split("## From slide to function")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def exists(module: Any, name: str) -> None:
    """A name, its attributes, and the options of a call that is written out."""
    path, _, arguments = name.partition("(")
    found = module
    for part in path.split("."):
        assert hasattr(found, part), f"{module.__name__} has no {name}"
        found = getattr(found, part)
    for option in re.findall(r"(\w+)=", arguments):
        assert option in inspect.signature(found).parameters, f"{path} takes no {option}"


def test_every_public_name_in_the_slide_table_exists() -> None:
    checked = 0
    for _, functions, _ in slide_table():
        module = fnn
        for name in re.findall(r"`([^`]+)`", functions):
            if name.startswith("fnn."):
                module = importlib.import_module(name)
            elif (name != "fnn" and name.isidentifier()) or "(" in name or "." in name:
                exists(module, name)
                checked += 1
    assert checked > 100


def test_the_slide_table_has_all_slides_and_their_experiments() -> None:
    """A row for each slide of the lecture; the files that rows name, and all experiments on slides among them."""
    rows = slide_table()
    assert len({slide for slide, *_ in rows}) == len(rows) == 31
    named = [name for *_, files in rows for name in re.findall(r"`([^`]+)`", files)]
    assert [name for name in named if not (README.parent / name).is_file()] == []
    texts = {path.name: path.read_text(encoding="utf-8") for path in README.parent.glob("experiments/*.py")}
    on_slides = {name for name, text in texts.items() if "slide=" in text}
    assert {Path(name).name for name in named} >= on_slides


ERRATA = {
    "linear_regression": ["(σ(⟨w, x⟩) − y)²", "*sum*", "factor ½", "no w_0"],
    "linear_classifier": ["no w_0", "sum of the losses"],
    "mcculloch_pitts": ["One-layer net", "+ w_0", "`heaviside` is not continuous", "`gaussian` not monotone"],
    "neuron": ["One-layer net"],
    "to_lecture": ["H_0 = n", "m = 0", "start at 1"],
    "dense": ["needs Wᵀ", "H_0 = n", "m = 0"],
    "cybenko": ["w_0 for all neurons", "no polynomial"],
    "uniform_fan_in": ["false as printed", "a third", "writes H_l"],
    "uniform_fan_out": ["to the letter"],
    "glorot_uniform": ["prints 6/√(…)"],
    "pretrain": ["either … or"],
}


@pytest.mark.parametrize("name", ERRATA)
def test_where_a_slide_has_a_misprint_the_docstring_says_so(name: str) -> None:
    places = fnn, fnn.lecture, fnn.lecture.pretraining
    text = next(inspect.getdoc(getattr(place, name)) for place in places if hasattr(place, name))
    assert text
    missing = [words for words in ERRATA[name] if words not in " ".join(text.split())]
    assert not missing, f"{name} does not say {missing}"
