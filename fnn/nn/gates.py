"""Gates: the elementwise product of two layers of the same input."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax

from fnn.core import _checks as checks
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import back_to_x, output
from fnn.nn._second_order import crossing, plus_diagonal, scaled_by_two


class ProductTape(NamedTuple):
    """The tape of `product`: the tapes and the outputs of its two layers."""

    tapes: tuple[Any, Any]
    outputs: tuple[Array, Array]


def product(left: Layer, right: Layer) -> Layer:
    """The elementwise product of two layers of the same input; with a sigmoid at the end of one it is a gate.

    Equations, with J_f, J_g the Jacobians of f and g, and c = ∂²L/∂y²::

        y = f(x) ∘ g(x)          ε_f = ε ∘ g,  ε_g = ε ∘ f,  ∂L/∂x = (f's backward for ε_f) + (g's for ε_g)
        ∂²L/∂x² = (f's own, for c ∘ ggᵀ) + (g's own, for c ∘ ffᵀ) + J_fᵀ m J_g + J_gᵀ mᵀ J_f
        m = diag(ε) + c ∘ gfᵀ

    In one pass, for a diagonal c, m is diagonal as well, and the diagonal of the last two terms,
    2 Σ_k m_k J_f,ki J_g,ki, costs o backward passes of f and of g, o the width of y.

    Args:
        left: f.
        right: g, whose output has the shape of f's.

    Returns:
        A layer whose params and state are pairs, f's and g's.

    Raises:
        TypeError: an argument that is not a layer.
        ValueError: outputs of different widths.

    Example: a gated linear unit.
        >>> from fnn import dense, linear, product, sigmoid
        >>> product(linear(8), dense(8, sigmoid))
        product(linear(8), dense(8, sigmoid))
    """
    layers = left, right
    nn_checks.some_layers("product", layers)
    label = f"product({left}, {right})"

    def init(key: Array, x: Any) -> tuple[Params, State]:
        parts = [layer.init(jax.random.fold_in(key, i), x) for i, layer in enumerate(layers)]
        nn_checks.same_outputs(label, *(output(layer, *own, x) for layer, own in zip(layers, parts, strict=True)))
        return tuple(p for p, _ in parts), tuple(s for _, s in parts)

    def apply(params: Params, state: State, x: Array) -> Array:
        nn_checks.parts(label, 2, params=params, state=state)
        f, g = (layer.apply(p, s, x) for layer, p, s in zip(layers, params, state, strict=True))
        return f * g

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, ProductTape]:
        nn_checks.parts(label, 2, params=params, state=state)
        parts = enumerate(zip(layers, params, state, strict=True))
        passes = [layer.forward(p, s, x, jax.random.fold_in(key, i)) for i, (layer, p, s) in parts]
        (f, g), states, tapes = zip(*passes, strict=True)
        return f * g, states, ProductTape(tapes, (f, g))

    def backward(params: Params, tape: ProductTape, error: Array, read: Reading) -> tuple[Array, Any]:
        f, g = tape.outputs
        parts = zip(layers, params, tape.tapes, (error * g, error * f), strict=True)
        (through_f, through_g), readings = zip(
            *(layer.backward(p, t, e, read) for layer, p, t, e in parts), strict=True
        )
        return through_f + through_g, readings

    def curve(params: Params, tape: ProductTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        f, g = tape.outputs
        own = (error * g, scaled_by_two(c, g, g)), (error * f, scaled_by_two(c, f, f))
        parts = list(zip(layers, params, tape.tapes, strict=True))
        curves = [checks.curve_of(layer)(p, t, *up, read) for (layer, p, t), up in zip(parts, own, strict=True)]
        errors, below, readings = zip(*curves, strict=True)
        m = plus_diagonal(scaled_by_two(c, g, f), error)
        back_f, back_g = (partial(back_to_x, *part) for part in parts)
        return errors[0] + errors[1], below[0] + below[1] + crossing(back_f, back_g, m), readings

    return Layer(
        label=label,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=layers,
        with_children=product,
    )
