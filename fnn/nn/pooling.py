"""From many positions to few or to one: maxima and means over windows, the last step, all positions in a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn import _windows
from fnn.nn._common import ShapeTape, empty_like, without_parameters


class MaxPoolTape(NamedTuple):
    """The tape of `max_pool`."""

    winner: Array
    """which place of its window is the largest, [n, …, c], counted row by row"""
    like: Array
    """an empty array [0, …] in the shape of x"""


def max_pool(
    size: int | Sequence[int],
    *,
    stride: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "valid",
) -> Layer:
    """The largest value of each window, for each feature by itself; the error goes to the place where it was.

    Equations, with P the window of the output place p::

        y_npc = max_{u ∈ P} x_nuc             ∂L/∂x_nuc = Σ_{p: u = argmax of p} ε_npc

    Of equal values the first of the window is the largest, row by row, as in torch and in XLA's own pooling. After
    ReLU such ties are common: all values of a window may be 0.

    Args:
        size: of the window; an int for a square of an image, or a number for each position axis: (2,) for a sequence.
        stride: places from one window to the next; by default the size, so that windows do not overlap.
        padding: "valid" for none, so that places left over are not seen; "same" or pairs as in `conv`. Places
            outside are never the largest.

    Returns:
        A layer without parameters and state.

    Raises:
        ValueError: an x of another rank, or smaller than the window.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.nn import max_pool
        >>> print(max_pool((2,)).apply((), (), jnp.array([1.0, 3.0, 2.0, 0.0]).reshape(1, 4, 1))[0, :, 0])
        [3. 2.]
    """
    label = call_repr("max_pool", size, stride=(stride, None), padding=(padding, "valid"))
    of = _windows.windows(label, size, size if stride is None else stride, 1, padding)

    def pooled(x: Array) -> tuple[Array, MaxPoolTape]:
        checks.features(label, x)
        cuts = _windows.cut(of, _windows.fit(label, of, x), x, fill=-jnp.inf)
        winner = jnp.argmax(cuts, axis=-2).astype(jnp.int32)
        y = jnp.take_along_axis(cuts, winner[..., None, :], axis=-2)[..., 0, :]
        return y, MaxPoolTape(winner, empty_like(x))

    def apply(params: Params, state: State, x: Array) -> Array:
        return pooled(x)[0]

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, MaxPoolTape]:
        y, tape = pooled(x)
        return y, state, tape

    def backward(params: Params, tape: MaxPoolTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.winner.shape)
        places = jnp.arange(of.places, dtype=jnp.int32).reshape(-1, 1)
        is_winner = tape.winner[..., None, :] == jnp.expand_dims(places, tuple(range(error.ndim - 1)))
        cuts = jnp.where(is_winner, error[..., None, :], 0)
        return _windows.add_up(of, _windows.fit(label, of, tape.like), cuts, tape.like.shape[1:-1]), ()

    return Layer(label=label, init=without_parameters(label), apply=apply, forward=forward, backward=backward)


def average_pool(
    size: int | Sequence[int] | None = None,
    *,
    stride: int | Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "valid",
) -> Layer:
    """The mean of each window, or of all positions, for each feature by itself.

    Equations, with P the window of the output place p, of k places::

        y_npc = (1/k) Σ_{u ∈ P} x_nuc             ∂L/∂x_nuc = (1/k) Σ_{p: u ∈ P} ε_npc

    Args:
        size: of the window, as in `max_pool`; None for one mean over all positions, [n, …, c] to [n, c].
        stride: as in `max_pool`.
        padding: as in `max_pool`; places outside count as 0.

    Returns:
        A layer without parameters and state.

    Raises:
        ValueError: an x of another rank, or smaller than the window; a stride or padding without a size.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.nn import average_pool
        >>> average_pool().apply((), (), jnp.ones((10, 8, 8, 3))).shape
        (10, 3)
        >>> average_pool(2).apply((), (), jnp.ones((10, 8, 8, 3))).shape
        (10, 4, 4, 3)
    """
    label = call_repr(
        "average_pool", *(() if size is None else (size,)), stride=(stride, None), padding=(padding, "valid")
    )
    if size is None:
        if stride is not None or padding != "valid":
            raise ValueError(f"{label}: expected a size of the windows with their stride or padding. Add the size.")
        return _mean_of_positions(label)
    of = _windows.windows(label, size, size if stride is None else stride, 1, padding)

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return jnp.mean(_windows.cut(of, _windows.fit(label, of, x), x), axis=-2)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, ShapeTape]:
        return apply(params, state, x), state, ShapeTape(empty_like(x))

    def backward(params: Params, tape: ShapeTape, error: Array, read: Reading) -> tuple[Array, Any]:
        laid = _windows.fit(label, of, tape.like)
        nn_checks.error(label, error, len(error), *laid.number, tape.like.shape[-1])
        cuts = jnp.broadcast_to(error[..., None, :] / of.places, (*error.shape[:-1], of.places, error.shape[-1]))
        return _windows.add_up(of, laid, cuts, tape.like.shape[1:-1]), ()

    return Layer(label=label, init=without_parameters(label), apply=apply, forward=forward, backward=backward)


def _mean_of_positions(label: str) -> Layer:
    """The mean over all positions."""

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))

    def back(error: Array, like: Array) -> Array:
        share = error / math.prod(like.shape[1:-1])
        return jnp.broadcast_to(jnp.expand_dims(share, tuple(range(1, like.ndim - 1))), (len(error), *like.shape[1:]))

    return _reshaping(label, apply, back, lambda like: like.shape[-1:])


def flatten() -> Layer:
    """All positions and features of an example in one row, [n, …, c] to [n, …·c], in the order of `reshape`.

    Returns:
        A layer without parameters and state.

    Example:
        >>> from fnn import linear, relu, serial
        >>> from fnn.nn import activate, conv, flatten, max_pool
        >>> serial(conv(8, 3), activate(relu), max_pool(2), flatten(), linear(10))
        serial(conv(8, 3), activate(relu), max_pool(2), flatten(), linear(10))
    """

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features("flatten()", x)
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def back(error: Array, like: Array) -> Array:
        return error.reshape(len(error), *like.shape[1:])

    return _reshaping("flatten()", apply, back, lambda like: (math.prod(like.shape[1:]),))


def last() -> Layer:
    """The features at the last step of a sequence, [n, t, c] to [n, c], as for a class of the whole sequence.

    Returns:
        A layer without parameters and state.

    Raises:
        ValueError: an x that is no sequence [n, t, c].
    """

    def apply(params: Params, state: State, x: Array) -> Array:
        nn_checks.sequence("last()", x)
        return x[:, -1]

    def back(error: Array, like: Array) -> Array:
        before = (like.shape[1] - 1, 0, 0)
        return jax.lax.pad(error[:, None], jnp.zeros((), error.dtype), [(0, 0, 0), before, (0, 0, 0)])

    return _reshaping("last()", apply, back, lambda like: like.shape[-1:])


def _reshaping(
    label: str,
    apply: Callable[[Params, State, Array], Array],
    back: Callable[[Array, Array], Array],
    shape: Callable[[Array], tuple[int, ...]],
) -> Layer:
    """A linear layer without parameters, from its transpose back(error, like) and the shape(like) of its output."""

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, ShapeTape]:
        return apply(params, state, x), state, ShapeTape(empty_like(x))

    def backward(params: Params, tape: ShapeTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, len(error), *shape(tape.like))
        return back(error, tape.like), ()

    return Layer(label=label, init=without_parameters(label), apply=apply, forward=forward, backward=backward)
