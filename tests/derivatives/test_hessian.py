"""Second derivatives in BackProp: exact where they say so, an approximation where they say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import (
    Activation,
    Layer,
    Loss,
    backprop,
    batch_norm,
    binary_cross_entropy,
    dense,
    dropout,
    gradient,
    grouped,
    identity,
    inference_mode,
    linear,
    microbatched,
    objective,
    per_example,
    prelu,
    repeat,
    residual,
    second_derivatives,
    serial,
    softmax_cross_entropy,
    squared,
    tanh,
    watch,
)
from fnn.derivatives import (
    gate_curvature,
    unit_gate_curvature,
)
from fnn.derivatives.hessian import loss_hessian
from tests.checkers import TOLERANCE, check_close, relative_errors
from tests.nn.laws import check_laws, curve_by_hand_and_by_jax
from tests.problems import (
    LAYERS,
    LOSSES,
    NETWORKS,
    Case,
    Problem,
    couples,
    every_dtype,
    float64,
    given,
    normal,
    posed,
    targets,
)

EXACT = TOLERANCE["second derivative"]


def decoupled(layer: Layer) -> Layer:
    """The layer itself where examples are apart in training, else its inference."""
    return inference_mode(layer) if couples(layer) else layer


def second(net: Layer, loss: Loss, *arguments: Any, **options: Any) -> Any:
    """The second derivatives of a network, compiled."""
    return jax.jit(second_derivatives(net, loss, **options))(*arguments)[1]


def automatic(net: Layer, loss: Loss, params: Any, state: Any, batch: Any, key: Any) -> Any:
    """The diagonal of `jax.hessian` of the objective."""
    flat, unravel = ravel_pytree(params)
    return unravel(
        jnp.diagonal(jax.jit(jax.hessian(lambda p: objective(net, loss)(unravel(p), state, batch, key)[0]))(flat))
    )


# Every layer


@pytest.mark.parametrize("name", LAYERS)
def test_one_pass_through_one_layer_is_the_diagonal_of_the_exact(name: str) -> None:
    layer, inputs = LAYERS[name]
    layer = decoupled(layer)
    params, state, x, key = given(layer, inputs)
    y, _, tape = layer.forward(params, state, x, key)
    error, h = normal(y, seed=3), normal(y, seed=4)
    assert layer.curve is not None
    one_pass = layer.curve(params, tape, error, h, gradient)
    exact = layer.curve(params, tape, error, jax.vmap(jnp.diag)(h), gradient)
    check_close(one_pass[0], exact[0])
    check_close(one_pass[1], jnp.diagonal(exact[1], axis1=1, axis2=2))
    check_close(one_pass[2], exact[2])


def test_one_pass_keeps_the_cross_terms_of_a_residual() -> None:
    layer = residual(dense(3, tanh))
    params, state, x, key = given(layer, 3)
    y, _, tape = layer.forward(params, state, x, key)
    error, h = normal(y, seed=3), normal(y, seed=4)
    assert layer.curve is not None
    one_pass = layer.curve(params, tape, error, h, gradient)
    exact = layer.curve(params, tape, error, jax.vmap(jnp.diag)(h), gradient)
    check_close(one_pass[1], jnp.diagonal(exact[1], axis1=1, axis2=2))


# Whole networks


WHOLE = ["one linear neuron", "support vector machine", "several margins", "prelu", "batch norm last", "residual"]


@pytest.mark.parametrize("problem", [NETWORKS[name] for name in WHOLE], ids=WHOLE)
def test_second_derivatives_are_those_of_jax_hessian(problem: Problem) -> None:
    net = decoupled(problem.net)
    arguments = posed(problem._replace(net=net))
    got = jax.jit(second_derivatives(net, problem.loss))(*arguments)
    check_close(got[1], automatic(net, problem.loss, *arguments), EXACT)
    check_close(got[0], backprop(net, problem.loss)(*arguments)[0])


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_hessian_of_a_loss(loss: Loss) -> None:
    a = normal(jnp.zeros((5, 3)), seed=1)
    y = targets(Problem(linear(3), loss, 3, 3))
    want = jax.jit(jax.vmap(jax.hessian(lambda a, y: loss.value(a[None], y[None])[0])))(a, y)
    check_close(jax.jit(lambda a, y: loss_hessian(loss, a, y))(a, y), want)
    check_close(loss.curvature(a, y), jnp.diagonal(want, axis1=1, axis2=2))


HIDDEN: dict[str, tuple[Problem, list[bool]]] = {
    "squared": (Problem(serial(dense(6, tanh), linear(3)), squared, 4, 3), [True, True]),
    "yes-no": (Problem(serial(dense(6, tanh), linear(3)), binary_cross_entropy, 4, 3), [True, True]),
    "one logit": (Problem(serial(dense(6, tanh), linear(1)), binary_cross_entropy, 4, 1), [True, True]),
    "softmax": (Problem(serial(dense(6, tanh), linear(3)), softmax_cross_entropy, 4, 3), [False, True]),
    "two hidden": (Problem(serial(dense(6, tanh), dense(6, tanh), linear(3)), squared, 4, 3), [False, True, True]),
    "two hidden, one output": (
        Problem(serial(dense(6, tanh), dense(6, tanh), linear(1)), squared, 4, 1),
        [False, True, True],
    ),
    "identity": (
        Problem(serial(dense(6, identity), dense(6, identity), linear(3)), squared, 4, 3),
        [False, True, True],
    ),
    "bottleneck": (Problem(serial(dense(6, tanh), dense(1, tanh), linear(3)), squared, 4, 3), [True, True, True]),
}


@pytest.mark.parametrize(("problem", "exact"), HIDDEN.values(), ids=HIDDEN.keys())
def test_one_pass_is_exact_where_it_says_and_nowhere_else(problem: Problem, exact: list[bool]) -> None:
    arguments = posed(problem)
    one_pass = second(problem.net, problem.loss, *arguments, exact=False)
    want = automatic(problem.net, problem.loss, *arguments)
    for layer, (got, right) in enumerate(zip(one_pass, want, strict=True)):
        worst = max(relative_errors(got, right).values())
        assert worst < EXACT if exact[layer] else worst > 0.01, (layer, worst)


def flipped(activation: Activation) -> Activation:
    return activation._replace(curvature=lambda S: -activation.curvature(S))


def test_the_sign_of_the_term_with_the_second_derivative_of_the_activation_is_plus() -> None:
    """Equation 7 of the paper prints −; there the second derivatives would be far off."""
    problem = HIDDEN["squared"][0]
    arguments = posed(problem)
    want = automatic(problem.net, problem.loss, *arguments)
    printed = second(serial(dense(6, flipped(tanh)), linear(3)), squared, *arguments, exact=False)
    dropped = second(problem.net, squared, *arguments, exact=False, gauss_newton=True)
    assert relative_errors(printed, want)["[0]['w']"] > 0.5
    assert relative_errors(dropped, want)["[0]['w']"] > 0.25


# Gauss–Newton


@pytest.mark.parametrize("name", ["dropout", "residual", "several margins"])
def test_without_the_second_derivatives_of_the_layers_it_is_gauss_newton(name: str) -> None:
    problem = NETWORKS[name]
    params, state, (x, y), key = arguments = posed(problem)
    flat, unravel = ravel_pytree(params)
    a = problem.net.forward(params, state, x, key)[0]
    J = jax.jit(jax.jacobian(lambda p: problem.net.forward(unravel(p), state, x, key)[0]))(flat)
    want = unravel(jnp.einsum("nmp,nmk,nkp->p", J, loss_hessian(problem.loss, a, y), J) / x.shape[0])
    check_close(second(problem.net, problem.loss, *arguments, gauss_newton=True), want, EXACT)


def test_one_pass_without_the_second_derivatives_is_never_negative() -> None:
    problem = HIDDEN["two hidden"][0]
    arguments = posed(problem)
    levenberg = second(problem.net, problem.loss, *arguments, exact=False, gauss_newton=True)
    assert min(float(jnp.min(leaf)) for leaf in jax.tree.leaves(levenberg)) >= 0
    exact = second(problem.net, problem.loss, *arguments)
    assert min(float(jnp.min(leaf)) for leaf in jax.tree.leaves(exact)) < 0


def test_of_a_network_of_relus_gauss_newton_is_all() -> None:
    problem = NETWORKS["relu"]
    arguments = posed(problem)
    exact = second(problem.net, problem.loss, *arguments)
    check_close(second(problem.net, problem.loss, *arguments, gauss_newton=True), exact)


# Readings, units, gates


def test_the_mean_of_the_examples_second_derivatives_is_that_of_the_mean_loss() -> None:
    problem = NETWORKS["regression"]
    arguments = posed(problem)
    each = second(problem.net, problem.loss, *arguments, read=per_example)
    check_close(jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each), second(problem.net, problem.loss, *arguments))


def test_watch_shows_the_curvature_of_every_unit() -> None:
    net = serial(dense(4, tanh), linear(3))
    params, _, (_, y), _ = arguments = posed(Problem(net, softmax_cross_entropy, 5, 3))
    hidden, output = second(watch(net), softmax_cross_entropy, *arguments)

    def beyond(z: Any) -> Any:
        return jnp.mean(softmax_cross_entropy.value(linear(3).apply(params[1], (), z), y))

    want = jnp.einsum("ninj->nij", jax.jit(jax.hessian(beyond))(hidden.y))
    check_close(hidden.curvature, want, EXACT)
    assert output.curvature.shape == (5, 3, 3)


@pytest.mark.parametrize("name", ["regression", "residual"])
def test_gate_curvature_is_the_hessian_of_gates_on_the_inputs(name: str) -> None:
    problem = NETWORKS[name]
    params, state, (x, y), key = arguments = posed(problem)

    def gated(g: Any) -> Any:
        return objective(problem.net, problem.loss)(params, state, (x * g[None, :], y), key)[0]

    want = jnp.diagonal(jax.jit(jax.hessian(gated))(jnp.ones(x.shape[1])))
    check_close(jax.jit(gate_curvature(problem.net, problem.loss))(*arguments), want, EXACT)


def test_one_pass_gates_are_exact_for_one_layer() -> None:
    arguments = posed(NETWORKS["several yes-no questions"]._replace(net=linear(3)))
    exact, one_pass = (
        gate_curvature(linear(3), binary_cross_entropy, exact=exact)(*arguments) for exact in (True, False)
    )
    check_close(one_pass, exact)


# Chunks


@pytest.mark.parametrize(
    ("make", "size"), [(backprop, 1), (backprop, 3), (backprop, 7), (backprop, 20), (second_derivatives, 3)]
)
def test_chunks_add_up(make: Callable, size: int) -> None:
    net = serial(dense(3, tanh), linear(2))
    arguments = posed(Problem(net, squared, 3, 2), n=7)
    whole = make(net, squared)
    check_close(jax.jit(microbatched(whole, size))(*arguments), jax.jit(whole)(*arguments))


# Wrong layers are found out


def with_curve(layer: Layer, change: Callable[..., tuple]) -> Layer:
    """The layer whose curve is changed: change(right result, params, tape, error, curvature)."""

    def wrong(params: Any, tape: Any, error: Any, c: Any, read: Any) -> tuple:
        assert layer.curve is not None
        return change(layer.curve(params, tape, error, c, read), params, tape, error, c)

    return layer._replace(curve=wrong)


_dense, _linear = dense(3, tanh), linear(3)


def one_sided(right: tuple, params: Any, tape: Any, error: Any, c: Any) -> tuple:
    w = params["w"]
    return right[0], jnp.einsum("io,nop,jp->nij", jnp.sign(w), c, w), right[2]


def first_power(right: tuple, params: Any, tape: Any, error: Any, c: Any) -> tuple:
    return *right[:2], right[2] | {"w": jnp.einsum("ni,noo->nio", tape.x, c)}


def without_cross_terms(right: tuple, params: Any, tape: Any, error: Any, c: Any) -> tuple:
    return right[0], c + _dense.curve(params, tape, error, c, gradient)[1], right[2]  # type: ignore[misc]


def diagonal_only(right: tuple, params: Any, tape: Any, error: Any, c: Any) -> tuple:
    return right[0], jax.vmap(jnp.diag)(jnp.einsum("nii->ni", right[1])), right[2]


def unchanged(right: tuple, params: Any, tape: Any, error: Any, c: Any) -> tuple:
    return right[0], c, right[2]


FAULTS: dict[str, tuple[Layer, int]] = {
    "no σ''": (dense(3, tanh._replace(curvature=jnp.zeros_like)), 4),
    "σ'' with the wrong sign": (dense(3, flipped(tanh)), 4),
    "σ'' off by 0.1 %": (dense(3, tanh._replace(curvature=lambda S: 1.001 * tanh.curvature(S))), 4),
    "not through the weights": (with_curve(linear(4), unchanged), 4),
    "weights on one side only": (with_curve(_linear, one_sided), 4),
    "x for x²": (with_curve(_linear, first_power), 4),
    "bias forgotten": (with_curve(_linear, lambda r, p, t, e, c: (*r[:2], r[2] | {"b": 0 * r[2]["b"]})), 4),
    "diagonal only": (with_curve(_dense, diagonal_only), 4),
    "error not passed on": (with_curve(_dense, lambda r, p, t, e, c: (0 * r[0], *r[1:])), 4),
    "residual without cross terms": (with_curve(residual(_dense), without_cross_terms), 3),
    "mask forgotten": (with_curve(dropout(0.5), unchanged), 4),
    "slope of a PReLU forgotten": (with_curve(prelu(), unchanged), 4),
}


@pytest.mark.parametrize(("layer", "inputs"), FAULTS.values(), ids=FAULTS.keys())
def test_a_wrong_curve_is_found_out(layer: Layer, inputs: int) -> None:
    with pytest.raises(AssertionError, match=r"breaks the law .curve.*relative errors"):
        check_laws(Case(layer, inputs), laws=curve_by_hand_and_by_jax)


# Refusals


def test_batch_norm_in_training_refuses() -> None:
    net = serial(dense(3, tanh), batch_norm(), linear(2))
    arguments = posed(Problem(net, squared, 4, 2))
    with pytest.raises(ValueError, match=r"batch_norm\(\) couples the examples.*fnn.inference_mode"):
        second_derivatives(net, squared)(*arguments)


def test_a_layer_without_a_curve_is_named() -> None:
    mine = dense(3, tanh)._replace(label="mine", curve=None)
    arguments = posed(Problem(serial(mine, linear(2)), squared, 4, 2))
    with pytest.raises(ValueError, match=r"mine has no `curve`.*from_function"):
        second_derivatives(serial(mine, linear(2)), squared)(*arguments)


def test_a_curvature_of_another_shape_is_refused() -> None:
    layer = dense(3, tanh)
    params, state, x, key = given(layer, 4)
    y, _, tape = layer.forward(params, state, x, key)
    assert layer.curve is not None
    for c in (jnp.ones((5, 2)), jnp.ones((5, 3, 2)), jnp.ones(3)):
        with pytest.raises(ValueError, match=r"dense\(3, tanh\).curve: expected.*\(5, 3\).*\(5, 3, 3\)"):
            layer.curve(params, tape, y, c, gradient)


# Gates of units


@pytest.mark.parametrize("exact", [True, False])
def test_gates_of_units_are_second_derivatives_by_gates(exact: bool) -> None:
    """One hidden layer below a loss of separate outputs, where the one pass is exact too."""
    net = serial(dense(5, tanh), linear(2))
    params, state, (x, y), key = posed(Problem(net, squared, 4, 2), 7)

    def gated(gates: Any) -> Any:
        (p, q), (g, h) = params, gates
        hidden = jnp.tanh(x @ p["w"] + p["b"][None]) * g[None]
        return jnp.mean(jnp.sum(0.5 * ((hidden @ q["w"] + q["b"][None]) * h[None] - y) ** 2, axis=1))

    ones = jnp.ones(5), jnp.ones(2)
    want = [jax.hessian(lambda g, i=i: gated((*ones[:i], g, *ones[i + 1 :])))(ones[i]) for i in range(2)]
    got = unit_gate_curvature(net, squared, exact=exact)(params, state, (x, y), key)
    check_close(got, tuple(jnp.diagonal(h) for h in want), rtol=1e-11)


def test_gates_of_units_keep_the_terms_in_the_second_slope_unless_told() -> None:
    net = serial(dense(5, tanh), dense(2, tanh))
    given = posed(Problem(net, squared, 4, 2), 7)
    (first, _), (whole, _), (without, _) = (
        unit_gate_curvature(net, squared, **options)(*given)
        for options in ({}, {"gauss_newton": False}, {"gauss_newton": True})
    )
    chex.assert_trees_all_equal(first, whole)
    assert jnp.max(jnp.abs(whole - without)) > 0.01


def test_gates_within_repeat_have_the_depth_first() -> None:
    net = serial(repeat(dense(4, tanh), 3), grouped(dense(3, tanh), 2))
    copies, beside = jax.eval_shape(unit_gate_curvature(net, squared), *posed(Problem(net, squared, 4, 6), 7))
    assert (copies.shape, beside.shape) == ((3, 4), (2, 3))


# Chunks in every dtype


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
