"""Where a wrong or a missing number arises: every layer judged by itself, by the laws of its backward pass.

Each layer without parts is given the x and the error ε that it meets in the network, and its hand-written backward pass
is set beside `jax.vjp` of its own forward pass, as `check_layer` does it. The automatic error goes on to the layer
below, so that a layer is judged on what it does and not on what it was given. If all of these are right, the
composites are judged in the same way, the inner ones first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core.batches import supervised
from fnn.core.readings import gradient
from fnn.core.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.nn.surgery import intercept, iter_layers, map_layers
from fnn.testing._subject import Subject
from fnn.testing._trees import named, norm_of_all, numbers, relative_error

Given = tuple[Params, State, Batch, Array]

LEAST = 1e-2
"""The part of all numbers of a layer's backward pass that each leaf is measured by at least."""


class Judged(NamedTuple):
    """The output of a layer and of its backward passes, by hand and automatic, each (error at x, readings)."""

    y: Array
    hand: tuple[Array, Any]
    automatic: tuple[Array, Any]
    copies: Array
    """one number, of which `repeat` and `grouped` stack as many as there are copies of the layer"""


class OfLoss(NamedTuple):
    """The values of a loss and its slopes."""

    value: Array
    slope: Array
    automatic: Array


class Culprit(NamedTuple):
    """Where a fault arises."""

    place: str
    """a layer, by its place among the params and its label, or the loss"""
    stage: str
    """forward, backward, slope, …; "automatic backward" where it is the automatic one that is wrong"""
    finding: str
    """what is wrong there, in words"""
    error: float
    """relative error; NaN for numbers that are not finite"""

    def __str__(self) -> str:
        return f"{self.place}, {self.stage}: {self.finding}"


def _judged(layer: Layer) -> Layer:
    def forward(call: Any, params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, after, _ = call(params, state, x, key)
        return y, after, (state, x, key)

    def backward(call: Any, params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Judged]:
        s = Subject(layer, params, *tape)
        automatic = s.pulled_by_jax(error)
        return automatic[0], Judged(s.forward[0], s.pulled(error), automatic, jnp.zeros((), error.dtype))

    return intercept(layer, forward=forward, backward=backward)


def _views(net: Layer) -> Iterator[tuple[Layer, list[Layer]]]:
    """The network with some of its layers judged, and which these are: all parts, and then each composite."""
    yield map_layers(_judged, net), list(iter_layers(net))
    for view, composite in _of_composites(net):
        yield view, [composite]


def _of_composites(layer: Layer) -> Iterator[tuple[Layer, Layer]]:
    if layer.with_children is None:
        return
    for i, part in enumerate(layer.children):
        for view, composite in _of_composites(part):
            yield layer.with_children(*layer.children[:i], view, *layer.children[i + 1 :]), composite
    yield _judged(layer), layer


def follow_dtype(net: Layer, given: Given) -> None:
    """Raise for the first layer that does not compute in the dtype of what it is given."""

    def change(layer: Layer) -> Layer:
        def forward(call: Any, params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
            y, state, tape = call(params, state, x, key)
            if jnp.issubdtype(x.dtype, jnp.floating) and y.dtype != x.dtype:
                raise TypeError(
                    f"{layer} does not follow the dtype of x: for {x.dtype} examples and parameters it gives "
                    f"{y.dtype}; let it compute in x.dtype, whatever that is, for gradients are judged in float64"
                )
            return y, state, tape

        return intercept(layer, forward=forward)

    params, state, (x, *_), key = given
    jax.eval_shape(map_layers(change, net).forward, params, state, x, key)


def culprit(net: Layer, loss: Loss, given: Given, tolerance: float, whose: str, *, not_finite: bool) -> Culprit | None:
    """The layer at fault, or the loss; None if each is right by itself.

    Args:
        net: a layer.
        loss: a loss.
        given: float64 arguments of its gradient.
        tolerance: relative error from which a layer is wrong.
        whose: which of the two is wrong, "manual" or "automatic", or "" where that is not known.
        not_finite: look for the first number that is NaN or infinite, in the order of computation; else for the
            largest error.

    Returns:
        A `Culprit`, or None.
    """
    for view, layers in _views(net):
        of_loss, nodes = _walked(view, loss, given)
        placed = [(f"{place} {layer}".strip(), node) for (place, node), layer in zip(nodes, layers, strict=True)]
        if not_finite:
            found = _first_not_finite(given, of_loss, placed)
        else:
            found = _worst(loss, of_loss, placed, tolerance, whose)
        if found is not None:
            return found
    return None


def _walked(view: Layer, loss: Loss, given: Given) -> tuple[OfLoss, list[tuple[str, Judged]]]:
    """The loss and the judged layers, by their places among the params."""

    def walk(params: Params, state: State, batch: Batch, key: Array) -> tuple[Any, Any]:
        x, y, _, _ = examples = supervised(batch, loss)
        a, _, tape = view.forward(params, state, x, key)
        slopes = jax.grad(lambda a: jnp.sum(loss.value(a, y)))(a)
        readings = view.backward(params, tape, examples.scaled(slopes, gradient), gradient)[1]
        return OfLoss(loss.value(a, y), loss.slope(a, y), slopes), readings

    of_loss, readings = jax.jit(walk)(*given)
    nodes = jax.tree.leaves_with_path(readings, is_leaf=lambda node: isinstance(node, Judged))
    return of_loss, [(jax.tree_util.keystr(path), node) for path, node in nodes if isinstance(node, Judged)]


def _worst(
    loss: Loss, of_loss: OfLoss, layers: list[tuple[str, Judged]], tolerance: float, whose: str
) -> Culprit | None:
    """The layer, or the loss, with the largest error, where that is above the tolerance."""
    slope = relative_error(numbers(of_loss.slope), numbers(of_loss.automatic))
    candidates = [Culprit(f"loss {loss}", "slope", "", slope)]
    for place, node in layers:
        candidates += [Culprit(place, "backward", where, error) for where, error in _errors(node).items()]
    worst = max(candidates, key=lambda c: np.inf if np.isnan(c.error) else c.error)
    return _in_words(worst, whose) if not worst.error <= tolerance else None


def _errors(node: Judged) -> dict[str, float]:
    """The relative error of every leaf of a backward pass, the largest of all copies of `repeat` and `grouped`."""
    lead = node.copies.shape
    pairs = {
        named(f"{name} ", keys).strip(): (numbers(u).reshape(*lead, -1), numbers(v).reshape(*lead, -1))
        for name, i in (("error at x", 0), ("gradient at", 1))
        for (keys, u), v in zip(
            jax.tree.leaves_with_path(node.hand[i]), jax.tree.leaves(node.automatic[i]), strict=True
        )
    }
    found = dict.fromkeys(pairs, 0.0)
    for copy in np.ndindex(lead):
        least = LEAST * norm_of_all([v[copy] for _, v in pairs.values()])
        for where, (u, v) in pairs.items():
            found[where] = float(np.maximum(found[where], relative_error(u[copy], v[copy], least)))
    return found


def _in_words(worst: Culprit, whose: str) -> Culprit:
    """The culprit and whose fault it is, as far as that is known."""
    off = f"{worst.finding} off by {worst.error:.1e}".strip()
    if whose == "manual":
        return worst._replace(finding=off)
    if whose == "automatic":
        return worst._replace(stage=f"automatic {worst.stage}", finding=f"{off}, by hand it is right")
    finding = f"{worst.finding} apart by {worst.error:.1e}".strip()
    return worst._replace(stage=f"manual or automatic {worst.stage}", finding=finding)


def _first_not_finite(given: Given, of_loss: OfLoss, layers: list[tuple[str, Judged]]) -> Culprit | None:
    for place, stage, what, tree in _in_order(given, of_loss, layers):
        for path, leaf in jax.tree.leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not jnp.isfinite(leaf).all():
                finding = f"{what} {jax.tree_util.keystr(path)}".strip()
                count = int(jnp.sum(~jnp.isfinite(leaf)))
                kind = "NaN" if bool(jnp.isnan(leaf).any()) else "infinite"
                return Culprit(place, stage, f"{finding} {kind} in {count} of {leaf.size}".strip(), np.nan)
    return None


def _in_order(given: Given, of_loss: OfLoss, layers: list[tuple[str, Judged]]) -> Iterator[tuple[str, str, str, Any]]:
    """All numbers in the order of computation, as (place, stage, what, tree)."""
    params, state, batch, _ = given
    yield from (("params", "given", "", params), ("state", "given", "", state), ("batch", "given", "", batch))
    for place, node in layers:
        yield place, "forward", "output", node.y
    for stage, array in zip(("value", "slope", "automatic slope"), of_loss, strict=True):
        yield "loss", stage, "", array
    for place, node in reversed(layers):
        for stage, (through, gradients) in (("backward", node.hand), ("automatic backward", node.automatic)):
            yield place, stage, "error at x", through
            yield place, stage, "gradient", gradients
