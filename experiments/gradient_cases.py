"""Networks whose gradients are compared: sound ones that use all there is, and some with a planted fault."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import fnn
from fnn import (
    Layer,
    Loss,
    activate,
    batch_norm,
    branches,
    columns,
    dense,
    dropout,
    from_function,
    inverted_dropout,
    linear,
    prelu,
    remat,
    repeat,
    residual,
    serial,
    watch,
)

CLASSES = 10


def _scale(key: jax.Array, x: Any) -> jax.Array:
    return jnp.ones((x.shape[1],), x.dtype)


def _scaled_sine(scale: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sin(scale[None, :] * x)


def sound_networks() -> dict[str, tuple[Layer, Loss]]:
    """Networks that together use every layer, combinator, activation and loss."""
    cross_entropy, out = fnn.softmax_cross_entropy, linear(CLASSES)
    block = serial(dense(64, fnn.tanh), linear(64))
    halves = columns((32, activate(fnn.gaussian)), (32, activate(fnn.heaviside)))
    return {
        "linear regression": (out, fnn.squared),
        "support vector machine": (linear(1), fnn.hinge_margin),
        "AdaBoost's loss": (serial(dense(32, fnn.sigmoid), linear(1)), fnn.exponential_margin),
        "logistic, logarithmic σ": (serial(dense(64, fnn.logarithmic), linear(1)), fnn.logistic_margin),
        "bounded loss, softplus": (serial(dense(64, fnn.softplus), linear(1)), fnn.sigmoid_margin),
        "tanh, three layers": (serial(dense(64, fnn.tanh), dense(64, fnn.tanh), out), cross_entropy),
        "wide tanh": (serial(dense(256, fnn.tanh), dense(256, fnn.tanh), out), cross_entropy),
        "ReLU, three layers": (serial(dense(64, fnn.relu), dense(64, fnn.relu), out), cross_entropy),
        "leaky ReLU, many questions": (serial(dense(64, fnn.leaky_relu()), out), fnn.binary_cross_entropy),
        "PReLU": (serial(linear(64), prelu(), linear(64), prelu(), out), cross_entropy),
        "dropout": (serial(dense(64, fnn.sigmoid), dropout(0.5), out), cross_entropy),
        "inverted dropout": (serial(dense(64, fnn.relu), inverted_dropout(0.2), out), cross_entropy),
        "batch norm": (serial(linear(64), batch_norm(), activate(fnn.relu), out), cross_entropy),
        "columns": (serial(linear(64), halves, dense(64, fnn.identity), out), fnn.squared),
        "residual": (serial(dense(64, fnn.tanh), residual(block), residual(block), out), cross_entropy),
        "repeat": (serial(dense(64, fnn.tanh), repeat(dense(64, fnn.tanh), 8), out), cross_entropy),
        "watch": (watch(serial(dense(64, fnn.tanh), out)), cross_entropy),
        "from_function": (serial(linear(64), from_function(_scale, _scaled_sine, "sine"), out), fnn.squared),
        "remat": (serial(dense(64, fnn.tanh), remat(block), out), cross_entropy),
    }


def faulty(layer: Layer, change: Any) -> Layer:
    """A layer with a fault planted into its backward pass: ``change(error, gradient)``."""

    def backward(params: Any, tape: Any, error: jax.Array, read: Any) -> Any:
        return change(*layer.backward(params, tape, error, read))

    return layer._replace(label=f"faulty {layer}", backward=backward)


def _without_transpose(layer: Layer) -> Layer:
    def backward(params: Any, tape: Any, error: jax.Array, read: Any) -> Any:
        return layer.backward(params | {"w": params["w"].T}, tape, error, read)

    return layer._replace(label=f"faulty {layer}", backward=backward)


def _in_float32(layer: Layer) -> Layer:
    def backward(params: Any, tape: Any, error: jax.Array, read: Any) -> Any:
        through, g = layer.backward(params, tape, error, read)
        return through * (2 if error.dtype == jnp.float32 else 1), g

    return layer._replace(label=f"faulty {layer}", backward=backward)


@jax.custom_jvp
def _tanh(S: jax.Array) -> jax.Array:
    return jnp.tanh(S)


_tanh.defjvp(lambda S, dS: (jnp.tanh(S[0]), 1.001 * (1 - jnp.square(jnp.tanh(S[0]))) * dS[0]))


def faults() -> dict[str, tuple[Layer, str]]:
    """Networks with one planted fault each, and the verdict that is right for it."""
    first, hidden, out = dense(8, fnn.tanh), dense(8, fnn.tanh), linear(3)
    steep = fnn.relu._replace(label="relu, σ'(0) = 0.7", slope=lambda S: jnp.where(S == 0, 0.7, fnn.relu.slope(S)))
    times = lambda c: lambda error, g: (error, jax.tree.map(lambda g: c * g, g))  # noqa: E731
    root = from_function(_scale, lambda scale, x: jnp.sqrt(scale[None, :] * x), "square root")
    return {
        "none": (serial(first, hidden, out), "agree"),
        "a gradient wrong by 0.1 %": (serial(first, faulty(hidden, times(1.001)), out), "manual wrong"),
        "a gradient wrong by 1e-6": (serial(first, faulty(hidden, times(1 + 1e-6)), out), "manual wrong"),
        "the same, inside repeat": (serial(first, repeat(faulty(hidden, times(1.001)), 3), out), "manual wrong"),
        "the error at x of the first layer": (
            serial(faulty(first, lambda error, g: (-3 * error, g)), out),
            "manual wrong",
        ),
        "a missing transpose": (serial(first, _without_transpose(linear(8)), out), "manual wrong"),
        "a wrong rule given to jax.grad": (serial(dense(8, fnn.tanh._replace(value=_tanh)), out), "automatic wrong"),
        "a kink: σ'(0) = 0.7 for ReLU": (serial(dense(8, steep, w=fnn.nn.zeros()), out), "differ at a kink"),
        "NaN in a backward pass": (
            serial(first, faulty(hidden, lambda error, g: (error * jnp.nan, g)), out),
            "manual wrong, not finite",
        ),
        "a thousandfold gradient, excused by no kink": (
            serial(
                branches(dense(4, fnn.tanh), dense(4, fnn.relu, w=fnn.nn.zeros())), faulty(hidden, times(1000)), out
            ),
            "manual wrong",
        ),
        "the error twice, in float32 alone": (serial(first, _in_float32(hidden), out), "manual wrong in float32"),
        "NaN in the forward pass": (serial(linear(8), root, out), "both not finite"),
    }
