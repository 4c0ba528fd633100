"""Successive halving (Jamieson & Talwalkar 2016): all runs get a few steps, the better half of them more, and so on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn


def halving(net: fnn.Layer, loss: fnn.Loss, data: Any, keys: jax.Array, etas: jax.Array, steps: int) -> Any:
    """The state, the rate and the loss of the last run left, and the loss of every run in its last round.

    Args:
        net: the network.
        loss: the loss.
        data: (x, y).
        keys: a key of each run.
        etas: its learning rate.
        steps: gradient steps in a round; each round goes on from the states of the one before.
    """

    def go_on(key: jax.Array, eta: jax.Array, state: Any) -> Any:
        state, _ = fnn.train(fnn.trainer(net, loss, fnn.adam(eta), batch_size=32), state, data, steps)
        return state, fnn.objective(net, loss)(state.params, state.layer_state, data, key)[0]

    learn = fnn.trainer(net, loss, fnn.adam(0.0), batch_size=32)
    alive, states = np.arange(len(keys)), fnn.sweep(lambda key: learn.init(key, data), keys)
    found = np.full(len(keys), np.nan)
    while True:
        states, losses = fnn.sweep(go_on, keys[alive], zipped={"eta": etas[alive], "state": states})
        found[alive] = losses
        if len(alive) == 1:
            return jax.tree.map(lambda leaf: leaf[0], states), etas[alive[0]], losses[0], found
        best = np.argsort(np.nan_to_num(jnp.asarray(losses), nan=np.inf), kind="stable")[: (len(alive) + 1) // 2]
        alive, states = alive[best], jax.tree.map(lambda leaf, best=best: leaf[best], states)
