"""Automatic references for every quantity that `fnn` computes by hand: a few lines each, but expensive.

Each function here has the name and the signature of the hand-written one and computes the same numbers by JAX's
derivatives of the plain forward pass, without any hand-written derivative. They are meant for comparison on small
networks: n gradients, Jacobians and Hessians are formed on the way.

======================== ========================================================== ========================
here                     method                                                     by hand
======================== ========================================================== ========================
`read(reading)`          the reading of the gradients of all examples               `backprop(…, reading)`
`gradient_noise`         the definitions, on the gradients of all examples          `gradient_noise`
`clip_per_example`       the mean of the clipped gradients of all examples          `clip_per_example`
`hessian_diagonal`       the diagonals of `jax.hessian` of all examples' losses     `second_derivatives`
`gate_curvature`         the diagonal of `jax.hessian` of Q by the gates            `gate_curvature`
`unit_gate_curvature`    the same by gates on the outputs of all layers             `unit_gate_curvature`
`ggn_diagonal`           the diagonal of (1/n) Σ Jᵀ ∇²ℒ J, J by `jax.jacrev`        `ggn_diagonal`
`kronecker_factors`      A from each layer's inputs, G from the Jacobian by S       `kronecker_factors`
`hessian_vector_product` `jax.jvp` of `jax.grad` of Q                               `hessian_vector_product`
`ggn_vector_product`     Jᵀ(∇²ℒ(Jv)) by `jax.linearize` and its transpose           `ggn_vector_product`
`hessian`, `ggn`         the whole matrix [dim W, dim W], for `jnp.trace` and       `trace`, `lanczos`
                         `jnp.linalg.eigvalsh`
======================== ========================================================== ========================

The mean of a random estimate (`hutchinson`, and `ggn_diagonal` and `kronecker_factors` by samples) is the reference of
the quantity it estimates. The one-pass second derivatives have a reference only where they are exact.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn.derivatives import reference as automatic
    >>> from fnn import backprop, dense, linear, serial, squared, squared_norm, tanh
    >>> net, x, y = serial(dense(4, tanh), linear(1)), jnp.ones((3, 2)), jnp.ones((3, 1))
    >>> given = *net.init(jax.random.key(0), x), (x, y), jax.random.key(1)
    >>> _, by_hand = backprop(net, squared, squared_norm)(*given)
    >>> _, expected = automatic.read(net, squared, squared_norm)(*given)
    >>> all(map(jnp.allclose, jax.tree.leaves(by_hand), jax.tree.leaves(expected)))
    True
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.core.batches import supervised
from fnn.core.readings import contributions, gradient, has_weights, per_example
from fnn.core.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.derivatives import _checks as derivatives_checks
from fnn.derivatives.backpropagation import Gradient, objective
from fnn.derivatives.gauss_newton import Kronecker
from fnn.derivatives.noise import GradientNoise
from fnn.nn.surgery import drop_records, intercept, map_layers

Product = Callable[[Params, State, Batch, Array, Params], Params]

Matrix = Callable[[Params, State, Batch, Array], Array]


def _losses(net: Layer, loss: Loss) -> Callable[..., tuple[Array, State]]:
    """A function that returns the losses [n] of the examples and the state."""

    def each(params: Params, state: State, batch: Batch, key: Array) -> tuple[Array, State]:
        examples = supervised(batch, loss)
        a, state, _ = net.forward(params, state, examples.x, key)
        return examples.present(loss.value(a, examples.y)), state

    return each


def read(net: Layer, loss: Loss, reading: Reading) -> Gradient:
    """A reading of the examples' gradients g_n, the rows of the Jacobian of the losses."""

    def value_and_readings(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        examples = supervised(batch, loss)
        each, new_state = _losses(net, loss)(params, state, batch, key)
        g = jax.jacrev(lambda p: _losses(net, loss)(p, state, batch, key)[0])(params)
        readings = jax.tree.map(lambda leaf: examples.reading(reading).rows(examples.scaled(leaf, reading)), g)
        return (examples.mean(each), new_state), readings

    return value_and_readings


def clip_per_example(threshold: float | Array) -> Callable[[Layer, Loss], Gradient]:
    """(1/n) Σ_n min(1, θ/‖g_n‖) g_n from the gradients of all examples."""

    def clipping(net: Layer, loss: Loss) -> Gradient:
        def clipped(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Params]:
            each, new_state = _losses(net, loss)(params, state, batch, key)
            g = jax.jacrev(lambda p: _losses(net, loss)(p, state, batch, key)[0])(params)
            norm = jnp.sqrt(sum(jnp.sum(leaf.reshape(leaf.shape[0], -1) ** 2, axis=1) for leaf in jax.tree.leaves(g)))
            share = jnp.where(norm > threshold, threshold / norm, 1).astype(norm.dtype)
            examples = supervised(batch, loss)
            mean = jax.tree.map(lambda leaf: jnp.tensordot(share * examples.shares(share.dtype), leaf, 1), g)
            return (examples.mean(each), new_state), mean

        return clipped

    return clipping


def gradient_noise(net: Layer, loss: Loss) -> Callable[[Params, State, Batch, Array], GradientNoise]:
    """The fields of `GradientNoise` by their definitions, from the gradients g_n [n, dim W]."""

    def noise(params: Params, state: State, batch: Batch, key: Array) -> GradientNoise:
        n = batch[0].shape[0]
        each = jax.tree.leaves(read(net, loss, per_example)(params, state, batch, key)[1])
        g = jnp.concatenate([leaf.reshape(n, -1) for leaf in each], axis=1)
        mean = jnp.mean(g, axis=0)
        norm2 = mean @ mean
        along = g @ mean
        across = g - along[:, None] / norm2 * mean[None, :]
        pairs = (jnp.sum(g @ g.T) - jnp.sum(jnp.square(g))) / (n * (n - 1))  # the mean of ⟨g_n, g_m⟩ over n ≠ m
        variance = jnp.sum(jnp.square(g - mean[None, :])) / (n - 1)
        return GradientNoise(
            squared_norm=norm2,
            variance=variance,
            noise_scale=jnp.where(pairs > 0, variance / pairs, jnp.inf),
            norm_test=jnp.sqrt(variance / n / norm2),
            inner_product_test=jnp.std(along, ddof=1) / jnp.sqrt(jnp.asarray(n, g.dtype)) / norm2,
            orthogonality_test=jnp.sqrt(jnp.sum(jnp.square(across)) / (n - 1) / n / norm2),
        )

    return noise


def hessian_diagonal(net: Layer, loss: Loss, reading: Reading = gradient) -> Gradient:
    """A reading of ∂²L_n/∂w², the diagonals of the Hessians of the examples' losses, one row of them at a time."""

    def value_and_readings(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        flat, unravel = ravel_pytree(params)
        slopes = jax.jacrev(lambda w: _losses(net, loss)(unravel(w), state, batch, key)[0])
        units = jnp.eye(flat.size, dtype=flat.dtype)
        each = jax.lax.map(lambda unit: jax.jvp(slopes, (flat,), (unit,))[1] @ unit, units)
        examples = supervised(batch, loss)
        rows = examples.reading(reading).rows
        readings = jax.tree.map(rows, jax.vmap(unravel)(examples.scaled(each.T, reading)))
        return objective(net, loss)(params, state, batch, key), readings

    return value_and_readings


def hessian(net: Layer, loss: Loss) -> Matrix:
    """∇²Q [dim W, dim W], in the order of `jax.flatten_util.ravel_pytree`."""

    def matrix(params: Params, state: State, batch: Batch, key: Array) -> Array:
        flat, unravel = ravel_pytree(params)
        return jax.hessian(lambda w: objective(net, loss)(unravel(w), state, batch, key)[0])(flat)

    return matrix


def ggn(net: Layer, loss: Loss) -> Matrix:
    """(1/n) Σ_n J_nᵀ ∇²ℒ_n J_n [dim W, dim W], from the Jacobians J_n [M, dim W]."""

    def matrix(params: Params, state: State, batch: Batch, key: Array) -> Array:
        flat, unravel = ravel_pytree(params)
        output = lambda w: net.forward(unravel(w), state, batch[0], key)[0]  # noqa: E731
        a = output(flat)
        J = jax.jacrev(output)(flat).reshape(len(a), -1, flat.size)
        H = _loss_hessian(loss, a, batch[1])
        return jnp.einsum("n,nmv,nmk,nkw->vw", supervised(batch, loss).shares(J.dtype), J, H, J)

    return matrix


def ggn_diagonal(net: Layer, loss: Loss) -> Gradient:
    """The diagonal of `ggn`."""

    def value_and_diagonal(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        diagonal = jnp.diagonal(ggn(net, loss)(params, state, batch, key))
        return objective(net, loss)(params, state, batch, key), ravel_pytree(params)[1](diagonal)

    return value_and_diagonal


def kronecker_factors(net: Layer, loss: Loss) -> Gradient:
    """A and G at each layer of weights, from its inputs and J_n = ∂a_n/∂S; `ggn_diagonal` at other params.

    ∂a_n/∂S is the Jacobian by b, or without b by a shift of S: weights, initially 0, of a constant feature 1.
    """

    def value_and_factors(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        kept = _kept(net, params, state, batch[0], key)
        output = lambda p: map_layers(_shifting, net).forward(p, state, batch[0], key)[0]  # noqa: E731
        with_shifts = jax.tree.map(_with_shift, kept, params, is_leaf=has_weights)
        H = _loss_hessian(loss, output(with_shifts), batch[1])
        share = supervised(batch, loss).shares(H.dtype)
        value_and_state, diagonal = ggn_diagonal(net, loss)(params, state, batch, key)

        def of(kept: Any, x: Any, J: Any, diagonal: Any) -> Any:
            if not has_weights(kept):
                return diagonal
            x = x["w"]
            if "b" in kept:
                x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
                J = J["b"]
            else:
                J = J["shift"]
            A = jnp.einsum("n,...ni,...nj->...ij", share, x, x)
            G = jnp.einsum("n,nm...o,nmk,nk...p->...op", share, J, H, J)
            return Kronecker(A=A, G=G)

        given = _given(net, params, state, batch[0], key)
        trees = kept, given, jax.jacrev(output)(with_shifts), diagonal
        return value_and_state, jax.tree.map(of, *trees, is_leaf=has_weights)

    return value_and_factors


def _kept(net: Layer, params: Params, state: State, x: Array, key: Array) -> Any:
    """The shapes of the `contributions` at the params, where an `Outer` marks a layer of weights."""

    def contributed(params: Params) -> Any:
        y, _, tape = net.forward(params, state, x, key)
        return drop_records(net.backward(params, tape, y, contributions)[1])

    return jax.eval_shape(contributed, params)


def _with_shift(kept: Any, node: Any) -> Any:
    is_without = has_weights(kept) and "b" not in kept
    return node | {"shift": jnp.zeros_like(node["w"][..., 0, :])} if is_without else node


def _shifting(part: Layer) -> Layer:
    """The layer with a shift of S = x w in addition to w, as the weights of one more feature, 1."""

    def forward(call: Any, params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
        if not (isinstance(params, dict) and "shift" in params):
            return call(params, state, x, key)
        w = jnp.concatenate([params["w"], params["shift"][None, :]])
        return call({"w": w}, state, jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1), key)

    return intercept(part, forward=forward)


def _given(net: Layer, params: Params, state: State, x: Array, key: Array) -> Any:
    """The input x [n, i] of each layer in place of each of its params, [depth, n, i] in `repeat`."""

    def forward(call: Any, params: Params, state: State, x: Array, key: Array) -> tuple[Array, Any, tuple[()]]:
        # The new state goes up through every composite, and may as well carry x.
        return call(params, state, x, key)[0], jax.tree.map(lambda leaf: x, params), ()

    return map_layers(partial(intercept, forward=forward), net).forward(params, state, x, key)[1]


def _loss_hessian(loss: Loss, a: Array, y: Array) -> Array:
    """∇²ℒ_n [n, M, M] from the loss's value alone; M counts the outputs at all positions."""
    one = lambda leaf: leaf[None]  # noqa: E731

    def of(a: Array, y: Any) -> Array:
        value = lambda flat: loss.value(flat.reshape(1, *a.shape), jax.tree.map(one, y))[0]  # noqa: E731
        return jax.hessian(value)(a.reshape(-1))

    return jax.vmap(of)(a, y)


def hessian_vector_product(net: Layer, loss: Loss) -> Product:
    """H v as the tangent of the automatic gradient."""

    def product(params: Params, state: State, batch: Batch, key: Array, v: Params) -> Params:
        v = derivatives_checks.like_params("hessian_vector_product", v, params)
        slope = jax.grad(lambda p: objective(net, loss)(p, state, batch, key)[0])
        return jax.jvp(slope, (params,), (v,))[1]

    return product


def ggn_vector_product(net: Layer, loss: Loss) -> Product:
    """Jᵀ ∇²ℒ J v/n."""

    def product(params: Params, state: State, batch: Batch, key: Array, v: Params) -> Params:
        examples = supervised(batch, loss)
        x, y = examples.x, examples.y
        v = derivatives_checks.like_params("ggn_vector_product", v, params)
        a, push = jax.linearize(lambda p: net.forward(p, state, x, key)[0], params)
        bent = jax.jvp(jax.grad(lambda a: examples.mean(loss.value(a, y))), (a,), (push(v),))[1]
        return jax.linear_transpose(push, params)(bent)[0]

    return product


def gate_curvature(net: Layer, loss: Loss) -> Callable[[Params, State, Batch, Array], Array]:
    """∂²Q/∂g_i² [i] for gates on the inputs."""

    def at_gates(params: Params, state: State, batch: Batch, key: Array) -> Array:
        x, *others = batch
        gated = lambda g: objective(net, loss)(params, state, (x * g[None, :], *others), key)[0]  # noqa: E731
        return jnp.diagonal(jax.hessian(gated)(jnp.ones(x.shape[1], x.dtype)))

    return at_gates


class _Gated(NamedTuple):
    state: State
    gate: Array


def unit_gate_curvature(net: Layer, loss: Loss) -> Callable[[Params, State, Batch, Array], Any]:
    """∂²Q/∂g_o² [o] for gates on the outputs of every layer, carried in place of the layer's state."""
    is_gated = lambda node: isinstance(node, _Gated)  # noqa: E731

    def with_ones(call: Any, params: Params, state: State, x: Array, key: Array) -> tuple[Array, _Gated, tuple[()]]:
        y = call(params, state, x, key)[0]
        return y, _Gated(state, jnp.ones(y.shape[1], y.dtype)), ()

    def gate(call: Any, params: Params, state: _Gated, x: Array, key: Array) -> tuple[Array, State, Any]:
        y, after, tape = call(params, state.state, x, key)
        return y * state.gate[None, :], after, tape

    opened, gated_net = (map_layers(partial(intercept, forward=forward), net) for forward in (with_ones, gate))

    def at_gates(params: Params, state: State, batch: Batch, key: Array) -> Any:
        _, open_, _ = opened.forward(params, state, batch[0], key)
        flat, unravel = ravel_pytree(jax.tree.map(lambda node: node.gate, open_, is_leaf=is_gated))

        def gated(g: Array) -> Array:
            gates = jax.tree.map(lambda node, gate: node._replace(gate=gate), open_, unravel(g), is_leaf=is_gated)
            return objective(gated_net, loss)(params, gates, batch, key)[0]

        return unravel(jnp.diagonal(jax.hessian(gated)(flat)))

    return at_gates
