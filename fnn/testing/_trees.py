"""Trees of numbers: how far two are apart, their shapes and dtypes, and other numbers in the same shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.derivatives._checks import is_key

DTYPES = ("bfloat16", "float32", "float64")
"""The dtypes in which shapes and dtypes have to be kept."""

STEP = 1e-3
"""The part of the largest number of a leaf by which `aside` moves the others."""

# How far two are apart


def norm(values: Any) -> float:
    """‖values‖ of an array, which neither overflows nor vanishes where the squares do."""
    values = np.abs(np.asarray(values, np.float64))
    largest = float(np.max(values, initial=0))
    return largest * float(np.sqrt(np.sum(np.square(values / largest)))) if 0 < largest < np.inf else largest


def norm_of_all(leaves: Sequence[Any]) -> float:
    """The norm of all numbers of several arrays."""
    return norm([norm(leaf) for leaf in leaves])


def distance(got: Any, wanted: Any) -> float:
    """‖got − wanted‖ of two arrays; NaN where both are infinite."""
    with np.errstate(invalid="ignore"):
        return norm(np.asarray(got, np.float64) - np.asarray(wanted, np.float64))


def relative_error(got: Any, wanted: Any, least: float = 0.0) -> float:
    """‖got − wanted‖/max(‖wanted‖, least) of two arrays; 0 where both are 0, infinite where `wanted` alone is.

    A leaf of a tree may be 0 in exact arithmetic, such as the gradient of a bias ahead of `batch_norm`: it has nothing
    but rounding to be relative to, and is measured by a `least` part of the whole tree instead.
    """
    return quotient(distance(got, wanted), max(norm(wanted), least))


def quotient(apart: float, scale: float) -> float:
    """apart/scale, where 0/0 is 0 and anything else over 0 infinite."""
    return float(apart / scale) if scale else (0.0 if apart == 0 else np.inf)


def numbers(leaf: Any) -> np.ndarray:
    """The numbers of a leaf: floats in float64, others as they are, and of the keys of `jax.random.key` their data."""
    leaf = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    return leaf.astype(np.float64) if is_float(leaf) else leaf


def flat_leaves(tree: Any) -> list[np.ndarray]:
    """The leaves, each as one row."""
    return [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]


# Shapes and dtypes


def named(name: str, keys: Any) -> str:
    """A leaf by its tree and its path: params['w']."""
    return name + jax.tree_util.keystr(keys)


def array_type(leaf: Any) -> str:
    """The dtype and shape, float32[3, 2]."""
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def size(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def is_float(leaf: Any) -> bool:
    """Whether an array, or its description, is of floats."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def struct(tree: Any, dtype: Any = None) -> Any:
    """The shapes and dtypes of a tree, or its shapes with its floats in another dtype."""

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype if dtype is not None and is_float(leaf) else leaf.dtype)

    return jax.tree.map(of, tree)


def cast(tree: Any, dtype: Any, like: Any = ()) -> Any:
    """The tree as arrays with its floats in a dtype, or in the dtypes of another tree where that is alike."""
    leaves, structure = jax.tree.flatten(tree)
    is_alike = structure == jax.tree.structure(like)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(like)] if is_alike else [dtype] * len(leaves)
    pairs = zip(map(jnp.asarray, leaves), dtypes, strict=True)
    return structure.unflatten([u.astype(v) if is_float(u) else u for u, v in pairs])


# Other numbers


def normal(like: Any, seed: int, scale: float = 1.0) -> Any:
    """Independent normal numbers in the shapes and dtypes of a tree, drawn by NumPy: nothing to compile."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype), like)


def shaken(tree: Any, seed: int, scale: float = 0.1) -> Any:
    """A tree of arrays with noise on its floats."""
    return jax.tree.map(lambda u, noise: u + noise if is_float(u) else u, tree, normal(tree, seed, scale))


def shaken_state(state: Any, seed: int) -> Any:
    """A state with its floats off what init makes: by a tenth of each, and in the place of a 0 a small positive number.

    So no sign changes, and a variance or a weight stays one.
    """
    rng = np.random.default_rng(seed)

    def shake(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        known, by = np.asarray(leaf), rng.uniform(0.05, 0.1, leaf.shape)
        return jnp.asarray(np.where(known == 0, by, known * (1 + by)), leaf.dtype)

    return jax.tree.map(shake, state)


def changed(tree: Any, scale: float, seed: int) -> Any:
    """A tree with every float changed by its part of `scale`, up or down at random."""
    rng = np.random.default_rng(seed)

    def change(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        signs = rng.choice((-1.0, 1.0), jnp.shape(leaf))
        return jnp.asarray(leaf) * jnp.asarray(1 + scale * signs, jnp.result_type(leaf))

    return jax.tree.map(change, tree)


def aside(tree: Any, sign: int, seed: int | None) -> Any:
    """A tree with its floats moved by about a thousandth of the largest of their leaf.

    At random, and with the other `sign` back again; without a seed all leaves of one axis or none, such as biases, to
    one side, and no others.
    """
    rng = np.random.default_rng(seed)

    def move(leaf: Any) -> Any:
        shape = np.shape(leaf)
        if not is_float(leaf) or (seed is None and len(shape) > 1):
            return leaf
        step = STEP * (float(jnp.max(jnp.abs(leaf), initial=0)) or 1.0) * sign
        way = 1.0 if seed is None else rng.choice((-1, 1), shape) * rng.uniform(0.5, 1, shape)
        return leaf + jnp.asarray(step * way, jnp.result_type(leaf))

    return jax.tree.map(move, tree)


def nudged(tree: Any, nudges: Sequence[float]) -> Any:
    """A tree of arrays, and copies of it with every float changed by its part of each nudge, stacked."""
    rng = np.random.default_rng(8)

    def nudge(leaf: Any) -> Any:
        signs = rng.choice((-1.0, 1.0), (len(nudges), *leaf.shape))
        rows = jnp.broadcast_to(leaf[None], (1 + len(nudges), *leaf.shape))
        by = 1 + np.einsum("k...,k->k...", signs, np.array(nudges))
        return (
            rows * jnp.asarray(np.concatenate([np.ones((1, *leaf.shape)), by]), leaf.dtype) if is_float(leaf) else rows
        )

    return jax.tree.map(nudge, tree)


def coarse(tree: Any) -> Any:
    """A tree of arrays with its floats rounded to eight binary digits, in the range of float16 where that is wide."""

    def rounded(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        short = leaf.astype(jnp.bfloat16).astype(leaf.dtype)
        shorter = short.astype(jnp.float16).astype(leaf.dtype)
        return jnp.where(jnp.isfinite(shorter), shorter, short)

    return jax.tree.map(rounded, tree)
