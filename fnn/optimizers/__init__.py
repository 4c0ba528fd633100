"""Optimizers as (init, update) pairs, each with the lecture's equations to the letter."""

from fnn.optimizers.adaptive import AdaDeltaState, RMSPropState, adadelta, rmsprop
from fnn.optimizers.adaptive_moments import AdamState, adam, nadam
from fnn.optimizers.averages import (
    AverageState,
    LookaheadState,
    averaged_weights,
    exponential_average,
    lookahead,
    uniform_average,
)
from fnn.optimizers.descent import MomentumState, NAGState, SGDState, momentum, nag, nag_weights, sgd
from fnn.optimizers.masks import Mask, by_part, freeze, mask_of_parts, masked, weights_only
from fnn.optimizers.schedules import (
    Schedule,
    cosine_decay,
    exponential_decay,
    joined,
    piecewise_constant,
    ramp,
    warm_up,
)
from fnn.optimizers.transforms import apply_updates, chain, clip_by_norm, l2, tree_norm
from fnn.optimizers.wrappers import AccumulationState, DecayState, accumulated, decoupled_decay

__all__ = [
    "AccumulationState",
    "AdaDeltaState",
    "AdamState",
    "AverageState",
    "DecayState",
    "LookaheadState",
    "Mask",
    "MomentumState",
    "NAGState",
    "RMSPropState",
    "SGDState",
    "Schedule",
    "accumulated",
    "adadelta",
    "adam",
    "apply_updates",
    "averaged_weights",
    "by_part",
    "chain",
    "clip_by_norm",
    "cosine_decay",
    "decoupled_decay",
    "exponential_average",
    "exponential_decay",
    "freeze",
    "joined",
    "l2",
    "lookahead",
    "mask_of_parts",
    "masked",
    "momentum",
    "nadam",
    "nag",
    "nag_weights",
    "piecewise_constant",
    "ramp",
    "rmsprop",
    "sgd",
    "tree_norm",
    "uniform_average",
    "warm_up",
    "weights_only",
]
