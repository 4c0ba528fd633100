"""Networks: activations, losses, initializers, and layers with forward and hand-written backward on one screen.

Index letters, here as everywhere: ``n`` example of the batch, ``i`` inputs, ``o`` outputs of the layer. In a forward
pass x is [n, i] and y is [n, o]; in a backward pass ``error`` is ∂L/∂y [n, o] as an argument and ∂L/∂x [n, i] as a
result. Parameters have the dtype of the x that initialised the layer; examples of another dtype raise TypeError.

Each layer also has `curve`, which carries second derivatives through it (see `fnn.derivatives`): its argument c is
∂²L/∂y², the diagonal [n, o] or each example's whole matrix [n, o, o], and its result is ∂²L/∂x².

A new layer is a function that returns ``Layer(label=…, init=…, apply=…, forward=…, backward=…, curve=…)``;
`from_function` makes a layer from a function without a hand-written backward pass.

Combinators take layers and return a layer, so all of them nest. Laws, verified by the tests: `serial` is associative up
to the nesting of its parameters; `serial()` is its identity; `repeat(f, 1)`, `grouped(f, 1)`, `remat(f)`,
`mixed_precision(f, its own dtype)`, `columns((width, f))` and `serial(f)` all compute f; the backward of a composite is
its parts' backwards in reverse. Part i gets the key ``fold_in(key, i)``; a part that draws nothing costs nothing.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import dense, gradient, tanh
    >>> layer, x = dense(2, tanh), jnp.ones((3, 4))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> y, state, tape = layer.forward(params, state, x, jax.random.key(1))
    >>> error, readings = layer.backward(params, tape, jnp.ones_like(y), gradient)
    >>> layer, error.shape, {name: r.shape for name, r in readings.items()}
    (dense(2, tanh), (3, 4), {'w': (4, 2), 'b': (2,)})
"""

from fnn.nn.activations import (
    activation_from,
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
from fnn.nn.compositions import BranchesTape, ColumnsTape, branches, columns, serial
from fnn.nn.copies import grouped, repeat
from fnn.nn.dropouts import DropoutTape, dropout, inverted_dropout
from fnn.nn.elementwise import ActivateTape, PReLUTape, activate, prelu
from fnn.nn.functions import FunctionTape, as_function, from_function
from fnn.nn.gates import ProductTape, product
from fnn.nn.inference import inference_mode, monte_carlo, thinned_average
from fnn.nn.initializers import (
    Initializer,
    constant,
    glorot_uniform,
    he,
    orthogonal,
    uniform,
    uniform_fan_in,
    uniform_fan_out,
    zeros,
)
from fnn.nn.loss_variants import class_weighted, ignoring, loss_from, observed, smoothed
from fnn.nn.losses import (
    binary_cross_entropy,
    exponential_margin,
    hinge_margin,
    logistic_margin,
    sigmoid_margin,
    softmax_cross_entropy,
    squared,
)
from fnn.nn.neurons import DenseTape, LinearTape, dense, linear
from fnn.nn.normalization import BatchNormState, BatchNormTape, batch_norm
from fnn.nn.precision import mixed_precision
from fnn.nn.surgery import LayerRecord, drop_records, intercept, iter_layers, map_layers, watch
from fnn.nn.tying import TiedTape, tied
from fnn.nn.wrappers import RematTape, remat, residual

__all__ = [
    "ActivateTape",
    "BatchNormState",
    "BatchNormTape",
    "BranchesTape",
    "ColumnsTape",
    "DenseTape",
    "DropoutTape",
    "FunctionTape",
    "Initializer",
    "LayerRecord",
    "LinearTape",
    "PReLUTape",
    "ProductTape",
    "RematTape",
    "TiedTape",
    "activate",
    "activation_from",
    "as_function",
    "batch_norm",
    "binary_cross_entropy",
    "branches",
    "class_weighted",
    "columns",
    "constant",
    "dense",
    "drop_records",
    "dropout",
    "exponential_margin",
    "from_function",
    "gaussian",
    "glorot_uniform",
    "grouped",
    "he",
    "heaviside",
    "hinge_margin",
    "identity",
    "ignoring",
    "inference_mode",
    "intercept",
    "inverted_dropout",
    "iter_layers",
    "leaky_relu",
    "linear",
    "logarithmic",
    "logistic_margin",
    "loss_from",
    "map_layers",
    "mixed_precision",
    "monte_carlo",
    "observed",
    "orthogonal",
    "prelu",
    "product",
    "relu",
    "remat",
    "repeat",
    "residual",
    "serial",
    "sigmoid",
    "sigmoid_margin",
    "smoothed",
    "softmax_cross_entropy",
    "softplus",
    "squared",
    "tanh",
    "thinned_average",
    "tied",
    "uniform",
    "uniform_fan_in",
    "uniform_fan_out",
    "watch",
    "zeros",
]
