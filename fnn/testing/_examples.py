"""Two gradients of single examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core.errors import NeedsMoreExamples
from fnn.core.types import Array, Batch
from fnn.optimizers.transforms import tree_norm
from fnn.testing._quotients import Point
from fnn.testing.comparisons import Examples


def alone(functions: Any, given: tuple[Any, ...]) -> Examples:
    """Both gradients of every example as a batch of one."""
    params, state, batch, *others = given

    def of_one(example: Batch) -> list[tuple[Array, Array, Array]]:
        """(‖u − v‖, ‖v‖, what that is small against) of all params, and of x where it is there."""
        one = jax.tree.map(lambda a: a[None], example)
        u, v = (f(params, state, one, *others)[1] for f in functions)
        if not isinstance(v, Point):
            return [(_apart(u, v), tree_norm(v), tree_norm(v))]
        size = jnp.linalg.norm(jnp.ravel(one[0]))
        worth = tree_norm(jax.tree.map(lambda g, w: jnp.linalg.norm(g) * jnp.linalg.norm(w), *_flat(v.params, params)))
        at_x = tree_norm(v.x)
        at_least = jnp.maximum(at_x, worth / jnp.where(size > 0, size, jnp.inf))
        of_params = tree_norm(v.params)
        return [(_apart(u.params, v.params), of_params, of_params), (_apart(u.x, v.x), at_x, at_least)]

    try:
        found = jax.jit(lambda batch: jax.lax.map(of_one, batch, batch_size=16))(batch)
    except NeedsMoreExamples as error:
        return Examples(np.zeros(0), str(error).splitlines()[0])
    except ValueError as error:
        error.add_note("raised for one example as a batch of its own; examples=False leaves that out")
        raise
    return Examples(np.max([_relative(*map(np.asarray, each)) for each in found], axis=0), "")


def _apart(u: Any, v: Any) -> Array:
    return tree_norm(jax.tree.map(jnp.subtract, u, v))


def _flat(*trees: Any) -> list[Any]:
    return [jax.tree.map(jnp.ravel, tree) for tree in trees]


def _relative(apart: np.ndarray, norm: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """‖u_n − v_n‖/‖v_n‖, where no ‖v_n‖ counts as less than a thousandth of the largest whole of the batch."""
    scale = np.maximum(norm, 1e-3 * np.max(whole, initial=0, where=np.isfinite(whole)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(apart == 0, 0.0, apart / scale)
