"""The noise of gradients, and gradients clipped example by example."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    activate,
    backprop,
    dense,
    linear,
    mixed_precision,
    per_example,
    serial,
    sgd,
    softmax_cross_entropy,
    squared,
    tanh,
    train,
    trainer,
)
from fnn.derivatives import (
    clip_per_example,
    ggn_diagonal,
    gradient_noise,
    hutchinson,
)
from fnn.derivatives import reference as automatic
from fnn.derivatives.noise import noise_of
from tests.checkers import check_close
from tests.derivatives.networks import GIVEN, NET
from tests.problems import NETWORKS, Problem, every_dtype, float64, posed

# Noise


@pytest.mark.parametrize("n", [3, 7, 100, 5000])
def test_examples_that_agree_make_no_noise(n: int) -> None:
    """In float32, where the trace and the sum of the Gram matrix differ by rounding."""
    params, state, (x, y), key = posed(NET, 1, dtype=jnp.float32)
    same = jnp.tile(x, (n, 1)), jnp.tile(y, n)
    found = jax.jit(gradient_noise(NET.net, NET.loss))(params, state, same, key)
    assert found.squared_norm > 0
    assert {name: float(value) for name, value in found._asdict().items() if name != "squared_norm"} == dict.fromkeys(
        found._fields[1:], 0.0
    )


def test_noise_of_nothing_is_nothing_and_noise_without_a_signal_is_infinite() -> None:
    assert noise_of(jnp.zeros((3, 3))) == (0,) * 6
    opposite = noise_of(jnp.array([[1.0, -1.0], [-1.0, 1.0]]))
    assert opposite == (0, 2, np.inf, np.inf, 0, np.inf)  # ⟨g_n, g⟩ = 0 for both
    assert all(np.isnan(value) for value in noise_of(jnp.full((3, 3), jnp.nan)))
    g = np.random.default_rng(6).standard_normal((64, 3)).astype(np.float32)
    g -= g.mean(axis=0)  # ‖g‖² is rounding, and may come out below 0
    found = noise_of(jnp.asarray(g @ g.T))
    assert all(float(value) >= 0 for value in found)


def test_a_network_without_params_makes_no_noise() -> None:
    net = serial(activate(tanh), activate(tanh))
    assert gradient_noise(net, squared)(*posed(Problem(net, squared, 4, 4), 3)) == (0,) * 6


def test_noise_in_half_precision_is_found_in_float32() -> None:
    found = gradient_noise(NET.net, NET.loss)(*posed(NET, 256, dtype=jnp.bfloat16))
    want = gradient_noise(NET.net, NET.loss)(*posed(NET, 256))
    for got, value in zip(found, want, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, value, rtol=0.1)


def test_the_noise_scale_is_that_of_a_made_population() -> None:
    """Gradients m + u with |m|² = 4 and tr Σ = 30: the noise scale is 7.5 on average over many batches."""
    u = np.random.default_rng(5).standard_normal((400, 64, 30))
    g = u + np.full(30, np.sqrt(4 / 30))
    found = jax.vmap(lambda g: noise_of(g @ g.T))(jnp.asarray(g))
    assert abs(float(found.variance.mean()) - 30) < 0.2
    assert abs(float(found.variance.mean() / (found.squared_norm - found.variance / 64).mean()) - 7.5) < 0.2


def test_noise_takes_two_examples_of_their_own() -> None:
    with pytest.raises(ValueError, match="at least two examples to compare, got a batch of 1"):
        gradient_noise(NET.net, NET.loss)(*posed(NET, 1))
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match="couples the examples"):
        gradient_noise(problem.net, problem.loss)(*posed(problem))


def test_estimates_come_in_the_signature_of_backprop() -> None:
    for make in (hutchinson, ggn_diagonal):
        (value, state), found = make(NET.net, NET.loss)(*GIVEN)
        (want, same), g = backprop(NET.net, NET.loss)(*GIVEN)
        check_close((value, state), (want, same))
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, g)


SMALL = Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2)


def widened(tree: Any) -> Any:
    """A tree in float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


# Clipping


def test_clipping_bounds_every_example_and_leaves_short_gradients_alone() -> None:
    given = posed(SMALL, 7)
    _, g = backprop(SMALL.net, SMALL.loss)(*given)
    _, unclipped = clip_per_example(1e6)(SMALL.net, SMALL.loss)(*given)
    check_close(unclipped, g)
    _, tiny = clip_per_example(1e-3)(SMALL.net, SMALL.loss)(*given)
    assert float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tiny)))) <= 1e-3 * (1 + 1e-12)


def test_an_example_without_a_gradient_stays_without_one() -> None:
    params, state, (x, _), key = posed(SMALL._replace(loss=squared), 3)
    targets = SMALL.net.apply(params, state, x)
    _, g = clip_per_example(1.0)(SMALL.net, squared)(params, state, (x, targets), key)
    assert all(not leaf.any() for leaf in jax.tree.leaves(g))


def clipped_and_twin(given: Any) -> tuple[Any, Any]:
    """The mean of gradients of a linear layer with the norm 1 at most, and what it is in float64."""
    _, got = clip_per_example(1.0)(linear(3), squared)(*given)
    params, state, batch, key = given
    each = automatic.read(linear(3), squared, per_example)(widened(params), state, widened(batch), key)[1]
    g = jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(each)], axis=1)
    norm = jnp.linalg.norm(g, axis=1)
    mean = jnp.mean(g / jnp.maximum(norm, 1)[:, None], axis=0)
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(got)]), mean


@pytest.mark.parametrize(
    ("dtype", "factor", "rtol"),
    [(jnp.float16, 60, 1e-2), (jnp.bfloat16, 60, 3e-2), (jnp.float32, 1e22, 1e-5), (jnp.float32, 1e-25, 1e-5)],
)
def test_no_square_of_a_norm_overflows(dtype: Any, factor: float, rtol: float) -> None:
    """Data whose gradients have squared norms beyond the dtype, and for one example in float32 the norm too."""
    params, state, (x, y), key = posed(Problem(linear(3), squared, 4, 3), 6, dtype=dtype)
    larger = jnp.asarray(factor, dtype) * (x if dtype != jnp.float32 else x[:1])
    batch = (jnp.concatenate([larger, x[larger.shape[0] :]]), y)
    got, want = clipped_and_twin((params, state, batch, key))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(want))))


def test_an_example_of_nan_makes_the_clipped_mean_nan() -> None:
    params, state, (x, y), key = posed(SMALL, 3)
    _, g = clip_per_example(1.0)(SMALL.net, SMALL.loss)(params, state, (x.at[1].set(jnp.nan), y), key)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(g))


def test_a_network_without_params_has_nothing_to_clip() -> None:
    net = serial(activate(tanh), activate(tanh))
    given = posed(Problem(net, squared, 4, 4), 3)
    (value, _), g = jax.jit(clip_per_example(1.0)(net, squared))(*given)
    assert (float(value), g) == (float(backprop(net, squared)(*given)[0][0]), ((), ()))


def test_clipping_trains() -> None:
    net = serial(dense(8, tanh), linear(1))
    x = jnp.linspace(-1, 1, 32)[:, None]
    learn = trainer(net, squared, sgd(0.5), batch_size=16, gradient=clip_per_example(0.5))
    _, metrics = train(learn, learn.init(jax.random.key(0), (x, jnp.abs(x))), (x, jnp.abs(x)), 400, every=200)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan")])
def test_a_threshold_is_positive(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be"):
        clip_per_example(threshold)


def test_clipping_refuses_batch_norm() -> None:
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match="couples the examples"):
        clip_per_example(1.0)(problem.net, problem.loss)(*posed(problem))


# Clipping: pixels of 0..255 and a threshold that makes factors of 1e-8


def pixels(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return (
        random.integers(0, 256, (n, 784)).astype(float),
        random.integers(0, 10, (n, 1)).astype(float),
        np.full((784, 1), 1e-4),
    )


def clipped_by_loops(x: np.ndarray, y: np.ndarray, w: np.ndarray, theta: float) -> dict[str, np.ndarray]:
    """(1/n) Σ_n min(1, θ/‖g_n‖) g_n of a linear neuron with the loss ½(a − y)²."""
    total = {"w": np.zeros_like(w), "b": np.zeros(1)}
    for x_n, y_n in zip(x, y, strict=True):
        error = x_n @ w - y_n
        g = {"w": x_n[:, None] * error, "b": error}
        norm = np.sqrt(sum(np.sum(leaf**2) for leaf in g.values()))
        factor = min(1.0, theta / norm) if norm else 1.0
        total = {name: total[name] + factor * g[name] / len(x) for name in g}
    return total


@every_dtype
@pytest.mark.parametrize("within", [False, True], ids=["own", "mixed_precision"])
@pytest.mark.parametrize("theta", [0.1, 1.0, 1e3])
@pytest.mark.parametrize("n", [8, 600])
def test_clipping_in_every_dtype_is_that_of_float64(dtype, within, theta, n):
    outside = jnp.float32 if within and dtype != jnp.float64 else dtype
    net = mixed_precision(linear(1), dtype) if within else linear(1)
    x, y, w = (np.asarray(jnp.asarray(part, dtype), np.float64) for part in pixels(n))
    params = {"w": jnp.asarray(w, outside), "b": jnp.zeros(1, outside)}
    data = jnp.asarray(x, outside), jnp.asarray(y, outside)
    _, g = jax.jit(clip_per_example(theta)(net, squared))(params, (), data, jax.random.key(0))
    right = clipped_by_loops(x, y, w, theta)
    assert {leaf.dtype for leaf in jax.tree.leaves(g)} == {jnp.dtype(outside)}
    eps = float(jnp.finfo(dtype).eps)
    # 784 products are summed to a of some 10, of which y is taken: a few of its ulps
    np.testing.assert_allclose(
        float64(g)["w"], right["w"], rtol=12 * eps + 1e-12, atol=12 * eps * np.abs(right["w"]).max()
    )
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(float64(g))))
    assert 0 < norm <= theta * (1 + 2 * eps)


@every_dtype
def test_an_example_without_a_gradient_neither_counts_nor_spoils_the_others(dtype):
    """Its error of 1000 is the largest share by far: rounded beside it, the others' would be lost in float16."""
    x, y = np.array([[0.0], [200.0], [100.0]]), np.array([[1000.0], [100.0], [-50.0]])
    net = fnn.from_function(lambda key, x: jnp.zeros((1, 1), x.dtype), lambda w, x: x @ w)
    given = jnp.zeros((1, 1), dtype), (), (jnp.asarray(x, dtype), jnp.asarray(y, dtype)), jax.random.key(0)
    _, g = clip_per_example(0.01)(net, squared)(*given)
    np.testing.assert_allclose(float64(g), [[(0 - 0.01 + 0.01) / 3]], atol=1e-5)
    _, g = clip_per_example(0.01)(net, squared)(*given[:2], (given[2][0][:2], given[2][1][:2]), given[3])
    np.testing.assert_allclose(float64(g), [[-0.01 / 2]], rtol=4 * float(jnp.finfo(dtype).eps))


def test_clipping_keeps_infinite_and_nan_examples_as_they_were():
    x, y = jnp.array([[1.0], [1.0]]), jnp.array([[jnp.nan], [1.0]])
    params = {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}
    assert np.isnan(clip_per_example(1.0)(linear(1), squared)(params, (), (x, y), jax.random.key(0))[1]["b"])


# Differentiated


def slope_and_quotient(f: Any, at: float = 0.0, h: float = 1e-5) -> tuple[float, float]:
    return float(jax.grad(f)(at)), float((f(at + h) - f(at - h)) / (2 * h))


def test_clipping_can_be_differentiated_at_a_perfectly_fitted_example():
    x, y = jnp.array([[1.0], [2.0]]), jnp.array([[0.0], [1.0]])
    key = jax.random.key(0)

    def bias_gradient(t):
        params = {"w": jnp.zeros((1, 1)), "b": jnp.full(1, t)}  # example 0 is fitted at t = 0
        return clip_per_example(100.0)(linear(1), squared)(params, (), (x, y), key)[1]["b"][0]

    def clipped_bias_gradient(t):
        params = {"w": jnp.zeros((1, 1)), "b": jnp.full(1, t)}
        return clip_per_example(0.5)(linear(1), squared)(params, (), (x, y), key)[1]["b"][0]

    for f, right in ((bias_gradient, 1.0), (clipped_bias_gradient, 0.5)):
        slope, quotient = slope_and_quotient(f)
        assert slope == pytest.approx(quotient, abs=1e-6)
        assert slope == pytest.approx(right)


def test_gradient_noise_can_be_differentiated_where_the_examples_agree():
    x, y = jnp.ones((3, 1)), jnp.zeros((3, 1))

    def norm_test(t):
        params = {"w": jnp.full((1, 1), t), "b": jnp.zeros(1)}
        return sum(jax.tree.leaves(gradient_noise(linear(1), squared)(params, (), (x, y), jax.random.key(0))), 0.0)

    for t in (1.0, 0.0):
        assert float(jax.grad(norm_test)(t)) == pytest.approx(4 * t)  # of ‖g‖² = 2t² alone
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jacfwd(noise_of)(jnp.zeros((3, 3)))))


def test_the_diagnostics_are_their_definitions() -> None:
    """From the Gram matrix of three gradients, with the sums of squares along and across the mean over n − 1."""
    g = np.array([[1.0, 2.0, 0.5], [3.0, -1.0, 1.0], [2.0, 1.0, -2.0]])
    n, mean = 3, g.mean(axis=0)
    norm2 = mean @ mean
    along = g @ mean / norm2
    across = g - along[:, None] * mean
    found = noise_of(jnp.asarray(g @ g.T))
    assert float(found.variance) == pytest.approx(np.sum((g - mean) ** 2) / (n - 1))
    assert float(found.orthogonality_test) == pytest.approx(np.sqrt(np.sum(across**2) / (n - 1) / (n * norm2)))
    assert float(found.inner_product_test) == pytest.approx(np.sqrt(np.var(along, ddof=1) / n))
    assert float(found.norm_test) == pytest.approx(np.sqrt(np.sum((g - mean) ** 2) / (n - 1) / (n * norm2)))
