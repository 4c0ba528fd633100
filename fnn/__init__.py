"""Neural networks as pure functions on JAX, with BackProp by hand beside automatic gradients.

The shapes are in `fnn.types`; a layer's equations stand in its docstring. Importing this package touches no device.
"""

from fnn.activations import (
    gaussian,
    heaviside,
    identity,
    leaky_relu,
    logarithmic,
    relu,
    sigmoid,
    softplus,
    tanh,
)
from fnn.backprop import as_function, autodiff, backprop, from_function, objective
from fnn.batches import permuted, shuffled, with_replacement
from fnn.combinators import columns, in_precision, parallel, remat, repeat, residual, serial
from fnn.compare import GradientComparison, compare_gradients
from fnn.curvature import gate_curvature, in_chunks, second_derivatives, unit_gate_curvature
from fnn.devices import use_cores
from fnn.fitting import Fitted, fit
from fnn.initializers import constant, glorot_uniform, he, orthogonal, uniform_fan_in, zeros
from fnn.layers import activate, batch_norm, dense, dropout, inverted_dropout, linear, prelu
from fnn.losses import (
    binary_cross_entropy,
    exponential_margin,
    hinge_margin,
    logistic_margin,
    sigmoid_margin,
    softmax_cross_entropy,
    squared,
)
from fnn.optimizers import (
    adadelta,
    adam,
    apply_updates,
    chain,
    clip_by_norm,
    l2,
    masked,
    momentum,
    nadam,
    nag,
    nag_weights,
    rmsprop,
    sgd,
    tree_norm,
    weights_only,
)
from fnn.parts import each_part
from fnn.readings import (
    contributions,
    gathered,
    gradient,
    gram,
    per_object,
    second_moment,
    signal_to_noise,
    squared_norm,
    variance,
)
from fnn.stages import applied, monte_carlo, thinned_average
from fnn.stopping import EarlyStop, Stability, run_early_stopping, run_until_stable
from fnn.sweeps import sweep
from fnn.training import run, trainer
from fnn.types import Activation, Layer, Loss, Optimizer, Reading, Stages, Trainer, TrainState
from fnn.watching import Pass, unwatched, watch

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "EarlyStop",
    "Fitted",
    "GradientComparison",
    "Layer",
    "Loss",
    "Optimizer",
    "Pass",
    "Reading",
    "Stability",
    "Stages",
    "TrainState",
    "Trainer",
    "activate",
    "adadelta",
    "adam",
    "applied",
    "apply_updates",
    "as_function",
    "autodiff",
    "backprop",
    "batch_norm",
    "binary_cross_entropy",
    "chain",
    "clip_by_norm",
    "columns",
    "compare_gradients",
    "constant",
    "contributions",
    "dense",
    "dropout",
    "each_part",
    "exponential_margin",
    "fit",
    "from_function",
    "gate_curvature",
    "gathered",
    "gaussian",
    "glorot_uniform",
    "gradient",
    "gram",
    "he",
    "heaviside",
    "hinge_margin",
    "identity",
    "in_chunks",
    "in_precision",
    "inverted_dropout",
    "l2",
    "leaky_relu",
    "linear",
    "logarithmic",
    "logistic_margin",
    "masked",
    "momentum",
    "monte_carlo",
    "nadam",
    "nag",
    "nag_weights",
    "objective",
    "orthogonal",
    "parallel",
    "per_object",
    "permuted",
    "prelu",
    "relu",
    "remat",
    "repeat",
    "residual",
    "rmsprop",
    "run",
    "run_early_stopping",
    "run_until_stable",
    "second_derivatives",
    "second_moment",
    "serial",
    "sgd",
    "shuffled",
    "sigmoid",
    "sigmoid_margin",
    "signal_to_noise",
    "softmax_cross_entropy",
    "softplus",
    "squared",
    "squared_norm",
    "sweep",
    "tanh",
    "thinned_average",
    "trainer",
    "tree_norm",
    "uniform_fan_in",
    "unit_gate_curvature",
    "unwatched",
    "use_cores",
    "variance",
    "watch",
    "weights_only",
    "with_replacement",
    "zeros",
]
