"""The rows of a sweep: its keys, zipped arrays and values, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from fnn.core import _checks as checks
from fnn.core._trees import is_key
from fnn.core.types import Array

Rows = tuple[Array, dict[str, Any], dict[str, Array]]
"""Keys, zipped arrays and values, each leaf [rows, …]."""


class Grid(NamedTuple):
    """The rows of a sweep: every key with every combination of values, the last hyper-parameter fastest."""

    experiment: Callable[..., Any]
    keys: Array
    zipped: dict[str, Any]
    """pytrees of arrays, their first axis along the keys"""
    values: dict[str, Array]

    @classmethod
    def of(cls, experiment: Any, keys: Any, zipped: Mapping[str, Any] | None, hyper: dict[str, Any]) -> Grid:
        """The grid of checked keys, zipped arrays and values."""
        checks.is_function("experiment", experiment)
        count = _seeds(keys)
        together = {} if zipped is None else _zipped(zipped, count, hyper)
        return cls(experiment, keys, together, {name: _values(name, values) for name, values in hyper.items()})

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of keys, and of values of each hyper-parameter."""
        return tuple(axis.shape[0] for axis in (self.keys, *self.values.values()))

    @property
    def size(self) -> int:
        """The number of rows."""
        return prod(self.shape)

    def rows(self, numbers: np.ndarray) -> Rows:
        """The arguments of the rows with these numbers, each leaf [rows, …]."""
        run, *places = np.unravel_index(numbers, self.shape)
        key, zipped = jax.tree.map(itemgetter(run), (self.keys, self.zipped))
        return key, zipped, {name: self.values[name][place] for name, place in zip(self.values, places, strict=True)}

    def row(self, given: Rows) -> Any:
        """The experiment for one row."""
        key, zipped, values = given
        return jax.tree.map(jnp.asarray, self.experiment(key, **zipped, **values))

    def coordinates(self) -> dict[str, Any]:
        """The coordinates of the leading axes of the results, by name."""
        if "run" in self.values:
            raise ValueError(
                'sweep: expected no hyper-parameter named "run", as coordinates=True numbers the keys by it, got one. '
                "Rename it."
            )
        return {"run": np.arange(self.shape[0])} | self.values


def _seeds(keys: Any) -> int:
    """The number of runs, from a checked stack of keys, one per run."""
    expected = "sweep: expected a stack of keys, one per run"
    if not hasattr(keys, "dtype"):
        raise TypeError(f"{expected}, got {type(keys).__name__}. Make one by jax.random.split(key, 32).")
    rank = keys.ndim if is_key(keys) else keys.ndim - 1
    if rank != 1:
        raise ValueError(f"{expected}, got shape {keys.shape}. Make one by jax.random.split(key, 32).")
    if keys.shape[0] == 0:
        raise ValueError("sweep: expected keys for at least one run, got none. Make some by jax.random.split(key, 32).")
    return keys.shape[0]


def _zipped(zipped: Any, count: int, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The zipped arguments as arrays, checked: new names, and a row of every leaf for each of the keys."""
    if not isinstance(zipped, Mapping) or not all(isinstance(name, str) for name in zipped):
        text = checks.shown(zipped)
        raise TypeError(f"zipped: expected a dict from names to pytrees, got {text}. Pass zipped={{'state': states}}.")
    if twice := sorted(zipped.keys() & hyper.keys()):
        raise ValueError(
            f"zipped: expected other names than the hyper-parameters', got {twice[0]!r} in both. Rename it."
        )
    for path, leaf in jax.tree.leaves_with_path(dict(zipped)):
        name = keystr(path, simple=True, separator=".")
        checks.is_array(f"zipped: the leaf {name!r}", leaf)
        if leaf.shape[:1] != (count,):
            raise ValueError(
                f"zipped: expected arrays with a row for each of the {count} keys, got {name} of shape "
                f"{tuple(leaf.shape)}. Stack one row per key, or close over what all runs share."
            )
    return jax.tree.map(jnp.asarray, dict(zipped))


def _values(name: str, sequence: Any) -> Any:
    """The values of a hyper-parameter, as an array whose first axis is swept."""
    try:
        array = jnp.asarray(sequence)
    except (TypeError, ValueError):
        raise TypeError(
            f"sweep: expected numbers as values of {name}, got {checks.shown(sequence)}. Sweep over arrays; for "
            f"pytrees, one for each key, pass zipped={{{name!r}: …}}."
        ) from None
    if array.ndim == 0:
        raise ValueError(
            f"sweep: expected a sequence of values of {name}, got {sequence!r}. Write {name}=[{sequence!r}], or fix it "
            "by functools.partial(experiment, ...)."
        )
    if array.shape[0] == 0:
        raise ValueError(f"sweep: expected at least one value of {name}, got none. Pass the values to sweep over.")
    exact = checks.concrete(sequence) if checks.concrete(array) is not None else None
    if (
        exact is not None
        and np.issubdtype(exact.dtype, np.floating)
        and np.any((exact != 1) & (np.asarray(array) == 1))
    ):
        raise ValueError(
            f"sweep: expected values of {name} that {array.dtype} distinguishes from 1, got {checks.shown(sequence)}. "
            "Sweep them under jax.enable_x64(True)."
        )
    return array
