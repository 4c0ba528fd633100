"""The neural tangent kernel (Jacot et al. 2018), Θ_nm = Σ_c ⟨∂a_nc/∂w, ∂a_mc/∂w⟩, and its spectrum.

The Gram matrix is read in the backward pass, one pass for each output, and no Jacobian is formed.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer, gram


def tangent_kernel(net: Layer, params: Any, state: Any, x: jax.Array) -> jax.Array:
    """Θ [n, n] of the examples x [n, i], summed over the outputs."""
    a, _, tape = net.forward(params, state, x, jax.random.key(0))

    def of_output(unit: jax.Array) -> jax.Array:
        readings = net.backward(params, tape, jnp.broadcast_to(unit, a.shape), gram)[1]
        return sum(jax.tree.leaves(readings), jnp.zeros((len(x), len(x))))

    return jnp.sum(jax.lax.map(of_output, jnp.eye(a.shape[1])[:, None]), axis=0)


def spectrum(kernel: jax.Array) -> jax.Array:
    """The eigenvalues, largest first: under gradient flow, component k of the error decays as exp(−λ_k t/n)."""
    return jnp.linalg.eigvalsh(kernel)[::-1]
