"""Trees to compare: their structure, shapes and dtypes, and pairs of them for a judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.testing._asking import Broken, Measured

DTYPES = ("bfloat16", "float32", "float64")
"""In which shapes and dtypes have to be kept."""


def paired(got: Any, wanted: Any, name: str, like: str = "") -> Measured:
    """Two trees to compare by their numbers, which have to be alike before.

    Raises:
        Broken: another structure, or other shapes or dtypes.
    """
    alike(got, wanted, name, like)
    return {name: (got, wanted)}


def alike(got: Any, wanted: Any, name: str, like: str = "") -> None:
    """Two trees of one structure, the same shapes and dtypes.

    Raises:
        Broken: where they first differ.
    """
    expected = f", expected {like and like + ', '}"
    if jax.tree.structure(got) != jax.tree.structure(wanted):
        raise Broken(f"{name} has structure {jax.tree.structure(got)}{expected}{jax.tree.structure(wanted)}")
    for (keys, u), v in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        if (jnp.shape(u), jnp.result_type(u)) != (jnp.shape(v), jnp.result_type(v)):
            raise Broken(f"{named(name, keys)} is {array_type(u)}{expected}{array_type(v)}")


def are_arrays(tree: Any, name: str) -> None:
    """A tree of arrays only.

    Raises:
        Broken: a leaf which is something else, such as a Python number.
    """
    for keys, leaf in jax.tree.leaves_with_path(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise Broken(f"{named(name, keys)} is no array but {type(leaf).__name__}; make it one by jnp.asarray")


def are_floats(tree: Any, name: str) -> None:
    """A tree of floats only.

    Raises:
        Broken: a leaf of integers, of keys, …
    """
    for keys, leaf in jax.tree.leaves_with_path(tree):
        if not is_float(leaf):
            raise Broken(
                f"{name} must be floats, and {named(name, keys)} is {array_type(leaf)}; {name} are what is "
                "trained: keep a mask, a counter or a key in the state, or in the layer itself"
            )


def named(name: str, keys: Any) -> str:
    """A leaf by its tree and its path: params['w']."""
    return name + jax.tree_util.keystr(keys)


def array_type(leaf: Any) -> str:
    """The dtype and shape, float32[3, 2]."""
    return f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}"


def size(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def norm(values: Any) -> float:
    """‖values‖ of an array, which neither overflows nor vanishes where the squares do."""
    values = np.abs(np.asarray(values, np.float64))
    largest = float(np.max(values, initial=0))
    return largest * float(np.sqrt(np.sum(np.square(values / largest)))) if 0 < largest < np.inf else largest


def is_float(leaf: Any) -> bool:
    """Whether an array, or its description, is of floats."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def struct(tree: Any, dtype: Any = None) -> Any:
    """The shapes and dtypes of a tree, or its shapes with its floats in another dtype."""

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype if dtype is not None and is_float(leaf) else leaf.dtype)

    return jax.tree.map(of, tree)


def precise(tree: Any) -> Any:
    """The tree with its floats in float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64 if is_float(leaf) else None), tree)


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
    """A tree of arrays with every float changed by its part of `scale`, up or down at random."""
    rng = np.random.default_rng(seed)

    def change(leaf: Any) -> Any:
        signs = jnp.asarray(rng.choice((-1.0, 1.0), leaf.shape), leaf.dtype) if is_float(leaf) else None
        return leaf if signs is None else leaf * (1 + scale * signs)

    return jax.tree.map(change, tree)


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


def cast(tree: Any, like: Any, dtype: Any) -> Any:
    """The tree with its floats in the dtypes of another one; in the dtype itself where the two are not alike."""
    same = jax.tree.structure(tree) == jax.tree.structure(like)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(like)] if same else [dtype] * len(jax.tree.leaves(tree))
    leaves = [u.astype(v) if is_float(u) else u for u, v in zip(jax.tree.leaves(tree), dtypes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def coarse(tree: Any) -> Any:
    """A tree of arrays with its floats rounded to eight binary digits, in the range of float16 where that is wide."""

    def rounded(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        short = leaf.astype(jnp.bfloat16).astype(leaf.dtype)
        shorter = short.astype(jnp.float16).astype(leaf.dtype)
        return jnp.where(jnp.isfinite(shorter), shorter, short)

    return jax.tree.map(rounded, tree)
