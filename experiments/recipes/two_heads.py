"""Two tasks, one body: classes and a number from the same features, each with its own loss, by BackProp by hand."""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer, branches, dense, linear, relu, serial, softmax_cross_entropy, squared
from fnn.nn import loss_from


def net(width: int, classes: int) -> Layer:
    """The logits of the classes, then the number."""
    return serial(dense(width, relu), branches(linear(classes), linear(1)))


def both(classes: int, share: float = 0.5) -> Any:
    """The loss of targets {"class": [n], "number": [n, 1]}."""

    def of_example(a: jax.Array, y: Any) -> jax.Array:
        logits, number = a[None, :classes], a[None, classes:]
        of_class = softmax_cross_entropy.value(logits, y["class"][None])[0]
        return (1 - share) * of_class + share * squared.value(number, y["number"][None])[0]

    return loss_from(of_example, convex=True)


def accuracy(net: Layer, params: Any, state: Any, x: jax.Array, y: Any, classes: int) -> jax.Array:
    """The share of examples whose class is found."""
    return jnp.mean(jnp.argmax(net.apply(params, state, x)[:, :classes], axis=1) == y["class"])
