"""Cells of half-spaces and neurons that tell them apart: against linear programs, counts and lists of all functions."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from fnn.lecture import is_linearly_separable, regions, two_layer_region, union
from fnn.lecture.arrangements import arrangement_cells, positive_weights, separating_neuron

CORNERS = np.array(list(product([False, True], repeat=3)))


def random_half_spaces(m: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, d)), rng.standard_normal(m)


def found_by_linear_program(cells: np.ndarray, within: np.ndarray) -> bool:
    """Whether v, v_0 exist with ±(⟨v, cell⟩ − v_0) ≥ 1, by scipy's HiGHS."""
    sign = np.where(within, -1, 1)[:, None]
    rows = sign * np.concatenate([cells, -np.ones_like(sign)], axis=1)
    return linprog(np.zeros(rows.shape[1]), rows, -np.ones(len(rows)), bounds=(None, None)).status == 0


def assert_right(cells: np.ndarray, within: np.ndarray) -> bool:
    """A neuron that tells the cells apart, or one mean of both kinds, checked in whole numbers and fractions."""
    neuron, shares = separating_neuron(cells, within)
    if neuron is not None:
        v, v_0 = neuron
        S = cells.astype(int) @ np.array(v) - v_0
        assert (S[within] >= 0.5).all()
        assert (S[~within] <= -0.5).all()
        return True
    assert shares is not None
    assert min(shares) >= 0
    for side in (within, ~within):
        assert sum(share for share, is_in in zip(shares, side, strict=True) if is_in) == Fraction(1, 2)
    for k in range(cells.shape[1]):
        assert sum((share if is_in else -share) * int(cell[k])
                   for share, cell, is_in in zip(shares, cells, within, strict=True)) == 0  # fmt: skip
    return False


# Cells


@pytest.mark.parametrize(("m", "d"), [(1, 1), (4, 1), (3, 2), (7, 2), (5, 3), (3, 4)])
def test_general_position_has_as_many_cells_as_the_formula(m, d):
    """Σ_{j ≤ d} C(m, j) (Schläfli), and every cell that random points meet is among them."""
    normals, offsets = random_half_spaces(m, d, seed=m)
    cells = arrangement_cells(normals, offsets)
    assert len(cells) == sum(comb(m, j) for j in range(d + 1))
    assert len(np.unique(cells, axis=0)) == len(cells)
    points = 3 * np.random.default_rng(d).standard_normal((100_000, d))
    met = {tuple(row) for row in np.unique(points @ normals.T > offsets, axis=0)}
    assert met <= {tuple(row) for row in cells}


def test_cells_of_a_special_position():
    """Three lines through one point, a fourth twice and once turned round."""
    normals = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0], [2.0, -2.0], [-1.0, 1.0]])
    offsets = np.array([0.0, 0.0, 0.0, 0.5, 1.0, -0.5])
    axis = np.linspace(-2, 2, 40) + 0.013
    grid = np.stack(np.meshgrid(axis, axis + 0.007), axis=-1).reshape(-1, 2)
    want = np.unique(grid @ normals.T > offsets, axis=0)
    np.testing.assert_array_equal(arrangement_cells(normals, offsets), want)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_a_cell_thinner_than_rounding_is_there(dtype):
    """Between x < 1 and x > the number just below 1 there is no float, and yet a cell."""
    below = np.nextafter(np.asarray(1, dtype), np.asarray(0, dtype))
    normals, offsets = jnp.asarray([[-1.0], [1.0]], dtype), jnp.asarray([-1.0, below], dtype)
    assert arrangement_cells(normals, offsets).tolist() == [[False, True], [True, False], [True, True]]
    touching = jnp.asarray([-1.0, 1.0], dtype)
    assert arrangement_cells(normals, touching).tolist() == [[False, True], [True, False]]


# Neurons


def test_all_functions_of_three_variables_are_told_as_in_the_list_of_threshold_functions():
    tables = np.array(list(product([False, True], repeat=8)))
    got = [assert_right(CORNERS, table) for table in tables]
    np.testing.assert_array_equal(got, is_linearly_separable(tables.astype(int)))
    assert sum(got) == 104


@pytest.mark.parametrize(("m", "d", "seed"), [(3, 2, 0), (4, 2, 1), (6, 2, 2), (4, 3, 3), (5, 1, 4)])
def test_some_or_all_regions_of_an_arrangement_are_told_as_by_linear_programs(m, d, seed):
    cells = arrangement_cells(*random_half_spaces(m, d, seed))
    rng = np.random.default_rng(seed)
    every = np.array(list(product([False, True], repeat=len(cells)))) if len(cells) < 8 else None
    within = every if every is not None else rng.random((100, len(cells))) < rng.uniform(0.1, 0.9, (100, 1))
    separable = np.concatenate([within, [cells @ rng.standard_normal(m) > rng.standard_normal() for _ in range(20)]])
    got = [assert_right(cells, region) for region in separable]
    assert got == [found_by_linear_program(cells, region) for region in separable]
    assert sum(got) >= 20


def test_the_alternative_is_one_or_the_other():
    rng = np.random.default_rng(5)
    kinds = set()
    for rows in rng.integers(-3, 4, (300, 6, 3)):
        u, shares = positive_weights(rows.tolist())
        kinds.add(u is None)
        assert (u is None) != (shares is None)
        if u is not None:
            assert (rows @ np.array(u) > 0).all()
        if shares is not None:
            assert min(shares) >= 0
            assert sum(shares) == 1
            assert all(sum(share * int(row[j]) for share, row in zip(shares, rows, strict=True)) == 0 for j in range(3))
    assert kinds == {True, False}


# Two layers

Inside = Callable[[np.ndarray], Any]
EDGES = {  # in eighths, with which float32 computes exactly
    "L": [[1, 0, -0.75], [-1, 0, -0.75], [0, 1, -0.75], [0, -1, 0.25], [-1, 0, 0.25], [0, -1, -0.75]],
    "frame": [[1, 0, -0.75], [-1, 0, -0.75], [0, 1, -0.75], [0, -1, -0.75],
              [1, 0, -0.375], [-1, 0, -0.375], [0, 1, -0.375], [0, -1, -0.375]],
    "stripes": [[1, 0, k / 4] for k in range(-3, 4)],
}  # fmt: skip
REGIONS: dict[str, Inside] = {
    "L": lambda s: s[:, :3].all(1) & s[:, [1, 5]].all(1) & (s[:, 3] | s[:, 4]),
    "frame": lambda s: s[:, :4].all(1) & ~s[:, 4:].all(1),
    "stripes": lambda s: s.sum(axis=1) % 2 == 1,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", REGIONS)
def test_regions_that_are_not_convex_or_not_connected_are_two_layers(name, dtype):
    edges = np.array(EDGES[name], dtype)
    built = two_layer_region(jnp.asarray(edges[:, :2]), jnp.asarray(edges[:, 2]), REGIONS[name])
    assert str(built.net) == f"serial(dense({len(edges)}, heaviside), dense(1, heaviside))"
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(built.params))
    axis = np.arange(-16, 16, dtype=dtype) / 16 + 1 / 32
    x = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    want = REGIONS[name](np.array([[a * p + b * q > c for a, b, c in edges.tolist()] for p, q in x.tolist()]))
    assert 0.05 < want.mean() < 0.95
    np.testing.assert_array_equal(built.net.apply(built.params, built.state, jnp.asarray(x))[:, 0], want)


def test_all_and_nothing_are_regions_too():
    normals, offsets, x = jnp.eye(2), jnp.zeros(2), jnp.asarray([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])
    for inside, a in ((lambda says: says[:, 0] | True, 1), (lambda says: says[:, 0] & False, 0)):
        built = two_layer_region(normals, offsets, inside)
        assert built.net.apply(built.params, built.state, x)[:, 0].tolist() == [a] * 3


def test_two_quadrants_and_two_squares_have_no_two_layers_and_say_why():
    quadrants = r"inside, 1/2 of 00 \+ 1/2 of 11, .* outside, 1/2 of 01 \+ 1/2 of 10\. .*union"
    with pytest.raises(ValueError, match=quadrants):
        two_layer_region(jnp.eye(2), jnp.zeros(2), lambda says: says[:, 0] == says[:, 1])
    box = [
        ([[1.0, 0], [-1, 0], [0, 1], [0, -1]], [low, -high, low, -high])
        for low, high in ((-0.75, -0.125), (0.125, 0.75))
    ]
    polyhedra = [(jnp.asarray(normals), jnp.asarray(offsets)) for normals, offsets in box]
    normals, offsets = (jnp.concatenate(parts) for parts in zip(*polyhedra, strict=True))
    with pytest.raises(ValueError, match="expected cells that one neuron separates"):
        two_layer_region(normals, offsets, lambda says: says[:, :4].all(1) | says[:, 4:].all(1))
    assert union(polyhedra).net.apply(*union(polyhedra)[1:], jnp.asarray([[0.5, 0.5], [0.5, -0.5]]))[:, 0].tolist() == [
        1,
        0,
    ]


def test_only_cells_that_are_there_count():
    """x¹ > 0 in the one half plane or the other, but not both, is XOR of two half-spaces whose borders do not cross."""
    normals, offsets = jnp.asarray([[1.0, 0.0], [1.0, 0.0]]), jnp.asarray([0.0, 1.0])
    built = two_layer_region(normals, offsets, lambda says: says[:, 0] != says[:, 1])
    x = jnp.asarray([[-1.0, 0.0], [0.5, 0.0], [2.0, 0.0]])
    assert built.net.apply(built.params, built.state, x)[:, 0].tolist() == [0, 1, 0]


# Bad input

NORMALS, OFFSETS = jnp.eye(2), jnp.zeros(2)
untyped: Any = regions
first = lambda says: says[:, 0]  # noqa: E731


def nested(says: np.ndarray) -> np.ndarray:
    """[Σ_k 2^k s_k > 682], 682 = 1010101010 in binary: s_9 and (s_8 or s_7 and …), of weights 1, 1, 2, 3, 5, …, 55."""
    return says @ 2 ** np.arange(10) > 682


WRONG = {
    "no function": (lambda: untyped.two_layer_region(NORMALS, OFFSETS, [True]), TypeError, r"function .*got \[True\]"),
    "one bool": (
        lambda: two_layer_region(NORMALS, OFFSETS, lambda s: s.all()),
        ValueError,
        r"shape \(\).*\.all\(axis=1",
    ),
    "numbers": (lambda: two_layer_region(NORMALS, OFFSETS, lambda s: s.sum(1)), ValueError, "got int64"),
    "offsets of another number": (lambda: two_layer_region(NORMALS, OFFSETS[:1], first), ValueError, r"\(1,\)"),
    "a normal of zeros": (lambda: arrangement_cells(NORMALS * 0, OFFSETS), ValueError, "zeros"),
    "lists": (lambda: untyped.two_layer_region([[1.0]], [1.0], first), TypeError, "array, got list"),
    "traced": (
        lambda: jax.jit(lambda o: two_layer_region(NORMALS, o, first).params)(OFFSETS),
        TypeError,
        "two_layer_region: expected concrete half-spaces.*outside of jit",
    ),
    "digits": (
        lambda: two_layer_region(jnp.eye(10, dtype=jnp.bfloat16), jnp.zeros(10, jnp.bfloat16), nested),
        ValueError,
        "whole weights .*bfloat16 with its 8 bits",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
