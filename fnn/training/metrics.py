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
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import OwnHelp
from fnn.core.readings import gradient
from fnn.core.types import Array, Batch, Layer, Params, Reading, State, TrainState
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
    - ``of_gradient(params, gradient) -> value``: from a layer's params and the gradient at them, whatever function
      computed it; None leaves the layer out, and copies are as above.
    - ``of_step(step) -> value``: from a `GradientStep`.

    Exactly one of the three is given. Values are pytrees of floats, since `train` averages them. Ready-made metrics are
    in `fnn.training`. ``doc`` is the help of this one metric.
    """

    __doc__ = OwnHelp(__doc__)  # pyright: ignore[reportAssignmentType]
    name: str
    of_layer: Callable[[Params, LayerRecord], Any] | None = None
    of_step: Callable[[GradientStep], Any] | None = None
    doc: str = ""
    of_gradient: Callable[[Params, Params], Any] | None = None

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
    nodes, structure = jax.tree_util.tree_flatten_with_path(readings, is_leaf=_is_measured)
    found = [(jax.tree_util.keystr(path, simple=True, separator="."), node) for path, node in nodes]
    digits = max((len(index) for place, _ in found for index in place.split(".")), default=1)
    values: dict[str, Any] = {}
    for place, node in found:
        place = ".".join(index.zfill(digits) for index in place.split(".")) if place else ""  # sorts in their order
        for name, labelled in node.values.items() if isinstance(node, Measured) else ():
            values.setdefault(name, {}).update({f"{place} {label}".strip(): v for label, v in labelled.items()})
    plain = [node.readings if isinstance(node, Measured) else node for _, node in found]
    return jax.tree.unflatten(structure, plain), values


def values_of_gradient(
    metrics: Sequence[Metric], net: Any, params: Params, state: State, batch: Batch, g: Params
) -> dict[str, Any]:
    """The values {metric: {path and label: value}} of the metrics that see the gradient g at each layer's params."""
    of_gradients = {metric.name: metric.of_gradient for metric in metrics if metric.of_gradient is not None}
    if not of_gradients:
        return {}
    x = batch[0] if isinstance(batch, tuple | list) else batch
    places = _places(net, params, state, x) if isinstance(net, Layer) else _whole()
    structure = jax.tree.structure(places, is_leaf=_is_measured)

    def at(place: Any, w: Params, g: Params) -> Any:
        if not _is_measured(place):
            return place
        ((label, copies),) = place.values[_COPIES].items()
        values: dict[str, dict[str, Any]] = {}
        for name, of_gradient in of_gradients.items():
            for _ in copies.shape:
                of_gradient = _of_copies(of_gradient)
            value = of_gradient(w, g)
            values[name] = {} if value is None else {label: value}
        return Measured((), values)

    parts = map(at, jax.tree.leaves(places, is_leaf=_is_measured), *map(structure.flatten_up_to, (params, g)))
    values = parted(structure.unflatten(parts))[1]
    _metric_values(values)
    return values


_COPIES = "copies"


def _places(net: Layer, params: Params, state: State, x: Any) -> Any:
    """A `Measured` in place of each layer's params, with one number of each of its copies."""
    marked = measured(net, [Metric(_COPIES, of_layer=lambda params, seen: jnp.zeros(()))])

    def readings(params: Params, x: Any) -> Any:
        y, _, tape = marked.forward(params, state, x, jax.random.key(0))
        return marked.backward(params, tape, y, gradient)[1]

    return jax.eval_shape(readings, params, x)


def _whole() -> Measured:
    """All params as those of one layer, where they are of no network."""
    return Measured((), {_COPIES: {"params": jnp.zeros(())}})


def _is_measured(node: Any) -> bool:
    return isinstance(node, Measured)


def _of_copies(of: Callable[[Params, Params], Any]) -> Callable[[Params, Params], Any]:
    """The metric of stacked copies; None stays None, which `jax.vmap` cannot return."""

    def each(params: Params, g: Params) -> Any:
        first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)  # noqa: E731
        return None if of(first(params), first(g)) is None else jax.vmap(of)(params, g)

    return each


def values_of_step(metrics: Sequence[Metric], step: GradientStep) -> dict[str, Any]:
    """The values {metric: value} of the metrics of the whole step."""
    values = {metric.name: metric.of_step(step) for metric in metrics if metric.of_step is not None}
    _metric_values(values)
    return values


def _metric_values(values: dict[str, Any]) -> None:
    """Raise TypeError unless the values are floats, which `train` can average."""
    for name, value in values.items():
        checks.floats("a trainer", f"the metric {name!r}", value)
