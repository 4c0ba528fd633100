"""Training watched from the host: progress, early stop, and whatever ends it keeps what is done."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array, Batch, Params, State, Trainer, TrainState
from fnn.training import _checks as training_checks
from fnn.training._progress import progress_bar
from fnn.training._signals import keeping
from fnn.training.trainers import is_finite, train


class Fitted(NamedTuple):
    """What `fit` got done, however it ended."""

    state: TrainState
    """after the last chunk that was finished"""
    history: dict[str, np.ndarray]
    """for each chunk: "step" at its end, the means of the metrics, and "validation" if asked for"""
    stopped: str
    """"steps", "early stop", "diverged" (a loss or a weight that is not finite), "interrupted" (Ctrl-C) or "preempted"
    (SIGTERM)"""
    best: TrainState
    """the state with the lowest validation value, that given to `fit` where all were NaN; without validation, the last
    whose loss and weights are finite"""


def fit(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    steps: int,
    *,
    chunk: int = 500,
    validate: Callable[[Params, State], Array] | None = None,
    patience: int | None = None,
    progress: bool | None = None,
) -> Fitted:
    """Train in compiled chunks with a progress bar, stop early, and keep what is done, whatever ends it.

    Ctrl-C and SIGTERM, by which schedulers announce that a process will end, take effect after the chunk under way; the
    program goes on after `fit`, and can save. An error out of a chunk or `validate` carries what was done before it:
    ``error.done``, a `Fitted`. Each chunk takes over the buffers of the state before it, so params and averages are in
    memory once, and once more for the best; the state given here stays usable.

    Args:
        trainer: a `Trainer`.
        state: where to start; training resumes from any state exactly.
        data: (x [ℓ, …], y [ℓ, …]).
        steps: gradient steps to take.
        chunk: steps between two looks at metrics, validation and keyboard.
        validate: ``(params, state) -> scalar``, lower is better, called after each chunk: a held-out loss.
        patience: stop after this many chunks without a new lowest validation.
        progress: whether to show a progress bar, by rich; by default where rich is installed.

    Returns:
        A `Fitted`, also after Ctrl-C.

    Raises:
        TypeError: what is no trainer; a call inside `jit`, `vmap` or `grad`.
        ValueError: patience without validate; numbers below 1.
        ImportError: progress asked for and rich not installed.

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
    steps, chunk = checks.count("steps", steps), training_checks.steps("chunk", chunk)
    _patience(patience, validate)
    training_checks.outside_a_trace("fit", "run or train_with_early_stopping")
    training_checks.tells_loss("fit", jax.eval_shape(trainer.step, state, data)[1])
    if validate is not None:
        training_checks.scalar("validate", jax.eval_shape(validate, state.params, state.layer_state))
    measure = jax.jit(validate) if validate is not None else None
    history: list[dict[str, Any]] = []
    best, lowest, waited, done, first = state, np.inf, 0, 0, int(state.step)

    def fitted(stopped: str) -> Fitted:
        columns = jax.tree.map(lambda *rows: np.stack(rows), *history) if history else {}
        return Fitted(best if _is_gone(state) else state, columns, stopped, best)

    with keeping(fitted) as ending, progress_bar(steps, progress) as show:
        state = _copied(state)  # the caller's own is not donated
        while not ending.stopped and done < steps:
            with ending.held():
                state, metrics = _chunk(trainer, state, data, min(chunk, steps - done))
                done = min(steps, done + chunk)
                row = {"step": first + done} | jax.tree.map(np.asarray, metrics)
                if measure is not None:
                    row["validation"] = np.asarray(measure(state.params, state.layer_state))
                history.append(row)
                finite, waited = np.isfinite(row["loss"]) and bool(is_finite(state.params)), waited + 1
                if finite and (measure is None or row["validation"] < lowest):
                    best, lowest, waited = _copied(state), row.get("validation"), 0
            show(row, done)
            if not finite:
                ending.stopped = "diverged"
            elif patience is not None and waited >= patience:
                ending.stopped = "early stop"
    return fitted(ending.stopped or "steps")


@partial(jax.jit, static_argnums=(0, 3), donate_argnums=1)
def _chunk(trainer: Trainer, state: TrainState, data: Batch, steps: int) -> tuple[TrainState, Any]:
    """A `train` that takes over the buffers of its state: params and averages are never in memory twice."""
    return train(trainer, state, data, steps)


def _is_gone(state: TrainState) -> bool:
    """Whether a chunk that failed took the buffers with it."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _copied(state: TrainState) -> TrainState:
    """The same in buffers of its own."""
    return jax.tree.map(jnp.copy, state)


def _patience(chunks: Any, validate: Any) -> None:
    """Patience waits for a validation value."""
    if chunks is None:
        return
    checks.count("patience", chunks)
    if validate is None:
        raise ValueError("patience needs validate, a function (params, state) -> held-out loss, to wait for")
