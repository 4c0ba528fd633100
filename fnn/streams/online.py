"""Online learning: one gradient step a batch, as batches come."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn import checks
from fnn.checks import streaming as stream_checks
from fnn.training import compiled
from fnn.types import Trainer, TrainState

_IN_FLIGHT = 2  # steps given to the device and not yet finished: a fast stream must not pile up in memory


class Learned(NamedTuple):
    """What `learn_online` got done, however it ended."""

    state: TrainState
    """after the last batch"""
    history: dict[str, Any]
    """for each `every` batches, and for those left over at the end: the "step" and the number of "objects" learned from
    when they end, and the means of the metrics"""
    stopped: str
    """"end of stream", "steps", "diverged" (a loss that is not finite) or "interrupted" (Ctrl-C)"""


def learn_online(
    trainer: Trainer, state: TrainState, batches: Iterable[Any], *, steps: int | None = None, every: int = 100
) -> Learned:
    """Learn from batches as they come, one gradient step each, until the stream ends (slide "BackProp").

    The step is compiled once for each number of objects in a batch, so a smaller last batch is learned from too, and
    compiles it once more. While the device computes a step, the next batch is read.

    Args:
        trainer: a `Trainer`; its ``update`` is used.
        state: where to start: from ``trainer.init(key, first_batch)``, the trainer's batch_size being no larger than
            that batch; or the state of an earlier call.
        batches: an iterable of pairs (x [n, …], y [n, …]) of NumPy or JAX arrays, or what `numpy.asarray` takes.
        steps: stop after so many batches; by default at the end of the stream.
        every: batches between two rows of the history.

    Returns:
        A `Learned`, also after Ctrl-C.

    Raises:
        TypeError: batches that are no pairs of arrays.
        ValueError: a stream without batches; objects of another shape or dtype than those of the first batch.
    """
    stream_checks.is_stream(batches)
    every = checks.count("every", every)
    steps = None if steps is None else checks.count("steps", steps)
    rows: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    kind, sizes, number, objects, stopped = None, set(), 0, 0, "end of stream"
    try:
        for number, pair in enumerate(islice(batches, steps), 1):
            x, y = stream_checks.arrays(number - 1, pair)
            kind = stream_checks.kind(number - 1, x, y, kind)
            sizes = stream_checks.sizes(sizes, len(x))
            jax.block_until_ready(told[-_IN_FLIGHT : -_IN_FLIGHT + 1])
            state, metrics = _updated(trainer, state, (x, y))
            told.append(metrics)
            objects += len(x)
            if len(told) == every:
                rows.append(_row(state, objects, told))
                told = []
                if not np.isfinite(rows[-1]["loss"]):
                    break
        if number == steps:
            stopped = "steps"
    except KeyboardInterrupt:
        stopped = "interrupted"
    if told:
        rows.append(_row(state, objects, told))
    if stopped == "end of stream":
        stream_checks.some_batches(number)
    if rows and not np.isfinite(rows[-1]["loss"]):
        stopped = "diverged"
    history = jax.tree.map(lambda *blocks: np.stack(blocks), *rows) if rows else {}
    return Learned(state, history, stopped)


@compiled("trainer")
def _updated(trainer: Trainer, state: TrainState, batch: tuple[Any, Any]) -> tuple[TrainState, Any]:
    return trainer.update(state, batch)


def _row(state: TrainState, objects: int, told: list[dict[str, Any]]) -> dict[str, Any]:
    means = jax.tree.map(lambda *metrics: np.mean(metrics, axis=0), *jax.device_get(told))
    return {"step": int(state.step), "objects": objects} | means
