"""The README and the page of the experiments: short, true to the last printed character, with links that resolve.

The README's Python blocks run as they stand, in a fresh process without the tests' settings. A block that begins with
``import jax`` starts anew; the others continue the blocks before them.
"""

import csv
import importlib
import inspect
import json
import re
import subprocess
import sys
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import fnn
import fnn.lecture
from fnn.core import types

ROOT = Path(fnn.__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUANTITIES = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
NEW_LAYER = ROOT / "fnn" / "nn" / "README.md"
PAGES = [path.relative_to(ROOT) for path in (ROOT / "README.md", NEW_LAYER, *ROOT.glob("experiments/*.md"))]


# Its code and what that prints


class Block(NamedTuple):
    """A block of Python, and the text that follows it, if there is one."""

    code: str
    printed: str


def blocks_of(page: str) -> list[Block]:
    """The blocks of Python of a page."""
    block = r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?"
    return [Block(*found) for found in re.findall(block, page, flags=re.DOTALL | re.MULTILINE)]


BLOCKS = blocks_of(README)
STARTS = [sum(block.code.startswith("import jax\n") for block in BLOCKS[: i + 1]) for i in range(len(BLOCKS))]
GROUPS = [
    [block for _, block in group] for _, group in groupby(zip(STARTS, BLOCKS, strict=True), key=lambda pair: pair[0])
]

GROUPS.append(blocks_of(NEW_LAYER.read_text(encoding="utf-8")))

RUN = """
import contextlib, io, json, sys
names, printed = {"__name__": "__main__"}, []
for code in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@pytest.mark.parametrize("blocks", GROUPS, ids=[group[0].code.splitlines()[1] for group in GROUPS])
def test_every_python_block_prints_the_text_below_it(blocks: list[Block]) -> None:
    codes = json.dumps([block.code for block in blocks])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, codes], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [block.printed for block in blocks]


def test_a_new_layer_has_at_most_forty_lines() -> None:
    assert len(GROUPS[-1][0].code.splitlines()) <= 40


def test_every_printed_text_is_below_the_block_that_prints_it() -> None:
    assert README.count("```text\n") == sum(bool(block.printed) for block in BLOCKS) >= 4
    assert all("print(" not in block.code for block in BLOCKS if not block.printed)


def test_the_first_screen_is_a_sentence_a_picture_and_twelve_lines_of_code() -> None:
    first = README.split("\n## ")[0]
    assert len(BLOCKS[0].code.splitlines()) <= 12
    assert first.index("<img ") < first.index("```bash") < first.index(BLOCKS[0].code) < first.index("](")
    assert first.count("](") == 3


# Its size, links, names and commands


def test_it_is_short() -> None:
    lines = README.splitlines()
    assert len(lines) <= 200
    free = ("<img ", "python3 -m venv")
    assert [line for line in lines if len(line) > 120 and not line.startswith(free)] == []


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text)]
    assert links
    for markdown, image in links:
        path, _, anchor = (markdown or image).partition("#")
        if "://" not in path:
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), f"{page} links to {path}"
            assert not anchor or anchor in anchors(target), f"{page} links to {path}#{anchor}"


def test_the_pictures_are_light() -> None:
    pictures = re.findall(r"""["(]([\w./]+\.(?:gif|svg|png))[")]""", README)
    assert pictures
    assert all((ROOT / picture).stat().st_size < 1_000_000 for picture in pictures)


def test_the_commands_that_ci_takes_from_the_readme_are_there() -> None:
    for name in ("experiments", "tests"):
        command = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", README)
        assert command
        assert command[1].startswith("python3 -m venv .venv && .venv/bin/pip install")


NOT_OF_FNN = {"python", "pip"}
"""words in backticks that are names, but of something else"""


def test_the_names_in_its_text_exist() -> None:
    """Whatever stands in backticks outside of code blocks and is a name, dotted or called."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    table = QUANTITIES.split("| quantity |")[1].split("\n\n")[0]
    for name in re.findall(r"`(\w+)`", table):
        assert hasattr(fnn, name) or hasattr(fnn.derivatives, name), name
    for name in re.findall(r"`fnn\.([\w.]+)(?:\(\))?`", prose):
        exists(fnn, name)


def test_the_shapes_have_the_functions_that_are_told_where_the_readme_points() -> None:
    assert "[Five shapes](fnn/core/types.py)" in README
    shapes = re.findall(r"^- (``[^:]+``): ((?:.|\n  )+)$", str(types.__doc__), flags=re.MULTILINE)
    assert len(shapes) == 4
    for names, fields in shapes:
        for shape, field in product(re.findall(r"``(\w+)``", names), re.findall(r"``(\w+)(?:\([^`]*\))?``", fields)):
            assert field in getattr(fnn, shape)._fields, f"{shape} has no {field}"


# Its figures, from the last full run


def recorded(name: str) -> dict[str, str]:
    with (ROOT / "experiments" / "results" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return dict(csv.reader(file))


COSTS = {
    "`squared_norm`; `gram`": ("squared norms of examples", "Gram matrix"),
    "`second_moment`; `variance`; `signal_to_noise`": ("second moment", "variance", "signal to noise"),
    "`per_example`": ("gradients of examples",),
    "`gradient_noise`; `clip_per_example`": ("gradient noise", "clipped per example"),
    "`ggn_diagonal`": ("Gauss–Newton diagonal", "Gauss–Newton diagonal, 1 sample"),
    "`kronecker_factors`": ("Kronecker factors", "Kronecker factors, 1 sample"),
    "`second_derivatives`; `hutchinson`": (
        "Hessian diagonal",
        "Hessian diagonal, one pass",
        "Hessian diagonal, 1 probe at units",
    ),
    "`hessian_vector_product`; `ggn_vector_product`": ("Hessian · v", "Gauss–Newton · v"),
}


def test_the_costs_in_its_table_are_those_of_the_last_full_run() -> None:
    times = recorded("quantities")
    table = QUANTITIES.split("| quantity |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| ([^|]+) \|$", table, flags=re.MULTILINE)
    shown = {functions: costs.split("; ") for functions, costs in rows if "---" not in costs}
    assert shown.keys() == COSTS.keys()
    for functions, names in COSTS.items():
        found = [float(times[f"times.{name}"]) for name in names]
        assert shown[functions] == [f"{cost:.0f}" if cost >= 100 else f"{cost:.2f}" for cost in found]


def test_its_ratios_of_speed_are_those_of_the_last_full_run() -> None:
    seconds = {name.removeprefix("seconds per seed-step."): value for name, value in recorded("bench").items()}

    def ratio(problem: str, one: str, other: str) -> float:
        return float(seconds[f"{problem}.{one}"]) / float(seconds[f"{problem}.{other}"])

    said = re.search(
        r"32 seeds of 64-64-64-10 train ([\d.]+) times as fast as in plain JAX and ([\d.]+) times as fast as with flax "
        r"and optax; 784-1024-1024-10 takes ([\d.]+) times its",
        " ".join(README.split()),
    )
    assert said
    small = "64-64-64-10, batch 32, 32 seeds"
    large = next(name.rpartition(".")[0] for name in seconds if name.startswith("784-1024-1024-10"))
    found = (
        ratio(small, "plain JAX", "fnn"),
        ratio(small, "flax + optax", "fnn"),
        ratio(large, "fnn", "matrix products only"),
    )
    assert said.groups() == (f"{found[0]:.1f}", f"{found[1]:.1f}", f"{found[2]:.2f}")


# The slides, in the docstring of fnn.lecture


class Slide(NamedTuple):
    """A slide of the lecture, with what the docstring says of it."""

    title: str
    functions: str
    experiments: tuple[str, ...]


def slides() -> list[Slide]:
    text = inspect.getdoc(fnn.lecture) or ""
    found = re.findall(r"^(\S.*)\n((?:    .*\n)*?)    Experiments: (.*)\.$", text, flags=re.MULTILINE)
    return [Slide(title, functions, tuple(names.split(", "))) for title, functions, names in found]


def exists(module: Any, name: str) -> None:
    """A name, its attributes, and the options of a call that is written out."""
    path, _, arguments = name.partition("(")
    found = module
    for part in path.split("."):
        assert hasattr(found, part), f"{module.__name__} has no {name}"
        found = getattr(found, part)
    for option in re.findall(r"(\w+)=", arguments):
        assert option in inspect.signature(found).parameters, f"{path} takes no {option}"


def test_every_public_name_on_the_slides_exists() -> None:
    checked = 0
    for slide in slides():
        for name in re.findall(r"``?([^`]+)``?", slide.functions):
            package, _, own = name.rpartition(".") if name.startswith("fnn.") else ("", "", name)
            home = importlib.import_module(package) if package else fnn
            exists(home if package or hasattr(home, own.partition("(")[0].partition(".")[0]) else fnn.lecture, own)
            checked += 1
    assert checked > 100


def test_all_slides_and_their_experiments_are_there() -> None:
    """Each slide of the lecture once; the experiments that slides name, and all experiments on slides among them."""
    found = slides()
    assert len({slide.title for slide in found}) == len(found) == 31
    files = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("experiments/**/*.py")}
    named = {name for slide in found for name in slide.experiments}
    assert named <= files.keys()
    assert named >= {name for name, text in files.items() if re.search(r"^ +slide=\d+,$", text, flags=re.MULTILINE)}


ERRATA = {
    "linear_regression": ["(σ(⟨w, x⟩) − y)²", "*sum*", "factor ½", "no w_0"],
    "linear_classifier": ["no w_0", "sum of the losses"],
    "mcculloch_pitts": ["One-layer net", "+ w_0", "`heaviside` is not continuous", "`gaussian` not monotone"],
    "neuron": ["One-layer net"],
    "to_lecture": ["H_0 = n", "m = 0", "start at 1"],
    "dense": ["needs Wᵀ", "H_0 = n", "m = 0"],
    "cybenko": ["w_0 for all neurons", "not a polynomial"],
    "uniform_fan_in": ["false as printed", "a third", "writes H_l"],
    "uniform_fan_out": ["to the letter"],
    "glorot_uniform": ["prints 6/√(…)"],
    "pretrain": ["either … or"],
}


@pytest.mark.parametrize("name", ERRATA)
def test_where_a_slide_has_a_misprint_the_docstring_says_so(name: str) -> None:
    places = fnn, fnn.nn, fnn.lecture
    text = next(inspect.getdoc(getattr(place, name)) for place in places if hasattr(place, name))
    assert text
    missing = [words for words in ERRATA[name] if words not in " ".join(text.split())]
    assert not missing, f"{name} does not say {missing}"
