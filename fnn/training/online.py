"""Online learning: one gradient step per batch of a stream."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Trainer, TrainState
from fnn.data import _checks as data_checks
from fnn.training import _checks as training_checks
from fnn.training._processes import agreed_end
from fnn.training._signals import held_if, keeping
from fnn.training.trainers import compiled, is_finite

_IN_FLIGHT = 2  # steps dispatched to the device and not yet finished: a fast stream must not pile up in memory


class Learned(NamedTuple):
    """The result of `learn_online`, however it ended."""

    state: TrainState
    """after the last batch"""
    history: dict[str, Any]
    """one row per `every` batches and one for the rest: "step" and the number of "examples" seen at its end, and the
    means of the metrics"""
    stopped: str
    """"end of stream", "steps", "diverged" (a loss or a weight that is not finite), "interrupted" (Ctrl-C) or
    "preempted" (SIGTERM)"""
    best: TrainState
    """the state; if training diverged, the last one with a finite loss on its batch"""


def learn_online(
    trainer: Trainer, state: TrainState, batches: Iterable[Any], *, steps: int | None = None, every: int = 100
) -> Learned:
    """Learn from a stream, one gradient step per batch, until it ends (slide "BackProp").

    The step is compiled once for each batch size, so a smaller last batch also counts, at the price of one more
    compilation. While the device computes a step, the next batch is read. An error of the stream, or a batch that does
    not fit, carries the result of the batches before: ``error.done``, a `Learned`.

    Args:
        trainer: a `Trainer`; its ``update`` is used.
        state: the state to start from: ``trainer.init(key, first_batch)``, with the trainer's batch_size no larger than
            that batch; or the state of an earlier call.
        batches: an iterable of batches, (x [n, …], y [n, …]) or other pytrees of NumPy or JAX arrays, or of anything
            `numpy.asarray` accepts.
        steps: stop after this many batches; by default at the end of the stream.
        every: batches per row of the history.

    Returns:
        A `Learned`, also after Ctrl-C and SIGTERM; of several processes, all end with the same row of the history.

    Raises:
        TypeError: `trainer` is not a trainer; a batch that is not a pair of arrays; a call inside `jit`, `vmap` or
            `grad`.
        ValueError: a stream without batches; examples of another shape or dtype than those of the first batch.
    """
    training_checks.is_trainer("learn_online", trainer)
    training_checks.outside_a_trace("learn_online", "trainer.update")
    data_checks.is_stream("learn_online", batches)
    every = checks.count("every", every)
    steps = None if steps is None else checks.count("steps", steps)
    first = int(state.step)
    number, examples = 0, 0  # batches and examples learned from
    best = state
    in_flight = deque[tuple[TrainState, Any]]()
    rows: list[dict[str, Any]] = []
    recent: list[dict[str, Any]] = []  # metrics of the batches since the last row

    def finished(left: int) -> bool:
        """Wait until at most `left` steps are running; whether the losses of the finished ones are finite."""
        nonlocal best
        while len(in_flight) > left and np.isfinite(in_flight[0][1]):
            best = in_flight.popleft()[0]
        return len(in_flight) <= left

    def learned(stopped: str) -> Learned:
        went_well = finished(0) and bool(is_finite(state.params))
        rest = [_row(first + number, examples, recent)] if recent else []
        history = jax.tree.map(lambda *blocks: np.stack(blocks), *rows, *rest) if rows or rest else {}
        return Learned(state, history, stopped, state) if went_well else Learned(state, history, "diverged", best)

    several = jax.process_count() > 1  # they must end after the same batch
    with keeping(learned) as ending, held_if(several, ending):
        for batch, size in _checked(islice(batches, steps)):
            if not finished(_IN_FLIGHT - 1):
                break
            with held_if(not several, ending):
                after, metrics = _updated(trainer, state, batch)
                training_checks.reports_loss("learn_online", metrics)
                in_flight.append((state, metrics["loss"]))
                state = after
                number += 1
                examples += size
                recent.append(metrics)
                if len(recent) == every:
                    rows.append(_row(first + number, examples, recent))
                    recent.clear()
            ending.stopped = ending.stopped if recent else agreed_end(ending)
            if ending.stopped:
                break
    return learned(ending.stopped or ("steps" if number == steps else "end of stream"))


@compiled("trainer")
def _updated(trainer: Trainer, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
    return trainer.update(state, batch)


def _row(step: int, examples: int, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the history: the means of the metrics of some batches."""
    return {"step": step, "examples": examples} | jax.tree.map(_mean, *jax.device_get(metrics))


def _mean(*values: np.ndarray) -> np.ndarray:
    """The mean in float32 at least, summed in float64: NumPy would sum bfloat16 in bfloat16."""
    stacked = np.stack(values)
    return np.mean(stacked.astype(np.float64), axis=0).astype(np.promote_types(stacked.dtype, np.float32))


def _checked(batches: Iterable[Any]) -> Iterator[tuple[Any, int]]:
    """The batches, at least one, as arrays with the shapes and dtypes of the first; and their numbers of examples."""
    kind = None
    sizes: set[int] = set()
    for number, batch in enumerate(batches):
        batch, size = data_checks.arrays(number, batch)
        kind = _kind(number, batch, kind)
        sizes = _sizes(sizes, size)
        yield batch, size
    if kind is None:
        raise ValueError(
            "learn_online: expected at least one batch, got an empty stream. Make a new generator for every call: it "
            "runs only once."
        )


def _kind(number: int, batch: Any, first: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of the examples in each array of a batch, checked against those of the first batch."""
    leaves = jax.tree.leaves_with_path(batch)
    found = {checks.leaf_of_batch(path, batch): (str(part.dtype), part.shape[1:]) for path, part in leaves}
    if first is not None and found.keys() != first.keys():
        raise ValueError(
            f"batch {number} of the stream: expected the arrays {', '.join(first)} of batch 0, got {', '.join(found)}. "
            "Yield batches of one structure."
        )
    for (name, got), expected in zip(found.items(), (first or found).values(), strict=True):
        if got != expected:
            raise ValueError(
                f"batch {number} of the stream: expected {name} of {_described(*expected)} as in batch 0, got "
                f"{_described(*got)}. Convert the batches in the stream; only their number n of examples may vary."
            )
    return found


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} [{', '.join(map(str, ('n', *shape)))}]"


def _sizes(found: set[int], newest: int) -> set[int]:
    """The batch sizes so far; a warning on the third, as each is compiled separately and a last batch may differ."""
    if newest not in found and len(found) == 2:
        warnings.warn(
            f"learn_online: expected batches of one size, got three sizes so far, {sorted({*found, newest})} examples; "
            "every new size compiles the step anew. Make the stream yield batches of one size.",
            stacklevel=4,
        )
    return {*found, newest}
