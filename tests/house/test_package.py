"""The package as a whole: its line of packages, imports, names, docstrings, examples, sizes, the version."""

import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import jax
import pytest

import fnn

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "fnn"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))

LINE = ("core", "nn", "derivatives", "optimizers", "data", "training", "pruning", "testing", "lecture")
"""The packages of fnn: each imports from itself and from those before it."""

OPTIONAL = {"orbax", "rich", "safetensors", "sympy"}
PEERS = {"optax", "flax", "equinox", "haiku", "torch", "tensorflow", "keras"}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imports(path: Path) -> list[tuple[str, ast.stmt]]:
    """The modules a file imports, with the statements; `from fnn import checks` imports fnn.checks."""
    found = []
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                found.append((name if name in MODULES else base, node))
    return found


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name, _ in imports(path)}


# Imports


@every_file
def test_a_package_imports_packages_to_its_left_only(path):
    own = module_of(path).split(".")[1:2]
    packages = {name.split(".")[1] for name, _ in imports(path) if name.startswith("fnn.")}
    assert not own or packages <= set(LINE[: LINE.index(own[0]) + 1])


def test_the_packages_are_those_of_the_line():
    assert {module.name for module in pkgutil.iter_modules(fnn.__path__)} == set(LINE)
    assert fnn._PACKAGES == LINE


def test_modules_do_not_import_in_circles():
    inside = {name: {other for other, _ in imports(path) if other in MODULES} for name, path in MODULES.items()}
    rooms = {name: others for name, others in inside.items() if MODULES[name].name != "__init__.py"}
    TopologicalSorter({name: others & rooms.keys() for name, others in rooms.items()}).prepare()


@pytest.mark.parametrize("package", ["fnn", *(f"fnn.{name}" for name in LINE)])
def test_no_module_has_the_name_of_a_thing_that_is_exported(package):
    exported = importlib.import_module(package)
    modules = {found.name for found in pkgutil.iter_modules(exported.__path__) if package != "fnn"}
    things = {name for name in exported.__all__ if not inspect.ismodule(getattr(exported, name))}
    assert not modules & things


@every_file
def test_the_core_imports_its_dependencies_only(path):
    allowed = {"fnn", "jax", "numpy", *sys.stdlib_module_names}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = [node for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for node in ast.walk(f)]
    in_functions = {(node.lineno, node.col_offset) for node in late if isinstance(node, ast.Import | ast.ImportFrom)}
    for name, node in imports(path):
        package = name.partition(".")[0]
        assert package in allowed | OPTIONAL, f"line {node.lineno} imports {name}"
        is_late = (node.lineno, node.col_offset) in in_functions
        assert package not in OPTIONAL or is_late, (
            f"line {node.lineno}: {package} is for those who have it, import it where it is used"
        )


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_tests_import_no_peer(path):
    assert not roots(path) & PEERS


def test_importing_touches_no_backend():
    environment = {**os.environ, "JAX_PLATFORMS": "nonexistent"}
    run = subprocess.run(
        [sys.executable, "-c", "import fnn"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


# Tests


TESTED = [path for path in FILES if not path.name.startswith("_") and path.parent != PACKAGE]


@pytest.mark.parametrize("path", TESTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_has_a_test_file_in_the_same_place(path):
    """fnn/<package>/<module>.py is tested in tests/<package>/test_<module>.py."""
    expected = ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
    assert expected.exists(), f"expected {expected.relative_to(ROOT)}"
    tree = ast.parse(expected.read_text(encoding="utf-8"))
    assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body)


# Names


@pytest.mark.parametrize("package", ["fnn", *(f"fnn.{name}" for name in LINE)])
def test_all_is_every_public_name_sorted(package):
    exported = importlib.import_module(package)
    tree = ast.parse(Path(str(exported.__file__)).read_text(encoding="utf-8"))
    shown = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fnn")]
    imported = {alias.asname or alias.name for node in shown for alias in node.names}
    assert exported.__all__ == sorted(imported)
    assert all(hasattr(exported, name) for name in exported.__all__)


@every_file
def test_everything_public_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path.name} says nothing of itself"
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert not bare, f"without a docstring: {bare}"


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == fnn.__version__


def test_types_are_for_users_too():
    assert (PACKAGE / "py.typed").exists()


# Examples


def all_modules() -> list[str]:
    return ["fnn", *(found.name for found in pkgutil.walk_packages(fnn.__path__, "fnn."))]


def with_examples(name: str) -> bool:
    return ">>>" in Path(str(importlib.import_module(name).__file__)).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*filter(with_examples, all_modules())])
def test_examples_print_what_they_say(name):
    """As a user has it: float32, and JAX's own promotion."""
    module = importlib.import_module(name)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = doctest.testmod(module)
    assert results.failed == 0
    assert results.attempted > 0


# Sizes


@every_file
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


KEYWORD_LINE = re.compile(r"\s*\w+=.*,|\s*|\s*[])}]+")
"""A line of its own for a keyword argument of a call, an empty line, and the bracket that closes such a call."""


def lengths(path: Path) -> dict[str, int]:
    """The lines of every function, inner ones included, without its docstring and without keyword lines."""
    text = path.read_text(encoding="utf-8")
    counts = [not KEYWORD_LINE.fullmatch(line) for line in text.splitlines()]
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = sum(counts[first.lineno - 1 : first.end_lineno]) if is_docstring else 0
            found[node.name] = sum(counts[node.lineno - 1 : node.end_lineno]) - docstring
    return found


def test_keyword_lines_and_empty_lines_do_not_count(tmp_path):
    path = tmp_path / "long.py"
    path.write_text(
        'def f(x):\n    """One.\n\n    Two.\n    """\n    y = x == 1,\n\n    return g(\n        x=x,\n    )\n',
        encoding="utf-8",
    )
    assert lengths(path) == {"f": 3}


@every_file
def test_a_function_is_seen_at_once(path):
    long = {name: length for name, length in lengths(path).items() if length > 45}
    assert not long, f"over 45 lines without docstring, keyword lines and empty lines: {long}"
