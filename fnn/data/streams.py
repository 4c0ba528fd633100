"""Samples on disk, and shuffled mini-batches of them in bounded memory."""

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
    """A sample stored in two .npy files, memory-mapped: only the parts that are read are loaded.

    Args:
        x_path: examples [ℓ, …], stored by `numpy.save`.
        y_path: targets [ℓ, …].

    Returns:
        Two read-only memory-mapped arrays, for `minibatches`.

    Raises:
        ValueError: files with different numbers of examples, empty files, or an array in Fortran order.
    """
    x, y = (np.load(path, mmap_mode="r") for path in (x_path, y_path))
    _mapped_files(x, y, (str(x_path), str(y_path)))
    return x, y


def minibatches(
    sample: Any,
    batch_size: int,
    key: Array,
    *,
    epochs: int | None = 1,
    contiguous: int = 64,
    buffer: int | None = None,
) -> Iterator[Any]:
    """Shuffled mini-batches of a sample that need not fit in memory (slide "BackProp").

    The sample is divided into runs of `contiguous` neighbours, and an epoch takes the runs in random order. Enough runs
    to make up `buffer` examples are read at a time, and batches are drawn from them without replacement. Examples of
    one run share a batch more often than others: where neighbours are alike, as in a sample sorted by classes, choose a
    short run; the shortest, 1, reads slowest.

    Every batch is full. The last ℓ mod batch_size examples of an epoch are left out; they differ from epoch to epoch. A
    memory map, or a view of one without gaps, is read from its file: mapped pages would count as memory of this
    process.

    Args:
        sample: (x [ℓ, …], y [ℓ, …]), or any pytree of arrays [ℓ, …]: NumPy arrays, memory-mapped or not, or objects
            with a shape and a dtype whose ``array[start:stop]`` is one, as in HDF5.
        batch_size: examples in a batch, in 1 … ℓ.
        key: a key; the order is a function of the key and the epoch.
        epochs: passes over the sample; None for infinitely many.
        contiguous: neighbours read in one go; 1 gives the order of a full shuffle if `buffer` is large.
        buffer: examples in memory at a time; by default 32 MB of them, but at least a batch and a run.

    Returns:
        An iterator of batches in the structure of the sample, copies as NumPy arrays [batch_size, …].

    Raises:
        ValueError: arrays of different lengths or shorter than a batch, or numbers out of range.

    Example:
        >>> import jax, numpy as np
        >>> x = np.arange(10)
        >>> batches = list(minibatches((x, x), 3, jax.random.key(0), contiguous=2))
        >>> [batch.shape for batch, _ in batches], len(np.unique([batch for batch, _ in batches]))
        ([(3,), (3,), (3,)], 9)
    """
    size = _large_sample(sample, batch_size, contiguous)
    leaves, structure = jax.tree.flatten(sample)
    parts = [np.asarray(part) if isinstance(part, jax.Array) else part for part in leaves]
    example_bytes = sum(part.dtype.itemsize * int(np.prod(part.shape[1:])) for part in parts)
    room = max(_BUFFER_BYTES // max(example_bytes, 1), batch_size, contiguous) if buffer is None else buffer
    _buffer(room, batch_size, contiguous)
    numbers = count() if epochs is None else range(checks.count("epochs", epochs))
    at_once = min(-(-size // contiguous), room // contiguous)
    epoch = partial(_epoch, parts, batch_size, key, at_once, contiguous)
    return (structure.unflatten(batch) for number in numbers for batch in epoch(number))


def _epoch(
    sample: list[Any], batch_size: int, key: Array, at_once: int, contiguous: int, epoch: int
) -> Iterator[list[np.ndarray]]:
    """The batches of one epoch, reading `at_once` runs at a time."""
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
            yield [part[batch] for part in pool]
        rest = [part[order[full:]] for part in pool]
        del pool  # before the next is read


_permuted = jax.jit(permuted, static_argnums=3)


def _read(array: Any, starts: np.ndarray, contiguous: int, after: np.ndarray) -> np.ndarray:
    """The examples in `after`, then copies of the runs that begin at `starts`."""
    lengths = np.minimum(contiguous, len(array) - starts)
    examples = np.empty((len(after) + lengths.sum(), *array.shape[1:]), array.dtype)
    examples[: len(after)] = after
    begin = len(after)
    source = _place_in_file(array)
    with open(source[0], "rb", buffering=0) if source is not None else nullcontext() as file:
        for start, length in zip(map(int, starts), map(int, lengths), strict=True):
            place = examples[begin : begin + length]
            begin += length
            if file is None or source is None:
                place[...] = array[start : start + length]
            else:
                file.seek(source[1] + start * place[0].nbytes)
                got = file.readinto(place.reshape(-1).view(np.uint8).data)
                _is_complete(source[0], got, place.nbytes)
    return examples


def _place_in_file(array: Any) -> tuple[Any, int] | None:
    """The file of a memory map and the array's offset in it; reading the file directly loads no page of the map.

    None for an array that is not mapped, for a map whose changes are not in the file (copy-on-write), and for a view
    with gaps.
    """
    owner = array
    found = None
    while owner is not None and not isinstance(owner, mmap.mmap):
        found = owner if isinstance(owner, np.memmap) else found
        owner = getattr(owner, "base", None)
    if owner is None or found is None or found.filename is None or found.mode == "c" or not array.flags.c_contiguous:
        return None
    begin_of_map = found.offset - found.offset % mmap.ALLOCATIONGRANULARITY
    return found.filename, begin_of_map + array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data


def _mapped_files(x: np.ndarray, y: np.ndarray, names: tuple[str, str]) -> None:
    """Raise ValueError unless two memory maps store equally many examples, one after another."""
    for name, part in zip(names, (x, y), strict=True):
        if part.ndim == 0 or not part.flags.c_contiguous:
            raise ValueError(
                f"memory_mapped: expected examples stored one after another in {name}, got an array of shape "
                f"{part.shape} in Fortran order. Store it by np.save(path, np.ascontiguousarray(array))."
            )
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"memory_mapped: expected one target for each example, at least one, got {len(x)} examples in {names[0]} "
            f"and {len(y)} targets in {names[1]}. Give both files the same length."
        )


def _large_sample(sample: Any, batch_size: Any, contiguous: Any) -> int:
    """The number of examples of a sample, after checking that it fills a batch."""
    size = checks.examples("minibatches", sample)
    checks.count("contiguous", contiguous)
    if checks.count("batch_size", batch_size) > size:
        raise ValueError(
            f"minibatches: expected at most the {size} examples of the sample in a batch, got batch_size {batch_size}. "
            f"Choose batch_size <= {size}."
        )
    return size


def _buffer(examples: Any, batch_size: int, contiguous: int) -> None:
    """Raise ValueError unless the buffer holds a batch and a run of neighbours."""
    if checks.count("buffer", examples) < max(batch_size, contiguous):
        raise ValueError(
            f"minibatches: expected a buffer of at least a batch of {batch_size} and a run of {contiguous} examples, "
            f"got {examples}. Enlarge it, or choose a smaller batch_size or contiguous."
        )


def _is_complete(path: Any, got: int | None, wanted: int) -> None:
    """Raise OSError unless as many bytes were read as the array needs."""
    if got != wanted:
        raise OSError(
            f"minibatches: expected {wanted} bytes more of {path}, got {got}: the file has changed since it was "
            "mapped. Map it again."
        )
