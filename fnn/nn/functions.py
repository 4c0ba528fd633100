"""Conversions between layers and plain JAX functions, in both directions.

`as_function` converts a layer to a JAX function that `jax.grad` differentiates by the hand-written backward pass, with
the only `jax.custom_vjp` of the library. `from_function` converts a JAX function to a layer with an automatic backward.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.core import _checks as checks
from fnn.core.readings import gradient
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn._second_order import diagonal, is_exact


class FunctionTape(NamedTuple):
    """The tape of a layer made by `from_function`."""

    x: Array
    """inputs [n, i]"""
    pull: Callable[[Array], tuple[Params, Array]]
    """the pull-back from `jax.vjp`, a pytree"""


def as_function(net: Layer) -> Callable[[Params, State, Array, Array], tuple[Array, State]]:
    """The forward pass as a JAX function that `jax.grad` differentiates by the hand-written backward pass.

    Works with `jit`, `vmap`, `grad`, `grad` of `grad` and `jax.hessian`. `jax.jvp` of it raises, as for every
    `jax.custom_vjp`; use ``lambda *a: net.forward(*a)[:2]`` or `backprop` instead, which are plain JAX. The new state
    carries no gradient.

    Args:
        net: a layer.

    Returns:
        A function ``(params, state, x, key) -> (y, state)``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import as_function, dense, tanh
        >>> net, x = dense(1, tanh), jnp.ones((1, 1))
        >>> f = as_function(net)
        >>> params, state = {"w": jnp.ones((1, 1)), "b": jnp.zeros(1)}, ()
        >>> jax.grad(lambda x: f(params, state, x, jax.random.key(0))[0].sum())(x)
        Array([[0.4199743]], dtype=float32)
    """
    checks.is_layer("as_function", net)

    @jax.custom_vjp
    def function(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State]:
        y, state, _ = net.forward(params, state, x, key)
        return y, state

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Any, Any]:
        y, state, tape = net.forward(params, state, x, key)
        return (y, state), (params, tape)

    def backward(kept: tuple[Params, Any], errors: tuple[Array, Any]) -> tuple[Any, None, Array, None]:
        error, readings = net.backward(*kept, errors[0], gradient)
        return readings, None, error, None

    function.defvjp(forward, backward)
    return function


def from_function(
    init: Callable[[Array, Any], Params],
    f: Callable[[Params, Array], Array],
    label: str | None = None,
) -> Layer:
    """Any JAX function as a layer, with an automatic backward pass by `jax.vjp`.

    Args:
        init: ``(key, x) -> params``, x [n, i] an array or `jax.ShapeDtypeStruct`; params any pytree of arrays, of
            floats if it is to be trained.
        f: ``(params, x [n, i]) -> y [n, o]``. Readings other than `gradient` run f on one example at a time and are
            right only if f treats the examples independently. An integer x, as of an embedding, has no derivative:
            its error and its curvature are zero.
        label: how the layer prints; by default, f's name.

    Returns:
        A layer without state that computes f in training and in inference. Its second derivatives are automatic
        too, at the cost of one gradient per parameter of f.

    Raises:
        TypeError: params that are not floats, when differentiated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import from_function, linear, serial
        >>> scale = from_function(lambda key, x: jnp.ones(()), lambda a, x: a * jnp.sin(x), "scaled_sine")
        >>> serial(linear(4), scale)
        serial(linear(4), scaled_sine)
    """
    checks.is_function("from_function: init", init)
    checks.is_function("from_function: f", f)

    def apply(params: Params, state: State, x: Array) -> Array:
        return f(params, x)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, FunctionTape]:
        y, pull = jax.vjp(f, params, x)
        return y, state, FunctionTape(x, pull)

    def backward(params: Params, tape: FunctionTape, error: Array, read: Reading) -> tuple[Array, Any]:
        _are_differentiable(name, params)
        summed, through = tape.pull(error)
        if read.linear:
            return through, jax.tree.map(lambda total: read.rows(total[None]), summed)

        def of_one(x: Array, e: Array) -> Params:
            return jax.vjp(lambda p: f(p, x[None]), params)[1](e[None])[0]

        return through, jax.tree.map(read.rows, jax.vmap(of_one)(tape.x, error))

    def curve(params: Params, tape: FunctionTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        _are_differentiable(name, params)
        matrices = c if is_exact(c) else jax.vmap(jnp.diag)(c)
        below, at_params = jax.vmap(partial(_curvatures, f, params))(tape.x, error, matrices)
        return tape.pull(error)[1], below if is_exact(c) else diagonal(below), jax.tree.map(read.rows, at_params)

    name = label or f"from_function({getattr(f, '__name__', 'f')})"
    return Layer(
        label=name,
        init=lambda key, x: (init(key, x), ()),
        apply=apply,
        forward=forward,
        backward=backward,
        curve=curve,
    )


def _are_differentiable(where: str, params: Params) -> None:
    """Raise TypeError unless all params are floats."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"{where}.backward: expected params of floats, got {jnp.result_type(leaf)} at "
                f"params{jax.tree_util.keystr(path)}. Let f close over numbers that are not to be trained."
            )


def _curvatures(
    f: Callable[[Params, Array], Array], params: Params, x: Array, e: Array, c: Array
) -> tuple[Array, Params]:
    """∂²L/∂x² [i, i] and ∂²L/∂p² of one example x [i], for the error e [o] and the curvature c [o, o] at f.

    The Hessian of e·f + ½ (f − y)ᵀ c (f − y) at the point where f = y is Jᵀ c J + Σ_k e_k ∇²f_k.
    """
    y = f(params, x[None])[0]

    def model(p: Params, x: Array) -> Array:
        a = f(p, x[None])[0]
        return e @ a + 0.5 * (a - y) @ c @ (a - y)

    has_slope = jnp.issubdtype(x.dtype, jnp.floating)  # integers have none
    at_x = jax.hessian(model, argnums=1)(params, x) if has_slope else jnp.zeros((*x.shape, *x.shape), c.dtype)
    return at_x, _second_derivatives(lambda p: model(p, x), params)


def _second_derivatives(f: Callable[[Params], Array], params: Params) -> Params:
    """The diagonal ∂²f/∂p², one Hessian-vector product per parameter."""
    flat, unravel = ravel_pytree(params)
    slope = jax.grad(lambda p: f(unravel(p)))
    units = jnp.eye(flat.size, dtype=flat.dtype)
    return unravel(jax.vmap(lambda unit: jax.jvp(slope, (flat,), (unit,))[1] @ unit)(units))
