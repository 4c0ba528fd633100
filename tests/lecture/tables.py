"""Truth tables, in the order of binary numbers."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np


def rows(d: int) -> list[tuple[int, ...]]:
    return list(itertools.product([0, 1], repeat=d))


def table_of(f: Callable[..., Any], d: int) -> np.ndarray:
    return np.asarray([int(f(*row)) for row in rows(d)])


def all_tables(d: int) -> np.ndarray:
    """Every function of d variables [2^2^d, 2^d]; function k has bit r of k in row r."""
    return np.arange(2**2**d)[:, None] >> np.arange(2**d)[None, :] & 1
