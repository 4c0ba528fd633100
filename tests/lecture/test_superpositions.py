"""Kolmogorov's superposition: against the sum written out, automatic derivatives, and a product to learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    compare_gradients,
    dense,
    linear,
    serial,
    sigmoid,
    squared,
    tanh,
)
from fnn.lecture import (
    fit_approximator,
    kolmogorov,
    unit_grid,
)
from tests.checkers import TOLERANCE
from tests.nn.laws import check_laws
from tests.problems import Case, given

SMALL = serial(dense(3, tanh), linear(1))


SUPERPOSITION = kolmogorov(2, inner=SMALL, outer=serial(dense(2, sigmoid), linear(1)))


def small_net(params, at, activation, x):
    hidden, outer = ({name: np.asarray(leaf)[at] for name, leaf in layer.items()} for layer in params)
    return (activation(np.outer(x, hidden["w"][0]) + hidden["b"]) @ outer["w"] + outer["b"])[:, 0]


def test_kolmogorov_is_the_superposition():
    params, state, x, key = given(SUPERPOSITION, 2)
    f, _, sigma = params[1]
    a = 0
    for i in range(5):
        u = sum(small_net(f, (i, j), np.tanh, np.asarray(x)[:, j]) for j in range(2))
        a += small_net(sigma, (i,), lambda S: 1 / (1 + np.exp(-S)), u)
    np.testing.assert_allclose(SUPERPOSITION.apply(params, state, x)[:, 0], a, rtol=1e-12)
    np.testing.assert_allclose(SUPERPOSITION.forward(params, state, x, key)[0][:, 0], a, rtol=1e-12)


def test_kolmogorov_keeps_the_laws_of_layers():
    """Its backward pass, readings and second derivatives are those of JAX."""
    check_laws(Case(SUPERPOSITION, 2))


def test_kolmogorov_has_the_gradient_of_its_differences():
    params, state, x, key = given(SUPERPOSITION, 2)
    batch = x, jnp.sum(x, axis=1)
    options = {"examples": False, "dtypes": ()}
    report = compare_gradients(SUPERPOSITION, squared, params, state, batch, key, **options)
    assert report.worst < TOLERANCE["same gradient"]
    assert report.worst_of("manual–differences") < 1e-6


@pytest.mark.parametrize("d", [1, 2, 5])
def test_kolmogorov_has_a_network_for_every_function(d, key):
    net = kolmogorov(d, inner=SMALL, outer=serial(dense(4, tanh), linear(1)))
    params, _ = jax.eval_shape(net.init, key, jnp.zeros((1, d)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == (2 * d + 1) * (d * (3 + 3 + 3 + 1) + (4 + 4 + 4 + 1))


def test_no_two_functions_of_kolmogorov_start_alike(key):
    params, _ = jax.jit(kolmogorov(2, inner=linear(1), outer=linear(1)).init)(key, jnp.zeros((1, 2)))
    for part in (params[1][0], params[1][2]):
        starts = np.asarray(part["w"])
        assert len(np.unique(starts)) == starts.size


def test_the_program_of_kolmogorov_does_not_grow(key):
    def operations(d: int) -> str:
        net, x = kolmogorov(d, inner=SMALL, outer=SMALL), jnp.zeros((4, d))
        params, state = jax.eval_shape(net.init, key, x)
        jaxpr = jax.make_jaxpr(lambda p, x: net.forward(p, state, x, key)[0])(params, x)
        return str([equation.primitive for equation in jaxpr.eqns])

    assert operations(2) == operations(7)


def test_kolmogorov_learns_a_product(key):
    """Nearer than any sum of functions of one variable, which leaves (x¹ − ½)(x² − ½): the σ_i are put to use."""
    points = unit_grid(2, 9)
    product = lambda x: x[:, 0] * x[:, 1]  # noqa: E731
    net = kolmogorov(2, inner=SMALL, outer=SMALL)

    @jax.jit
    def errors(key):
        start, state = net.init(jax.random.split(key)[0], points)
        end, _ = fit_approximator(key, product, net, points, steps=600)
        return [jnp.mean(jnp.square(net.apply(p, state, points)[:, 0] - product(points))) for p in (start, end)]

    before, after = errors(key)
    best_sum = np.mean(np.prod(np.asarray(points) - 0.5, axis=1) ** 2)
    assert before > best_sum
    assert after < best_sum / 2
