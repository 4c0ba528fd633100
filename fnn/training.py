"""Training: one step as pure functions, a compiled run, and the lecture's loop until stable.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import adam, dense, linear, run, serial, squared, tanh, trainer
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> learn = trainer(serial(dense(16, tanh), linear(1)), squared, adam(0.01), batch_size=16)
    >>> learn
    trainer(serial(dense(16, tanh), linear(1)), squared, adam(0.01), batch_size=16)
    >>> state = learn.init(jax.random.key(0), (x, jnp.abs(x)))
    >>> state, metrics = run(learn, state, (x, jnp.abs(x)), steps=1000, every=250)
    >>> metrics["loss"].shape, bool(metrics["loss"][-1] < 1e-3)
    ((4,), True)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fnn import checks
from fnn.backprop import Gradient, backprop
from fnn.batches import Draw, shuffled
from fnn.optimizers import apply_updates, tree_norm
from fnn.optimizers.arithmetic import wide
from fnn.types import Array, Batch, Layer, Loss, Trainer, TrainState, written

_LAYER_STREAM = 2**32 - 1  # the layers' keys; a drawing rule folds in steps and epochs, which stay below 2³¹


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


def trainer(
    net: Layer,
    loss: Loss,
    optimizer: Any,
    *,
    batch_size: int = 32,
    gradient: Callable[[Layer, Loss], Gradient] = backprop,
    draw: Draw = shuffled,
    quality_rate: float = 0.01,
) -> Trainer:
    """The gradient step of the lecture's SG and BackProp, with any optimizer (slides "Algorithm SG", "BackProp").

    One step::

        batch          := draw(key, t)
        L, g           := gradient(net, loss) of the batch
        W              := W + optimizer's updates for g
        Q              := (1 − λ)Q + λL           (Q := L in the first step)

    All that step t draws is a function of (key, t), so that a run can be cut anywhere and resumed to the same end.

    Args:
        net: a layer.
        loss: a loss whose answers the data hold.
        optimizer: a pair with ``init`` and ``update``, fnn's or optax's.
        batch_size: objects in a batch.
        gradient: how gradients are found: `backprop` by hand, `autodiff` automatically, or a function alike.
        draw: which objects step t sees: `shuffled` epochs, or `with_replacement` as in the lecture.
        quality_rate: λ in (0, 1], the weight of the newest loss in the running loss Q.

    Returns:
        A `Trainer`; its metrics are ``{"loss": L, "quality": Q}``.

    Raises:
        TypeError: a part that is not what it should be.
        ValueError: numbers out of range; in init, data that do not fit the network or the loss.
    """
    checks.is_layer("trainer", net)
    checks.is_loss(loss)
    checks.is_optimizer("trainer", optimizer)
    batch_size = checks.count("batch_size", batch_size)
    checks.number("quality_rate", quality_rate, lambda rate: 0 < rate <= 1, "in (0, 1]")
    value_and_gradient = gradient(net, loss)

    def init(key: Array, data: Batch) -> TrainState:
        x, y = checks.batch(data)
        size = checks.data(x, y)
        jax.eval_shape(lambda key: draw(key, 0, size, batch_size), key)  # a rule may refuse this batch_size
        key_of_params, key = jax.random.split(key)
        params, state = net.init(key_of_params, jax.ShapeDtypeStruct(x.shape, x.dtype))
        a = jax.eval_shape(net.apply, params, state, x)
        of_answers = jax.eval_shape(lambda a: loss.value(a, y), a)  # y is concrete in there: labels are checked
        quality = wide(jnp.zeros((), of_answers.dtype))
        return TrainState(params, state, optimizer.init(params), jnp.zeros((), jnp.int32), quality, key)

    def step(state: TrainState, data: Batch) -> tuple[TrainState, dict[str, Array]]:
        x, y = data
        chosen = draw(state.key, state.step, x.shape[0], batch_size)
        return update(state, (_rows(x, chosen), _rows(y, chosen)))

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, _LAYER_STREAM), state.step)
        (value, layer_state), g = value_and_gradient(state.params, state.state, batch, key)
        updates, optimizer_state = optimizer.update(g, state.optimizer_state, state.params)
        params = apply_updates(state.params, updates)
        L = value.astype(state.quality.dtype)
        Q = jnp.where(state.step == 0, L, state.quality + jnp.asarray(quality_rate, L.dtype) * (L - state.quality))
        after = TrainState(params, layer_state, optimizer_state, state.step + 1, Q, state.key)
        return after, {"loss": L, "quality": Q}

    label = written("trainer", net, loss, optimizer, batch_size=(batch_size, None), gradient=(gradient, backprop))
    return Trainer(init, step, update, label)


def _rows(array: Array, indices: Array) -> Array:
    """The drawn objects; drawing rules stay in bounds, so no bound is checked again."""
    return jnp.asarray(array).at[indices].get(mode="promise_in_bounds")


def _compiled(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function once for each value of its static arguments; inside another trace it joins that program.

    There the trainer may hold tracers (a swept η), which a cache of compiled functions must not keep.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        compiled = jax.jit(function, static_argnames=static)

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((args, options)))
            return (function if traced else compiled)(*args, **options)

        return call

    return decorate


@_compiled("trainer", "steps", "every")
def run(
    trainer: Trainer, state: TrainState, data: Batch, steps: int, every: int | None = None
) -> tuple[TrainState, Any]:
    """Many steps as one compiled loop, the metrics reduced inside it.

    Compiled once for each trainer and number of steps; inside `jit`, `vmap` or `sweep` it joins their program.

    Args:
        trainer: a `Trainer`.
        state: where to start, from ``trainer.init`` or an earlier run.
        data: (x [ℓ, …], y [ℓ, …]).
        steps: gradient steps to take.
        every: mean metrics are given for each this many steps, which must divide `steps`; 1 gives all.

    Returns:
        The state after the last step, and the metrics: leaves [steps/every, …], or without `every`
        their means over the whole run.

    Raises:
        ValueError: numbers below 1, or `every` does not divide `steps`.
    """
    steps = checks.count("steps", steps)
    block = checks.divisor("every", every, "steps", steps) if every is not None else steps
    metrics = jax.eval_shape(trainer.step, state, data)[1]
    nothing = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)

    def summed(carry: tuple[TrainState, Any], _: None) -> tuple[tuple[TrainState, Any], None]:
        state, metrics = trainer.step(carry[0], data)
        return (state, jax.tree.map(jnp.add, carry[1], metrics)), None

    def averaged(state: TrainState, _: Any = None) -> tuple[TrainState, Any]:
        (state, total), _ = jax.lax.scan(summed, (state, nothing), length=block)
        return state, jax.tree.map(lambda m: m / block, total)

    if every is None:
        return averaged(state)
    return jax.lax.scan(averaged, state, length=steps // block)


@_compiled("trainer", "max_steps", "every")
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
