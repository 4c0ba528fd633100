"""Arrays of several processes: whole in one of them, and on the devices of all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fnn.core._trees import is_key


def whole(leaf: Any) -> Any:
    """An array that this process has whole: its own copy, or the gathered parts, for which every process must call."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    return leaf.addressable_data(0) if leaf.is_fully_replicated else _on_words(_gathered, leaf)


def placed(tree: Any, shardings: Any) -> Any:
    """A tree that every process has, or has its part of, by shardings over the devices of all."""
    return jax.jit(lambda tree: tree, out_shardings=shardings)(jax.tree.map(_off_devices, tree))


def _off_devices(leaf: Any) -> Any:
    """An array that is bound to no device, unless it is on those of several processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf
    return _on_words(np.asarray, leaf)


def _gathered(leaf: Any) -> Any:
    from jax.experimental.multihost_utils import process_allgather  # here, for few need it

    return process_allgather(leaf, tiled=True)


def _on_words(f: Callable[[Any], Any], leaf: Any) -> Any:
    """A function of an array, or of the words of keys."""
    if is_key(leaf):
        return jax.random.wrap_key_data(f(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return f(leaf)
