"""Neural networks as pure functions on JAX, with hand-written BackProp and automatic gradients to compare it with.

The shapes are in `fnn.core`; the equations of a layer are in its docstring. Importing this package uses no device;
each of its packages is loaded with its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fnn import core, nn, derivatives, optimizers, data, training, pruning, testing, lecture  # isort: skip
    from fnn.core import (
        Activation,
        Layer,
        Loss,
        Optimizer,
        Reading,
        Trainer,
        TrainState,
        gradient,
        gram,
        per_example,
        second_moment,
        signal_to_noise,
        squared_norm,
        variance,
    )
    from fnn.data import permuted, shuffled, with_replacement
    from fnn.derivatives import autodiff, backprop, microbatched, objective, second_derivatives
    from fnn.nn import (
        activate,
        as_function,
        batch_norm,
        binary_cross_entropy,
        branches,
        columns,
        dense,
        dropout,
        exponential_margin,
        from_function,
        gaussian,
        grouped,
        heaviside,
        hinge_margin,
        identity,
        inference_mode,
        inverted_dropout,
        leaky_relu,
        linear,
        logarithmic,
        logistic_margin,
        map_layers,
        mixed_precision,
        prelu,
        product,
        relu,
        remat,
        repeat,
        residual,
        serial,
        sigmoid,
        sigmoid_margin,
        softmax_cross_entropy,
        softplus,
        squared,
        tanh,
        tied,
        watch,
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
        rmsprop,
        sgd,
        tree_norm,
        weights_only,
    )
    from fnn.testing import check_layer, check_optimizer, compare_gradients
    from fnn.training import fit, sweep, train, train_until_stable, train_with_early_stopping, trainer, use_cores

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Layer",
    "Loss",
    "Optimizer",
    "Reading",
    "TrainState",
    "Trainer",
    "activate",
    "adadelta",
    "adam",
    "apply_updates",
    "as_function",
    "autodiff",
    "backprop",
    "batch_norm",
    "binary_cross_entropy",
    "branches",
    "chain",
    "check_layer",
    "check_optimizer",
    "clip_by_norm",
    "columns",
    "compare_gradients",
    "core",
    "data",
    "dense",
    "derivatives",
    "dropout",
    "exponential_margin",
    "fit",
    "from_function",
    "gaussian",
    "gradient",
    "gram",
    "grouped",
    "heaviside",
    "hinge_margin",
    "identity",
    "inference_mode",
    "inverted_dropout",
    "l2",
    "leaky_relu",
    "lecture",
    "linear",
    "logarithmic",
    "logistic_margin",
    "map_layers",
    "masked",
    "microbatched",
    "mixed_precision",
    "momentum",
    "nadam",
    "nag",
    "nn",
    "objective",
    "optimizers",
    "per_example",
    "permuted",
    "prelu",
    "product",
    "pruning",
    "relu",
    "remat",
    "repeat",
    "residual",
    "rmsprop",
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
    "testing",
    "tied",
    "train",
    "train_until_stable",
    "train_with_early_stopping",
    "trainer",
    "training",
    "tree_norm",
    "use_cores",
    "variance",
    "watch",
    "weights_only",
    "with_replacement",
]

_PACKAGES = ("core", "nn", "derivatives", "optimizers", "data", "training", "pruning", "testing", "lecture")
"""each imports from itself and from those before it"""


def __getattr__(name: str) -> Any:
    """Load a package, or the first package that has a name."""
    if name in _PACKAGES:
        return import_module(f"fnn.{name}")
    if name in __all__:
        for package in map(import_module, (f"fnn.{package}" for package in _PACKAGES)):
            if name in package.__all__:
                globals()[name] = getattr(package, name)
                return globals()[name]
    raise AttributeError(f"module 'fnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
