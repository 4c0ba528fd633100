"""The automatic twin of everything that `fnn` reads from its backward pass: a few lines each, and dear.

Each function here has the name and the signature of its twin by hand and finds the same numbers by JAX's derivatives of
the plain forward pass, never meeting a hand-written one. They are for comparing: n gradients, Jacobians and
Hessians are formed on the way, so small networks are what they are for.

=========================== ============================================================= ========================
here                        what                                                          by hand
=========================== ============================================================= ========================
`read(reading)`             the reading, from the gradients of all objects                `backprop(…, reading)`
`hessian_diagonal`          the diagonal of `jax.hessian` of Q                            `second_derivatives`
`ggn_diagonal`              the diagonal of (1/n) Σ Jᵀ ∇²ℒ J, J by `jax.jacrev`           `ggn_diagonal`
`hessian_product`           `jax.jvp` of `jax.grad` of Q                                  `hessian_product`
`ggn_product`               Jᵀ(∇²ℒ(Jv)) by `jax.linearize` and its transpose              `ggn_product`
`gate_curvature`            the diagonal of `jax.hessian` of Q by the gates               `gate_curvature`
`clip_per_object`           the clipped mean of the gradients of all objects              `clip_per_object`
=========================== ============================================================= ========================

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import automatic, backprop, dense, linear, serial, squared, squared_norm, tanh
    >>> net, x, y = serial(dense(4, tanh), linear(1)), jnp.ones((3, 2)), jnp.ones((3, 1))
    >>> given = *net.init(jax.random.key(0), x), (x, y), jax.random.key(1)
    >>> by_hand, twin = backprop(net, squared, squared_norm), automatic.read(net, squared, squared_norm)
    >>> all(map(jnp.allclose, jax.tree.leaves(by_hand(*given)[1]), jax.tree.leaves(twin(*given)[1])))
    True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.backprop import Gradient, objective
from fnn.types import Array, Batch, Layer, Loss, Params, Reading, State

Product = Callable[[Params, State, Batch, Array, Params], Params]


def _losses(net: Layer, loss: Loss) -> Callable[..., tuple[Array, State]]:
    """The losses [n] of single objects, and the state."""

    def each(params: Params, state: State, batch: Batch, key: Array) -> tuple[Array, State]:
        a, state, _ = net.forward(params, state, batch[0], key)
        return loss.value(a, batch[1]), state

    return each


def read(net: Layer, loss: Loss, reading: Reading) -> Gradient:
    """A reading of the gradients g_n of single objects, which are the rows of the Jacobian of the losses."""

    def value_and_readings(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        n = batch[0].shape[0]
        each, new_state = _losses(net, loss)(params, state, batch, key)
        g = jax.jacrev(lambda p: _losses(net, loss)(p, state, batch, key)[0])(params)
        return (jnp.mean(each), new_state), jax.tree.map(lambda leaf: reading.rows(leaf * reading.scale(n)), g)

    return value_and_readings


def clip_per_object(threshold: float | Array) -> Callable[[Layer, Loss], Gradient]:
    """(1/n) Σ_n min(1, θ/‖g_n‖) g_n from the gradients of all objects."""

    def clipping(net: Layer, loss: Loss) -> Gradient:
        def clipped(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Params]:
            each, new_state = _losses(net, loss)(params, state, batch, key)
            g = jax.jacrev(lambda p: _losses(net, loss)(p, state, batch, key)[0])(params)
            norm = jnp.sqrt(sum(jnp.sum(leaf.reshape(leaf.shape[0], -1) ** 2, axis=1) for leaf in jax.tree.leaves(g)))
            share = jnp.where(norm > threshold, threshold / norm, 1).astype(norm.dtype)
            mean = jax.tree.map(lambda leaf: jnp.tensordot(share, leaf, 1) / norm.size, g)
            return (jnp.mean(each), new_state), mean

        return clipped

    return clipping


def hessian_diagonal(net: Layer, loss: Loss) -> Gradient:
    """∂²Q/∂w², the diagonal of the whole Hessian [dim W, dim W]."""

    def value_and_diagonal(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        flat, unravel = ravel_pytree(params)
        Q = objective(net, loss)
        hessian = jax.hessian(lambda w: Q(unravel(w), state, batch, key)[0])(flat)
        return Q(params, state, batch, key), unravel(jnp.diagonal(hessian))

    return value_and_diagonal


def ggn_diagonal(net: Layer, loss: Loss) -> Gradient:
    """The diagonal of (1/n) Σ_n J_nᵀ ∇²ℒ_n J_n, with every Jacobian J_n [M, dim W] formed."""

    def value_and_diagonal(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        flat, unravel = ravel_pytree(params)
        output = lambda w: net.forward(unravel(w), state, batch[0], key)[0]  # noqa: E731
        J = jax.jacrev(output)(flat)
        diagonal = jnp.einsum("nmw,nmk,nkw->w", J, _loss_hessian(loss, output(flat), batch[1]), J)
        return objective(net, loss)(params, state, batch, key), unravel(diagonal / batch[0].shape[0])

    return value_and_diagonal


def _loss_hessian(loss: Loss, a: Array, y: Array) -> Array:
    """∇²ℒ_n [n, M, M] from the loss's value alone."""
    return jax.vmap(lambda a, y: jax.hessian(lambda a: loss.value(a[None], y[None])[0])(a))(a, y)


def hessian_product(net: Layer, loss: Loss) -> Product:
    """H v, the tangent of the automatic gradient."""

    def product(params: Params, state: State, batch: Batch, key: Array, v: Params) -> Params:
        slope = jax.grad(lambda p: objective(net, loss)(p, state, batch, key)[0])
        return jax.jvp(slope, (params,), (v,))[1]

    return product


def ggn_product(net: Layer, loss: Loss) -> Product:
    """Jᵀ ∇²ℒ J v/n."""

    def product(params: Params, state: State, batch: Batch, key: Array, v: Params) -> Params:
        x, y = batch
        a, push = jax.linearize(lambda p: net.forward(p, state, x, key)[0], params)
        bent = jax.jvp(jax.grad(lambda a: jnp.mean(loss.value(a, y))), (a,), (push(v),))[1]
        return jax.linear_transpose(push, params)(bent)[0]

    return product


def gate_curvature(net: Layer, loss: Loss) -> Callable[[Params, State, Batch, Array], Array]:
    """∂²Q/∂g_i² [i] for gates on the inputs."""

    def at_gates(params: Params, state: State, batch: Batch, key: Array) -> Array:
        x, y = batch
        gated = lambda g: objective(net, loss)(params, state, (x * g[None, :], y), key)[0]  # noqa: E731
        return jnp.diagonal(jax.hessian(gated)(jnp.ones(x.shape[1], x.dtype)))

    return at_gates
