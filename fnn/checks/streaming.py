"""Metrics of a trainer, and batches that come one after another."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fnn.checks.arrays import batch, is_array
from fnn.checks.numbers import count, shown
from fnn.checks.structures import floats, is_function


def metrics(given: Any, sees_layers: bool) -> None:
    """Metrics with names of their own, each of layers or of steps; those of layers where BackProp shows them."""
    if not isinstance(given, Sequence) or isinstance(given, str) or hasattr(given, "_fields"):
        alone = f"for one alone write metrics=[{shown(given)}]"
        raise TypeError(f"metrics must be a sequence of them, got {shown(given)}; {alone}")
    names = ["loss", "quality"]
    for metric in given:
        if not all(hasattr(metric, field) for field in ("name", "of_layer", "of_step")):
            hint = "call the factory: saturated(), not saturated" if callable(metric) else "make one: Metric(name, …)"
            raise TypeError(f"metrics must hold Metrics such as gradient_norm, got {shown(metric)}; {hint}")
        if (metric.of_layer is None) == (metric.of_step is None):
            raise ValueError(f"the metric {metric!r} must have one of of_layer and of_step; make two metrics for both")
        is_function(f"the metric {metric!r}", metric.of_layer or metric.of_step)
        if metric.of_layer is not None and not sees_layers:
            raise ValueError(
                f"the metric {metric!r} looks at layers, which only the hand-written pass shows; take "
                "gradient=backprop, or metrics of steps"
            )
        if metric.name in names:
            raise ValueError(f"two metrics are named {metric.name!r}; rename one: metric._replace(name=...)")
        names.append(metric.name)


def metric_values(values: dict[str, Any]) -> None:
    """Values that `run` can average."""
    for name, value in values.items():
        floats("a trainer", f"the metric {name!r}", value)


def is_stream(batches: Any) -> None:
    """Batches one after another, with a hint for one pair of arrays."""
    pair = isinstance(batches, tuple | list) and len(batches) == 2 and any(hasattr(part, "shape") for part in batches)
    if pair or hasattr(batches, "shape"):
        raise TypeError(
            f"batches must be an iterable of pairs (x, y), got one {'pair of arrays' if pair else 'array'}; cut x and "
            "y by minibatches(x, y, ...)"
        )
    if not hasattr(batches, "__iter__"):
        hint = "call it" if callable(batches) else "write a generator that yields pairs (x, y)"
        raise TypeError(f"batches must be an iterable of pairs (x, y), got {type(batches).__name__}; {hint}")


def kind(number: int, x: Any, y: Any, first: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Dtype and shape of the objects and answers of a batch, which must be those of the first."""
    found = tuple((str(part.dtype), part.shape[1:]) for part in (x, y))
    for name, got, expected in zip("xy", found, first or found, strict=True):
        if got != expected:
            raise ValueError(
                f"batch {number} of the stream has {name} of {_described(*got)}, batch 0 had {_described(*expected)}; "
                "only the number n of objects may differ: make the stream convert what it yields"
            )
    return found


def _described(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} [{', '.join(map(str, ('n', *shape)))}]"


def arrays(number: int, pair: Any) -> tuple[Any, Any]:
    """A batch from outside as a pair of arrays that JAX takes."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"batch {number} of the stream must be a pair (x, y), got {type(pair).__name__}")
    for name, part in zip("xy", pair, strict=True):
        is_array(f"{name} of batch {number} of the stream", part)
    x, y = (part if isinstance(part, jax.Array) else np.asarray(part) for part in pair)
    return batch((x, y))


def sizes(found: set[int], newest: int) -> set[int]:
    """Batches of one size, and perhaps a smaller last one; each size is compiled by itself."""
    if newest not in found and len(found) == 2:
        warnings.warn(
            f"the stream's batches come in three sizes so far, {sorted({*found, newest})} objects, and every new size "
            "compiles the step anew; make the stream yield batches of one size",
            stacklevel=3,
        )
    return {*found, newest}


def some_batches(number: int) -> None:
    """A stream that gave at least one batch."""
    if number == 0:
        raise ValueError("the stream gave no batch; a generator runs once only: make a new one")


def mapped_files(x: np.ndarray, y: np.ndarray, names: tuple[str, str]) -> None:
    """Two memory-mapped arrays that pair, whose objects lie one after another."""
    for name, part in zip(names, (x, y), strict=True):
        if part.ndim == 0 or not part.flags.c_contiguous:
            raise ValueError(
                f"{name} must hold objects one after another, got an array of shape {part.shape} in Fortran order; "
                "store it by np.save(path, np.ascontiguousarray(array))"
            )
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"{names[0]} holds {len(x)} objects and {names[1]} {len(y)} answers; they must pair, at least one"
        )


def large_sample(x: Any, y: Any, batch_size: Any, contiguous: Any) -> int:
    """Arrays that pair and hold a batch."""
    for name, part in (("x", x), ("y", y)):
        is_array(f"minibatches: {name}", part)
        if not part.shape:
            raise ValueError(f"minibatches: {name} must hold objects [n, …], got one number")
    size = x.shape[0]
    if y.shape[0] != size:
        raise ValueError(f"minibatches got {size} objects in x and {y.shape[0]} answers in y; they must pair")
    count("contiguous", contiguous)
    if count("batch_size", batch_size) > size:
        raise ValueError(f"batch_size {batch_size} exceeds the {size} objects of x; take batch_size <= {size}")
    return size


def buffer(objects: Any, batch_size: int, contiguous: int) -> None:
    """A buffer that holds a batch, and a run of neighbours."""
    if count("buffer", objects) < max(batch_size, contiguous):
        raise ValueError(
            f"buffer must hold a batch of {batch_size} and a run of {contiguous} objects, got {objects}; enlarge it, "
            "or take a smaller batch_size or contiguous"
        )


def read_whole(path: Any, got: int | None, wanted: int) -> None:
    """As many bytes of a file as its array has."""
    if got != wanted:
        raise OSError(f"{path} ends too early: it has been changed since it was mapped; map it again")
