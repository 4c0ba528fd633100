"""Stochastic gradient, momentum and Nesterov's accelerated gradient (slides "Algorithm SG" and "Momentum").

In all three g is the gradient of the batch's mean loss, η the learning rate (a number, a tracer, or a schedule from the
step 0, 1, … to a rate) and γ in [0, 1) the weight of the old value in an average.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, wide
from fnn.core.types import Array, Optimizer, Params, Rate
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import average, counter, each, from_equations, next_step, rate_at, zeros


class SGDState(NamedTuple):
    """k steps taken."""

    k: Array


class MomentumState(NamedTuple):
    """k steps taken, v the average of the gradients."""

    k: Array
    v: Params


class NAGState(NamedTuple):
    """k steps taken, v the average of the gradients, reach = ηγ of the look-ahead φ = w − reach·v."""

    k: Array
    v: Params
    reach: Array


def sgd(eta: Rate) -> Optimizer:
    """Stochastic gradient descent, w := w − ηg.

    Args:
        eta: learning rate η ≥ 0, or a schedule from the step to one (see `fnn.optimizers.schedules`).

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import apply_updates, sgd
        >>> optimizer, w = sgd(0.1), jnp.array([1.0, 2.0])
        >>> updates, state = optimizer.update(2 * w, optimizer.init(w), w)
        >>> print(apply_updates(w, updates))
        [0.8 1.6]
    """
    optimizers_checks.hyper_parameters(eta)

    def equations(g: Params, state: SGDState) -> tuple[Params, SGDState]:
        return each(lambda g, eta: -eta * g, g, eta=rate_at(eta, state.k)), SGDState(next_step(state.k))

    return from_equations(call_repr("sgd", eta), SGDState, equations)


def momentum(eta: Rate, gamma: float = 0.9) -> Optimizer:
    """Polyak's momentum, steps along an exponential average of the gradients over about 1/(1 − γ) steps.

    Equations::

        v := γv + (1 − γ)g
        w := w − ηv

    The factor (1 − γ) is the lecture's; many textbooks and libraries have v := γv + g, whose η is (1 − γ) times
    this one.

    Args:
        eta: learning rate η ≥ 0, or a schedule from the step to one (see `fnn.optimizers.schedules`).
        gamma: γ in [0, 1).
    """
    optimizers_checks.hyper_parameters(eta, gamma=gamma)

    def equations(g: Params, state: MomentumState) -> tuple[Params, MomentumState]:
        v = average(gamma, state.v, g)
        step = each(lambda v, eta: -eta * v, v, eta=rate_at(eta, state.k))
        return step, MomentumState(next_step(state.k), v)

    return from_equations(call_repr("momentum", eta, gamma=(gamma, 0.9)), MomentumState, equations)


def nag(eta: Rate, gamma: float = 0.9) -> Optimizer:
    """Nesterov's accelerated gradient, with the gradient taken at the point to which momentum is about to move.

    Equations, as on the slide::

        v := γv + (1 − γ)g(w − ηγv)
        w := w − ηv

    An optimizer receives a gradient but not the point at which it was taken. So the parameters in training are the
    look-ahead φ = w − ηγv itself, the point of every gradient; from φ_k to φ_{k+1}::

        v' = γv + (1 − γ)g(φ)
        φ' = φ + η_k γv − (η_k + η_{k+1}γ)v'          (η_k = η_{k+1} without a schedule)

    `nag_weights` recovers the weights w. The first φ equals w, because v starts at 0.

    Args:
        eta: learning rate η ≥ 0, or a schedule from the step to one (see `fnn.optimizers.schedules`).
        gamma: γ in [0, 1).
    """
    optimizers_checks.hyper_parameters(eta, gamma=gamma)

    def reach_at(k: Array) -> Array:
        dtype = jnp.result_type(float)
        return jnp.asarray(rate_at(eta, k), dtype) * jnp.asarray(gamma, dtype)

    def init(params: Params) -> NAGState:
        return NAGState(counter(), v=zeros(params), reach=reach_at(counter()))

    def equations(g: Params, state: NAGState) -> tuple[Params, NAGState]:
        v = average(gamma, state.v, g)
        k = next_step(state.k)
        reach = reach_at(k)
        step = each(
            lambda v, v_new, eta, reach, reach_new: reach * v - (eta + reach_new) * v_new,
            state.v,
            v,
            eta=rate_at(eta, state.k),
            reach=state.reach,
            reach_new=reach,
        )
        return step, NAGState(k, v, reach)

    return from_equations(call_repr("nag", eta, gamma=(gamma, 0.9)), NAGState, equations, init)


def nag_weights(params: Params, state: NAGState) -> Params:
    """The lecture's weights w = φ + ηγv, recovered from the look-ahead φ of `nag`.

    Args:
        params: φ, the parameters trained with `nag`.
        state: the `NAGState` that belongs to them.

    Returns:
        w, in the structure and dtypes of params.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import apply_updates, nag
        >>> from fnn.optimizers import nag_weights
        >>> optimizer, w = nag(0.1), jnp.array([1.0])
        >>> updates, state = optimizer.update(2 * w, optimizer.init(w), w)
        >>> phi = apply_updates(w, updates)
        >>> print(phi, nag_weights(phi, state))  # v = 0.2, w = 1 − 0.1·0.2
        [0.962] [0.98]
    """
    optimizers_checks.is_state("nag_weights", state, NAGState)
    back = each(lambda phi, v, reach: phi + reach * v, wide(params), state.v, reach=state.reach)
    return narrow(back, params)
