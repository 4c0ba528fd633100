"""Metrics that a `trainer` reports besides the loss, computed in the step's own forward and backward pass.

Ready-made metrics are in `fnn.training.diagnosis`; a custom metric is a name and a function.

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
from fnn.core._labels import OwnHelp
from fnn.core.types import Array, Batch, Layer, Params, Reading, TrainState
from fnn.nn.surgery import LayerRecord, intercept, map_layers, watch


class GradientStep(NamedTuple):
    """One gradient step, the argument of a metric's `of_step`."""

    before: TrainState
    after: TrainState
    batch: Batch
    gradient: Params
    """of the batch's mean loss, as passed to the optimizer"""
    updates: Any
    """the optimizer's updates, added to the params"""


class Metric(NamedTuple):
    """A value that a `trainer` reports besides the loss: one for every layer, or one for the whole step.

    - ``of_layer(params, seen) -> value``: from a layer's params and its `LayerRecord` of the backward pass; None leaves
      the layer out. It is computed within the one backward pass; in `repeat` every copy has its own, [depth, …].
    - ``of_step(step) -> value``: from a `GradientStep`.

    Exactly one of the two is given. Values are pytrees of floats, since `train` averages them. Ready-made metrics are
    in `fnn.training`. ``doc`` is the help of this one metric.
    """

    __doc__ = OwnHelp(__doc__)  # pyright: ignore[reportAssignmentType]
    name: str
    of_layer: Callable[[Params, LayerRecord], Any] | None = None
    of_step: Callable[[GradientStep], Any] | None = None
    doc: str = ""

    def __repr__(self) -> str:
        return self.name


class Measured(NamedTuple):
    """The readings of a `measured` layer together with its metrics, returned in place of its readings."""

    readings: Any
    values: dict[str, dict[str, Any]]
    """``{name of the metric: {label of the layer: value}}``"""


def measured(net: Layer, metrics: Sequence[Metric]) -> Layer:
    """The same network, whose backward pass also computes the metrics of its layers; `parted` separates the two."""
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
    """The readings of a `measured` network in the structure of the plain one, and {metric: {path and label: value}}."""
    nodes, structure = jax.tree_util.tree_flatten_with_path(readings, is_leaf=lambda n: isinstance(n, Measured))
    found = [(jax.tree_util.keystr(path, simple=True, separator="."), node) for path, node in nodes]
    digits = max((len(index) for place, _ in found for index in place.split(".")), default=1)
    values: dict[str, Any] = {}
    for place, node in found:
        place = ".".join(index.zfill(digits) for index in place.split(".")) if place else ""  # sorts in their order
        for name, labelled in node.values.items() if isinstance(node, Measured) else ():
            values.setdefault(name, {}).update({f"{place} {label}".strip(): v for label, v in labelled.items()})
    plain = [node.readings if isinstance(node, Measured) else node for _, node in found]
    return jax.tree.unflatten(structure, plain), values


def values_of_step(metrics: Sequence[Metric], step: GradientStep) -> dict[str, Any]:
    """The values {metric: value} of the metrics of the whole step."""
    values = {metric.name: metric.of_step(step) for metric in metrics if metric.of_step is not None}
    _metric_values(values)
    return values


def _metric_values(values: dict[str, Any]) -> None:
    """Raise TypeError unless the values are floats, which `train` can average."""
    for name, value in values.items():
        checks.floats("a trainer", f"the metric {name!r}", value)
