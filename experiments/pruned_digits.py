"""Networks that learn handwritten digits, to be pruned, and the scores by which their links are ranked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments.report import Settings
from fnn.pruning import Score, at_random, magnitude, obd, sparse, taylor

NET = fnn.serial(fnn.dense(30, fnn.tanh), fnn.dense(20, fnn.tanh), fnn.linear(10))
LOSS = fnn.softmax_cross_entropy
EXACT = "OBD, exact"
RETRAIN, BATCH = 100, 32
FIRST = 1989
"""the seed of the key that is split into those of all runs"""


def scores(net: fnn.Layer) -> dict[str, Score]:
    """What is compared."""
    return {
        EXACT: obd(net, LOSS),
        "OBD, one pass": obd(net, LOSS, exact=False),
        "OBD, Gauss–Newton": obd(net, LOSS, gauss_newton=True),
        "|w|": magnitude(),
        "|w ∂Q/∂w|": taylor(net, LOSS),
        "random": at_random(),
    }


SCORES = scores(NET)


class Seed(NamedTuple):
    """A trained network, its training sample, and held-out digits."""

    state: fnn.TrainState
    sample: tuple[jax.Array, jax.Array]
    held_out: tuple[jax.Array, jax.Array]


def learner(steps: int) -> fnn.Trainer:
    """Adam with L2, its rate falling to 0 in training and in each retraining: a saliency is worth most at a minimum."""

    def rate(step: jax.Array) -> jax.Array:
        done = jnp.where(step < steps, step / steps, (step - steps) % RETRAIN / RETRAIN)
        return 3e-3 * (1 - done)

    optimizer = fnn.chain(fnn.masked(fnn.l2(1e-4), fnn.weights_only), fnn.adam(rate))
    return fnn.trainer(NET, LOSS, sparse(optimizer), batch_size=BATCH)


def for_all_seeds(experiment: Callable[[jax.Array, jax.Array], Any], settings: Settings) -> Callable[[int], Any]:
    """The results ``number -> arrays [seeds, …]`` of an experiment ``(key, number)``; one program for all numbers."""
    keys = jax.random.split(jax.random.key(FIRST), settings.seeds)
    of_all = jax.jit(jax.vmap(experiment, (0, None)))
    return lambda number: jax.tree.map(np.asarray, of_all(keys, jnp.asarray(number)))


def trained(key: jax.Array, learn: fnn.Trainer, steps: int) -> Seed:
    """A network trained on a split of its own."""
    digits = data.digits()
    key_split, key_run = jax.random.split(key)
    sample, _, held_out = data.train_validation_test(key_split, (digits.x, digits.y))
    return Seed(fnn.train(learn, learn.init(key_run, sample), sample, steps)[0], sample, held_out)


def mean_loss(params: Any, state: Any, sample: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Q, the mean loss."""
    return jnp.mean(LOSS.value(NET.apply(params, state, sample[0]), sample[1]))


def right(state: fnn.TrainState, sample: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The share of digits that are read rightly."""
    return data.accuracy(NET.apply(state.params, state.layer_state, sample[0]), sample[1])
