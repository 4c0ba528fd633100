"""Which links are left: masks, the least salient removed, and optimizers under which removed links stay at 0."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.checks import pruned as more_checks
from fnn.optimizers import weights_only
from fnn.optimizers.transforms import Mask
from fnn.types import Array, Optimizer, Params, TrainState, written

Links = Any
"""A pytree of bool arrays in the shapes of the params: True where a link is left."""


class SparseState(NamedTuple):
    """The state of `sparse`."""

    links: Links
    """which are left"""
    inner: Any
    """the state of the optimizer within"""


def all_links(params: Params) -> Links:
    """The masks of a network from which nothing has been removed."""
    return jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)


def share_left(links: Links, prunable: Mask = weights_only) -> Array:
    """The share of the prunable links that is left, a scalar in [0, 1].

    Args:
        links: masks.
        prunable: a pytree of bools, or a function from params to one; weights but not biases by default.
    """
    chosen = _chosen(links, links, prunable)
    return jnp.mean(jnp.concatenate([leaf.ravel() for leaf in chosen]))


def remove_least(
    saliency: Any, links: Links, amount: Any, *, scope: str = "layer", prunable: Mask = weights_only
) -> Links:
    """The masks without the least salient links.

    Args:
        saliency: values in the shapes of the params; of links that are gone they do not count.
        links: the masks so far.
        amount: how many to remove: a whole number, or a fraction in [0, 1) of those left, rounded. May be traced.
        scope: "layer" takes the amount from every weight matrix (of a `repeat`, from every copy's); "global"
            takes it from all of them together.
        prunable: a pytree of bools, or a function from params to one; weights but not biases by default.

    Returns:
        New masks; where fewer are left than the amount, none.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.pruning import all_links, remove_least
        >>> saliency = {"w": jnp.array([[3.0, 1.0], [2.0, 4.0]]), "b": jnp.zeros(2)}
        >>> print(remove_least(saliency, all_links(saliency), 2)["w"])
        [[ True False]
         [False  True]]
    """
    checks.same_structure("remove_least", "saliency", saliency, "links", links)
    more_checks.amount(amount)
    more_checks.scope(scope)
    flags = _flags(links, prunable)
    if scope == "layer":
        return jax.tree.map(lambda s, left, flag: _of_matrix(s, left, amount) if flag else left, saliency, links, flags)
    chosen = _chosen(links, links, prunable)
    flat = _remaining(
        jnp.concatenate([s.ravel() for s in _chosen(saliency, links, prunable)]),
        jnp.concatenate([left.ravel() for left in chosen]),
        amount,
    )
    ends = [sum(leaf.size for leaf in chosen[: i + 1]) for i in range(len(chosen) - 1)]
    parts = iter(jnp.split(flat, ends))
    return jax.tree.map(lambda left, flag: next(parts).reshape(left.shape) if flag else left, links, flags)


def _of_matrix(saliency: Array, left: Array, amount: Any) -> Array:
    """What is left of one leaf: matrices [i, o] each by itself, a vector as a whole."""
    matrices = (-1, saliency.shape[-2] * saliency.shape[-1]) if saliency.ndim > 2 else (1, -1)
    new = jax.vmap(lambda s, left: _remaining(s, left, amount))(saliency.reshape(matrices), left.reshape(matrices))
    return new.reshape(left.shape)


def _remaining(saliency: Array, left: Array, amount: Any) -> Array:
    """Rank a vector of links, those that are gone last, and remove the first."""
    number = jnp.asarray(amount)
    if jnp.issubdtype(number.dtype, jnp.floating):
        number = jnp.round(number * jnp.sum(left).astype(number.dtype)).astype(int)
    order = jnp.argsort(jnp.where(left, saliency, jnp.inf))
    rank = jnp.zeros(left.shape, int).at[order].set(jnp.arange(left.size))
    return left & (rank >= number)


def _flags(links: Links, prunable: Mask) -> Any:
    flags = prunable(links) if callable(prunable) else prunable
    checks.is_mask("prunable", flags, links)
    more_checks.some_prunable(flags)
    return flags


def _chosen(tree: Any, links: Links, prunable: Mask) -> list[Array]:
    flags = jax.tree.leaves(_flags(links, prunable))
    return [leaf for leaf, flag in zip(jax.tree.leaves(tree), flags, strict=True) if flag]


def sparse(optimizer: Any) -> Optimizer:
    """Any optimizer, but links that are removed get no gradient and are exactly 0 after every step.

    Removing is done by `remove_links`: the masks are data in the optimizer's state, so removing recompiles nothing.

    Args:
        optimizer: a pair with ``init`` and ``update``, fnn's or optax's; a whole `chain`, so that L2 or momentum
            within it cannot move a removed link.

    Example:
        >>> from fnn import adam, chain, l2
        >>> sparse(chain(l2(1e-4), adam(0.01)))
        sparse(chain(l2(0.0001), adam(0.01)))
    """
    checks.is_optimizer("sparse", optimizer)

    def init(params: Params) -> SparseState:
        return SparseState(all_links(params), optimizer.init(params))

    def update(gradient: Params, state: SparseState, params: Params = None) -> tuple[Any, SparseState]:
        checks.is_state("sparse", state, SparseState)
        checks.needs_params("sparse", params)
        updates, inner = optimizer.update(_where(state.links, gradient), state.inner, params)
        kept_or_back = lambda left, u, w: jnp.where(left, u, -w.astype(u.dtype))  # noqa: E731
        return jax.tree.map(kept_or_back, state.links, updates, params), SparseState(state.links, inner)

    return Optimizer(init, update, written("sparse", optimizer), *checks.role(optimizer))


def remove_links(state: TrainState, links: Links) -> TrainState:
    """A run that goes on without the links whose mask is False.

    They are set to 0, and so is what the optimizer remembers of them, such as their velocity; its `sparse` keeps
    them there. Given the state of a fresh run, it trains the pruned network from the start.

    Args:
        state: of a run whose trainer has ``optimizer=sparse(…)``.
        links: masks in the shapes of the params.

    Raises:
        ValueError: an optimizer without `sparse`; masks of other shapes than the params'.
    """
    checks.same_structure("remove_links", "links", links, "params", state.params)
    shapes = jax.tree.map(jnp.shape, state.params)

    def like_params(node: Any) -> bool:
        return jax.tree.structure(node) == jax.tree.structure(state.params) and jax.tree.map(jnp.shape, node) == shapes

    def without(node: Any) -> Any:
        return _where(links, node) if like_params(node) else node

    def masked(node: Any) -> Any:
        if not isinstance(node, SparseState):
            return node
        return SparseState(links, jax.tree.map(without, node.inner, is_leaf=like_params))

    is_sparse = lambda node: isinstance(node, SparseState)  # noqa: E731
    more_checks.has_sparse(any(map(is_sparse, jax.tree.leaves(state.optimizer_state, is_leaf=is_sparse))))
    optimizer_state = jax.tree.map(masked, state.optimizer_state, is_leaf=is_sparse)
    return state._replace(params=_where(links, state.params), optimizer_state=optimizer_state)


def _where(links: Links, tree: Any) -> Any:
    return jax.tree.map(lambda left, leaf: jnp.where(left, leaf, jnp.zeros_like(leaf)), links, tree)
