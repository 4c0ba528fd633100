"""A physics-informed network (Raissi et al. 2019): u'' = f on [0, 1] with u(0) = u(1) = 0.

The solution is u(x) = x(1 − x) net(x), which has the boundary values; the objective is the mean squared residue at the
points of a batch x [n, 1], which has no targets.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer


def solution(net: Layer, params: Any, state: Any) -> Callable[[jax.Array], jax.Array]:
    """u of one number x."""
    return lambda x: x * (1 - x) * net.apply(params, state, x[None, None])[0, 0]


def residue(net: Layer, f: Callable[[jax.Array], jax.Array]) -> Any:
    """An objective for ``trainer(net, optimizer=…, objective=residue(net, f))``."""

    def mean(params: Any, state: Any, x: jax.Array, key: jax.Array) -> Any:
        bend = jax.vmap(jax.grad(jax.grad(solution(net, params, state))))(x[:, 0])
        return jnp.mean(jnp.square(bend - f(x[:, 0]))), state

    return mean
