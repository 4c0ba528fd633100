"""Layers made of layers. Each combinator takes layers and returns a layer, so all of them nest.

Laws, held by the tests: `serial` is associative up to the nesting of its parameters; `serial()` is its identity;
`repeat(f, 1)`, `remat(f)`, `columns((width, f))` and `serial(f)` all compute f; the backward of a
composite is its parts' backwards in reverse. Keys are given to part i as ``fold_in(key, i)``, so a part that
draws nothing costs nothing.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import dense, linear, repeat, residual, serial, tanh
    >>> net = serial(dense(8, tanh), repeat(residual(dense(8, tanh)), 20), linear(3))
    >>> net
    serial(dense(8, tanh), repeat(residual(dense(8, tanh)), 20), linear(3))
    >>> params, state = net.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 5), jnp.float32))
    >>> params[1]["w"].shape, net.apply(params, state, jnp.ones((7, 5))).shape
    ((20, 8, 8), (7, 3))
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.types import Array, Layer, Params, Reading, State
from fnn.watching import Pass


class RematTape(NamedTuple):
    """What `remat` keeps: the arguments of the forward pass instead of its tape."""

    state: State
    x: Array
    key: Array


class ColumnsTape(NamedTuple):
    """What `columns` keeps: the tapes of its parts, and how wide each part's output is."""

    tapes: tuple[Any, ...]
    widths: tuple[Array, ...]
    """empty arrays [0, o]: their shapes say the widths, for a tape holds arrays only"""


def _output(layer: Layer, params: Params, state: State, x: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a layer's output, from the layer's own apply."""
    return jax.eval_shape(layer.apply, params, state, jax.ShapeDtypeStruct(x.shape, x.dtype))


def serial(*layers: Layer) -> Layer:
    """One layer after another, y = f_L(… f_2(f_1(x))); the backward pass runs "back to front", as the lecture puts it.

    Args:
        *layers: any number of layers; none gives the identity.

    Returns:
        A layer whose params, state and tape are tuples in the order of composition.

    Raises:
        TypeError: an argument that is not a layer.
    """
    for layer in layers:
        checks.is_layer("serial", layer)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        params, states = [], []
        for i, layer in enumerate(layers):
            p, s = layer.init(jax.random.fold_in(key, i), x)
            x = _output(layer, p, s, x)
            params.append(p)
            states.append(s)
        return tuple(params), tuple(states)

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.parts(label, len(layers), params=params, state=state)
        for layer, p, s in zip(layers, params, state, strict=True):
            x = layer.apply(p, s, x)
        return x

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        checks.parts(label, len(layers), params=params, state=state)
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

    label = f"serial({', '.join(map(str, layers))})"
    return Layer(label, init, apply, forward, backward, layers, serial)


def columns(*slices: tuple[int, Layer]) -> Layer:
    """Layers side by side on slices of the features, their outputs joined: neurons of one layer may differ in σ.

    Equations, with x = [x_1 | x_2 | …] cut at the given widths::

        y = [f_1(x_1) | f_2(x_2) | …]        ∂L/∂x = [∂L/∂x_1 | ∂L/∂x_2 | …]

    Args:
        *slices: pairs (number of features, layer), at least one; the numbers must add up to the width of x.

    Returns:
        A layer whose params, state and tape are tuples in the order of the slices.

    Raises:
        TypeError: an argument that is not such a pair.
        ValueError: an x of another width than the slices take together.

    Example:
        >>> from fnn import activate, columns, linear, relu, serial, tanh
        >>> serial(linear(8), columns((5, activate(tanh)), (3, activate(relu))))
        serial(linear(8), columns((5, activate(tanh)), (3, activate(relu))))
    """
    checks.slices("columns", slices)
    widths, layers = zip(*slices, strict=True)
    cuts = [sum(widths[:i]) for i in range(1, len(widths))]

    def cut(x: Array) -> list[Array]:
        checks.features(label, x, sum(widths))
        return jnp.split(x, cuts, axis=1)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x, sum(widths))
        parts = [
            layer.init(jax.random.fold_in(key, i), jax.ShapeDtypeStruct((x.shape[0], width), x.dtype))
            for i, (width, layer) in enumerate(slices)
        ]
        return tuple(p for p, _ in parts), tuple(s for _, s in parts)

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.parts(label, len(layers), params=params, state=state)
        parts = zip(layers, params, state, cut(x), strict=True)
        return jnp.concatenate([layer.apply(p, s, x_i) for layer, p, s, x_i in parts], axis=1)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        checks.parts(label, len(layers), params=params, state=state)
        parts = [
            layer.forward(p, s, x_i, jax.random.fold_in(key, i))
            for i, (layer, p, s, x_i) in enumerate(zip(layers, params, state, cut(x), strict=True))
        ]
        ys, states, tapes = zip(*parts, strict=True)
        return jnp.concatenate(ys, axis=1), states, ColumnsTape(tapes, tuple(y[:0] for y in ys))

    def backward(params: Params, tape: ColumnsTape, error: Array, read: Reading) -> tuple[Array, Any]:
        ends = [sum(y.shape[1] for y in tape.widths[:i]) for i in range(1, len(layers))]
        errors = jnp.split(error, ends, axis=1)
        parts = [
            layer.backward(p, t, e, read) for layer, p, t, e in zip(layers, params, tape.tapes, errors, strict=True)
        ]
        errors, readings = zip(*parts, strict=True)
        return jnp.concatenate(errors, axis=1), readings

    label = f"columns({', '.join(f'({width}, {layer})' for width, layer in slices)})"
    return Layer(
        label, init, apply, forward, backward, layers, lambda *parts: columns(*zip(widths, parts, strict=True))
    )


def residual(layer: Layer) -> Layer:
    """A shortcut around a layer, y = x + f(x); ∂L/∂x = ε + (the error that f's backward gives for ε).

    Args:
        layer: f, whose output has the shape of its input.

    Returns:
        A layer with the params, state and tape of f.

    Raises:
        ValueError: f changes the width.
    """
    checks.is_layer("residual", layer)
    label = f"residual({layer})"

    def init(key: Array, x: Any) -> tuple[Params, State]:
        params, state = layer.init(key, x)
        checks.keeps_shape(label, x, _output(layer, params, state, x))
        return params, state

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, state, tape = layer.forward(params, state, x, key)
        return x + y, state, tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        through, readings = layer.backward(params, tape, error, read)
        return error + through, readings

    def apply(params: Params, state: State, x: Array) -> Array:
        return x + layer.apply(params, state, x)

    return Layer(label, init, apply, forward, backward, (layer,), residual)


def repeat(layer: Layer, depth: int) -> Layer:
    """The same kind of layer `depth` times in a row, each with weights of its own, by `jax.lax.scan`.

    Computes what ``serial(layer, …, layer)`` does, but the program, and so its compile time, does not grow with depth.

    Args:
        layer: a layer whose output has the shape of its input.
        depth: how many, at least 1.

    Returns:
        A layer whose params, state and tape are those of `layer` with a first axis [depth, …].

    Raises:
        ValueError: the layer changes the width, or depth < 1.
    """
    checks.is_layer("repeat", layer)
    depth = checks.count("depth", depth)
    label = f"repeat({layer}, {depth})"
    numbers = range(depth)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(numbers))
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        params, state = jax.eval_shape(layer.init, key, like)
        checks.keeps_shape(label, x, _output(layer, params, state, x))
        return jax.vmap(lambda k: layer.init(k, like))(keys)

    def apply(params: Params, state: State, x: Array) -> Array:
        def one(x: Array, part: Any) -> tuple[Array, None]:
            p, s = part
            return layer.apply(p, s, x), None

        return jax.lax.scan(one, x, (params, state), length=depth)[0]

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        def one(x: Array, part: Any) -> tuple[Array, Any]:
            p, s, i = part
            y, s, tape = layer.forward(p, s, x, jax.random.fold_in(key, i))
            return y, (s, tape)

        y, (state, tape) = jax.lax.scan(one, x, (params, state, jnp.asarray(numbers)))
        return y, state, tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        def one(error: Array, part: Any) -> tuple[Array, Any]:
            p, t = part
            return layer.backward(p, t, error, read)

        error, readings = jax.lax.scan(one, error, (params, tape), length=depth, reverse=True)
        return error, _stacked(read, readings)

    return Layer(label, init, apply, forward, backward, (layer,), lambda part: repeat(part, depth))


def _stacked(read: Reading, readings: Any) -> Any:
    """Join what a scan has stacked; of what `watch` saw, only the readings are the reading's to join."""

    def join(node: Any) -> Any:
        if isinstance(node, Pass):
            return node._replace(readings=jax.tree.map(read.stack, node.readings))
        return read.stack(node)

    return jax.tree.map(join, readings, is_leaf=lambda node: isinstance(node, Pass))


def remat(layer: Layer) -> Layer:
    """A layer that stores its input instead of its tape and runs forward again in the backward pass.

    Trades one more forward pass of the layer for the memory of its tape, as `jax.checkpoint` does for automatic
    gradients. Values and gradients are those of the layer.

    Args:
        layer: any layer; a stochastic one draws the same again, for its key is stored too.

    Returns:
        A layer with the params and state of `layer`, and a tape `RematTape`.
    """
    checks.is_layer("remat", layer)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, RematTape]:
        y, new_state, _ = layer.forward(params, state, x, key)
        return y, new_state, RematTape(state, x, key)

    def backward(params: Params, tape: RematTape, error: Array, read: Reading) -> tuple[Array, Any]:
        # The barrier makes the second run wait for the error; without it the compiler merges the
        # two runs, and the memory is spent all the same.
        error, x = jax.lax.optimization_barrier((error, tape.x))
        _, _, inner = layer.forward(params, tape.state, x, tape.key)
        return layer.backward(params, inner, error, read)

    return Layer(f"remat({layer})", layer.init, layer.apply, forward, backward, (layer,), remat)
