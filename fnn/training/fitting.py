"""Training monitored from the host: progress, early stopping, and results that survive any end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array, Batch, Trainer, TrainState
from fnn.training import _checks as training_checks
from fnn.training._progress import progress_bar
from fnn.training._signals import keeping
from fnn.training.trainers import is_finite, train


class Fitted(NamedTuple):
    """The result of `fit`, however it ended."""

    state: TrainState
    """after the last finished chunk"""
    history: dict[str, np.ndarray]
    """for each chunk: "step" at its end, the means of the metrics, and "validation" if requested"""
    stopped: str
    """"steps", "early stop", "diverged" (a loss or a weight that is not finite), "interrupted" (Ctrl-C) or "preempted"
    (SIGTERM)"""
    best: TrainState
    """the state with the lowest validation value, or the initial one if all values were NaN; without validation, the
    last whose loss and weights are finite"""


class _Best(NamedTuple):
    """The best state so far."""

    state: TrainState
    validation: Any = np.inf
    waited: int = 0
    """chunks since then"""


def fit(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    steps: int,
    *,
    chunk: int = 500,
    validate: Callable[[TrainState], Array] | None = None,
    patience: int | None = None,
    progress: bool | None = None,
) -> Fitted:
    """Train in compiled chunks with a progress bar and early stopping; an early end loses no finished chunk.

    Ctrl-C and SIGTERM, by which schedulers announce the end of a process, take effect after the current chunk; the
    program then continues after `fit` and can save. An error in a chunk or in `validate` carries the result so far:
    ``error.done``, a `Fitted`. Each chunk reuses the buffers of the state before it, so params and averages are in
    memory once, and once more for the best state; the state passed by the caller stays usable.

    Args:
        trainer: a `Trainer`.
        state: the state to start from; training resumes from any state exactly.
        data: (x [ℓ, …], y [ℓ, …]), or any pytree of arrays [ℓ, …] that the trainer takes.
        steps: gradient steps to take.
        chunk: steps between two checks of metrics, validation and signals.
        validate: ``(state: TrainState) -> scalar``, lower is better, called after each chunk: a held-out loss.
        patience: stop after this many chunks without a new lowest validation value.
        progress: whether to show a progress bar, by rich; by default if rich is installed.

    Returns:
        A `Fitted`, also after Ctrl-C.

    Raises:
        TypeError: `trainer` is not a trainer; a call inside `jit`, `vmap` or `grad`.
        ValueError: patience without validate; numbers below 1.
        ImportError: progress is requested but rich is not installed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import fit, linear, sgd, squared, trainer
        >>> data = jnp.ones((8, 1)), jnp.ones((8, 1))
        >>> learn = trainer(linear(1), squared, sgd(0.1), batch_size=4)
        >>> done = fit(learn, learn.init(jax.random.key(0), data), data, 100, chunk=40, progress=False)
        >>> done.stopped, done.history["step"]
        ('steps', array([ 40,  80, 100]))
    """
    training_checks.is_trainer("fit", trainer)
    steps = checks.count("steps", steps)
    chunk = training_checks.steps("chunk", chunk)
    measure = _measure(validate, patience, state)
    training_checks.outside_a_trace("fit", "train or train_with_early_stopping")
    training_checks.reports_loss("fit", jax.eval_shape(trainer.step, state, data)[1])
    history: list[dict[str, Any]] = []
    first = int(state.step)
    done = 0
    best = _Best(state)

    def fitted(stopped: str) -> Fitted:
        columns = jax.tree.map(lambda *rows: np.stack(rows), *history) if history else {}
        return Fitted(best.state if _is_donated(state) else state, columns, stopped, best.state)

    with keeping(fitted) as ending, progress_bar(steps, progress) as show:
        state = _copied(state)  # the caller's state is never donated
        while not ending.stopped and done < steps:
            with ending.held():
                state, metrics = _chunk(trainer, state, data, min(chunk, steps - done))
                done = min(steps, done + chunk)
                row = {"step": first + done} | jax.tree.map(np.asarray, metrics)
                if measure is not None:
                    row["validation"] = np.asarray(measure(state))
                history.append(row)
                finite = np.isfinite(row["loss"]) and bool(is_finite(state.params))
                is_better = finite and (measure is None or row["validation"] < best.validation)
                best = _Best(_copied(state), row.get("validation")) if is_better else _one_more(best)
            show(row, done)
            if not finite:
                ending.stopped = "diverged"
            elif patience is not None and best.waited >= patience:
                ending.stopped = "early stop"
    return fitted(ending.stopped or "steps")


@partial(jax.jit, static_argnums=(0, 3), donate_argnums=1)
def _chunk(trainer: Trainer, state: TrainState, data: Batch, steps: int) -> tuple[TrainState, Any]:
    """`train` with its state donated, so that params and averages are never in memory twice."""
    return train(trainer, state, data, steps)


def _is_donated(state: TrainState) -> bool:
    """Whether the buffers were donated to a chunk that failed."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _copied(state: TrainState) -> TrainState:
    """The state in new buffers."""
    return jax.tree.map(jnp.copy, state)


def _one_more(best: _Best) -> _Best:
    """The best state after one more chunk that was not better."""
    return best._replace(waited=best.waited + 1)


def _measure(validate: Any, patience: Any, state: TrainState) -> Any:
    """`validate` compiled, or None; raises ValueError unless it returns a scalar, and for a patience without it."""
    if patience is not None:
        checks.count("patience", patience)
    if validate is not None:
        training_checks.scalar("validate", jax.eval_shape(validate, state))
        return jax.jit(validate)
    if patience is not None:
        raise ValueError(
            f"fit: expected validate together with patience, got patience={patience!r} without it. Pass validate, a "
            "function of the TrainState -> held-out loss."
        )
    return None
