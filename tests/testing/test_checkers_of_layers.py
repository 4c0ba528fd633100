"""The tests are tested: a layer that is wrong fails the checker which the right one passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fnn import (
    Layer,
    Reading,
    activate,
    batch_norm,
    columns,
    dense,
    dropout,
    gradient,
    inverted_dropout,
    linear,
    per_example,
    prelu,
    remat,
    repeat,
    residual,
    second_moment,
    serial,
    squared_norm,
    tanh,
)
from tests.checkers import (
    READINGS,
    check_backward,
    check_close,
    check_readings,
    check_same,
    everything,
    relative_errors,
)
from tests.problems import given, normal

Backward = Callable[[Any, Any, Any, Reading], tuple[Any, Any]]


def with_backward(layer: Layer, make: Callable[[Backward], Backward]) -> Layer:
    """The layer with another backward, made from its own."""
    return layer._replace(backward=make(layer.backward))


def with_reading(layer: Layer, name: str, change: Callable[[Any, Any, Any], Any]) -> Layer:
    """The layer whose reading of one parameter is changed: change(reading, tape, error)."""

    def make(right: Backward) -> Backward:
        def wrong(params, tape, error, read):
            through, readings = right(params, tape, error, read)
            return through, readings | {name: change(readings[name], tape, error)}

        return wrong

    return with_backward(layer, make)


def with_error(layer: Layer, change: Callable[[Any, Any, Any, Any], Any]) -> Layer:
    """The layer whose error at the input is changed: change(error at the input, params, tape, error)."""

    def make(right: Backward) -> Backward:
        def wrong(params, tape, error, read):
            through, readings = right(params, tape, error, read)
            return change(through, params, tape, error), readings

        return wrong

    return with_backward(layer, make)


def not_through_z(layer: Layer) -> Layer:
    """A dense layer that takes the error at its output for the error at S."""

    def wrong(params, tape, error, read):
        return error @ params["w"].T, {"w": read.outer(tape.x, error), "b": read.rows(error)}

    return layer._replace(backward=wrong)


def redrawing(p: float) -> Layer:
    """A dropout that masks the error by another draw than the output."""
    right = dropout(p)

    def forward(params, state, x, key):
        y, state, _ = right.forward(params, state, x, key)
        return y, state, right.forward(params, state, x, jax.random.fold_in(key, 1))[2]

    return right._replace(forward=forward)


def remat_with_another_key(layer: Layer) -> Layer:
    right = remat(layer)

    def wrong(params, tape, error, read):
        return right.backward(params, tape._replace(key=jax.random.fold_in(tape.key, 1)), error, read)

    return right._replace(backward=wrong)


def batch_norm_that_ignores(statistic: str) -> Layer:
    """A batch_norm whose error does not flow through μ, or not through σ²."""

    def wrong(params, tape, error, read):
        through_mean = jnp.mean(error, axis=0, keepdims=True)
        through_variance = tape.x_hat * jnp.mean(error * tape.x_hat, axis=0, keepdims=True)
        ignored = {"mean": through_mean, "variance": through_variance}[statistic]
        scale = (params["gamma"] / tape.deviation)[None, :]
        readings = {"gamma": read.rows(error * tape.x_hat), "beta": read.rows(error)}
        return scale * (error - through_mean - through_variance + ignored), readings

    return batch_norm()._replace(backward=wrong)


def swapped_columns() -> Layer:
    """Columns of equal widths whose errors go to each other's part."""
    right = columns((2, dense(3, tanh)), (2, dense(3, tanh)))

    def wrong(params, tape, error, read):
        return right.backward(params, tape, jnp.concatenate([error[:, 3:], error[:, :3]], axis=1), read)

    return right._replace(backward=wrong)


def repeat_forward_in_backward(layer: Layer, depth: int) -> Layer:
    """A repeat that walks its layers from the first to the last in its backward pass."""

    def wrong(params, tape, error, read):
        return jax.lax.scan(lambda e, part: layer.backward(*part, e, read), error, (params, tape))

    return repeat(layer, depth)._replace(backward=wrong)


def serial_forward_in_backward(*layers: Layer) -> Layer:
    def wrong(params, tape, error, read):
        readings = []
        for layer, p, t in zip(layers, params, tape, strict=True):
            error, reading = layer.backward(p, t, error, read)
            readings.append(reading)
        return error, tuple(readings)

    return serial(*layers)._replace(backward=wrong)


SQUARE = dense(4, tanh)
MUTANTS: dict[str, tuple[Layer, Layer, int]] = {
    "weights off by a thousandth": (dense(3, tanh), with_reading(dense(3, tanh), "w", lambda w, t, e: 1.001 * w), 4),
    "weights off by 1e-9": (dense(3, tanh), with_reading(dense(3, tanh), "w", lambda w, t, e: (1 + 1e-9) * w), 4),
    "weights transposed": (SQUARE, with_reading(SQUARE, "w", lambda w, t, e: w.T), 4),
    "weights of the mean": (linear(3), with_reading(linear(3), "w", lambda w, t, e: w / e.shape[0]), 4),
    "error without the transpose": (SQUARE, with_error(SQUARE, lambda x, p, t, e: (e * t.z) @ p["w"]), 4),
    "error off by a thousandth": (linear(3), with_error(linear(3), lambda x, p, t, e: 1.001 * x), 4),
    "error lost": (linear(3), with_error(linear(3), lambda x, p, t, e: jnp.zeros_like(x)), 4),
    "bias of the first example": (linear(3), with_reading(linear(3), "b", lambda b, t, e: e[0]), 4),
    "bias of the mean": (linear(3), with_reading(linear(3), "b", lambda b, t, e: e.mean(axis=0)), 4),
    "bias that counts examples": (
        linear(3),
        with_reading(linear(3), "b", lambda b, t, e: jnp.full_like(b, e.shape[0])),
        4,
    ),
    "bias not through z": (dense(3, tanh), with_reading(dense(3, tanh), "b", lambda b, t, e: e.sum(axis=0)), 4),
    "nothing through z": (dense(3, tanh), not_through_z(dense(3, tanh)), 4),
    "error not through z": (dense(3, tanh), with_error(dense(3, tanh), lambda x, p, t, e: e @ p["w"].T), 4),
    "z at y instead of S": (dense(3, tanh), dense(3, tanh._replace(slope=lambda S: tanh.slope(tanh.value(S)))), 4),
    "z without the square": (activate(tanh), activate(tanh._replace(slope=lambda S: 1 - jnp.tanh(S))), 4),
    "mask forgotten": (dropout(0.4), with_error(dropout(0.4), lambda x, p, t, e: e), 4),
    "mask drawn again": (dropout(0.4), redrawing(0.4), 4),
    "mask not inverted": (
        inverted_dropout(0.4),
        with_error(inverted_dropout(0.4), lambda x, p, t, e: jnp.where(t.mask > 0, e, 0)),
        4,
    ),
    "error not through μ": (batch_norm(), batch_norm_that_ignores("mean"), 4),
    "error not through σ²": (batch_norm(), batch_norm_that_ignores("variance"), 4),
    "γ and β exchanged": (
        batch_norm(),
        with_backward(
            batch_norm(),
            lambda right: lambda *a: (right(*a)[0], dict(zip(("beta", "gamma"), right(*a)[1].values(), strict=True))),
        ),
        4,
    ),
    "α not trained": (prelu(), with_reading(prelu(), "alpha", lambda a, t, e: jnp.zeros_like(a)), 4),
    "α of the wrong sign": (prelu(), with_reading(prelu(), "alpha", lambda a, t, e: -a), 4),
    "α from the positive side": (
        prelu(),
        with_reading(prelu(), "alpha", lambda a, t, e: jnp.sum(e * jnp.maximum(t.x, 0), axis=0)),
        4,
    ),
    "shortcut forgotten": (residual(SQUARE), with_error(residual(SQUARE), lambda x, p, t, e: x - e), 4),
    "columns swapped": (columns((2, dense(3, tanh)), (2, dense(3, tanh))), swapped_columns(), 4),
    "repeat not reversed": (repeat(SQUARE, 3), repeat_forward_in_backward(SQUARE, 3), 4),
    "serial not reversed": (serial(SQUARE, SQUARE), serial_forward_in_backward(SQUARE, SQUARE), 4),
    "remat of another draw": (
        remat(serial(dropout(0.5), linear(3))),
        remat_with_another_key(serial(dropout(0.5), linear(3))),
        4,
    ),
}
each_mutant = pytest.mark.parametrize(("right", "wrong", "inputs"), MUTANTS.values(), ids=MUTANTS.keys())


@each_mutant
def test_check_backward_fails_on_a_wrong_layer_only(right: Layer, wrong: Layer, inputs: int) -> None:
    arguments = given(right, inputs)
    check_backward(right, *arguments)
    with pytest.raises(AssertionError, match="relative errors above"):
        check_backward(wrong, *arguments)


HIDDEN_BY_ONES = ["bias that counts examples", "error not through σ²", "columns swapped"]


@pytest.mark.parametrize("name", HIDDEN_BY_ONES)
def test_why_the_cotangent_is_random(name: str) -> None:
    # All ones are their own sum over examples but for a count, have mean_n(e x̂) = mean_n x̂ = 0, and are alike in all
    # columns: with them, these wrong layers pass.
    _, wrong, inputs = MUTANTS[name]
    check_backward(wrong, *given(wrong, inputs), cotangent=jnp.ones_like)


@pytest.mark.parametrize("missing", ["params", "x"])
def test_check_backward_fails_on_a_wrong_structure(missing: str) -> None:
    wrong = {
        "params": with_backward(linear(3), lambda right: lambda *a: (right(*a)[0], {"w": right(*a)[1]["w"]})),
        "x": with_error(linear(3), lambda x, p, t, e: x[:, :-1]),
    }[missing]
    with pytest.raises(AssertionError):
        check_backward(wrong, *given(linear(3), 4))


# Readings


MISREADINGS: dict[str, tuple[Reading, Reading]] = {
    "gradient of the first example": (gradient, gradient._replace(outer=lambda x, e: x[:1].T @ e[:1])),
    "share in the mean": (per_example, per_example._replace(outer=lambda x, e: per_example.outer(x, e) / x.shape[0])),
    "per example, depth first": (per_example, per_example._replace(stack=gradient.stack)),
    "norm instead of its square": (
        squared_norm,
        squared_norm._replace(outer=lambda x, e: jnp.sqrt(squared_norm.outer(x, e))),
    ),
    "norm of rows forgotten": (squared_norm, squared_norm._replace(rows=lambda rows: jnp.zeros(rows.shape[0]))),
    "norm of the last layer": (squared_norm, squared_norm._replace(stack=lambda readings: readings[-1])),
    "square of the sum": (second_moment, second_moment._replace(outer=lambda x, e: jnp.square(x.T @ e))),
    "rows not squared": (second_moment, second_moment._replace(rows=gradient.rows)),
}


STACKED = repeat(dense(4, tanh), 2)


def test_check_readings_passes_on_the_right_ones() -> None:
    check_readings(STACKED, *given(STACKED, 4, n=3))


@pytest.mark.parametrize(("right", "wrong"), MISREADINGS.values(), ids=MISREADINGS.keys())
def test_check_readings_fails_on_a_wrong_reading(right: Reading, wrong: Reading) -> None:
    with pytest.raises(AssertionError):
        check_readings(STACKED, *given(STACKED, 4, n=3), readings={wrong: READINGS[right]})


def test_check_readings_fails_on_a_squared_norm_without_the_bias() -> None:
    wrong = with_reading(linear(3), "b", lambda b, t, e: jnp.zeros_like(b))
    check_readings(linear(3), *given(linear(3), 4))
    with pytest.raises(AssertionError, match="'b'"):
        check_readings(wrong, *given(linear(3), 4), readings={squared_norm: READINGS[squared_norm]})


# Laws


@pytest.mark.parametrize("name", ["applied", "y", "state", "error", "readings"])
def test_check_same_fails_where_one_part_differs(name: str) -> None:
    layer = serial(dense(3, tanh), batch_norm())
    one = everything(layer, *given(layer, 4))
    check_same(one, one)
    other = one._replace(**{name: jax.tree.map(lambda leaf: leaf * (1 + 1e-9), getattr(one, name))})
    with pytest.raises(AssertionError, match="relative errors above"):
        check_same(other, one)


# The measure


def test_relative_error_is_the_norm_of_the_difference_by_the_norm_of_the_reference() -> None:
    errors = relative_errors(
        {"a": jnp.array([3.0, 4.5]), "b": jnp.ones(2)}, {"a": jnp.array([3.0, 4.0]), "b": jnp.ones(2)}
    )
    assert errors == {"['a']": pytest.approx(0.1), "['b']": 0}


def test_a_leaf_of_rounding_is_measured_by_the_whole() -> None:
    big, rounding = jnp.ones(4), jnp.full(4, 1e-17)
    check_close({"w": big, "b": -rounding}, {"w": big, "b": rounding})
    with pytest.raises(AssertionError, match="'b'"):
        check_close({"w": big, "b": rounding + 1e-9}, {"w": big, "b": rounding})


def test_a_reference_of_zeros_allows_zeros_only() -> None:
    zeros = jnp.zeros((2, 2))
    check_close(zeros, zeros)
    for wrong in (zeros + 1e-30, zeros + jnp.nan):
        with pytest.raises(AssertionError):
            check_close(wrong, zeros)


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_never_close(wrong: float) -> None:
    right = normal(jnp.ones(3), 1)
    with pytest.raises(AssertionError):
        check_close(right.at[1].set(wrong), right)
    with pytest.raises(AssertionError):
        check_close(right, right.at[1].set(wrong))
