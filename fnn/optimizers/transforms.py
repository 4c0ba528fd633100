"""Optimizers made of parts: chains, clipping, L2, masks.

A transform is an `Optimizer` whose updates are gradients still, for the next in a `chain` to take. Any pair in the
protocol that optax made common can stand in a chain.

Example:
    >>> from fnn import adam, chain, clip_by_norm, l2, masked, weights_only
    >>> chain(clip_by_norm(1.0), masked(l2(1e-4), weights_only), adam(1e-3))
    chain(clip_by_norm(1.0), masked(l2(0.0001), weights_only), adam(0.001))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, safe_sqrt, wide
from fnn.core.types import Array, Optimizer, Params
from fnn.nn import _checks as nn_checks
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import each


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
    _takes_gradients_first("chain", optimizers)

    def init(params: Params) -> tuple:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(gradient: Params, state: tuple, params: Params = None) -> tuple[Any, tuple]:
        nn_checks.parts("chain", len(optimizers), state=state)
        states = []
        for optimizer, part in zip(optimizers, state, strict=True):
            gradient, part = optimizer.update(gradient, part, params)
            states.append(part)
        return gradient, tuple(states)

    takes, steps = (_most(leaves) for leaves in zip((None, None), *map(checks.role, optimizers), strict=True))
    return Optimizer(init, update, call_repr("chain", *optimizers), takes, steps)


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

    return _stateless(call_repr("clip_by_norm", theta), clip)


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
        optimizers_checks.needs_params("l2", params)
        return each(lambda g, w, strength: g + strength * w.astype(g.dtype), g, params, strength=strength)

    return _stateless(call_repr("l2", strength), add)


def _takes_gradients_first(where: str, optimizers: Sequence[Any]) -> None:
    """None that takes gradients stands behind one that has made steps of them, at any leaf for certain."""
    made: dict[str | None, Any] = {}
    for optimizer in optimizers:
        takes, steps = checks.role(optimizer)
        earlier = made.get("all", made.get("some") if takes == "all" else None)
        if takes and earlier is not None:
            raise ValueError(
                f"{where} expects gradients to reach {optimizer}, got the steps of {earlier}, whose minus sign is "
                f"inside; {'leave out one of the two' if steps else f'put {optimizer} before {earlier}'}"
            )
        if steps:
            made.setdefault(steps, optimizer)
