"""The product of two layers of one input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import backprop, dense, linear, product, serial, sigmoid, squared, tanh
from tests.nn.laws import check_laws, each_case_of, one_pass_and_exact
from tests.problems import Case


@each_case_of("gates")
def test_products_keep_their_laws(case: Case) -> None:
    check_laws(case)


def test_one_pass_through_a_product_makes_its_own_diagonal() -> None:
    check_laws(Case(product(dense(4, tanh), dense(4, sigmoid)), 3), laws=one_pass_and_exact)


def test_a_gated_neuron_by_hand() -> None:
    """y = w x · v x with L = y²/2: by w it is y v x², by v it is y w x²."""
    net = product(linear(1, bias=False), linear(1, bias=False))
    w, v, x = 2.0, -3.0, 0.5
    params = {"w": jnp.array([[w]])}, {"w": jnp.array([[v]])}
    batch = jnp.array([[x]]), jnp.zeros((1, 1))
    (value, _), g = backprop(net, squared)(params, ((), ()), batch, jax.random.key(0))
    y = w * v * x * x
    np.testing.assert_allclose([value, g[0]["w"][0, 0], g[1]["w"][0, 0]], [y * y / 2, y * v * x * x, y * w * x * x])


def test_factors_of_different_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two outputs of the same shape"):
        product(linear(2), linear(3)).init(jax.random.key(0), jnp.ones((1, 2)))
    with pytest.raises(TypeError, match="product"):
        product(linear(2), tanh)  # pyright: ignore[reportArgumentType]


def test_a_product_of_the_input_with_itself_is_its_square() -> None:
    x = jnp.array([[1.0, -2.0, 3.0]])
    net = product(serial(), serial())
    params, state = net.init(jax.random.key(0), x)
    np.testing.assert_array_equal(net.apply(params, state, x), [[1.0, 4.0, 9.0]])
