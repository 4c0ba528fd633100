"""Online learning: one gradient step a batch, as batches come."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Trainer, TrainState
from fnn.data import _checks as data_checks
from fnn.training import _checks as training_checks
from fnn.training._signals import keeping
from fnn.training.trainers import compiled, is_finite

_IN_FLIGHT = 2  # steps given to the device and not yet finished: a fast stream must not pile up in memory


class Learned(NamedTuple):
    """What `learn_online` got done, however it ended."""

    state: TrainState
    """after the last batch"""
    history: dict[str, Any]
    """for each `every` batches, and for those left over at the end: the "step" and the number of "examples" learned
    from when they end, and the means of the metrics"""
    stopped: str
    """"end of stream", "steps", "diverged" (a loss or a weight that is not finite), "interrupted" (Ctrl-C) or
    "preempted" (SIGTERM)"""
    best: TrainState
    """the state; or where training diverged, the last before whose loss on its batch was finite"""


def learn_online(
    trainer: Trainer, state: TrainState, batches: Iterable[Any], *, steps: int | None = None, every: int = 100
) -> Learned:
    """Learn from batches as they come, one gradient step each, until the stream ends (slide "BackProp").

    The step is compiled once for each number of examples in a batch, so a smaller last batch is learned from too, and
    compiles it once more. While the device computes a step, the next batch is read. An error, of the stream or of a
    batch that does not fit, carries what was learned from the batches before: ``error.done``, a `Learned`.

    Args:
        trainer: a `Trainer`; its ``update`` is used.
        state: where to start: from ``trainer.init(key, first_batch)``, the trainer's batch_size being no larger than
            that batch; or the state of an earlier call.
        batches: an iterable of pairs (x [n, …], y [n, …]) of NumPy or JAX arrays, or what `numpy.asarray` takes.
        steps: stop after so many batches; by default at the end of the stream.
        every: batches between two rows of the history.

    Returns:
        A `Learned`, also after Ctrl-C and SIGTERM.

    Raises:
        TypeError: what is no trainer; batches that are no pairs of arrays; a call inside `jit`, `vmap` or `grad`.
        ValueError: a stream without batches; examples of another shape or dtype than those of the first batch.
    """
    training_checks.is_trainer("learn_online", trainer)
    training_checks.outside_a_trace("learn_online", "trainer.update")
    data_checks.is_stream("learn_online", batches)
    every = checks.count("every", every)
    steps = None if steps is None else checks.count("steps", steps)
    rows: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    kind, sizes, number, examples, first = None, set(), 0, 0, int(state.step)
    best, in_flight = state, deque[tuple[TrainState, Any]]()

    def finished(left: int) -> bool:
        """Wait until at most so many steps are under way; whether the losses of those that ended are finite."""
        nonlocal best
        while len(in_flight) > left and np.isfinite(in_flight[0][1]):
            best = in_flight.popleft()[0]
        return len(in_flight) <= left

    def learned(stopped: str) -> Learned:
        went_well = finished(0) and bool(is_finite(state.params))
        left = [_row(first + number, examples, told)] if told else []
        history = jax.tree.map(lambda *blocks: np.stack(blocks), *rows, *left) if rows or left else {}
        return Learned(state, history, stopped, state) if went_well else Learned(state, history, "diverged", best)

    with keeping(learned) as ending:
        for pair in islice(batches, steps):
            x, y = data_checks.arrays(number, pair)
            kind = _kind(number, x, y, kind)
            sizes = _sizes(sizes, len(x))
            if not finished(_IN_FLIGHT - 1):
                break
            with ending.held():
                after, metrics = _updated(trainer, state, (x, y))
                training_checks.tells_loss("learn_online", metrics)
                in_flight.append((state, metrics["loss"]))
                state, number, examples = after, number + 1, examples + len(x)
                told.append(metrics)
                if len(told) == every:
                    rows.append(_row(first + number, examples, told))
                    told.clear()
        _some_batches(number)
    return learned(ending.stopped or ("steps" if number == steps else "end of stream"))


@compiled("trainer")
def _updated(trainer: Trainer, state: TrainState, batch: tuple[Any, Any]) -> tuple[TrainState, Any]:
    return trainer.update(state, batch)


def _row(step: int, examples: int, told: list[dict[str, Any]]) -> dict[str, Any]:
    """The means of the metrics of some batches."""
    return {"step": step, "examples": examples} | jax.tree.map(_mean, *jax.device_get(told))


def _mean(*values: np.ndarray) -> np.ndarray:
    """In float32 at least, summed in float64: NumPy would sum bfloat16 in bfloat16."""
    stacked = np.stack(values)
    return np.mean(stacked.astype(np.float64), axis=0).astype(np.promote_types(stacked.dtype, np.float32))


def _kind(number: int, x: Any, y: Any, first: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Dtype and shape of the examples and targets of a batch, which must be those of the first."""
    found = tuple((str(part.dtype), part.shape[1:]) for part in (x, y))
    for name, got, expected in zip("xy", found, first or found, strict=True):
        if got != expected:
            raise ValueError(
                f"batch {number} of the stream has {name} of {_described(*got)}, batch 0 had {_described(*expected)}; "
                "only the number n of examples may differ: make the stream convert what it yields"
            )
    return found


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} [{', '.join(map(str, ('n', *shape)))}]"


def _sizes(found: set[int], newest: int) -> set[int]:
    """Batches of one size, and perhaps a smaller last one; each size is compiled by itself."""
    if newest not in found and len(found) == 2:
        warnings.warn(
            f"the stream's batches come in three sizes so far, {sorted({*found, newest})} examples, and every new size "
            "compiles the step anew; make the stream yield batches of one size",
            stacklevel=3,
        )
    return {*found, newest}


def _some_batches(number: int) -> None:
    """A stream that gave at least one batch."""
    if number == 0:
        raise ValueError("the stream gave no batch; a generator runs once only: make a new one")
