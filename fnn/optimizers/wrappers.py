"""Optimizers around optimizers: weights that decay by themselves, and gradients accumulated over batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, wide
from fnn.core.types import Array, Optimizer, Params, Rate
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import counter, each, next_step, rate_at, zeros
from fnn.optimizers._protocol import updated


class DecayState(NamedTuple):
    """The optimizer's state, and k steps taken."""

    optimizer: Any
    k: Array


def decoupled_decay(optimizer: Any, eta: Rate, strength: float, mask: Any = None) -> Optimizer:
    """An optimizer whose weights also decay by themselves, apart from the gradient; around `adam` this is AdamW.

    Equation, with the optimizer's step u::

        w := w + u − η_t λw

    With `l2` instead, λw is part of the gradient, which Adam divides by its root: weights with large gradients then
    decay less. Under `sgd` the two are the same.

    Args:
        optimizer: a pair with ``init`` and ``update`` that makes steps.
        eta: the optimizer's learning rate η, or another multiplier of λ: a number, a tracer, or a schedule.
        strength: λ ≥ 0.
        mask: where to decay, a pytree of bools or a function such as `weights_only`; by default everywhere.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import sgd
        >>> optimizer, w = decoupled_decay(sgd(0.1), 0.1, 0.5), jnp.array([2.0])
        >>> print(optimizer.update(jnp.array([1.0]), optimizer.init(w), w)[0])  # −0.1·1 − 0.1·0.5·2
        [-0.2]

    Source: I. Loshchilov, F. Hutter, *Decoupled weight decay regularization*, 2019. Their λ is multiplied by the
    schedule only (an `eta` from 1 on); multiplied by the whole learning rate it is that of PyTorch and optax.
    """
    shown = "mask" if mask is not None and not callable(mask) else mask
    label = call_repr("decoupled_decay", optimizer, eta, strength, mask=(shown, None))
    optimizers_checks.makes_steps(label, optimizer)
    optimizers_checks.rate("eta", eta)
    checks.not_negative("strength", strength)

    def flags(params: Params) -> Any:
        chosen = mask(params) if callable(mask) else jax.tree.map(lambda _: True, params) if mask is None else mask
        optimizers_checks.is_mask("decoupled_decay", chosen, params)
        return chosen

    def init(params: Params) -> DecayState:
        flags(params)
        return DecayState(optimizer.init(params), counter())

    def update(gradient: Params, state: DecayState, params: Params = None, **extra: Any) -> tuple[Any, DecayState]:
        optimizers_checks.needs_params("decoupled_decay", params)
        optimizers_checks.is_state("decoupled_decay", state, DecayState)
        step, inner = updated(optimizer, gradient, state.optimizer, params, extra)
        decayed = each(
            lambda u, w, eta, strength: u - eta * strength * w,
            wide(step),
            wide(params),
            eta=rate_at(eta, state.k),
            strength=strength,
        )
        step = jax.tree.map(lambda here, u, both: both.astype(u.dtype) if here else u, flags(params), step, decayed)
        return step, DecayState(inner, next_step(state.k))

    takes, steps = checks.role(optimizer)
    return Optimizer(init=init, update=update, label=label, takes=takes, steps=steps)


class AccumulationState(NamedTuple):
    """The optimizer's state, k batches since its last step, and the sum of their gradients, in float32 at least."""

    optimizer: Any
    k: Array
    total: Params


def accumulated(optimizer: Any, steps: int) -> Optimizer:
    """An optimizer that steps once every `steps` batches, by the mean of their gradients; in between nothing moves.

    For batches of equal size, without batch norm or dropout, this is one step on all of them together. Gradients of
    the parts of one batch are added by `fnn.microbatched`.

    Args:
        optimizer: a pair with ``init`` and ``update``; its schedules count its own steps.
        steps: batches for each step, at least 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import sgd
        >>> optimizer, w = accumulated(sgd(0.1), 2), jnp.array([0.0])
        >>> first, state = optimizer.update(jnp.array([1.0]), optimizer.init(w), w)
        >>> second, state = optimizer.update(jnp.array([3.0]), state, w)
        >>> print(first, second)
        [0.] [-0.2]
    """
    checks.is_optimizer("accumulated", optimizer)
    count = checks.count("steps", steps)
    label = call_repr("accumulated", optimizer, count)

    def init(params: Params) -> AccumulationState:
        checks.floats(f"{label}.init", "params", params)
        return AccumulationState(optimizer.init(params), counter(), zeros(params))

    def update(gradient: Params, state: AccumulationState, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        optimizers_checks.is_state(f"{label}.update", state, AccumulationState)
        total = each(lambda total, g: total + g, state.total, wide(gradient))

        def step() -> tuple[Params, AccumulationState]:
            mean = narrow(each(lambda total: total / count, total), gradient)
            updates, inner = updated(optimizer, mean, state.optimizer, params, extra)
            return updates, AccumulationState(inner, jnp.zeros_like(state.k), zeros(total))

        def wait() -> tuple[Params, AccumulationState]:
            return jax.tree.map(jnp.zeros_like, gradient), AccumulationState(state.optimizer, state.k + 1, total)

        return jax.lax.cond(state.k == count - 1, step, wait)

    takes, makes = checks.role(optimizer)
    return Optimizer(init=init, update=update, label=label, takes=takes, steps=makes)
