"""What a `trainer` tells of each step besides the loss, found in the step's own forward and backward pass.

Ready-made metrics are in `fnn.training.diagnosis`; one of your own is a name and a function.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import dense, linear, train, serial, sgd, squared, tanh, trainer, tree_norm
    >>> from fnn.training import Metric
    >>> error = Metric("error", of_layer=lambda params, seen: tree_norm(seen.error))
    >>> learn = trainer(serial(dense(4, tanh), linear(1)), squared, sgd(0.1), batch_size=8, metrics=[error])
    >>> data = jnp.ones((8, 2)), jnp.ones((8, 1))
    >>> _, metrics = train(learn, learn.init(jax.random.key(0), data), data, steps=20, every=5)
    >>> {layer: norm.shape for layer, norm in metrics["error"].items()}
    {'0 dense(4, tanh)': (4,), '1 linear(1)': (4,)}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from fnn.core import _checks as checks
from fnn.core.types import Array, Batch, Layer, Params, Reading, TrainState
from fnn.nn.surgery import LayerRecord, intercept, map_layers, watch


class GradientStep(NamedTuple):
    """One gradient step, as a `Metric` sees it."""

    before: TrainState
    after: TrainState
    batch: Batch
    gradient: Params
    """of the batch's mean loss, as the optimizer got it"""
    updates: Any
    """what the optimizer added to the params"""


class Metric(NamedTuple):
    """What a `trainer` tells of each step besides the loss: a value at every layer, or one of the whole step.

    - ``of_layer(params, seen) -> value``: from a layer's params and what BackProp sees there, a `LayerRecord`; None
      leaves the layer out. It is found within the one backward pass; in `repeat` every copy has its own, [depth, …].
    - ``of_step(step) -> value``: from a `GradientStep`.

    One of the two is given. Values are pytrees of floats, for `train` takes their means. `fnn.training` has some.
    """

    name: str
    of_layer: Callable[[Params, LayerRecord], Any] | None = None
    of_step: Callable[[GradientStep], Any] | None = None

    def __repr__(self) -> str:
        return self.name


class Measured(NamedTuple):
    """What the backward pass of a `measured` layer gives in place of its readings."""

    readings: Any
    values: dict[str, dict[str, Any]]
    """``{name of the metric: {label of the layer: value}}``"""


def measured(net: Layer, metrics: Sequence[Metric]) -> Layer:
    """The same network, whose backward pass also takes the metrics of its layers; `parted` parts what it gives."""
    of_layers = {metric.name: metric.of_layer for metric in metrics if metric.of_layer is not None}

    def change(layer: Layer) -> Layer:
        def backward(call: Any, params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Measured]:
            error, seen = call(params, tape, error, read)
            found = {name: of_layer(params, seen) for name, of_layer in of_layers.items()}
            values = {name: {str(layer): value} for name, value in found.items() if value is not None}
            _metric_values(values)
            return error, Measured(seen.readings, values)

        return intercept(watch(layer), label=f"measured({layer})", backward=backward)

    return map_layers(change, net) if of_layers else net


def parted(readings: Any) -> tuple[Any, dict[str, Any]]:
    """The readings of a `measured` network as those of the plain one, and {metric: {place and label: value}}."""
    nodes, structure = jax.tree_util.tree_flatten_with_path(readings, is_leaf=lambda n: isinstance(n, Measured))
    found = [(jax.tree_util.keystr(path, simple=True, separator="."), node) for path, node in nodes]
    digits = max((len(index) for place, _ in found for index in place.split(".")), default=1)
    values: dict[str, Any] = {}
    for place, node in found:
        place = ".".join(index.zfill(digits) for index in place.split(".")) if place else ""  # sorted as they stand
        for name, labelled in node.values.items() if isinstance(node, Measured) else ():
            values.setdefault(name, {}).update({f"{place} {label}".strip(): v for label, v in labelled.items()})
    plain = [node.readings if isinstance(node, Measured) else node for _, node in found]
    return jax.tree.unflatten(structure, plain), values


def values_of_step(metrics: Sequence[Metric], step: GradientStep) -> dict[str, Any]:
    """{metric: value} of the metrics that look at the whole step."""
    values = {metric.name: metric.of_step(step) for metric in metrics if metric.of_step is not None}
    _metric_values(values)
    return values


def _metric_values(values: dict[str, Any]) -> None:
    """Values that `train` can average."""
    for name, value in values.items():
        checks.floats("a trainer", f"the metric {name!r}", value)
