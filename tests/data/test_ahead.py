"""Batches read ahead: the same batches, while the consumer works, so many and no more, and no thread left behind.

Nothing here is timed: streams and consumers wait for each other, and a wait that would last for ever fails.
"""

import contextlib
import gc
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import fnn
from fnn import linear, serial, squared, tanh, trainer
from fnn.data import memory_mapped, minibatches, read_ahead
from fnn.training import learn_online

LONG = 20.0  # seconds until a wait for another thread is given up


def batch(number: int, n: int = 4) -> Any:
    return np.full((n, 3), number, np.float64), np.full((n, 1), number, np.float64)


def numbers(batches: Any) -> list[int]:
    return [int(x[0, 0]) for x, _ in batches]


class Stream:
    """Batches 0, 1, … whose reading is watched: how many were read, in which threads, and whether it was closed."""

    def __init__(self, size: int | None = None, fails_at: int | None = None) -> None:
        self.size, self.fails_at = size, fails_at
        self.read, self.closed, self.threads = 0, threading.Event(), set[threading.Thread]()
        self.more = threading.Condition()

    def __iter__(self) -> Iterator[Any]:
        try:
            for number in count() if self.size is None else range(self.size):
                if number == self.fails_at:
                    raise OSError(f"the disk failed at batch {number}")
                self.threads.add(threading.current_thread())
                with self.more:
                    self.read += 1
                    self.more.notify_all()
                yield batch(number)
        finally:
            self.closed.set()

    def has_read(self, number: int) -> bool:
        with self.more:
            return self.more.wait_for(lambda: self.read >= number, LONG)


def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < LONG
        time.sleep(0.001)


def ended(thread: threading.Thread) -> bool:
    thread.join(LONG)
    return not thread.is_alive()


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert all(ended(thread) for thread in set(threading.enumerate()) - before)


# The same batches


@pytest.mark.parametrize("ahead", [1, 2, 5, 100])
def test_the_batches_come_as_they_would(ahead: int) -> None:
    stream = Stream(30)
    got = list(read_ahead(stream, ahead=ahead))
    chex.assert_trees_all_equal(got, [tuple(map(jnp.asarray, batch(number))) for number in range(30)], strict=True)
    assert all(isinstance(part, jax.Array) for pair in got for part in pair)
    assert not any(thread.is_alive() for thread in stream.threads)


def test_what_is_no_generator_is_read_too() -> None:
    assert numbers(read_ahead([list(batch(3)), batch(4)])) == [3, 4]
    assert numbers(read_ahead(map(batch, range(3)))) == [0, 1, 2]
    assert numbers(read_ahead(read_ahead(Stream(5)))) == [0, 1, 2, 3, 4]
    assert numbers(read_ahead(iter(()))) == []
    on_device = jnp.ones((2, 3)), jnp.ones((2, 1))
    assert next(read_ahead([on_device]))[0] is on_device[0]


def test_a_list_can_be_read_again_but_an_iterator_once() -> None:
    batches = [batch(0), batch(1)]
    assert numbers(read_ahead(batches)) == numbers(read_ahead(batches)) == [0, 1]
    once = read_ahead(batches)
    assert (numbers(once), numbers(once)) == ([0, 1], [])


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """An array that JAX shares with its CPU device instead of copying it."""
    size = int(np.prod(shape))
    raw = np.zeros(8 * size + 64, np.uint8)
    begin = -raw.ctypes.data % 64
    return raw[begin : begin + 8 * size].view(np.float64).reshape(shape)


def test_a_stream_may_fill_one_array_over_and_over() -> None:
    x, y = aligned((4, 3)), aligned((4, 1))

    def reusing() -> Iterator[Any]:
        for x[...], y[...] in Stream(20):
            yield x, y

    kept = list(read_ahead(reusing(), ahead=3))
    assert numbers(kept) == list(range(20))
    assert [int(y[0, 0]) for _, y in kept] == list(range(20))


def test_learning_is_the_same_bit_for_bit(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", generator.normal(size=(1000, 3)))
    np.save(tmp_path / "y.npy", generator.normal(size=(1000, 1)))
    x, y = memory_mapped(tmp_path / "x.npy", tmp_path / "y.npy")
    first: Any = x[:32], y[:32]
    learn = trainer(serial(fnn.dense(4, tanh), linear(1)), squared, fnn.adam(0.01), batch_size=32)
    start = learn.init(jax.random.key(0), first)
    cut = partial(minibatches, (x, y), 32, jax.random.key(1), epochs=2, buffer=100)
    as_is, ahead = (learn_online(learn, start, batches, every=7) for batches in (cut(), read_ahead(cut(), ahead=3)))
    assert (ahead.stopped, int(ahead.state.step)) == ("end of stream", 62)
    chex.assert_trees_all_equal(ahead, as_is)


def test_who_keeps_the_iterator_goes_on_where_it_was() -> None:
    learn = trainer(linear(1), squared, fnn.sgd(0.001), batch_size=4)
    start = learn.init(jax.random.key(0), batch(0))
    ahead = read_ahead(Stream(10))
    done = learn_online(learn, start, ahead, steps=3)
    assert (done.stopped, int(done.state.step)) == ("steps", 3)
    resumed = learn_online(learn, done.state, ahead)
    chex.assert_trees_all_equal(resumed.state, learn_online(learn, start, Stream(10)).state)


# Where the batches are put


def test_batches_go_to_the_device_or_sharding_asked_for() -> None:
    first, second, _ = jax.devices()
    assert next(read_ahead(Stream(1)))[0].devices() == {first}
    assert next(read_ahead(Stream(1), device=second))[0].devices() == {second}
    halves = NamedSharding(Mesh(np.array([first, second]), ("n",)), PartitionSpec("n"))
    for part in next(read_ahead(Stream(1), device=halves)):
        assert part.sharding == halves
        assert [shard.data.shape[0] for shard in part.addressable_shards] == [2, 2]
    with pytest.raises(ValueError, match="device_put"):
        next(read_ahead(Stream(1), device="gpu"))


def test_the_thread_computes_as_its_consumer_does() -> None:
    """JAX's context managers hold for one thread; those that decide what arrays are hold for the reading one too."""

    def computing() -> Iterator[Any]:
        yield jnp.ones((2, 1)) * 0.5, np.ones((2, 1))

    with jax.enable_x64(False), jax.default_device(jax.devices()[1]):
        pair = next(read_ahead(computing()))
    assert all((part.dtype, part.devices()) == (jnp.float32, {jax.devices()[1]}) for part in pair)
    assert all(part.dtype == jnp.float64 for part in next(read_ahead(computing())))


# Ahead


def test_the_next_batch_is_read_while_one_is_in_use() -> None:
    """Each waits within its work for the other to be within its own; taking turns they would wait for ever."""
    in_use, read = ([threading.Event() for _ in range(6)] for _ in range(2))

    def stream() -> Iterator[Any]:
        for number in range(6):
            assert number == 0 or in_use[number - 1].wait(LONG)
            read[number].set()
            yield batch(number)

    for number, _ in enumerate(read_ahead(stream(), ahead=1)):
        in_use[number].set()
        assert number == 5 or read[number + 1].wait(LONG)


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_so_many_are_read_ahead_and_no_more(ahead: int) -> None:
    stream = Stream()
    batches = read_ahead(stream, ahead=ahead)
    assert stream.read == 0
    for taken in range(1, 20):
        next(batches)
        assert stream.has_read(taken + ahead)
        assert stream.read == taken + ahead
    batches.close()  # type: ignore[attr-defined]
    assert stream.read == 19 + ahead


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_batches_are_in_memory_than_said(ahead: int) -> None:
    def alive() -> int:
        return sum(array.shape == (17, 3) for array in jax.live_arrays())

    def stream() -> Iterator[Any]:
        for number in range(20):
            yield tuple(map(jnp.asarray, batch(number, 17)))
            most.append(alive())

    most = [alive()]
    assert most == [0]
    for taken, _ in enumerate(read_ahead(stream(), ahead=ahead), 1):
        until(lambda taken=taken: alive() >= 1 + min(ahead, 20 - taken))
        most.append(alive())
    assert ahead + 1 <= max(most) <= ahead + 2


# Errors


def test_an_error_comes_when_its_turn_comes_and_shows_where_it_arose() -> None:
    stream = Stream(fails_at=4)
    batches = read_ahead(stream, ahead=10)
    got = numbers(islice(batches, 4))
    with pytest.raises(OSError, match="failed at batch 4") as caught:
        next(batches)
    assert got == [0, 1, 2, 3]
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.name, last.filename) == ("__iter__", __file__)
    assert stream.closed.is_set()
    assert all(ended(thread) for thread in stream.threads)
    with pytest.raises(StopIteration):
        next(batches)


def test_an_error_that_was_handled_is_gone() -> None:
    class Failed(Exception):
        pass

    def failing() -> Iterator[Any]:
        error = Failed()
        alive.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error
        yield

    alive, threads = list[Any](), threading.active_count()
    gc.disable()
    try:
        with contextlib.suppress(Failed):
            next(read_ahead(failing()))
        until(lambda: threading.active_count() == threads)
        assert alive[0]() is None
    finally:
        gc.enable()


def test_an_error_before_the_first_batch_and_ctrl_c_come_too() -> None:
    class Broken:
        def __iter__(self) -> Iterator[Any]:
            raise RuntimeError("no such file")

    def interrupted() -> Iterator[Any]:
        yield batch(0)
        raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match="no such file"):
        next(read_ahead(Broken()))
    batches = read_ahead(interrupted())
    next(batches)
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    learn = trainer(linear(1), squared, fnn.sgd(0.001), batch_size=4)
    start = learn.init(jax.random.key(0), batch(0))
    done = learn_online(learn, start, read_ahead(interrupted()))
    assert (done.stopped, int(done.state.step)) == ("interrupted", 1)


def test_what_is_no_batch_is_refused_in_its_place() -> None:
    x, y = batch(0)
    bad: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "batch 1 of the stream: expected arrays, .* got str for batch", [(x, y), "x", x]),
        (TypeError, r"batch 1 of the stream: expected arrays, .* got float for y\[0\]", [(x, y), (x, [1.0])]),
        (ValueError, "batch 1 of the stream: expected equally many examples", [(x, y), (x, y[:3])]),
    ]
    for error, message, batches in bad:
        ahead = read_ahead(batches)
        next(ahead)
        with pytest.raises(error, match=message):
            next(ahead)


# The end


def broken_off(batches: Iterator[Any], is_full: Callable[[], bool]) -> None:
    for x, _ in batches:
        if x[0, 0] == 3:
            assert is_full()
            break


def closed(batches: Any, is_full: Callable[[], bool]) -> None:
    list(islice(batches, 4))
    assert is_full()
    batches.close()


def interrupted(batches: Iterator[Any], is_full: Callable[[], bool]) -> None:
    def consumer() -> None:
        for x, _ in batches:
            if x[0, 0] == 3 and is_full():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consumer()


def in_a_cycle(batches: Iterator[Any], is_full: Callable[[], bool]) -> None:
    list(islice(batches, 4))
    assert is_full()
    cycle: list[Any] = [batches]
    cycle.append(cycle)


@pytest.mark.parametrize("leave", [broken_off, closed, interrupted, in_a_cycle], ids=lambda leave: leave.__name__)
def test_leaving_early_ends_the_thread_and_closes_the_stream(leave: Callable[..., None]) -> None:
    stream = Stream()
    generator = iter(stream)  # who refers to it still has it closed
    leave(read_ahead(generator, ahead=2), lambda: stream.has_read(6))
    gc.collect()
    assert stream.closed.is_set()
    assert len(stream.threads) == 1
    assert not any(thread.is_alive() for thread in stream.threads)
    assert stream.read == 6


def test_a_loader_that_can_be_closed_is_left_open() -> None:
    class Loader(Stream):
        def __next__(self) -> Any:
            self.read += 1
            return batch(self.read - 1)

        def __iter__(self) -> Iterator[Any]:
            return self

        def close(self) -> None:
            self.closed.set()

    loader = Loader()
    assert numbers(islice(read_ahead(loader), 3)) == [0, 1, 2]
    assert not loader.closed.is_set()


def test_an_iterator_that_is_never_asked_starts_nothing() -> None:
    before, stream = threading.active_count(), Stream()
    batches = read_ahead(stream)
    assert threading.active_count() == before
    del batches
    assert stream.read == 0


def test_the_collector_may_close_it_in_the_reading_thread() -> None:
    collect, caught = threading.Event(), []

    def stream() -> Iterator[Any]:
        try:
            yield batch(0)
            collect.wait(LONG)
            gc.collect()
            yield batch(1)
        finally:
            caught.append(threading.current_thread())

    batches = read_ahead(stream())
    next(batches)
    cycle: list[Any] = [batches]
    cycle.append(cycle)
    gc.disable()
    try:
        del batches, cycle
        reader = next(thread for thread in threading.enumerate() if thread.name == "read_ahead")
        collect.set()
        assert ended(reader)
    finally:
        gc.enable()
    assert caught == [reader]


def test_a_stream_that_hangs_does_not_hang_who_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fnn.data.ahead._PATIENCE", 0.01)
    goes_on, was_closed = threading.Event(), threading.Event()

    def stream() -> Iterator[Any]:
        try:
            yield batch(0)
            goes_on.wait()
            yield batch(1)
        finally:
            was_closed.set()

    batches: Any = read_ahead(stream())
    next(batches)
    at_last = threading.Timer(LONG, goes_on.set)
    at_last.start()
    batches.close()
    at_last.cancel()
    assert not was_closed.is_set()
    goes_on.set()
    assert was_closed.wait(LONG)


ENDS = """
import itertools, sys, threading
import numpy as np
from fnn.data import read_ahead

hangs = threading.Event()

def stream():
    try:
        for number in itertools.count():
            if sys.argv[1] == "hang" and number == 2:
                hangs.set()
                threading.Event().wait()
            yield np.full((300, 300), number, np.float32), np.zeros(300, np.float32)
    finally:
        print("closed", flush=True)

if sys.argv[1] == "bare":  # Python may empty modules before it closes generators; this comes after what they register
    import atexit, fnn.data.ahead

    for module in (atexit, fnn.data.ahead, threading):
        atexit.register(lambda names=vars(module): names.update(dict.fromkeys(names)))

batches = read_ahead(stream(), ahead=50 if sys.argv[1] == "busy" else 2)
next(batches)
if sys.argv[1] == "hang":
    hangs.wait()
if sys.argv[1] == "error":
    raise SystemExit(3)
"""


@pytest.mark.parametrize(
    ("how", "says"),
    [("idle", "closed\n"), ("busy", "closed\n"), ("error", "closed\n"), ("hang", ""), ("bare", "closed\n")],
)
def test_a_program_ends_with_batches_still_read_ahead(how: str, says: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(ENDS), how], capture_output=True, text=True, timeout=120, check=False
    )
    assert (run.returncode, run.stdout) == (3 if how == "error" else 0, says)
    assert not run.stderr or (how == "bare" and "read_ahead" not in run.stderr)  # others may miss `threading` at exit
