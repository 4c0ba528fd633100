"""Many copies of a layer, in series or side by side, as a program whose size does not grow with their number."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.readings import gradient
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import output
from fnn.nn._second_order import both_through, is_exact
from fnn.nn.surgery import LayerRecord


def repeat(layer: Layer, depth: int) -> Layer:
    """A layer composed with itself `depth` times, each copy with its own weights, by `jax.lax.scan`.

    Equal to ``serial(layer, …, layer)``, but the program, and so its compile time, does not grow with depth.

    Args:
        layer: a layer whose output has the shape of its input.
        depth: number of copies, at least 1.

    Returns:
        A layer whose params, state and tape are those of `layer` with a first axis [depth, …].

    Raises:
        ValueError: a layer that changes the width, or depth < 1.
    """
    checks.is_layer("repeat", layer)
    depth = checks.count("depth", depth)
    label = f"repeat({layer}, {depth})"

    def init(key: Array, x: Any) -> tuple[Params, State]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(depth))
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        params, state = jax.eval_shape(layer.init, key, like)
        nn_checks.keeps_shape(label, x, output(layer, params, state, x))
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

        y, (state, tape) = jax.lax.scan(one, x, (params, state, jnp.arange(depth)))
        return y, state, tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        def one(error: Array, part: Any) -> tuple[Array, Any]:
            p, t = part
            return layer.backward(p, t, error, read)

        error, readings = jax.lax.scan(one, error, (params, tape), length=depth, reverse=True)
        return error, _stacked(read, readings)

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        def one(carry: tuple[Array, Array], part: Any) -> tuple[tuple[Array, Array], Any]:
            error, c, readings = checks.curve_of(layer)(*part, *carry, read)
            return (error, c), readings

        (error, c), readings = jax.lax.scan(one, (error, c), (params, tape), length=depth, reverse=True)
        return error, c, _stacked(read, readings)

    return Layer(
        label=label,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=(layer,),
        with_children=lambda part: repeat(part, depth),
    )


def grouped(layer: Layer, count: int) -> Layer:
    """Copies of a layer side by side, each on its own slice of the features and with its own weights.

    Equal to ``columns((width, layer), …, (width, layer))`` with slices of equal width, by `jax.vmap`, so that the
    program, and so its compile time, does not grow with the count.

    Args:
        layer: any layer.
        count: number of copies, at least 1.

    Returns:
        A layer whose params, state and tape are those of `layer` with a first axis [count, …].

    Raises:
        ValueError: count < 1, or an x whose width is not a multiple of count.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import dense, grouped, tanh
        >>> net = grouped(dense(5, tanh), 3)
        >>> params, state = net.init(jax.random.key(0), jnp.zeros((1, 6)))
        >>> params["w"].shape, net.apply(params, state, jnp.zeros((7, 6))).shape
        ((3, 2, 5), (7, 15))
    """
    checks.is_layer("grouped", layer)
    count = checks.count("count", count)
    label = f"grouped({layer}, {count})"

    def keys(key: Array) -> Array:
        return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))

    def cut(x: Array) -> Array:
        width = _equal_slices(label, x, count)
        return jnp.moveaxis(x.reshape(*x.shape[:-1], count, width), -2, 0)

    def joined(parts: Array) -> Array:
        return jnp.moveaxis(parts, 0, -2).reshape(*parts.shape[1:-1], count * parts.shape[-1])

    def init(key: Array, x: Any) -> tuple[Params, State]:
        like = jax.ShapeDtypeStruct((*x.shape[:-1], _equal_slices(label, x, count)), x.dtype)
        return jax.vmap(lambda key: layer.init(key, like))(keys(key))

    def apply(params: Params, state: State, x: Array) -> Array:
        return joined(jax.vmap(layer.apply, axis_size=count)(params, state, cut(x)))

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, state, tape = jax.vmap(layer.forward)(params, state, cut(x), keys(key))
        return joined(y), state, tape

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        errors, readings = jax.vmap(lambda p, t, e: layer.backward(p, t, e, read))(params, tape, cut(error))
        return joined(errors), _stacked(read, readings)

    def curve(params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        one = lambda p, t, e, c: checks.curve_of(layer)(p, t, e, c, read)  # noqa: E731
        own = _diagonal_blocks(c, count) if is_exact(c) else cut(c)
        errors, own, readings = jax.vmap(one)(params, tape, cut(error), own)
        if not is_exact(c):
            return joined(errors), joined(own), _stacked(read, readings)
        between = both_through(lambda error: backward(params, tape, error, gradient)[0], c)
        return joined(errors), _with_diagonal_blocks(between, own), _stacked(read, readings)

    return Layer(
        label=label,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=(layer,),
        with_children=lambda part: grouped(part, count),
    )


def _diagonal_blocks(c: Array, count: int) -> Array:
    """The blocks [count, n, o, o] on the diagonal of matrices [n, count·o, count·o]."""
    n, width = c.shape[0], c.shape[1] // count
    return jnp.moveaxis(jnp.diagonal(c.reshape(n, count, width, count, width), axis1=1, axis2=3), -1, 0)


def _with_diagonal_blocks(c: Array, blocks: Array) -> Array:
    """The matrices [n, count·o, count·o] with the blocks [count, n, o, o] on their diagonal replaced."""
    count, n, width, _ = blocks.shape
    k = jnp.arange(count)
    return c.reshape(n, count, width, count, width).at[:, k, :, k, :].set(blocks).reshape(c.shape)


def _stacked(read: Reading, readings: Any) -> Any:
    """The readings of a scan or vmap, joined; of a `LayerRecord`, only its readings are."""

    def join(node: Any) -> Any:
        if isinstance(node, LayerRecord):
            return node._replace(readings=jax.tree.map(read.stack, node.readings))
        return read.stack(node)

    return jax.tree.map(join, readings, is_leaf=lambda node: isinstance(node, LayerRecord))


def _equal_slices(where: str, x: Any, count: int) -> int:
    """The width of each of `count` equal slices of the features; raises ValueError if they do not divide evenly."""
    checks.features(where, x)
    if x.shape[-1] % count:
        raise ValueError(
            f"{where}: expected a width that is a multiple of {count}, got {x.shape[-1]} (x has shape {x.shape}). "
            "Use columns for slices of different widths."
        )
    return x.shape[-1] // count
