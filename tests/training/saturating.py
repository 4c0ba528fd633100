"""A network with neurons on an asymptote, some of them for every example, and its trainer."""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import (
    dense,
    gaussian,
    linear,
    serial,
    sgd,
    squared,
    tanh,
    trainer,
)
from fnn.nn import constant
from fnn.training import (
    diagnostics,
)

BELOW = 0.1


def problem(size: int = 40) -> tuple[jax.Array, jax.Array]:
    x = jax.random.normal(jax.random.key(11), (size, 3))
    return x, jnp.sin(x @ jax.random.normal(jax.random.key(12), (3, 2)))


def large(scale: float) -> Any:
    """Weights so large that some neurons stand on an asymptote, and some of those for every example."""
    return lambda key, shape, dtype: scale * jax.random.normal(key, shape, dtype)


DATA = problem()


NET = serial(dense(7, tanh, w=large(0.8), b=constant(3.0)), dense(5, gaussian, w=large(2.0)), linear(2))


LEARN = trainer(NET, squared, sgd(0.1), batch_size=8, metrics=diagnostics(BELOW))


START = LEARN.init(jax.random.key(0), DATA)
