"""Products with the Hessian, and estimates that need such products only.

The hand-written gradient is plain JAX, so its tangent is the Hessian-vector product H v = ∂g/∂w · v (B. Pearlmutter,
*Fast exact multiplication by the Hessian*, 1994). Everything else here needs only products v ↦ M v:

========================= ================================================== ====================================
function                  value                                              cost
========================= ================================================== ====================================
`hessian_vector_product`  H v                                                about 2 gradients
`hutchinson`              diag H = E v∘Hv, v = ±1 at weights or at units     one product per probe
`trace`                   tr M = E vᵀMv                                      one product per probe
`lanczos`                 eigenvalues of M, the extreme ones first           one product per step
========================= ================================================== ====================================

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import linear, squared
    >>> from fnn.derivatives import hessian_vector_product, lanczos, trace
    >>> net, x, y = linear(1), jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros((2, 1))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> H = lambda v: hessian_vector_product(net, squared)(params, state, (x, y), jax.random.key(1), v)
    >>> H(params)["w"].shape, lanczos(H, params, jax.random.key(2), steps=3).values.shape
    ((2, 1), (3,))
    >>> found = trace(H, params, jax.random.key(3), probes=100)
    >>> bool(abs(found.mean - 3.5) < 5 * found.error)  # H has ½ and 2 for the weights and 1 for the bias
    True
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.core import _checks as checks
from fnn.core._numerics import Sum, eigh, mean, narrow, no_sum, plus, units, wide
from fnn.core.batches import supervised
from fnn.core.errors import Unsupported
from fnn.core.readings import Outer, Shared, contributions, gathered, gradient, is_outer
from fnn.core.types import Array, Batch, Layer, Loss, Params, State
from fnn.derivatives import _checks as derivatives_checks
from fnn.derivatives.backpropagation import Gradient, backprop
from fnn.derivatives.hessian import probe_key
from fnn.nn.surgery import drop_records, iter_layers

Product = Callable[[Params], Params]
"""v ↦ M v for a symmetric M, from and to the shapes of the params."""


def hessian_vector_product(
    net: Layer, loss: Loss, *, reverse: bool = False
) -> Callable[[Params, State, Batch, Array, Params], Params]:
    """The Hessian of the mean loss times a vector, H v, through the hand-written backward pass.

    Forward over BackProp, H v = d/dt g(w + t v); in reverse, H v = ∂⟨g, v⟩/∂w. H is symmetric, so the two are equal;
    they differ for a backward pass that is not the gradient of any function.

    Args:
        net: a layer.
        loss: a loss.
        reverse: differentiate BackProp in reverse mode, which stores all of its intermediate values.

    Returns:
        A function ``(params, state, (x, y), key, v) -> H v``, v in the shapes of the params.
    """
    value_and_gradient = backprop(net, loss)

    def product(params: Params, state: State, batch: Batch, key: Array, v: Params) -> Params:
        v = derivatives_checks.like_params("hessian_vector_product", v, params)

        def slope(params: Params) -> Params:
            return drop_records(value_and_gradient(params, state, batch, key)[1])

        if reverse:
            return jax.vjp(slope, params)[1](v)[0]
        return jax.jvp(slope, (params,), (v,))[1]

    return product


def hutchinson(net: Layer, loss: Loss, *, probes: int = 1, units: bool = True) -> Gradient:
    """An estimate of the diagonal of the Hessian from random probes v = ±1, without hand-written second derivatives.

    At weights, diag H = E v∘(H v): every weight is disturbed by the noise of all others. At units, the probes perturb
    the pre-activations S of each example independently, and the last step to the weights is exact::

        ∂²L_n/∂S_no² = E v_no (∂ε_n/∂S v)_o          ∂²Q/∂w_io² = (1/n) Σ_n x_ni² ∂²L_n/∂S_no²

    which leaves a small part of the error for the same cost. The estimate is unbiased for any number of probes; its
    error falls as 1/√probes.

    Args:
        net: a layer; for probes at units, one that draws nothing (otherwise use ``inference_mode(net)``) and couples
            no examples.
        loss: a loss.
        probes: number of probes, drawn with the key.
        units: True for probes at units, False for probes at weights.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), estimate)``, with the signature of `backprop`.

    Raises:
        Unsupported: with probes at units, for a network with dropout; when called, also for other networks that draw
            with the key, for weights without a bias, and for batch norm in training mode.

    Source: M. Hutchinson, 1990, for the trace; C. Bekas, E. Kokiopoulou, Y. Saad, *An estimator for the diagonal of a
    matrix*, 2007.
    """
    checks.is_layer("hutchinson", net)
    probes = checks.count("probes", probes)
    if units:
        _draws_nothing("hutchinson", iter_layers(net))
    one_probe = _at_units(net, loss) if units else _at_weights(net, loss)

    def value_and_estimate(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        value_and_state, _ = backprop(net, loss)(params, state, batch, key)

        def add(sum: Sum, i: Array) -> tuple[Sum, None]:
            return plus(sum, one_probe(params, state, batch, key, jax.random.fold_in(probe_key(key), i))), None

        sum, _ = jax.lax.scan(add, no_sum(params), jnp.arange(probes))
        return value_and_state, narrow(mean(sum, probes), params)

    return value_and_estimate


def _signs(key: Array, like: Any) -> Any:
    leaves, treedef = jax.tree.flatten(like)
    drawn = [jax.random.rademacher(jax.random.fold_in(key, i), p.shape, p.dtype) for i, p in enumerate(leaves)]
    return jax.tree.unflatten(treedef, drawn)


def _at_weights(net: Layer, loss: Loss) -> Callable[..., Params]:
    product = hessian_vector_product(net, loss)

    def probe(params: Params, state: State, batch: Batch, key: Array, own_key: Array) -> Params:
        v = _signs(own_key, params)
        return jax.tree.map(jnp.multiply, v, product(params, state, batch, key, v))

    return probe


def _at_units(net: Layer, loss: Loss) -> Callable[..., Params]:
    """Probes at units: a bias perturbs S, so each example has its own copy of all parameters but the weights."""
    read = backprop(net, loss, contributions)

    def probe(params: Params, state: State, batch: Batch, key: Array, own_key: Array) -> Params:
        x, y, _, n = examples = supervised(batch, loss)
        _needs_no_key("hutchinson", net, params, state, x, key)
        kinds = jax.eval_shape(lambda p: drop_records(read(p, state, (x, y), key)[1]), params)
        _are_rows("hutchinson", kinds)
        is_weight = jax.tree.map(is_outer, kinds, is_leaf=is_outer)
        own = jax.tree.map(lambda w, p: None if w else jnp.broadcast_to(p[None], (n, *p.shape)), is_weight, params)

        def of_one(own: Any, x: Array, y: Array) -> Any:
            merged = jax.tree.map(lambda w, p, o: p if w else o, is_weight, params, own)
            one = jax.tree.map(lambda leaf: leaf[None], (x, y))
            return drop_records(read(merged, state, one, key)[1])

        v = _signs(own_key, own)
        kept, bent = jax.jvp(lambda own: jax.vmap(of_one)(own, x, y), (own,), (v,))
        shaken = dict(jax.tree.leaves_with_path(v))

        def square(path: Any, node: Any, bent: Any) -> Any:
            if not is_outer(node):
                return examples.scaled(shaken[path] * bent[:, 0], gradient)
            sign = shaken[_bias_of(path, shaken)]
            return Outer(jnp.square(node.x[:, 0]), examples.scaled(sign * bent.error[:, 0], gradient))

        return gathered(gradient, jax.tree.map_with_path(square, kept, bent, is_leaf=is_outer))

    return probe


class Estimate(NamedTuple):
    """A mean over random probes and its standard error."""

    mean: Array
    error: Array
    """the standard error of the mean; NaN for a single probe"""


def trace(product: Product, like: Params, key: Array, probes: int = 32) -> Estimate:
    """The trace of a matrix from products, tr M = E vᵀMv for random v = ±1.

    Args:
        product: v ↦ M v, such as a `hessian_vector_product` with all arguments but v fixed.
        like: params, for their shapes and dtypes.
        key: a key.
        probes: number of products.

    Returns:
        An `Estimate`, in float32 at least.
    """
    checks.is_function("trace: product", product)
    probes = checks.count("probes", probes)
    flat, unravel = ravel_pytree(like)

    def probe(i: Array) -> Array:
        v = jax.random.rademacher(jax.random.fold_in(key, i), flat.shape, flat.dtype)
        return wide(v) @ wide(ravel_pytree(product(unravel(v)))[0])

    found = jax.lax.map(probe, jnp.arange(probes))
    spread = jnp.std(found, ddof=1) if probes > 1 else jnp.full((), jnp.nan, found.dtype)
    return Estimate(jnp.mean(found), spread / jnp.sqrt(jnp.asarray(probes, found.dtype)))


class Spectrum(NamedTuple):
    """The result of k steps of `lanczos`."""

    values: Array
    """estimates of eigenvalues [k] in descending order"""
    errors: Array
    """bounds on the distance of each estimate from an eigenvalue, [k]"""
    vectors: Array
    """the corresponding unit vectors [k, dim W]; ``ravel_pytree(params)[1]`` gives one the shapes of the params"""


def lanczos(product: Product, like: Params, key: Array, steps: int = 32) -> Spectrum:
    """Eigenvalues of a symmetric matrix from products, the extreme ones first.

    The matrix is projected onto span{q, Mq, M²q, …} for a random q, where it is tridiagonal. Each new direction is
    made orthogonal to all previous ones, twice, so that rounding does not repeat an eigenvalue. If the span is
    invariant, a new random direction continues it; with as many steps as parameters all eigenvalues are exact.

    Args:
        product: v ↦ M v, such as a `hessian_vector_product` or a `ggn_vector_product` with all arguments but v fixed.
        like: params, for their shapes and dtypes.
        key: a key.
        steps: number of products, at most dim W; as many vectors are stored.

    Returns:
        A `Spectrum` with values and errors in float32 at least. Every product is first scaled to unit size, so a
        matrix may have any scale. The errors include 4 eps of the largest value for the rounding of the products, with
        the eps of the params' dtype.

    Raises:
        ValueError: more steps than parameters.

    Source: C. Lanczos, 1950; full reorthogonalisation as in B. Parlett, *The symmetric eigenvalue problem*, chapter 13.
    """
    checks.is_function("lanczos: product", product)
    flat, unravel = ravel_pytree(like)
    steps = _at_most("steps", steps, flat.size, "the number of parameters")

    def orthogonal(v: Array, basis: Array) -> Array:
        for _ in range(2):
            v = v - (basis @ v) @ basis
        return v

    def drawn(i: Array) -> Array:
        return wide(jax.random.normal(jax.random.fold_in(key, i), flat.shape, flat.dtype))

    def step(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        basis, q = carry
        basis = basis.at[i].set(q)
        image = wide(ravel_pytree(product(unravel(q.astype(flat.dtype))))[0])
        unit = units(image[None])[0]
        image = image * (1 / unit)
        rest = orthogonal(image, basis)
        beta = jnp.linalg.norm(rest)
        is_new = beta > jnp.finfo(q.dtype).eps * jnp.linalg.norm(image) * 10
        other = orthogonal(drawn(i + 1), basis)
        following = jnp.where(is_new, rest / jnp.where(is_new, beta, 1), other / jnp.linalg.norm(other))
        return (basis, following), (image @ q, jnp.where(is_new, beta, 0), unit)

    first = drawn(jnp.zeros((), jnp.int32))
    start = jnp.zeros((steps, flat.size), first.dtype), first / jnp.linalg.norm(first)
    (basis, _), (alpha, beta, unit) = jax.lax.scan(step, start, jnp.arange(steps))
    largest = jnp.max(unit)
    share = unit * (1 / largest)  # a power of two, as the units are: the tridiagonal matrix has unit size
    alpha = alpha * share
    beta = beta * share
    above = jnp.diag(beta[:-1], 1)
    values, within = eigh(jnp.diag(alpha) + above + above.T)
    rounding = 4 * float(jnp.finfo(flat.dtype).eps) * jnp.max(jnp.abs(values))
    errors = jnp.abs(beta[-1] * within[-1]) + rounding
    return Spectrum(
        values=largest * values[::-1],
        errors=largest * errors[::-1],
        vectors=(within[:, ::-1].T @ basis).astype(flat.dtype),
    )


def _draws_nothing(where: str, parts: Iterable[Layer]) -> None:
    """Raise Unsupported if a layer drops neurons at random, according to its modes."""
    for part in parts:
        if part.modes is not None and part.modes.keep is not None:
            raise _draws(where, part)


def _needs_no_key(where: str, net: Layer, *given: Any) -> None:
    """Raise Unsupported if the forward pass at these params, state, x and key depends on the key."""
    if derivatives_checks.uses_key(net, *given):
        raise _draws(where, net)


def _draws(where: str, layer: Layer) -> Unsupported:
    return Unsupported(
        f"{where}: expected a network that draws nothing for probes at units, which run the examples one at a time; "
        f"{layer} would draw another mask than for the batch. Use fnn.inference_mode(net) of a layer with `modes`, "
        "or units=False."
    )


def _are_rows(where: str, kinds: Any) -> None:
    """Raise Unsupported if a weight is used at several positions, which a bias disturbs all at once."""
    if any(isinstance(node, Shared) for node in jax.tree.leaves(kinds, is_leaf=is_outer)):
        raise Unsupported(
            f"{where}: expected rows [n, features] throughout for probes at units, got weights used at several "
            "positions. Use units=False."
        )


def _bias_of(path: tuple[Any, ...], known: Iterable[Any]) -> tuple[Any, ...]:
    """The path of the bias that belongs to the weight at `path`; raises Unsupported if there is none."""
    bias = (*path[:-1], jax.tree_util.DictKey("b"))
    if bias not in known:
        raise Unsupported(
            f"hutchinson: expected a bias for each weight, {{'w': …, 'b': …}}, for probes at units; the weight "
            f"params{jax.tree_util.keystr(path)} has none. Use units=False."
        )
    return bias


def _at_most(name: str, value: Any, most: int, what: str) -> int:
    """The value as an int; raises unless it is a count of at most `most`."""
    value = checks.count(name, value)
    if value > most:
        raise ValueError(f"{name} must be at most {what}, which is {most}, got {value}")
    return value
