"""The five shapes that everything in `fnn` is made of, and the reading of a backward pass.

Each shape is a `NamedTuple` of pure functions, made by a lower-case factory, and prints as the call
that made it. No class has state: parameters, running statistics and optimizer states are pytrees
that the functions take and return.

- ``Activation``, ``Loss``: ``value``, ``slope``, ``curvature``, σ, σ', σ'' and, for each example, ℒ, ∂ℒ/∂a, ∂²ℒ/∂a².
- ``Layer``: ``init``, ``apply`` for inference, ``forward`` leaves a tape, ``backward`` reads it, ``curve`` has second
  derivatives.
- ``Optimizer``: ``init(params)``, ``update(gradient, state, params)``, the protocol that optax made common.
- ``Trainer``: ``init``, ``step`` (draws its own batch), ``update`` (takes a batch).

The letters are the lecture's: ``l`` layer, ``h`` neuron of layer l, ``k`` neuron of layer l−1,
``S`` pre-activation, ``x`` output, ``z = σ'(S)``, ``ε = ∂L/∂x`` error, ``w`` weights. In array
shapes ``n`` is the example within a batch, ``i`` the inputs and ``o`` the outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fnn.core._labels import OwnHelp

Array = jax.Array

Params = Any
"""A pytree of arrays: tuples in the order of composition, with dict leaves {"w": …, "b": …}."""

State = Any
"""A pytree of what a layer remembers between batches, such as running statistics; `()` for most layers."""

Batch = Any
"""A pytree of arrays with the examples as their first axis. The usual one is (x, y): examples [n, features] and their
targets [n, …]; (x, y, weight) has a weight for each example. See `fnn.core.batches`."""

Rate = float | Array | Callable[[Array], Array]
"""A learning rate: a number, a tracer, or a schedule from the step (0, 1, …) to a rate."""


class Activation(NamedTuple):
    """σ with its first two derivatives, each from S [n, o] to an array of the same shape.

    Laws: ``slope`` is dσ/dS and ``curvature`` dσ'/dS wherever they exist; at a kink each is the
    stated choice; all three are finite for every finite S. ``doc`` is the help of this one activation.
    """

    __doc__ = OwnHelp(__doc__)  # pyright: ignore[reportAssignmentType]

    label: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    curvature: Callable[[Array], Array]
    doc: str = ""

    def __repr__(self) -> str:
        return self.label


class Loss(NamedTuple):
    """ℒ(a, y) of every example, with its derivatives with respect to the network's output a [n, M].

    ``value`` is [n]; ``slope`` is ∂ℒ/∂a [n, M], the output error ε^L of each example's own loss;
    ``curvature`` is the diagonal ∂²ℒ/∂a_m² [n, M]; ``hessian`` is the whole matrix ∂²ℒ/∂a_m∂a_k [n, M, M], or None
    for a loss that is a sum over outputs, whose Hessian is diagonal. ``root`` is R [n, M, C] with R Rᵀ equal to the
    Hessian, or the root of the diagonal [n, M] if the Hessian is diagonal; None if the loss is not convex or its
    root is not implemented. Nothing here is divided by n. ``doc`` is the help of this one loss. ``weight`` makes of the
    targets the weights [n] by which the examples count in means, as for classes of unequal weight; None for 1.
    """

    __doc__ = OwnHelp(__doc__)  # pyright: ignore[reportAssignmentType]
    label: str
    value: Callable[[Array, Any], Array]
    slope: Callable[[Array, Any], Array]
    curvature: Callable[[Array, Any], Array]
    hessian: Callable[[Array, Any], Array] | None = None
    root: Callable[[Array, Any], Array] | None = None
    doc: str = ""
    weight: Callable[[Any], Array] | None = None

    def __repr__(self) -> str:
        return self.label


class Reading(NamedTuple):
    """The quantity gathered at a parameter from the contributions of the examples of a batch.

    At a weight, example n contributes the outer product of x_n and ε_n; the gradient is only their
    sum. A reading defines what is kept instead:

    - ``outer(x [n, i], error [n, o])`` reads the contributions x_n ε_nᵀ to a weight matrix;
    - ``rows(contributions [n, …])`` reads contributions in explicit form, as to a bias;
    - ``stack(readings [depth, …])`` joins the readings of stacked parameters (`repeat`);
    - ``scale(n)`` is the factor on each example's error that makes the reading of a whole batch the
      reading of the *mean* loss: 1/n for a sum of ε, 1/√n for a sum of ε², 1 for a per-example reading. An example of
      weight w counts as one of n = Σw/w, so that ``scale`` is also given arrays [n];
    - ``linear`` is True if the reading depends on the sum of the contributions only. It is then also
      right in a layer that couples the examples of a batch; other readings raise Unsupported there;
    - ``doc`` is the help of this one reading;
    - ``weighted(share [n])`` is the reading of examples that count by their shares, which add up to 1, for a
      reading that no factor on the errors makes so, such as a variance. None for the others;
    - ``shared(x [n, p, i], error [n, p, o])`` reads the contributions Σ_p x_np ε_npᵀ to a weight matrix used at
      several positions p. With None, these sums are formed for every example and read by ``rows``.
    """

    __doc__ = OwnHelp(__doc__)  # pyright: ignore[reportAssignmentType]
    label: str
    outer: Callable[[Array, Array], Any]
    rows: Callable[[Array], Array]
    stack: Callable[[Array], Array]
    scale: Callable[[Any], Any]
    linear: bool
    doc: str = ""
    weighted: Callable[[Array], Reading] | None = None
    shared: Callable[[Array, Array], Any] | None = None

    def __repr__(self) -> str:
        return self.label


class Layer(NamedTuple):
    """A lens: a forward pass that leaves a tape, and a backward pass that reads it.

    - ``init(key, x) -> (params, state)``; x is an array or `jax.ShapeDtypeStruct` [n, i].
    - ``apply(params, state, x) -> y``: inference mode, a pure function of x.
    - ``forward(params, state, x, key) -> (y, state, tape)``: training mode.
    - ``backward(params, tape, error, read) -> (error, readings)``: the hand-written VJP of
      ``forward``, from ∂L/∂y [n, o] to ∂L/∂x [n, i], with the readings in the shape of ``params``.
    - ``curve(params, tape, error, curvature, read) -> (error, curvature, readings)``: the same pass
      with second derivatives as well, from ∂²L/∂y² to ∂²L/∂x² (see `fnn.derivatives.hessian`). The rank
      of ``curvature`` selects the mode: [n, o] for the diagonal only, [n, o, o] for each example's whole matrix.
      None if the layer's second derivatives are not implemented.

    Laws: ``backward`` is linear in ``error``, recomputes nothing, and with the reading `gradient`
    equals `jax.vjp` of ``forward``. Layers compose into layers: `serial` is associative, `serial()`
    is its identity, and the backward of a composite is its parts' backwards in reverse.

    ``children`` are the parts of a composite, and ``with_children(*parts)`` builds the same composite from other
    parts (see `map_layers`). They are () and None for a layer without parts.
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
    """The other forms of a layer that differs between training and inference, with the same params and state.

    ``inference`` is a layer whose training computes this layer's inference. ``keep`` and ``thinned`` are for layers
    that drop neurons: the probability of keeping a neuron, and ``thinned(mask [o])``, the layer that keeps the neurons
    where the mask is 1, the same ones for every example.
    """

    inference: Layer
    keep: Any = None
    thinned: Callable[[Array], Layer] | None = None


class Optimizer(NamedTuple):
    """A pair of pure functions, init and update, in the protocol that optax made common.

    ``init(params) -> state`` and ``update(gradient, state, params) -> (updates, state)``. The updates
    include the minus sign: ``apply_updates(params, updates)`` adds them.
    """

    init: Callable[[Params], Any]
    update: Callable[..., tuple[Any, Any]]
    label: str = "optimizer"
    takes: str | None = None
    """the leaves at which the update takes gradients: "all", "some" (`masked`), or None if unspecified"""
    steps: str | None = None
    """the leaves at which the updates are steps, with the minus sign; None for nowhere (`l2`) or if unspecified"""

    def __repr__(self) -> str:
        return self.label


class TrainState(NamedTuple):
    """The complete state of a training run, from one `Trainer.step` to the next.

    ``step`` counts the gradient steps taken and starts again at 0 after 2³¹ of them. ``running_loss`` is the
    lecture's Q, infinite before the first step. ``layer_state`` is the state of the layers, such as running statistics.
    ``key`` never changes: every draw of step t is a function of (key, t), so any run can be resumed exactly.
    """

    params: Params
    layer_state: State
    optimizer_state: Any
    step: Array
    running_loss: Array
    key: Array


class Trainer(NamedTuple):
    """One step of training as pure functions, for `jax.lax.scan` or a loop in Python.

    - ``init(key, data) -> TrainState``; data is a pytree of arrays [ℓ, …], such as (x, y).
    - ``step(state, data) -> (state, metrics)`` draws its own batch from the data.
    - ``update(state, batch) -> (state, metrics)`` takes a given batch.
    """

    init: Callable[[Array, Batch], TrainState]
    step: Callable[[TrainState, Batch], tuple[TrainState, Any]]
    update: Callable[[TrainState, Batch], tuple[TrainState, Any]]
    label: str = "trainer"

    def __repr__(self) -> str:
        return self.label
