"""A layer with the arguments of its passes, and the quantities that many laws look at."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.errors import Unsupported
from fnn.core.readings import gradient, per_example
from fnn.core.types import Array, Batch, Layer, Params, Reading, State
from fnn.derivatives import _checks as derivatives_checks
from fnn.derivatives.reference import hessian_diagonal, read
from fnn.nn.compositions import serial
from fnn.nn.losses import squared
from fnn.nn.neurons import linear
from fnn.nn.pooling import flatten
from fnn.nn.surgery import drop_records
from fnn.testing._asking import Measured, paired
from fnn.testing._equations import CHANGE, draws
from fnn.testing._trees import changed, coarse, is_float, normal


@dataclass(frozen=True)
class Subject:
    """A layer with the arguments of its forward pass; what many laws look at is traced once."""

    layer: Layer
    params: Params
    state: State
    x: Array
    key: Array
    within: Any = None
    """a dtype to which forward rounds on its way"""
    careful: bool = False
    """whether low precision is judged closer"""

    def at(self, **changed: Any) -> Subject:
        """The layer elsewhere."""
        return replace(self, **changed)

    @property
    def given(self) -> tuple[Params, State, Array, Array]:
        """The arguments of the forward pass."""
        return self.params, self.state, self.x, self.key

    def forward_again(self) -> tuple[Array, State, Any]:
        """Another run of the forward pass."""
        return self.layer.forward(*self.given)

    @cached_property
    def forward(self) -> tuple[Array, State, Any]:
        """(y, state, tape)."""
        return self.forward_again()

    @cached_property
    def error(self) -> Array:
        """A random ∂L/∂y of few digits; equal numbers would hide a missing factor or sum."""
        return coarse(self.random_error(2))

    def random_error(self, seed: int) -> Array:
        """Another one."""
        return normal(self.forward[0], seed)

    def pulled(self, error: Array, read: Reading = gradient) -> tuple[Array, Any]:
        """The layer's own backward pass: the error at x, and the readings."""
        through, readings = self.layer.backward(self.params, self.forward[2], error, read)
        return through, drop_records(readings)

    @cached_property
    def by_hand(self) -> tuple[Array, Params]:
        """The layer's own (error, gradient)."""
        return self.pulled(self.error)

    def pulled_by_jax(self, error: Array) -> tuple[Array, Params]:
        """The same by `jax.vjp` of the forward pass: the error at x, and the gradient."""
        forward = lambda params, x: self.layer.forward(params, self.state, x, self.key)[0]  # noqa: E731
        at_params, at_x = jax.vjp(forward, self.params, self.x)[1](error)
        return at_x if is_float(self.x) else jnp.zeros(self.x.shape, error.dtype), at_params

    @cached_property
    def by_jax(self) -> tuple[Array, Params]:
        """The automatic (error, gradient)."""
        return self.pulled_by_jax(self.error)

    @property
    def both(self) -> Measured:
        """The two, to compare."""
        return of_pass(self.by_hand, self.by_jax)

    @cached_property
    def net(self) -> Layer:
        """serial(layer, linear(2)), with the positions of y in a row."""
        return serial(self.layer, *([flatten()] if self.forward[0].ndim > 2 else []), linear(2))

    @cached_property
    def arguments(self) -> tuple[Params, State, Batch, Array]:
        """The arguments of the gradient of `net`, with random params and targets."""
        a = self.forward[0]
        neurons = {"w": jnp.zeros((math.prod(a.shape[1:]), 2), a.dtype), "b": jnp.zeros(2, a.dtype)}
        y = normal(jax.ShapeDtypeStruct((self.x.shape[0], 2), a.dtype), 5)
        between = ((),) if a.ndim > 2 else ()
        params, state = (self.params, *between, normal(neurons, 6)), (self.state, *between, ())
        return params, state, (self.x, y), self.key

    @cached_property
    def gradients(self) -> Params:
        """The automatic gradients of all examples in that network, with the example as the first axis."""
        return read(self.net, squared, per_example)(*self.arguments)[1]

    @cached_property
    def second_derivatives(self) -> Params:
        """The automatic ∂²L_n/∂w² of all examples in that network, with the example as the first axis."""
        return hessian_diagonal(self.net, squared, per_example)(*self.arguments)[1]

    @cached_property
    def coarse(self) -> Subject:
        """The layer where all numbers have eight binary digits, which every dtype holds."""
        return self.at(params=coarse(self.params), state=coarse(self.state), x=coarse(self.x))

    def passes(self, error: Array) -> dict[str, Any]:
        """What both modes and the backward pass compute."""
        y, state, _ = self.forward
        through, readings = self.pulled(error)
        applied = self.layer.apply(self.params, self.state, self.x)
        found = {"y": y, "state": state, "y of apply": applied, "error": through, "gradient": readings}
        return found | self.curved(self.forward[2], error)

    def curved(self, tape: Any, error: Array) -> dict[str, Any]:
        """The second derivatives for a matrix at y as random as the error; nothing where they are unsupported."""
        try:
            c = error[..., :, None] * error[..., None, :]
            _, below, readings = checks.curve_of(self.layer)(self.params, tape, error, c, gradient)
        except Unsupported:
            return {}
        return {"∂²L/∂x²": below, "∂²L/∂w²": drop_records(readings)}

    @cached_property
    def draws(self) -> bool:
        """Whether forward depends on the key."""
        return derivatives_checks.uses_key(self.layer, *self.given)

    @cached_property
    def bits(self) -> list[list[str]]:
        """The random bits that forward draws, and those of apply."""
        return [draws(self.layer.forward, *self.given), draws(self.layer.apply, *self.given[:3])]

    @cached_property
    def changed(self) -> dict[str, Any]:
        """The same here and where all that is given is changed by `CHANGE`, one after another by one body."""
        given, error = (self.params, self.state, self.x), self.error
        points = [given, *(changed(given, CHANGE, seed) for seed in (8, 9))]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
        return jax.lax.map(lambda at: self.at(params=at[0], state=at[1], x=at[2]).passes(error), stacked)


def of_pass(got: tuple[Array, Params], wanted: tuple[Array, Params]) -> Measured:
    """The results of two backward passes, to compare."""
    return paired(got[0], wanted[0], "error") | paired(got[1], wanted[1], "gradient")


@dataclass(frozen=True)
class Start:
    """A layer and the arguments of its init."""

    layer: Layer
    key: Array
    x: Array

    @cached_property
    def made(self) -> tuple[Params, State]:
        """(params, state)."""
        return self.layer.init(self.key, self.x)
