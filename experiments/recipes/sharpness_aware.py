"""Sharpness-aware minimisation (SAM, Foret et al. 2021): the gradient where the loss is highest nearby.

Equations::

    g := ∂Q/∂w at w + ρ g₀/‖g₀‖,  where g₀ = ∂Q/∂w at w
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn import backprop, tree_norm


def sharpness_aware(rho: float) -> Callable[..., Any]:
    """A gradient function for ``trainer(…, gradient=sharpness_aware(0.05))``; the value is that at w."""

    def gradient(net: Any, loss: Any) -> Any:
        at = backprop(net, loss)

        def value_and_gradient(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            (value, after), g = at(params, state, batch, key)
            size = rho / jnp.maximum(tree_norm(g), 1e-12)
            highest = jax.tree.map(lambda w, g: w + size.astype(w.dtype) * g, params, g)
            return (value, after), at(highest, state, batch, key)[1]

        return value_and_gradient

    return gradient
