"""BackProp by hand and the automatic gradient to compare it with (slides 11 and 12).

Forward: each layer returns its output and a tape. At the top, ε^L = ∂L/∂a from the loss. Backward: each layer maps the
error at its output to the error at its input and reads the gradient of its own parameters on the way::

    ε^{l−1}_nk = Σ_h ε^l_nh z^l_nh w^l_kh          ∂Q/∂w^l_kh = (1/n) Σ_n ε^l_nh z^l_nh x^{l−1}_nk

which costs O(dim W), whereas differencing every weight costs O(dim² W).

Errata: the slide of this recursion prints ε^l for ε^L = a − y, starts the sum over h at 0, where there is no neuron,
and has a stray Σℒ(M_i); "Differentiating a superposition" writes x^l = σ^l(W^l x^{l−1}), which with W^l of H_{l−1} + 1
rows needs Wᵀ.

`custom_vjp` is used only in `as_function`. A layer's ``forward`` is plain JAX, so `jax.grad` of `objective`
differentiates it without any hand-written backward pass and is an independent reference for it.

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
from typing import Any

import jax

from fnn.core import _checks as checks
from fnn.core.batches import supervised
from fnn.core.readings import gradient
from fnn.core.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.derivatives import _checks as derivatives_checks

Objective = Callable[[Params, State, Batch, Array], tuple[Array, State]]

Gradient = Callable[[Params, State, Batch, Array], tuple[tuple[Array, State], Any]]


def objective(net: Layer, loss: Loss) -> Objective:
    """The mean loss over a batch, Q = (1/n) Σ_n ℒ(a(x_n, W), y_n), in training mode.

    Args:
        net: a layer.
        loss: a loss.

    Returns:
        A function ``(params, state, (x, y), key) -> (value, state)`` for `jax.value_and_grad(…, has_aux=True)`.
    """
    checks.is_layer("objective", net)
    checks.is_loss(loss)

    def mean_loss(params: Params, state: State, batch: Batch, key: Array) -> tuple[Array, State]:
        examples = supervised(batch, loss)
        a, state, _ = net.forward(params, state, examples.x, key)
        return examples.mean(loss.value(a, examples.y)), state

    return mean_loss


def backprop(net: Layer, loss: Loss, read: Reading = gradient) -> Gradient:
    """The value and the hand-written gradient of the mean loss, with the signature of the automatic ones.

    Args:
        net: a layer; `watch(net)` also records the errors ε and slopes z of every layer.
        loss: a loss.
        read: the quantity to gather at the parameters; `fnn.core.readings` lists them.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), readings)``, interchangeable with
        ``jax.value_and_grad(objective(net, loss), has_aux=True)``. `jax.jvp` of it is the Hessian-vector product.
    """
    checks.is_layer("backprop", net)
    checks.is_loss(loss)
    derivatives_checks.is_reading(read)

    def value_and_readings(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Any]:
        examples = supervised(batch, loss)
        a, state, tape = net.forward(params, state, examples.x, key)
        error = examples.scaled(loss.slope(a, examples.y), read)
        _, readings = net.backward(params, tape, error, examples.reading(read))
        return (examples.mean(loss.value(a, examples.y)), state), readings

    return value_and_readings


def autodiff(net: Layer, loss: Loss) -> Gradient:
    """The automatic reference of `backprop`: the same function by `jax.value_and_grad` of `objective`.

    Args:
        net: a layer.
        loss: a loss.

    Returns:
        A function ``(params, state, (x, y), key) -> ((value, state), gradient)``.
    """
    return jax.value_and_grad(objective(net, loss), has_aux=True)
