"""The generalised Gauss–Newton matrix, read from one backward pass over the columns of the loss Hessian's root.

With a = a(x_n, W) the output, J_n = ∂a/∂w its Jacobian and ∇²ℒ = R Rᵀ, R = [r_1 … r_C], the matrix is::

    GGN = (1/n) Σ_n J_nᵀ ∇²ℒ_n J_n = (1/n) Σ_n Σ_c g_nc g_ncᵀ            g_nc = J_nᵀ r_nc

It is the Hessian of Q without the terms with σ'', never indefinite, and for `softmax_cross_entropy` the Fisher matrix.
Each g_nc is the result of BackProp for the error r_nc, so every reading of per-example gradients applies to them too:
a backward pass is linear in the error and is vmapped over the columns. At a layer S = x w + b the error is s_nc = ∂/∂S;
only a sum over the columns is needed, so the weights are read once, whatever C is::

    diagonal at w_io  = (1/n) Σ_n x_ni² (Σ_c s_nco²)                                       `ggn_diagonal`
    block at (w, b)   ≈ A ⊗ G,  A = (1/n) Σ_n x̄_n x̄_nᵀ,  G = (1/n) Σ_nc s_nc s_ncᵀ         `kronecker_factors`
    GGN v             = (1/n) Σ_n J_nᵀ ∇²ℒ_n (J_n v)                                       `ggn_vector_product`

Exact values of the first two take C backward passes of errors, C = the number of outputs; with ``samples`` m they take
m passes of random mixtures Σ_c ±r_c, which are unbiased for every m and have a relative error of about 1/√m.

Source: the diagonal after N. Schraudolph, *Fast curvature matrix-vector products*, 2002; the factors after
J. Martens, R. Grosse, *Optimizing neural networks with Kronecker-factored approximate curvature*, 2015, and those of
shared weights after R. Eschenhagen and others, *Kronecker-factored approximate curvature for modern neural network
architectures*, 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._numerics import wide
from fnn.core.batches import in_rank_of, supervised
from fnn.core.errors import Unsupported
from fnn.core.readings import Outer, Shared, contributions, gathered, gradient, has_weights, is_outer, second_moment
from fnn.core.types import Array, Batch, Layer, Loss, Params, State
from fnn.derivatives import _checks as derivatives_checks
from fnn.derivatives.backpropagation import Gradient
from fnn.derivatives.hessian import loss_hessian, probe_key
from fnn.nn import _checks as nn_checks
from fnn.nn.surgery import drop_records


def ggn_diagonal(net: Layer, loss: Loss, *, samples: int | None = None) -> Gradient:
    """The diagonal of the Gauss–Newton matrix, exact or estimated by Monte Carlo.

    Equal to ``second_derivatives(net, loss, gauss_newton=True)``, which carries a matrix d × d per example where
    this carries C columns: use this one for layers wider than the output, and that one for losses without a root.

    Args:
        net: a layer.
        loss: a convex loss.
        samples: None for the exact diagonal; m for the mean of m random columns, drawn with the key.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), diagonal)``, in the signature of `backprop`.

    Raises:
        Unsupported: a loss without a root; when called, for a network with batch norm in training mode.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, squared
        >>> from fnn.derivatives import ggn_diagonal
        >>> net, x, y = linear(1), jnp.array([[1.0, 3.0]]), jnp.ones((1, 1))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> _, diagonal = ggn_diagonal(net, squared)(params, state, (x, y), jax.random.key(1))
        >>> diagonal["w"][:, 0], diagonal["b"]
        (Array([1., 9.], dtype=float32), Array([1.], dtype=float32))
    """
    return _read_from_columns(net, loss, samples, "ggn_diagonal", _diagonal)


def kronecker_factors(net: Layer, loss: Loss, *, samples: int | None = None, reduce: bool = False) -> Gradient:
    """The Kronecker factors (KFAC) of each layer's block of the Gauss–Newton matrix.

    A ⊗ G *is* the block for a batch of one, and for a network without σ and the loss `squared`; elsewhere it treats
    x and s as independent. Of weights used at P positions p there are two approximations::

        expand    A = (1/nP) Σ_np x̄_np x̄_npᵀ              G = (1/n) Σ_ncp s_ncp s_ncpᵀ
        reduce    A = (1/n) Σ_n x̂_n x̂_nᵀ, x̂ = mean_p x̄     G = (1/n) Σ_nc ŝ_nc ŝ_ncᵀ, ŝ = Σ_p s

    Expand is the block, for a network without σ and the loss `squared`, where every position has a loss of its own
    (`each_position`), and suits `flatten` too; reduce is the block where positions are averaged before one loss
    (`average_pool`). The other of the two is wrong in scale there.

    Args:
        net: a layer.
        loss: a convex loss.
        samples: as in `ggn_diagonal`.
        reduce: whether to reduce over positions; without positions, both are the same.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), factors)`` with a `Kronecker` in place of each
        {"w", "b"}, or {"w"} of a layer without biases, whose A is (1/n) Σ x xᵀ, and the Gauss–Newton diagonal in
        place of other parameters. In `repeat` the depth is the first axis.

    Raises:
        Unsupported: as in `ggn_diagonal`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import dense, linear, serial, squared, tanh
        >>> from fnn.derivatives import kronecker_factors
        >>> net, x, y = serial(dense(4, tanh), linear(2)), jnp.ones((8, 3)), jnp.ones((8, 2))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> _, (hidden, output) = kronecker_factors(net, squared)(params, state, (x, y), jax.random.key(1))
        >>> hidden.A.shape, hidden.G.shape, output.A.shape, output.G.shape
        ((4, 4), (4, 4), (5, 5), (2, 2))
    """
    nn_checks.flag("reduce", reduce)
    return _read_from_columns(net, loss, samples, "kronecker_factors", partial(_factors, reduce=reduce))


def ggn_vector_product(net: Layer, loss: Loss) -> Callable[[Params, State, Batch, Array, Params], Params]:
    """The Gauss–Newton matrix times a vector, GGN v, by a forward pass with a tangent and one backward pass.

    Costs one gradient and one tangent of the forward pass. Also right for batch norm, whose J is that of the batch.

    Args:
        net: a layer.
        loss: any loss; the matrix may be indefinite if the loss is not convex.

    Returns:
        A function ``(params, state, (x, y), key, v) -> GGN v``, v in the shapes of the params.
    """
    checks.is_layer("ggn_vector_product", net)
    checks.is_loss(loss)

    def product(params: Params, state: State, batch: Batch, key: Array, v: Params) -> Params:
        x, y, _, _ = examples = supervised(batch, loss)
        v = derivatives_checks.like_params("ggn_vector_product", v, params)

        def output(params: Params) -> tuple[Array, Any]:
            a, _, tape = net.forward(params, state, x, key)
            return a, tape

        a, Jv, tape = jax.jvp(output, (params,), (v,), has_aux=True)
        bent = jnp.einsum("...mk,...k->...m", loss_hessian(loss, a, y), Jv)
        return drop_records(net.backward(params, tape, examples.scaled(bent, gradient), gradient)[1])

    return product


def root_columns(loss: Loss, a: Array, y: Array) -> Array:
    """The columns r_c of the root of each example's loss Hessian, [C, n, M].

    With positions, for outputs [n, …, M], the Hessian is a block for each, and so is its root: [C·positions, n, …, M].
    """
    columns = _columns_of_positions(loss, a, y)
    if a.ndim == 2:
        return columns
    columns = columns.reshape(len(columns), len(a), -1, a.shape[-1])
    alone = jnp.eye(columns.shape[2], dtype=bool)[:, None, None, :, None]
    return jnp.where(alone, columns[None], 0).reshape(-1, *a.shape)


def _columns_of_positions(loss: Loss, a: Array, y: Array) -> Array:
    """The columns of the root's block at every position, [C, rows, M], where a row is a position of an example."""
    _has_root("root_columns", loss)
    root = loss.root(a, y)  # pyright: ignore[reportOptionalCall]
    root = root.reshape(-1, *root.shape[a.ndim - 1 :])
    return jnp.moveaxis(jax.vmap(jnp.diag)(root) if root.ndim == 2 else root, -1, 0)


def _mixtures(loss: Loss, a: Array, y: Array, samples: int, key: Array) -> Array:
    """Σ_c ±r_c/√m with random signs, [m, n, …, M]: the mean of their outer products is the loss Hessian."""
    of_root = _columns_of_positions(loss, a, y)
    signs = jax.random.rademacher(key, (samples, *of_root.shape[:2]), a.dtype)
    mixed = jnp.einsum("scn,cnm->snm", signs, of_root) / jnp.sqrt(jnp.asarray(samples, a.dtype))
    return mixed.reshape(samples, *a.shape)


def _read_from_columns(
    net: Layer, loss: Loss, samples: int | None, where: str, read: Callable[[Any, Array], Any]
) -> Gradient:
    checks.is_layer(where, net)
    _has_root(where, loss)
    samples = None if samples is None else checks.count("samples", samples)

    def value_and_readings(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        x, y, _, _ = examples = supervised(batch, loss)
        a, state, tape = net.forward(params, state, x, key)
        errors = root_columns(loss, a, y) if samples is None else _mixtures(loss, a, y, samples, probe_key(key))
        errors = jax.vmap(examples.present)(errors)
        kept = jax.vmap(lambda error: drop_records(net.backward(params, tape, error, contributions)[1]))(errors)
        return (examples.mean(loss.value(a, y)), state), read(kept, examples.shares(wide(a).dtype))

    return value_and_readings


def _diagonal(kept: Any, share: Array) -> Params:
    """Σ_n ω_n x_n² (Σ_c s_nc²)ᵀ at weights, Σ_n ω_n Σ_c r_nc² at others, of kept [C, n, …] and ω = 1/n, or weights."""

    def counted(rows: Array) -> Array:
        return jnp.einsum("n,n...->n...", share.astype(rows.dtype), rows)

    def diagonal(node: Any) -> Array:
        if isinstance(node, Shared):
            return _diagonal_of_shared(node, share)
        if is_outer(node):
            x, error = wide(node.x[0]), wide(node.error)
            squares = Outer(jnp.square(x), counted(jnp.sum(jnp.square(error), axis=0)))
            return gathered(gradient, squares).astype(node.error.dtype)
        return gathered(gradient, counted(jnp.sum(jnp.square(wide(node)), axis=0))).astype(node.dtype)

    return jax.tree.map(diagonal, kept, is_leaf=is_outer)


def _diagonal_of_shared(node: Shared, share: Array) -> Array:
    """Σ_n ω_n Σ_c (Σ_p x_np s_ncp)², one column after another: the sum over c cannot be taken before the square."""
    x, root = wide(node.x[0]), jnp.sqrt(share)

    def add(sum: Array, error: Array) -> tuple[Array, None]:
        error = wide(error)
        columns = Shared(x, error * in_rank_of(error, root.astype(error.dtype)))
        return sum + gathered(second_moment, columns), None

    like = jax.eval_shape(lambda: gathered(second_moment, Shared(x, wide(node.error[0]))))
    return jax.lax.scan(add, jnp.zeros(like.shape, like.dtype), node.error)[0].astype(node.error.dtype)


def _factors(kept: Any, share: Array, *, reduce: bool) -> Any:
    def of(node: Any) -> Any:
        if not has_weights(node):
            return _diagonal(node, share)
        x, s = wide((node["w"].x[0], node["w"].error))
        if "b" in node:
            x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        is_shared = isinstance(node["w"], Shared)
        if is_shared and reduce:
            x, s = jnp.mean(x, axis=-2), jnp.sum(s, axis=-2)
        positions = "p" if is_shared and not reduce else ""
        A = jnp.einsum(f"n,n...{positions}i,n...{positions}j->...ij", share.astype(x.dtype), x, x)
        G = jnp.einsum(f"n,cn...{positions}o,cn...{positions}q->...oq", share.astype(s.dtype), s, s)
        A = A / x.shape[-2] if positions else A
        return Kronecker(A.astype(node["w"].x.dtype), G.astype(node["w"].error.dtype))

    return jax.tree.map(of, kept, is_leaf=lambda node: has_weights(node) or is_outer(node))


class Kronecker(NamedTuple):
    """The two factors of a layer's block of the Gauss–Newton matrix, which is approximately A ⊗ G."""

    A: Array
    """mean of x̄ x̄ᵀ over the examples, [i+1, i+1]: x̄ is x with a 1 appended for the bias, if there is one"""
    G: Array
    """mean over the examples of ∂²L/∂S² without the terms in σ'', [o, o]"""


def _has_root(where: str, loss: Loss) -> None:
    """Raise Unsupported unless the loss has a root of its Hessian, which only a convex loss can have."""
    checks.is_loss(loss)
    if loss.root is None:
        raise Unsupported(
            f"{where}: expected a (convex) loss with a root of its Hessian, got {loss}, which has none. "
            "Use second_derivatives(net, loss, gauss_newton=True), or give your own loss a root: Loss(…, root=…)."
        )
