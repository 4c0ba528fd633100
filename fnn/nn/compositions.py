"""Compositions of layers in series and side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.readings import gradient
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import OfOneInput, empty_like, output
from fnn.nn._second_order import both_through, is_exact


class ColumnsTape(NamedTuple):
    """The tape of `columns`: the tapes of its parts, and the widths of their outputs."""

    tapes: tuple[Any, ...]
    widths: tuple[Array, ...]
    """empty arrays [0, …, o] whose shapes hold the widths, because a tape holds arrays only"""


class BranchesTape(NamedTuple):
    """The tape of `branches`, as that of `columns`."""

    tapes: tuple[Any, ...]
    widths: tuple[Array, ...]


def serial(*layers: Layer) -> Layer:
    """Layers in series, y = f_L(… f_2(f_1(x))); the backward pass runs "back to front", in the lecture's words.

    Args:
        *layers: any number of layers; none gives the identity. The same layer twice, ``serial(d, d)``, is two layers
            with weights of their own, as a layer is a description; ``tied(serial(d, d), {1: 0})`` has one set of them.

    Returns:
        A layer whose params, state and tape are tuples in the order of composition.

    Raises:
        TypeError: an argument that is not a layer.
    """
    _are_layers("serial", layers)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        params, states = [], []
        for i, layer in enumerate(layers):
            p, s = layer.init(jax.random.fold_in(key, i), x)
            x = output(layer, p, s, x)
            params.append(p)
            states.append(s)
        return tuple(params), tuple(states)

    def apply(params: Params, state: State, x: Array) -> Array:
        nn_checks.parts(label, len(layers), params=params, state=state)
        for layer, p, s in zip(layers, params, state, strict=True):
            x = layer.apply(p, s, x)
        return x

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        nn_checks.parts(label, len(layers), params=params, state=state)
        states, tapes = [], []
        for i, (layer, p, s) in enumerate(zip(layers, params, state, strict=True)):
            x, s, tape = layer.forward(p, s, x, jax.random.fold_in(key, i))
            states.append(s)
            tapes.append(tape)
        return x, tuple(states), tuple(tapes)

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        readings = []
        for layer, p, t in reversed(list(zip(layers, params, tape, strict=True))):
            error, reading = layer.backward(p, t, error, read)
            readings.append(reading)
        return error, tuple(reversed(readings))

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        return _curve_in_reverse(layers, params, tape, error, c, read)

    label = f"serial({', '.join(map(str, layers))})"
    return Layer(
        label=label,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=layers,
        with_children=serial,
    )


def _curve_in_reverse(
    layers: tuple[Layer, ...], params: Params, tape: Any, error: Array, c: Array, read: Reading
) -> tuple[Array, Array, Any]:
    readings = []
    for layer, p, t in reversed(list(zip(layers, params, tape, strict=True))):
        error, c, reading = checks.curve_of(layer)(p, t, error, c, read)
        readings.append(reading)
    return error, c, tuple(reversed(readings))


def columns(*slices: tuple[int, Layer]) -> Layer:
    """Layers side by side on slices of the features, with their outputs joined: one layer may mix several σ.

    Equations, with x = [x_1 | x_2 | …] cut at the given widths::

        y = [f_1(x_1) | f_2(x_2) | …]        ∂L/∂x = [∂L/∂x_1 | ∂L/∂x_2 | …]
        ∂²L/∂x_a∂x_b = J_aᵀ (∂²L/∂y_a∂y_b) J_b for slices a ≠ b;   within a slice it is the slice's own

    Args:
        *slices: pairs (number of features, layer), at least one; the numbers must add up to the width of x.

    Returns:
        A layer whose params, state and tape are tuples in the order of the slices.

    Raises:
        TypeError: an argument that is not such a pair.
        ValueError: an x whose width is not the sum of the slices' widths.

    Example:
        >>> from fnn import activate, columns, linear, relu, serial, tanh
        >>> serial(linear(8), columns((5, activate(tanh)), (3, activate(relu))))
        serial(linear(8), columns((5, activate(tanh)), (3, activate(relu))))
    """
    _slices("columns", slices)
    widths, layers = zip(*slices, strict=True)
    cuts = [sum(widths[:i]) for i in range(1, len(widths))]

    def cut(x: Array) -> list[Array]:
        checks.features(label, x, sum(widths))
        return jnp.split(x, cuts, axis=-1)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x, sum(widths))
        likes = [jax.ShapeDtypeStruct((*x.shape[:-1], width), x.dtype) for width in widths]
        parts = [layer.init(jax.random.fold_in(key, i), likes[i]) for i, layer in enumerate(layers)]
        return tuple(p for p, _ in parts), tuple(s for _, s in parts)

    def apply(params: Params, state: State, x: Array) -> Array:
        nn_checks.parts(label, len(layers), params=params, state=state)
        parts = zip(layers, params, state, cut(x), strict=True)
        return jnp.concatenate([layer.apply(p, s, x_i) for layer, p, s, x_i in parts], axis=-1)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        nn_checks.parts(label, len(layers), params=params, state=state)
        parts = [
            layer.forward(p, s, x_i, jax.random.fold_in(key, i))
            for i, (layer, p, s, x_i) in enumerate(zip(layers, params, state, cut(x), strict=True))
        ]
        ys, states, tapes = zip(*parts, strict=True)
        return jnp.concatenate(ys, axis=-1), states, ColumnsTape(tapes, tuple(map(empty_like, ys)))

    def backward(params: Params, tape: ColumnsTape, error: Array, read: Reading) -> tuple[Array, Any]:
        parts = zip(layers, params, tape.tapes, _split(tape, error), strict=True)
        errors, readings = zip(*(layer.backward(p, t, e, read) for layer, p, t, e in parts), strict=True)
        return jnp.concatenate(errors, axis=-1), readings

    def curve(params: Params, tape: ColumnsTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        parts = zip(layers, params, tape.tapes, _split(tape, error), _own_blocks(tape, c), strict=True)
        curves = [checks.curve_of(layer)(p, t, e, own, read) for layer, p, t, e, own in parts]
        errors, own, readings = zip(*curves, strict=True)
        joined = jnp.concatenate(errors, axis=1)
        if is_exact(c):
            between = both_through(lambda error: backward(params, tape, error, gradient)[0], c)
            return joined, _with_blocks(between, own, [0, *cuts]), readings
        return joined, jnp.concatenate(own, axis=1), readings

    label = f"columns({', '.join(f'({width}, {layer})' for width, layer in slices)})"
    return Layer(
        label=label,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=layers,
        with_children=lambda *parts: columns(*zip(widths, parts, strict=True)),
    )


def branches(*layers: Layer) -> Layer:
    """One input into several layers, with their outputs joined; ``branches(serial(), f)`` is a block of DenseNet.

    Equations, with J_b the Jacobian of f_b and c = ∂²L/∂y²::

        y = [f_1(x) | f_2(x) | …]              ∂L/∂x = Σ_b (the result of f_b's backward for its ε_b)
        ∂²L/∂x² = Σ_{a≠b} J_aᵀ c_ab J_b + Σ_b (f_b's own, for c_bb);       for a diagonal c the first sum is 0

    Args:
        *layers: at least one layer.

    Returns:
        A layer whose params and state are tuples in the order of the layers.

    Raises:
        TypeError: an argument that is not a layer.
        ValueError: no layers.

    Example:
        >>> from fnn import branches, dense, linear, serial, tanh
        >>> serial(branches(serial(), dense(8, tanh)), linear(1))
        serial(branches(serial(), dense(8, tanh)), linear(1))
    """
    nn_checks.some_layers("branches", layers)
    parts = OfOneInput(f"branches({', '.join(map(str, layers))})", layers)

    def apply(params: Params, state: State, x: Array) -> Array:
        return jnp.concatenate(parts.apply(params, state, x), axis=-1)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, BranchesTape]:
        ys, states, tapes = parts.forward(params, state, x, key)
        return jnp.concatenate(ys, axis=-1), states, BranchesTape(tapes, tuple(map(empty_like, ys)))

    def backward(params: Params, tape: BranchesTape, error: Array, read: Reading) -> tuple[Array, Any]:
        return parts.backward(params, tape.tapes, _split(tape, error), read)

    def curve(params: Params, tape: BranchesTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        through, below, readings = parts.curve(params, tape.tapes, _split(tape, error), _own_blocks(tape, c), read)
        if is_exact(c):
            between = jnp.where(_within_parts(tape), 0, c)
            below += both_through(lambda error: backward(params, tape, error, gradient)[0], between)
        return through, below, readings

    return Layer(
        label=parts.label,
        init=parts.init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=layers,
        with_children=branches,
    )


def _within_parts(tape: BranchesTape) -> Array:
    """Whether two of the joined outputs are of the same part, bools [1, o, o]."""
    part = np.concatenate([np.full(y.shape[-1], b) for b, y in enumerate(tape.widths)])
    return jnp.asarray(part[None, :, None] == part[None, None, :])


def _split(tape: ColumnsTape | BranchesTape, joined: Array, axis: int = -1) -> list[Array]:
    """An array at the joined outputs, split into those of the parts."""
    ends = [sum(y.shape[-1] for y in tape.widths[:i]) for i in range(1, len(tape.widths))]
    return jnp.split(joined, ends, axis=axis)


def _own_blocks(tape: ColumnsTape | BranchesTape, c: Array) -> list[Array]:
    """The curvature at the outputs of each part."""
    return [_split(tape, rows)[b] if is_exact(c) else rows for b, rows in enumerate(_split(tape, c, axis=1))]


def _with_blocks(c: Array, blocks: Sequence[Array], starts: Sequence[int]) -> Array:
    """The matrices c with the blocks [n, i, i] on their diagonal replaced."""
    for block, start in zip(blocks, starts, strict=True):
        c = jax.lax.dynamic_update_slice(c, block, (0, start, start))
    return c


def _are_layers(where: str, values: Sequence[Any]) -> None:
    """Raise TypeError unless all values are layers."""
    for value in values:
        checks.is_layer(where, value)


def _slices(where: str, pairs: Sequence[Any]) -> None:
    """Raise unless there are pairs (number of features, layer), at least one."""
    if not pairs:
        raise ValueError(f"{where}: expected at least one pair (number of features, layer), got none")
    for pair in pairs:
        if not isinstance(pair, tuple) or isinstance(pair, Layer) or len(pair) != 2:
            raise TypeError(f"{where}: expected pairs (number of features, layer), got {checks.shown(pair)}")
        checks.count(f"{where}: number of features", pair[0])
        checks.is_layer(where, pair[1])
