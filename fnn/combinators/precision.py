"""Mixed precision: a layer that computes in one dtype within a network of another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.checks import curve_of
from fnn.types import Array, Layer, Params, Reading, State


def in_precision(layer: Layer, dtype: Any) -> Layer:
    """A layer that computes in a narrower dtype, its parameters kept in their own (mixed precision).

    Equation, with ⌊·⌋ for rounding to `dtype` and f the layer::

        y = f(⌊x⌋; ⌊w⌋)        ∂L/∂x, ∂L/∂w = the layer's backward of ⌊ε⌋ at ⌊w⌋

    x, y, ε, w and ∂L/∂w are in the network's own dtype, float32, on the outside. So an optimizer adds to w what is far
    below the spacing of `dtype`, and only the matrix products and all that lies between them run in it, which is what
    accelerators do fastest. ``in_precision(net, jnp.bfloat16)`` is the whole policy; around parts of a network it is a
    policy for these. Running statistics keep their dtype, and `batch_norm` computes its statistics in float32 anyway.

    bfloat16 has the range of float32 and needs no more than this. In float16 errors below 6e-8 vanish: there the loss
    must be scaled up and the gradient down again, which is not done here.

    Args:
        layer: any layer.
        dtype: a float dtype to compute in, such as ``jnp.bfloat16``. With the network's own nothing changes.

    Returns:
        A layer with the params and the state of `layer`.

    Raises:
        TypeError: no layer, or a dtype that is no float.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import backprop, dense, in_precision, linear, serial, squared, tanh
        >>> net = in_precision(serial(dense(4, tanh), linear(1)), jnp.bfloat16)
        >>> net
        in_precision(serial(dense(4, tanh), linear(1)), bfloat16)
        >>> x, y = jnp.ones((3, 2)), jnp.ones((3, 1))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> (value, _), g = backprop(net, squared)(params, state, (x, y), jax.random.key(1))
        >>> params[0]["w"].dtype, value.dtype, g[0]["w"].dtype
        (dtype('float32'), dtype('float32'), dtype('float32'))

    Source: P. Micikevicius and others, *Mixed precision training*, 2018, without the scaling of the loss.
    """
    checks.is_layer("in_precision", layer)
    dtype = checks.float_dtype("in_precision", dtype)

    def apply(params: Params, state: State, x: Array) -> Array:
        return layer.apply(_to(dtype, params), state, _to(dtype, x)).astype(x.dtype)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, after, tape = layer.forward(_to(dtype, params), state, _to(dtype, x), key)
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)
        return y.astype(x.dtype), after, tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        through, readings = layer.backward(_to(dtype, params), tape, _to(dtype, error), read)
        return _to(error.dtype, (through, readings))

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        below = curve_of(layer)(_to(dtype, params), tape, _to(dtype, error), _to(dtype, c), read)
        return _to(error.dtype, below)

    label = f"in_precision({layer}, {dtype})"
    rebuild = lambda part: in_precision(part, dtype)  # noqa: E731
    return Layer(label, layer.init, apply, forward, backward, curve, (layer,), rebuild)


def _to(dtype: Any, tree: Any) -> Any:
    """Every leaf that is a float in this dtype; keys and whole numbers stay as they are."""

    def rounded(leaf: Any) -> Any:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(rounded, tree)
