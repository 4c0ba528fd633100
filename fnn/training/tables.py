"""Results as tables: one row for each run, combination of values and step, one column for each number."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from fnn.core import _checks as checks
from fnn.core._trees import is_key


def tidy(results: Any, coordinates: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A tidy table of results, as a dict of columns of equal length, which `pandas.DataFrame` takes.

    There is a row for each combination of coordinates, the last of them fastest. A result without the last axes, such
    as a final loss beside a loss at every step, is repeated along them.

    Args:
        results: a pytree of arrays whose leading axes are those of `sweep`, perhaps followed by steps.
        coordinates: for each axis of the results, in their order, its name with its coordinates: numbers [length], or
            [length, k] for values that are vectors. ``sweep(…, coordinates=True)`` returns those of its axes; add
            others by ``coordinates | {"step": …}``. Names that no result reaches are left out.

    Returns:
        The coordinates, then the results, each a NumPy array [rows]. Names of nested results are joined by dots,
        ``"metrics.loss"``, vectors are numbered, ``"eta.0"``; a result that is one array is named "value". Half
        precision becomes float32.

    Raises:
        TypeError: results that are not arrays of numbers.
        ValueError: results with axes that are not named, or of other lengths; two columns of one name.

    Example:
        >>> import jax
        >>> from fnn import sweep
        >>> from fnn.training import tidy
        >>> def experiment(key, eta):
        ...     return {"loss": eta * jax.numpy.arange(2.0), "squared": eta * eta}
        >>> results, axes = sweep(experiment, jax.random.split(jax.random.key(0), 1), eta=[1.0, 3.0], coordinates=True)
        >>> for name, column in tidy(results, axes | {"step": [10, 20]}).items():
        ...     print(name, column.tolist())
        run [0, 0, 0, 0]
        eta [1.0, 1.0, 3.0, 3.0]
        step [10, 20, 10, 20]
        loss [0.0, 1.0, 0.0, 3.0]
        squared [1.0, 1.0, 9.0, 9.0]
    """
    axes = {name: np.asarray(values) for name, values in coordinates.items()}
    _are_axes(axes)
    leaves = {keystr(path, simple=True, separator=".") or "value": x for path, x in jax.tree.leaves_with_path(results)}
    for name, leaf in leaves.items():
        _along(name, leaf, axes)
    depth = max((np.ndim(leaf) for leaf in leaves.values()), default=0)
    used = dict(list(axes.items())[:depth])
    shape = tuple(map(len, used.values()))
    table: dict[str, np.ndarray] = {}
    for at, (name, values) in enumerate(used.items()):
        places = np.indices(shape)[at].ravel()
        vectors = {name: values} if values.ndim == 1 else {f"{name}.{j}": values[:, j] for j in range(values.shape[1])}
        _add(table, {name: column[places] for name, column in vectors.items()})
    for name, leaf in leaves.items():
        plain = _plain(leaf)
        along = plain.reshape(plain.shape + (1,) * (depth - plain.ndim))
        _add(table, {name: np.broadcast_to(along, shape).reshape(prod(shape))})
    return table


def _plain(leaf: Any) -> np.ndarray:
    """An array in a dtype that every library knows."""
    plain = np.asarray(leaf)
    is_narrow = jnp.issubdtype(plain.dtype, jnp.floating) and plain.dtype.itemsize < 4
    return plain.astype(np.float32) if is_narrow else plain


def _add(table: dict[str, np.ndarray], columns: Mapping[str, np.ndarray]) -> None:
    """Add columns to a table; raises ValueError for a name that it has."""
    for name, column in columns.items():
        if name in table:
            raise ValueError(f"tidy: expected columns of different names, got two named {name!r}. Rename one of them.")
        table[name] = column


def _are_axes(axes: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless all coordinates are numbers or vectors along an axis."""
    for name, values in axes.items():
        if values.ndim not in (1, 2):
            raise ValueError(
                f"tidy: expected coordinates of shape [length] or [length, k] for {name}, got {list(values.shape)}. "
                "Number them by numpy.arange."
            )


def _along(name: str, leaf: Any, axes: Mapping[str, np.ndarray]) -> None:
    """Raise an error unless a result is an array of numbers along the first of the axes."""
    checks.is_array(f"tidy: the result {name!r}", leaf)
    if is_key(leaf):
        raise TypeError(f"tidy: expected numbers, got the keys {name!r}. Leave them out, or take jax.random.key_data.")
    lengths = tuple(map(len, axes.values()))
    if leaf.ndim > len(axes) or leaf.shape != lengths[: leaf.ndim]:
        known = ", ".join(f"{axis}={length}" for axis, length in zip(axes, lengths, strict=True)) or "none"
        raise ValueError(
            f"tidy: expected results along the axes of coordinates ({known}), got {name!r} of shape "
            f"{list(leaf.shape)}. Name its other axes, as in coordinates | {{'step': …}}, or leave it out."
        )
