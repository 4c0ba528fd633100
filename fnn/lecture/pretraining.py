"""Layer-wise pre-training (slide "Heuristics for the initial approximation", item 3): every neuron a linear model.

The layers are trained from the first to the last. Each neuron of a layer is trained independently to predict the target
from the layer's input; then the layer's outputs, in inference mode, are the input of the next. To make the neurons
differ, each one has a random subsample of the examples, a random subset of the inputs, random initial weights, or any
mix of the three.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn.lecture import diversity
    >>> from fnn import dense, linear, momentum, serial, squared, tanh
    >>> x = jax.random.normal(jax.random.key(0), (200, 6))
    >>> data, net = (x, jnp.sin(x[:, 0] + x[:, 1])), serial(dense(8, tanh), linear(1))
    >>> options = dict(optimizer=momentum(0.1), steps=100, head=False)
    >>> varied = pretrain(jax.random.key(1), net, data, squared, **options)
    >>> jnp.sum(varied[0]["w"] != 0, axis=0).tolist()
    [3, 3, 3, 3, 3, 3, 3, 3]
    >>> equal = pretrain(jax.random.key(1), net, data, squared, subsample=None, inputs=None, restart=False, **options)
    >>> [bool(diversity(dense(8, tanh).apply(params[0], (), x)) > 0.1) for params in (varied, equal)]
    [True, False]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fnn.core import _checks as checks
from fnn.core._numerics import wide_integers
from fnn.core.batches import supervised
from fnn.core.types import Array, Batch, Layer, Loss, Params, State
from fnn.data.sampling import permuted, shuffled
from fnn.lecture._neuron_parts import activations, flat, has_neurons, hides_neurons, nested, own_sigma
from fnn.nn.compositions import serial
from fnn.nn.functions import from_function
from fnn.nn.inference import inference_mode
from fnn.nn.losses import (
    binary_cross_entropy,
    exponential_margin,
    hinge_margin,
    logistic_margin,
    sigmoid_margin,
    softmax_cross_entropy,
)
from fnn.optimizers import _checks as optimizers_checks
from fnn.training import _checks as training_checks
from fnn.training.trainers import compiled, train, trainer

_MARGINS = (exponential_margin, hinge_margin, logistic_margin, sigmoid_margin)

_CLASSIFIERS = (*_MARGINS, binary_cross_entropy, softmax_cross_entropy)


class _Plan(NamedTuple):
    """The training of each neuron: its steps, batch size, number of examples, and fraction of a layer's inputs."""

    steps: int
    batch_size: int
    examples: int
    inputs: float
    restart: bool


def pretrain(
    key: Array,
    net: Layer,
    data: Batch,
    loss: Loss,
    *,
    optimizer: Any,
    steps: int,
    batch_size: int = 32,
    subsample: float | None = 0.5,
    inputs: float | None = 0.5,
    restart: bool = True,
    head: bool = True,
) -> Params:
    """Initial values for a network's weights by training its neurons as linear models, layer after layer.

    The objective of neuron h, with S = ⟨x, w_h⟩ + b_h on the layer's input x (slide "Linear models")::

        regression       min ½(σ(S) − y_m)²          `squared`, or a custom loss; scale y into the range of σ
        classification   min ℒ(S y_m)                margin losses and `binary_cross_entropy`, without σ
        M classes        min ln(1 + e^S) − [y = m]S  `softmax_cross_entropy`: class m against the rest

    With M > 1 outputs or classes each neuron has one of them, m, assigned evenly and at random. All neurons of a layer
    are trained in one vmapped call, on the same batches (with a random subsample, on the same positions in it).

    `subsample`, `inputs` and `restart` make the neurons differ. Without any of them, and with one output, they end
    equal. `restart` has little effect on its own: a linear model with a convex loss has one minimum, which all neurons
    reach after enough steps. With a random subsample a step gathers a batch for each neuron; otherwise one for all.

    Layers of neurons are those with params ``{"w": [i, o], "b": [o]}``, or ``{"w": [i, o]}`` without biases, outside of
    composites or in a `serial` (nested or not). An `activate` right after one is its σ, and `columns` of `activate` are
    the different σ of its neurons. All other layers keep their initial params and are passed through in inference mode:
    `dropout`, `batch_norm`, `prelu`, and the composites `residual`, `repeat`, `columns`, `grouped`, `remat`; neurons in
    one of these are not trained, and a warning names it. Outside of `jit` each layer is compiled once and cached.

    The slide's three ways are alternatives, "either … or"; here each is one argument, they can be combined, and the
    defaults combine all three. The slide does not specify what a hidden neuron learns; here it is the target of the
    whole network.

    Args:
        key: a key.
        net: a network; the last of its layers of neurons is the head.
        data: (x [ℓ, i], y), all examples at once.
        loss: the loss of the network, for which y is the target.
        optimizer: a pair with ``init`` and ``update``, initialised for each neuron.
        steps: gradient steps of each neuron.
        batch_size: examples in a batch.
        subsample: fraction of the examples that a neuron sees, drawn without replacement; None for all.
        inputs: fraction of the inputs that a neuron sees, at least one; the weights of the others are 0. None for all.
        restart: whether every neuron starts from its own column of the layer's ``init``; otherwise all start from the
            first column.
        head: whether the head is trained too, together with all layers behind it: as one model, on the network's loss,
            from its initial values, on all examples and inputs. Otherwise it keeps its initial values.

    Returns:
        Params in the structure of ``net.init``; ``state._replace(params=…)`` puts them into a train state.

    Raises:
        ValueError: no layer of neurons, fractions outside (0, 1], data that do not fit, a batch larger than a
            subsample, a custom loss that couples the outputs.
        TypeError: an argument of the wrong kind; a fraction that is traced.

    Warns:
        UserWarning: neurons in composites that keep their initial values.
    """
    checks.is_layer("pretrain", net)
    checks.is_loss(loss)
    _is_sum_over_outputs(loss, softmax_cross_entropy)
    optimizers_checks.makes_steps("pretrain", optimizer)
    training_checks.data(data)
    x, y, weight, _ = supervised(data)
    if weight is not None:
        raise ValueError("pretrain: expected data (x, y), got weights. Repeat or leave out examples instead.")
    checks.rows("pretrain", x)
    plan = _planned(x, steps, batch_size, subsample, inputs, restart)

    key_of_first, key = jax.random.split(key)
    first, state = net.init(key_of_first, jax.ShapeDtypeStruct(x.shape, x.dtype))
    a = jax.eval_shape(net.apply, first, state, x)
    jax.eval_shape(lambda a: loss.value(a, y), a)  # y stays concrete, so labels are checked
    parts = list(flat(net, first, state))
    neurons = [i for i, part in enumerate(parts) if has_neurons(*part[:2])]
    _has_neurons(net, neurons)
    untrained = parts[: neurons[-1]] if head else parts
    _warn_of_untrained([layer for layer, p, _ in untrained if hides_neurons(layer, p)])

    trained = [params for _, params, _ in parts]
    keys = dict(zip(neurons, jax.random.split(key, len(neurons)), strict=True))
    for i, (layer, params, state) in enumerate(parts[: neurons[-1]]):
        if i in neurons:
            S = jax.eval_shape(layer.apply, params, state, x)
            model = () if loss in _CLASSIFIERS else (layer, *activations(parts[i + 1 :], S))
            trained[i] = _neurons(model, loss, optimizer, plan, a.shape[1], params, x, y, keys[i])
        x = layer.apply(trained[i], state, x)
    if head:
        layers, params, states = zip(*parts[neurons[-1] :], strict=True)
        trained[neurons[-1] :] = _head(layers, loss, optimizer, plan, params, states, x, y, keys[neurons[-1]])
    return nested(net, iter(trained))


def _planned(x: Array, steps: int, batch_size: int, subsample: Any, inputs: Any, restart: bool) -> _Plan:
    size = x.shape[0]
    examples = _part_of(size, _fraction("subsample", subsample))
    inputs = _fraction("inputs", inputs)
    batch_size = checks.count("batch_size", batch_size)
    _batch_within(batch_size, examples, size)
    return _Plan(
        steps=checks.count("steps", steps),
        batch_size=batch_size,
        examples=examples,
        inputs=inputs,
        restart=bool(restart),
    )


def _part_of(whole: int, fraction: float) -> int:
    """The rounded fraction of a whole number, at least one."""
    return max(1, round(fraction * whole))


@compiled("model", "loss", "optimizer", "plan", "outputs")
def _neurons(
    model: tuple[Any, ...], loss: Loss, optimizer: Any, plan: _Plan, outputs: int,
    params: Params, x: Array, y: Array, key: Array,
) -> Params:  # fmt: skip
    """The params of a layer, each neuron (column) trained independently; without a `model` on S = x w + b."""
    i, o = params["w"].shape
    visible = _part_of(i, plan.inputs)
    of_batches, of_examples, of_inputs, of_targets = jax.random.split(key, 4)

    def one(h: Array, m: Array, first: Params) -> Params:
        sees = jnp.ones(i, bool) if visible == i else permuted(of_inputs, h, jnp.arange(i), i) < visible

        def seeing(p: Params) -> Params:
            return p | {"w": jnp.where(sees[:, None], p["w"], 0)}

        def value(p: Params, x: Array) -> Array:
            if not model:
                S = x @ seeing(p)["w"]
                return S + p["b"][None, :] if "b" in p else S
            x = model[0].apply(seeing(p), (), x)
            for slices in model[1:]:
                x = own_sigma(slices, h, x)
            return x

        def drawn(key: Array, step: Any, size: int, batch_size: int) -> Array:
            places = _places(key, step, plan.examples, batch_size)
            return places if plan.examples == size else permuted(of_examples, h, places, size)

        neuron = from_function(lambda key, x: first, value, "neuron")
        learn = trainer(neuron, _of_one_target(loss, m), optimizer, batch_size=plan.batch_size, draw=drawn)
        state, _ = train(learn, learn.init(of_batches, (x, y)), (x, y), plan.steps)
        return seeing(state.params)

    targets = jax.random.permutation(of_targets, jnp.arange(o) % outputs)
    columns = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0)[..., None], params)
    if not plan.restart:
        columns = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), columns)
    trained = jax.vmap(one)(jnp.arange(o), targets, columns)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf[..., 0], 0, -1), trained)


def _of_one_target(loss: Loss, m: Array) -> Loss:
    """The loss of a neuron that learns output m, or class m against the rest."""
    of_classes = loss == softmax_cross_entropy
    single = binary_cross_entropy if of_classes else loss

    def with_target(part: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        def of(a: Array, y: Array) -> Array:
            if of_classes:
                labels = wide_integers(y)
                return part(a, (labels == m.astype(labels.dtype)).astype(a.dtype))
            return part(a, y if y.ndim == 1 else jnp.take(y, m, axis=1))

        return of

    return Loss(
        label=f"{single} of one target",
        value=with_target(single.value),
        slope=with_target(single.slope),
        curvature=with_target(single.curvature),
    )


@compiled("layers", "loss", "optimizer", "plan")
def _head(
    layers: tuple[Layer, ...], loss: Loss, optimizer: Any, plan: _Plan,
    params: Params, state: State, x: Array, y: Array, key: Array,
) -> Params:  # fmt: skip
    """The params of the last layers, trained as one model on the network's own loss."""
    tail = inference_mode(serial(*layers))._replace(init=lambda key, x: (params, state))
    learn = trainer(tail, loss, optimizer, batch_size=plan.batch_size, draw=_places)
    return train(learn, learn.init(key, (x, y)), (x, y), plan.steps)[0].params


def _places(key: Array, step: Any, size: int, batch_size: int) -> Array:
    """`shuffled`, but in the given order if a batch contains all examples."""
    if batch_size == size:
        return jnp.arange(size, dtype=jnp.int32)
    return shuffled(key, step, size, batch_size)


def _fraction(name: str, value: Any) -> float:
    """The checked fraction in (0, 1], which determines shapes; 1 for None."""
    if value is None:
        return 1.0
    if isinstance(value, Tracer):
        raise TypeError(f"{name}: expected a Python number, which determines shapes, got a tracer. Pass a float.")
    checks.number(name, value, lambda v: 0 < v <= 1, "a fraction in (0, 1], or None for all")
    return float(value)


def _batch_within(batch_size: int, examples: int, size: int) -> None:
    """Raise ValueError if a batch exceeds the examples that a neuron sees."""
    if batch_size > examples:
        raise ValueError(
            f"pretrain: expected at most the {examples} of {size} examples that each neuron sees in a batch, got "
            f"batch_size {batch_size}. Choose batch_size <= {examples}, or a larger subsample."
        )


def _is_sum_over_outputs(loss: Loss, known: Loss) -> None:
    """Raise ValueError unless the loss is a sum over outputs, or `known`, whose classes can be trained separately."""
    if loss.hessian is not None and loss != known:
        raise ValueError(
            f"pretrain: expected a loss that is a sum over outputs, as each neuron learns a single output, got {loss}, "
            f"which couples the outputs (it has a hessian). Use {known}, or a sum over outputs."
        )


def _has_neurons(net: Any, layers: Sequence[int]) -> None:
    """Raise ValueError for a network without layers of neurons to train."""
    if not layers:
        raise ValueError(
            f'pretrain: expected layers with params {{"w": [i, o], "b": [o]}} (dense, linear), got {net} without one '
            "outside of composites or in a serial. Build the network of them."
        )


def _warn_of_untrained(composites: Sequence[Any]) -> None:
    """Warn of composites whose neurons are not trained."""
    if composites:
        warnings.warn(
            "pretrain: expected layers of neurons outside of composites or in a serial, got neurons within "
            f"{', '.join(map(str, composites))}, which keep their initial values. Put these neurons into a serial to "
            "train them too.",
            stacklevel=3,
        )
