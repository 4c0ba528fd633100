"""The five shapes everything in `fnn` is made of, and the reading of a backward pass.

Each shape is a `NamedTuple` of pure functions made by a lower-case factory, and prints itself
as it was written. There are no classes with state: parameters, running statistics and optimizer
states are pytrees which the functions take and return.

The letters are the lecture's: ``l`` layer, ``h`` neuron of layer l, ``k`` neuron of layer l−1,
``S`` pre-activation, ``x`` output, ``z = σ'(S)``, ``ε = ∂L/∂x`` error, ``w`` weights. In array
shapes ``n`` is the example within a batch, ``i`` the inputs and ``o`` the outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array

Params = Any
"""A pytree of arrays: tuples in the order of composition, with dict leaves {"w": …, "b": …}."""

State = Any
"""A pytree of what a layer remembers between batches; `()` but for running statistics."""

Batch = tuple[Array, Array]
"""(x, y): examples [n, features] and their targets, [n, …]."""

Rate = float | Array | Callable[[Array], Array]
"""A learning rate: a number, a tracer, or a schedule from the step (0, 1, …) to a rate."""


class Activation(NamedTuple):
    """σ with its first two derivatives, each from S [n, o] to an array of the same shape.

    Laws: ``slope`` is dσ/dS and ``curvature`` dσ'/dS wherever they exist; at a kink each is the
    stated choice; all three are finite for every finite S.
    """

    label: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array], Array]

    def __repr__(self) -> str:
        return self.label


class Loss(NamedTuple):
    """ℒ(a, y) for each example apart, with its derivatives by the network's output a [n, M].

    ``value`` is [n]; ``slope`` is ∂ℒ/∂a [n, M], the output error ε^L of each example's own loss;
    ``curvature`` is the diagonal ∂²ℒ/∂a_m² [n, M]; ``hessian`` is all of ∂²ℒ/∂a_m∂a_k [n, M, M], and None
    where the loss is a sum over outputs, so that the diagonal is all of it. ``root`` is R with R Rᵀ that Hessian,
    [n, M, C], or its diagonal [n, M] where the diagonal is all; None for a loss which is not convex or whose root
    nobody has written. Nothing here is divided by n.
    """

    label: str
    value: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    curvature: Callable[[Array, Array], Array]
    hessian: Callable[[Array, Array], Array] | None = None
    root: Callable[[Array, Array], Array] | None = None

    def __repr__(self) -> str:
        return self.label


class Reading(NamedTuple):
    """What to gather at a parameter from the contributions of the examples of a batch.

    At a weight, example n contributes the outer product of x_n and ε_n; a gradient is only their
    sum. A reading says what to keep instead:

    - ``outer(x [n, i], error [n, o])`` reads the contributions x_n ε_nᵀ of a weight matrix;
    - ``rows(contributions [n, …])`` reads contributions that are already there, as for a bias;
    - ``stack(readings [depth, …])`` joins the readings of stacked parameters (`repeat`);
    - ``scale(n)`` is the factor on each example's error that makes the reading of a whole batch the
      reading of the *mean* loss: 1/n for a sum of ε, 1/√n for a sum of ε², 1 for what stays per example;
    - ``linear`` tells that the reading needs the sum of the contributions only. Then it is also
      right in a layer that couples the examples of a batch; other readings are refused there.
    """

    label: str
    outer: Callable[[Array, Array], Any]
    rows: Callable[[Array], Array]
    stack: Callable[[Array], Array]
    scale: Callable[[int], float]
    linear: bool

    def __repr__(self) -> str:
        return self.label


class Layer(NamedTuple):
    """A lens: a forward pass which leaves a tape, and a backward pass which reads it.

    - ``init(key, x) -> (params, state)``; x is an array or `jax.ShapeDtypeStruct` [n, i].
    - ``apply(params, state, x) -> y``: inference mode, a pure function of x.
    - ``forward(params, state, x, key) -> (y, state, tape)``: training mode.
    - ``backward(params, tape, error, read) -> (error, readings)``: the hand-written VJP of
      ``forward``, from ∂L/∂y [n, o] to ∂L/∂x [n, i], with the readings in the shape of ``params``.
    - ``curve(params, tape, error, curvature, read) -> (error, curvature, readings)``: the same walk
      with the second derivatives beside the first, from ∂²L/∂y² to ∂²L/∂x² (see `fnn.derivatives.hessian`). The rank
      of ``curvature`` tells the mode: [n, o] the diagonal only, [n, o, o] each example's whole matrix.
      None for a layer whose second derivatives nobody has written.

    Laws: ``backward`` is linear in ``error``, recomputes nothing, and with the reading `gradient`
    equals `jax.vjp` of ``forward``. Layers compose into layers: `serial` is associative, `serial()`
    is its identity, and the backward of a composite is its parts' backwards in reverse.

    ``children`` and ``with_children`` let a composite be looked into: ``with_children(*children)`` is the composite
    made again of other parts (see `map_layers`). Both are empty for a layer without parts.
    ``modes`` are the other forms of a layer that differs between training and inference.
    """

    label: str
    init: Callable[[Array, Any], tuple[Params, State]]
    apply: Callable[[Params, State, Array], Array]
    forward: Callable[[Params, State, Array, Array], tuple[Array, State, Any]]
    backward: Callable[[Params, Any, Array, Reading], tuple[Array, Any]]
    curve: Callable[[Params, Any, Array, Array, Reading], tuple[Array, Array, Any]] | None = None
    children: tuple[Layer, ...] = ()
    with_children: Callable[..., Layer] | None = None
    modes: Modes | None = None

    def __repr__(self) -> str:
        return self.label


class Modes(NamedTuple):
    """Other forms of a layer that differs between training and inference; each takes the layer's own params and state.

    ``inference`` is a layer that trains as this one infers. ``keep`` and ``thinned`` are for layers which drop neurons:
    the probability that a neuron stays, and ``thinned(mask [o])``, the layer that keeps the same neurons, those where
    the mask is 1, for every example.
    """

    inference: Layer
    keep: Any = None
    thinned: Callable[[Array], Layer] | None = None


class Optimizer(NamedTuple):
    """The pair every functional optimizer is, in the protocol that optax made common.

    ``init(params) -> state`` and ``update(gradient, state, params) -> (updates, state)``. The minus
    sign is inside the updates: ``apply_updates(params, updates)`` adds them.
    """

    init: Callable[[Params], Any]
    update: Callable[..., tuple[Any, Any]]
    label: str = "optimizer"
    takes: str | None = None
    """where the update takes gradients: at "all" leaves, at "some" (`masked`), or None, where nobody has said"""
    steps: str | None = None
    """where its updates are steps, the minus sign inside; None: nowhere, as of `l2`, or nobody has said"""

    def __repr__(self) -> str:
        return self.label


class TrainState(NamedTuple):
    """Everything a training run carries: what `Trainer.step` takes and gives back.

    ``step`` counts the gradient steps taken and, after 2³¹ of them, begins again at 0. ``running_loss`` is the
    lecture's Q, infinite before the first step. ``layer_state`` is what layers remember, such as running statistics.
    ``key`` never changes: all that step t draws is a function of (key, t), so any run can be resumed exactly.
    """

    params: Params
    layer_state: State
    optimizer_state: Any
    step: Array
    running_loss: Array
    key: Array


class Trainer(NamedTuple):
    """One step of training as pure functions, for `jax.lax.scan` or a loop of one's own.

    - ``init(key, data) -> TrainState``; data is (x [ℓ, …], y [ℓ, …]).
    - ``step(state, data) -> (state, metrics)`` draws its own batch from data.
    - ``update(state, batch) -> (state, metrics)`` takes a batch from outside.
    """

    init: Callable[[Array, Batch], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Any]]
    update: Callable[[TrainState, Batch], tuple[TrainState, Any]]
    label: str = "trainer"

    def __repr__(self) -> str:
        return self.label
