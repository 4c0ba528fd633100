"""Wrappers of a layer: a shortcut around it, and recomputation in place of its tape."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.readings import gradient
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import OfOneInput, output
from fnn.nn._second_order import crossing, half_through, is_exact, own_slopes


class RematTape(NamedTuple):
    """The tape of `remat`: the arguments of the forward pass instead of its tape."""

    state: State
    x: Array
    key: Array


def residual(layer: Layer, projection: Layer | None = None) -> Layer:
    """A shortcut around a layer, y = x + f(x); ∂L/∂x = ε + (the result of f's backward for ε).

    With a projection P, for an f that changes the width, it is y = P(x) + f(x), and P's backward for ε replaces ε.

    Second derivatives, with c = ∂²L/∂y² and J = ∂f/∂x; the terms with a single J cross from shortcut to layer::

        ∂²L/∂x²  = c + Jᵀc + cJ + (f's own)
        in one pass, for a diagonal c:   c + 2 c∘diag J + (f's own), where diag J costs i backward passes of f,
        i the width of x
        with a projection:   (P's own) + J_Pᵀ c J + Jᵀ c J_P + (f's own)

    Args:
        layer: f, whose output has the shape of its input.
        projection: P, whose output has the shape of f's, such as ``linear(o, bias=False)``; None for the identity.

    Returns:
        A layer with the params, state and tape of f; with a projection, with pairs (of f, of P).

    Raises:
        ValueError: an f that changes the width, or with a projection, outputs of different widths.

    Example:
        >>> from fnn import dense, linear, relu, residual
        >>> residual(dense(64, relu), projection=linear(64, bias=False))
        residual(dense(64, relu), projection=linear(64, bias=False))
    """
    checks.is_layer("residual", layer)
    if projection is not None:
        return _projected(layer, projection)
    label = f"residual({layer})"

    def init(key: Array, x: Any) -> tuple[Params, State]:
        params, state = layer.init(key, x)
        nn_checks.keeps_shape(label, x, output(layer, params, state, x))
        return params, state

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, state, tape = layer.forward(params, state, x, key)
        return x + y, state, tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        through, readings = layer.backward(params, tape, error, read)
        return error + through, readings

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        back = lambda error: layer.backward(params, tape, error, gradient)[0]  # noqa: E731
        through, own, readings = checks.curve_of(layer)(params, tape, error, c, read)
        half = half_through(back, c) if is_exact(c) else c * own_slopes(back, c)
        crossing = half + jnp.swapaxes(half, 1, 2) if is_exact(c) else 2 * half
        return error + through, c + crossing + own, readings

    def apply(params: Params, state: State, x: Array) -> Array:
        return x + layer.apply(params, state, x)

    return Layer(
        label=label,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=(layer,),
        with_children=residual,
    )


def _projected(layer: Layer, projection: Layer) -> Layer:
    """`residual` with a projection."""
    checks.is_layer("residual", projection)
    both = OfOneInput(f"residual({layer}, projection={projection})", (layer, projection))

    def apply(params: Params, state: State, x: Array) -> Array:
        y, shortcut = both.apply(params, state, x)
        return shortcut + y

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        (y, shortcut), states, tapes = both.forward(params, state, x, key)
        return shortcut + y, states, tapes

    def backward(params: Params, tapes: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        return both.backward(params, tapes, (error, error), read)

    def curve(params: Params, tapes: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        through, own, readings = both.curve(params, tapes, (error, error), (c, c), read)
        back, back_shortcut = both.backs(params, tapes)
        return through, own + crossing(back, back_shortcut, c), readings

    return Layer(
        label=both.label,
        init=both.init_alike,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=both.layers,
        with_children=residual,
    )


def remat(layer: Layer) -> Layer:
    """A layer that stores its input instead of its tape and repeats its forward pass in the backward pass.

    Trades one more forward pass of the layer for the memory of its tape, as `jax.checkpoint` does for automatic
    gradients. Values and gradients are those of the layer.

    Args:
        layer: any layer; a stochastic one draws the same numbers again, because its key is stored too.

    Returns:
        A layer with the params and state of `layer`, and a tape `RematTape`.
    """
    checks.is_layer("remat", layer)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, RematTape]:
        y, new_state, _ = layer.forward(params, state, x, key)
        return y, new_state, RematTape(state, x, key)

    def backward(params: Params, tape: RematTape, error: Array, read: Reading) -> tuple[Array, Any]:
        # The barrier makes the second run depend on the error; without it the compiler merges the
        # two runs, and no memory is saved.
        error, x = jax.lax.optimization_barrier((error, tape.x))
        _, _, inner = layer.forward(params, tape.state, x, tape.key)
        return layer.backward(params, inner, error, read)

    def curve(params: Params, tape: RematTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        error, c, x = jax.lax.optimization_barrier((error, c, tape.x))
        _, _, inner = layer.forward(params, tape.state, x, tape.key)
        return checks.curve_of(layer)(params, inner, error, c, read)

    return Layer(
        label=f"remat({layer})",
        init=layer.init,
        apply=layer.apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=(layer,),
        with_children=remat,
    )
