"""Leaves of pytrees by their paths, parts of a tree by index or key, and the kinds of leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

Part = int | str | tuple[int | str, ...]


def is_key(leaf: Any) -> bool:
    """True for an array of keys of `jax.random.key`."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def leaves_by_path(tree: Any) -> dict[tuple[str, ...], Any]:
    """The leaves of a tree by their paths, in the order of flattening."""
    pairs = [(tuple(keystr((k,), simple=True) for k in p), leaf) for p, leaf in jax.tree.leaves_with_path(tree)]
    distinct([path for path, _ in pairs])
    return dict(pairs)


def distinct(names: Sequence[Any]) -> None:
    """Raise ValueError unless all paths differ; only a custom node type can give two leaves the same path."""
    if len(set(names)) < len(names):
        twice = sorted({".".join(name) for name in names if names.count(name) > 1})
        raise ValueError(f"two leaves have the same path {', '.join(twice)}. Give the node's children distinct keys.")


def subtree(where: str, tree: Any, part: Any) -> tuple[tuple[str, ...], Any]:
    """The path of a part as strings, and the subtree there; a part is an index, a key, or a tuple of them."""
    path = []
    for key in part if isinstance(part, tuple) else (part,):
        inside = {keystr(p, simple=True): child for p, child in _children(tree)}
        if isinstance(key, int) and key < 0 and isinstance(tree, tuple | list):
            key += len(tree)
        if str(key) not in inside:
            at = f"in {'.'.join(path)} " if path else ""
            has = f"its parts are {', '.join(inside)}" if inside else "there is no part at all"
            raise ValueError(f"{where} has no part {part!r}: no {key!r} {at}({has}). Name a part that it has.")
        path.append(str(key))
        tree = inside[str(key)]
    return tuple(path), tree


def _children(tree: Any) -> list[tuple[Any, Any]]:
    return [(p, child) for p, child in jax.tree.leaves_with_path(tree, is_leaf=lambda node: node is not tree) if p]
