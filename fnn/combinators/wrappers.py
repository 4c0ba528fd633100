"""A layer with a shortcut around it, one many times over, and one that runs again instead of remembering."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.checks import curve_of
from fnn.combinators.shared import output
from fnn.layers.second_order import half_through, is_exact, own_slopes
from fnn.readings import gradient
from fnn.types import Array, Layer, Params, Reading, State
from fnn.watching import Pass


class RematTape(NamedTuple):
    """What `remat` keeps: the arguments of the forward pass instead of its tape."""

    state: State
    x: Array
    key: Array


def residual(layer: Layer) -> Layer:
    """A shortcut around a layer, y = x + f(x); ∂L/∂x = ε + (the error that f's backward gives for ε).

    Second derivatives, with c = ∂²L/∂y² and J = ∂f/∂x; the terms with J alone cross from shortcut to layer::

        ∂²L/∂x²  = c + Jᵀc + cJ + (f's own)
        in one pass, for a diagonal c:   c + 2 c∘diag J + (f's own), where diag J takes as many backward passes of f
        as x is wide

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
        checks.keeps_shape(label, x, output(layer, params, state, x))
        return params, state

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, state, tape = layer.forward(params, state, x, key)
        return x + y, state, tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        through, readings = layer.backward(params, tape, error, read)
        return error + through, readings

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        back = lambda error: layer.backward(params, tape, error, gradient)[0]  # noqa: E731
        through, own, readings = curve_of(layer)(params, tape, error, c, read)
        half = half_through(back, c) if is_exact(c) else c * own_slopes(back, c)
        crossing = half + jnp.swapaxes(half, 1, 2) if is_exact(c) else 2 * half
        return error + through, c + crossing + own, readings

    def apply(params: Params, state: State, x: Array) -> Array:
        return x + layer.apply(params, state, x)

    return Layer(label, init, apply, forward, backward, curve, (layer,), residual)


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
        checks.keeps_shape(label, x, output(layer, params, state, x))
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

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        def one(carry: tuple[Array, Array], part: Any) -> tuple[tuple[Array, Array], Any]:
            error, c, readings = curve_of(layer)(*part, *carry, read)
            return (error, c), readings

        (error, c), readings = jax.lax.scan(one, (error, c), (params, tape), length=depth, reverse=True)
        return error, c, _stacked(read, readings)

    return Layer(label, init, apply, forward, backward, curve, (layer,), lambda part: repeat(part, depth))


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

    def curve(params: Params, tape: RematTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        error, c, x = jax.lax.optimization_barrier((error, c, tape.x))
        _, _, inner = layer.forward(params, tape.state, x, tape.key)
        return curve_of(layer)(params, inner, error, c, read)

    return Layer(f"remat({layer})", layer.init, layer.apply, forward, backward, curve, (layer,), remat)
