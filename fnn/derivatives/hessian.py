"""Second derivatives in BackProp (slide "Optimal Brain Damage").

The error ε = ∂L/∂x is accompanied by a curvature c = ∂²L/∂x² from the loss down to the inputs. Each layer y = f(x) maps
c to Jᵀ c J + Σ_k ε_k ∇²f_k; for a layer of neurons S = x w + b, y = σ(S), z = σ'(S) and each example::

    exact       C_S = diag(z) C diag(z) + diag(σ''(S)∘ε)          C_x = w C_S wᵀ
    one pass    c_S = z²∘c + σ''(S)∘ε                             c_x = c_S (w∘w)ᵀ

    ∂²Q/∂w_io² = (1/n) Σ_n x_ni² (C_S)_noo                        ∂²Q/∂b_o² = (1/n) Σ_n (C_S)_noo

The exact mode carries one matrix per example, and its diagonals are those of the Hessian. The one-pass mode is that of
Y. LeCun, J. Denker, S. Solla, *Optimal Brain Damage*, 1989, with the exact diagonal of the loss at the top. It drops
the off-diagonal terms that weights mix in, so it is exact in the last layer of weights, and in the one below if the
Hessian of the loss is diagonal, as for `squared` or one logit. Elsewhere it is approximate.

Erratum: equation 7 of that paper prints −σ''(S)∘ε. The chain rule gives +, as its equation 8 has it.

=========== ======================= ==================================== ======================================
mode        at the top              cost beyond one gradient             σ'' dropped (``gauss_newton=True``)
=========== ======================= ==================================== ======================================
exact       the loss's Hessian      6 to 9 gradients, n·d² numbers       diagonal of the Gauss–Newton matrix
one pass    its diagonal            0.2 to 0.5 gradients                 Levenberg–Marquardt's, never negative
=========== ======================= ==================================== ======================================

The costs are for 784-128-64-10 and 64-64-64-10 with 128 examples on two CPU cores; the exact one grows with the width
d.

Batch norm couples the examples of a batch in training and raises `fnn.core.Unsupported`; use `inference_mode(net)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._numerics import Sum, narrow, no_sum, plus, ratio, wide
from fnn.core.batches import supervised
from fnn.core.readings import gradient
from fnn.core.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.derivatives import _checks as derivatives_checks
from fnn.derivatives.backpropagation import Gradient
from fnn.nn import _checks as nn_checks
from fnn.nn._second_order import diagonal
from fnn.nn.surgery import LayerRecord, watch


def second_derivatives(
    net: Layer, loss: Loss, read: Reading = gradient, *, exact: bool = True, gauss_newton: bool = False
) -> Gradient:
    """The diagonal ∂²Q/∂w² of the Hessian of the mean loss, from one forward and one backward pass.

    Args:
        net: a layer; `watch(net)` also records the curvature at every layer.
        loss: a loss.
        read: the quantity gathered from the examples' second derivatives: by default their mean; `per_example` keeps
            each.
        exact: True to carry each example's whole matrix, False for its diagonal only.
        gauss_newton: True to drop the terms with σ''.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), second derivatives)``, with the signature of
        `backprop`, in the shapes of the params.

    Raises:
        Unsupported: when called, for a network with a layer that has no per-example second derivatives (batch norm in
            training) or no `curve`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import dense, linear, second_derivatives, serial, squared, tanh
        >>> net, x, y = serial(dense(3, tanh), linear(1)), jnp.ones((2, 2)), jnp.ones((2, 1))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> _, (hidden, output) = second_derivatives(net, squared)(params, state, (x, y), jax.random.key(1))
        >>> hidden["w"].shape, output["b"]
        ((2, 3), Array([1.], dtype=float32))
    """
    derivatives_checks.is_reading(read)
    walk = _walk(net, loss, exact, gauss_newton, "second_derivatives")

    def value_and_readings(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        value, state, _, readings = walk(params, state, batch, key, read)
        return (value, state), readings

    return value_and_readings


def gate_curvature(
    net: Layer, loss: Loss, *, exact: bool = True, gauss_newton: bool = False
) -> Callable[[Params, State, Batch, Array], Array]:
    """∂²Q/∂g_i² [i] for gates g_i = 1 on the inputs, x_i → g_i x_i: the cost of switching a whole feature off.

    Equation, with C = ∂²L/∂x² at the input: ∂²Q/∂g_i² = (1/n) Σ_n x_ni² C_nii. Half of it is the expected increase of
    Q when a feature's gate goes from 1 to 0, including the joint effect of all weights that leave the feature.

    Args:
        net: a layer.
        loss: a loss.
        exact: as in `second_derivatives`.
        gauss_newton: as in `second_derivatives`.

    Returns:
        A function ``(params, state, (x, y), key) -> [i]``.
    """
    walk = _walk(net, loss, exact, gauss_newton, "gate_curvature")

    def at_gates(params: Params, state: State, batch: Batch, key: Array) -> Array:
        _, _, c, _ = walk(params, state, batch, key, gradient)
        return jnp.sum(jnp.square(supervised(batch, loss).x) * diagonal(c), axis=0)

    return at_gates


def unit_gate_curvature(
    net: Layer, loss: Loss, *, exact: bool = True, gauss_newton: bool = False
) -> Callable[[Params, State, Batch, Array], Any]:
    """∂²Q/∂g_o² for gates g_o = 1 on the outputs of every layer, y_o → g_o y_o: the cost of removing a whole unit.

    Equation and options as in `gate_curvature`, with the curvature at each layer's output, met by the same pass.

    Returns:
        A function ``(params, state, (x, y), key) -> gates`` with an array [o] in place of the params of each layer;
        in `repeat` [depth, o].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import dense, linear, serial, squared, tanh
        >>> from fnn.derivatives import unit_gate_curvature
        >>> net, x, y = serial(dense(3, tanh), linear(2)), jnp.ones((4, 5)), jnp.ones((4, 2))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> hidden, output = unit_gate_curvature(net, squared)(params, state, (x, y), jax.random.key(1))
        >>> hidden.shape, output.shape
        ((3,), (2,))
    """
    walk = _walk(watch(net), loss, exact, gauss_newton, "unit_gate_curvature")

    def of_layer(record: LayerRecord) -> Array:
        is_matrix = record.curvature.ndim > record.y.ndim
        c = jnp.diagonal(record.curvature, axis1=-2, axis2=-1) if is_matrix else record.curvature
        return jnp.sum(jnp.square(record.y) * c, axis=-2)

    def at_gates(params: Params, state: State, batch: Batch, key: Array) -> Any:
        _, _, _, records = walk(params, state, batch, key, gradient)
        return jax.tree.map(of_layer, records, is_leaf=lambda node: isinstance(node, LayerRecord))

    return at_gates


def _walk(net: Layer, loss: Loss, exact: bool, gauss_newton: bool, where: str) -> Callable[..., tuple]:
    """The forward pass and the backward pass with error and curvature: (value, state, curvature at x, readings)."""
    checks.is_layer(where, net)
    checks.is_loss(loss)
    curve = checks.curve_of(net)

    def walk(params: Params, state: State, batch: Batch, key: Array, read: Reading) -> tuple:
        x, y, _, _ = examples = supervised(batch, loss)
        a, state, tape = net.forward(params, state, x, key)
        nn_checks.rows_only(where, a.shape)
        # Every term with σ'' is linear in the error: with the error 0 all of them vanish, and Jᵀ c J remains.
        error = jnp.zeros_like(a) if gauss_newton else examples.scaled(loss.slope(a, y), read)
        c = examples.scaled(loss_hessian(loss, a, y) if exact else loss.curvature(a, y), read)
        _, c, readings = curve(params, tape, error, c, examples.reading(read))
        return examples.mean(loss.value(a, y)), state, c, readings

    return walk


def probe_key(key: Array) -> Array:
    """A key for random probes; it differs from those of the layers, which are numbered 0, 1, … from the same key."""
    return jax.random.fold_in(key, 2**32 - 1)


def loss_hessian(loss: Loss, a: Array, y: Array) -> Array:
    """∂²ℒ/∂a_m∂a_k [n, …, M, M] of each example, a diagonal matrix for a loss that is a sum over outputs."""
    if loss.hessian is not None:
        return loss.hessian(a, y)
    diagonal = loss.curvature(a, y)
    return jax.vmap(jnp.diag)(diagonal.reshape(-1, a.shape[-1])).reshape(*a.shape, a.shape[-1])


def microbatched(value_and_gradient: Gradient, size: int) -> Gradient:
    """The same value and gradient, computed in chunks of the batch to save memory.

    Args:
        value_and_gradient: `backprop(…)`, `second_derivatives(…)` or a similar function that returns means over
            examples, or means by the weights of a batch (x, y, weight).
        size: number of examples in a chunk; the remainder is one smaller chunk.

    Returns:
        A function with the same signature. The state passes from chunk to chunk, and each chunk has its own key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import backprop, microbatched, linear, squared
        >>> net, x, y = linear(1), jnp.arange(5.0)[:, None], jnp.ones((5, 1))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> given = params, state, (x, y), jax.random.key(1)
        >>> at_once = backprop(net, squared)
        >>> in_chunks = microbatched(at_once, 2)
        >>> all(map(jnp.allclose, jax.tree.leaves(at_once(*given)), jax.tree.leaves(in_chunks(*given))))
        True
    """
    checks.is_function("microbatched", value_and_gradient)
    size = checks.count("size", size)

    def chunked(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        n = checks.examples("microbatched", batch)
        whole = n // size
        batch = jax.tree.map(jnp.asarray, batch)

        def add(carry: tuple[State, Sum], part: Any) -> tuple[tuple[State, Sum], None]:
            state, sum = carry
            rows, i = part
            (value, state, *aux), g = value_and_gradient(params, state, rows, jax.random.fold_in(key, i))
            return (state, plus(sum, _times(_count(rows), wide((value, aux, g))))), None

        first = jax.tree.map(lambda a: a[:size], batch)
        (value, _, *aux), g = jax.eval_shape(value_and_gradient, params, state, first, key)
        carry = state, no_sum((value, aux, g))
        if whole:
            rows = jax.tree.map(lambda a: a[: whole * size].reshape(whole, size, *a.shape[1:]), batch)
            carry, _ = jax.lax.scan(add, carry, (rows, jnp.arange(whole)))
        if n % size:
            carry, _ = add(carry, (jax.tree.map(lambda a: a[whole * size :], batch), jnp.asarray(whole)))
        state, sum = carry
        count = _count(batch)
        total = _times(1 / count if isinstance(count, int) else ratio(count, jnp.square(count)), sum.total)
        value, aux, g = narrow(total, (value, aux, g))
        return (value, state, *aux), g

    return chunked


def _count(batch: Batch) -> int | Array:
    """n, or Σ w of a batch (x, y, weight)."""
    n = jax.tree.leaves(batch)[0].shape[0]
    is_weighted = isinstance(batch, tuple | list) and len(batch) == 3 and jnp.shape(batch[2]) == (n,)
    if is_weighted and jnp.issubdtype(batch[2].dtype, jnp.floating):
        return jnp.sum(wide(batch[2]))
    return n


def _times(factor: int | float | Array, tree: Any) -> Any:
    """The tree with every leaf times the factor, in the leaf's dtype."""
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(factor, leaf.dtype), tree)
