"""Laplace's approximation: the posterior of the weights is a Gaussian around the trained ones (MacKay 1992).

Its precision is n·GGN + α for a prior of precision α; an output a_c has the variance J_c (n·GGN + α)⁻¹ J_cᵀ. The
Gauss–Newton matrix is its diagonal, or A ⊗ G in each layer, with A over (inputs, bias) and G over outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer, Loss
from fnn.derivatives import Kronecker, ggn_diagonal, kronecker_factors


def variances(net: Layer, loss: Loss, params: Any, batch: Any, x: jax.Array, alpha: float, kind: str) -> jax.Array:
    """The variance of each output [n, M] at new x [n, i]; the kind is "diagonal" or "kronecker"."""
    n, key = len(batch[0]), jax.random.key(0)
    of = ggn_diagonal if kind == "diagonal" else kronecker_factors
    matrix = of(net, loss)(params, net.init(key, x)[1], batch, key)[1]

    def quadratic(J: Any, part: Any) -> jax.Array:
        """J (n·part + α)⁻¹ Jᵀ [n, M], of one layer's Jacobian."""
        if not isinstance(part, Kronecker):
            return jnp.sum(J**2 / (n * part[None, None] + alpha), axis=tuple(range(2, J.ndim)))
        rows = jnp.concatenate([J["w"], J["b"][:, :, None]], axis=2)  # [n, M, i + 1, o]: the bias is the last row of x̄
        (a, U), (g, V) = jnp.linalg.eigh(part.A), jnp.linalg.eigh(part.G)
        turned = jnp.einsum("nmio,ij,op->nmjp", rows, U, V)
        return jnp.sum(turned**2 / (n * jnp.outer(a, g)[None, None] + alpha), axis=(2, 3))

    _, state = net.init(key, x)
    J = jax.jacrev(lambda params: net.apply(params, state, x))(params)  # [n, M, …]
    is_part = lambda node: isinstance(node, Kronecker)  # noqa: E731
    parts = jax.tree.map(lambda part, J: quadratic(J, part), matrix, J, is_leaf=is_part)
    return sum(jax.tree.leaves(parts), jnp.zeros(()))
