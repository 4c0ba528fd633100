"""Lottery tickets (Frankle & Carbin 2019): train, remove small weights, rewind the rest to their first values, repeat.

Every seed has its own ticket; all rounds of all seeds are one compiled program.
"""

from typing import Any

import jax
import jax.numpy as jnp

import fnn
from fnn.pruning import all_links, magnitude, remove_least, remove_links, sparse


def tickets(net: fnn.Layer, loss: fnn.Loss, data: Any, keys: jax.Array, rounds: int, share: float, steps: int) -> Any:
    """Of each seed: the links of its ticket, its first params, and the loss of each round's trained network [rounds].

    Each round trains for `steps` steps and removes this share of the weights that are left in a layer.
    """

    def of_seed(key: jax.Array) -> Any:
        learn = fnn.trainer(net, loss, sparse(fnn.adam(0.01)), batch_size=32)
        first, losses = learn.init(key, data), []
        links = all_links(first.params)
        for _ in range(rounds):
            trained, _ = fnn.train(learn, remove_links(first, links), data, steps)
            losses.append(fnn.objective(net, loss)(trained.params, trained.layer_state, data, key)[0])
            scores = magnitude().saliency(trained.params, trained.layer_state, data, key)
            links = remove_least(scores, links, share)
        return links, first.params, jnp.stack(losses)

    return fnn.sweep(of_seed, keys)
