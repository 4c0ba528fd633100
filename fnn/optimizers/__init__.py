"""Optimizers as (init, update) pairs, each the lecture's equations to the letter."""

from fnn.optimizers.adam import AdamState, adam, nadam
from fnn.optimizers.adaptive import AdaDeltaState, RMSPropState, adadelta, rmsprop
from fnn.optimizers.sgd import MomentumState, NAGState, SGDState, momentum, nag, nag_weights, sgd
from fnn.optimizers.transforms import (
    apply_updates,
    chain,
    clip_by_norm,
    l2,
    masked,
    tree_norm,
    weights_only,
)

__all__ = [
    "AdaDeltaState",
    "AdamState",
    "MomentumState",
    "NAGState",
    "RMSPropState",
    "SGDState",
    "adadelta",
    "adam",
    "apply_updates",
    "chain",
    "clip_by_norm",
    "l2",
    "masked",
    "momentum",
    "nadam",
    "nag",
    "nag_weights",
    "rmsprop",
    "sgd",
    "tree_norm",
    "weights_only",
]
