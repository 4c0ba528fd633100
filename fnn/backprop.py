"""BackProp by hand, and the doors between hand-written and automatic gradients (slides 11 and 12).

Forward: each layer gives its output and a tape. At the top, ε^L = ∂L/∂a from the loss. Backward: each layer turns the
error at its output into the error at its input and reads its parameters' share on the way::

    ε^{l−1}_nk = Σ_h ε^l_nh z^l_nh w^l_kh          ∂Q/∂w^l_kh = (1/n) Σ_n ε^l_nh z^l_nh x^{l−1}_nk

which costs O(dim W), where differencing every weight costs O(dim² W).

Errata: the slide of this recursion prints ε^l for ε^L = a − y, lets the sum over h start at 0, where no neuron is, and
has a stray Σℒ(M_i); "Differentiating a superposition" writes x^l = σ^l(W^l x^{l−1}), which with W^l of H_{l−1} + 1
rows needs Wᵀ.

`custom_vjp` stands only in `as_function`. A layer's ``forward`` is plain JAX, so `jax.grad` of `objective`
differentiates it without ever seeing a hand-written backward, and is an independent judge of it.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import autodiff, backprop, dense, linear, serial, squared, tanh
    >>> net = serial(dense(8, tanh), linear(1))
    >>> x = jnp.linspace(-1, 1, 10)[:, None]
    >>> params, state = net.init(jax.random.key(0), x)
    >>> given = params, state, (x, jnp.abs(x)), jax.random.key(1)
    >>> (value, _), by_hand = backprop(net, squared)(*given)
    >>> (same, _), automatic = autodiff(net, squared)(*given)
    >>> bool(value == same), all(map(jnp.allclose, jax.tree.leaves(by_hand), jax.tree.leaves(automatic)))
    (True, True)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn import checks
from fnn.layers.second_order import diagonal, is_exact
from fnn.readings import gradient
from fnn.types import Array, Batch, Layer, Loss, Params, Reading, State

Objective = Callable[[Params, State, Batch, Array], tuple[Array, State]]
Gradient = Callable[[Params, State, Batch, Array], tuple[tuple[Array, State], Any]]


class FunctionTape(NamedTuple):
    """What a layer made by `from_function` keeps."""

    x: Array
    """inputs [n, i]"""
    pull: Callable[[Array], tuple[Params, Array]]
    """the pull-back that `jax.vjp` gave, a pytree"""


def objective(net: Layer, loss: Loss) -> Objective:
    """The mean loss of a batch, Q = (1/n) Σ_n ℒ(a(x_n, W), y_n), in the training stage.

    Args:
        net: a layer.
        loss: a loss.

    Returns:
        A function ``(params, state, (x, y), key) -> (value, state)`` for `jax.value_and_grad(…, has_aux=True)`.
    """
    checks.is_layer("objective", net)
    checks.is_loss(loss)

    def mean_loss(params: Params, state: State, batch: Batch, key: Array) -> tuple[Array, State]:
        x, y = checks.batch(batch)
        a, state, _ = net.forward(params, state, x, key)
        return jnp.mean(loss.value(a, y)), state

    return mean_loss


def backprop(net: Layer, loss: Loss, read: Reading = gradient) -> Gradient:
    """The value and gradient of the mean loss by hand, in the signature of the automatic ones.

    Args:
        net: a layer; `watch(net)` shows the errors ε and slopes z of every layer too.
        loss: a loss.
        read: what to gather at the parameters; see `fnn.readings` for what each one gives.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), readings)``, interchangeable with
        ``jax.value_and_grad(objective(net, loss), has_aux=True)``. `jax.jvp` of it is the Hessian-vector product.
    """
    checks.is_layer("backprop", net)
    checks.is_loss(loss)
    checks.is_reading(read)

    def value_and_readings(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        x, y = checks.batch(batch)
        a, state, tape = net.forward(params, state, x, key)
        error = loss.slope(a, y) * read.scale(x.shape[0])
        _, readings = net.backward(params, tape, error, read)
        return (jnp.mean(loss.value(a, y)), state), readings

    return value_and_readings


def autodiff(net: Layer, loss: Loss) -> Gradient:
    """The automatic twin of `backprop`: the same function by `jax.value_and_grad` of `objective`.

    Args:
        net: a layer.
        loss: a loss.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), gradient)``.
    """
    return jax.value_and_grad(objective(net, loss), has_aux=True)


def as_function(net: Layer) -> Callable[[Params, State, Array, Array], tuple[Array, State]]:
    """The network's training stage as a JAX function, which `jax.grad` differentiates by the hand-written backward.

    Goes through `jit`, `vmap`, `grad`, `grad` of `grad` and `jax.hessian`. `jax.jvp` of it raises, as for every
    `jax.custom_vjp`; take ``lambda *a: net.forward(*a)[:2]`` or `backprop` there, which are plain JAX. The new state
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
    """Any JAX function as a layer, its backward by `jax.vjp`: the door for what nobody has derived.

    Args:
        init: ``(key, x) -> params``, x [n, i] an array or `jax.ShapeDtypeStruct`; params any pytree of arrays, of
            floats if it is to be trained.
        f: ``(params, x [n, i]) -> y [n, o]``, which must treat each object by itself for readings other than
            `gradient` to be right: those run f again on one object at a time. Whole numbers x, as of an embedding,
            have no derivative: the error and the curvature that go on to them are none.
        label: how the layer prints; by default after f's name.

    Returns:
        A layer without state, whose forward and application stages are both f. Its second derivatives are automatic
        too, at the price of one gradient for each parameter of f.

    Raises:
        TypeError: when differentiated, params that are not floats.

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
        _differentiable(name, params)
        summed, through = tape.pull(error)
        if read.linear:
            return through, jax.tree.map(lambda total: read.rows(total[None]), summed)

        def of_one(x: Array, e: Array) -> Params:
            return jax.vjp(lambda p: f(p, x[None]), params)[1](e[None])[0]

        return through, jax.tree.map(read.rows, jax.vmap(of_one)(tape.x, error))

    def curve(params: Params, tape: FunctionTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        _differentiable(name, params)
        matrices = c if is_exact(c) else jax.vmap(jnp.diag)(c)
        below, at_params = jax.vmap(partial(_curvatures, f, params))(tape.x, error, matrices)
        return tape.pull(error)[1], below if is_exact(c) else diagonal(below), jax.tree.map(read.rows, at_params)

    name = label or f"from_function({getattr(f, '__name__', 'f')})"
    return Layer(name, lambda key, x: (init(key, x), ()), apply, forward, backward, curve)


def _differentiable(where: str, params: Params) -> None:
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise TypeError(
                f"{where}.backward expects params of floats, got {jnp.result_type(leaf)} at "
                f"params{jax.tree_util.keystr(path)}; let f close over numbers that are not to be trained"
            )


def _curvatures(
    f: Callable[[Params, Array], Array], params: Params, x: Array, e: Array, c: Array
) -> tuple[Array, Params]:
    """∂²L/∂x² [i, i] and ∂²L/∂p² of one object x [i] with the error e [o] and the curvature c [o, o] at f.

    The Hessian of e·f + ½ (f − y)ᵀ c (f − y) at the point where f = y is Jᵀ c J + Σ_k e_k ∇²f_k.
    """
    y = f(params, x[None])[0]

    def model(p: Params, x: Array) -> Array:
        a = f(p, x[None])[0]
        return e @ a + 0.5 * (a - y) @ c @ (a - y)

    has_slope = jnp.issubdtype(x.dtype, jnp.floating)  # whole numbers have none
    at_x = jax.hessian(model, argnums=1)(params, x) if has_slope else jnp.zeros((*x.shape, *x.shape), c.dtype)
    return at_x, _second_derivatives(lambda p: model(p, x), params)


def _second_derivatives(f: Callable[[Params], Array], params: Params) -> Params:
    """∂²f/∂p² for each parameter by itself, one Hessian-vector product each."""
    flat, unravel = ravel_pytree(params)
    slope = jax.grad(lambda p: f(unravel(p)))
    units = jnp.eye(flat.size, dtype=flat.dtype)
    return unravel(jax.vmap(lambda unit: jax.jvp(slope, (flat,), (unit,))[1] @ unit)(units))
