"""Checks of streams of batches."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks


def is_stream(where: str, batches: Any) -> None:
    """Raise TypeError unless the value is an iterable of batches, with a hint for a single pair of arrays."""
    expected = f"{where}: expected an iterable of pairs (x, y)"
    pair = isinstance(batches, tuple | list) and len(batches) == 2 and any(hasattr(part, "shape") for part in batches)
    if pair or hasattr(batches, "shape"):
        got = "pair of arrays" if pair else "array"
        raise TypeError(f"{expected}, got one {got}. Cut x and y into batches by minibatches(x, y, ...).")
    if not hasattr(batches, "__iter__"):
        hint = "Call it." if callable(batches) else "Write a generator that yields pairs (x, y)."
        raise TypeError(f"{expected}, got {type(batches).__name__}. {hint}")


def arrays(number: int, pair: Any) -> tuple[Any, Any]:
    """A batch of a stream as a pair of arrays that JAX accepts."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(
            f"batch {number} of the stream: expected a pair (x, y), got {type(pair).__name__}. Yield pairs of arrays."
        )
    for name, part in zip("xy", pair, strict=True):
        checks.is_array(f"{name} of batch {number} of the stream", part)
    x, y = (part if isinstance(part, jax.Array) else np.asarray(part) for part in pair)
    return checks.batch((x, y))
