"""Batches read ahead, in a thread, so that the device does not wait for the next one."""

from __future__ import annotations

import atexit
from collections.abc import Generator, Iterable, Iterator
from itertools import count
from queue import SimpleQueue
from threading import Event, Thread, current_thread
from typing import Any, cast

import jax
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array
from fnn.data import _checks as data_checks

_PATIENCE = 1.0  # seconds that closing waits for the batch being read; a source that hangs must not hang its consumer


def read_ahead(batches: Iterable[Any], *, ahead: int = 2, device: Any = None) -> Iterator[tuple[Array, Array]]:
    """The same batches in the same order, the next of them read in the background and put on the device.

    A thread takes batches from the stream, copies them to the device and waits while `ahead` of them are there that
    nobody has taken; with the one in use and the one before, at most ahead + 2 are in memory. An error of the stream
    arrives when its turn comes, after the batches before it.

    The thread starts with the first ``next`` and ends with the stream. It also ends when the iterator is closed or no
    longer referred to, after a ``break`` or Ctrl-C; a generator is then closed, and what had been read ahead of it is
    lost. To go on later, keep the iterator that this returns. A stream must not mind which thread it runs in.

    Args:
        batches: an iterable of pairs (x [n, …], y [n, …]) of NumPy or JAX arrays, or what `numpy.asarray` takes:
            `minibatches`, a data loader, a generator.
        ahead: batches read and not yet taken, at least 1. Two hide a read that is always shorter than a step;
            `minibatches` reads its whole buffer at once, which so many batches hide as take as long to learn from.
        device: a device, or a sharding, for which JAX cuts each batch; by default where JAX puts new arrays.

    Returns:
        An iterator of (x, y), JAX arrays.

    Raises:
        TypeError: no iterable, or, when their turn comes, batches that are no pairs of arrays.
        ValueError: `ahead` below 1; pairs of unequally many examples.

    Example:
        >>> import numpy as np
        >>> def stream():
        ...     for number in range(4):
        ...         print("read", number)
        ...         yield np.full((2, 3), number), np.full(2, number)
        >>> total = 0
        >>> for x, y in read_ahead(stream(), ahead=1):
        ...     total += x.sum() + y.sum()
        read 0
        read 1
        read 2
        read 3
        >>> int(total)
        48
    """
    data_checks.is_stream(batches)
    return _taken(batches, checks.count("ahead", ahead), device)


def _taken(batches: Iterable[Any], ahead: int, device: Any) -> Iterator[tuple[Array, Array]]:
    """What the thread has read, as it comes.

    The garbage collector may close this in any thread at any moment, so that nothing here may wait for a lock which
    that thread holds: `SimpleQueue.put` is made for it, and `closed` is only ever asked, not waited for.
    """
    read, room, closed, config = SimpleQueue[Any](), SimpleQueue[None](), Event(), cast(Any, jax.config)
    context = config.jax_enable_x64, config.jax_default_device  # they hold for this thread; the other one takes them on
    thread = Thread(target=_read, args=(batches, device, context, read, room, closed), name="read_ahead", daemon=True)
    here, patience, unregister = current_thread, _PATIENCE, atexit.unregister  # modules may be emptied before this ends

    def close() -> None:
        closed.set()
        room.put(None)
        if thread.is_alive() and thread is not here():
            thread.join(patience)

    for _ in range(ahead):
        room.put(None)
    try:
        atexit.register(close)  # a thread that is inside JAX while Python shuts down would crash it
        thread.start()
        while True:
            batch, error = read.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                try:
                    raise error
                finally:
                    del error  # its traceback holds this frame
            room.put(None)
            yield batch
    finally:
        if not closed.is_set():  # else Python is ending: it has called `close`, and may have emptied any module since
            close()
            unregister(close)


def _read(
    batches: Iterable[Any], device: Any, context: tuple[Any, Any], read: SimpleQueue[Any], room: Any, closed: Event
) -> None:
    """The thread: a batch for each place there is `room` for, and then what ended the stream."""
    source = None
    with jax.enable_x64(context[0]), jax.default_device(context[1]):
        try:
            source = iter(batches)
            for number in count():
                room.get()
                if closed.is_set():
                    return
                read.put((_on_device(number, next(source), device), None))
        except BaseException as error:
            read.put((None, error))
        finally:
            if isinstance(source, Generator):
                source.close()


def _on_device(number: int, pair: Any, device: Any) -> tuple[Array, Array]:
    """A batch on the device, in memory of its own: on a CPU JAX would share what the stream may fill again."""
    parts = (part if isinstance(part, jax.Array) else np.array(part) for part in data_checks.arrays(number, pair))
    return jax.block_until_ready(jax.device_put(tuple(parts), device))
