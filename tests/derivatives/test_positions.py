"""Every quantity of networks with positions, against automatic gradients of one example at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fnn import Reading, backprop, gradient, gram, objective, per_example, second_moment, squared_norm, variance
from fnn.core import contributions, gathered
from fnn.derivatives import ggn_diagonal, ggn_vector_product, reference
from fnn.derivatives.noise import _NORM
from fnn.nn import drop_records, watch
from fnn.testing._trees import normal
from tests.checkers import check_close
from tests.positions import NETWORKS, Posed, given

each_network = pytest.mark.parametrize("posed", NETWORKS.values(), ids=NETWORKS.keys())

OF_ONE_OWN = Reading(
    label="cubes",
    outer=lambda x, error: (x**3).T @ error**3,
    rows=lambda rows: jnp.sum(rows**3, axis=0),
    stack=lambda stacked: stacked,
    scale=lambda n: 1.0,
    linear=False,
)
"""A reading as a user writes one, who has never heard of positions."""


def _square(g: Any) -> Any:
    return jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim)))


MEANT: dict[Reading, Any] = {
    gradient: lambda g: jnp.mean(g, axis=0),
    per_example: lambda g: g,
    squared_norm: _square,
    gram: lambda g: g.reshape(len(g), -1) @ g.reshape(len(g), -1).T,
    second_moment: lambda g: jnp.mean(jnp.square(g), axis=0),
    variance: lambda g: jnp.var(g, axis=0),
    OF_ONE_OWN: lambda g: jnp.sum(g**3, axis=0),
    _NORM: lambda g: jnp.sqrt(_square(g)),
}
"""What each reading is of the gradients g [n, …] of single examples."""


def _each_gradient(posed: Posed, params: Any, state: Any, batch: Any, key: Any) -> Any:
    """The automatic gradients of all examples: the network draws for the whole batch, so x is not cut."""
    x, y = batch

    def losses(params: Any) -> Any:
        a, _, _ = posed.net.forward(params, state, x, key)
        return posed.loss.value(a, y)

    _, pull = jax.vjp(losses, params)
    return jax.vmap(lambda e: pull(e)[0])(jnp.eye(len(x)))


@each_network
def test_readings_are_of_the_examples_own_gradients(posed: Posed) -> None:
    params, state, batch, key = given(posed)

    @jax.jit
    def both(params: Any, batch: Any) -> Any:
        each = _each_gradient(posed, params, state, batch, key)
        by_hand = {r: backprop(posed.net, posed.loss, r)(params, state, batch, key)[1] for r in MEANT}
        kept = backprop(posed.net, posed.loss, contributions)(params, state, batch, key)[1]
        later = {r: gathered(r, kept) for r in MEANT if r not in (gradient, second_moment)}
        return by_hand, later, {r: jax.tree.map(meant, each) for r, meant in MEANT.items()}

    by_hand, later, meant = both(params, batch)
    for read, want in meant.items():
        check_close(by_hand[read], want)
    for read, got in later.items():
        check_close(got, meant[read])


@each_network
def test_errors_and_gradients_are_those_of_jax(posed: Posed) -> None:
    """The gradient, recorded too, the error at x, and the losses' slopes."""
    params, state, (x, y), key = given(posed)
    net, loss = posed.net, posed.loss

    @jax.jit
    def both(params: Any, x: Any) -> Any:
        a, _, tape = net.forward(params, state, x, key)
        (_, by_jax) = jax.value_and_grad(objective(net, loss), has_aux=True)(params, state, (x, y), key)
        _, recorded = backprop(watch(net), loss)(params, state, (x, y), key)
        slope = jax.grad(lambda a: jnp.sum(loss.value(a, y)))(a)
        through, _ = net.backward(params, tape, slope, gradient)
        wanted = through
        if jnp.issubdtype(x.dtype, jnp.floating):
            wanted = jax.grad(lambda x: jnp.sum(loss.value(net.forward(params, state, x, key)[0], y)))(x)
        return (drop_records(recorded), loss.slope(a, y), through), (by_jax, slope, wanted)

    check_close(*both(params, x))


SMALL = {name: posed for name, posed in NETWORKS.items() if name not in ("causal transformer",)}


@pytest.mark.parametrize("posed", SMALL.values(), ids=SMALL.keys())
def test_gauss_newton_is_that_of_jacobians(posed: Posed) -> None:
    params, state, batch, key = given(posed, n=3)
    net, loss = posed.net, posed.loss
    v = normal(params, 9)

    @jax.jit
    def both(params: Any, batch: Any) -> Any:
        arguments = params, state, batch, key
        by_hand = ggn_diagonal(net, loss)(*arguments)[1], ggn_vector_product(net, loss)(*arguments, v)
        return by_hand, (
            reference.ggn_diagonal(net, loss)(*arguments)[1],
            reference.ggn_vector_product(net, loss)(*arguments, v),
        )

    check_close(*both(params, batch))
