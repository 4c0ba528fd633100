"""Optimal Brain Damage: networks with fewer links (slide "Optimal Brain Damage").

Each round ranks the links by a score, removes the least salient ones of each layer and retrains the rest, as long as Q
does not worsen; `feature_pruner` removes features in the same way. Masks are pytrees of bools; under
`sparse(optimizer)` a removed link stays exactly 0.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import adam, dense, linear, train, serial, squared, tanh, trainer
    >>> from fnn.pruning import obd, prune, pruner, sparse
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> data = x, jnp.abs(x)
    >>> net = serial(dense(16, tanh), linear(1))
    >>> learn = trainer(net, squared, sparse(adam(0.01)), batch_size=16)
    >>> state, _ = train(learn, learn.init(jax.random.key(0), data), data, 1000)
    >>> def evaluate(params, state):
    ...     return jnp.mean(squared.value(net.apply(params, state, x), data[1]))
    >>> rounds = pruner(learn, obd(net, squared), evaluate, amount=0.2, retrain=200, tolerance=1e-3)
    >>> pruning, report = prune(rounds, state, data, 8)
    >>> bool(report["left"][-1] < 0.6), bool(pruning.loss < 2e-3), int(pruning.round) >= 3
    (True, True, True)
"""

from fnn.pruning.features import feature_pruner, features_left, first_weights, remove_features
from fnn.pruning.masks import (
    Links,
    SparseState,
    all_links,
    remove_least,
    remove_links,
    share_left,
    sparse,
    weights_and_biases,
)
from fnn.pruning.rounds import Pruner, Pruning, prune, pruner
from fnn.pruning.scores import (
    Score,
    at_random,
    feature_saliency,
    gate_saliency,
    gauss_newton,
    magnitude,
    obd,
    schedule,
    taylor,
)

__all__ = [
    "Links",
    "Pruner",
    "Pruning",
    "Score",
    "SparseState",
    "all_links",
    "at_random",
    "feature_pruner",
    "feature_saliency",
    "features_left",
    "first_weights",
    "gate_saliency",
    "gauss_newton",
    "magnitude",
    "obd",
    "prune",
    "pruner",
    "remove_features",
    "remove_least",
    "remove_links",
    "schedule",
    "share_left",
    "sparse",
    "taylor",
    "weights_and_biases",
]
