"""Gates: the elementwise product of two layers of the same input."""

from __future__ import annotations

from typing import Any, NamedTuple

from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import OfOneInput
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
        left: the layer f.
        right: the layer g, whose output has the shape of f's.

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
    nn_checks.some_layers("product", (left, right))
    both = OfOneInput(f"product({left}, {right})", (left, right))

    def apply(params: Params, state: State, x: Array) -> Array:
        f, g = both.apply(params, state, x)
        return f * g

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, ProductTape]:
        (f, g), states, tapes = both.forward(params, state, x, key)
        return f * g, states, ProductTape(tapes, (f, g))

    def backward(params: Params, tape: ProductTape, error: Array, read: Reading) -> tuple[Array, Any]:
        f, g = tape.outputs
        return both.backward(params, tape.tapes, (error * g, error * f), read)

    def curve(params: Params, tape: ProductTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        f, g = tape.outputs
        own = scaled_by_two(c, g, g), scaled_by_two(c, f, f)
        through, below, readings = both.curve(params, tape.tapes, (error * g, error * f), own, read)
        back_f, back_g = both.backs(params, tape.tapes)
        m = plus_diagonal(scaled_by_two(c, g, f), error)
        return through, below + crossing(back_f, back_g, m), readings

    return Layer(
        label=both.label,
        init=both.init_alike,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=both.layers,
        with_children=product,
    )
