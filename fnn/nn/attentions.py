"""Attention: at every step of a sequence, a mean of values over the steps whose keys fit the step's query."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, wide
from fnn.core.types import Activation, Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import without_parameters
from fnn.nn.activations import gelu
from fnn.nn.compositions import serial
from fnn.nn.copies import grouped
from fnn.nn.initializers import Initializer
from fnn.nn.neurons import dense, linear
from fnn.nn.normalization import layer_norm
from fnn.nn.wrappers import residual


class AttentionTape(NamedTuple):
    """The tape of `dot_attention`."""

    x: Array
    """queries, keys and values [n, t, 3h]"""
    a: Array
    """shares of attention a_tu [n, t, t]"""


def dot_attention(causal: bool = False) -> Layer:
    """Scaled dot-product attention of one head, on queries, keys and values x = [q | k | v].

    Equations, with ε = ∂L/∂y and steps t, u; with `causal` s_tu = −∞ for u > t::

        s_tu = ⟨q_t, k_u⟩/√h           a_tu = softmax_u s_tu           y_t = Σ_u a_tu v_u
        ∂L/∂v_u = Σ_t a_tu ε_t         ∂L/∂s_tu = a_tu (⟨ε_t, v_u⟩ − ⟨ε_t, y_t⟩)
        ∂L/∂q_t = Σ_u ∂L/∂s_tu k_u/√h            ∂L/∂k_u = Σ_t ∂L/∂s_tu q_t/√h

    A number added to all keys adds the same to all s_tu of a step and drops out of the softmax, so the gradient by the
    bias of the keys is 0, and its signal-to-noise ratio a quotient of roundings.

    Args:
        causal: whether a step sees only itself and the steps before it.

    Returns:
        A layer without parameters and state, from [n, t, 3h] to [n, t, h]. Its tape holds a [n, t, t];
        ``remat(dot_attention())`` computes it again instead. It has no `curve`.

    Raises:
        ValueError: an x that is no sequence, or whose width is no multiple of 3.

    Source: A. Vaswani and others, *Attention is all you need*, 2017.
    """
    nn_checks.flag("causal", causal)
    label = call_repr("dot_attention", causal=(causal, False))

    def parted(x: Array) -> tuple[Array, Array, Array]:
        nn_checks.sequence(label, x)
        if x.shape[-1] % 3:
            raise ValueError(
                f"{label}: expected queries, keys and values [q | k | v] of one width, got {x.shape[-1]} features. "
                "Put a linear layer of 3 times the width before it, as `attention` does."
            )
        return tuple(jnp.split(x, 3, axis=-1))  # pyright: ignore[reportReturnType]

    def attended(x: Array) -> tuple[Array, Array]:
        q, k, v = parted(x)
        s = wide(jnp.einsum("nth,nuh->ntu", q, k)) / math.sqrt(q.shape[-1])
        if causal:
            sees = jnp.tril(jnp.ones(s.shape[1:], bool))
            s = jnp.where(sees[None], s, jnp.finfo(s.dtype).min)
        a = narrow(jax.nn.softmax(s, axis=-1), x)
        return jnp.einsum("ntu,nuh->nth", a, v), a

    def apply(params: Params, state: State, x: Array) -> Array:
        return attended(x)[0]

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, AttentionTape]:
        y, a = attended(x)
        return y, state, AttentionTape(x, a)

    def backward(params: Params, tape: AttentionTape, error: Array, read: Reading) -> tuple[Array, Any]:
        q, k, v = parted(tape.x)
        nn_checks.error(label, error, *q.shape)
        at_a = jnp.einsum("nth,nuh->ntu", error, v)
        mean = jnp.sum(wide(tape.a * at_a), axis=-1, keepdims=True).astype(error.dtype)
        at_s = tape.a * (at_a - mean) / math.sqrt(q.shape[-1])
        at_q = jnp.einsum("ntu,nuh->nth", at_s, k)
        at_k = jnp.einsum("ntu,nth->nuh", at_s, q)
        at_v = jnp.einsum("ntu,nth->nuh", tape.a, error)
        return jnp.concatenate([at_q, at_k, at_v], axis=-1), ()

    return Layer(label=label, init=without_parameters(label), apply=apply, forward=forward, backward=backward)


def attention(
    width: int, heads: int, *, causal: bool = False, w: Initializer | None = None, bias: bool = True
) -> Layer:
    """Self-attention with several heads: linear to [q | k | v] of each head, attention, linear.

    Args:
        width: number of features out, a multiple of `heads`; each head has width/heads of them.
        heads: number of heads.
        causal: whether a step sees only itself and the steps before it.
        w: initializer of both matrices; by default `glorot_uniform()`.
        bias: whether both linear layers have biases.

    Returns:
        ``serial(linear(3·width), grouped(dot_attention(causal), heads), linear(width))``, from [n, t, i] to
        [n, t, width]. The columns of the first matrix are ordered [head, (q, k, v), feature].

    Raises:
        ValueError: a width that is no multiple of the heads.

    Example:
        >>> from fnn.nn import attention
        >>> attention(8, 2, causal=True)
        serial(linear(24), grouped(dot_attention(causal=True), 2), linear(8))
    """
    width, heads = checks.count("width", width), checks.count("heads", heads)
    if width % heads:
        raise ValueError(f"attention: expected a width that is a multiple of {heads} heads, got {width}.")
    heads_of = grouped(dot_attention(causal), heads)
    return serial(linear(3 * width, w=w, bias=bias), heads_of, linear(width, w=w, bias=bias))


def transformer_block(
    width: int, heads: int, *, causal: bool = False, hidden: int | None = None, activation: Activation = gelu
) -> Layer:
    """A block of a transformer: attention and two layers at every step, each with a shortcut and a norm before it.

    Equation: x ← x + attention(norm(x)); y = x + linear(dense(norm(x))).

    Args:
        width: number of features in and out.
        heads: as in `attention`.
        causal: as in `attention`.
        hidden: number of neurons of the hidden layer; by default 4·width.
        activation: its σ.

    Returns:
        A layer that keeps its shape [n, t, width]; ``repeat(transformer_block(…), depth)`` runs as one scan.

    Example:
        >>> from fnn.nn import transformer_block
        >>> attending, thinking = transformer_block(8, 2).children
        >>> print(attending, thinking, sep=chr(10))
        residual(serial(layer_norm(), serial(linear(24), grouped(dot_attention(), 2), linear(8))))
        residual(serial(layer_norm(), dense(32, gelu), linear(8)))

    Source: the form with norms first, R. Xiong and others, *On layer normalization in the transformer architecture*,
    2020.
    """
    width = checks.count("width", width)
    mixing = residual(serial(layer_norm(), attention(width, heads, causal=causal)))
    hidden = 4 * width if hidden is None else checks.count("hidden", hidden)
    return serial(mixing, residual(serial(layer_norm(), dense(hidden, activation), linear(width))))
