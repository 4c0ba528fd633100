"""One backward pass, many readings: each against the automatic gradients of single examples."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Reading,
    backprop,
    dense,
    gradient,
    gram,
    linear,
    objective,
    per_example,
    prelu,
    repeat,
    second_moment,
    serial,
    signal_to_noise,
    softmax_cross_entropy,
    squared,
    squared_norm,
    tanh,
    variance,
)
from fnn.core import Shared, _shared, at_weights, contributions, gathered, over_positions
from tests.checkers import check_close
from tests.nn.laws import READINGS, check_laws, readings_by_hand_and_by_jax
from tests.problems import EVERY_LAYER, NETWORKS, Case, Problem, couples, every_dtype, float64, given, normal, posed

COUPLED = {name: case for name, case in EVERY_LAYER.items() if couples(case.layer)}


OF_SINGLE_EXAMPLES = [read for read in READINGS if not read.linear]


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("name", ["dense relu", "from_function", "columns, nested", "repeat of repeat"])
def test_readings_are_of_the_examples_own_gradients(name: str, n: int) -> None:
    """Of a batch of one too; tests/nn asks the law of every layer."""
    check_laws(EVERY_LAYER[name], n, readings_by_hand_and_by_jax)


MEANS = {
    gradient: lambda g: jnp.mean(g, axis=0),
    per_example: lambda g: g,
    squared_norm: lambda g: jax.vmap(lambda one: jnp.sum(jnp.square(one)))(g),
    second_moment: lambda g: jnp.mean(jnp.square(g), axis=0),
}
"""What `fnn.core.readings` promises of `backprop(net, loss, read)`, from the gradients g [n, …] of single examples."""


@pytest.mark.parametrize(
    ("name", "n"), [("several yes-no questions", 7), ("prelu", 1), ("mixed neurons", 7), ("deep", 1), ("deep", 7)]
)
def test_backprop_reads_what_vmap_of_grad_gives(name: str, n: int) -> None:
    net, loss, _, _ = problem = NETWORKS[name]
    params, state, (x, y), key = posed(problem, n)

    @jax.jit
    def both(params, x, y):
        of_one = lambda x, y: jax.grad(objective(net, loss), has_aux=True)(params, state, (x[None], y[None]), key)[0]  # noqa: E731
        each = jax.vmap(of_one)(x, y)
        got = [backprop(net, loss, read)(params, state, (x, y), key)[1] for read in MEANS]
        return got, [jax.tree.map(meant, each) for meant in MEANS.values()]

    for reading, meant in zip(*both(params, x, y), strict=True):
        check_close(reading, meant)


@pytest.mark.parametrize("case", COUPLED.values(), ids=COUPLED.keys())
@pytest.mark.parametrize("read", OF_SINGLE_EXAMPLES, ids=str)
def test_a_layer_that_couples_examples_refuses_readings_of_single_ones(case: Case, read: Reading) -> None:
    params, state, x, key = given(case.layer, case.inputs)

    def reading():
        y, _, tape = case.layer.forward(params, state, x, key)
        return case.layer.backward(params, tape, y, read)

    with pytest.raises(ValueError, match="couples the examples"):
        jax.eval_shape(reading)


def test_repeat_stacks_readings_so_that_examples_come_first() -> None:
    net = repeat(repeat(dense(4, tanh), 2), 3)
    params, state, x, key = given(net, 4, n=7)

    def shapes(read: Reading):
        y, _, tape = net.forward(params, state, x, key)
        return {name: leaf.shape for name, leaf in net.backward(params, tape, y, read)[1].items()}

    assert shapes(gradient) == shapes(second_moment) == {"w": (3, 2, 4, 4), "b": (3, 2, 4)}
    assert shapes(per_example) == {"w": (7, 3, 2, 4, 4), "b": (7, 3, 2, 4)}
    assert shapes(squared_norm) == {"w": (7,), "b": (7,)}


def test_squared_norm_forms_no_gradient_of_an_example() -> None:
    problem = Problem(serial(dense(11, tanh), linear(3)), squared, 13, 3)
    arguments = posed(problem, n=7)
    program = str(jax.make_jaxpr(backprop(problem.net, problem.loss, squared_norm))(*arguments))
    assert "7,13,11" not in program
    assert "7,13,11" in str(jax.make_jaxpr(backprop(problem.net, problem.loss, per_example))(*arguments))


def test_readings_print_their_names() -> None:
    assert list(map(str, READINGS)) == ["gradient", "per_example", "squared_norm", "second_moment"]


# The variance and the signal to noise


SMALL = Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2)


SPREADS = variance, signal_to_noise


def widened(tree: Any) -> Any:
    """A tree in float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


@pytest.mark.parametrize("n", [7, 128, 20000])
def test_examples_that_agree_have_no_variance(n: int) -> None:
    """In float32, where the two moments of n equal numbers differ by rounding that grows with n."""
    net = serial(dense(5, tanh), linear(3))
    params, state, (x, y), key = posed(Problem(net, softmax_cross_entropy, 4, 3), 1, dtype=jnp.float32)
    same = jnp.tile(x, (n, 1)), jnp.tile(y, n)
    found = jax.jit(lambda: [backprop(net, softmax_cross_entropy, r)(params, state, same, key)[1] for r in SPREADS])
    spread, ratio = found()
    assert all(not leaf.any() for leaf in jax.tree.leaves(spread))
    assert all(np.isinf(leaf).all() for leaf in jax.tree.leaves(ratio))


@pytest.mark.parametrize(("apart", "at_weights"), [(1e-4, False), (0.05, True)])
def test_a_small_variance_is_seen(apart: float, at_weights: bool) -> None:
    """At a bias even where it is 1e-9 of the moment, at weights from n eps on."""
    x = jnp.ones((256, 1), jnp.float32)
    y = jnp.where(jnp.arange(256)[:, None] < 128, 1, 1 + apart).astype(jnp.float32)
    params = {"w": jnp.zeros((1, 1), jnp.float32), "b": jnp.zeros(1, jnp.float32)}
    _, spread = backprop(linear(1), squared, variance)(params, (), (x, y), jax.random.key(0))
    np.testing.assert_allclose(spread["b"], apart**2 / 4, rtol=1e-2)
    np.testing.assert_allclose(spread["w"][0], spread["b"] if at_weights else 0, rtol=1e-2)


def test_variances_of_half_precision_are_found_in_float32() -> None:
    given = posed(SMALL._replace(loss=squared), 256, dtype=jnp.bfloat16)
    _, ratio = backprop(SMALL.net, squared, signal_to_noise)(*given)
    _, each = backprop(SMALL.net, squared, per_example)(*given)
    want = jax.tree.map(lambda g: jnp.mean(g, axis=0) ** 2 / jnp.var(g, axis=0), widened(each))
    for got, w in zip(jax.tree.leaves(ratio), jax.tree.leaves(want), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(got, np.float32), w, rtol=0.05, atol=1e-3)


def test_variance_of_nan_is_nan() -> None:
    params, state, (x, y), key = posed(SMALL, 3)
    bad = x.at[0].set(jnp.nan), y
    for read in SPREADS:
        _, found = backprop(SMALL.net, SMALL.loss, read)(params, state, bad, key)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))


def test_a_batch_of_one_has_no_variance_and_no_noise() -> None:
    given = posed(SMALL, 1)
    _, spread = jax.jit(backprop(SMALL.net, SMALL.loss, variance))(*given)
    _, ratio = jax.jit(backprop(SMALL.net, SMALL.loss, signal_to_noise))(*given)
    assert all(not leaf.any() for leaf in jax.tree.leaves(spread))
    assert all(np.isinf(leaf).all() for leaf in jax.tree.leaves(ratio))


def test_where_no_example_pulls_there_is_no_signal() -> None:
    params, state, (x, _), key = posed(SMALL._replace(loss=squared), 3)
    targets = SMALL.net.apply(params, state, x)
    _, ratio = backprop(SMALL.net, squared, signal_to_noise)(params, state, (x, targets), key)
    assert all(not leaf.any() for leaf in jax.tree.leaves(ratio))


def test_contributions_keep_the_two_factors_and_the_example_first() -> None:
    net = serial(repeat(repeat(dense(4, tanh), 2), 3), prelu())
    _, (copies, slopes) = jax.eval_shape(backprop(net, squared, contributions), *posed(Problem(net, squared, 4, 4), 7))
    assert (copies["w"].x.shape, copies["w"].error.shape, copies["b"].shape) == ((7, 3, 2, 4),) * 3
    assert slopes["alpha"].shape == (7, 4)


@pytest.mark.parametrize("read", [gram, variance, signal_to_noise, contributions], ids=str)
def test_batch_norm_refuses_what_is_of_single_examples(read: Reading) -> None:
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match=r"couples the examples.*fnn\.inference_mode"):
        jax.eval_shape(backprop(problem.net, problem.loss, read), *posed(problem))


def test_signal_to_noise_of_no_signal_can_be_differentiated():
    f = lambda x: fnn.signal_to_noise.rows(x).sum()  # noqa: E731
    assert float(f(jnp.zeros((3, 2)))) == 0
    assert np.isfinite(jax.grad(f)(jnp.zeros((3, 2)))).all()


# In every dtype


@every_dtype
def test_squares_of_small_errors_are_not_lost(dtype):
    """x = 200 and ε = 1e-4: in float16 ε² is 0, though x²ε² = 4e-4 is not."""
    x, error = jnp.full((4, 1), 200, dtype), jnp.full((4, 1), 1e-4, dtype)
    right = float(np.square(float64(x[0, 0]) * float64(error[0, 0])))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(float64(fnn.second_moment.outer(x, error)), [[4 * right]], rtol=2 * eps)
    np.testing.assert_allclose(float64(fnn.squared_norm.outer(x, error)), [right] * 4, rtol=2 * eps)
    np.testing.assert_allclose(float64(fnn.gram.outer(x, error)), np.full((4, 4), right), rtol=2 * eps)


@pytest.mark.parametrize("read", [*READINGS, fnn.gram, fnn.variance], ids=str)
def test_readings_gathered_later_are_those_of_the_backward_pass(read: Reading) -> None:
    net = fnn.serial(fnn.dense(4, fnn.tanh), fnn.repeat(fnn.dense(4, fnn.tanh), 2), fnn.linear(1))
    at = posed(Problem(net, fnn.squared, 3, 1), 5)
    _, want = backprop(net, fnn.squared, read)(*at)
    _, kept = backprop(net, fnn.squared, contributions)(*at)
    scale = {"gradient": 1 / 5, "second_moment": 1 / 5}.get(str(read), 1)
    check_close(jax.tree.map(lambda leaf: leaf * scale, gathered(read, kept)), want)


# Weights shared by positions


def shared(p: int, i: int, o: int) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Inputs and errors at positions, and the g_n by loops."""
    x, error = normal(jnp.zeros((5, p, i)), 1), normal(jnp.zeros((5, p, o)), 2)
    g = np.zeros((5, i, o))
    for n in range(5):
        for at in range(p):
            g[n] += np.outer(x[n, at], error[n, at])
    return x, error, g


@pytest.mark.parametrize(("p", "i", "o"), [(1, 4, 3), (2, 6, 5), (7, 2, 3)])
def test_both_ways_to_norms_and_inner_products_of_shared_weights_are_right(p: int, i: int, o: int) -> None:
    x, error, g = shared(p, i, o)
    flat = jnp.asarray(g.reshape(5, -1))
    for ways, want in (
        ((_shared._norms_by_pairs, _shared._norms_by_sums, _shared.squared_norms), jnp.sum(flat**2, axis=1)),
        ((_shared._products_by_pairs, _shared._products_by_sums, _shared.inner_products), flat @ flat.T),
    ):
        for way in ways:
            check_close(way(x, error), want)


def test_sums_over_examples_are_the_same_one_by_one_and_in_chunks_with_a_remainder() -> None:
    x, error, g = shared(3, 2, 4)
    share, term = normal(jnp.zeros(5), 3) ** 2, lambda g: g**2
    want = jnp.asarray(np.einsum("n,nio->io", share, g**2))
    check_close(_shared.summed(term, x, error, share), want)
    for most in (1, 16, 24, 10**6):  # 1, 2, 3 and all 5 examples at a time
        check_close(_shared._in_chunks(term, x, error, share, most), want)


def test_contributions_of_shared_weights_know_positions_from_depth() -> None:
    """[n, 2, p, i] in `repeat` is no weight used at two positions."""
    x, error, g = shared(3, 2, 4)
    stacked = Shared(jnp.stack([x, 2 * x], axis=1), jnp.stack([error, error], axis=1))
    check_close(gathered(second_moment, stacked), jnp.asarray(np.sum(np.stack([g, 2 * g]) ** 2, axis=1)))
    check_close(gathered(squared_norm, stacked), jnp.asarray(5 * np.sum(g**2, axis=(1, 2))))


def test_a_reading_without_a_way_for_shared_weights_reads_the_sums() -> None:
    x, error, g = shared(3, 2, 4)
    assert per_example.shared is None
    check_close(at_weights(per_example, x, error), jnp.asarray(g))
    image, at_image = x.reshape(5, 3, 1, 2), error.reshape(5, 3, 1, 4)
    check_close(at_weights(gradient, image, at_image), jnp.asarray(g.sum(axis=0)))
    check_close(over_positions(at_image), jnp.sum(error, axis=1))


def test_the_second_moment_of_shared_weights_keeps_no_gradient_of_each_example() -> None:
    """On a CPU the memory of the program does not grow by n·i·o numbers."""

    def memory(n: int) -> int:
        like = jax.ShapeDtypeStruct((n, 3, 100), jnp.float32)
        done = jax.jit(lambda x, e: at_weights(second_moment, x, e)).lower(like, like).compile()
        found = done.memory_analysis()
        assert found is not None
        return found.temp_size_in_bytes

    assert memory(64) - memory(4) < 60 * 100 * 100
