"""Diagnosis of training: paralysis, exploding and vanishing gradients, overfitting, and bad initial weights.

The lecture lists the troubles of BackProp (slides "BackProp", "Gradient explosion") and how initial weights prevent
some of them (slide "Heuristics for the initial approximation"). Each is measured here:

==================== ============================= ======================================================
trouble              measured by                   symptom
==================== ============================= ======================================================
paralysis            `saturated`, `dead`           fractions of neurons with σ' ≈ 0 that rise towards 1
gradient explosion   `gradient_norm`,              norms that grow, from layer to layer or step to step;
                     `gradient_ratio`              if they shrink instead, the gradient vanishes
too large a step     `update_norm`                 ‖ΔW‖ that does not fall
overfitting          `overfitting_gap`             held-out loss − training loss that rises
bad initial weights  `propagation_report`          variances that grow or shrink from layer to layer
==================== ============================= ======================================================

All but the last two are metrics for a `trainer`, computed in the passes it makes anyway; metrics that are not requested
cost nothing.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import dense, linear, train, serial, sgd, squared, tanh, trainer
    >>> from fnn.nn import constant
    >>> net = serial(dense(8, tanh, b=constant(9.0)), linear(1))
    >>> learn = trainer(net, squared, sgd(0.1), batch_size=4, metrics=[saturated(), gradient_norm, update_norm])
    >>> data = jnp.ones((8, 2)), jnp.ones((8, 1))
    >>> _, metrics = train(learn, learn.init(jax.random.key(0), data), data, steps=10)
    >>> {layer: float(share) for layer, share in metrics["saturated"].items()}  # on an asymptote from the start
    {'0 dense(8, tanh, b=constant(9.0))': 1.0}
    >>> list(metrics)
    ['gradient_norm', 'loss', 'running_loss', 'saturated', 'update_norm']
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._labels import aligned
from fnn.core._numerics import ratio, safe_sqrt, wide
from fnn.core.batches import supervised
from fnn.core.types import Array, Batch, Layer, Loss, Params, State, TrainState
from fnn.derivatives.backpropagation import backprop
from fnn.nn.surgery import LayerRecord
from fnn.training import _checks as training_checks
from fnn.training.metrics import Metric, measured, parted


def saturated(below: float = 0.01) -> Metric:
    """Paralysis: the fraction of ``|z_no|`` < below over examples n and neurons o of a layer, z = σ'(S).

    If z ≈ 0, the neuron is on a horizontal asymptote of σ and no error passes through. ReLU has z = 0 for S ≤ 0, so a
    healthy ReLU layer is about half saturated: use `dead` there.

    Args:
        below: σ' below this counts as zero, > 0; the largest σ' is 1 for tanh and 1/4 for sigmoid.

    Returns:
        A metric of the layers that keep slopes z on their tape: `dense` and `activate`.
    """
    return _share("saturated", below, lambda still: still)


def dead(below: float = 0.01) -> Metric:
    """The fraction of a layer's neurons with ``|z_no|`` < below for *all* examples n of the batch, at all positions.

    Such a neuron learns nothing from this batch; one that is dead in every batch will never learn again.

    Args:
        below: as in `saturated`.

    Returns:
        A metric of the layers that keep slopes z on their tape: `dense` and `activate`.
    """
    return _share("dead", below, lambda still: jnp.all(still, axis=tuple(range(still.ndim - 1))))


def _share(name: str, below: float, of: Callable[[Array], Array]) -> Metric:
    checks.positive("below", below)

    def share(params: Params, seen: LayerRecord) -> Array | None:
        z = getattr(seen.tape, "z", None)
        if z is None:
            return None
        return jnp.mean(of(jnp.abs(z) < jnp.asarray(below, z.dtype)), dtype=wide(z).dtype)

    return Metric(name, of_layer=share)


def _norm(tree: Any) -> Array:
    """√Σg² from unscaled squares, at a third of the cost of `tree_norm`."""
    return safe_sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(wide(tree))))


def _gradient_norm(params: Params, g: Params) -> Array | None:
    return _norm(g) if jax.tree.leaves(params) else None


def _gradient_ratio(params: Params, g: Params) -> Array | None:
    return ratio(_norm(g), _norm(params)) if jax.tree.leaves(params) else None


gradient_norm = Metric(
    "gradient_norm",
    of_gradient=_gradient_norm,
    doc="‖∂Q/∂W^l‖ for each layer l with parameters, Q the batch's mean loss: exploding or vanishing gradients, before "
    "the optimizer clips them, whatever function computes it. In single precision a norm beyond 10^±19 appears as "
    "infinite or 0.",
)

gradient_ratio = Metric(
    "gradient_ratio",
    of_gradient=_gradient_ratio,
    doc="‖∂Q/∂W^l‖/‖W^l‖, which makes layers of different sizes comparable; 0 if the gradient is 0.",
)

update_norm = Metric(
    "update_norm",
    of_step=lambda step: _norm(step.updates),
    doc="‖ΔW‖ of the whole parameter vector, the length of the step, for any optimizer.",
)


def diagnostics(below: float = 0.01) -> tuple[Metric, ...]:
    """All metrics of this module, for ``trainer(…, metrics=diagnostics())``.

    Args:
        below: as in `saturated`.
    """
    return saturated(below), dead(below), gradient_norm, gradient_ratio, update_norm


class Gap(NamedTuple):
    """Mean losses in inference mode with the same weights."""

    training: Array
    held_out: Array
    gap: Array
    """held_out − training"""


def overfitting_gap(net: Layer, loss: Loss, training: Batch, held_out: Batch) -> Callable[[TrainState], Gap]:
    """Overfitting: the loss on held-out data minus that on training data.

    ``train(…, every=k, validate=overfitting_gap(…))`` measures it inside the compiled loop, every k steps. The training
    loss that `train` reports as well is a different one: in training mode, with weights that change meanwhile.

    Args:
        net: a layer.
        loss: a loss.
        training: (x, y), the training data or a part of them; as many examples as are held out make both losses equally
            exact.
        held_out: (x, y), data that the network is not trained on.

    Returns:
        A function ``(state: TrainState) -> Gap``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, train, sgd, squared, trainer
        >>> x, noise = jax.random.normal(jax.random.key(0), (2, 24, 8))
        >>> (seen, unseen), net = [(x[half], noise[half, :1]) for half in (slice(12), slice(12, 24))], linear(1)
        >>> learn, gap = trainer(net, squared, sgd(0.1), batch_size=12), overfitting_gap(net, squared, seen, unseen)
        >>> _, metrics = train(learn, learn.init(jax.random.key(1), seen), seen, 300, every=100, validate=gap)
        >>> metrics["validation"].gap.shape, bool(metrics["validation"].gap[-1] > 0.1)  # it has learned noise
        ((3,), True)
    """
    checks.is_layer("overfitting_gap", net)
    checks.is_loss(loss)
    for sample in (training, held_out):
        supervised(sample, loss)
        training_checks.data(sample)

    def mean_loss(params: Params, state: State, sample: Batch) -> Array:
        examples = supervised(jax.tree.map(jnp.asarray, sample), loss)
        return examples.mean(wide(loss.value(net.apply(params, state, examples.x), examples.y)))

    def gap(state: TrainState) -> Gap:
        of_training, of_held_out = (
            mean_loss(state.params, state.layer_state, sample) for sample in (training, held_out)
        )
        return Gap(of_training, of_held_out, of_held_out - of_training)

    return gap


class Moments(NamedTuple):
    """Moments of all numbers of an array, for each seed: [seeds]."""

    mean: np.ndarray | Array
    mean_square: np.ndarray | Array
    variance: np.ndarray | Array


class LayerPropagation(NamedTuple):
    """Moments of the signals that pass one layer forwards and backwards."""

    layer: str
    """the path of its params and its label; a copy within `repeat` has its number in brackets"""
    output: Moments
    """of x^l over examples and neurons"""
    error: Moments
    """of ε^l = ∂ℒ/∂x^l, ℒ the loss of one example"""
    gradient: Moments | None
    """of ∂Q/∂w over the layer's weights and biases, Q the mean loss; None without parameters"""


class Propagation(NamedTuple):
    """The result of `propagation_report`, printed as a table."""

    label: str
    input: Moments
    """of x^0, the examples"""
    layers: tuple[LayerPropagation, ...]

    @property
    def seeds(self) -> int:
        """The number of random initialisations."""
        return len(self.input.mean)

    def __repr__(self) -> str:
        header = ("layer", "mean x", "var x", "±", "var ε", "±", "var ∂Q/∂w", "±")
        rows: list[tuple[str, ...]] = [("input", *_cells(self.input.mean)[:1], *_cells(self.input.variance), *[""] * 4)]
        for row in self.layers:
            mean, _ = _cells(row.output.mean)
            variances = (m.variance if m is not None else None for m in (row.output, row.error, row.gradient))
            rows.append((row.layer, mean, *(cell for v in variances for cell in _cells(v))))
        title = f"{self.label}: mean and standard deviation over {self.seeds} initialisations"
        return f"{title}\n\n{aligned((header, *rows), text_columns=1)}"


def _cells(values: np.ndarray | Array | None) -> tuple[str, str]:
    return ("", "") if values is None else (f"{np.mean(values):.3g}", f"{np.std(values):.1g}")


def propagation_report(net: Layer, loss: Loss, x: Array, y: Array, key: Array, *, seeds: int = 32) -> Propagation:
    """Variances of outputs, errors and gradients from layer to layer at initialisation, for any network.

    An initialisation is good if the variances neither grow nor shrink from layer to layer: forwards those of x^l, so
    that no neuron starts on an asymptote; backwards those of ε^l, so that gradients neither explode nor vanish (slide
    "Heuristics for the initial approximation"). With weights of mean 0 and variance v and H inputs, the expected mean
    square of S is Hv times that of x: a third of it for w uniform on ±1/√H, all of it for v = 1/H. Layers within
    composites are reported separately: in `residual`, x^l is the output that the layer adds.

    Args:
        net: a layer, reported in training mode.
        loss: a loss.
        x: examples [n, …] as in training; a few hundred suffice.
        y: their targets [n, …].
        key: a key from which all initialisations are drawn.
        seeds: number of initialisations, computed at once by `jax.vmap`.

    Returns:
        A `Propagation`: moments for each layer and each seed.

    Raises:
        TypeError: `net` is not a layer, or `loss` is not a loss.
        ValueError: data of different lengths or with NaN.

    Example:
        >>> import jax
        >>> from fnn import dense, linear, relu, repeat, serial, squared
        >>> from fnn.nn import he
        >>> net = serial(dense(64, relu, w=he()), repeat(dense(64, relu, w=he()), 3), linear(1))
        >>> x, y = jax.random.normal(jax.random.key(0), (100, 64)), jax.numpy.ones((100, 1))
        >>> report = propagation_report(net, squared, x, y, jax.random.key(1), seeds=64)
        >>> for row in report.layers[:-1]:
        ...     print(row.layer, round(float(row.output.mean_square.mean())))  # as that of x
        0 dense(64, relu, w=he()) 1
        1 dense(64, relu, w=he())[0] 1
        1 dense(64, relu, w=he())[1] 1
        1 dense(64, relu, w=he())[2] 1
    """
    checks.is_layer("propagation_report", net)
    checks.is_loss(loss)
    n = training_checks.data((x, y))
    x, y = jnp.asarray(x), jnp.asarray(y)
    moments = (
        Metric("output", of_layer=lambda params, seen: _moments(seen.y)),
        Metric("error", of_layer=lambda params, seen: _moments(n * wide(seen.error))),
        Metric("gradient", of_layer=lambda params, seen: _moments(seen.readings) if jax.tree.leaves(params) else None),
    )
    gradient = backprop(measured(net, moments), loss)

    def start(key: Array) -> tuple[Moments, dict[str, dict[str, Moments]]]:
        key_of_params, key = jax.random.split(key)
        params, state = net.init(key_of_params, x)
        return _moments(x), parted(gradient(params, state, (x, y), key)[1])[1]

    keys = jax.random.split(key, checks.count("seeds", seeds))
    of_input, of_layers = jax.tree.map(np.asarray, jax.jit(jax.vmap(start))(keys))
    layers = []
    for layer, output in of_layers["output"].items():
        for copy in np.ndindex(output.mean.shape[1:]):
            gradients = of_layers["gradient"].get(layer)
            layers.append(
                LayerPropagation(
                    layer=f"{layer}{list(copy) if copy else ''}",
                    output=_of_copy(output, copy),
                    error=_of_copy(of_layers["error"][layer], copy),
                    gradient=None if gradients is None else _of_copy(gradients, copy),
                )
            )
    return Propagation(f"{net}, {loss}", of_input, tuple(layers))


def _of_copy(moments: Moments, copy: tuple[int, ...]) -> Moments:
    """The moments [seeds] of one copy within `repeat`, from those of all copies [seeds, …]."""
    return Moments(*(leaf[:, *copy] for leaf in moments))


def _moments(tree: Any) -> Moments:
    numbers = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(wide(tree))])
    return Moments(jnp.mean(numbers), jnp.mean(jnp.square(numbers)), jnp.var(numbers))
