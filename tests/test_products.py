"""Products with the Hessian, random probes, Lanczos, and the noise of gradients: against whole matrices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkers import check_close
from jax.flatten_util import ravel_pytree
from problems import NETWORKS, Problem, normal, posed

from fnn import (
    Layer,
    applied,
    automatic,
    backprop,
    dense,
    dropout,
    linear,
    objective,
    per_object,
    prelu,
    repeat,
    residual,
    serial,
    sigmoid,
    softmax_cross_entropy,
    squared,
    tanh,
)
from fnn.gauss_newton import ggn_diagonal, ggn_product
from fnn.noise import gradient_noise, noise_of
from fnn.products import hessian_product, hutchinson, lanczos, trace

NET = Problem(
    serial(dense(3, tanh), repeat(residual(dense(3, sigmoid)), 2), prelu(), linear(2)), softmax_cross_entropy, 4, 2
)
GIVEN = posed(NET, 7)
KEY = jax.random.key(11)


@pytest.fixture(scope="module")
def hessian() -> Any:
    flat, unravel = ravel_pytree(GIVEN[0])
    Q = lambda w: objective(NET.net, NET.loss)(unravel(w), *GIVEN[1:])[0]  # noqa: E731
    return jax.jit(jax.hessian(Q))(flat)


def times(matrix: Any) -> Any:
    """v ↦ M v in the shapes of the params."""
    unravel = ravel_pytree(GIVEN[0])[1]
    return lambda v: unravel(matrix @ ravel_pytree(v)[0])


# Products


def test_a_backward_pass_that_is_no_gradient_has_two_hessians() -> None:
    """The two orders agree for what is a gradient; the weights of this layer's backward are not its forward's."""
    good = dense(3, tanh)

    def backward(params: Any, tape: Any, error: Any, read: Any) -> Any:
        through, readings = good.backward(params, tape, error, read)
        return through * 1.001, readings

    net = serial(linear(3), good._replace(backward=backward), linear(1))
    given = posed(Problem(net, squared, 4, 1), 7)
    v = normal(given[0], seed=3)
    forward, reverse = (jax.jit(hessian_product(net, squared, reverse=r))(*given, v) for r in (False, True))
    with pytest.raises(AssertionError, match="relative errors"):
        check_close(forward, reverse, rtol=1e-6)


@pytest.mark.parametrize("product", [hessian_product, ggn_product])
def test_products_go_through_batch_norm_in_training(product: Any) -> None:
    net, loss, _, _ = problem = NETWORKS["batch norm"]
    given = posed(problem, 7)
    v = normal(given[0], seed=3)
    twin = getattr(automatic, product.__name__)
    check_close(jax.jit(product(net, loss))(*given, v), jax.jit(twin(net, loss))(*given, v), rtol=1e-11)


@pytest.mark.parametrize("product", [hessian_product, ggn_product])
def test_a_vector_of_another_structure_is_refused(product: Any) -> None:
    with pytest.raises(ValueError, match="v "):
        product(NET.net, NET.loss)(*GIVEN, GIVEN[0][:1])


# Probes


def standard_errors(samples: Any, want: Any) -> float:
    """How many standard errors the mean of samples [m, …] is away, the worst entry of all leaves."""

    def away(s: Any, w: Any) -> float:
        error = np.std(s, axis=0, ddof=1) / np.sqrt(s.shape[0])
        return float(np.max(np.abs(np.mean(s, axis=0) - w) / np.maximum(error, 1e-15)))

    return max(map(away, jax.tree.leaves(samples), jax.tree.leaves(want)))


@pytest.fixture(scope="module")
def probed() -> dict[bool, Any]:
    """500 single probes at units (True) and at weights (False)."""
    keys = jax.random.split(KEY, 500)

    def samples(units: bool) -> Any:
        estimate = hutchinson(NET.net, NET.loss, units=units)
        return jax.jit(jax.vmap(lambda key: estimate(*GIVEN[:3], key)[1]))(keys)

    return {units: samples(units) for units in (True, False)}


@pytest.mark.parametrize("units", [True, False])
def test_probes_estimate_the_diagonal_of_the_hessian(units: bool, probed: Any, hessian: Any) -> None:
    assert standard_errors(probed[units], ravel_pytree(GIVEN[0])[1](jnp.diagonal(hessian))) < 5


def test_probes_at_units_are_less_noisy(probed: Any) -> None:
    spread = {
        units: sum(float(jnp.sum(jnp.std(leaf, axis=0))) for leaf in jax.tree.leaves(probed[units])) for units in probed
    }
    assert spread[True] < spread[False] / 3


def test_many_probes_are_the_mean_of_single_ones(probed: Any) -> None:
    estimate = hutchinson(NET.net, NET.loss, probes=16)
    (value, _), samples = jax.jit(jax.vmap(lambda key: estimate(*GIVEN[:3], key)))(jax.random.split(KEY, 100))
    check_close(value[0], objective(NET.net, NET.loss)(*GIVEN)[0])
    single, mean = (
        sum(float(jnp.sum(jnp.var(leaf, axis=0))) for leaf in jax.tree.leaves(s)) for s in (probed[True], samples)
    )
    assert 12 < single / mean < 20


def test_random_columns_estimate_the_gauss_newton_diagonal() -> None:
    want = automatic.ggn_diagonal(NET.net, NET.loss)(*GIVEN)[1]
    for samples in (1, 5):
        estimate = ggn_diagonal(NET.net, NET.loss, samples=samples)
        found = jax.jit(jax.vmap(lambda key, f=estimate: f(*GIVEN[:3], key)[1]))(jax.random.split(KEY, 400))
        assert standard_errors(found, want) < 5
        assert all(bool((leaf >= 0).all()) for leaf in jax.tree.leaves(found))


def test_probes_at_units_refuse_dropout_and_batch_norm_and_take_the_application_stage() -> None:
    net = serial(dense(3, tanh), dropout(0.5), linear(2))
    with pytest.raises(ValueError, match=r"dropout\(0.5\) would draw another mask.*applied"):
        hutchinson(net, softmax_cross_entropy)
    given = posed(Problem(net, softmax_cross_entropy, 4, 2), 3)
    hutchinson(applied(net), softmax_cross_entropy)(*given)
    hutchinson(net, softmax_cross_entropy, units=False)(*given)
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match="couples the objects"):
        hutchinson(problem.net, problem.loss)(*posed(problem))


def test_probes_at_units_need_a_bias() -> None:
    with_bias = linear(2)

    def backward(params: Any, tape: Any, error: Any, read: Any) -> Any:
        through, readings = with_bias.backward({**params, "b": jnp.zeros(2)}, tape, error, read)
        return through, {"w": readings["w"]}

    bare: Layer = with_bias._replace(
        init=lambda key, x: ({"w": jnp.ones((x.shape[1], 2), x.dtype)}, ()),
        forward=lambda p, s, x, key: with_bias.forward({**p, "b": jnp.zeros(2, x.dtype)}, s, x, key),
        backward=backward,
    )
    given = posed(Problem(bare, squared, 4, 2), 3)
    with pytest.raises(ValueError, match=r"params\['w'\] has none; take units=False"):
        hutchinson(bare, squared)(*given)
    hutchinson(bare, squared, units=False)(*given)


@pytest.mark.parametrize("probes", [0, 1.5, True])
def test_probes_are_counted(probes: Any) -> None:
    for take in (
        lambda: hutchinson(NET.net, NET.loss, probes=probes),
        lambda: ggn_diagonal(NET.net, NET.loss, samples=probes),
        lambda: trace(times(jnp.eye(3)), GIVEN[0], KEY, probes=probes),
        lambda: lanczos(times(jnp.eye(3)), GIVEN[0], KEY, steps=probes),
    ):
        with pytest.raises((ValueError, TypeError), match=r"probes|samples|steps"):
            take()


# Trace and eigenvalues


def test_the_trace_is_within_its_own_error(hessian: Any) -> None:
    found = jax.jit(lambda: trace(times(hessian), GIVEN[0], KEY, probes=400))()
    assert abs(float(found.mean - jnp.trace(hessian))) < 5 * float(found.error)
    off_diagonal = hessian - jnp.diag(jnp.diagonal(hessian))
    check_close(found.error, jnp.sqrt(2 * jnp.sum(off_diagonal**2) / 400), rtol=0.2)  # the variance of vᵀMv is 2‖off‖²
    assert np.isnan(trace(times(hessian), GIVEN[0], KEY, probes=1).error)


def test_all_steps_give_all_eigenvalues(hessian: Any) -> None:
    given = GIVEN[0]
    for matrix in (hessian, jnp.zeros_like(hessian), jnp.diag(jnp.floor(jnp.linspace(0, 5, hessian.shape[0])))):
        found = jax.jit(lambda m: lanczos(times(m), given, KEY, steps=m.shape[0]))(matrix)
        scale = float(jnp.linalg.norm(matrix, 2)) + 1e-12
        np.testing.assert_allclose(found.values, jnp.linalg.eigvalsh(matrix)[::-1], atol=1e-12 * scale)
        np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(hessian.shape[0]), atol=1e-11)
        images = found.vectors @ matrix
        np.testing.assert_allclose(images, found.values[:, None] * found.vectors, atol=1e-11 * scale)


def test_few_steps_give_the_ends_and_honest_errors(hessian: Any) -> None:
    given = *GIVEN, KEY
    product = lambda v: hessian_product(NET.net, NET.loss)(*given[:4], v)  # noqa: E731
    for steps in (5, 15):
        found = jax.jit(lambda s=steps: lanczos(product, GIVEN[0], KEY, steps=s))()
        nearest = jnp.min(jnp.abs(found.values[:, None] - jnp.linalg.eigvalsh(hessian)[None]), axis=1)
        assert bool((nearest <= found.errors + 1e-12).all())
    assert abs(float(found.values[0] - jnp.linalg.eigvalsh(hessian)[-1])) < 1e-4 * float(found.values[0])


def test_no_more_steps_than_parameters() -> None:
    with pytest.raises(ValueError, match="steps must be at most the number of parameters, which is 3, got 4"):
        lanczos(lambda v: v, jnp.ones(3), KEY, steps=4)


# Noise


def test_noise_is_what_the_objects_own_gradients_say() -> None:
    found = jax.jit(gradient_noise(NET.net, NET.loss))(*GIVEN)
    each = jax.tree.leaves(automatic.read(NET.net, NET.loss, per_object)(*GIVEN)[1])
    g = np.concatenate([np.asarray(leaf).reshape(7, -1) for leaf in each], axis=1)
    mean = g.mean(axis=0)
    norm2, along = mean @ mean, g @ mean
    spread = np.trace(np.cov(g.T))
    pairs = (g @ g.T)[~np.eye(7, dtype=bool)]
    across = g - along[:, None] / norm2 * mean[None]
    want = {
        "squared_norm": norm2,
        "variance": spread,
        "noise_scale": spread / pairs.mean(),
        "norm_test": np.sqrt(spread / 7 / norm2),
        "inner_product_test": np.sqrt(np.var(along, ddof=1) / 7) / norm2,
        "orthogonality_test": np.sqrt((across**2).sum() / 6 / 7 / norm2),
    }
    for name, value in want.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-11, err_msg=name)


def test_the_noise_scale_is_that_of_a_made_population() -> None:
    """Gradients m + u with |m|² = 4 and tr Σ = 30: the noise scale is 7.5 on average over many batches."""
    u = np.random.default_rng(5).standard_normal((400, 64, 30))
    g = u + np.full(30, np.sqrt(4 / 30))
    found = jax.vmap(lambda g: noise_of(g @ g.T))(jnp.asarray(g))
    assert abs(float(found.variance.mean()) - 30) < 0.2
    assert abs(float(found.variance.mean() / (found.squared_norm - found.variance / 64).mean()) - 7.5) < 0.2


def test_noise_takes_two_objects_of_their_own() -> None:
    with pytest.raises(ValueError, match="takes two or more, got a batch of 1"):
        gradient_noise(NET.net, NET.loss)(*posed(NET, 1))
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match="couples the objects"):
        gradient_noise(problem.net, problem.loss)(*posed(problem))


def test_estimates_come_in_the_signature_of_backprop() -> None:
    for make in (hutchinson, ggn_diagonal):
        (value, state), found = make(NET.net, NET.loss)(*GIVEN)
        (want, same), g = backprop(NET.net, NET.loss)(*GIVEN)
        check_close((value, state), (want, same))
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, g)
