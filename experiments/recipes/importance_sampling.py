"""Importance sampling (Katharopoulos & Fleuret 2018): examples are drawn by a score, and weights keep the mean right.

An example of probability p_n counts with the weight 1/(ℓ p_n), so that the expected gradient is that of the whole
sample whatever the scores are; the variance is least for p_n in proportion to ‖g_n‖.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer, Loss, backprop, squared_norm


def norms(net: Layer, loss: Loss, params: Any, state: Any, data: Any) -> jax.Array:
    """‖g_n‖ of every example [ℓ], read in one backward pass."""
    readings = backprop(net, loss, squared_norm)(params, state, data, jax.random.key(0))[1]
    return jnp.sqrt(sum(jax.tree.leaves(readings), jnp.zeros(len(data[0]))))


def by_score(scores: jax.Array, data: Any, key: jax.Array, size: int) -> Any:
    """A batch (x, y, weight) drawn with probabilities in proportion to the scores [ℓ].

    The weights are normalised: a mean over them is the self-normalised estimate, whose bias vanishes as 1/size.
    """
    p = scores / jnp.sum(scores)
    chosen = jax.random.choice(key, len(p), (size,), p=p)
    x, y = jax.tree.map(lambda leaf: leaf[chosen], data)
    return x, y, 1 / (len(p) * p[chosen])
