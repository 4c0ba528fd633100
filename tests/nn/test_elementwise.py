"""Activations as layers, and the slope that is trained: at the kink, and for what is not negative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Layer,
    activate,
    gradient,
    heaviside,
    leaky_relu,
    prelu,
    relu,
)
from tests.checkers import check_backward
from tests.nn.laws import check_laws, each_case_of
from tests.problems import Case


@each_case_of("elementwise")
def test_elementwise_layers_keep_their_laws(case: Case) -> None:
    check_laws(case)


# Kinks


AT_THE_KINK = jnp.asarray([[0.0, -0.0, 2.0], [-3.0, 0.0, -0.0]])


KINKS = {
    "relu": (activate(relu), [[0, 0, 1], [0, 0, 0]], jax.nn.relu),
    "leaky_relu": (activate(leaky_relu(0.1)), [[1, 1, 1], [0.1, 1, 1]], lambda x: jax.nn.leaky_relu(x, 0.1)),
    "prelu": (prelu(0.1), [[1, 1, 1], [0.1, 1, 1]], lambda x: jax.nn.leaky_relu(x, 0.1)),
    "heaviside": (activate(heaviside), [[0, 0, 0], [0, 0, 0]], lambda x: jnp.heaviside(x, jnp.zeros(1)[None])),
}


@pytest.mark.parametrize(("layer", "slopes", "in_jax"), KINKS.values(), ids=KINKS.keys())
def test_slope_at_the_kink_is_the_documented_one_and_that_of_jax(layer: Layer, slopes: list, in_jax, key) -> None:
    params, state = layer.init(key, AT_THE_KINK)
    y, pull = jax.vjp(in_jax, AT_THE_KINK)
    got, _, tape = layer.forward(params, state, AT_THE_KINK, key)
    error, _ = layer.backward(params, tape, jnp.ones_like(got), gradient)
    np.testing.assert_array_equal(got, y)
    np.testing.assert_array_equal(error, np.asarray(slopes, float))
    np.testing.assert_array_equal(error, pull(jnp.ones_like(y))[0])
    check_backward(layer, params, state, AT_THE_KINK, key)


def test_alpha_of_prelu_gets_nothing_from_what_is_not_negative(key: jax.Array) -> None:
    params, tape = {"alpha": jnp.full(3, 0.1)}, prelu().forward({"alpha": jnp.full(3, 0.1)}, (), AT_THE_KINK, key)[2]
    _, readings = prelu().backward(params, tape, jnp.ones((2, 3)), gradient)
    np.testing.assert_array_equal(readings["alpha"], [-3, 0, 0])
