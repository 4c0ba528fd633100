"""Windows over the places of an image or a sequence: their geometry, cutting them out, and adding them up again.

A window of size k and dilation r at the output place p with stride s covers, in each dimension, the places
u = p s + κ r − l for κ = 0 … k − 1, where l is the padding before the first place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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


class Fit(NamedTuple):
    """How windows lie over so many places: in each dimension the number of windows and the padding they use."""

    number: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    """(before, behind); behind is negative where the stride leaves places over"""


def windows(where: str, size: Any, stride: Any, dilation: Any, padding: Any) -> Windows:
    """The windows as a user gives them, checked; an int size is that of both dimensions of an image."""
    size = (size, size) if not isinstance(size, Sequence) else tuple(size)
    size = tuple(checks.count(f"{where}: size", k) for k in size)
    stride, dilation = (_in_each(where, *given, len(size)) for given in (("stride", stride), ("dilation", dilation)))
    return Windows(size, stride, dilation, _padding(where, padding, size, dilation))


def _in_each(where: str, name: str, value: Any, dimensions: int) -> tuple[int, ...]:
    """A number for each dimension, from one for all or one for each."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dimensions
    if len(values) != dimensions:
        raise ValueError(f"{where}: expected a {name} for each of {dimensions} dimensions, got {values}.")
    return tuple(checks.count(f"{where}: {name}", v) for v in values)


def _padding(where: str, padding: Any, size: tuple[int, ...], dilation: tuple[int, ...]) -> Any:
    """The padding; raises unless it is a name, or pairs of less than a window."""
    if padding in ("same", "valid"):
        return padding
    pairs = tuple(tuple(pair) for pair in padding) if _are_pairs(padding) else ()
    most = [(k - 1) * r for k, r in zip(size, dilation, strict=True)]
    if len(pairs) != len(size) or not all(0 <= p <= m for pair, m in zip(pairs, most, strict=True) for p in pair):
        raise ValueError(
            f"{where}: expected padding 'same', 'valid', or a pair (before, behind) for each of {len(size)} dimensions "
            f"with numbers from 0 to {most}, got {checks.shown(padding)}. Write ((1, 1), (1, 1)) for one place around."
        )
    return pairs


def _are_pairs(value: Any) -> bool:
    is_sequence = isinstance(value, tuple | list)
    return is_sequence and all(isinstance(v, tuple | list) and all(type(p) is int for p in v) for v in value)


def fit(where: str, of: Windows, x: Any) -> Fit:
    """How the windows lie over the places of x [n, *places, c]; raises ValueError if there is no room for one."""
    places = x.shape[1:-1]
    if len(places) != len(of.size):
        raise ValueError(
            f"{where}: expected x [n, {'places, ' * len(of.size)}features] for windows of {len(of.size)} dimensions, "
            f"got shape {x.shape}. Give one size for each position axis, such as (3,) for sequences."
        )
    reach = [(k - 1) * r + 1 for k, r in zip(of.size, of.dilation, strict=True)]
    each = zip(places, reach, of.stride, strict=True)
    if of.padding == "same":
        count = tuple(-(-m // s) for m, s in zip(places, of.stride, strict=True))
        before = [max((c - 1) * s + f - m, 0) // 2 for c, (m, f, s) in zip(count, each, strict=True)]
    else:
        pairs = [(0, 0)] * len(places) if of.padding == "valid" else of.padding
        count = tuple((m + sum(pair) - f) // s + 1 for pair, (m, f, s) in zip(pairs, each, strict=True))
        before = [low for low, _ in pairs]
    if min(count, default=1) < 1:
        raise ValueError(
            f"{where}: expected at least one window of {tuple(reach)} places to fit into {tuple(places)}, got none. "
            "Make the window smaller, or pad by padding='same'."
        )
    ends = [(c - 1) * s + f for c, s, f in zip(count, of.stride, reach, strict=True)]
    return Fit(count, tuple((low, end - m - low) for low, end, m in zip(before, ends, places, strict=True)))


def cut(of: Windows, laid: Fit, x: Array, fill: float = 0.0) -> Array:
    """The windows [n, *number, k, c] over x [n, *places, c], with `fill` for the places outside."""
    if _tiles(of, laid):
        return _swapped(x.reshape(x.shape[0], *_interleaved(laid.number, of.size), x.shape[-1]), len(of.size)).reshape(
            x.shape[0], *laid.number, of.places, x.shape[-1]
        )
    padded = jax.lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), *((*pair, 0) for pair in laid.padding), (0, 0, 0)])
    strides = (1, *of.stride, 1)
    slices = []
    for first in _offsets(of):
        last = [f + (c - 1) * s + 1 for f, c, s in zip(first, laid.number, of.stride, strict=True)]
        slices.append(jax.lax.slice(padded, (0, *first, 0), (x.shape[0], *last, x.shape[-1]), strides))
    return jnp.stack(slices, axis=-2)


def add_up(of: Windows, laid: Fit, cuts: Array, places: Sequence[int]) -> Array:
    """The transpose of `cut`: of windows [n, *number, k, c] the sum at each place, [n, *places, c]."""
    n, c = cuts.shape[0], cuts.shape[-1]
    if _tiles(of, laid):
        return _swapped(cuts.reshape(n, *laid.number, *of.size, c), len(of.size), back=True).reshape(n, *places, c)
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


def _interleaved(count: Sequence[int], size: Sequence[int]) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(zip(count, size, strict=True)))


def _swapped(x: Array, d: int, *, back: bool = False) -> Array:
    """[n, count, size, count, size, …, c] as [n, *number, *size, c], or the other way."""
    order = [0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2), 2 * d + 1]
    return jnp.transpose(x, [order.index(axis) for axis in range(len(order))] if back else order)
