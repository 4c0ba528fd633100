"""Gauss–Newton diagonals and Kronecker factors: exact, by random columns, and where they are an approximation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import (
    Loss,
    dense,
    linear,
    serial,
    sigmoid_margin,
    softmax_cross_entropy,
    squared,
    tanh,
)
from fnn.derivatives import (
    ggn_diagonal,
    ggn_vector_product,
    kronecker_factors,
)
from fnn.derivatives import reference as automatic
from fnn.derivatives.gauss_newton import root_columns
from fnn.derivatives.hessian import loss_hessian
from tests.checkers import check_close
from tests.derivatives.networks import GIVEN, KEY, NET, standard_errors
from tests.problems import LOSSES, Problem, every_dtype, float64, normal, posed, targets

# The diagonal


def test_random_columns_estimate_the_gauss_newton_diagonal() -> None:
    want = automatic.ggn_diagonal(NET.net, NET.loss)(*GIVEN)[1]
    for samples in (1, 5):
        estimate = ggn_diagonal(NET.net, NET.loss, samples=samples)
        found = jax.jit(jax.vmap(lambda key, f=estimate: f(*GIVEN[:3], key)[1]))(jax.random.split(KEY, 400))
        assert standard_errors(found, want) < 5
        assert all(bool((leaf >= 0).all()) for leaf in jax.tree.leaves(found))


SMALL = Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2)


# Products with a vector


def test_the_product_is_that_of_the_matrix() -> None:
    """G = (1/N) Σ JᵀHJ, by the Jacobian of all outputs in all params."""
    net, loss, _, _ = SMALL
    params, state, (x, y), key = given = posed(SMALL, 6)
    flat, unravel = ravel_pytree(params)
    J = jax.jacfwd(lambda p: net.forward(unravel(p), state, x, key)[0])(flat)
    H = loss_hessian(loss, net.forward(params, state, x, key)[0], y)
    G = np.einsum("nop,noq,nqr->pr", J, H, J) / 6
    v = normal(params, seed=3)
    found = ravel_pytree(ggn_vector_product(net, loss)(*given, v))[0]
    np.testing.assert_allclose(found, G @ ravel_pytree(v)[0], rtol=1e-10)


# Kronecker factors


def blocks(problem: Problem, given: Any) -> list[Any]:
    """The Gauss–Newton matrix's own block of each layer, weights row by row and then biases if any, by Jacobians."""
    net, loss, _, _ = problem
    params, state, (x, y), key = given
    output = lambda p: net.forward(p, state, x, key)[0]  # noqa: E731
    H = loss_hessian(loss, output(params), y)
    found = []
    for jacobian in jax.jacrev(output)(params):
        J = jnp.concatenate([jacobian["w"], *(b[:, :, None, :] for name, b in jacobian.items() if name == "b")], axis=2)
        J = J.reshape(*J.shape[:2], -1)
        found.append(jnp.einsum("nmu,nmk,nkv->uv", J, H, J) / x.shape[0])
    return found


@pytest.mark.parametrize(
    ("problem", "n"),
    [
        (Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2), 1),
        (Problem(serial(linear(3), linear(2)), squared, 4, 2), 7),
        (Problem(serial(dense(3, tanh, bias=False), linear(2)), softmax_cross_entropy, 4, 2), 1),
        (Problem(serial(linear(3, bias=False), linear(2, bias=False)), squared, 4, 2), 7),
    ],
)
def test_kronecker_factors_are_the_block_for_one_example_and_without_activations(problem: Problem, n: int) -> None:
    given = posed(problem, n)
    _, factors = kronecker_factors(problem.net, problem.loss)(*given)
    check_close([jnp.kron(f.A, f.G) for f in factors], blocks(problem, given), rtol=1e-11)


def test_kronecker_factors_are_an_approximation_elsewhere() -> None:
    given = posed(SMALL, 7)
    _, factors = kronecker_factors(SMALL.net, SMALL.loss)(*given)
    want = blocks(SMALL, given)[0]
    assert jnp.linalg.norm(jnp.kron(factors[0].A, factors[0].G) - want) > 0.01 * jnp.linalg.norm(want)


# Roots of losses


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.root is not None], ids=str)
def test_the_root_of_a_loss_is_one_of_its_hessian(loss: Loss) -> None:
    problem = Problem(linear(3), loss, 4, 3)
    a, y = normal(jnp.zeros((7, 3)), seed=5), targets(problem, 7)
    R = root_columns(loss, a, y)
    check_close(jnp.einsum("cnm,cnk->nmk", R, R), loss_hessian(loss, a, y))


def test_a_loss_without_a_root_is_refused_by_name() -> None:
    assert [str(loss) for loss in LOSSES if loss.root is None] == ["sigmoid_margin"]
    for quantity in (ggn_diagonal, kronecker_factors):
        with pytest.raises(ValueError, match=r"root.*sigmoid_margin.*gauss_newton=True"):
            quantity(linear(1), sigmoid_margin)


# Differentiated, and in every dtype


@pytest.mark.parametrize("logit", [0.0, 30.0, 800.0], ids=str)
@pytest.mark.parametrize("loss", [fnn.softmax_cross_entropy, fnn.binary_cross_entropy, fnn.logistic_margin], ids=str)
def test_ggn_diagonal_can_be_differentiated_at_a_saturated_output(loss, logit):
    """It is s'(t), so its slope is s''(t) = −tanh(t/2) s'(t), all of it 0 for a logit of 800."""
    two = loss is fnn.softmax_cross_entropy
    net, x, y = linear(2 if two else 1), jnp.ones((1, 1)), jnp.array([0]) if two else jnp.array([[1]])

    def diagonal(t):
        params = {"w": jnp.zeros((1, 2 if two else 1)), "b": jnp.stack([t, jnp.zeros_like(t)]) if two else t[None]}
        return ggn_diagonal(net, loss)(params, (), (x, y), jax.random.key(0))[1]["b"][0]

    density = np.exp(-logit) / (1 + np.exp(-logit)) ** 2
    assert float(diagonal(jnp.asarray(logit))) == pytest.approx(density, rel=1e-12, abs=1e-300)
    right = -np.tanh(logit / 2) * density
    assert float(jax.grad(diagonal)(logit)) == pytest.approx(right, rel=1e-9, abs=1e-15 * density + 1e-300)
    assert float(jax.jacfwd(diagonal)(logit)) == pytest.approx(right, rel=1e-9, abs=1e-15 * density + 1e-300)


@every_dtype
def test_gauss_newton_diagonal_of_a_nearly_sure_example(dtype):
    """x² s' with x = 200 and s'(9) = 1.2e-4, whose root 1.1e-2 is squared again; (1/n) Σ x² = 4e4 fits float16."""
    x, y = jnp.full((2, 1), 200, dtype), jnp.array([[1], [1]])
    params = {"w": jnp.zeros((1, 1), dtype), "b": jnp.full(1, 9, dtype)}
    given = params, (), (x, y), jax.random.key(0)
    density = np.exp(-9) / (1 + np.exp(-9)) ** 2
    eps = float(jnp.finfo(dtype).eps)
    for samples in (None, 400):
        h = ggn_diagonal(linear(1), fnn.binary_cross_entropy, samples=samples)(*given)[1]
        np.testing.assert_allclose(float64(h["w"]), [[4e4 * density]], rtol=8 * eps)
    factors = kronecker_factors(linear(1), fnn.binary_cross_entropy)(*given)[1]
    np.testing.assert_allclose(float64(factors.A), [[4e4, 200], [200, 1]], rtol=2 * eps)
    np.testing.assert_allclose(float64(factors.G), [[density]], rtol=8 * eps)
