"""Batches read ahead by a background thread, so that the device does not wait for data."""

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

_PATIENCE = 1.0  # seconds to wait on closing for a batch being read: a source that hangs must not hang its consumer


def read_ahead(batches: Iterable[Any], *, ahead: int = 2, device: Any = None) -> Iterator[tuple[Array, Array]]:
    """The same batches in the same order, read in the background and already on the device.

    A thread takes batches from the stream, copies them to the device and pauses while `ahead` of them are waiting to
    be consumed; with the batch in use and the one before it, at most ahead + 2 are in memory. An error of the stream is
    raised in its place, after the batches before it.

    The thread starts with the first ``next`` and ends with the stream. It also ends when the iterator is closed or
    garbage-collected, after a ``break`` or Ctrl-C; a generator is then closed, and batches already read ahead are lost.
    To continue later, keep the returned iterator. The stream must be able to run in another thread.

    Args:
        batches: an iterable of batches, (x [n, …], y [n, …]) or other pytrees of NumPy or JAX arrays, or of anything
            `numpy.asarray` accepts: `minibatches`, a data loader, a generator.
        ahead: the most batches read but not yet consumed, at least 1. Two hide a read that is always shorter than a
            step. `minibatches` reads a whole buffer at a time; to hide that, `ahead` must cover as many batches as can
            be trained on meanwhile.
        device: a device, or a sharding by which JAX splits each batch; by default where JAX puts new arrays.

    Returns:
        An iterator of the same batches as JAX arrays.

    Raises:
        TypeError: `batches` is not iterable; in its place, a batch that is not a pytree of arrays.
        ValueError: `ahead` is below 1; a batch whose arrays have different numbers of examples.

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
    data_checks.is_stream("read_ahead", batches)
    return _consumed(batches, checks.count("ahead", ahead), device)


def _consumed(batches: Iterable[Any], ahead: int, device: Any) -> Iterator[tuple[Array, Array]]:
    """The batches that the thread has read, in order.

    The garbage collector may close this generator in any thread at any moment, so nothing here may wait for a lock
    which that thread holds: `SimpleQueue.put` is reentrant, and `closed` is only queried, never waited for.
    """
    read = SimpleQueue[Any]()
    room = SimpleQueue[None]()
    closed = Event()
    config = cast(Any, jax.config)
    context = config.jax_enable_x64, config.jax_default_device  # settings of this thread, which the reader adopts
    thread = Thread(target=_read, args=(batches, device, context, read, room, closed), name="read_ahead", daemon=True)
    # At exit Python may empty modules before this generator ends: keep references to what `close` and the end need.
    this_thread = current_thread
    patience = _PATIENCE
    unregister = atexit.unregister

    def close() -> None:
        closed.set()
        room.put(None)
        if thread.is_alive() and thread is not this_thread():
            thread.join(patience)

    for _ in range(ahead):
        room.put(None)
    try:
        atexit.register(close)  # a thread still inside JAX while Python shuts down would crash the process
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
        if not closed.is_set():  # otherwise Python is exiting: it has called `close` and may have emptied any module
            close()
            unregister(close)


def _read(
    batches: Iterable[Any], device: Any, context: tuple[Any, Any], read: SimpleQueue[Any], room: Any, closed: Event
) -> None:
    """Body of the thread: read one batch per token in `room`, then pass on the exception that ended the stream."""
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


def _on_device(number: int, batch: Any, device: Any) -> Any:
    """A copy of a batch on the device: on a CPU, JAX would otherwise share memory that the stream may overwrite."""
    batch, _ = data_checks.arrays(number, batch)
    batch = jax.tree.map(lambda part: part if isinstance(part, jax.Array) else np.array(part), batch)
    return jax.block_until_ready(jax.device_put(batch, device))
