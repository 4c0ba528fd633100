"""A small problem and a trainer for it."""

from typing import Any

import jax
import jax.numpy as jnp

import fnn
from fnn import dense, linear, serial, squared, tanh, trainer


def problem(size: int = 40, width: int = 3, dtype: Any = jnp.float64) -> tuple[jax.Array, jax.Array]:
    key_x, key_w = jax.random.split(jax.random.key(11))
    x = jax.random.normal(key_x, (size, width), dtype)
    return x, jnp.tanh(x @ jax.random.normal(key_w, (width, 2), dtype))


NET = serial(dense(5, tanh), linear(2))


LEARN = trainer(NET, squared, fnn.adam(0.01), batch_size=8, running_loss_rate=0.1)


def size_of_weights(state: fnn.TrainState) -> jax.Array:
    return -fnn.tree_norm(state.params)
