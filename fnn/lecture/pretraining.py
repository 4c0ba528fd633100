"""Layer-wise pre-training (slide "Heuristics for the initial approximation", item 3): every neuron a linear model.

The layers are trained from the first to the last. A layer's neurons are trained apart from each other, each to give
the target by itself from the layer's input; then the layer's outputs, in inference mode, are the input of the
next. So that the neurons differ, each one has a random subsample of the examples, a random subset of the inputs, a
random start of its own, or any mix of the three.

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
from fnn.training import _checks as training_checks
from fnn.training.trainers import compiled, train, trainer

_MARGINS = (exponential_margin, hinge_margin, logistic_margin, sigmoid_margin)

_CLASSIFIERS = (*_MARGINS, binary_cross_entropy, softmax_cross_entropy)


class _Plan(NamedTuple):
    """How many steps, and how much each neuron sees: the number of examples, the share of a layer's inputs."""

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
    """First values for a network's weights by training its neurons as linear models, layer after layer.

    What neuron h learns, with S = ⟨x, w_h⟩ + b_h on the layer's input x (slide "Linear models")::

        regression       min ½(σ(S) − y_m)²          `squared`, or a loss of one's own; scale y into the range of σ
        classification   min ℒ(S y_m)                margin losses and `binary_cross_entropy`: σ stays outside
        M classes        min ln(1 + e^S) − [y = m]S  `softmax_cross_entropy`: class m against the rest

    Of M > 1 outputs or classes each neuron has one, m; they are dealt out evenly and at random. All neurons of a layer
    are trained in one vmapped call, on the same batches (within a random subsample, on the same places in it).

    What makes the neurons differ is `subsample`, `inputs` and `restart`. Without any of them, and with one output, they
    end equal. Starts alone do little: a linear model with a convex loss has one minimum, and after enough steps all
    neurons are in it. With a random subsample a step gathers a batch for each neuron; otherwise one for all.

    Layers of neurons are those with params ``{"w": [i, o], "b": [o]}``, or ``{"w": [i, o]}`` without biases, alone or
    in a `serial` (nested or not). An `activate` right after one is its σ, and `columns` of `activate` are the σ of its
    neurons one by one. All else keeps its first params and is passed through in inference mode: `dropout`,
    `batch_norm`, `prelu`, and the composites `residual`, `repeat`, `columns`, `grouped`, `remat`; neurons that stand
    in one of these are not trained, and a warning names it. Outside of `jit` each layer is compiled once and kept.

    The slide's three ways are alternatives, "either … or"; here each is one argument, they mix, and the defaults take
    all three. The slide does not say what a hidden neuron learns; here it is the target of the whole network.

    Args:
        key: a key.
        net: a network; the last of its layers of neurons is the head.
        data: (x [ℓ, i], y), all examples at once.
        loss: the loss of the network, for which y is the target.
        optimizer: a pair with ``init`` and ``update``, for each neuron anew.
        steps: gradient steps of each neuron.
        batch_size: examples in a batch.
        subsample: share of the examples that a neuron sees, drawn without replacement; None for all.
        inputs: share of the inputs that a neuron sees, at least one; the weights of the others are 0. None for all.
        restart: whether a neuron starts from values of its own, its column of what the layer's ``init`` draws; or all
            from the first column.
        head: whether the head is trained too, with all that follows it: as one model, on the network's loss, from its
            own first values, on all examples and inputs. Otherwise it keeps its first values.

    Returns:
        Params in the structure that ``net.init`` gives. Training takes them by ``state._replace(params=…)``.

    Raises:
        ValueError: no layer of neurons, shares outside (0, 1], data that do not fit, a batch larger than a subsample,
            a loss of one's own that couples the outputs.
        TypeError: a part that is not what it should be; a share that is traced.

    Warns:
        UserWarning: neurons in composites that keep their first values.
    """
    checks.is_layer("pretrain", net)
    checks.is_loss(loss)
    _judges_outputs_apart(loss, softmax_cross_entropy)
    training_checks.makes_steps("pretrain", optimizer)
    x, y = checks.batch(data)
    training_checks.data(x, y)
    checks.features("pretrain", x)
    plan = _planned(x, steps, batch_size, subsample, inputs, restart)

    key_of_first, key = jax.random.split(key)
    first, state = net.init(key_of_first, jax.ShapeDtypeStruct(x.shape, x.dtype))
    a = jax.eval_shape(net.apply, first, state, x)
    jax.eval_shape(lambda a: loss.value(a, y), a)  # y is concrete in there: labels are checked
    parts = list(flat(net, first, state))
    neurons = [i for i, part in enumerate(parts) if has_neurons(*part[:2])]
    _has_neurons("pretrain", net, neurons)
    untrained = parts[: neurons[-1]] if head else parts
    _passed_over("pretrain", [layer for layer, p, _ in untrained if hides_neurons(layer, p)])

    trained, of_layers = [params for _, params, _ in parts], jax.random.split(key, len(neurons))
    for i, (layer, params, state) in enumerate(parts[: neurons[-1]]):
        if i in neurons:
            S = jax.eval_shape(layer.apply, params, state, x)
            model = () if loss in _CLASSIFIERS else (layer, *activations(parts[i + 1 :], S))
            key = of_layers[neurons.index(i)]
            trained[i] = _neurons(model, loss, optimizer, plan, a.shape[1], params, x, y, key)
        x = layer.apply(trained[i], state, x)
    if head:
        layers, params, states = zip(*parts[neurons[-1] :], strict=True)
        trained[neurons[-1] :] = _head(layers, loss, optimizer, plan, params, states, x, y, of_layers[-1])
    return nested(net, iter(trained))


def _planned(x: Array, steps: int, batch_size: int, subsample: Any, inputs: Any, restart: bool) -> _Plan:
    size, subsample, inputs = x.shape[0], _share("subsample", subsample), _share("inputs", inputs)
    examples = _part_of(size, subsample)
    batch_size = checks.count("batch_size", batch_size)
    _batch_within(batch_size, examples, size)
    return _Plan(checks.count("steps", steps), batch_size, examples, inputs, bool(restart))


def _part_of(whole: int, share: float) -> int:
    """How many a share is, rounded, at least one."""
    return max(1, round(share * whole))


@compiled("model", "loss", "optimizer", "plan", "outputs")
def _neurons(
    model: tuple[Any, ...], loss: Loss, optimizer: Any, plan: _Plan, outputs: int,
    params: Params, x: Array, y: Array, key: Array,
) -> Params:  # fmt: skip
    """The params of a layer, each neuron (column) trained by itself; without a `model` on S = x w + b."""
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
    alone = binary_cross_entropy if of_classes else loss

    def with_target(part: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        def of(a: Array, y: Array) -> Array:
            if of_classes:
                labels = wide_integers(y)
                return part(a, (labels == m.astype(labels.dtype)).astype(a.dtype))
            return part(a, y if y.ndim == 1 else jnp.take(y, m, axis=1))

        return of

    return Loss(f"{alone} of one target", *map(with_target, (alone.value, alone.slope, alone.curvature)))


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
    """`shuffled`, except that a batch of all examples needs no order."""
    if batch_size == size:
        return jnp.arange(size, dtype=jnp.int32)
    return shuffled(key, step, size, batch_size)


def _share(name: str, value: Any) -> float:
    """A share in (0, 1], which fixes shapes; None is all."""
    if value is None:
        return 1.0
    if isinstance(value, Tracer):
        raise TypeError(f"{name} fixes how many there are and cannot be traced; pass a Python number")
    checks.number(name, value, lambda v: 0 < v <= 1, "a share in (0, 1], or None for all")
    return float(value)


def _batch_within(batch_size: int, examples: int, size: int) -> None:
    """A batch comes from the examples that a neuron sees."""
    if batch_size > examples:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {examples} of {size} examples that each neuron sees; take batch_size "
            f"<= {examples}, or a larger subsample"
        )


def _judges_outputs_apart(loss: Loss, known: Loss) -> None:
    """A loss that says something of one output alone, or the `known` one whose classes can be told apart."""
    if loss.hessian is not None and loss != known:
        raise ValueError(
            f"pretrain lets each neuron learn one output alone, and {loss} couples the outputs (it has a hessian); "
            f"take {known}, or a loss that is a sum over outputs"
        )


def _has_neurons(where: str, net: Any, layers: Sequence[int]) -> None:
    """A network with layers of neurons to train."""
    if not layers:
        raise ValueError(
            f'{where} trains layers with params {{"w": [i, o], "b": [o]}} (dense, linear), and {net} has none that '
            "stands in a serial; build the network of them"
        )


def _passed_over(where: str, composites: Sequence[Any]) -> None:
    """Neurons that are left as they are, told by the layers they stand in."""
    if composites:
        warnings.warn(
            f"{where} trains layers of neurons that stand alone or in a serial, and leaves those within "
            f"{', '.join(map(str, composites))} with their first values; put these neurons into a serial to have them "
            "trained too",
            stacklevel=3,
        )
