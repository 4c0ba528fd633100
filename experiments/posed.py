"""Networks, losses and random batches to look at: the experiments' own, or a user's from the command line."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fnn
from fnn import Layer, Loss


class Posed(NamedTuple):
    """A network, its loss and one batch."""

    label: str
    net: Layer
    loss: Loss
    batch: tuple[jax.Array, jax.Array]


def batch(loss: Loss, key: jax.Array, objects: int, features: int, outputs: int) -> tuple[jax.Array, jax.Array]:
    """Random objects [objects, features] and answers of the kind a loss takes; real ones for a loss of one's own."""
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (objects, features), jnp.float32)
    if loss.label == "softmax_cross_entropy":
        return x, jax.random.randint(key_y, (objects,), 0, outputs, jnp.int32)
    if loss.label.endswith("margin"):
        return x, 2 * jax.random.bernoulli(key_y, 0.5, (objects, outputs)).astype(jnp.int32) - 1
    if loss.label == "binary_cross_entropy":
        return x, jax.random.bernoulli(key_y, 0.5, (objects, outputs)).astype(jnp.int32)
    return x, jax.random.normal(key_y, (objects, outputs), jnp.float32)


def load(network: str, loss: str, features: int, objects: int) -> Posed:
    """A user's network with a loss and a random batch.

    Args:
        network: "module:name" of a layer, or of a function without arguments that makes one.
        loss: a loss of fnn by name, or "module:name" of one's own.
        features: of the objects.
        objects: in the batch.

    Returns:
        What is to be looked at.

    Raises:
        ValueError: a module or a name that is not there, what is no layer or no loss, sizes below 1.
    """
    if features < 1 or objects < 1:
        raise ValueError(f"--features and --objects must be 1 or more, got {features} and {objects}")
    net = _named(network)
    net = net() if callable(net) and not isinstance(net, Layer) else net
    if not isinstance(net, Layer):
        raise ValueError(f"--network {network} is a {type(net).__name__}; expected an fnn.Layer, or a function of one")
    function = _named(loss) if ":" in loss else getattr(fnn, loss, None)
    if not isinstance(function, Loss):
        known = [name for name in fnn.__all__ if isinstance(getattr(fnn, name), Loss)]
        raise ValueError(f"--loss {loss} is no loss; expected one of {', '.join(known)}, or MODULE:NAME of your own")
    key = jax.random.key(0)
    x = jax.ShapeDtypeStruct((objects, features), jnp.float32)
    out = jax.eval_shape(lambda x: net.apply(*net.init(key, x), x), x)
    return Posed(network, net, function, batch(function, key, objects, features, out.shape[-1]))


def _named(spec: str) -> Any:
    module, _, name = spec.partition(":")
    if not name:
        raise ValueError(f"{spec} names no object; expected MODULE:NAME, such as my_module:net")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{spec} cannot be loaded: {error}; run from the folder where {module}.py lies") from error
