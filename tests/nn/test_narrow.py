"""In float16, bfloat16 and float32, at every scale and at 0: clipping, means, eigenvalues and roots, against NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from experiments.data import accuracy
from fnn import backprop, linear, microbatched, mixed_precision, second_derivatives, squared
from fnn.core._numerics import lengths, ratio
from fnn.derivatives import (
    clip_per_example,
    ggn_diagonal,
    gradient_noise,
    hutchinson,
    kronecker_factors,
    lanczos,
    trace,
)
from fnn.derivatives.noise import noise_of
from fnn.lecture.pretraining import _of_one_target
from fnn.nn import LayerRecord
from fnn.training.diagnosis import _gradient_ratio, _norm

DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: jnp.dtype(dtype).name)


def float64(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


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


# Roots and quotients, differentiated where they are 0


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


def test_gradient_noise_can_be_differentiated_where_the_examples_agree():
    x, y = jnp.ones((3, 1)), jnp.zeros((3, 1))

    def norm_test(t):
        params = {"w": jnp.full((1, 1), t), "b": jnp.zeros(1)}
        return sum(jax.tree.leaves(gradient_noise(linear(1), squared)(params, (), (x, y), jax.random.key(0))), 0.0)

    for t in (1.0, 0.0):
        assert float(jax.grad(norm_test)(t)) == pytest.approx(4 * t)  # of ‖g‖² = 2t² alone
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.jacfwd(noise_of)(jnp.zeros((3, 3)))))


def test_metrics_of_a_layer_that_stands_still_can_be_differentiated():
    def of(t: Any, w: Any) -> Any:
        seen = LayerRecord(**{name: t[None] for name in LayerRecord._fields})
        return _gradient_ratio({"w": w[None]}, seen)

    assert float(jax.grad(lambda t: _norm({"w": t * jnp.ones(3)}))(0.0)) == 0
    assert float(of(jnp.zeros(()), jnp.zeros(()))) == 0
    assert float(jax.grad(of)(jnp.zeros(()), jnp.zeros(()))) == 0
    assert float(of(jnp.asarray(3.0), jnp.asarray(-2.0))) == 1.5
    assert float(jax.grad(of)(jnp.asarray(3.0), jnp.asarray(-2.0))) == 0.5


def test_ratio_of_nothing_to_nothing_is_0():
    assert np.array_equal(ratio(jnp.array([0.0, 0.0, 1.0, 3.0]), jnp.array([0.0, 2.0, 0.0, 2.0])), [0, 0, np.inf, 1.5])
    assert np.array_equal(jax.grad(lambda part: ratio(part, jnp.array([0.0, 2.0])).sum())(jnp.zeros(2)), [1, 0.5])


@pytest.mark.parametrize("size", [0.0, 1e-30, 1.0, 1e30])
def test_lengths_at_every_scale(size):
    rows = jnp.asarray([[3.0, 4.0], [0.0, 0.0]], jnp.float32) * jnp.asarray(size, jnp.float32)
    np.testing.assert_allclose(lengths(rows), [5 * size, 0], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda rows: lengths(rows).sum())(rows)).all()


def test_signal_to_noise_of_no_signal_can_be_differentiated():
    f = lambda x: fnn.signal_to_noise.rows(x).sum()  # noqa: E731
    assert float(f(jnp.zeros((3, 2)))) == 0
    assert np.isfinite(jax.grad(f)(jnp.zeros((3, 2)))).all()


# Means of probes, of samples and of chunks


@every_dtype
def test_hutchinson_in_every_dtype(dtype):
    """d²Q/db² = 1 whatever the probe: a sum of 3000 thirds of a thousandth would stick in bfloat16."""
    x, y = jnp.zeros((4, 1), dtype), jnp.zeros((4, 1), dtype)
    params = {"w": jnp.ones((1, 1), dtype), "b": jnp.zeros(1, dtype)}
    for units in (True, False):
        _, h = hutchinson(linear(1), squared, probes=3000, units=units)(params, (), (x, y), jax.random.key(1))
        assert h["b"].dtype == dtype
        np.testing.assert_allclose(float64(h["b"]), [1], rtol=1e-6)


@every_dtype
def test_trace_in_every_dtype(dtype):
    """Σ 1/k for k = 1…400, of which the plain sum of bfloat16 numbers keeps two digits."""
    diagonal = jnp.asarray(1 / np.arange(1, 401)).astype(dtype)
    found = trace(lambda v: diagonal * v, jnp.zeros(400, dtype), jax.random.key(0), probes=50)
    np.testing.assert_allclose(float64(found.mean), np.asarray(diagonal, np.float64).sum(), rtol=1e-6)


@every_dtype
def test_chunks_in_every_dtype(dtype):
    """The gradient of 1000 examples in chunks of one is that of all at once to the dtype's digits."""
    n = 1000
    x, y = jnp.ones((n, 1), dtype), jnp.full((n, 1), -1e-3, dtype)
    params = {"w": jnp.zeros((1, 1), dtype), "b": jnp.zeros(1, dtype)}
    given = params, (), (x, y), jax.random.key(0)
    for size in (1, 300):
        (value, _), g = microbatched(backprop(linear(1), squared), size)(*given)
        assert (value.dtype, g["b"].dtype) == (dtype, dtype)
        np.testing.assert_allclose(float64(g["b"]), -float64(y[0]), rtol=2 * float(jnp.finfo(dtype).eps))
    one = jnp.full((n, 1), 1.0, dtype)
    (value, _), _ = microbatched(backprop(linear(1), squared), 1)(params, (), (x, one), jax.random.key(0))
    np.testing.assert_allclose(float64(value), 0.5, rtol=2 * float(jnp.finfo(dtype).eps))


@every_dtype
def test_squares_of_small_errors_are_not_lost(dtype):
    """x = 200 and ε = 1e-4: in float16 ε² is 0, though x²ε² = 4e-4 is not."""
    x, error = jnp.full((4, 1), 200, dtype), jnp.full((4, 1), 1e-4, dtype)
    right = float(np.square(float64(x[0, 0]) * float64(error[0, 0])))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(float64(fnn.second_moment.outer(x, error)), [[4 * right]], rtol=2 * eps)
    np.testing.assert_allclose(float64(fnn.squared_norm.outer(x, error)), [right] * 4, rtol=2 * eps)
    np.testing.assert_allclose(float64(fnn.gram.outer(x, error)), np.full((4, 4), right), rtol=2 * eps)


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


# Lanczos at every scale


@pytest.mark.parametrize("scale", [1e-30, 1e-25, 1e-20, 1e-15, 1.0, 1e18, 1e20, 1e30])
def test_eigenvalues_at_every_scale_in_float32(scale):
    M = jnp.arange(1, 6).astype(jnp.float32)
    found = lanczos(
        lambda v: jnp.asarray(scale, jnp.float32) * (M * v), jnp.zeros(5, jnp.float32), jax.random.key(0), steps=5
    )
    true = np.arange(5, 0, -1.0)
    np.testing.assert_allclose(float64(found.values) / scale, true, rtol=2e-6)
    assert (np.abs(float64(found.values) / scale - true) <= float64(found.errors) / scale).all()
    assert (float64(found.errors) / scale < 1e-5).all()
    np.testing.assert_allclose(np.abs(float64(found.vectors)), np.eye(5)[::-1], atol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_errors_of_few_steps_at_every_scale(scale):
    """Every value said is as near to an eigenvalue as said, and some error is told."""
    M = np.linspace(-1, 1, 60)
    product = lambda v: jnp.asarray(scale, jnp.float32) * (jnp.asarray(M, jnp.float32) * v)  # noqa: E731
    found = lanczos(product, jnp.zeros(60, jnp.float32), jax.random.key(1), steps=6)
    nearest = np.abs(float64(found.values)[:, None] / scale - M[None]).min(axis=1)
    assert (nearest <= float64(found.errors) / scale).all()
    assert (float64(found.errors) / scale > 1e-4).any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_eigenvalues_of_narrow_params_are_found_in_float32(dtype):
    M = jnp.arange(1, 6).astype(dtype)
    found = lanczos(lambda v: M * v, jnp.zeros(5, dtype), jax.random.key(0), steps=5)
    assert (found.values.dtype, found.vectors.dtype) == (jnp.float32, dtype)
    assert (np.abs(float64(found.values) - [5, 4, 3, 2, 1]) <= float64(found.errors)).all()
    assert float(found.errors.max()) < 0.2


# Whole numbers into an embedding


def test_second_derivatives_behind_an_embedding():
    """As with the rows that it looks up for inputs, each counted where it was looked up."""
    table = jax.random.normal(jax.random.key(0), (7, 4))
    embed = fnn.from_function(lambda key, x: table, lambda table, x: table[x[:, 0]], "embedding")
    rest = fnn.serial(fnn.dense(4, fnn.tanh), linear(3))
    x, y = jnp.array([[0], [2], [6], [2]]), jnp.array([0, 1, 2, 2])
    net, loss = fnn.serial(embed, rest), fnn.softmax_cross_entropy
    params, state = net.init(jax.random.key(1), x)
    for exact in (True, False):
        _, (of_table, of_rest) = second_derivatives(net, loss, exact=exact)(params, state, (x, y), jax.random.key(2))
        rows = table[x[:, 0]]
        _, right = second_derivatives(rest, loss, exact=exact)(params[1], state[1], (rows, y), jax.random.key(2))
        jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-12), of_rest, right)
        assert of_table.shape == table.shape

    def mean_loss(table):
        return jnp.mean(loss.value(net.apply((table, params[1]), state, x), y))

    hessian = np.asarray(jax.hessian(mean_loss)(table)).reshape(28, 28)
    _, (of_table, _) = second_derivatives(net, loss)(params, state, (x, y), jax.random.key(2))
    np.testing.assert_allclose(np.asarray(of_table).ravel(), np.diag(hessian), atol=1e-12)


def test_whole_numbers_among_trained_params_are_named():
    permuted = fnn.from_function(
        lambda key, x: {"w": jnp.ones((2, 3)), "order": jnp.array([1, 0])},
        lambda p, x: x[:, p["order"]] @ p["w"],
        "permuted",
    )
    net, x = fnn.serial(permuted, linear(1)), jnp.ones((4, 2))
    given = *net.init(jax.random.key(0), x), (x, jnp.ones((4, 1))), jax.random.key(1)
    assert net.apply(*given[:2], x).shape == (4, 1)
    for f in (backprop(net, squared), backprop(net, squared, fnn.per_example), second_derivatives(net, squared)):
        with pytest.raises(TypeError, match=r"permuted.*floats.*int64.*order.*close over"):
            f(*given)


# Messages that name what to do, and harm nobody who does it


@pytest.mark.parametrize(
    ("y", "says", "says_not"),
    [
        (np.eye(3)[[0, 2]], "argmax", "your own Loss"),
        (np.eye(3, dtype=int)[[0, 2]], "argmax", "your own Loss"),
        (np.full((2, 3), 1 / 3), "your own Loss", "Convert one-hot"),
        (0.9 * np.eye(3)[[0, 2]] + 0.1 / 3, "your own Loss", "Convert one-hot"),
        (np.array([[1, 1, 0], [0, 1, 1]]), "binary_cross_entropy", "Convert one-hot"),
        (np.array([0.0, 2.0]), "astype(int)", "argmax"),
        (np.array([[0], [2]]), "y[:, 0]", "argmax"),
    ],
)
def test_argmax_is_advised_for_one_hot_rows_only(y, says, says_not):
    with pytest.raises((TypeError, ValueError)) as raised:
        fnn.softmax_cross_entropy.value(jnp.zeros((2, 3)), y)
    assert says in str(raised.value)
    assert says_not not in str(raised.value)


def test_traced_rows_are_told_what_argmax_would_lose():
    with pytest.raises(TypeError, match=r"one-hot rows.*argmax.*discard"):
        jax.jit(fnn.softmax_cross_entropy.value)(jnp.zeros((2, 3)), jnp.full((2, 3), 1 / 3))


def test_a_stack_of_tasks_is_told_of_vmap():
    x = jnp.ones((5, 4, 3))
    params, state = linear(2).init(jax.random.key(0), x[0])
    with pytest.raises(ValueError, match=r"reshape.*jax\.vmap"):
        linear(2).apply(params, state, x)


# Labels of more classes than their dtype counts, elsewhere


def test_pretraining_tells_class_261_from_label_5():
    loss = _of_one_target(fnn.softmax_cross_entropy, jnp.asarray(261))
    slope = loss.slope(jnp.zeros((2, 1)), jnp.asarray([5, 6], jnp.uint8))
    np.testing.assert_array_equal(slope, [[0.5], [0.5]])  # s(0) − 0 for both
    slope = _of_one_target(fnn.softmax_cross_entropy, jnp.asarray(5)).slope(
        jnp.zeros((2, 1)), jnp.asarray([5, 6], jnp.uint8)
    )
    np.testing.assert_array_equal(slope, [[-0.5], [0.5]])


def test_accuracy_tells_class_261_from_label_5():
    a = jnp.zeros((2, 300)).at[0, 261].set(1.0).at[1, 5].set(1.0)
    assert float(accuracy(a, jnp.asarray([5, 5], jnp.uint8))) == 0.5
