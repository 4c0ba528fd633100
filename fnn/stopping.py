"""Runs that end by themselves, inside the compiled program: when training is stable, or before it overfits.

In a `sweep` every run ends for itself. One that has ended stays as it is while others of its chunk go on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.dtypes import wide
from fnn.optimizers import tree_norm
from fnn.training import compiled, run
from fnn.types import Array, Batch, Params, State, Trainer, TrainState


class Stability(NamedTuple):
    """How `run_until_stable` ended."""

    steps: Array
    """gradient steps taken"""
    stable: Array
    """whether what was asked to stabilise did so within max_steps"""
    quality_change: Array
    """|Q − Q'|/|Q'| over the last `every` steps"""
    weights_change: Array
    """‖W − W'‖/‖W'‖ over the last `every` steps"""


@compiled("trainer", "max_steps", "every")
def run_until_stable(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    *,
    max_steps: int,
    every: int = 100,
    quality_tolerance: float | None = None,
    weights_tolerance: float | None = None,
) -> tuple[TrainState, Stability]:
    """The lecture's loop: repeat until the running loss Q and/or the weights W stabilise (slide "Algorithm SG").

    Every `every` steps Q and W are compared with what they were; stable means |Q − Q'| ≤ tolerance·|Q'|, and likewise
    ‖W − W'‖ ≤ tolerance·‖W'‖. Where both tolerances are given, both must hold.

    Args:
        trainer: a `Trainer`; its quality_rate should average over about `every` steps.
        state: where to start.
        data: (x [ℓ, …], y [ℓ, …]).
        max_steps: stop here in any case; a multiple of `every`.
        every: steps between two comparisons.
        quality_tolerance: relative, for Q; a number or tracer.
        weights_tolerance: relative, for W; a number or tracer.

    Returns:
        The state at the end, and a `Stability`.

    Raises:
        ValueError: neither tolerance given, or numbers out of range.
    """
    checks.divisor("every", every, "max_steps", checks.count("max_steps", max_steps))
    checks.one_given(quality_tolerance=quality_tolerance, weights_tolerance=weights_tolerance)

    def moved(new: TrainState, old: TrainState) -> tuple[Array, Array]:
        difference = jax.tree.map(jnp.subtract, wide(new.params), wide(old.params))
        in_quality = jnp.abs(new.quality - old.quality) / jnp.abs(old.quality)
        return in_quality, tree_norm(difference) / tree_norm(old.params)

    def settled(in_quality: Array, in_weights: Array) -> Array:
        held = jnp.ones((), bool)
        for change, tolerance in ((in_quality, quality_tolerance), (in_weights, weights_tolerance)):
            if tolerance is not None:
                held &= change <= jnp.asarray(tolerance, change.dtype)
        return held

    def unfinished(carry: tuple[TrainState, Stability]) -> Array:
        return (carry[1].steps < max_steps) & ~carry[1].stable

    def more(carry: tuple[TrainState, Stability]) -> tuple[TrainState, Stability]:
        old, so_far = carry
        new, _ = run(trainer, old, data, every)
        changes = moved(new, old)
        return new, Stability(so_far.steps + every, settled(*changes), *changes)

    changes = jax.tree.map(lambda c: jnp.full(c.shape, jnp.inf, c.dtype), jax.eval_shape(moved, state, state))
    none_yet = Stability(jnp.zeros((), jnp.int32), jnp.zeros((), bool), *changes)
    return jax.lax.while_loop(unfinished, more, (state, none_yet))


class EarlyStop(NamedTuple):
    """How `run_early_stopping` ended."""

    steps: Array
    """gradient steps taken"""
    best_step: Array
    """how many of them the best state is after; 0 if none was better than the first"""
    validation: Array
    """the lowest validation value, the best state's; infinite where no look gave a finite one"""
    stopped: Array
    """whether patience ended it, and not max_steps"""


@compiled("trainer", "max_steps", "every", "validate", "patience")
def run_early_stopping(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    *,
    max_steps: int,
    every: int,
    validate: Callable[[Params, State], Array],
    patience: int,
) -> tuple[TrainState, EarlyStop]:
    """Train until the validation value has not improved for a while, and give back the best state.

    Every `every` steps, with v* = ∞ at the start::

        v           := validate(W)
        W*, v*      := W, v                 if v < v*
        stop                                if the last `patience` looks all found v ≥ v*, or v = NaN

    It is what `fit` does from the host, in one program; only, a loss that is not finite does not end it at once.

    Args:
        trainer: a `Trainer`.
        state: where to start.
        data: (x [ℓ, …], y [ℓ, …]) to train on.
        max_steps: stop here in any case; a multiple of `every`.
        every: steps between two looks.
        validate: ``(params, state) -> scalar``, lower is better: a held-out loss. NaN is never the lowest. A function
            made anew is compiled anew.
        patience: looks without a new lowest value after which to stop, at least 1.

    Returns:
        The state with the lowest validation value, and an `EarlyStop`.

    Raises:
        ValueError: numbers below 1, or `every` does not divide max_steps; a validation value that is no scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, run_early_stopping, sgd, squared, trainer
        >>> data = jnp.ones((8, 1)), jnp.ones((8, 1))
        >>> learn = trainer(linear(1), squared, sgd(0.1), batch_size=4)
        >>> start = learn.init(jax.random.key(0), data)
        >>> small = lambda params, state: jnp.abs(params["b"][0])  # grows from 0 with every step
        >>> best, end = run_early_stopping(learn, start, data, max_steps=100, every=10, validate=small, patience=2)
        >>> int(end.steps), int(end.best_step), int(best.step), bool(end.stopped)
        (30, 10, 10, True)

    Source: L. Prechelt, *Early stopping — but when?*, 1998, with strips of k = `every` steps. His criterion UP_s stops
    when v has risen in s strips in a row. This is the variant in common use: in s = `patience` strips in a row v did
    not go below its lowest, whether it rose from strip to strip or not.
    """
    checks.divisor("every", every, "max_steps", checks.count("max_steps", max_steps))
    checks.is_function("validate", validate)
    checks.count("patience", patience)
    kind = jax.eval_shape(validate, state.params, state.state)
    checks.scalar("validate", kind)

    def unfinished(carry: tuple[TrainState, TrainState, EarlyStop, Array]) -> Array:
        _, _, so_far, _ = carry
        return (so_far.steps < max_steps) & ~so_far.stopped

    def more(carry: tuple[TrainState, TrainState, EarlyStop, Array]) -> tuple[TrainState, TrainState, EarlyStop, Array]:
        now, best, so_far, waited = carry
        now, _ = run(trainer, now, data, every)
        value, steps = validate(now.params, now.state), so_far.steps + every
        better = value < so_far.validation
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), now, best)
        waited = jnp.where(better, 0, waited + 1)
        told = EarlyStop(
            steps,
            jnp.where(better, steps, so_far.best_step),
            jnp.where(better, value, so_far.validation),
            waited >= patience,
        )
        return now, best, told, waited

    zero = jnp.zeros((), jnp.int32)
    start = EarlyStop(zero, zero, jnp.full((), jnp.inf, kind.dtype), jnp.zeros((), bool))
    _, best, told, _ = jax.lax.while_loop(unfinished, more, (state, state, start, zero))
    return best, told
