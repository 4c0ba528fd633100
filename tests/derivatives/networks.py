"""A network of several kinds of layers, and how far random estimates are off."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnn import (
    dense,
    linear,
    prelu,
    repeat,
    residual,
    serial,
    sigmoid,
    softmax_cross_entropy,
    tanh,
)
from tests.problems import Problem, posed

NET = Problem(
    serial(dense(3, tanh), repeat(residual(dense(3, sigmoid)), 2), prelu(), linear(2)), softmax_cross_entropy, 4, 2
)


GIVEN = posed(NET, 7)


KEY = jax.random.key(11)


def standard_errors(samples: Any, want: Any) -> float:
    """How many standard errors the mean of samples [m, …] is away, the worst entry of all leaves.

    Where there is nothing random about an entry, its error is rounding.
    """

    def away(s: Any, w: Any) -> float:
        error = np.std(s, axis=0, ddof=1) / np.sqrt(s.shape[0])
        return float(np.max(np.abs(np.mean(s, axis=0) - w) / (error + 1e-12 * np.max(np.abs(w))), initial=0))

    return max(map(away, jax.tree.leaves(samples), jax.tree.leaves(want)))
