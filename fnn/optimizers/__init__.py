"""Optimizers as (init, update) pairs, each with the lecture's equations to the letter."""

from fnn.optimizers.adaptive import AdaDeltaState, RMSPropState, adadelta, rmsprop
from fnn.optimizers.adaptive_moments import AdamState, adam, nadam
from fnn.optimizers.descent import MomentumState, NAGState, SGDState, momentum, nag, nag_weights, sgd
from fnn.optimizers.masks import Mask, freeze, mask_of_parts, masked, weights_only
from fnn.optimizers.transforms import apply_updates, chain, clip_by_norm, l2, tree_norm

__all__ = [
    "AdaDeltaState",
    "AdamState",
    "Mask",
    "MomentumState",
    "NAGState",
    "RMSPropState",
    "SGDState",
    "adadelta",
    "adam",
    "apply_updates",
    "chain",
    "clip_by_norm",
    "freeze",
    "l2",
    "mask_of_parts",
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
