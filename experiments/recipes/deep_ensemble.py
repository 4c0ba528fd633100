"""A deep ensemble (Lakshminarayanan et al. 2017): networks from different seeds, whose spread shows what is unknown."""

from typing import Any

import jax
import jax.numpy as jnp

import fnn


def ensemble(net: fnn.Layer, loss: fnn.Loss, data: Any, keys: jax.Array, steps: int) -> Any:
    """The trained states of all members, [members, …], on all devices."""

    def member(key: jax.Array) -> Any:
        learn = fnn.trainer(net, loss, fnn.adam(0.01), batch_size=32)
        return fnn.train(learn, learn.init(key, data), data, steps)[0]

    return fnn.sweep(member, keys)


def predict(net: fnn.Layer, states: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean and the standard deviation of the members' outputs, [n, M] each."""
    outputs = jax.vmap(lambda state: net.apply(state.params, state.layer_state, x))(states)
    return jnp.mean(outputs, axis=0), jnp.std(outputs, axis=0)
