"""Checks of streams of batches."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks


def is_stream(where: str, batches: Any) -> None:
    """Raise TypeError unless the value is an iterable of batches, with a hint for a single pair of arrays."""
    expected = f"{where}: expected an iterable of batches such as (x, y)"
    pair = isinstance(batches, tuple | list) and len(batches) == 2 and any(hasattr(part, "shape") for part in batches)
    if pair or hasattr(batches, "shape"):
        got = "pair of arrays" if pair else "array"
        raise TypeError(f"{expected}, got one {got}. Cut x and y into batches by minibatches((x, y), ...).")
    if not hasattr(batches, "__iter__"):
        hint = "Call it." if callable(batches) else "Write a generator that yields batches (x, y)."
        raise TypeError(f"{expected}, got {type(batches).__name__}. {hint}")


def arrays(number: int, batch: Any) -> tuple[Any, int]:
    """A batch of a stream as a pytree of arrays that JAX accepts, and the number of its examples."""
    size = checks.examples(f"batch {number} of the stream", batch)
    return jax.tree.map(lambda part: part if isinstance(part, jax.Array) else np.asarray(part), batch), size
