"""What there is to learn: scikit-learn's tables, a user's own from a file, truth tables, and points on spirals."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from experiments.report import Settings
from fnn.core._numerics import wide_integers

SMALLEST = 50
"""examples of a table, of which some are held out"""
CLASSES = "words, or whole numbers of at most 20 values or one for each twenty examples"
"""what targets are taken for classes; see `_sample`"""


class Unreadable(Exception):
    """A user's table cannot be taken: one line that says why."""


class Sample(NamedTuple):
    """Examples and their targets."""

    label: str
    x: jax.Array
    """[examples, features], float32, each feature with mean 0 and variance 1; of the digits, pixels in [0, 1]"""
    y: jax.Array
    """classes [examples], int32, or numbers [examples], float32, with mean 0 and variance 1"""

    @property
    def classes(self) -> int:
        """How many classes there are; 0 where the targets are numbers."""
        return int(self.y.max()) + 1 if jnp.issubdtype(self.y.dtype, jnp.integer) else 0


def accuracy(a: jax.Array, y: jax.Array) -> jax.Array:
    """The share of examples whose largest output [n, classes] is that of their class [n]."""
    labels = wide_integers(y)
    return jnp.mean((jnp.argmax(a, axis=1).astype(labels.dtype) == labels).astype(jnp.float32))


def split(key: jax.Array, data: Any, *sizes: int) -> list[Any]:
    """Parts of the examples of a tree of arrays [examples, …] at random: parts of these sizes, and the rest."""
    order = jax.random.permutation(key, len(jax.tree.leaves(data)[0]))
    return [jax.tree.map(lambda leaf, part=part: leaf[part], data) for part in jnp.split(order, np.cumsum(sizes))]


def train_validation_test(key: jax.Array, data: Any, held_out: float = 0.15) -> list[Any]:
    """Three parts of the examples at random, the shares of validation and of test both `held_out`."""
    size = len(jax.tree.leaves(data)[0])
    held = round(held_out * size)
    return split(key, data, size - 2 * held, held)


def truth_tables(variables: int) -> np.ndarray:
    """All Boolean functions of so many variables, int32 [2^2^d, 2^d]: the targets of function r are the bits of r."""
    bits = np.arange(2**variables, dtype=np.int32)[::-1]
    return np.arange(2**2**variables, dtype=np.int32)[:, None] >> bits & 1


def spirals(key: jax.Array, examples: int, turns: float, noise: float) -> tuple[jax.Array, jax.Array]:
    """Points [examples, 2] on two arms, one in the other, out to radius 1; and the arm of each, int32 0 or 1."""
    of_radius, of_noise = jax.random.split(key)
    r = jnp.sqrt(jax.random.uniform(of_radius, (examples,), jnp.float32, minval=0.02))
    arm = jnp.arange(examples, dtype=jnp.int32) % 2
    angle = np.pi * (2 * turns * r + arm.astype(r.dtype))
    points = jnp.stack([r * jnp.cos(angle), r * jnp.sin(angle)], axis=1)
    return points + noise * jax.random.normal(of_noise, points.shape, points.dtype), arm


def digits() -> Sample:
    """1797 handwritten digits of 8×8 pixels, ten classes."""
    x, y = datasets.load_digits(return_X_y=True)
    return Sample("digits", jnp.asarray(x / 16, jnp.float32), jnp.asarray(y, jnp.int32))


def breast_cancer() -> Sample:
    """569 tumours by 30 measures of their cells, two classes."""
    return _of(datasets.load_breast_cancer, "breast cancer")


def wine() -> Sample:
    """178 wines by 13 chemical measures, three classes."""
    return _of(datasets.load_wine, "wine")


def diabetes() -> Sample:
    """442 patients by ten measures, and how far their disease got in a year: numbers."""
    return _of(datasets.load_diabetes, "diabetes")


def samples(settings: Settings, *own: Callable[[], Sample], numbers: bool = False) -> list[Sample]:
    """The user's table alone if there is one, else an experiment's own.

    Raises:
        Unreadable: the table's targets are numbers, which the experiment cannot take without ``numbers``.
    """
    if settings.data is None:
        return [make() for make in own]
    sample = load(Path(settings.data))
    if not (sample.classes or numbers):
        raise Unreadable(f"{settings.data}: the targets must be classes, {CLASSES}, but are numbers")
    return [sample]


def load(path: Path) -> Sample:
    """A user's table.

    Args:
        path: an .npz file with x [examples, features] and y [examples]; or a .csv file, with or without a line of
            names, a line an example, its target last. Targets that are words, or whole numbers of few values, are
            classes.

    Raises:
        Unreadable: no file, one of another kind, or one that holds no such table.
    """
    if not path.is_file():
        raise Unreadable(f"{path}: there is no such file" if not path.exists() else f"{path} is no file")
    readers = {".npz": _of_arrays, ".csv": _of_lines}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise Unreadable(f"{path} must be a .csv or an .npz file")
    try:
        x, y = readers[suffix](path)
    except (OSError, EOFError, ValueError, csv.Error, zipfile.BadZipFile) as error:  # cut short, or of another kind
        raise Unreadable(f"{path} cannot be read as {suffix}: {error}") from None
    return _checked(path, x, y)


def _of_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        if not {"x", "y"} <= set(arrays):
            raise Unreadable(f"{path} must hold arrays x and y, but holds {', '.join(arrays) or 'nothing'}")
        return arrays["x"], arrays["y"]


def _of_lines(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if rows and _is_header(rows):
        rows = rows[1:]
    if not rows or len(rows[0]) < 2 or len({len(row) for row in rows}) > 1:
        raise Unreadable(f"{path} must have at least two columns, separated by commas, and as many in each line")
    strange = [word for row in rows for word in row[:-1] if not _is_number(word)]
    if strange:
        raise Unreadable(f"{path}: every feature must be a number, got {strange[0]!r}; write words as numbers")
    targets = [row[-1] for row in rows]
    words = [word for word in targets if not _is_number(word)]
    if 0 < len(words) < len(targets):
        raise Unreadable(f"{path}: the targets must be all numbers or all words, got {words[0]!r} among numbers")
    y = np.array(targets) if words else np.array([float(word) for word in targets])
    return np.array([row[:-1] for row in rows], float), y


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first line names the columns: no feature is a number there, or the target is the only word."""
    (*features, target), *others = rows
    target_alone = not _is_number(target) and all(_is_number(row[-1]) for row in others)
    return target_alone or (any(features) and not any(map(_is_number, features)))


def _of(load: Callable[..., Any], label: str) -> Sample:
    x, y = load(return_X_y=True)
    return _sample(label, x, y)


def _checked(path: Path, x: np.ndarray, y: np.ndarray) -> Sample:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if x.ndim != 2 or not x.shape[1] or y.shape != x.shape[:1] or len(x) < SMALLEST:
        shapes = f"got {x.shape} and {y.shape}"
        raise Unreadable(f"{path}: x must be [examples, features] and y [examples], of {SMALLEST} or more; {shapes}")
    for name, array, kinds in (("x", x, "fiub"), ("y", y, "fiubUS")):
        if array.dtype.kind not in kinds:
            allowed = "numbers" if name == "x" else "numbers or words"
            raise Unreadable(f"{path}: {name} must be {allowed}, got {array.dtype}")
    if not np.isfinite(x).all() or (y.dtype.kind == "f" and not np.isfinite(y).all()):
        raise Unreadable(f"{path}: x and y must be finite, but hold NaN or infinity")
    if len(np.unique(y)) < 2:
        raise Unreadable(f"{path}: there is nothing to learn, every target is {y[0]}")
    sample = _sample(path.name, x, y)
    if sample.classes > len(x) // 2:
        raise Unreadable(f"{path}: {sample.classes} classes are too many for {len(x)} examples; is that the target?")
    return sample


def _sample(label: str, x: np.ndarray, y: np.ndarray) -> Sample:
    x = np.asarray(x, np.float64)
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)
    words = y.dtype.kind not in "fiub"
    if words or (np.all(y == np.round(y)) and len(np.unique(y)) <= max(20, len(y) // 20)):
        return Sample(label, jnp.asarray(x, jnp.float32), jnp.asarray(np.unique(y, return_inverse=True)[1], jnp.int32))
    y = (y - y.mean()) / y.std()
    return Sample(label, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
