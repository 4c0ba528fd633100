"""Networks: activations, losses, initializers, and layers with forward and hand-written backward on one screen.

Index letters, here as everywhere: ``n`` example of the batch, ``i`` inputs, ``o`` outputs of the layer. In a forward
pass x is [n, i] and y is [n, o]; in a backward pass ``error`` is ∂L/∂y [n, o] as an argument and ∂L/∂x [n, i] as a
result. Examples may have positions between these two axes: the steps of a sequence [n, t, f], the places of an image
[n, h, w, c]. Weights are then shared by the positions, and read by `fnn.core.at_weights`. Parameters have the dtype of
the x that initialised the layer; examples of another dtype raise TypeError.

Each layer also has `curve`, which carries second derivatives through it (see `fnn.derivatives`): its argument c is
∂²L/∂y², the diagonal [n, o] or each example's whole matrix [n, o, o], and its result is ∂²L/∂x².

Weights of flax and torch fit after a reshape (tests/house/test_weights_of_others.py copies each):

========================== ============================================================================================
here                       there
========================== ============================================================================================
`linear` w [i, o]          flax ``kernel``; torch ``weight.T``
`conv` w [k·c, o]          flax ``kernel.reshape(-1, o)``; torch ``weight.transpose(2, …, 1, 0).reshape(-1, o)``
`layer_norm` gamma, beta   flax ``scale``, ``bias``; torch ``weight``, ``bias``
`embedding` table          flax ``embedding``; torch ``weight``
`attention` first w, b     flax: query, key, value stacked behind the heads; torch ``in_proj_weight`` as
                           ``.reshape(3, heads, h, d).transpose(3, 1, 0, 2).reshape(d, -1)``
`lstm` (linear, recurrent) torch: ``weight_ih.T``, ``bias_ih + bias_hh``, ``weight_hh.T``; flax: gates i, f, g, o side
                           by side
`gru` (linear, recurrent)  torch: ``weight_ih.T``, ``bias_ih``, ``weight_hh.T``, ``bias_hh``; flax: gates r, z, n
========================== ============================================================================================

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

from fnn.nn._common import ShapeTape
from fnn.nn.activations import (
    activation_from,
    gaussian,
    gelu,
    heaviside,
    identity,
    leaky_relu,
    logarithmic,
    relu,
    sigmoid,
    silu,
    softplus,
    tanh,
)
from fnn.nn.attentions import AttentionTape, attention, dot_attention, transformer_block
from fnn.nn.compositions import BranchesTape, ColumnsTape, branches, columns, serial
from fnn.nn.convolutions import conv
from fnn.nn.copies import grouped, repeat
from fnn.nn.dropouts import DropoutTape, dropout, inverted_dropout
from fnn.nn.elementwise import ActivateTape, PReLUTape, activate, prelu
from fnn.nn.embeddings import EmbeddingTape, embedding, positional
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
from fnn.nn.loss_variants import class_weighted, each_position, ignoring, loss_from, observed, smoothed
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
from fnn.nn.normalization import (
    BatchNormState,
    BatchNormTape,
    NormTape,
    batch_norm,
    group_norm,
    layer_norm,
    rms_norm,
)
from fnn.nn.pooling import MaxPoolTape, average_pool, flatten, last, max_pool
from fnn.nn.precision import mixed_precision
from fnn.nn.recurrence import (
    Cell,
    RecurrentTape,
    elman_cell,
    gru,
    gru_cell,
    lstm,
    lstm_cell,
    recurrent,
    rnn,
)
from fnn.nn.surgery import LayerRecord, drop_records, intercept, iter_layers, map_layers, watch
from fnn.nn.tying import TiedTape, tied
from fnn.nn.wrappers import RematTape, remat, residual

__all__ = [
    "ActivateTape",
    "AttentionTape",
    "BatchNormState",
    "BatchNormTape",
    "BranchesTape",
    "Cell",
    "ColumnsTape",
    "DenseTape",
    "DropoutTape",
    "EmbeddingTape",
    "FunctionTape",
    "Initializer",
    "LayerRecord",
    "LinearTape",
    "MaxPoolTape",
    "NormTape",
    "PReLUTape",
    "ProductTape",
    "RecurrentTape",
    "RematTape",
    "ShapeTape",
    "TiedTape",
    "activate",
    "activation_from",
    "as_function",
    "attention",
    "average_pool",
    "batch_norm",
    "binary_cross_entropy",
    "branches",
    "class_weighted",
    "columns",
    "constant",
    "conv",
    "dense",
    "dot_attention",
    "drop_records",
    "dropout",
    "each_position",
    "elman_cell",
    "embedding",
    "exponential_margin",
    "flatten",
    "from_function",
    "gaussian",
    "gelu",
    "glorot_uniform",
    "group_norm",
    "grouped",
    "gru",
    "gru_cell",
    "he",
    "heaviside",
    "hinge_margin",
    "identity",
    "ignoring",
    "inference_mode",
    "intercept",
    "inverted_dropout",
    "iter_layers",
    "last",
    "layer_norm",
    "leaky_relu",
    "linear",
    "logarithmic",
    "logistic_margin",
    "loss_from",
    "lstm",
    "lstm_cell",
    "map_layers",
    "max_pool",
    "mixed_precision",
    "monte_carlo",
    "observed",
    "orthogonal",
    "positional",
    "prelu",
    "product",
    "recurrent",
    "relu",
    "remat",
    "repeat",
    "residual",
    "rms_norm",
    "rnn",
    "serial",
    "sigmoid",
    "sigmoid_margin",
    "silu",
    "smoothed",
    "softmax_cross_entropy",
    "softplus",
    "squared",
    "tanh",
    "thinned_average",
    "tied",
    "transformer_block",
    "uniform",
    "uniform_fan_in",
    "uniform_fan_out",
    "watch",
    "zeros",
]
