"""Optimizers made of parts: chains, clipping, L2, masks.

A transform is an `Optimizer` whose updates are gradients still, for the next in a `chain` to take. Any pair in the
protocol that optax made common can stand in a chain.

Example:
    >>> from fnn import adam, chain, clip_by_norm, l2, masked, weights_only
    >>> chain(clip_by_norm(1.0), masked(l2(1e-4), weights_only), adam(1e-3))
    chain(clip_by_norm(1.0), masked(l2(0.0001), weights_only), adam(0.001))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.dtypes import narrow, wide
from fnn.numerics import safe_sqrt
from fnn.optimizers.arithmetic import each
from fnn.types import Array, Optimizer, Params, written

Mask = Any
"""A pytree of bools in the structure of the params, or a function from params to one."""


def apply_updates(params: Params, updates: Any) -> Params:
    """The gradient step's last line, w := w + update, in the params' dtypes.

    Args:
        params: a pytree of arrays.
        updates: the same structure; the minus sign is inside.

    Raises:
        ValueError: another structure or other shapes than the params'.
    """
    checks.same_structure("apply_updates", "updates", updates, "params", params)
    return jax.tree.map(lambda w, u: w + u.astype(w.dtype), params, updates)


def chain(*optimizers: Any) -> Optimizer:
    """One after another: each takes what the one before it gave. The state is the tuple of theirs.

    Args:
        *optimizers: pairs with ``init`` and ``update``, in the order of application; the last is an optimizer proper.

    Raises:
        TypeError: an argument that is no such pair.
        ValueError: one of fnn's that takes gradients behind one that has made steps of them: the minus sign is inside a
            step, so that after ``adam(η)`` an ``l2(λ)`` would make the weights grow. Two that are `masked` may be for
            different leaves and pass; so do pairs that are not fnn's.
    """
    for optimizer in optimizers:
        checks.is_optimizer("chain", optimizer)
    checks.takes_gradients_first("chain", optimizers)

    def init(params: Params) -> tuple:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(gradient: Params, state: tuple, params: Params = None) -> tuple[Any, tuple]:
        checks.parts("chain", len(optimizers), state=state)
        states = []
        for optimizer, part in zip(optimizers, state, strict=True):
            gradient, part = optimizer.update(gradient, part, params)
            states.append(part)
        return gradient, tuple(states)

    takes, steps = (_most(leaves) for leaves in zip((None, None), *map(checks.role, optimizers), strict=True))
    return Optimizer(init, update, written("chain", *optimizers), takes, steps)


def _most(leaves: tuple[str | None, ...]) -> str | None:
    """At "all" leaves, if one part is; else at "some", if one is."""
    return max(leaves, key=(None, "some", "all").index)


def _stateless(label: str, transform: Callable[[Params, Params], Params]) -> Optimizer:
    def update(gradient: Params, state: tuple, params: Params = None) -> tuple[Any, tuple]:
        return narrow(transform(wide(gradient), params), gradient), state

    return Optimizer(lambda params: (), update, label, takes="all")


def clip_by_norm(theta: float) -> Optimizer:
    """Gradient clipping: if ‖g‖ > θ then g := gθ/‖g‖, over the whole vector of parameters (slide "Gradient explosion").

    The norm is found relative to a power of two, so that the squares of an exploding gradient do not overflow before
    it can be clipped. One NaN makes the norm NaN, and with it all of g: no other leaf moves on unclipped.

    Args:
        theta: θ > 0.
    """
    checks.positive("theta", theta)

    def clip(g: Params, params: Params) -> Params:
        unit, norm = _norm_in_units(g)

        def clipped(g: Array, theta: Array, unit: Array, norm: Array) -> Array:
            is_long = ~(unit * norm <= theta)
            shorter = jnp.where(is_long, theta, 1) / jnp.where(is_long, norm, 1)
            return jnp.where(is_long, (g / unit) * shorter, g)

        return each(clipped, g, theta=theta, unit=unit, norm=norm)

    return _stateless(written("clip_by_norm", theta), clip)


def tree_norm(tree: Any) -> Array:
    """The Euclidean norm ‖g‖ of all leaves together, its squares safe from overflow, a scalar in float32 at least.

    Its slope at g = 0 is 0.
    """
    unit, norm = _norm_in_units(tree)
    return unit * norm


def _norm_in_units(tree: Any) -> tuple[Array, Array]:
    """A power of two near the largest entry, and the norm of the leaves divided by it."""
    leaves = jax.tree.leaves(wide(tree))
    if not leaves:
        return jnp.ones(()), jnp.zeros(())
    dtype = max((leaf.dtype for leaf in leaves), key=lambda d: jnp.finfo(d).bits)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0).astype(dtype) for leaf in leaves]))
    bound = 3 * jnp.finfo(dtype).maxexp // 4  # 1/unit must not be denormal: those are flushed to 0
    unit = jnp.ldexp(jnp.ones((), dtype), jnp.clip(jnp.frexp(largest)[1], -bound, bound))
    return unit, safe_sqrt(sum(jnp.sum(jnp.square(leaf.astype(dtype) / unit)) for leaf in leaves))


def l2(strength: float) -> Optimizer:
    """L2 regularisation, g := g + λw: the gradient of L + λ/2‖w‖² (slide "Inverted Dropout and L2").

    Before `sgd` it makes the slide's step w := w(1 − ηλ) − ηg. To spare the biases, write
    ``masked(l2(λ), weights_only)``.

    Args:
        strength: λ ≥ 0.
    """
    checks.not_negative("strength", strength)

    def add(g: Params, params: Params) -> Params:
        checks.needs_params("l2", params)
        return each(lambda g, w, strength: g + strength * w.astype(g.dtype), g, params, strength=strength)

    return _stateless(written("l2", strength), add)


def weights_only(params: Params) -> Mask:
    """The mask that is true for the leaves named "w" and false for biases and all else."""

    def is_weight(path: tuple, leaf: Any) -> bool:
        return bool(path) and getattr(path[-1], "key", None) == "w"

    return jax.tree.map_with_path(is_weight, params)


def masked(optimizer: Any, mask: Mask) -> Optimizer:
    """An optimizer or transform for some of the leaves; the others' gradients pass as they are.

    Args:
        optimizer: a pair with ``init`` and ``update``; it sees, and keeps state for, the chosen leaves only.
        mask: a pytree of bools in the structure of the params, or a function from params to one: `weights_only`.

    Raises:
        ValueError: a mask of another structure than the params'.
        TypeError: a mask with leaves other than bools.
    """
    checks.is_optimizer("masked", optimizer)
    if not callable(mask):
        checks.is_mask("masked", mask, mask)

    def chosen(tree: Any, params: Params) -> Any:
        flags = mask(params) if callable(mask) else mask
        checks.is_mask("masked", flags, tree)
        return jax.tree.map(lambda flag, leaf: leaf if flag else None, flags, tree)

    def init(params: Params) -> Any:
        return optimizer.init(chosen(params, params))

    def update(gradient: Params, state: Any, params: Params = None) -> tuple[Any, Any]:
        shaped = gradient if params is None else params
        some = None if params is None else chosen(params, params)
        updates, state = optimizer.update(chosen(gradient, shaped), state, some)
        merged = jax.tree.map(
            lambda new, old: old if new is None else new,
            updates,
            gradient,
            is_leaf=lambda leaf: leaf is None,
        )
        return merged, state

    takes, steps = ("some" if leaves else None for leaves in checks.role(optimizer))
    return Optimizer(init, update, written("masked", optimizer, mask if callable(mask) else "mask"), takes, steps)
