"""What there is to learn: scikit-learn's tables, truth tables, and points on spirals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import datasets

from fnn.core._numerics import wide_integers


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


def _of(load: Callable[..., Any], label: str) -> Sample:
    x, y = load(return_X_y=True)
    return _sample(label, x, y)


def _sample(label: str, x: np.ndarray, y: np.ndarray) -> Sample:
    x = np.asarray(x, np.float64)
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1)
    words = y.dtype.kind not in "fiub"
    if words or (np.all(y == np.round(y)) and len(np.unique(y)) <= max(20, len(y) // 20)):
        return Sample(label, jnp.asarray(x, jnp.float32), jnp.asarray(np.unique(y, return_inverse=True)[1], jnp.int32))
    y = (y - y.mean()) / y.std()
    return Sample(label, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))
