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

    def relative(u: Any, v: Any) -> Array:
        apart = tree_norm(jax.tree.map(jnp.subtract, u, v))
        return jnp.where(apart == 0, 0.0, apart / tree_norm(v))

    def of_one(xy: Batch) -> Array:
        one = jax.tree.map(lambda a: a[None], xy)
        u, v = (f(params, state, one, *others)[1] for f in functions)
        if isinstance(v, Point):
            return jnp.maximum(relative(u.params, v.params), relative(u.x, v.x))
        return relative(u, v)

    try:
        errors = jax.jit(lambda x, y: jax.lax.map(of_one, (x, y), batch_size=16))(x, y)
    except ValueError as error:
        if not _asks_for_more(error):
            error.add_note("raised for one object as a batch of its own; objects=False leaves that out")
            raise
        return Objects(np.zeros(0), str(error).splitlines()[0])
    return Objects(np.asarray(errors), "")


def _asks_for_more(error: Exception) -> bool:
    """Whether it is fnn that needs a batch of more than one, as for batch norm; other errors are bugs of somebody's."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame.f_code in (checks.batch_of_several.__code__, probing.several_objects.__code__)
