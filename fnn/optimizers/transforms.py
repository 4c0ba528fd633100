"""Optimizers composed of parts: chains, clipping, L2.

A transform is an `Optimizer` whose updates are still gradients, for the next in a `chain`. Any pair in the protocol
that optax made common can be part of a chain.

Example:
    >>> from fnn import adam, chain, clip_by_norm, l2, masked, weights_only
    >>> chain(clip_by_norm(1.0), masked(l2(1e-4), weights_only), adam(1e-3))
    chain(clip_by_norm(1.0), masked(l2(0.0001), weights_only), adam(0.001))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, norm_in_units, wide
from fnn.core.types import Array, Optimizer, Params
from fnn.nn import _checks as nn_checks
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import each
from fnn.optimizers._protocol import updated


def apply_updates(params: Params, updates: Any) -> Params:
    """The updated params, w := w + update, in the params' dtypes.

    Args:
        params: a pytree of arrays.
        updates: a pytree of the same structure, with the minus sign included.

    Raises:
        ValueError: updates whose structure or shapes differ from the params'.
    """
    checks.same_structure("apply_updates", "updates", updates, "params", params)
    return jax.tree.map(lambda w, u: w + u.astype(w.dtype), params, updates)


def chain(*optimizers: Any) -> Optimizer:
    """Optimizers in series: each takes the updates of the previous one. The state is the tuple of their states.

    Args:
        *optimizers: pairs with ``init`` and ``update``, in the order of application; the last one makes the steps.

    Raises:
        TypeError: an argument that is not such a pair.
        ValueError: one of fnn's that takes gradients after one that makes steps: a step includes the minus sign, so an
            ``l2(λ)`` after ``adam(η)`` would make the weights grow. Two that are `masked` may concern different leaves
            and are accepted, as are pairs from other libraries.
    """
    for optimizer in optimizers:
        checks.is_optimizer("chain", optimizer)
    _takes_gradients_first("chain", optimizers)

    def init(params: Params) -> tuple:
        return tuple(optimizer.init(params) for optimizer in optimizers)

    def update(gradient: Params, state: tuple, params: Params = None, **extra: Any) -> tuple[Any, tuple]:
        nn_checks.parts("chain", len(optimizers), state=state)
        states = []
        for optimizer, part in zip(optimizers, state, strict=True):
            gradient, part = updated(optimizer, gradient, part, params, extra)
            states.append(part)
        return gradient, tuple(states)

    roles = [checks.role(optimizer) for optimizer in optimizers]
    return Optimizer(
        init=init,
        update=update,
        label=call_repr("chain", *optimizers),
        takes=_most(takes for takes, _ in roles),
        steps=_most(steps for _, steps in roles),
    )


def _most(leaves: Iterable[str | None]) -> str | None:
    """The string "all" if it is among the leaves, else "some" if that is, else None."""
    return max(leaves, key=(None, "some", "all").index, default=None)


def _stateless(label: str, transform: Callable[[Params, Params], Params]) -> Optimizer:
    """A transform without state, computed in float32 at least."""

    def update(gradient: Params, state: tuple, params: Params = None) -> tuple[Any, tuple]:
        return narrow(transform(wide(gradient), params), gradient), state

    return Optimizer(init=lambda params: (), update=update, label=label, takes="all")


def clip_by_norm(theta: float) -> Optimizer:
    """Gradient clipping: if ‖g‖ > θ then g := gθ/‖g‖, over the whole vector of parameters (slide "Gradient explosion").

    The norm is computed relative to a power of two, so that the squares of an exploding gradient do not overflow before
    it can be clipped. One NaN makes the norm NaN, and with it all of g: no other leaf passes unclipped.

    Args:
        theta: θ > 0.
    """
    checks.positive("theta", theta)

    def clip(g: Params, params: Params) -> Params:
        unit, norm = norm_in_units(g)

        def clipped(g: Array, theta: Array, unit: Array, norm: Array) -> Array:
            is_long = ~(unit * norm <= theta)
            shorter = jnp.where(is_long, theta, 1) / jnp.where(is_long, norm, 1)
            return jnp.where(is_long, (g / unit) * shorter, g)

        return each(clipped, g, theta=theta, unit=unit, norm=norm)

    return _stateless(call_repr("clip_by_norm", theta), clip)


def tree_norm(tree: Any) -> Array:
    """The Euclidean norm ‖g‖ of all leaves together, a scalar in float32 at least, without overflow of the squares.

    Its slope at g = 0 is 0.
    """
    unit, norm = norm_in_units(tree)
    return unit * norm


def l2(strength: float) -> Optimizer:
    """L2 regularisation, g := g + λw, the gradient of L + λ/2‖w‖² (slide "Inverted Dropout and L2").

    Before `sgd` it gives the slide's step w := w(1 − ηλ) − ηg. To exclude the biases, write
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
    """Raise ValueError if an optimizer that takes gradients certainly follows one that makes steps at the same leaf."""
    made: dict[str | None, Any] = {}
    for optimizer in optimizers:
        takes, steps = checks.role(optimizer)
        earlier = made.get("all", made.get("some") if takes == "all" else None)
        if takes and earlier is not None:
            hint = "Leave out one of the two." if steps else f"Put {optimizer} before {earlier}."
            raise ValueError(
                f"{where}: expected gradients to reach {optimizer}, got the steps of {earlier}, which include the "
                f"minus sign. {hint}"
            )
        if steps:
            made.setdefault(steps, optimizer)
