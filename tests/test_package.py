"""The package as a whole: floors, imports, names, docstrings, examples, sizes, the version."""

import ast
import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import pytest

import fnn

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fnn"
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))

BUILDING = """
types  files
checks.numbers
checks.arrays  checks.structures  dtypes
checks  numerics  checks.boolean  checks.comparisons  checks.geometry  checks.laws  checks.matrices  checks.probing
checks.pruned  checks.streaming  checks.transfers  decompositions
activations  losses  initializers  readings  batches  parts  optimizers.arithmetic  layers.shared  layers.second_order
layers.neurons  layers.elementwise  layers.dropouts  layers.normalization  watching  combinators.shared  signals
compare.tables  compare.costs  combinators.compositions  combinators.copies  combinators.precision  combinators.wrappers
optimizers.sgd  optimizers.adaptive  optimizers.adam  optimizers.transforms  laws.report  devices  progress  formats
layers  combinators  optimizers  backprop  stages  metrics  laws.asking  streams.samples  streams.ahead
compare.quotients  compare.culprits  neuron_parts  curvature  noise  automatic  training  parameters  networks.neurons
networks.arrangements  laws.trees
laws.equations  compare.verdicts  gauss_newton  products  fitting  sweeps  streams.online  diagnostics  pretraining
laws.judges  laws.passes  laws.updates  resumable  streams  stopping  compare.report
networks.logic  networks.separability  networks.regions  networks.approximators  laws.surroundings  laws.lowered
laws.memory  laws.kinks  laws.rounding  compare.objects  compare.rounding
compare.kinks  pruning.masks  pruning.scores  laws.layers  laws.optimizers
compare.gradients  pruning.rounds
pruning.features
compare  networks  pruning  laws
"""
"""The modules of fnn, a line a floor, the lowest first; fnn itself stands on all of them."""

STOREYS = BUILDING.strip().splitlines()
FLOORS = {f"fnn.{name}": floor for floor, names in enumerate(STOREYS) for name in names.split()} | {"fnn": len(STOREYS)}
"""A module imports from lower floors only, so siblings never import each other."""

OPTIONAL = {"rich", "safetensors", "sympy"}
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
def test_imports_go_to_a_lower_floor(path):
    module = module_of(path)
    assert module in FLOORS, f"{module} has no floor: add it to BUILDING, above all it imports"
    inside = {name for name, _ in imports(path) if name.partition(".")[0] == "fnn"}
    assert inside <= FLOORS.keys(), (
        f"{module} imports {inside - FLOORS.keys()}, which have no floor: add them to BUILDING"
    )
    wrong = {name: FLOORS[name] for name in inside if FLOORS[name] >= FLOORS[module]}
    assert not wrong, f"{module} (floor {FLOORS[module]}) may import lower floors only, not {wrong}"


def test_no_floor_is_left_without_a_module():
    assert FLOORS.keys() == MODULES.keys()


@every_file
def test_the_core_imports_its_dependencies_only(path):
    allowed = {"fnn", "jax", "numpy", *sys.stdlib_module_names}
    if module_of(path).startswith("fnn.checks"):
        allowed.add("chex")
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


# Names


def test_all_is_every_public_name_sorted():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert fnn.__all__ == sorted(imported)
    assert all(hasattr(fnn, name) for name in fnn.__all__)


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


@pytest.mark.parametrize("name", all_modules())
def test_examples_print_what_they_say(name):
    """As a user has it: float32, and JAX's own promotion."""
    module = importlib.import_module(name)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = doctest.testmod(module)
    assert results.failed == 0


# Sizes


@every_file
def test_a_file_is_read_in_one_sitting(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


def lengths(path: Path) -> dict[str, int]:
    """Lines of every function without its docstring; those of inner functions count in the outer one too."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0]
            is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
            found[node.name] = (node.end_lineno or 0) - node.lineno + 1 - docstring
    return found


@every_file
def test_a_function_is_seen_at_once(path):
    long = {name: length for name, length in lengths(path).items() if length > 45}
    assert not long, f"over 45 lines without the docstring: {long}"
