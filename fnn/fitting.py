"""Training watched from the host: progress, early stop, and Ctrl-C that keeps what is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn import checks
from fnn.progress import progress_bar
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

    Ctrl-C takes effect after the chunk under way. Each chunk takes over the buffers of the state before it, so params
    and averages are in memory once, and once more for the best with `validate`; the state given here stays usable.

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
    best, state = state, _copied(state)  # the caller's own is not donated
    lowest, waited, stopped = np.inf, 0, "steps"
    first = int(state.step)
    try:
        with progress_bar(steps, progress) as show:
            while stopped == "steps" and (done := int(state.step) - first) < steps:
                with _interrupts_wait():
                    state, metrics = _chunk(trainer, state, data, min(chunk, steps - done))
                    row = {"step": int(state.step)} | jax.tree.map(np.asarray, metrics)
                    if measure is not None:
                        row["validation"] = np.asarray(measure(state.params, state.state))
                    history.append(row)
                    finite, waited = np.isfinite(row["loss"]), waited + 1
                    if finite and row.get("validation", np.inf) < lowest:
                        best, lowest, waited = _copied(state), row["validation"], 0
                show(row, row["step"] - first)
                if not finite:
                    stopped = "diverged"
                elif patience is not None and waited >= patience:
                    stopped = "early stop"
    except KeyboardInterrupt:
        stopped = "interrupted"
    columns = jax.tree.map(lambda *rows: np.stack(rows), *history) if history else {}
    return Fitted(state, columns, stopped, state if validate is None else best)


@partial(jax.jit, static_argnums=(0, 3), donate_argnums=1)
def _chunk(trainer: Trainer, state: TrainState, data: Batch, steps: int) -> tuple[TrainState, Any]:
    """A `run` that takes over the buffers of its state: params and averages are never in memory twice."""
    return run(trainer, state, data, steps)


def _copied(state: TrainState) -> TrainState:
    """The same in buffers of its own."""
    return jax.tree.map(jnp.copy, state)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C takes effect when the block is left: within, a state may be in the device's hands alone."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(usual):
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if came:
        usual(*came[0])
