"""Weights averaged over time: exponentially, uniformly, and by lookahead.

An average stands around an optimizer, which trains as before: the average is in the optimizer's state, and
`averaged_weights` reads it there, after training or in ``validate``.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import linear, sgd, squared, train, trainer
    >>> data = jnp.ones((8, 1)), jnp.ones((8, 1))
    >>> learn = trainer(linear(1), squared, exponential_average(sgd(0.1), 0.9), batch_size=4)
    >>> state, _ = train(learn, learn.init(jax.random.key(0), data), data, 100)
    >>> averaged_weights(state.params, state.optimizer_state)["w"].shape
    (1, 1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, wide
from fnn.core.types import Array, Optimizer, Params
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import average, counter, each, next_step
from fnn.optimizers._protocol import updated
from fnn.optimizers.transforms import apply_updates


class AverageState(NamedTuple):
    """The optimizer's state, k steps taken, and the average of the weights, in float32 at least."""

    optimizer: Any
    k: Array
    mean: Params


def exponential_average(optimizer: Any, gamma: float = 0.999) -> Optimizer:
    """An optimizer that also averages the weights exponentially, over about 1/(1 − γ) steps.

    Equation, from w̄ := the first weights on (other libraries start at 0 and divide by 1 − γ^k)::

        w̄ := γw̄ + (1 − γ)w

    Args:
        optimizer: a pair with ``init`` and ``update`` that makes steps. Around `nag`, whose params are its look-ahead,
            the average is of those.
        gamma: γ in [0, 1).

    Source: B. Polyak, A. Juditsky, *Acceleration of stochastic approximation by averaging*, 1992, in the exponential
    variant in common use.
    """
    checks.fraction("gamma", gamma)

    def mean(old: Params, w: Params, k: Array) -> Params:
        return average(gamma, old, w)

    return _averaging(optimizer, mean, call_repr("exponential_average", optimizer, gamma=(gamma, 0.999)))


def uniform_average(optimizer: Any, start: int = 0) -> Optimizer:
    """An optimizer that also averages the weights uniformly over all steps from step `start` on.

    Equation, for the weights w_k after step k ≥ start; until then w̄ := w::

        w̄ := w̄ + (w_k − w̄)/(k − start + 1)

    Args:
        optimizer: as in `exponential_average`.
        start: the first step, 0, 1, …, whose weights count.

    Source: B. Polyak, A. Juditsky, 1992; with a `start` it is the tail average of *Averaging weights leads to wider
    optima* (Izmailov et al. 2018), every step counting.
    """
    start = checks.count("start", start, least=0)

    def mean(old: Params, w: Params, k: Array) -> Params:
        count = jnp.maximum(k - start, 0) + 1
        return each(lambda m, w, count: m + (w - m) / count, old, w, count=count)

    return _averaging(optimizer, mean, call_repr("uniform_average", optimizer, start=(start, 0)))


def _averaging(optimizer: Any, mean: Callable[[Params, Params, Array], Params], label: str) -> Optimizer:
    """An optimizer with a mean of the weights after its steps, from (old mean, weights, step)."""
    takes, steps = _maker_of_steps(label, optimizer)

    def init(params: Params) -> AverageState:
        checks.floats(f"{label}.init", "params", params)
        return AverageState(optimizer.init(params), counter(), wide(params))

    def update(gradient: Params, state: AverageState, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        optimizers_checks.needs_params(f"{label}.update", params)
        optimizers_checks.is_state(f"{label}.update", state, AverageState)
        step, inner = updated(optimizer, gradient, state.optimizer, params, extra)
        w = wide(apply_updates(params, step))
        return step, AverageState(inner, next_step(state.k), mean(state.mean, w, state.k))

    return Optimizer(init=init, update=update, label=label, takes=takes, steps=steps)


def averaged_weights(params: Params, optimizer_state: Any) -> Params:
    """The average of the weights kept by `exponential_average` or `uniform_average`.

    Args:
        params: the params in training.
        optimizer_state: the optimizer's state, which may contain the average anywhere, as in a `chain`.

    Returns:
        The average, in the structure and dtypes of params.

    Raises:
        ValueError: a state with no average, or with several.
    """
    is_average = lambda part: isinstance(part, AverageState)  # noqa: E731
    found = [part for part in jax.tree.leaves(optimizer_state, is_leaf=is_average) if is_average(part)]
    if len(found) != 1:
        raise ValueError(
            f"averaged_weights: expected an optimizer's state with one average of the weights, got {len(found)}. Train "
            "with exponential_average(optimizer) or uniform_average(optimizer)."
        )
    checks.same_structure("averaged_weights", "params", params, "the average", found[0].mean)
    return narrow(found[0].mean, params)


class LookaheadState(NamedTuple):
    """The optimizer's state, k steps taken, and the slow weights φ, in float32 at least."""

    optimizer: Any
    k: Array
    slow: Params


def lookahead(optimizer: Any, every: int = 5, alpha: float = 0.5) -> Optimizer:
    """An optimizer that returns, every k steps, a part of the way to where it was: φ, the slow weights.

    Equations, where the fast weights w take the optimizer's steps; its own averages continue::

        φ := φ + α(w − φ),  w := φ              after each k = `every` steps

    Args:
        optimizer: a pair with ``init`` and ``update`` that makes steps.
        every: k ≥ 1.
        alpha: α in (0, 1].

    Source: M. Zhang, J. Lucas, G. Hinton, J. Ba, *Lookahead optimizer: k steps forward, 1 step back*, 2019.
    """
    every = checks.count("every", every)
    checks.number("alpha", alpha, lambda alpha: 0 < alpha <= 1, "in (0, 1]")
    label = call_repr("lookahead", optimizer, every=(every, 5), alpha=(alpha, 0.5))
    takes, steps = _maker_of_steps(label, optimizer)

    def init(params: Params) -> LookaheadState:
        checks.floats(f"{label}.init", "params", params)
        return LookaheadState(optimizer.init(params), counter(), wide(params))

    def update(gradient: Params, state: LookaheadState, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        optimizers_checks.needs_params(f"{label}.update", params)
        optimizers_checks.is_state(f"{label}.update", state, LookaheadState)
        step, inner = updated(optimizer, gradient, state.optimizer, params, extra)
        k = next_step(state.k)
        is_last = k % every == 0
        ahead = each(lambda w, u: w + u, wide(params), wide(step))
        slow = each(
            lambda slow, w, alpha: jnp.where(is_last, slow + alpha * (w - slow), slow), state.slow, ahead, alpha=alpha
        )
        back = each(lambda slow, w, u: jnp.where(is_last, slow - w, u), slow, wide(params), wide(step))
        return narrow(back, step), LookaheadState(inner, k, slow)

    return Optimizer(init=init, update=update, label=label, takes=takes, steps=steps)


def _maker_of_steps(label: str, optimizer: Any) -> tuple[str | None, str | None]:
    """The role of an optimizer; raises unless it makes steps."""
    optimizers_checks.makes_steps(label, optimizer)
    return checks.role(optimizer)
