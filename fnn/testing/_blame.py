"""Where a wrong or a missing number arises: every layer judged by itself.

Each layer without parts is given the x and the error ε that it meets in the network, and its hand-written backward pass
is set beside `jax.vjp` of its own forward pass. The automatic error goes on to the layer below, so that a layer
is judged on what it does and not on what it was given. If all of these are right, the composites are judged in the
same way, the inner ones first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core.readings import gradient
from fnn.core.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.nn.surgery import drop_records, iter_layers, map_layers


class Judged(NamedTuple):
    """What a layer was given and what it made of it, by hand and automatically."""

    x: Array
    y: Array
    error: Array
    hand: tuple[Array, Any]
    """the error at x, and the readings"""
    automatic: tuple[Array, Any]


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
    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, new_state, tape = layer.forward(params, state, x, key)
        return y, new_state, (state, x, key, y, tape)

    def backward(params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Any]:
        state, x, key, y, inner = tape
        through, readings = layer.backward(params, inner, error, read)
        _, pull = jax.vjp(lambda p, x: layer.forward(p, state, x, key)[0], params, x)
        at_params, at_x = pull(error)
        return at_x, Judged(x, y, error, (through, drop_records(readings)), (at_x, at_params))

    return layer._replace(label=f"judged({layer})", forward=forward, backward=backward, curve=None)


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


def follow_dtype(net: Layer, given: tuple[Params, State, Batch, Array]) -> None:
    """Raises for the first layer that does not compute in the dtype of what it is given."""

    def change(layer: Layer) -> Layer:
        def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
            y, state, tape = layer.forward(params, state, x, key)
            _follows_dtype(layer, x, y)
            return y, state, tape

        return layer._replace(forward=forward)

    params, state, (x, _), key = given
    jax.eval_shape(map_layers(change, net).forward, params, state, x, key)


def culprit(
    net: Layer, loss: Loss, given: tuple[Params, State, Batch, Array], tolerance: float, whose: str, *, not_finite: bool
) -> Culprit | None:
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
        named = [(f"{place} {layer}".strip(), node) for (place, node), layer in zip(nodes, layers, strict=True)]
        if not_finite:
            found = _first_not_finite(given, of_loss, named)
        else:
            found = _worst(loss, of_loss, named, tolerance, whose)
        if found is not None:
            return found
    return None


def _walked(
    view: Layer, loss: Loss, given: tuple[Params, State, Batch, Array]
) -> tuple[tuple[Array, Array, Array], list[tuple[str, Judged]]]:
    """The loss's value, slope and automatic slope, and what was judged, by its place among the params."""

    def walk(params: Params, state: State, batch: Batch, key: Array) -> tuple[Any, Any]:
        x, y = batch
        a, _, tape = view.forward(params, state, x, key)
        slope, slopes = loss.slope(a, y), jax.grad(lambda a: jnp.sum(loss.value(a, y)))(a)
        return (loss.value(a, y), slope, slopes), view.backward(params, tape, slopes / x.shape[0], gradient)[1]

    of_loss, readings = jax.jit(walk)(*given)
    found = jax.tree.leaves_with_path(readings, is_leaf=lambda node: isinstance(node, Judged))
    return of_loss, [(jax.tree_util.keystr(path), node) for path, node in found if isinstance(node, Judged)]


def _worst(
    loss: Loss,
    of_loss: tuple[Array, Array, Array],
    layers: list[tuple[str, Judged]],
    tolerance: float,
    whose: str,
) -> Culprit | None:
    candidates = [Culprit(f"loss {loss}", "slope", "", _relative(*of_loss[1:]))]
    for place, node in layers:
        lead = node.y.ndim - 2
        size = max(
            (float(np.max(_norms(leaf, lead), initial=0)) for leaf in jax.tree.leaves(node.automatic)), default=0
        )
        hand, automatic = ({"error at x": e, "gradient at": g} for e, g in (node.hand, node.automatic))
        for (path, got), want in zip(jax.tree.leaves_with_path(hand), jax.tree.leaves(automatic), strict=True):
            name = jax.tree_util.keystr(path[1:])
            error = _relative(got, want, lead, size / 100)
            candidates.append(Culprit(place, "backward", f"{path[0].key} {name}".strip(), error))
    worst = max(candidates, key=lambda c: np.inf if np.isnan(c.error) else c.error)
    return _in_words(worst, whose) if not worst.error <= tolerance else None


def _in_words(worst: Culprit, whose: str) -> Culprit:
    """Says whose fault it is, as far as that is known."""
    off = f"{worst.finding} off by {worst.error:.1e}".strip()
    if whose == "manual":
        return worst._replace(finding=off)
    if whose == "automatic":
        return worst._replace(stage=f"automatic {worst.stage}", finding=f"{off}, by hand it is right")
    finding = f"{worst.finding} apart by {worst.error:.1e}".strip()
    return worst._replace(stage=f"manual or automatic {worst.stage}", finding=finding)


def _norms(leaf: Array | np.ndarray, lead: int) -> np.ndarray:
    """The norm of what stands behind the leading axes that `repeat` and `grouped` add."""
    return np.linalg.norm(np.asarray(leaf).astype(np.float64).reshape(*leaf.shape[:lead], -1), axis=-1)


def _relative(got: Array, want: Array, lead: int = 0, least: float = 0.0) -> float:
    """The largest ‖got − want‖/max(‖want‖, least) over the leading axes; 0 where both are 0."""
    u, v = (np.asarray(leaf).astype(np.float64) for leaf in (got, want))
    apart, size = _norms(u - v, lead), np.maximum(_norms(want, lead), least)
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.max(np.where(apart == 0, 0, apart / size), initial=0))


def _first_not_finite(
    given: tuple[Params, State, Batch, Array], of_loss: tuple[Array, Array, Array], layers: list[tuple[str, Judged]]
) -> Culprit | None:
    for place, stage, what, tree in _in_order(given, of_loss, layers):
        for path, leaf in jax.tree.leaves_with_path(tree):
            if jnp.issubdtype(leaf.dtype, jnp.inexact) and not jnp.isfinite(leaf).all():
                finding = f"{what} {jax.tree_util.keystr(path)}".strip()
                return Culprit(place, stage, f"{finding} {_broken(leaf)}".strip(), np.nan)
    return None


def _in_order(
    given: tuple[Params, State, Batch, Array], of_loss: tuple[Array, Array, Array], layers: list[tuple[str, Judged]]
) -> Iterator[tuple[str, str, str, Any]]:
    """All that is computed, in the order of computation, as (place, stage, what, tree)."""
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


def _broken(leaf: Array) -> str:
    count = int(jnp.sum(~jnp.isfinite(leaf)))
    kind = "NaN" if bool(jnp.isnan(leaf).any()) else "infinite"
    return f"{kind} in {count} of {leaf.size}"


def _follows_dtype(layer: Any, x: Any, y: Any) -> None:
    """A layer that computes in the dtype of its examples and parameters."""
    if jnp.issubdtype(x.dtype, jnp.floating) and y.dtype != x.dtype:
        raise TypeError(
            f"{layer} does not follow the dtype of x: for {x.dtype} examples and parameters it gives {y.dtype}; let it "
            "compute in x.dtype, whatever that is, for gradients are judged in float64"
        )
