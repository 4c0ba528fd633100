"""Mixed precision: a layer that computes in one dtype within a network of another."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array, Layer, Params, Reading, State


def mixed_precision(layer: Layer, dtype: Any) -> Layer:
    """A layer that computes in a narrower dtype and keeps its parameters in their own (mixed precision).

    Equations, with r for rounding to `dtype`, f the layer and ε = ∂L/∂y::

        y = f(r(x); r(w))
        ∂L/∂x, ∂L/∂w = f's backward of r(ε) at r(w), where r itself counts as the identity

    Outside, everything is in the network's own dtype, float32: y has the dtype of x, ∂L/∂x that of ε, readings that
    of the parameters, and running statistics are unchanged. So an optimizer can add updates to w that are far below
    the spacing of `dtype`. Inside, products, activations and tapes are in `dtype`, which accelerators multiply fastest
    and which needs half the memory; only `batch_norm` still computes its statistics in float32. Integers and keys are
    never rounded. ``mixed_precision(net, jnp.bfloat16)`` is a complete policy; around parts of a network it is a
    policy for those parts.

    Laws: with the network's own dtype the result equals the layer's exactly; the backward equals `jax.vjp` of the
    forward up to the rounding of `dtype`.

    bfloat16 has the range of float32 and needs nothing else. The smallest positive float16 is 6e-8, and many errors
    are smaller and vanish: the loss should be scaled up and the gradient down again, which is not done here.

    Args:
        layer: any layer.
        dtype: a float dtype to compute in, such as ``jnp.bfloat16``.

    Returns:
        A layer from x [n, i] to y [n, o] as `layer`, with its params, its state, and a tape in `dtype`.

    Raises:
        TypeError: an argument that is not a layer, or a dtype that is not a float.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import backprop, dense, mixed_precision, linear, serial, squared, tanh
        >>> net = mixed_precision(serial(dense(4, tanh), linear(1)), jnp.bfloat16)
        >>> net
        mixed_precision(serial(dense(4, tanh), linear(1)), bfloat16)
        >>> x, y = jnp.ones((3, 2)), jnp.ones((3, 1))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> (value, _), g = backprop(net, squared)(params, state, (x, y), jax.random.key(1))
        >>> params[0]["w"].dtype, value.dtype, g[0]["w"].dtype
        (dtype('float32'), dtype('float32'), dtype('float32'))

    Source: P. Micikevicius and others, *Mixed precision training*, 2018, without the scaling of the loss.
    """
    checks.is_layer("mixed_precision", layer)
    dtype = _float_dtype("mixed_precision", dtype)

    def apply(params: Params, state: State, x: Array) -> Array:
        return _like((x, params), layer.apply(_to(dtype, params), state, _to(dtype, x)))

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, after, tape = layer.forward(_to(dtype, params), state, _to(dtype, x), key)
        return _like((x, params), y), jax.tree.map(lambda old, new: _to(old.dtype, new), state, after), tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        through, readings = layer.backward(_to(dtype, params), tape, _to(dtype, error), read)
        return _to(error.dtype, through), _like((params, error), readings)

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        through, own, readings = checks.curve_of(layer)(
            _to(dtype, params), tape, _to(dtype, error), _to(dtype, c), read
        )
        return _to(error.dtype, through), _to(c.dtype, own), _like((params, error), readings)

    return Layer(
        label=f"mixed_precision({layer}, {dtype})",
        init=layer.init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=(layer,),
        with_children=lambda part: mixed_precision(part, dtype),
    )


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _to(dtype: Any, tree: Any) -> Any:
    """The tree with its float leaves in this dtype; keys and integers are unchanged."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if _is_float(leaf) else leaf, tree)


def _like(models: tuple[Any, ...], tree: Any) -> Any:
    """The tree in the widest float dtype of the first model that has floats.

    Not leaf by leaf, because a reading may differ in structure from the params it belongs to.
    """
    for model in models:
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(model) if _is_float(leaf)]
        if dtypes:
            return _to(max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits), tree)
    return tree


def _float_dtype(where: str, dtype: Any) -> np.dtype:
    """The dtype; raises TypeError unless it is a float dtype."""
    try:
        known = None if dtype is None else jnp.dtype(dtype)  # NumPy reads None as float64
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise TypeError(
            f"{where}: expected a dtype of floats, such as jnp.bfloat16 or jnp.float32, got {checks.shown(dtype)}"
        )
    return known
