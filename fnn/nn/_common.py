"""Helpers shared by layers and compositions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.readings import gradient
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn.initializers import Initializer, glorot_uniform, zeros


def without_parameters(label: str) -> Callable[[Array, Any], tuple[Params, State]]:
    """The init of a layer without parameters and state."""

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return (), ()

    return init


def beside(v: Array, x: Array) -> Array:
    """A vector [o] in the rank of x [n, …, o]."""
    return jnp.expand_dims(v, tuple(range(x.ndim - 1)))


def weights_of(
    label: str, width: int, w: Initializer | None, b: Initializer | None, bias: bool
) -> Callable[[Array, int, Any], Params]:
    """A function (key, inputs, dtype) -> {"w": [inputs, width], "b": [width]}, without "b" if there is no bias."""
    nn_checks.flag("bias", bias)
    _no_b_without_bias(label, b, bias)
    draw_w = w or glorot_uniform()
    draw_b = b or zeros()
    nn_checks.is_initializer("w", draw_w)
    nn_checks.is_initializer("b", draw_b)

    def drawn(key: Array, inputs: int, dtype: Any) -> Params:
        key_w, key_b = jax.random.split(key)
        weights = {"w": draw_w(key_w, (inputs, width), dtype)}
        return weights | ({"b": draw_b(key_b, (width,), dtype)} if bias else {})

    return drawn


def _no_b_without_bias(where: str, b: Any, bias: Any) -> None:
    """Raise ValueError if b is given for a layer without biases."""
    if not bias and b is not None:
        raise ValueError(f"{where}: expected no b for a layer with no bias, got b={b!r}. Leave out b or bias=False.")


class ShapeTape(NamedTuple):
    """The tape of a layer whose backward pass needs nothing but the shape of x."""

    like: Array
    """an empty array [0, …] in the shape of x, because a tape holds arrays only"""


def empty_like(x: Array) -> Array:
    """An array [0, …] that keeps the shape of the positions and features of x, because a tape holds arrays only."""
    return x[:0]


class OfOneInput(NamedTuple):
    """Several layers of the same input, whose params and state are tuples in the order of the layers."""

    label: str
    layers: tuple[Layer, ...]

    def init(self, key: Array, x: Any) -> tuple[Params, State]:
        """Params and state, from a key of each layer's own."""
        parts = [layer.init(jax.random.fold_in(key, i), x) for i, layer in enumerate(self.layers)]
        return tuple(params for params, _ in parts), tuple(state for _, state in parts)

    def init_alike(self, key: Array, x: Any) -> tuple[Params, State]:
        """As `init`; raises ValueError unless the outputs of two layers have the same shape."""
        params, state = self.init(key, x)
        nn_checks.same_outputs(self.label, *(output(*part, x) for part in zip(self.layers, params, state, strict=True)))
        return params, state

    def apply(self, params: Params, state: State, x: Array) -> list[Array]:
        """The outputs, in inference."""
        nn_checks.parts(self.label, len(self.layers), params=params, state=state)
        return [layer.apply(p, s, x) for layer, p, s in zip(self.layers, params, state, strict=True)]

    def forward(self, params: Params, state: State, x: Array, key: Array) -> tuple[tuple[Array, ...], State, Any]:
        """The outputs, the states and the tapes, in training."""
        nn_checks.parts(self.label, len(self.layers), params=params, state=state)
        parts = enumerate(zip(self.layers, params, state, strict=True))
        passes = [layer.forward(p, s, x, jax.random.fold_in(key, i)) for i, (layer, p, s) in parts]
        outputs, states, tapes = zip(*passes, strict=True)
        return outputs, states, tapes

    def backward(self, params: Params, tapes: Any, errors: Iterable[Array], read: Reading) -> tuple[Array, Any]:
        """The sum of the errors at x, and the readings, from the error at each output."""
        parts = zip(self.layers, params, tapes, errors, strict=True)
        through, readings = zip(*(layer.backward(p, t, e, read) for layer, p, t, e in parts), strict=True)
        return reduce(jnp.add, through), readings

    def curve(
        self, params: Params, tapes: Any, errors: Iterable[Array], cs: Iterable[Array], read: Reading
    ) -> tuple[Array, Array, Any]:
        """The same with second derivatives, without those that cross from one layer to another."""
        parts = zip(self.layers, params, tapes, errors, cs, strict=True)
        curves = [checks.curve_of(layer)(p, t, e, c, read) for layer, p, t, e, c in parts]
        through, own, readings = zip(*curves, strict=True)
        return reduce(jnp.add, through), reduce(jnp.add, own), readings

    def backs(self, params: Params, tapes: Any) -> list[Callable[[Array], Array]]:
        """Each layer's backward pass to x alone."""
        return [partial(_back_to_x, *part) for part in zip(self.layers, params, tapes, strict=True)]


def _back_to_x(layer: Layer, params: Params, tape: Any, error: Array) -> Array:
    """The error at a layer's input, without readings."""
    return layer.backward(params, tape, error, gradient)[0]


def output(layer: Layer, params: Params, state: State, x: Any) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a layer's output for an input x, traced through its apply."""
    return jax.eval_shape(layer.apply, params, state, jax.ShapeDtypeStruct(x.shape, x.dtype))
