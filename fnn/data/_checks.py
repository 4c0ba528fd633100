"""Checks of streams of batches."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks


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


def arrays(number: int, pair: Any) -> tuple[Any, Any]:
    """A batch from outside as a pair of arrays that JAX takes."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"batch {number} of the stream must be a pair (x, y), got {type(pair).__name__}")
    for name, part in zip("xy", pair, strict=True):
        checks.is_array(f"{name} of batch {number} of the stream", part)
    x, y = (part if isinstance(part, jax.Array) else np.asarray(part) for part in pair)
    return checks.batch((x, y))
