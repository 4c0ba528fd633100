"""Samples on the disk, and shuffled mini-batches of them in bounded memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import count
from os import PathLike
from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array
from fnn.data.sampling import permuted

_BUFFER_BYTES = 2**25


def memory_mapped(x_path: str | PathLike[str], y_path: str | PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """A sample in two .npy files, which stays on the disk: only what is read comes to memory.

    Args:
        x_path: examples [ℓ, …], as `numpy.save` stores them.
        y_path: targets [ℓ, …].

    Returns:
        Two read-only memory-mapped arrays, for `minibatches`.

    Raises:
        ValueError: files that do not pair, are empty, or hold an array in Fortran order.
    """
    x, y = (np.load(path, mmap_mode="r") for path in (x_path, y_path))
    _mapped_files(x, y, (str(x_path), str(y_path)))
    return x, y


def minibatches(
    x: Any,
    y: Any,
    batch_size: int,
    key: Array,
    *,
    epochs: int | None = 1,
    contiguous: int = 64,
    buffer: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shuffled mini-batches of a sample that need not fit in memory (slide "BackProp").

    The sample is cut into runs of `contiguous` neighbours, and an epoch takes the runs in random order. As many of them
    as make up `buffer` examples are read, and batches are drawn from these without replacement. Examples of one run
    meet in a batch more often than others: where neighbours are alike, as in a sample sorted by classes, take a short
    run; the shortest, 1, reads slowest.

    Every batch is full. The ℓ mod batch_size examples that come last in an epoch are left out of it; they differ from
    epoch to epoch. A memory map, or a view of one without gaps, is read from its file: mapped pages would count as
    memory of this process.

    Args:
        x: examples [ℓ, …]: a NumPy array, memory-mapped or not, or what gives one by ``x[start:stop]``, as HDF5 does.
        y: targets [ℓ, …], likewise.
        batch_size: examples in a batch, in 1 … ℓ.
        key: a key; all order is a function of it and of the epoch.
        epochs: passes over the sample; None for no end.
        contiguous: neighbours read in one go; 1 gives the order of a full shuffle if `buffer` is large.
        buffer: examples in memory at a time; by default as many as take 32 MB, at least a batch and a run.

    Returns:
        An iterator of (x [batch_size, …], y [batch_size, …]), NumPy arrays that are copies.

    Raises:
        ValueError: data that do not pair or hold less than a batch, or numbers out of range.

    Example:
        >>> import jax, numpy as np
        >>> x = np.arange(10)
        >>> batches = list(minibatches(x, x, 3, jax.random.key(0), contiguous=2))
        >>> [batch.shape for batch, _ in batches], len(np.unique([batch for batch, _ in batches]))
        ([(3,), (3,), (3,)], 9)
    """
    size = _large_sample(x, y, batch_size, contiguous)
    x, y = (np.asarray(part) if isinstance(part, jax.Array) else part for part in (x, y))
    example_bytes = sum(part.dtype.itemsize * int(np.prod(part.shape[1:])) for part in (x, y))
    if buffer is None:
        buffer = max(_BUFFER_BYTES // max(example_bytes, 1), batch_size, contiguous)
    _buffer(buffer, batch_size, contiguous)
    numbers = count() if epochs is None else range(checks.count("epochs", epochs))
    epoch = partial(_epoch, (x, y), batch_size, key, min(-(-size // contiguous), buffer // contiguous), contiguous)
    return (batch for number in numbers for batch in epoch(number))


def _epoch(
    sample: tuple[Any, Any], batch_size: int, key: Array, at_once: int, contiguous: int, epoch: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches of one epoch, for which `at_once` runs are read at a time."""
    size = len(sample[0])
    runs = -(-size // contiguous)
    seed = np.asarray(jax.random.bits(jax.random.fold_in(key, epoch), (4,), np.uint32))
    generator = np.random.default_rng(seed)
    rest = [np.empty((0, *part.shape[1:]), part.dtype) for part in sample]
    for first in range(0, runs, at_once):
        positions = np.arange(first, first + at_once, dtype=np.int32)
        chosen = np.asarray(_permuted(key, epoch, np.minimum(positions, runs - 1), runs))[: runs - first]
        starts = chosen.astype(np.int64) * contiguous
        pool = [_read(part, starts, contiguous, after) for part, after in zip(sample, rest, strict=True)]
        order = generator.permutation(len(pool[0]))
        full = len(order) - len(order) % batch_size
        for batch in order[:full].reshape(-1, batch_size):
            yield pool[0][batch], pool[1][batch]
        rest = [part[order[full:]] for part in pool]
        del pool  # before the next is read


_permuted = jax.jit(permuted, static_argnums=3)


def _read(array: Any, starts: np.ndarray, contiguous: int, after: np.ndarray) -> np.ndarray:
    """Copies of the runs of examples that begin at `starts`, after those there are already."""
    lengths = np.minimum(contiguous, len(array) - starts)
    examples = np.empty((len(after) + lengths.sum(), *array.shape[1:]), array.dtype)
    examples[: len(after)] = after
    source, end = _place_in_file(array), len(after)
    with open(source[0], "rb", buffering=0) if source is not None else nullcontext() as file:
        for start, length in zip(map(int, starts), map(int, lengths), strict=True):
            place = examples[end : (end := end + length)]
            if file is None or source is None:
                place[...] = array[start : start + length]
            else:
                file.seek(source[1] + start * place[0].nbytes)
                got = file.readinto(place.reshape(-1).view(np.uint8).data)
                _read_whole(source[0], got, place.nbytes)
    return examples


def _place_in_file(array: Any) -> tuple[Any, int] | None:
    """The file of a memory map, and where in it the array begins: read from there, no page of the map comes to memory.

    None for what is no map, for one whose changes are not in the file (copy-on-write), and for views with gaps.
    """
    owner, found = array, None
    while owner is not None and not isinstance(owner, mmap.mmap):
        found = owner if isinstance(owner, np.memmap) else found
        owner = getattr(owner, "base", None)
    if owner is None or found is None or found.filename is None or found.mode == "c" or not array.flags.c_contiguous:
        return None
    begin_of_map = found.offset - found.offset % mmap.ALLOCATIONGRANULARITY
    return found.filename, begin_of_map + array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data


def _mapped_files(x: np.ndarray, y: np.ndarray, names: tuple[str, str]) -> None:
    """Two memory-mapped arrays that pair, whose examples lie one after another."""
    for name, part in zip(names, (x, y), strict=True):
        if part.ndim == 0 or not part.flags.c_contiguous:
            raise ValueError(
                f"{name} must hold examples one after another, got an array of shape {part.shape} in Fortran order; "
                "store it by np.save(path, np.ascontiguousarray(array))"
            )
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"{names[0]} holds {len(x)} examples and {names[1]} {len(y)} targets; they must pair, at least one"
        )


def _large_sample(x: Any, y: Any, batch_size: Any, contiguous: Any) -> int:
    """Arrays that pair and hold a batch."""
    for name, part in (("x", x), ("y", y)):
        checks.is_array(f"minibatches: {name}", part)
        if not part.shape:
            raise ValueError(f"minibatches: {name} must hold examples [n, …], got one number")
    size = x.shape[0]
    if y.shape[0] != size:
        raise ValueError(f"minibatches got {size} examples in x and {y.shape[0]} targets in y; they must pair")
    checks.count("contiguous", contiguous)
    if checks.count("batch_size", batch_size) > size:
        raise ValueError(f"batch_size {batch_size} exceeds the {size} examples of x; take batch_size <= {size}")
    return size


def _buffer(examples: Any, batch_size: int, contiguous: int) -> None:
    """A buffer that holds a batch, and a run of neighbours."""
    if checks.count("buffer", examples) < max(batch_size, contiguous):
        raise ValueError(
            f"buffer must hold a batch of {batch_size} and a run of {contiguous} examples, got {examples}; enlarge it, "
            "or take a smaller batch_size or contiguous"
        )


def _read_whole(path: Any, got: int | None, wanted: int) -> None:
    """As many bytes of a file as its array has."""
    if got != wanted:
        raise OSError(f"{path} ends too early: it has been changed since it was mapped; map it again")
