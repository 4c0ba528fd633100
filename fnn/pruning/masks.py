"""Masks of links, the removal of the least salient ones, and optimizers that keep removed links at 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import wide
from fnn.core.types import Array, Optimizer, Params, TrainState
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._protocol import updated
from fnn.optimizers.masks import Mask, weights_only
from fnn.pruning import _checks as pruning_checks

Links = Any
"""A pytree of bool arrays in the shapes of the params: True for the remaining links."""


class SparseState(NamedTuple):
    """The state of `sparse`."""

    links: Links
    """the remaining links"""
    inner: Any
    """the state of the wrapped optimizer"""


def all_links(params: Params) -> Links:
    """The masks of a network from which nothing has been removed."""
    return jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)


def share_left(links: Links, prunable: Mask = weights_only) -> Array:
    """The fraction of the prunable links that is left, a scalar in [0, 1].

    Args:
        links: masks.
        prunable: a pytree of bools, or a function from params to one; weights but not biases by default.
    """
    chosen = chosen_leaves(links, links, prunable)
    return jnp.mean(jnp.concatenate([leaf.ravel() for leaf in chosen]))


def remove_least(
    saliency: Any, links: Links, amount: Any, *, scope: str = "layer", prunable: Mask = weights_only
) -> Links:
    """The masks without the least salient links.

    Args:
        saliency: values in the shapes of the params; those of removed links are ignored.
        links: the current masks.
        amount: number of links to remove: a whole number, or a fraction in [0, 1) of those left, rounded. May be
            traced.
        scope: "layer" removes the amount from every layer (of a `repeat`, from every copy), whose prunable leaves are
            ranked together; "global" removes it from all layers together.
        prunable: a pytree of bools, or a function from params to one. By default weights but not biases, unlike the
            slide, where w_0h is a link of its layer like the others; `weights_and_biases` follows the slide.

    Returns:
        New masks with exactly the amount removed, or all links if fewer are left. Links of infinite saliency are
        removed last, those of NaN after them.

    Raises:
        ValueError: a saliency of a remaining link is NaN, unless it is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.pruning import all_links, remove_least
        >>> saliency = {"w": jnp.array([[3.0, 1.0], [2.0, 4.0]]), "b": jnp.zeros(2)}
        >>> print(remove_least(saliency, all_links(saliency), 2)["w"])
        [[ True False]
         [False  True]]
    """
    checks.same_structure("remove_least", "saliency", saliency, "links", links)
    pruning_checks.amount(amount)
    pruning_checks.scope(scope)
    flags = flags_of(links, prunable)
    pruning_checks.no_nan("remove_least", saliency, links, flags)
    values = jax.tree.leaves(saliency)
    leaves = jax.tree.leaves(links)
    new = list(leaves)
    for (copies, _), members in _groups(links, jax.tree.leaves(flags), scope).items():
        s, left = (jnp.concatenate([of[i].reshape(copies, -1) for i in members], axis=1) for of in (values, leaves))
        after = jax.vmap(lambda s, left: without_least(s, left, amount))(s, left)
        ends = np.cumsum([leaves[i].size // copies for i in members])[:-1].tolist()
        for i, part in zip(members, jnp.split(after, ends, axis=1), strict=True):
            new[i] = part.reshape(leaves[i].shape)
    return jax.tree.unflatten(jax.tree.structure(links), new)


def _groups(links: Links, flags: list[bool], scope: str) -> dict[tuple[int, Any], list[int]]:
    """The indices of the chosen leaves that are ranked together, by (copies, layer).

    The leaves of a layer are those of one dict, {"w": …, "b": …}. In a `repeat` w is [copies, i, o] and b [copies, o],
    so the copies are counted by the axes before the last two of w.
    """
    if scope == "global":
        return {(1, None): [k for k, flag in enumerate(flags) if flag]}
    of_layer: dict[Any, list[tuple[int, Any, tuple]]] = {}
    for k, (path, leaf) in enumerate(jax.tree.leaves_with_path(links)):
        layer = path[:-1] if path and isinstance(path[-1], DictKey) else path
        of_layer.setdefault(layer, []).append((k, path, leaf.shape))
    groups: dict[tuple[int, Any], list[int]] = {}
    for layer, members in of_layer.items():
        stacked = max((shape[:-2] for _, _, shape in members), key=len)
        for k, path, shape in members:
            alike = shape[: len(stacked)] == stacked
            if flags[k]:
                name = (math.prod(stacked), layer) if alike else (math.prod(shape[:-2]), path)
                groups.setdefault(name, []).append(k)
    return groups


def without_least(saliency: Array, left: Array, amount: Any) -> Array:
    """A vector of links without the least salient; removed links are ranked behind all remaining ones."""
    number = jnp.asarray(amount)
    if jnp.issubdtype(number.dtype, jnp.floating):
        fraction = wide(number)
        number = jnp.round(fraction * jnp.sum(left).astype(fraction.dtype))
    order = jnp.lexsort((saliency, ~left))
    rank = jnp.zeros(left.shape, int).at[order].set(jnp.arange(left.size))
    return left & (rank >= number.astype(int))


def weights_and_biases(params: Params) -> Mask:
    """The mask that is True for the leaves named "w" and "b" and False for all others, as a `prunable`.

    The slide's links are w_kh with k = 0 … H, so w_0h = −b_h is a link of its layer and is ranked with the others.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.pruning import all_links, remove_least, weights_and_biases
        >>> saliency = {"w": jnp.array([[3.0, 1.0], [2.0, 4.0]]), "b": jnp.array([0.5, 2.5])}
        >>> links = remove_least(saliency, all_links(saliency), 2, prunable=weights_and_biases)
        >>> print(links["b"], links["w"][0])
        [False  True] [ True False]
    """
    named = lambda path, leaf: bool(path) and getattr(path[-1], "key", None) in ("w", "b")  # noqa: E731
    return jax.tree.map_with_path(named, params)


def flags_of(links: Links, prunable: Mask) -> Any:
    """The mask of leaves given by a pytree of bools or a function from params, with at least one True."""
    flags = prunable(links) if callable(prunable) else prunable
    optimizers_checks.is_mask("prunable", flags, links)
    _some_prunable(flags)
    return flags


def chosen_leaves(tree: Any, links: Links, prunable: Mask) -> list[Array]:
    """The leaves of a tree for which the mask of leaves is True."""
    flags = jax.tree.leaves(flags_of(links, prunable))
    return [leaf for leaf, flag in zip(jax.tree.leaves(tree), flags, strict=True) if flag]


def sparse(optimizer: Any) -> Optimizer:
    """An optimizer whose removed links get no gradient and are exactly 0 after every step.

    Links are removed by `remove_links`: the masks are data in the optimizer's state, so a removal does not recompile.

    Args:
        optimizer: a pair with ``init`` and ``update``, fnn's or optax's; a whole `chain`, so that no L2 or momentum
            in it can move a removed link.

    Example:
        >>> from fnn import adam, chain, l2
        >>> sparse(chain(l2(1e-4), adam(0.01)))
        sparse(chain(l2(0.0001), adam(0.01)))
    """
    checks.is_optimizer("sparse", optimizer)

    def init(params: Params) -> SparseState:
        return SparseState(all_links(params), optimizer.init(params))

    def update(gradient: Params, state: SparseState, params: Params = None, **extra: Any) -> tuple[Any, SparseState]:
        optimizers_checks.is_state("sparse", state, SparseState)
        optimizers_checks.needs_params("sparse", params)
        updates, inner = updated(optimizer, _where(state.links, gradient), state.inner, params, extra)
        kept_or_back = lambda left, u, w: jnp.where(left, u, -w.astype(u.dtype))  # noqa: E731
        return jax.tree.map(kept_or_back, state.links, updates, params), SparseState(state.links, inner)

    takes, steps = checks.role(optimizer)
    return Optimizer(init=init, update=update, label=call_repr("sparse", optimizer), takes=takes, steps=steps)


def remove_links(state: TrainState, links: Links) -> TrainState:
    """A train state without the links whose mask is False.

    They are set to 0, and so is the optimizer's memory of them, such as their velocity, even if `masked` or an optax
    mask restricts that memory to some leaves. `sparse` then keeps them at 0. Applied to an initial state, the pruned
    network is trained from scratch.

    Args:
        state: of a run whose trainer has ``optimizer=sparse(…)``.
        links: masks in the shapes of the params.

    Raises:
        ValueError: an optimizer without `sparse`; masks in other shapes than the params.
    """
    checks.same_structure("remove_links", "links", links, "params", state.params)
    params, layout = jax.tree.flatten(state.params, is_leaf=_is_empty)
    masks = jax.tree.leaves(links, is_leaf=_is_empty)

    def like_params(node: Any) -> bool:
        """Whether a node is a tree of floats in the structure of the params, possibly without some leaves."""
        leaves, structure = jax.tree.flatten(node, is_leaf=_is_empty)
        return structure == layout and not all(map(_is_empty, leaves)) and all(map(_is_beside, leaves, params))

    def at_leaves(change: Callable[[Array, Any], Any], node: Any) -> Any:
        leaves, structure = jax.tree.flatten(node, is_leaf=_is_empty)
        new = [leaf if _is_empty(leaf) else change(left, leaf) for left, leaf in zip(masks, leaves, strict=True)]
        return jax.tree.unflatten(structure, new)

    def without(node: Any) -> Any:
        return at_leaves(_where, node) if like_params(node) else node

    def pruned(node: Any) -> Any:
        if not isinstance(node, SparseState):
            return node
        left = at_leaves(lambda left, _: left, node.links)
        return SparseState(left, jax.tree.map(without, node.inner, is_leaf=like_params))

    is_sparse = lambda node: isinstance(node, SparseState)  # noqa: E731
    _has_sparse(any(map(is_sparse, jax.tree.leaves(state.optimizer_state, is_leaf=is_sparse))))
    optimizer_state = jax.tree.map(pruned, state.optimizer_state, is_leaf=is_sparse)
    return state._replace(params=_where(links, state.params), optimizer_state=optimizer_state)


def _is_empty(node: Any) -> bool:
    """Whether a node has no children: `()`, or the placeholder of a masked leaf, such as None under `masked`."""
    structure = jax.tree.structure(node)
    return structure.num_leaves == 0 and structure.num_nodes == 1


def _is_beside(leaf: Any, param: Any) -> bool:
    """Whether a leaf is masked out, or is of floats in the shape of the param."""
    if _is_empty(leaf):
        return True
    return not _is_empty(param) and jnp.shape(leaf) == jnp.shape(param) and jnp.issubdtype(leaf.dtype, jnp.floating)


def _where(links: Links, tree: Any) -> Any:
    return jax.tree.map(lambda left, leaf: jnp.where(left, leaf, jnp.zeros_like(leaf)), links, tree)


def _some_prunable(flags: Any) -> None:
    """Raise ValueError unless at least one leaf may be pruned."""
    if not any(jax.tree.leaves(flags)):
        raise ValueError(
            "prunable: expected a mask that chooses at least one leaf of the params, got one that chooses none. Choose "
            "some, such as the leaves named w (weights_only)."
        )


def _has_sparse(found: bool) -> None:
    """Raise ValueError unless the run's optimizer keeps removed links at 0."""
    if not found:
        raise ValueError(
            "remove_links: expected a run whose optimizer is sparse, got one under which removed links would grow "
            "again. Make its trainer with optimizer=sparse(...)."
        )
