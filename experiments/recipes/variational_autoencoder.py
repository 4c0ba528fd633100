"""A variational autoencoder (Kingma & Welling 2014) of images x in [0, 1]; a batch is x alone.

Objective, with z = μ + e^{s/2} ∘ N(0, 1)::

    L = −Σ log p(x | z) + ½ Σ (μ² + e^s − 1 − s),     p of independent pixels with the logits of the decoder
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer, binary_cross_entropy


def starting(encoder: Layer, decoder: Layer, latent: int) -> Any:
    """The first params and states, as ``trainer(starting(…), optimizer=…, objective=…)`` takes them."""

    def init(key: jax.Array, x: Any) -> Any:
        z = jax.ShapeDtypeStruct((x.shape[0], latent), x.dtype)
        parts = encoder.init(key, x), decoder.init(jax.random.fold_in(key, 1), z)
        return tuple(params for params, _ in parts), tuple(state for _, state in parts)

    return init


def evidence_bound(encoder: Layer, decoder: Layer) -> Any:
    """The objective; "reconstruction" and "divergence" join the metrics."""

    def mean(params: Any, state: Any, x: jax.Array, key: jax.Array) -> Any:
        code, first, _ = encoder.forward(params[0], state[0], x, key)
        mu, s = jnp.split(code, 2, axis=1)
        z = mu + jnp.exp(s / 2) * jax.random.normal(jax.random.fold_in(key, 1), mu.shape, mu.dtype)
        logits, second, _ = decoder.forward(params[1], state[1], z, jax.random.fold_in(key, 2))
        fit = jnp.mean(binary_cross_entropy.value(logits, x))
        divergence = jnp.mean(jnp.sum(mu**2 + jnp.exp(s) - 1 - s, axis=1)) / 2
        return fit + divergence, (first, second), {"reconstruction": fit, "divergence": divergence}

    return mean
