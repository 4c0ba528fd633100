"""The laws of a layer by itself: init, training and inference, and the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.readings import gradient, per_example
from fnn.core.types import Array, Batch, Layer, Params, Reading, State
from fnn.derivatives import _checks as derivatives_checks
from fnn.derivatives.reference import hessian_diagonal, read
from fnn.nn.compositions import serial
from fnn.nn.inference import inference_mode
from fnn.nn.losses import squared
from fnn.nn.neurons import linear
from fnn.nn.surgery import drop_records, iter_layers
from fnn.testing._asking import Broken, Measured, is_refusal
from fnn.testing._equations import CHANGE, draws
from fnn.testing._trees import (
    alike,
    are_arrays,
    are_floats,
    array_type,
    changed,
    coarse,
    normal,
    paired,
    size,
    struct,
)


@dataclass(frozen=True)
class Subject:
    """A layer with the arguments of its forward pass, and what many laws look at, traced once."""

    layer: Layer
    params: Params
    state: State
    x: Array
    key: Array

    def at(self, **changed: Any) -> Subject:
        """The layer elsewhere."""
        return Subject(**{name: getattr(self, name) for name in self.__dataclass_fields__} | changed)

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

    @cached_property
    def by_jax(self) -> tuple[Array, Params]:
        """The same by `jax.vjp` of the forward pass."""
        forward = lambda params, x: self.layer.forward(params, self.state, x, self.key)[0]  # noqa: E731
        readings, through = jax.vjp(forward, self.params, self.x)[1](self.error)
        return through, readings

    @property
    def both(self) -> Measured:
        """The two, to compare."""
        return of_pass(self.by_hand, self.by_jax)

    @cached_property
    def net(self) -> Layer:
        """serial(layer, linear(2))."""
        return serial(self.layer, linear(2))

    @cached_property
    def posed(self) -> tuple[Params, State, Batch, Array]:
        """The arguments of that network's gradient, with random neurons and targets."""
        neurons = {"w": jnp.zeros((self.forward[0].shape[1], 2), self.x.dtype), "b": jnp.zeros(2, self.x.dtype)}
        y = normal(jax.ShapeDtypeStruct((self.x.shape[0], 2), self.x.dtype), 5)
        params, state = (self.params, normal(neurons, 6)), (self.state, ())
        return params, state, (self.x, y), self.key

    @cached_property
    def gradients(self) -> Params:
        """The automatic gradients of all examples in that network, with the example as the first axis."""
        return read(self.net, squared, per_example)(*self.posed)[1]

    @cached_property
    def second_derivatives(self) -> Params:
        """The automatic ∂²L_n/∂w² of all examples in that network, with the example as the first axis."""
        return hessian_diagonal(self.net, squared, per_example)(*self.posed)[1]

    # In low precision

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
        """The second derivatives for a matrix at y as random as the error; nothing where they are refused."""
        try:
            c = error[:, :, None] * error[:, None, :]
            _, below, readings = checks.curve_of(self.layer)(self.params, tape, error, c, gradient)
        except Exception as refusal:
            if is_refusal(refusal):
                return {}
            raise
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


def init_gives_arrays(start: Start) -> str:
    """From a real x, and from its shape and dtype alone, which is all that composites give it."""
    params, state = start.made
    are_arrays(params, "params")
    are_floats(params, "params")
    are_arrays(state, "state")
    jax.eval_shape(start.layer.init, start.key, struct(start.x))
    return f"{size(params)} numbers in params, {size(state)} in state"


def init_is_pure(start: Start) -> Measured:
    """The same from the same key, and from the shape of x alone."""
    init, of_shape = start.layer.init, struct(start.x)
    again = paired(init(start.key, start.x), start.made, "made again: ")
    return again | paired(init(start.key, of_shape), start.made, "made of the shape of x alone: ")


def forward_runs(s: Subject) -> str:
    """A row of y for each example."""
    y, _, _ = s.forward
    if y.ndim != 2 or y.shape[0] != s.x.shape[0]:
        raise Broken(f"y is {array_type(y)} for x {array_type(s.x)}, expected a row an example, [{s.x.shape[0]}, o]")
    return f"{array_type(s.x)} to {array_type(y)}"


def forward_keeps_state(s: Subject) -> str:
    """The state after a batch is like the one before it, so that `jax.lax.scan` can carry it."""
    _, state, _ = s.forward
    are_arrays(state, "state")
    alike(state, s.state, "state", "as before the batch")
    return f"{size(state)} numbers"


def forward_is_pure(s: Subject) -> Measured:
    """The same y and state from the same arguments."""
    again = s.forward_again()
    return paired(again[0], s.forward[0], "y") | paired(again[1], s.forward[1], "state")


def forward_is_finite(s: Subject) -> Measured:
    """No NaN and no infinity from a finite x."""
    y, state, _ = s.forward
    return paired(y, y, "y") | paired(state, state, "state")


def apply_is_pure(s: Subject) -> Measured:
    """The same y from the same arguments, in the shape and dtype of training mode's."""
    one, again = (s.layer.apply(s.params, s.state, s.x) for _ in range(2))
    alike(one, s.forward[0], "y of apply", "as from forward")
    return paired(again, one, "y of apply")


def apply_is_finite(s: Subject) -> Measured:
    """No NaN and no infinity from a finite x."""
    y = s.layer.apply(s.params, s.state, s.x)
    return paired(y, y, "y of apply")


def apply_is_forward(s: Subject) -> Measured:
    """Inference is forward's y, or that of what the layer's `modes` name; but for a draw or a memory."""
    net = inference_mode(s.layer)
    is_told = all(part.modes is not None for part in iter_layers(s.layer))
    may_differ = derivatives_checks.uses_key(net, *s.given) or (bool(jax.tree.leaves(s.state)) and not is_told)
    pair = s.layer.apply(*s.given[:3]), net.forward(*s.given)[0]
    return paired(*pair, "y of apply") | {"may differ": may_differ}


def draws_in_training_only(s: Subject) -> str:
    """A layer that draws from the key has another mode to be applied by, in which it does not."""
    if not s.draws:
        return "draws nothing from the key"
    if derivatives_checks.uses_key(inference_mode(s.layer), *s.given):
        raise Broken(
            "forward draws from the key, and inference_mode(layer) does so too; name the layer's inference by "
            "modes=Modes(inference=…), or leave the parts of a composite open by `children` and `with_children`"
        )
    return "draws in training, and not in application"


def backward_runs(s: Subject) -> str:
    """From an error at y to one at x."""
    return f"{array_type(s.error)} to {array_type(s.by_hand[0])}"


def error_has_shape(s: Subject) -> str:
    """The shape and dtype of x."""
    alike(s.by_hand[0], s.x, "error at x", "as x")
    return array_type(s.by_hand[0])


def gradient_has_shapes(s: Subject) -> str:
    """The structure, shapes and dtypes of the params."""
    alike(s.by_hand[1], s.params, "gradient", "as the params")
    return f"{size(s.params)} numbers"


def error_is_automatic(s: Subject) -> Measured:
    """∂L/∂x against `jax.vjp`."""
    return paired(s.by_hand[0], s.by_jax[0], "error")


def gradient_is_automatic(s: Subject) -> Measured:
    """∂L/∂w against `jax.vjp`, leaf by leaf."""
    return paired(s.by_hand[1], s.by_jax[1], "gradient")


def inference_is_automatic(s: Subject) -> Measured | str:
    """The backward pass of inference mode, where that is a mode of its own, against `jax.vjp`."""
    if all(part.modes is None for part in iter_layers(s.layer)):
        return "trains as it is applied"
    return s.at(layer=inference_mode(s.layer)).both


def backward_is_linear(s: Subject) -> Measured:
    """Of aε₁ + bε₂ it gives a times that of ε₁ and b times that of ε₂."""
    other = s.random_error(3)
    total = jax.tree.map(lambda u, v: 0.7 * u - 1.3 * v, s.by_hand, s.pulled(other))
    return of_pass(s.pulled(0.7 * s.error - 1.3 * other), total)


def zero_gives_zeros(s: Subject) -> Measured:
    """No error, no gradient."""
    found = s.pulled(jnp.zeros_like(s.error))
    return of_pass(found, jax.tree.map(jnp.zeros_like, found))


def backward_is_pure(s: Subject) -> Measured:
    """The same from the same tape and error."""
    return of_pass(s.pulled(s.error), s.by_hand)
