"""Windows over the places of an image or a sequence: their geometry, cutting them out, and adding them up again.

A window of size k and dilation r at the output place p with stride s covers, in each dimension, the places
u = p s + κ r − l for κ = 0 … k − 1, where l is the padding before the first place.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array


class Windows(NamedTuple):
    """Windows in d dimensions."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Any
    """"same", "valid", or pairs (before, behind) in each dimension"""

    @property
    def places(self) -> int:
        """The number of places in a window."""
        return math.prod(self.size)

    @property
    def reach(self) -> tuple[int, ...]:
        """The places from the first of a window to its last, (k − 1) r."""
        return tuple((k - 1) * r for k, r in zip(self.size, self.dilation, strict=True))


class Fit(NamedTuple):
    """How windows lie over so many places: in each dimension the number of windows and the padding they use."""

    number: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    """(before, behind); behind is negative where the stride leaves places over"""


def windows(where: str, size: Any, stride: Any, dilation: Any, padding: Any) -> Windows:
    """The windows as a user gives them, checked; an int size is that of both dimensions of an image."""
    size = tuple(size) if isinstance(size, Sequence) else (size, size)
    if not size:
        raise ValueError(
            f"{where}: expected a size in at least one dimension, got none. Use linear for a single place."
        )
    size = tuple(checks.count(f"{where}: size", k) for k in size)
    stride, dilation = (_in_each(where, *given, len(size)) for given in (("stride", stride), ("dilation", dilation)))
    found = Windows(size, stride, dilation, padding)
    return found if padding in ("same", "valid") else found._replace(padding=_pairs(where, padding, found.reach))


def _in_each(where: str, name: str, value: Any, dimensions: int) -> tuple[int, ...]:
    """A number for each dimension, from one for all or one for each."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dimensions
    if len(values) != dimensions:
        raise ValueError(
            f"{where}: expected a {name} for each of {dimensions} dimensions, got {values}. Give one for all."
        )
    return tuple(checks.count(f"{where}: {name}", v) for v in values)


def _pairs(where: str, padding: Any, most: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """The padding (before, behind) in each dimension; raises ValueError unless it is of less than a window."""
    try:
        pairs = tuple((operator.index(before), operator.index(behind)) for before, behind in padding)
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != len(most) or not all(0 <= p <= m for pair, m in zip(pairs, most, strict=True) for p in pair):
        raise ValueError(
            f"{where}: expected padding 'same', 'valid', or a pair (before, behind) for each of {len(most)} dimensions "
            f"with numbers from 0 to {list(most)}, got {checks.shown(padding)}. Write ((1, 1), (1, 1)) for one place "
            "around."
        )
    return pairs


def fit(where: str, of: Windows, x: Any) -> Fit:
    """How the windows lie over the places of x [n, *places, c]; raises ValueError if there is no room for one."""
    places = x.shape[1:-1]
    if len(places) != len(of.size):
        raise ValueError(
            f"{where}: expected x [n, {'places, ' * len(of.size)}features] for windows of {len(of.size)} dimensions, "
            f"got shape {x.shape}. Give one size for each position axis, such as (3,) for sequences."
        )
    pairs = of.padding if isinstance(of.padding, tuple) else ((0, 0),) * len(places)
    if of.padding == "same":
        number = tuple(-(-m // s) for m, s in zip(places, of.stride, strict=True))
    else:
        each = zip(places, pairs, of.reach, of.stride, strict=True)
        number = tuple((m + sum(pair) - f - 1) // s + 1 for m, pair, f, s in each)
    if min(number) < 1:
        raise ValueError(
            f"{where}: expected at least one window of {tuple(f + 1 for f in of.reach)} places to fit into {places}, "
            "got none. Make the window smaller, or pad by padding='same'."
        )
    covered = [(c - 1) * s + f + 1 for c, s, f in zip(number, of.stride, of.reach, strict=True)]
    beyond = [end - m for end, m in zip(covered, places, strict=True)]
    before = [max(b, 0) // 2 for b in beyond] if of.padding == "same" else [low for low, _ in pairs]
    return Fit(number, tuple((low, b - low) for low, b in zip(before, beyond, strict=True)))


def cut(of: Windows, laid: Fit, x: Array, fill: float = 0.0) -> Array:
    """The windows [n, *number, k, c] over x [n, *places, c], with `fill` for the places outside."""
    n, c = x.shape[0], x.shape[-1]
    if _tiles(of, laid):
        tiles = itertools.chain.from_iterable(zip(laid.number, of.size, strict=True))
        windows = jnp.transpose(x.reshape(n, *tiles, c), _apart(len(of.size)))
        return windows.reshape(n, *laid.number, of.places, c)
    padded = jax.lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((*pair, 0) for pair in laid.padding), (0, 0, 0)])
    strides = (1, *of.stride, 1)
    slices = []
    for first in _offsets(of):
        last = [f + (c - 1) * s + 1 for f, c, s in zip(first, laid.number, of.stride, strict=True)]
        slices.append(jax.lax.slice(padded, (0, *first, 0), (n, *last, c), strides))
    return jnp.stack(slices, axis=-2)


def add_up(of: Windows, laid: Fit, cuts: Array, places: Sequence[int]) -> Array:
    """The transpose of `cut`: of windows [n, *number, k, c] the sum at each place, [n, *places, c]."""
    n, c = cuts.shape[0], cuts.shape[-1]
    if _tiles(of, laid):
        tiles = jnp.transpose(cuts.reshape(n, *laid.number, *of.size, c), np.argsort(_apart(len(of.size))).tolist())
        return tiles.reshape(n, *places, c)
    zero = jnp.zeros((), cuts.dtype)
    terms = []
    for j, first in enumerate(_offsets(of)):
        around = [
            (f - low, m + low - (f + (count - 1) * s + 1), s - 1)
            for f, (low, _), m, count, s in zip(first, laid.padding, places, laid.number, of.stride, strict=True)
        ]
        terms.append(jax.lax.pad(cuts[..., j, :], zero, [(0, 0, 0), *around, (0, 0, 0)]))
    return reduce(jnp.add, terms)


def _offsets(of: Windows) -> list[tuple[int, ...]]:
    """The first place of each offset within the window, row by row."""
    return list(itertools.product(*(range(0, k * r, r) for k, r in zip(of.size, of.dilation, strict=True))))


def _tiles(of: Windows, laid: Fit) -> bool:
    """Whether the windows cover each place once, so that a reshape cuts them."""
    covers = all(pair == (0, 0) for pair in laid.padding)
    return covers and of.stride == of.size and set(of.dilation) == {1}


def _apart(d: int) -> list[int]:
    """The order of axes that makes [n, *number, *size, c] of [n, number, size, number, size, …, c]."""
    return [0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1]
