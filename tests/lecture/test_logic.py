"""Boolean functions: all of them where that can be, against Python's own logic, brute force and linear programs."""

import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.lecture import (
    Built,
    and_neuron,
    apply,
    binary_inputs,
    boolean_network,
    count_threshold_functions,
    is_linearly_separable,
    logic,
    minimal_dnf,
    not_neuron,
    or_neuron,
    threshold_weights,
    xor_by_layers,
    xor_by_product,
)
from tests.lecture.tables import all_tables, rows, table_of


def targets(build: Callable[[], Built], d: int, dtype: Any = float) -> list[float]:
    y = jax.jit(lambda: apply(build(), binary_inputs(d, dtype)))()
    assert y.shape == (2**d, 1)
    return y[:, 0].tolist()


# The slides' networks


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    ("build", "f", "d"),
    [
        (and_neuron, lambda a, b: a and b, 2),
        (or_neuron, lambda a, b: a or b, 2),
        (not_neuron, lambda a: not a, 1),
        (xor_by_product, lambda a, b: a != b, 2),
        (xor_by_layers, lambda a, b: a != b, 2),
    ],
    ids=["and", "or", "not", "xor by a product", "xor by layers"],
)
def test_the_slides_networks_are_exact(build, f, d, dtype):
    assert targets(lambda: build(dtype), d, dtype) == [f(*row) for row in rows(d)]


def test_their_weights_are_the_slides():
    def literal(built):
        return [leaf.tolist() for leaf in jax.tree.leaves(built.params)]  # b before w

    assert literal(and_neuron()) == [[-1.5], [[1], [1]]]
    assert literal(or_neuron()) == [[-0.5], [[1], [1]]]
    assert literal(not_neuron()) == [[0.5], [[-1]]]
    assert literal(xor_by_product()) == [[-0.5], [[1], [1], [-2]]]
    assert literal(xor_by_layers()) == [[-0.5, -1.5], [[1, 1], [1, 1]], [0], [[1], [-1]]]
    assert str(xor_by_product().net) == "serial(with_product, dense(1, heaviside))"
    assert str(xor_by_layers().net) == "serial(dense(2, heaviside), dense(1, heaviside))"


# Any function by two layers


def test_inputs_are_in_the_order_of_binary_numbers():
    for d in (1, 2, 4):
        assert binary_inputs(d).tolist() == [list(row) for row in rows(d)]
    assert binary_inputs(3, jnp.float32).dtype == jnp.float32


def test_all_65536_functions_of_4_variables_in_one_vmapped_call():
    tables = all_tables(4)
    x = binary_inputs(4, jnp.float32)
    told = jax.jit(jax.vmap(lambda table: apply(boolean_network(table, dtype=jnp.float32), x)[:, 0]))(tables)
    assert told.shape == (65536, 16)
    np.testing.assert_array_equal(told, tables)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_functions_of_9_variables(dtype):
    tables = np.random.default_rng(0).integers(0, 2, (5, 512)).astype(bool)
    told = jax.jit(jax.vmap(lambda t: apply(boolean_network(t, dtype=dtype), binary_inputs(9, dtype))[:, 0]))(tables)
    np.testing.assert_array_equal(told.astype(bool), tables)


@pytest.mark.parametrize("minimise", [False, True])
@pytest.mark.parametrize(
    "f",
    [lambda *x: False, lambda *x: True, lambda *x: x[0] > x[2], lambda *x: sum(x) % 2, lambda *x: sum(x) > 1],
    ids=["0", "1", "x1 and not x3", "parity", "majority"],
)
def test_named_functions(f, minimise):
    if minimise:
        pytest.importorskip("sympy")
    table = table_of(f, 3)
    assert targets(lambda: boolean_network(table, minimise=minimise), 3) == table.tolist()


def test_a_truth_table_may_hold_bools_or_floats():
    for dtype in (bool, jnp.int8, jnp.float32):
        table = jnp.asarray([0, 1, 1, 0], dtype)
        assert targets(partial(boolean_network, table), 2) == [0, 1, 1, 0]


def test_a_traced_value_that_is_neither_0_nor_1_makes_nan():
    told = jax.jit(lambda table: apply(boolean_network(table), binary_inputs(1)))(jnp.asarray([0.0, 0.3]))
    assert jnp.isnan(told).all()


# Fewer terms


def term_masks(d: int) -> np.ndarray:
    """For each of the 3^d terms the function it is, as an integer with bit r for row r."""
    masks = []
    for term in itertools.product([-1, 0, 1], repeat=d):
        holds = [all(s == 0 or (s > 0) == bool(x) for s, x in zip(term, row, strict=True)) for row in rows(d)]
        masks.append(sum(1 << r for r, value in enumerate(holds) if value))
    return np.asarray(masks)


def fewest_terms(d: int) -> np.ndarray:
    """Of every function, how many terms its shortest DNF has: those one OR away from n terms have n + 1 or fewer."""
    fewest = np.full(2**2**d, -1)
    fewest[0] = 0
    latest = np.asarray([0])
    while len(latest):
        reached = np.unique(latest[:, None] | term_masks(d)[None])
        reached = reached[fewest[reached] < 0]
        fewest[reached] = fewest[latest[0]] + 1
        latest = reached
    return fewest


@pytest.mark.parametrize("d", [2, 3, 4])
def test_minimal_dnfs_have_the_fewest_terms_and_are_right(d):
    """All functions of 2 and 3 variables, and a sample of those of 4."""
    pytest.importorskip("sympy")
    fewest, tables, signs = fewest_terms(d), all_tables(d), 2 * np.asarray(rows(d)) - 1
    for k in range(2**2**d) if d < 4 else np.random.default_rng(1).integers(0, 65536, 200):
        terms = minimal_dnf(tables[k])
        assert terms.shape == (fewest[k], d)
        holds = (terms[:, None, :] * signs[None] >= 0).all(axis=2)
        np.testing.assert_array_equal(holds.any(axis=0), tables[k])


def test_a_minimised_network_has_a_neuron_for_each_term():
    pytest.importorskip("sympy")
    majority = table_of(lambda *x: sum(x) > 1, 3)
    assert minimal_dnf(majority).tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    built = boolean_network(majority, minimise=True, dtype=jnp.float32)
    assert str(built.net) == "serial(dense(3, heaviside), dense(1, heaviside))"
    assert built.params[0]["w"].tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert built.params[0]["b"].tolist() == [-1.5] * 3
    for constant in (0, 1):
        built = boolean_network(jnp.full(8, constant), minimise=True)
        assert str(built.net) == "serial(dense(1, heaviside), dense(1, heaviside))"


# Bad input


untyped: Any = logic


ONE = jnp.asarray([0, 1, 1, 0])


WRONG = {
    "a list": (lambda: untyped.boolean_network([0, 1]), TypeError, "boolean_network: expected an array, got list"),
    "three rows": (lambda: boolean_network(ONE[:3]), ValueError, r"2\^d.*\(3,\).*binary_inputs"),
    "one row": (lambda: boolean_network(ONE[:1]), ValueError, r"d >= 1.*\(1,\)"),
    "a number": (lambda: is_linearly_separable(jnp.asarray(1)), ValueError, r"got shape \(\)"),
    "two tables": (lambda: boolean_network(jnp.stack([ONE, ONE])), ValueError, r"\(2, 4\).*jax.vmap"),
    "plus and minus one": (lambda: boolean_network(2 * ONE - 1), ValueError, r"0 and 1, got also \[-1\].*t > 0"),
    "a third value": (lambda: is_linearly_separable(jnp.asarray([0, 2])), ValueError, r"got also \[2\]"),
    "minimise under jit": (
        lambda: jax.jit(lambda t: boolean_network(t, minimise=True).params)(ONE),
        TypeError,
        "traced here.*without minimise",
    ),
    "no inputs": (lambda: binary_inputs(0), ValueError, "d must be a whole number >= 1"),
    "xor of three features": (
        lambda: xor_by_product().net.init(jax.random.key(0), jnp.ones((1, 3))),
        ValueError,
        "with_product: expected 2 features",
    ),
    "7 variables": (lambda: is_linearly_separable(jnp.zeros(128)), ValueError, "1 to 6 variables, got 7.*linear"),
    "a count of 7": (lambda: count_threshold_functions(7), ValueError, "1 to 6 variables, got 7"),
    "a count of 0": (lambda: count_threshold_functions(0), ValueError, "whole number >= 1, got 0"),
    "weights of xor": (
        lambda: threshold_weights(ONE),
        ValueError,
        r"\[0, 1, 1, 0\], which is not linearly separable \(1 of 1 are not\).*boolean_network",
    ),
    "weights of xor among others": (
        lambda: threshold_weights(jnp.stack([1 - ONE, jnp.zeros(4, int), ONE])),
        ValueError,
        r"\[1, 0, 0, 1\].*2 of 3",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_without_sympy_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sympy", None)
    with pytest.raises(ImportError, match="pip install sympy"):
        minimal_dnf(ONE)
    assert targets(lambda: boolean_network(ONE), 2) == [0, 1, 1, 0]
