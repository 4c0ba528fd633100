"""The algebra of the second derivatives that BackProp carries from layer to layer, in its two modes.

The error ε = ∂L/∂x [n, o] is accompanied by a curvature c, whose rank selects the mode:

=========== ====================================== ======================================================
c           meaning                                lost on the way down
=========== ====================================== ======================================================
[n, o]      the diagonal ∂²L/∂x_no²                off-diagonal terms that weights mix in (one pass)
[n, o, o]   all of ∂²L/∂x_no∂x_np, per example      nothing (exact)
=========== ====================================== ======================================================

A layer y = f(x) maps c to Jᵀ c J + Σ_k ε_k ∇²f_k, with J = ∂y/∂x. Below are the products Jᵀ c J of the existing
layers; each covers both modes, so that a layer writes its recursion once.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn.core.types import Array


def is_exact(c: Array) -> bool:
    """True if c holds each example's whole matrix."""
    return c.ndim == 3


def diagonal(c: Array) -> Array:
    """∂²L/∂x_no² [n, o]."""
    return jnp.diagonal(c, axis1=1, axis2=2) if is_exact(c) else c


def plus_diagonal(c: Array, d: Array) -> Array:
    """c + diag(d), for d [n, o] such as σ''∘ε."""
    return c + jax.vmap(jnp.diag)(d) if is_exact(c) else c + d


def scaled(c: Array, z: Array) -> Array:
    """diag(z) c diag(z), for the slopes z [n, o] of an elementwise layer."""
    return z[:, :, None] * c * z[:, None, :] if is_exact(c) else jnp.square(z) * c


def scaled_by_two(c: Array, u: Array, v: Array) -> Array:
    """diag(u) c diag(v), for two outputs u and v [n, o] that are multiplied elementwise."""
    return u[:, :, None] * c * v[:, None, :] if is_exact(c) else u * c * v


def through_weights(c: Array, w: Array) -> Array:
    """w c wᵀ, for weights w [i, o]; only its diagonal c (w∘w)ᵀ for a diagonal c."""
    return jnp.einsum("io,nop,jp->nij", w, c, w) if is_exact(c) else c @ jnp.square(w).T


def half_through(backward: Callable[[Array], Array], c: Array) -> Array:
    """Jᵀ c [n, i, o] for whole matrices c [n, o, o], by the backward pass of a layer: error -> error."""
    return jax.vmap(backward, in_axes=2, out_axes=2)(c)


def both_through(backward: Callable[[Array], Array], c: Array) -> Array:
    """Jᵀ c J [n, i, i] for whole matrices c [n, o, o], by the backward pass of a layer: error -> error."""
    return half_through(backward, jnp.swapaxes(half_through(backward, c), 1, 2))


def crossing(back_f: Callable[[Array], Array], back_g: Callable[[Array], Array], m: Array) -> Array:
    """J_fᵀ m J_g + J_gᵀ mᵀ J_f [n, i, i], by the backward passes of two layers of one input, for matrices m [n, o, o].

    For a diagonal m [n, o] its diagonal 2 Σ_k m_k J_f,ki J_g,ki [n, i], by o backward passes of each layer.
    """
    if is_exact(m):
        below = half_through(back_g, jnp.swapaxes(half_through(back_f, m), 1, 2))
        return below + jnp.swapaxes(below, 1, 2)
    return 2 * jnp.einsum("nk,nik,nik->ni", m, _transposed_jacobian(back_f, m), _transposed_jacobian(back_g, m))


def _transposed_jacobian(backward: Callable[[Array], Array], like: Array) -> Array:
    """Jᵀ [n, i, o], by o backward passes; like is [n, o]."""
    n, width = like.shape
    return half_through(backward, jnp.broadcast_to(jnp.eye(width, dtype=like.dtype)[None], (n, width, width)))


def own_slopes(backward: Callable[[Array], Array], like: Array) -> Array:
    """The diagonal ∂y_no/∂x_no [n, o] of a Jacobian, by o backward passes; like is [n, o]."""
    return diagonal(_transposed_jacobian(backward, like))
