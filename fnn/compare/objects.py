"""Two gradients of each object by itself."""

from __future__ import annotations

import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn import checks
from fnn.checks import probing
from fnn.compare.quotients import Point
from fnn.compare.report import Objects
from fnn.optimizers.transforms import tree_norm
from fnn.types import Array, Batch


def alone(functions: Any, given: tuple[Any, ...]) -> Objects:
    """Both gradients of every object as a batch of one."""
    params, state, (x, y), *others = given

    def of_one(xy: Batch) -> list[tuple[Array, Array]]:
        """(‖u − v‖, ‖v‖) of all params, and of x where it is there."""
        one = jax.tree.map(lambda a: a[None], xy)
        u, v = (f(params, state, one, *others)[1] for f in functions)
        pairs = [(u.params, v.params), (u.x, v.x)] if isinstance(v, Point) else [(u, v)]
        return [(tree_norm(jax.tree.map(jnp.subtract, u, v)), tree_norm(v)) for u, v in pairs]

    try:
        found = jax.jit(lambda x, y: jax.lax.map(of_one, (x, y), batch_size=16))(x, y)
    except ValueError as error:
        if not _asks_for_more(error):
            error.add_note("raised for one object as a batch of its own; objects=False leaves that out")
            raise
        return Objects(np.zeros(0), str(error).splitlines()[0])
    return Objects(np.max([_relative(*map(np.asarray, pair)) for pair in found], axis=0), "")


def _relative(apart: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """‖u_n − v_n‖/‖v_n‖, where no ‖v_n‖ counts as less than a thousandth of the largest of the batch."""
    scale = np.maximum(norm, 1e-3 * np.max(norm, initial=0, where=np.isfinite(norm)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(apart == 0, 0.0, apart / scale)


def _asks_for_more(error: Exception) -> bool:
    """Whether it is fnn that needs a batch of more than one, as for batch norm; other errors are bugs of somebody's."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code in (checks.batch_of_several.__code__, probing.several_objects.__code__)
