"""Training watched from the host: progress, early stop, and Ctrl-C that keeps what is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn import checks
from fnn.training import run
from fnn.types import Array, Batch, Params, State, Trainer, TrainState


class Fitted(NamedTuple):
    """What `fit` got done, however it ended."""

    state: TrainState
    """after the last chunk that was finished"""
    history: dict[str, np.ndarray]
    """for each chunk: "step" at its end, the means of the metrics, and "validation" if asked for"""
    stopped: str
    """"steps", "early stop", "diverged" (a loss that is not finite) or "interrupted" (Ctrl-C)"""
    best: TrainState
    """the state with the lowest validation value; without validation, the last"""


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
    """Train in compiled chunks with a progress bar, stop early, and keep what is done on Ctrl-C.

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
    steps, chunk = checks.count("steps", steps), checks.count("chunk", chunk)
    checks.patience(patience, validate)
    measure = jax.jit(validate) if validate is not None else None
    history: list[dict[str, Any]] = []
    best, lowest, waited, stopped = state, np.inf, 0, "steps"
    first = int(state.step)
    try:
        with _progress_bar(steps, progress) as show:
            while (done := int(state.step) - first) < steps:
                after, metrics = run(trainer, state, data, min(chunk, steps - done))
                row = {"step": int(after.step)} | jax.tree.map(np.asarray, metrics)
                if measure is not None:
                    row["validation"] = np.asarray(measure(after.params, after.state))
                state = after
                history.append(row)
                show(row, int(state.step) - first)
                if not np.isfinite(row["loss"]):
                    stopped = "diverged"
                    break
                if measure is None or row["validation"] < lowest:
                    best, lowest, waited = state, row.get("validation", np.inf), 0
                else:
                    waited += 1
                if patience is not None and waited >= patience:
                    stopped = "early stop"
                    break
    except KeyboardInterrupt:
        stopped = "interrupted"
    columns = jax.tree.map(lambda *rows: np.stack(rows), *history) if history else {}
    return Fitted(state, columns, stopped, best)


@contextmanager
def _progress_bar(steps: int, wanted: bool | None) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """A function that shows a chunk's row, on a rich progress bar or not at all."""
    if wanted is False:
        yield lambda row, done: None
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        if wanted:
            raise ImportError("fit(progress=True) needs rich: pip install rich, or pass progress=False") from None
        yield lambda row, done: None
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns) as bar:
        task = bar.add_task("compiling", total=steps)

        def show(row: dict[str, Any], done: int) -> None:
            scalars = {name: value for name, value in row.items() if getattr(value, "shape", None) == ()}
            numbers = (f"{name} {float(value):.4g}" for name, value in scalars.items())
            bar.update(task, completed=done, description="  ".join(numbers))

        yield show
