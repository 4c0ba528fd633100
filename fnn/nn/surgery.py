"""Traversal of networks: replacing layers, listing them, and recording the values that BackProp meets in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax

from fnn.core import _checks as checks
from fnn.core.types import Array, Layer, Params, Reading, State


def map_layers(change: Callable[[Layer], Layer], layer: Layer) -> Layer:
    """The network with `change` applied to every layer that has no parts.

    Args:
        change: a function from a layer to a layer.
        layer: any layer; composites such as `serial` and `columns` are changed part by part, at any depth.

    Returns:
        A layer with the composition of the given one.

    Example:
        >>> from fnn import dense, dropout, map_layers, linear, residual, serial, tanh
        >>> net = serial(dense(4, tanh), residual(serial(dropout(0.5), linear(4))))
        >>> map_layers(lambda part: part if part.modes is None else serial(), net)  # no dropout
        serial(dense(4, tanh), residual(serial(serial(), linear(4))))
    """
    if layer.with_children is None:
        return change(layer)
    return layer.with_children(*(map_layers(change, part) for part in layer.children))


def iter_layers(layer: Layer) -> Iterator[Layer]:
    """The layers of a network that have no parts, in the order of composition."""
    if layer.with_children is None:
        yield layer
    for part in layer.children:
        yield from iter_layers(part)


def intercept(
    layer: Layer,
    *,
    label: str | None = None,
    forward: Callable[..., tuple[Array, State, Any]] | None = None,
    backward: Callable[..., tuple[Array, Any]] | None = None,
    curve: Callable[..., tuple[Array, Array, Any]] | None = None,
) -> Layer:
    """The layer with hooks around its passes, which see the arguments and may change the results.

    A hook takes the layer's own pass first and its arguments behind it: ``forward(call, params, state, x, key)``,
    ``backward(call, params, tape, error, read)``, ``curve(call, params, tape, error, c, read)``, where ``call(…)`` of
    the arguments is what the layer does. What a forward hook adds to the tape, the other two have to take off.

    Args:
        layer: any layer. `map_layers` rebuilds a composite from its parts, and so without hooks around it.
        label: of the result; that of the layer if not given.
        forward: a hook; a pass without one stays as it is.
        backward: a hook.
        curve: a hook.

    Returns:
        A layer with the params and state of `layer`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import backprop, dense, linear, map_layers, serial, squared, tanh
        >>> from fnn.nn import intercept
        >>> def clipped(call, params, tape, error, read):
        ...     return call(params, tape, jnp.clip(error, -1e-3, 1e-3), read)
        >>> net = map_layers(lambda layer: intercept(layer, backward=clipped), serial(dense(4, tanh), linear(1)))
        >>> x = jnp.ones((3, 2))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> _, (_, output) = backprop(net, squared)(params, state, (x, x[:, :1] + 9), jax.random.key(1))
        >>> print(output["b"])  # three examples, each of an error of no less than -1e-3
        [-0.003]
    """
    hooks: dict[str, Any] = {}
    if forward is not None:
        hooks["forward"] = partial(forward, layer.forward)
    if backward is not None:
        hooks["backward"] = partial(backward, layer.backward)
    if curve is not None:
        hooks["curve"] = lambda *given: curve(checks.curve_of(layer), *given)
    return layer._replace(label=str(layer) if label is None else label, **hooks)


class LayerRecord(NamedTuple):
    """The values at one layer during one forward and backward pass, recorded by `watch`."""

    x: Array
    """the input, [n, i]"""
    y: Array
    """the output, [n, o]"""
    tape: Any
    """the layer's tape: for a `dense` layer x, S and the slopes z = σ'(S)"""
    error: Array
    """ε = ∂L/∂y, [n, o]"""
    readings: Any
    """the readings at the layer's own parameters"""
    curvature: Any = None
    """∂²L/∂y², in a pass that carries it: [n, o], or [n, o, o] if exact"""


def watch(layer: Layer) -> Layer:
    """The same network, whose backward pass also records the values at every layer: x, y, z, ε.

    The results are unchanged, except that in place of the readings of each layer without parts stands a `LayerRecord`
    with the layer's inputs, outputs, tape, error and readings, and from `curve` with the curvature too. Under `jit`,
    unused records cost nothing.

    Args:
        layer: any layer; composites are recorded part by part.

    Returns:
        A layer with the params and state of `layer`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import backprop, dense, linear, serial, squared, tanh, watch
        >>> net, x, y = serial(dense(4, tanh), linear(1)), jnp.ones((3, 2)), jnp.ones((3, 1))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> _, (hidden, output) = backprop(watch(net), squared)(params, state, (x, y), jax.random.key(1))
        >>> hidden.error.shape, hidden.tape.z.shape, hidden.readings["w"].shape
        ((3, 4), (3, 4), (2, 4))
    """
    checks.is_layer("watch", layer)
    return map_layers(_watched, layer)


def drop_records(readings: Any) -> Any:
    """The readings without the other fields of the records of `watch`.

    Args:
        readings: the readings of a backward pass, of a network with or without watched parts.

    Returns:
        The readings in the shape of the params.
    """

    def is_record(node: Any) -> bool:
        return isinstance(node, LayerRecord)

    def dropped(node: Any) -> Any:
        return drop_records(node.readings) if is_record(node) else node

    return jax.tree.map(dropped, readings, is_leaf=is_record)


def _watched(layer: Layer) -> Layer:
    def forward(call: Any, params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, state, tape = call(params, state, x, key)
        return y, state, (x, y, tape)

    def backward(call: Any, params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        x, y, inner = tape
        through, readings = call(params, inner, error, read)
        return through, LayerRecord(x, y, inner, error, readings)

    def curve(call: Any, params: Params, tape: Any, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        x, y, inner = tape
        through, own, readings = call(params, inner, error, c, read)
        return through, own, LayerRecord(x, y, inner, error, readings, c)

    return intercept(layer, label=f"watch({layer})", forward=forward, backward=backward, curve=curve)
