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
from fnn.training._processes import agreed_end
from fnn.training._progress import progress_bar
from fnn.training._signals import held_if, keeping
from fnn.training.trainers import is_finite, train


class Fitted(NamedTuple):
    """The result of `fit`, however it ended."""

    state: TrainState
    """after the last finished chunk"""
    history: dict[str, np.ndarray]
    """for each chunk: "step" at its end, the means of the metrics, and "validation" if requested"""
    stopped: str
    """"steps", "early stop", "diverged" (a loss or a weight that is not finite), "interrupted" (Ctrl-C) or "preempted"
    (SIGTERM), "on_chunk" if that returned True"""
    best: TrainState
    """the state with the lowest validation value, or the initial one if all values were NaN; without validation, the
    last whose loss and weights are finite"""


def fit(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    steps: int,
    *,
    chunk: int = 500,
    validate: Callable[[TrainState], Array] | None = None,
    patience: int | None = None,
    on_chunk: Callable[[TrainState, dict[str, Any]], Any] | None = None,
    progress: bool | None = None,
) -> Fitted:
    """Train in compiled chunks with a progress bar and early stopping; an early end loses no finished chunk.

    Ctrl-C and SIGTERM, by which schedulers announce the end of a process, take effect after the current chunk, in all
    processes after the same one; the program then continues after `fit` and can save. An error in a chunk, in
    `validate` or in `on_chunk` carries the result so far: ``error.done``, a `Fitted`. Each chunk reuses the buffers of
    the state before it, so params and averages are in memory once, and once more for the best state; the state passed
    by the caller stays usable.

    Args:
        trainer: a `Trainer`.
        state: the state to start from; training resumes from any state exactly.
        data: (x [ℓ, …], y [ℓ, …]), or any pytree of arrays [ℓ, …] that the trainer takes.
        steps: gradient steps to take.
        chunk: steps between two checks of metrics, validation and signals.
        validate: ``(state: TrainState) -> scalar``, lower is better, called after each chunk: a held-out loss.
        patience: stop after this many chunks without a new lowest validation value.
        on_chunk: ``(state: TrainState, row: dict) -> None``, called on the host after each chunk, with the row of the
            history that the chunk adds: to log, plot or save. It may end the training by returning True. The next chunk
            reuses the state's buffers, so copy what you keep: ``jax.device_get(state)``.
        progress: whether to show a progress bar, by rich; by default if rich is installed.

    Returns:
        A `Fitted`, also after Ctrl-C. See `resumable_fit` for a run that survives the end of its process.

    Raises:
        TypeError: `trainer` is not a trainer; a call inside `jit`, `vmap` or `grad`.
        ValueError: patience without validate; numbers below 1.
        ImportError: progress is requested but rich is not installed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import fit, linear, sgd, squared, trainer
        >>> data = jnp.ones((8, 1)), jnp.ones((8, 1))
        >>> learn = trainer(linear(1), squared, sgd(0.1), batch_size=4)
        >>> show = lambda state, row: print(row["step"], row["loss"].round(4))
        >>> done = fit(learn, learn.init(jax.random.key(0), data), data, 100, chunk=40, on_chunk=show, progress=False)
        40 0.1067
        80 0.0
        100 0.0
        >>> done.stopped, done.history["step"]
        ('steps', array([ 40,  80, 100]))
    """
    plan = Plan.of("fit", trainer, state, data, steps, chunk, validate, patience, on_chunk)
    return plan.run(Run(state, state), progress)


class Run(NamedTuple):
    """A run of `fit` after some chunks."""

    state: TrainState
    best: TrainState
    lowest: Any = np.inf
    """the validation value of the best state"""
    waited: int = 0
    """chunks since the best state"""
    finite: bool = True
    """whether the last loss and all weights are finite"""
    done: int = 0
    """steps"""
    rows: tuple[dict[str, Any], ...] = ()
    """the history, one row for each chunk"""

    def columns(self) -> dict[str, Any]:
        """The history, one array for each metric."""
        return jax.tree.map(lambda *rows: np.stack(rows), *self.rows) if self.rows else {}


class Plan(NamedTuple):
    """The arguments of `fit`, checked."""

    trainer: Trainer
    data: Batch
    steps: int
    chunk: int
    measure: Callable[[TrainState], Array] | None
    """`validate`, compiled"""
    patience: int | None
    on_chunk: Callable[[TrainState, dict[str, Any]], Any] | None
    first: int
    """the number of the first step"""

    @classmethod
    def of(
        cls,
        where: str,
        trainer: Trainer,
        state: TrainState,
        data: Batch,
        steps: int,
        chunk: int,
        validate: Any,
        patience: int | None,
        on_chunk: Any,
    ) -> Plan:
        """The plan of a call; raises TypeError or ValueError for arguments that cannot be run."""
        training_checks.is_trainer(where, trainer)
        steps = checks.count("steps", steps)
        chunk = training_checks.steps("chunk", chunk)
        measure = _measure(where, validate, patience, state)
        if on_chunk is not None:
            checks.is_function("on_chunk", on_chunk)
        training_checks.outside_a_trace(where, "train or train_with_early_stopping")
        training_checks.reports_loss(where, jax.eval_shape(trainer.step, state, data)[1])
        return cls(trainer, data, steps, chunk, measure, patience, on_chunk, int(state.step))

    def run(self, run: Run, progress: bool | None, store: Callable[[Run], None] | None = None) -> Fitted:
        """Continue a run to its end; `store` is called after each chunk, without being interrupted by signals."""

        def fitted(stopped: str) -> Fitted:
            return Fitted(run.best if _is_donated(run.state) else run.state, run.columns(), stopped, run.best)

        several = jax.process_count() > 1  # they must end after the same chunk, so they hold signals all along
        shown = progress if jax.process_index() == 0 else False
        with keeping(fitted) as ending, progress_bar(self.steps, shown) as show, held_if(several, ending):
            run = run._replace(state=_copied(run.state))  # the caller's state is never donated
            while not ending.stopped and not self.end(run):
                with held_if(not several, ending):
                    length = min(self.chunk - run.done % self.chunk, self.steps - run.done)
                    state, metrics = _chunk(self.trainer, run.state, self.data, length)
                    run = run._replace(state=state)  # kept if `validate` fails
                    run = self.judged(run, metrics, length)
                    if store is not None:
                        store(run)
                show(run.rows[-1], run.done)
                if self.on_chunk is not None and _ends(self.on_chunk(run.state, run.rows[-1])):
                    ending.stopped = "on_chunk"
                ending.stopped = agreed_end(ending)
        return fitted(ending.stopped or self.end(run))

    def end(self, run: Run) -> str:
        """The reason for which a run ends here; empty if it goes on."""
        if not run.finite:
            return "diverged"
        if self.patience is not None and run.waited >= self.patience:
            return "early stop"
        return "steps" if run.done >= self.steps else ""

    def judged(self, run: Run, metrics: Any, length: int) -> Run:
        """A run whose state is that after one more chunk, with its row of the history, and whether it is the best."""
        state, done = run.state, run.done + length
        row = {"step": np.int64(self.first + done)} | jax.tree.map(np.asarray, metrics)
        if self.measure is not None:
            row["validation"] = np.asarray(self.measure(state))
        finite = bool(np.isfinite(row["loss"])) and bool(is_finite(state.params))
        run = Run(state, run.best, run.lowest, run.waited + 1, finite, done, (*run.rows, row))
        if finite and (self.measure is None or row["validation"] < run.lowest):
            run = run._replace(best=_copied(state), lowest=row.get("validation", np.inf), waited=0)
        return run


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


def _ends(found: Any) -> bool:
    """Whether `on_chunk` ends the run; raises TypeError if it returned something else than None or a bool."""
    if found is not None and not (np.shape(found) == () and np.asarray(found).dtype == bool):
        raise TypeError(f"on_chunk: expected None or a bool, True to stop, got {checks.shown(found)}. Return None.")
    return found is not None and bool(found)


def _measure(where: str, validate: Any, patience: Any, state: TrainState) -> Any:
    """`validate` compiled, or None; raises ValueError unless it returns a scalar, and for a patience without it."""
    if patience is not None:
        checks.count("patience", patience)
    if validate is not None:
        training_checks.scalar("validate", jax.eval_shape(validate, state))
        return jax.jit(validate)
    if patience is not None:
        raise ValueError(
            f"{where}: expected validate together with patience, got patience={patience!r} without it. Pass validate, "
            "a function of the TrainState -> held-out loss."
        )
    return None
