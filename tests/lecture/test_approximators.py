"""Cybenko's sum, staircases, trained fits and Kolmogorov's superposition, against sums written out and theorems."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Activation,
    adam,
    dense,
    gaussian,
    heaviside,
    identity,
    lecture,
    linear,
    logarithmic,
    relu,
    serial,
    sgd,
    sigmoid,
    softplus,
    tanh,
)
from fnn.lecture import (
    cybenko,
    cybenko_params,
    fit_approximator,
    kolmogorov,
    steps_at,
    sup_error,
    unit_grid,
)
from tests.checkers import check_close
from tests.nn.laws import check_laws
from tests.problems import Case

STATE = ((), ())


# Cybenko's sum


def test_cybenko_is_the_sum(key):
    rng = np.random.default_rng(0)
    alpha, w, w_0, x = (rng.standard_normal(shape) for shape in [(6,), (3, 6), (6,), (5, 3)])
    params = cybenko_params(*map(jnp.asarray, (alpha, w, w_0)))
    net = cybenko(6, sigmoid)
    chex.assert_trees_all_equal_shapes_and_dtypes((params, STATE), jax.eval_shape(net.init, key, x))
    want = [sum(alpha[h] / (1 + np.exp(w_0[h] - x_n @ w[:, h])) for h in range(6)) for x_n in x]
    np.testing.assert_allclose(net.apply(params, STATE, jnp.asarray(x))[:, 0], want, rtol=1e-12)
    np.testing.assert_allclose(net.forward(params, STATE, jnp.asarray(x), key)[0][:, 0], want, rtol=1e-12)


def test_cybenko_learns_by_backprop():
    net = cybenko(4, tanh)
    check_laws(Case(net, 3))


def test_every_neuron_starts_with_its_rise_within_the_cube(key):
    params, _ = cybenko(1000, steepness=7.0).init(key, jnp.zeros((1, 2)))
    w, b = np.asarray(params[0]["w"]), np.asarray(params[0]["b"])
    corners = np.asarray([[0, 0], [0, 1], [1, 0], [1, 1]]) @ w + b
    assert (corners.min(axis=0) < 0).all()
    assert (corners.max(axis=0) > 0).all()
    assert abs(w.std() / 7 - 1) < 0.1


def test_the_places_of_the_rises_are_uniform_in_the_cube(key):
    """Each rises at w·p with a uniform p, so −b regressed on Σ w has the slope E p = 1/2, whatever the inputs."""
    params, _ = cybenko(4000).init(key, jnp.zeros((1, 3)))
    w, b = np.asarray(params[0]["w"]).sum(axis=0), np.asarray(params[0]["b"])
    assert abs(-b @ w / (w @ w) - 0.5) < 0.02


def test_labels():
    assert str(cybenko(8)) == "cybenko(8, sigmoid)"
    assert str(cybenko(8, relu, steepness=2.0)) == "cybenko(8, relu, steepness=2.0)"
    assert str(kolmogorov(2, inner=linear(1), outer=linear(1))) == "kolmogorov(2, inner=linear(1), outer=linear(1))"


# Steps in one dimension


FUNCTIONS = {
    "Lipschitz": (lambda x: jnp.sin(6 * x[:, 0]), lambda r: 6 * r),
    "Hölder": (lambda x: 2 + jnp.sqrt(jnp.abs(x[:, 0] - 0.3)), np.sqrt),
    "decreasing": (lambda x: -3 * x[:, 0], lambda r: 3 * r),
}
"""Functions with (an upper bound of) their modulus of continuity ω(r)."""


KNOTS = {
    "even": np.linspace(0, 1, 33),
    "uneven": np.linspace(0, 1, 33) ** 2,
}


each_function = pytest.mark.parametrize(("f", "modulus"), FUNCTIONS.values(), ids=FUNCTIONS.keys())


each_knots = pytest.mark.parametrize("knots", KNOTS.values(), ids=KNOTS.keys())


@each_function
@each_knots
def test_a_staircase_errs_by_no_more_than_the_modulus_of_continuity(f, modulus, knots):
    params, net = steps_at(f, jnp.asarray(knots)), cybenko(len(knots), heaviside)
    at_knots = net.apply(params, STATE, jnp.asarray(knots)[:, None])[:, 0]
    np.testing.assert_allclose(at_knots, f(jnp.asarray(knots)[:, None]), rtol=0, atol=1e-13)
    error = float(sup_error(f, net, params, STATE, unit_grid(1, 4001)))
    assert error <= modulus(np.diff(knots).max() / 2) * (1 + 1e-9)


def test_the_bound_is_reached_where_f_is_a_line():
    f, _ = FUNCTIONS["decreasing"]
    net, knots = cybenko(9, heaviside), jnp.linspace(0, 1, 9)
    for sharpness in (0.1, 10.0):
        error = sup_error(f, net, steps_at(f, knots, sharpness), STATE, unit_grid(1, 4001))
        np.testing.assert_allclose(error, 3 / 16, rtol=1e-12)


@each_function
@each_knots
def test_smooth_steps_are_a_mean_of_values_at_knots_nearby(f, modulus, knots):
    params, x = steps_at(f, jnp.asarray(knots), sharpness=8.0), np.linspace(0, 1, 701)
    a = cybenko(len(knots), sigmoid).apply(params, STATE, jnp.asarray(x)[:, None])[:, 0]
    k = 8 / np.diff(knots).min()
    steps = 1 / (1 + np.exp(np.clip(-k * (x[:, None] - (knots[1:] + knots[:-1]) / 2), -500, 500)))
    steps = np.concatenate([np.ones((len(x), 1)), steps, np.zeros((len(x), 1))], axis=1)
    means = steps[:, :-1] - steps[:, 1:]
    values = np.asarray(f(jnp.asarray(knots)[:, None]))
    np.testing.assert_allclose(a, means @ values, rtol=0, atol=1e-12)
    bound = np.sum(means * modulus(np.abs(x[:, None] - knots)), axis=1)
    assert (np.abs(np.asarray(a) - np.asarray(f(jnp.asarray(x)[:, None]))) <= bound + 1e-12).all()


def test_smooth_steps_come_as_close_as_one_likes():
    f, _ = FUNCTIONS["Hölder"]
    assert sup_error(f, cybenko(500), steps_at(f, jnp.linspace(0, 1, 500)), STATE, unit_grid(1, 2001)) < 0.05


# Any one nonlinearity


TWO_VARIABLES = lambda x: jnp.sin(3 * x[:, 0]) * x[:, 1]  # noqa: E731


def closest(f: Any, activation: Any, H: int, d: int) -> float:
    """The sup error of Σ_h α_h σ(…), its first layer as drawn and α by NumPy's least squares on a coarser grid."""
    net, points = cybenko(H, activation), unit_grid(d, {1: 401, 2: 31}[d])
    (hidden, _), state = net.init(jax.random.key(0), points)
    outputs = np.asarray(activation.value(points @ hidden["w"] + hidden["b"][None]))
    alpha = np.linalg.lstsq(outputs, np.asarray(f(points)), rcond=1e-10)[0]
    return float(
        sup_error(f, net, (hidden, {"w": jnp.asarray(alpha)[:, None]}), state, unit_grid(d, {1: 1001, 2: 71}[d]))
    )


@pytest.mark.parametrize("activation", [gaussian, logarithmic, relu, softplus, tanh], ids=str)
def test_any_one_nonlinearity_serves(activation):
    """64 neurons of any σ come within bounds that are three times what the worst of five σ and three keys reaches."""
    wave, plane = FUNCTIONS["Lipschitz"][0], TWO_VARIABLES
    assert closest(wave, activation, 64, 1) < 0.05 < 0.1 * closest(wave, activation, 2, 1)
    assert closest(plane, activation, 64, 2) < 0.2 < closest(plane, activation, 4, 2)


def test_no_linear_one_does():
    """At π/4 sin 6x = −1 is 1.09 under its chord from π/12 to 1, and a line errs by half of that at least."""
    assert closest(FUNCTIONS["Lipschitz"][0], identity, 64, 1) > 0.54


def test_relus_are_a_polygon_through_the_values_at_knots():
    """Between knots r apart a polygon errs by at most r² max|f''|/8; σ(0x + 1) is the constant."""
    f, t, r = FUNCTIONS["Lipschitz"][0], np.linspace(0, 1, 33), 1 / 32
    heights = np.sin(6 * t)
    slopes = np.diff(heights) / r
    alpha = [heights[0], *np.diff(slopes, prepend=0)]
    params = cybenko_params(jnp.asarray(alpha), jnp.ones((1, 33)).at[0, 0].set(0), jnp.asarray([-1, *t[:-1]]))
    error = float(sup_error(f, cybenko(33, relu), params, STATE, unit_grid(1, 4001)))
    assert 0.5 * 36 * r**2 / 8 < error < 36 * r**2 / 8


SQUARE = Activation("square", jnp.square, lambda S: 2 * S, lambda S: jnp.full_like(S, 2))


def test_of_a_polynomial_two_layers_make_its_degree_and_three_make_more():
    """No quadratic is nearer to x³ on [0, 1] than 1/32 (Chebyshev); x³ = ½((x² + x)² − x⁴ − x²) takes three layers."""
    cube = lambda x: x[:, 0] ** 3  # noqa: E731
    assert 1 / 32 <= closest(cube, SQUARE, 64, 1) < 1 / 8
    layers = (  # x², (x + ½)²; then (x² + x)², (x² + ½)² = x⁴ + x² + ¼
        (jnp.asarray([[1.0, 1.0]]), [0, 0.5]),
        (jnp.asarray([[0.0, 1.0], [1.0, 0.0]]), [-0.25, 0.5]),
        (jnp.asarray([[0.5], [-0.5]]), [0.125]),
    )
    params = tuple({"w": w, "b": jnp.asarray(b, w.dtype)} for w, b in layers)
    net = serial(dense(2, SQUARE), dense(2, SQUARE), linear(1))
    assert sup_error(cube, net, params, ((), (), ()), unit_grid(1, 1001)) < 1e-14


# Grids and errors


def test_unit_grid_is_every_combination():
    want = [[i / 3, j / 3, k / 3] for i in range(4) for j in range(4) for k in range(4)]
    np.testing.assert_allclose(unit_grid(3, 4), want, rtol=1e-15)
    assert unit_grid(1, 2, jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_sup_error_looks_at_every_point(chunk):
    net, grid = linear(1), unit_grid(1, 11)
    params = {"w": jnp.full((1, 1), 2.0), "b": jnp.ones(1)}
    for worst in (0, 5, 10):
        f = lambda x, at=grid[worst, 0]: 2 * x[:, 0] + 1.25 - jnp.where(x[:, 0] == at, 3.0, 0.0)  # noqa: E731
        assert sup_error(f, net, params, (), grid, chunk) == 2.75
        nan = lambda x, at=grid[worst, 0]: jnp.where(x[:, 0] == at, jnp.nan, 0.0)  # noqa: E731
        assert jnp.isnan(sup_error(nan, net, params, (), grid, chunk))


# Trained fits


def wave(x: jax.Array) -> jax.Array:
    return jnp.sin(2 * jnp.pi * x[:, 0])


def trained_errors(H: int, keys: jax.Array) -> jax.Array:
    net = cybenko(H)

    def error(key: jax.Array) -> jax.Array:
        params, state = fit_approximator(
            key, wave, net, unit_grid(1, 65), steps=1000, optimizer=adam(0.03), batch_size=16
        )
        return sup_error(wave, net, params, state, unit_grid(1, 301))

    return jax.jit(jax.vmap(error))(keys)


def test_the_error_of_a_trained_fit_falls_with_the_number_of_neurons(key):
    """One sigmoid is monotone, and no monotone function is nearer to a whole sine wave than 1/2."""
    keys = jax.random.split(key, 2)
    assert (trained_errors(1, keys) > 0.49).all()
    assert (trained_errors(16, keys) < 0.25).all()


def test_a_fit_is_the_trainers_run(key):
    """With all points in a batch and sgd, steps of η times the gradient of the mean loss."""
    net, points = cybenko(3), unit_grid(1, 7)
    got, state = fit_approximator(key, wave, net, points, steps=3, optimizer=sgd(0.1), batch_size=99)
    params, _ = net.init(jax.random.split(key)[0], points)
    loss = lambda p: jnp.mean(0.5 * jnp.square(net.apply(p, STATE, points)[:, 0] - wave(points)))  # noqa: E731
    slope = jax.jit(jax.grad(loss))
    for _ in range(3):
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, slope(params))
    check_close(got, params)
    assert state == STATE


# Kolmogorov's superposition


SMALL = serial(dense(3, tanh), linear(1))


SUPERPOSITION = kolmogorov(2, inner=SMALL, outer=serial(dense(2, sigmoid), linear(1)))


def test_two_knots_make_one_step() -> None:
    params = steps_at(lambda x: x[:, 0], jnp.array([0.0, 1.0]))
    net = cybenko(2, heaviside)
    np.testing.assert_allclose(net.apply(params, STATE, jnp.array([[0.0], [1.0]]))[:, 0], [0.0, 1.0], atol=1e-13)


# Bad input


untyped: Any = lecture


X, KNOTS_OK, KEY = unit_grid(2, 3), jnp.linspace(0, 1, 3), jax.random.key(0)


PARAMS = cybenko_params(jnp.ones(2), jnp.ones((2, 2)), jnp.ones(2))


def of_column(x: jax.Array) -> jax.Array:
    return x[:, :1]


def total(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=1)


WRONG = {
    "no neurons": (lambda: cybenko(0), ValueError, "width must be a whole number >= 1"),
    "flat neurons": (lambda: cybenko(3, steepness=0.0), ValueError, "steepness must be"),
    "a function for σ": (lambda: untyped.cybenko(3, jnp.tanh), TypeError, "fnn Activation"),
    "cybenko of a vector": (lambda: cybenko(3).init(KEY, X[0]), ValueError, r"\[n, features\]"),
    "cybenko with a bias": (
        lambda: cybenko(2).apply((PARAMS[0], {**PARAMS[1], "b": jnp.ones(1)}), STATE, X),
        ValueError,
        r"linear\(1, bias=False\): expected params",
    ),
    "w turned": (lambda: cybenko_params(jnp.ones(2), jnp.ones((2, 3)), jnp.ones(2)), ValueError, r"w \[d, H\].*2, 3"),
    "one w_0 for all": (lambda: untyped.cybenko_params(jnp.ones(2), jnp.ones((2, 2)), 0.5), ValueError, r"w_0 \[H\]"),
    "knots turned": (lambda: steps_at(total, KNOTS_OK[::-1]), ValueError, "strictly increasing knots.*jnp.unique"),
    "knots twice": (lambda: steps_at(total, jnp.asarray([0.0, 0.0, 1.0])), ValueError, "strictly increasing knots"),
    "one knot": (lambda: steps_at(total, KNOTS_OK[:1]), ValueError, r"two or more knots.*\(1,\).*linspace"),
    "knots as a column": (lambda: steps_at(total, KNOTS_OK[:, None]), ValueError, r"\(3, 1\)"),
    "integer knots": (lambda: steps_at(total, jnp.arange(3)), ValueError, "floats.*int64"),
    "knots as a list": (lambda: untyped.steps_at(total, [0.0, 1.0]), TypeError, "array, got list"),
    "no sharpness": (lambda: steps_at(total, KNOTS_OK, -1.0), ValueError, "sharpness must be"),
    "f of a column": (lambda: steps_at(of_column, KNOTS_OK), ValueError, r"values \[n\].*\(3, 1\)"),
    "f of no function": (lambda: untyped.steps_at(3.0, KNOTS_OK), TypeError, "f as a function"),
    "f of another dtype": (
        lambda: sup_error(lambda x: total(x).astype(jnp.float32), cybenko(2), PARAMS, STATE, X),
        ValueError,
        "their dtype, got float32",
    ),
    "a grid of one point": (lambda: unit_grid(2, 1), ValueError, "points_per_axis.*>= 2"),
    "a grid of no points": (
        lambda: sup_error(total, cybenko(2), PARAMS, STATE, X[:0]),
        ValueError,
        "number of points must be a whole number >= 1",
    ),
    "two outputs": (
        lambda: sup_error(total, linear(2), {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, (), X),
        ValueError,
        r"one output \[n, 1\], got \(9, 2\)",
    ),
    "a fit with two outputs": (
        lambda: fit_approximator(KEY, total, linear(2), X, steps=1),
        ValueError,
        "make the last layer as wide as y",
    ),
    "an error without a layer": (
        lambda: untyped.sup_error(total, total, (), (), X),
        TypeError,
        "sup_error: expected layers",
    ),
    "a fit of a column": (
        lambda: fit_approximator(KEY, of_column, cybenko(2), X, steps=1),
        ValueError,
        r"values \[n\].*\(9, 1\)",
    ),
    "a fit without steps": (lambda: fit_approximator(KEY, total, cybenko(2), X, steps=0), ValueError, "steps must be"),
    "inner of two outputs": (
        lambda: kolmogorov(2, inner=linear(2), outer=SMALL),
        ValueError,
        r"kolmogorov: inner: expected a layer of one variable.*\[n, 2\]: linear\(2\)",
    ),
    "inner is no layer": (lambda: untyped.kolmogorov(2, inner=tanh, outer=SMALL), TypeError, r"activate\(tanh\)"),
    "x of another width": (
        lambda: jax.eval_shape(SUPERPOSITION.init, KEY, unit_grid(3, 2)),
        ValueError,
        r"expected 2 features.*got 3",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
