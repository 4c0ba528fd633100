"""Functions of one neuron: all of them against linear programs, known counts and the slides' weights."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from fnn.lecture import (
    and_neuron,
    count_threshold_functions,
    is_linearly_separable,
    neuron,
    not_neuron,
    or_neuron,
    separability,
    threshold_weights,
)
from tests.lecture.tables import all_tables, rows, table_of

A000609 = {1: 4, 2: 14, 3: 104, 4: 1882, 5: 94572, 6: 15028134}
"""https://oeis.org/A000609"""


# Separable or not


@pytest.mark.parametrize("d", A000609)
def test_threshold_functions_are_as_many_as_in_the_oeis(d):
    assert count_threshold_functions(d) == A000609[d]


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_so_many_of_all_functions_are_separable(d):
    assert jax.jit(is_linearly_separable)(all_tables(d)).sum() == A000609[d]


def linear_program(table: np.ndarray) -> bool:
    """Whether some w, w_0 satisfy f(x)(⟨w, x⟩ − w_0) ≥ 1 for all x."""
    x = np.asarray(rows(len(table).bit_length() - 1))
    sign = 2 * table - 1
    inequalities = -sign[:, None] * np.column_stack([x, -np.ones(len(x))])
    found = linprog(np.zeros(inequalities.shape[1]), inequalities, -np.ones(len(x)), bounds=(None, None))
    assert found.status in (0, 2)
    return found.status == 0


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_linear_program_says_the_same_of_all_functions(d):
    tables = all_tables(d)
    assert is_linearly_separable(tables).tolist() == [linear_program(table) for table in tables]


@pytest.mark.parametrize("d", [4, 5, 6])
def test_a_linear_program_says_the_same_of_a_sample(d):
    """Functions near a threshold function: as such, with two values exchanged, and any."""
    rng = np.random.default_rng(d)
    x = np.asarray(rows(d))
    near = np.stack([x @ rng.standard_normal(d) > rng.normal(0, 0.7) for _ in range(60)]).astype(int)
    order = rng.permuted(np.tile(np.arange(2**d), (60, 1)), axis=1)[:, :2]
    changed = near.copy()
    np.put_along_axis(changed, order, np.take_along_axis(near, order[:, ::-1], 1), 1)
    tables = np.concatenate([near, changed, rng.integers(0, 2, (20, 2**d))])
    want = [linear_program(table) for table in tables]
    assert 60 < sum(want) < 125
    assert is_linearly_separable(tables).tolist() == want


def test_all_whole_weights_within_the_bound_give_these_functions():
    """For 4 variables: 7^5 weights, without symmetry and without sums over the inputs."""
    w = np.asarray(list(itertools.product(range(-3, 4), repeat=5)))
    signs = np.column_stack([np.ones(16, int), 2 * np.asarray(rows(4)) - 1])
    found = np.unique((w @ signs.T > 0) @ (1 << np.arange(16)))
    np.testing.assert_array_equal(np.flatnonzero(is_linearly_separable(all_tables(4))), found)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5])
def test_a_larger_bound_gives_no_more_functions(d):
    np.testing.assert_array_equal(separability._orbits(d).chow, separability._orbits(d, margin=2).chow)


def test_xor_and_parity_are_not_separable():
    assert not is_linearly_separable(jnp.asarray([0, 1, 1, 0]))
    assert is_linearly_separable(jnp.asarray([0, 1, 1, 1])).shape == ()
    for d in (3, 4):
        assert not is_linearly_separable(table_of(lambda *x: sum(x) % 2, d))


# The weights of one neuron


@pytest.mark.parametrize("d", [1, 3, 4])
def test_weights_realise_every_threshold_function(d):
    tables = all_tables(d)
    tables = tables[np.asarray(is_linearly_separable(tables))]
    w, w_0 = threshold_weights(tables)
    S = np.asarray(w) @ np.asarray(rows(d)).T - np.asarray(w_0)[:, None]
    np.testing.assert_array_equal(S > 0, tables)
    assert np.abs(S).min() == 0.5
    assert (np.asarray(w) % 1 == 0).all()


@pytest.mark.parametrize("d", [5, 6])
def test_weights_realise_functions_of_more_variables(d):
    rng = np.random.default_rng(d)
    x = np.asarray(rows(d))
    tables = np.stack([x @ rng.standard_normal(d) > rng.normal(0, 0.7) for _ in range(500)])
    w, w_0 = threshold_weights(tables)
    S = np.asarray(w) @ x.T - np.asarray(w_0)[:, None]
    np.testing.assert_array_equal(S > 0, tables)
    assert np.abs(S).min() == 0.5


@pytest.mark.parametrize(
    ("build", "table"), [(and_neuron, [0, 0, 0, 1]), (or_neuron, [0, 1, 1, 1]), (not_neuron, [1, 0])]
)
def test_weights_of_and_or_not_are_the_slides(build, table):
    built = neuron(*threshold_weights(np.asarray(table), jnp.float32))
    chex.assert_trees_all_equal(built.params, build(jnp.float32).params, strict=True)


def test_weights_are_zero_where_a_variable_does_not_matter():
    w, w_0 = threshold_weights(table_of(lambda a, b, c, d: b and not d, 4))
    assert (w.tolist(), w_0.tolist()) == ([0, 1, 0, -1], 0.5)


def test_a_traced_function_that_is_not_separable_has_weights_of_nan():
    w, w_0 = jax.jit(threshold_weights)(jnp.asarray([[0, 1, 1, 0], [0, 0, 0, 1]]))
    assert jnp.isnan(w).tolist() == [[True, True], [False, False]]
    assert jnp.isnan(w_0).tolist() == [True, False]
