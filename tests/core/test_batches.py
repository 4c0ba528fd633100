"""Weights of examples: 2 is an example twice, 0 its absence, in values, gradients, readings and curvatures."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import autodiff, backprop, dense, linear, serial, softmax_cross_entropy, squared, tanh
from fnn.core import (
    Reading,
    contributions,
    gradient,
    gram,
    per_example,
    second_moment,
    signal_to_noise,
    squared_norm,
    supervised,
    variance,
)
from fnn.core.errors import Unsupported
from fnn.derivatives import (
    clip_per_example,
    ggn_diagonal,
    ggn_vector_product,
    gradient_noise,
    hessian_vector_product,
    hutchinson,
    kronecker_factors,
    microbatched,
    second_derivatives,
)
from fnn.derivatives import reference as automatic
from fnn.nn import class_weighted, ignoring, loss_from, observed
from tests.checkers import check_close
from tests.problems import normal

NET = serial(dense(4, tanh), linear(3))
COUNTS = np.array([2, 0, 1, 3, 1])
REPEATED = np.repeat(np.arange(5), COUNTS)
KEY = jax.random.key(1)
KEPT = COUNTS > 0


def given() -> tuple[Any, Any, Any, Any]:
    x = normal(jnp.zeros((5, 2)), 1)
    return *NET.init(jax.random.key(0), x), x, jnp.asarray([0, 2, 1, 2, 0])


def weighted_and_repeated(function: Any, scale: float = 1.0, *others: Any) -> tuple[Any, Any]:
    """A function of the weighted batch, and of the examples as often as their weights say."""
    params, state, x, y = given()
    weights = jnp.asarray(scale * COUNTS, x.dtype)
    batches = (x, y, weights), (x[REPEATED], y[REPEATED])
    weighted, repeated = (jax.jit(function)(params, state, batch, KEY, *others) for batch in batches)
    return weighted, repeated


LOSS = softmax_cross_entropy
MEANS = {
    "by hand": backprop(NET, LOSS),
    "autodiff": autodiff(NET, LOSS),
    "second moment": backprop(NET, LOSS, second_moment),
    "variance": backprop(NET, LOSS, variance),
    "signal to noise": backprop(NET, LOSS, signal_to_noise),
    "Hessian's diagonal": second_derivatives(NET, LOSS),
    "one pass": second_derivatives(NET, LOSS, exact=False),
    "Gauss–Newton by matrices": second_derivatives(NET, LOSS, gauss_newton=True),
    "squares of second derivatives": second_derivatives(NET, LOSS, second_moment),
    "Gauss–Newton": ggn_diagonal(NET, LOSS),
    "Kronecker factors": kronecker_factors(NET, LOSS),
    "clipped": clip_per_example(0.3)(NET, LOSS),
    "in chunks of two": microbatched(backprop(NET, LOSS), 2),
}


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("name", MEANS)
def test_a_weight_is_how_often_an_example_counts(name: str, scale: float) -> None:
    weighted, repeated = weighted_and_repeated(MEANS[name], scale)
    check_close(weighted, repeated, rtol=1e-12)


@pytest.mark.parametrize("product", [hessian_vector_product, ggn_vector_product])
def test_products_with_a_vector_too(product: Any) -> None:
    weighted, repeated = weighted_and_repeated(product(NET, LOSS), 1.0, normal(given()[0], 5))
    check_close(weighted, repeated, rtol=1e-12)


@pytest.mark.parametrize("read", [per_example, squared_norm, contributions], ids=str)
def test_rows_are_those_of_the_examples_themselves_and_0_where_the_weight_is(read: Reading) -> None:
    (value, rows), (again, repeated) = weighted_and_repeated(backprop(NET, LOSS, read))
    check_close(value, again, rtol=1e-12)
    check_close(jax.tree.map(lambda leaf: leaf[REPEATED], rows), repeated, rtol=1e-12)
    if read is not contributions:
        assert all((np.asarray(leaf)[~KEPT] == 0).all() for leaf in jax.tree.leaves(rows))


def test_inner_products_are_those_of_the_examples_themselves() -> None:
    (_, rows), (_, repeated) = weighted_and_repeated(backprop(NET, LOSS, gram))
    check_close(jax.tree.map(lambda leaf: leaf[REPEATED][:, REPEATED], rows), repeated, rtol=1e-12)


def test_the_automatic_references_count_by_weights_too() -> None:
    params, state, x, y = given()
    at = params, state, (x, y, jnp.asarray(COUNTS, x.dtype)), KEY
    for read in (gradient, second_moment, variance, per_example):
        check_close(backprop(NET, LOSS, read)(*at), automatic.read(NET, LOSS, read)(*at), rtol=1e-10)
    for name in ("ggn_diagonal", "kronecker_factors"):
        by_hand = {"ggn_diagonal": ggn_diagonal, "kronecker_factors": kronecker_factors}[name]
        check_close(by_hand(NET, LOSS)(*at), getattr(automatic, name)(NET, LOSS)(*at), rtol=1e-10)


def test_probes_at_units_estimate_the_weighted_diagonal() -> None:
    params, state, x, y = given()
    at = params, state, (x, y, jnp.asarray(COUNTS, x.dtype))
    want = second_derivatives(NET, LOSS)(*at, KEY)[1]
    found = jax.jit(jax.vmap(lambda key: hutchinson(NET, LOSS)(*at, key)[1]))(jax.random.split(KEY, 2000))
    for leaf, right in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        error = np.std(leaf, axis=0, ddof=1) / np.sqrt(2000) + 1e-12
        assert (np.abs(np.mean(leaf, axis=0) - right) < 5 * error).all()


def test_nothing_of_an_absent_example_comes_through() -> None:
    """Its loss and slope may be NaN, as for a label of no class, and its x any finite number."""
    params, state, x, y = given()
    x, y = x.at[1].set(1e6), y.at[1].set(7)
    weighted = jax.jit(backprop(NET, LOSS))(params, state, (x, y, jnp.asarray(COUNTS, x.dtype)), KEY)
    check_close(weighted, backprop(NET, LOSS)(params, state, (x[REPEATED], y[REPEATED]), KEY), rtol=1e-12)


def test_a_batch_of_nothing_has_no_gradient() -> None:
    params, state, x, y = given()
    (value, _), g = backprop(NET, LOSS)(params, state, (x, y, jnp.zeros(5)), KEY)
    assert float(value) == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(g))


def test_weights_by_class_and_labels_that_are_left_out() -> None:
    params, state, x, y = given()
    by_class = jnp.asarray([1.0, 0.5, 3.0])
    want = backprop(NET, LOSS)(params, state, (x, y, by_class[y]), KEY)
    check_close(backprop(NET, class_weighted(LOSS, by_class))(params, state, (x, y), KEY), want, rtol=1e-12)
    unknown = y.at[3].set(-1)
    both = ignoring(class_weighted(LOSS, by_class))
    weights = by_class[y].at[3].set(0)
    want = backprop(NET, LOSS)(params, state, (x, y, weights), KEY)
    for gradient_of in (backprop, autodiff):
        check_close(jax.jit(gradient_of(NET, both))(params, state, (x, unknown), KEY), want, rtol=1e-12)
    with pytest.raises(ValueError, match=r"expected labels 0\.\.2"):
        ignoring(LOSS).value(jnp.zeros((2, 3)), jnp.asarray([-1, 5]))


WRONG = {
    "a triple with labels for weights": (
        (jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones(2, int)),
        TypeError,
        "weights of floats",
    ),
    "negative": ((jnp.ones((2, 1)), jnp.ones((2, 1)), -jnp.ones(2)), ValueError, "finite weights >= 0"),
    "NaN": ((jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.nan * jnp.ones(2)), ValueError, "finite weights >= 0"),
    "a column": ((jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones((2, 1))), ValueError, r"one weight for each of 2"),
    "too few": (
        (jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.ones(1)),
        ValueError,
        r"y of shape \(2, 1\) and weight of shape \(1,\)",
    ),
    "x alone": (jnp.ones((2, 1)), TypeError, "expected a pair"),
    "four": ((jnp.ones(2),) * 4, TypeError, "got 4 parts"),
    "no x": ((None, jnp.ones(2)), TypeError, "expected arrays as x"),
    "another length": (
        (jnp.ones((2, 1)), {"a": jnp.ones(3)}),
        ValueError,
        r"x of shape \(2, 1\) and y\['a'\] of shape \(3,\)",
    ),
    "numbers": ((jnp.ones((2, 1)), 3.0), TypeError, "got float for y"),
}


@pytest.mark.parametrize(("batch", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_batch(batch: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        supervised(batch)


def test_noise_needs_examples_that_count_alike() -> None:
    params, state, x, y = given()
    with pytest.raises(Unsupported, match="got weights"):
        gradient_noise(NET, LOSS)(params, state, (x, y, jnp.ones(5)), KEY)


def test_a_loss_may_need_no_target_or_a_tree_of_them() -> None:
    params, state, x, _ = given()
    small = loss_from(lambda a, y: 0.5 * jnp.sum(jnp.square(a)))
    want = backprop(NET, squared)(params, state, (x, jnp.zeros((5, 3))), KEY)
    check_close(backprop(NET, small)(params, state, (x, None), KEY), want, rtol=1e-12)
    known = normal(jnp.zeros((5, 3)), 4) > 0
    want = jax.value_and_grad(lambda p: jnp.sum(jnp.where(known, jnp.square(NET.apply(p, state, x)), 0)) / 10)(params)
    (value, _), g = backprop(NET, observed(squared))(params, state, (x, (jnp.zeros((5, 3)), known)), KEY)
    check_close((value, g), want, rtol=1e-12)
