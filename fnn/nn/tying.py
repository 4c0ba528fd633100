"""Weights used in several places of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.core import _checks as checks
from fnn.core._trees import Part, subtree
from fnn.core.readings import Shared, contributions, gathered, is_outer
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn._second_order import is_exact


class TiedTape(NamedTuple):
    """The tape of `tied`: the network's own, and the arguments of its forward pass."""

    tape: Any
    state: State
    x: Array
    key: Array


def tied(net: Layer, places: Mapping[Part, Part]) -> Layer:
    """A network some of whose parts have the weights of others, so that one layer is used in several places.

    A weight w used at several places gets the contributions of all of them, and the sum is read, per example::

        g_n = Σ_u x_un ε_unᵀ             squared_norm: ‖g_n‖², not Σ_u ‖x_un ε_unᵀ‖²; likewise all other readings

    where x_u and ε_u are the input and the error at place u. Readings other than linear ones form g_n [n, i, o] of the
    tied weights. Their second derivatives include all pairs of places and are automatic, at the cost of one second
    directional derivative of the network for each tied parameter; all others are by hand.

    Args:
        net: a network whose params have parts, such as a `serial`, `columns` or `branches`.
        places: maps each place without weights of its own to the place whose weights it uses: ``{2: 0}``, with parts as
            in `mask_of_parts`: ``{(1, "w"): (0, "w")}`` ties the matrices and leaves each bias to itself.

    Returns:
        A layer with the state of `net`, and its params with `()` instead of each tied array. A part with a state, such
        as batch norm, has one for each place.

    Raises:
        TypeError: an argument that is not a layer, or places that are no dict.
        ValueError: in init, a part that the params do not have or that differs from its source in shape; a source that
            is itself tied.

    Example: the same layer three times in a row, and on both halves of the features.
        >>> import jax, jax.numpy as jnp
        >>> from fnn import columns, dense, serial, tanh, tied
        >>> d = dense(4, tanh)
        >>> thrice, twins = tied(serial(d, d, d), {1: 0, 2: 0}), tied(columns((4, d), (4, d)), {1: 0})
        >>> jax.tree.map(jnp.shape, thrice.init(jax.random.key(0), jnp.ones((1, 4)))[0])
        ({'b': (4,), 'w': (4, 4)}, {'b': (), 'w': ()}, {'b': (), 'w': ()})
        >>> jax.tree.map(jnp.shape, twins.init(jax.random.key(0), jnp.ones((1, 8)))[0])
        ({'b': (4,), 'w': (4, 4)}, {'b': (), 'w': ()})
    """
    checks.is_layer("tied", net)
    ties = _ties(places)
    label = f"tied({net}, {dict(places)})"

    sources: dict[Path, list[Path]] = {}
    for place, source in ties.items():
        sources.setdefault(source, []).append(place)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        params, state = net.init(key, x)
        for place, source in ties.items():
            _fits(label, subtree(label, params, place)[1], subtree(label, params, source)[1], place, source)
        return _without(ties, params), state

    def apply(params: Params, state: State, x: Array) -> Array:
        return net.apply(_whole(ties, params), state, x)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, TiedTape]:
        y, after, tape = net.forward(_whole(ties, params), state, x, key)
        return y, after, TiedTape(tape, state, x, key)

    def backward(params: Params, tape: TiedTape, error: Array, read: Reading) -> tuple[Array, Any]:
        through, kept = net.backward(_whole(ties, params), tape.tape, error, read if read.linear else contributions)
        add = jnp.add if read.linear else _sum_per_example
        uses = {source: [_at(kept, use) for use in (source, *places)] for source, places in sources.items()}
        sums = {source: reduce(partial(_each, add), readings) for source, readings in uses.items()}
        together = _without(ties, _with(kept, sums))
        return through, together if read.linear else _each(partial(gathered, read), together)

    def curve(params: Params, tape: TiedTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        through, below, readings = checks.curve_of(net)(_whole(ties, params), tape.tape, error, c, read)

        def output(shared: dict[Path, Params]) -> Array:
            return net.forward(_whole(ties, _with(params, shared)), tape.state, tape.x, tape.key)[0]

        bent = _second_derivatives(output, {source: _at(params, source) for source in sources}, error, c)
        rows = {
            source: _each(lambda _, rows: read.rows(rows), _at(readings, source), bent[source]) for source in sources
        }
        return through, below, _without(ties, _with(readings, rows))

    return Layer(
        label=label,
        init=init,
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
        children=(net,),
        with_children=lambda part: tied(part, places),
    )


def _second_derivatives(output: Callable[[Params], Array], at: Params, error: Array, c: Array) -> Any:
    """∂²L_n/∂p² [n, …] of every example n at params, for the error and the curvature at the output a(p).

    L_n is e·a + ½(a − a₀)ᵀc(a − a₀), whose derivatives at a = a₀ are the given ones; along each unit vector it is
    differentiated twice.
    """
    flat, unravel = ravel_pytree(at)
    first = output(at)

    def losses(p: Array) -> Array:
        a = output(unravel(p))
        moved = a - first
        bend = jnp.einsum("no,nop,np->n", moved, c, moved) if is_exact(c) else jnp.sum(c * moved * moved, axis=1)
        return jnp.sum(error * a, axis=1) + 0.5 * bend

    def along(unit: Array) -> Array:
        slope = lambda p: jax.jvp(losses, (p,), (unit,))[1]  # noqa: E731
        return jax.jvp(slope, (flat,), (unit,))[1]

    return jax.vmap(unravel)(jax.lax.map(along, jnp.eye(flat.size, dtype=flat.dtype), batch_size=_AT_ONCE).T)


_AT_ONCE = 32
"""parameters along which `_second_derivatives` differentiates at a time"""


def _sum_per_example(there: Any, here: Any) -> Array:
    """The sum of two contributions to a parameter, explicit, [n, …]."""
    return _explicit(there) + _explicit(here)


def _explicit(kept: Any) -> Array:
    """The contributions to a weight matrix as matrices [n, …, i, o]; others are rows already."""
    if isinstance(kept, Shared):
        return jnp.einsum("...pi,...po->...io", kept.x, kept.error)
    return kept.x[..., :, None] * kept.error[..., None, :] if is_outer(kept) else kept


def _each(change: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """A function of each leaf, or contribution, of trees; the records around readings stay those of the first tree."""

    def of(node: Any, *nodes: Any) -> Any:
        if not _is_record(node):
            return change(node, *nodes)
        return node._replace(readings=_each(change, node.readings, *map(_own, nodes)))

    return jax.tree.map(of, tree, *others, is_leaf=lambda node: is_outer(node) or _is_record(node))


def _is_record(node: Any) -> bool:
    """Whether a node stands in the place of a layer's readings, as a `LayerRecord` does, and has them within."""
    return hasattr(node, "readings")


def _own(node: Any) -> Any:
    """The readings at a node."""
    return node.readings if _is_record(node) else node


Path = tuple[Any, ...]


def _at(tree: Any, path: Path) -> Any:
    """The subtree at a path, which leads through records."""
    return _at(_own(tree)[path[0]], path[1:]) if path else tree


def _with(tree: Any, new: Mapping[Path, Any]) -> Any:
    """The tree with other subtrees at some paths, which lead through records."""
    if () in new:
        return new[()]
    if _is_record(tree):
        return tree._replace(readings=_with(tree.readings, new))
    below: dict[Any, dict[Path, Any]] = {}
    for path, part in new.items():
        below.setdefault(path[0], {})[path[1:]] = part
    if isinstance(tree, dict):
        return tree | {key: _with(tree[key], parts) for key, parts in below.items()}
    return tuple(_with(part, below[i]) if i in below else part for i, part in enumerate(tree))


def _whole(ties: Mapping[Path, Path], params: Params) -> Params:
    """The params with those of each source at its places too."""
    return _with(params, {place: _at(params, source) for place, source in ties.items()})


def _without(ties: Mapping[Path, Path], tree: Any) -> Any:
    """A tree with `()` instead of each leaf at the places."""
    return _with(tree, {place: _each(lambda leaf: (), _at(tree, place)) for place in ties})


def _ties(places: Any) -> dict[Path, Path]:
    """The paths of places and their sources; raises unless every source has weights of its own."""
    if not isinstance(places, Mapping) or not places:
        raise TypeError(f"tied: expected a dict from places to sources, got {checks.shown(places)}. Write {{1: 0}}.")
    ties = {_path(place): _path(source) for place, source in places.items()}
    for source in ties.values():
        for place in ties:
            if source[: len(place)] == place or place[: len(source)] == source:
                raise ValueError(
                    f"tied: expected sources with weights of their own, got {_named(source)}, which is tied itself or "
                    "overlaps a tied place. Name one place as the source of all others."
                )
    return ties


def _path(part: Any) -> Path:
    """The path of a part, counted from the front."""
    path = part if isinstance(part, tuple) else (part,)
    if not path or not all(isinstance(key, str) or (type(key) is int and key >= 0) for key in path):
        raise TypeError(
            f"tied: expected parts as indices, counted from 0, and keys, got {checks.shown(part)}. Write 0 or (1, 'w')."
        )
    return path


def _named(path: Path) -> str:
    return ".".join(map(str, path))


def _fits(label: str, here: Params, there: Params, place: Path, source: Path) -> None:
    """Raise ValueError unless the params at a place and at its source have the same structure, shapes and dtypes."""
    shown = [jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", params) for params in (here, there)]
    if shown[0] != shown[1] or not jax.tree.leaves(here):
        raise ValueError(
            f"{label}: expected the same weights at {_named(place)} as at its source {_named(source)}, got {shown[0]} "
            f"and {shown[1]}. Tie layers of the same widths."
        )
