"""The layers of neurons of a network in order, and the σ of each neuron.

The kind of a layer is determined by its params, its tape and its children. A `dense` layer contains its σ; that of a
`linear` layer is in the next layers: an `activate`, or `columns` of them if the neurons of a layer differ in σ.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import activate, columns, linear, relu, tanh
    >>> net = serial(linear(3), serial(columns((1, activate(tanh)), (2, activate(relu))), linear(1)))
    >>> parts = list(flat(net, *net.init(jax.random.key(0), jnp.ones((1, 4)))))
    >>> [has_neurons(layer, params) for layer, params, _ in parts]
    [True, False, True]
    >>> [(part.width, part.layer) for part in next(activations(parts[1:], jax.ShapeDtypeStruct((1, 3), "float32")))]
    [(1, activate(tanh)), (2, activate(relu))]
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core.types import Array, Layer, Params, State
from fnn.nn.compositions import ColumnsTape, serial
from fnn.nn.elementwise import ActivateTape

Part = tuple[Layer, Params, State]


class Slice(NamedTuple):
    """Adjacent neurons with the same σ."""

    width: int
    layer: Layer
    params: Params
    state: State


def flat(net: Layer, params: Params, state: State) -> Iterator[Part]:
    """The parts of a `serial`, and of nested ones, in order."""
    if net.with_children is serial:
        for part in zip(net.children, params, state, strict=True):
            yield from flat(*part)
    else:
        yield net, params, state


def nested(net: Layer, params: Iterator[Params]) -> Params:
    """The inverse of `flat` for the params."""
    return tuple(nested(part, params) for part in net.children) if net.with_children is serial else next(params)


def has_neurons(layer: Layer, p: Params) -> bool:
    """Whether column h of w and entry h of b are neuron h; the params of a composite such as `residual` look alike."""
    if layer.children or not is_neurons(p) or p["w"].ndim != 2:
        return False
    return "b" not in p or p["b"].shape == p["w"].shape[1:]


def hides_neurons(layer: Layer, p: Params) -> bool:
    """Whether a composite contains neurons."""
    return bool(layer.children) and any(map(is_neurons, jax.tree.leaves(p, is_leaf=is_neurons)))


def is_neurons(p: Any) -> bool:
    """Whether the params are those of a layer of neurons, with or without biases."""
    return isinstance(p, dict) and {"w"} <= set(p) <= {"w", "b"}


def activations(parts: list[Part], S: Any) -> Iterator[tuple[Slice, ...]]:
    """The σ of the layer before these parts, from the leading parts that act on every neuron separately."""
    for layer, p, s in parts:
        tape = jax.eval_shape(layer.forward, p, s, S, jax.random.key(0))[2]
        slices = _slices(layer, p, s, tape, S.shape[1])
        if not slices:
            return
        yield slices


def _slices(layer: Layer, p: Params, s: State, tape: Any, width: int) -> tuple[Slice, ...]:
    """The slices of neurons with one σ each; none for a layer that does not act on every neuron separately."""
    if isinstance(tape, ColumnsTape) and len(tape.tapes) == len(layer.children):
        parts = zip(layer.children, p, s, tape.tapes, (y.shape[1] for y in tape.widths), strict=True)
        own = [_slices(*part) for part in parts]
        return tuple(chain(*own)) if all(own) else ()
    return (Slice(width, layer, p, s),) if _is_elementwise(layer, tape) else ()


def _is_elementwise(layer: Layer, tape: Any) -> bool:
    """Whether a layer is an `activate`, or a `serial` of them; a `residual` of one has the same tape."""
    if layer.with_children is serial:
        return all(map(_is_elementwise, layer.children, tape))
    return layer.with_children is None and isinstance(tape, ActivateTape)


def own_sigma(slices: tuple[Slice, ...], h: Array, S: Array) -> Array:
    """σ_h(S) [n, 1] of neuron h, by the slice that contains it."""
    values = [part.layer.apply(part.params, part.state, S) for part in slices]
    if len(slices) == 1:
        return values[0]
    ends = jnp.cumsum(jnp.asarray([part.width for part in slices]))
    return jnp.stack(values)[jnp.searchsorted(ends, h, side="right")]
