"""Products with the Hessian, random probes and Lanczos: against whole matrices, in every dtype and at every scale."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    Activation,
    Layer,
    dense,
    dropout,
    inference_mode,
    linear,
    objective,
    remat,
    repeat,
    serial,
    sigmoid,
    softmax_cross_entropy,
    squared,
    tanh,
)
from fnn.derivatives import (
    ggn_diagonal,
    ggn_vector_product,
    hessian_vector_product,
    hutchinson,
    kronecker_factors,
    lanczos,
    trace,
)
from fnn.derivatives import reference as automatic
from fnn.testing._asking import compiled_in_haste
from tests.checkers import check_close
from tests.derivatives.networks import GIVEN, KEY, NET, standard_errors
from tests.problems import NETWORKS, Problem, every_dtype, float64, normal, posed


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
    forward, reverse = (jax.jit(hessian_vector_product(net, squared, reverse=r))(*given, v) for r in (False, True))
    with pytest.raises(AssertionError, match="relative errors"):
        check_close(forward, reverse, rtol=1e-6)


@pytest.mark.parametrize("product", [hessian_vector_product, ggn_vector_product])
def test_products_go_through_batch_norm_in_training(product: Any) -> None:
    net, loss, _, _ = problem = NETWORKS["batch norm"]
    given = posed(problem, 7)
    v = normal(given[0], seed=3)
    twin = getattr(automatic, product.__name__)
    check_close(jax.jit(product(net, loss))(*given, v), jax.jit(twin(net, loss))(*given, v), rtol=1e-11)


@pytest.mark.parametrize("product", [hessian_vector_product, ggn_vector_product])
def test_a_vector_of_another_structure_is_refused(product: Any) -> None:
    with pytest.raises(ValueError, match="v "):
        product(NET.net, NET.loss)(*GIVEN, GIVEN[0][:1])


@pytest.mark.parametrize("product", [hessian_vector_product, ggn_vector_product])
def test_a_vector_of_another_dtype_is_refused(product: Any) -> None:
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), GIVEN[0])
    for made in (product, getattr(automatic, product.__name__)):
        with pytest.raises(
            TypeError, match=r"v\[0\]\['b'\] in the params' dtype float64, got bfloat16. Convert by v.astype"
        ):
            made(NET.net, NET.loss)(*GIVEN, narrow)
    v = normal(GIVEN[0], seed=3)
    of_numpy = product(NET.net, NET.loss)(*GIVEN, jax.tree.map(np.asarray, v))
    check_close(of_numpy, product(NET.net, NET.loss)(*GIVEN, v))


# Probes


SEVERAL = [
    "several yes-no questions",
    "regression",
    "mixed neurons",
    "residual",
    "deep, little memory",
    "from_function",
]


@pytest.mark.parametrize(("name", "n"), [*((name, 7) for name in SEVERAL), (SEVERAL[0], 1), ("deep, little memory", 1)])
def test_what_is_random_is_within_five_standard_errors_of_its_twin(name: str, n: int) -> None:
    """Probes at units and at weights, random columns, and the trace by its own error; and all eigenvalues."""
    net, loss, _, _ = problem = NETWORKS[name]
    estimates: dict[str, tuple[Any, Any]] = {
        "at units": (hutchinson(net, loss), automatic.hessian_diagonal),
        "at weights": (hutchinson(net, loss, units=False), automatic.hessian_diagonal),
    }
    if loss.root is not None:
        estimates["Gauss–Newton"] = ggn_diagonal(net, loss, samples=1), automatic.ggn_diagonal
        estimates["factors"] = kronecker_factors(net, loss, samples=1), automatic.kronecker_factors

    of_hessian: Any = hessian_vector_product(net, loss)

    def found(given: Any, keys: Any) -> Any:
        product = lambda v: of_hessian(*given, v)  # noqa: E731
        samples = {what: jax.vmap(lambda k, f=f: f(*given[:3], k)[1])(keys) for what, (f, _) in estimates.items()}
        twins = {what: twin(net, loss)(*given)[1] for what, (_, twin) in estimates.items()}
        H = automatic.hessian(net, loss)(*given)
        return samples, twins, H, trace(product, given[0], KEY, 400), lanczos(product, given[0], KEY, H.shape[0])

    arguments = posed(problem, n), jax.random.split(KEY, 400)
    program = compiled_in_haste(found, *arguments)
    samples, twins, H, traced, spectrum = program(*arguments)
    away = {what: standard_errors(samples[what], twins[what]) for what in samples}
    assert max(away.values()) < 5, away
    assert abs(float(traced.mean - jnp.trace(H))) < 5 * float(traced.error)
    np.testing.assert_allclose(spectrum.values, np.linalg.eigvalsh(H)[::-1], atol=1e-12 * float(jnp.linalg.norm(H)))


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


def test_probes_at_units_refuse_dropout_and_batch_norm_and_take_the_inference_mode() -> None:
    net = serial(dense(3, tanh), dropout(0.5), linear(2))
    with pytest.raises(ValueError, match=r"dropout\(0.5\) would draw another mask.*inference_mode"):
        hutchinson(net, softmax_cross_entropy)
    given = posed(Problem(net, softmax_cross_entropy, 4, 2), 3)
    hutchinson(inference_mode(net), softmax_cross_entropy)(*given)
    hutchinson(net, softmax_cross_entropy, units=False)(*given)
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match="couples the examples"):
        hutchinson(problem.net, problem.loss)(*posed(problem))


def drawing(draws: bool = True, keeps: bool = False) -> Layer:
    """A layer of the user's that drops neurons and does not say so, by its key or by one that it keeps in its state."""

    def forward(params: Any, state: Any, x: Any, key: Any) -> Any:
        mask = jax.random.bernoulli(state if keeps else key, 0.5, x.shape).astype(x.dtype)
        mask = mask if draws else jnp.ones_like(mask)
        return x * mask, state, mask

    def init(key: Any, x: Any) -> Any:
        return (), key if keeps else ()

    return Layer("mine", init, lambda p, s, x: 0.5 * x, forward, lambda p, mask, e, read: (e * mask, ()))


@pytest.mark.parametrize("layer", [drawing(), drawing(keeps=True), repeat(drawing(), 2), remat(drawing())], ids=str)
def test_probes_at_units_refuse_what_draws_in_silence(layer: Layer) -> None:
    net = serial(dense(3, tanh), layer, linear(2))
    x, y = jnp.ones((3, 4)), jnp.zeros(3, int)
    given = *net.init(KEY, x), (x, y), KEY
    with pytest.raises(ValueError, match=r"serial\(.*mine.*\) would draw another mask.*units=False"):
        jax.jit(hutchinson(net, softmax_cross_entropy))(*given)
    hutchinson(net, softmax_cross_entropy, units=False)(*given)


@pytest.mark.parametrize("layer", [drawing(draws=False), repeat(dense(3, tanh), 2)], ids=str)
def test_a_key_without_effect_is_no_draw(layer: Layer) -> None:
    net = serial(dense(3, tanh), layer, linear(2))
    given = *net.init(KEY, jnp.ones((3, 4))), (jnp.ones((3, 4)), jnp.zeros(3, int)), KEY
    jax.eval_shape(hutchinson(net, softmax_cross_entropy), *given)


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
    with pytest.raises(ValueError, match=r"params\['w'\] has none. Use units=False"):
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
    product = lambda v: hessian_vector_product(NET.net, NET.loss)(*given[:4], v)  # noqa: E731
    for steps in (5, 15):
        found = jax.jit(lambda s=steps: lanczos(product, GIVEN[0], KEY, steps=s))()
        nearest = jnp.min(jnp.abs(found.values[:, None] - jnp.linalg.eigvalsh(hessian)[None]), axis=1)
        assert bool((nearest <= found.errors + 1e-12).all())
    assert abs(float(found.values[0] - jnp.linalg.eigvalsh(hessian)[-1])) < 1e-4 * float(found.values[0])


def test_no_more_steps_than_parameters() -> None:
    with pytest.raises(ValueError, match="steps must be at most the number of parameters, which is 3, got 4"):
        lanczos(lambda v: v, jnp.ones(3), KEY, steps=4)


# Saturated neurons


@pytest.mark.parametrize(("sigma", "S"), [(tanh, 9.5), (tanh, -17.0), (sigmoid, 17.0), (sigmoid, -17.0)])
def test_products_keep_the_digits_of_saturated_neurons(sigma: Activation, S: float) -> None:
    """With x = 1, y = 0 and output weight v, ∂²ℒ/∂w² has the Gauss–Newton part (vσ')², and ∂²ℒ/∂w∂v = 2vσσ'."""
    with jax.enable_x64(False):
        net, x, y = serial(dense(1, sigma), linear(1)), jnp.ones((1, 1)), jnp.zeros((1, 1))
        v, zero = 1e6, jnp.zeros(1)
        params = {"w": jnp.full((1, 1), S), "b": zero}, {"w": jnp.full((1, 1), v), "b": zero}
        along = {"w": jnp.ones((1, 1)), "b": zero}, {"w": jnp.zeros((1, 1)), "b": zero}
        given = params, ((), ()), (x, y), jax.random.key(0)
        G = ggn_vector_product(net, squared)(*given, along)[0]["w"]
        H = [hessian_vector_product(net, squared, reverse=reverse)(*given, along)[1]["w"] for reverse in (False, True)]
    e = np.exp(-abs(2 * S if sigma is tanh else S))
    slope = (4 if sigma is tanh else 1) * e / (1 + e) ** 2
    value = np.tanh(S) if sigma is tanh else 1 / (1 + np.exp(-S))
    np.testing.assert_allclose(G, (v * slope) ** 2, rtol=1e-5)
    np.testing.assert_allclose(H, np.full((2, 1, 1), 2 * v * value * slope), rtol=1e-5)


# In every dtype


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
