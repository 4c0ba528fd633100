"""Stopping criteria inside the compiled program: until training is stable, or before it overfits.

In a `sweep` every run ends independently; a finished run stays unchanged while others of its chunk continue.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._numerics import wide
from fnn.core.types import Array, Batch, Trainer, TrainState
from fnn.nn import _checks as nn_checks
from fnn.optimizers.transforms import tree_norm
from fnn.training import _checks as training_checks
from fnn.training.trainers import begun, compiled, train


class Stability(NamedTuple):
    """The end of `train_until_stable`."""

    steps: Array
    """gradient steps taken"""
    stable: Array
    """whether the stopping criterion was met within max_steps"""
    running_loss_change: Array
    """``|Q − Q'|/|Q'|`` over the last `every` steps; 0 if Q = Q' = 0, infinite if there was no Q' yet"""
    weights_change: Array
    """‖W − W'‖/‖W'‖ over the last `every` steps; 0 if W = W' = 0"""


def train_until_stable(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    *,
    max_steps: int,
    every: int = 100,
    running_loss_tolerance: float | None = None,
    weights_tolerance: float | None = None,
    running_loss_floor: float = 0.0,
    either: bool = False,
) -> tuple[TrainState, Stability]:
    """The lecture's loop: repeat until the running loss Q and/or the weights W stabilise (slide "Algorithm SG").

    Every `every` steps Q and W are compared with their values Q' and W' before. With the tolerances τ and the floor Q₀,
    they are stable if::

        |Q − Q'| ≤ τ_Q·|Q'|, or |Q| < Q₀             ‖W − W'‖ ≤ τ_W·‖W'‖

    The tolerances resolve the slide's "and/or": only Q, only W, both, or either. A Q that falls towards 0 by the same
    factor in each comparison is never stable by a relative tolerance; the floor covers this case.

    Args:
        trainer: a `Trainer`; its running_loss_rate should average over about `every` steps.
        state: the state to start from.
        data: (x [ℓ, …], y [ℓ, …]), or any pytree of arrays [ℓ, …] that the trainer takes.
        max_steps: the most steps to take, a multiple of `every`.
        every: steps between two comparisons.
        running_loss_tolerance: relative, for Q; a number or tracer.
        weights_tolerance: relative, for W; a number or tracer.
        running_loss_floor: Q₀ ≥ 0, below which Q is small enough, for a loss whose minimum is 0; requires
            running_loss_tolerance.
        either: with both tolerances, whether meeting one of them is enough.

    Returns:
        The state at the end, and a `Stability`.

    Raises:
        ValueError: no tolerance, `either` or a floor without the tolerances they need, or numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, train_until_stable, sgd, squared, trainer
        >>> x = jax.random.normal(jax.random.key(0), (32, 2))
        >>> data = x, x @ jnp.array([[1.0], [2.0]])
        >>> learn = trainer(linear(1), squared, sgd(0.1), batch_size=8, running_loss_rate=0.05)
        >>> state = learn.init(jax.random.key(1), data)
        >>> state, end = train_until_stable(learn, state, data, max_steps=10_000, every=20, weights_tolerance=1e-3)
        >>> bool(end.stable), state.params["w"].round(2).ravel().tolist()
        (True, [1.0, 2.0])
    """
    training_checks.is_trainer("train_until_stable", trainer)
    training_checks.divisor("every", every, "max_steps", training_checks.steps("max_steps", max_steps))
    _stopping_rule(running_loss_tolerance, weights_tolerance, running_loss_floor, either)
    rule = _Rule(running_loss_tolerance, weights_tolerance, running_loss_floor)
    return _until_stable(trainer, state, data, max_steps, every, rule, bool(either))


class _Rule(NamedTuple):
    """The criterion for a stable Q and W; a tolerance of None is not checked."""

    running_loss_tolerance: Any
    weights_tolerance: Any
    running_loss_floor: Any


@compiled("trainer", "max_steps", "every", "either")
def _until_stable(
    trainer: Trainer, state: TrainState, data: Batch, max_steps: int, every: int, rule: _Rule, either: bool
) -> tuple[TrainState, Stability]:
    """`train_until_stable` as one program."""

    def moved(new: TrainState, old: TrainState) -> tuple[Array, Array]:
        difference = jax.tree.map(jnp.subtract, wide(new.params), wide(old.params))
        started = jnp.isfinite(old.running_loss)  # before the first step there is no Q
        in_loss = _relative(
            jnp.abs(new.running_loss - jnp.where(started, old.running_loss, 0)), jnp.abs(old.running_loss)
        )
        return jnp.where(started, in_loss, jnp.inf), _relative(tree_norm(difference), tree_norm(old.params))

    def settled(new: TrainState, in_loss: Array, in_weights: Array) -> Array:
        criteria = []
        if rule.running_loss_tolerance is not None:
            is_small = jnp.abs(new.running_loss) < jnp.asarray(rule.running_loss_floor, new.running_loss.dtype)
            criteria.append(is_small | (in_loss <= jnp.asarray(rule.running_loss_tolerance, in_loss.dtype)))
        if rule.weights_tolerance is not None:
            criteria.append(in_weights <= jnp.asarray(rule.weights_tolerance, in_weights.dtype))
        return reduce(jnp.logical_or if either else jnp.logical_and, criteria)

    def unfinished(carry: tuple[TrainState, Stability]) -> Array:
        return (carry[1].steps < max_steps) & ~carry[1].stable

    def more(carry: tuple[TrainState, Stability]) -> tuple[TrainState, Stability]:
        old, so_far = carry
        new, _ = train(trainer, old, data, every)
        changes = moved(new, old)
        return new, Stability(so_far.steps + every, settled(new, *changes), *changes)

    state = begun(state, jax.eval_shape(trainer.step, state, data)[0])
    changes = jax.tree.map(lambda c: jnp.full(c.shape, jnp.inf, c.dtype), jax.eval_shape(moved, state, state))
    none_yet = Stability(jnp.zeros((), jnp.int32), jnp.zeros((), bool), *changes)
    return jax.lax.while_loop(unfinished, more, (state, none_yet))


def _relative(change: Array, before: Array) -> Array:
    """change/before, with 0/0 = 0: a quantity that stays 0 has not changed."""
    return change / jnp.where(change == 0, 1, before)


class EarlyStop(NamedTuple):
    """The end of `train_with_early_stopping`."""

    steps: Array
    """gradient steps taken"""
    best_step: Array
    """gradient steps before the best state; 0 if no later state was better than the first"""
    validation: Array
    """the lowest validation value, that of the best state; infinite if no value was finite"""
    stopped: Array
    """whether patience ended the run rather than max_steps"""


def train_with_early_stopping(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    *,
    max_steps: int,
    every: int,
    validate: Callable[[TrainState], Array],
    patience: int,
) -> tuple[TrainState, EarlyStop]:
    """Train until the validation value has not improved for a while, and return the best state.

    Every `every` steps, with v* = ∞ at the start::

        v           := validate(W)
        W*, v*      := W, v                 if v < v*
        stop                                if the last `patience` values all were v ≥ v*, or v = NaN

    This is `fit` in one compiled program, except that a loss that is not finite does not end it at once.

    Args:
        trainer: a `Trainer`.
        state: the state to start from.
        data: (x [ℓ, …], y [ℓ, …]) to train on.
        max_steps: the most steps to take, a multiple of `every`.
        every: steps between two validations.
        validate: ``(state: TrainState) -> scalar``, lower is better: a held-out loss. NaN is never the lowest. A new
            function object is compiled again.
        patience: validations without a new lowest value after which to stop, at least 1.

    Returns:
        The state with the lowest validation value, and an `EarlyStop`.

    Raises:
        ValueError: numbers below 1, or `every` does not divide max_steps; a validation value that is not a scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, train_with_early_stopping, sgd, squared, trainer
        >>> data = jnp.ones((8, 1)), jnp.ones((8, 1))
        >>> learn = trainer(linear(1), squared, sgd(0.1), batch_size=4)
        >>> start = learn.init(jax.random.key(0), data)
        >>> small = lambda state: jnp.abs(state.params["b"][0])  # grows from 0 with every step
        >>> options = {"max_steps": 100, "every": 10, "validate": small, "patience": 2}
        >>> best, end = train_with_early_stopping(learn, start, data, **options)
        >>> int(end.steps), int(end.best_step), int(best.step), bool(end.stopped)
        (30, 10, 10, True)

    Source: L. Prechelt, *Early stopping — but when?*, 1998, with strips of k = `every` steps. His criterion UP_s stops
    when v has risen in s strips in a row. This is the variant in common use: v has not fallen below its lowest value in
    s = `patience` strips in a row, whether it rose from strip to strip or not.
    """
    training_checks.is_trainer("train_with_early_stopping", trainer)
    training_checks.divisor("every", every, "max_steps", training_checks.steps("max_steps", max_steps))
    checks.is_function("validate", validate)
    checks.count("patience", patience)
    return _early_stopping(trainer, state, data, max_steps, every, validate, patience)


@compiled("trainer", "max_steps", "every", "validate", "patience")
def _early_stopping(
    trainer: Trainer, state: TrainState, data: Batch, max_steps: int, every: int, validate: Any, patience: int
) -> tuple[TrainState, EarlyStop]:
    """`train_with_early_stopping` as one program."""
    kind = jax.eval_shape(validate, state)
    training_checks.scalar("validate", kind)

    def unfinished(carry: tuple[TrainState, TrainState, EarlyStop, Array]) -> Array:
        _, _, so_far, _ = carry
        return (so_far.steps < max_steps) & ~so_far.stopped

    def more(carry: tuple[TrainState, TrainState, EarlyStop, Array]) -> tuple[TrainState, TrainState, EarlyStop, Array]:
        now, best, so_far, waited = carry
        now, _ = train(trainer, now, data, every)
        value = validate(now)
        steps = so_far.steps + every
        better = value < so_far.validation
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)
        waited = jnp.where(better, 0, waited + 1)
        so_far = EarlyStop(
            steps=steps,
            best_step=jnp.where(better, steps, so_far.best_step),
            validation=jnp.where(better, value, so_far.validation),
            stopped=waited >= patience,
        )
        return now, best, so_far, waited

    state = begun(state, jax.eval_shape(trainer.step, state, data)[0])
    zero = jnp.zeros((), jnp.int32)
    start = EarlyStop(zero, zero, jnp.full((), jnp.inf, kind.dtype), jnp.zeros((), bool))
    _, best, end, _ = jax.lax.while_loop(unfinished, more, (state, state, start, zero))
    return best, end


def _stopping_rule(running_loss_tolerance: Any, weights_tolerance: Any, running_loss_floor: Any, either: Any) -> None:
    """Raise ValueError without any tolerance, or for an option whose tolerance is missing."""
    given = {"running_loss_tolerance": running_loss_tolerance, "weights_tolerance": weights_tolerance}
    if all(value is None for value in given.values()):
        raise ValueError(f"train_until_stable: expected a stopping criterion, got none. Pass {' and/or '.join(given)}.")
    for name, value in (*given.items(), ("running_loss_floor", running_loss_floor)):
        if value is not None:
            checks.not_negative(name, value)
    nn_checks.flag("either", either)
    if either and None in given.values():
        raise ValueError(
            f"train_until_stable: expected {' and '.join(given)} with either=True, got one of them. Pass both, or "
            "either=False."
        )
    floor = checks.concrete(running_loss_floor)
    if running_loss_tolerance is None and (floor is None or floor != 0):
        raise ValueError(
            "train_until_stable: expected running_loss_tolerance with running_loss_floor, got only the floor "
            f"{running_loss_floor!r}. Pass both."
        )
