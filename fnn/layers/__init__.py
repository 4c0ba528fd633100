"""The layers, each with its forward and its hand-written backward pass on one screen.

Index letters, here as everywhere: ``n`` object of the batch, ``i`` inputs, ``o`` outputs of the layer. In a forward
pass x is [n, i] and y is [n, o]; in a backward pass ``error`` comes in as ∂L/∂y [n, o] and goes out as ∂L/∂x [n, i].
Parameters take the dtype of the x a layer is initialised with, and a layer refuses objects of another.

Each layer also has `curve`, which carries second derivatives through it (see `fnn.curvature`): c is ∂²L/∂y² on its way
in, the diagonal [n, o] or each object's whole matrix [n, o, o], and ∂²L/∂x² on its way out.

A new layer is a function that returns `Layer(label, init, apply, forward, backward, curve)`; `from_function` makes one
from a function whose backward nobody has derived.

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

from __future__ import annotations

from fnn.layers.dropouts import DropoutTape, dropout, inverted_dropout
from fnn.layers.elementwise import ActivateTape, PReLUTape, activate, prelu
from fnn.layers.neurons import DenseTape, LinearTape, dense, linear
from fnn.layers.normalization import BatchNormState, BatchNormTape, batch_norm

__all__ = [
    "ActivateTape",
    "BatchNormState",
    "BatchNormTape",
    "DenseTape",
    "DropoutTape",
    "LinearTape",
    "PReLUTape",
    "activate",
    "batch_norm",
    "dense",
    "dropout",
    "inverted_dropout",
    "linear",
    "prelu",
]
