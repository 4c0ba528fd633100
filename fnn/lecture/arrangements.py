"""The cells that half-spaces cut space into, and whether one neuron tells some of them from the others: exactly.

Both questions are one: are there weights u with ⟨u, a_r⟩ > 0 for all rows a_r of a matrix A?

================= ======================================== ========================================
question          rows                                     u
================= ======================================== ========================================
is a cell there?  ±(normal_k, −offset_k) for all k; (0, 1) (x, t): the point x/t is inside the cell
does a neuron do? ±(cell_r, −1) for all cells r            (v, v_0): [⟨v, cell⟩ − v_0 > 0]
================= ======================================== ========================================

**Gordan's alternative** (1873): either such u are, or there are λ ≥ 0, Σ λ_r = 1, with Σ_r λ_r a_r = 0, and never both,
for then 0 = ⟨u, Σ λ_r a_r⟩ > 0. For cells, such a λ says that a mean of cells inside equals a mean of cells outside: no
neuron tells these apart. For XOR it is (01 + 10)/2 = (00 + 11)/2.

The λ are looked for by the first phase of the simplex method: start from the artificial 1 = Σ_r λ_r and make the sum of
the rows' misses 0. Where its minimum is above 0, the prices at the minimum are −u. Floats are fractions, so the tableau
is kept in whole numbers (Edmonds 1967; divisions leave no remainder), and by Bland's rule (1977) it ends: both answers
are proofs, whatever the rounding elsewhere.
"""

from __future__ import annotations

import math
from fractions import Fraction
from operator import mul
from typing import Any

import numpy as np

from fnn.core.types import Array
from fnn.lecture import _checks as lecture_checks


def arrangement_cells(normals: Array | np.ndarray, offsets: Array | np.ndarray) -> np.ndarray:
    """The cells of space between the borders of half-spaces, each by what the half-spaces say in it.

    Of the 2^m combinations few are there: m lines in general position cut the plane into 1 + m + m(m − 1)/2 cells. They
    are found one border at a time, each cell being cut or not. However thin a cell is, it is listed; what lies on
    borders alone is none.

    Args:
        normals: [m, d] floats, as of `convex_polyhedron`; not traced.
        offsets: [m] of the same dtype.

    Returns:
        Bools [cells, m], whether ⟨x, normal_k⟩ > offset_k in the cell, in lexicographic order.

    Raises:
        ValueError: other shapes, values that are not finite, or a normal of zeros.
        TypeError: no arrays of floats of one dtype, or traced ones.

    Example: two parallel lines and one across.
        >>> import jax.numpy as jnp
        >>> normals, offsets = jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), jnp.array([0.0, 1.0, 0.0])
        >>> print(arrangement_cells(normals, offsets).astype(int))
        [[0 0 0]
         [0 0 1]
         [1 0 0]
         [1 0 1]
         [1 1 0]
         [1 1 1]]
    """
    normals, offsets = lecture_checks.known_half_spaces("arrangement_cells", normals, offsets)
    borders = whole_rows(np.concatenate([normals, -offsets[:, None]], axis=1).tolist())
    there = [0] * normals.shape[1] + [1]
    cells: list[tuple[list[int], list[int]]] = [([], there)]  # the signs so far, and (x, t) within
    for k, border in enumerate(borders):
        longer = []
        for signs, u in cells:
            at_u = sum(map(mul, border, u))
            for sign in (-1, 1):
                within = u if sign * at_u > 0 else _point([*signs, sign], borders[: k + 1], there)
                longer += [([*signs, sign], within)] if within else []
        cells = longer
    return np.array([signs for signs, _ in cells]) > 0


def _point(signs: list[int], borders: list[list[int]], there: list[int]) -> list[int] | None:
    return positive_weights([there, *signed(signs, borders)])[0]


def telling_neuron(
    cells: np.ndarray, within: np.ndarray
) -> tuple[tuple[list[int], float] | None, list[Fraction] | None]:
    """A neuron that is 1 in some of the cells and 0 in the others, or the proof that there is none.

    Args:
        cells: bools [cells, m], all different.
        within: bools [cells], for which of them it is to be 1.

    Returns:
        Whole weights v [m] and a threshold v_0, whole or half, with ⟨v, cell⟩ − v_0 ≥ ½ within and ≤ −½ elsewhere, and
        None. Or None and shares λ [cells], Σ λ = 1, by which the cells within and the others have one mean, as many
        halves of either, Σ λ cell over the ones = Σ λ cell over the others.

    Example: AND has one, XOR has none.
        >>> corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) == 1
        >>> telling_neuron(corners, np.array([0, 0, 0, 1]) == 1)[0]
        ([1, 1], 1.5)
        >>> print(*telling_neuron(corners, np.array([0, 1, 1, 0]) == 1)[1])
        1/4 1/4 1/4 1/4
    """
    rows = [[*map(int, cell), -1] for cell in cells]
    u, shares = positive_weights(signed(np.where(within, 1, -1), rows))
    if u is None:
        return None, shares
    v = [value // (math.gcd(*u[:-1]) or 1) for value in u[:-1]]
    sums = [sum(value for value, says in zip(v, cell, strict=True) if says) for cell in cells]
    least = min((total for total, is_in in zip(sums, within, strict=True) if is_in), default=max(sums) + 1)
    most = max((total for total, is_in in zip(sums, within, strict=True) if not is_in), default=least - 1)
    return (v, (least + most) / 2), None


def signed(signs: Any, rows: list[list[int]]) -> list[list[int]]:
    """The rows with their signs."""
    return [[int(sign) * value for value in row] for sign, row in zip(signs, rows, strict=True)]


def whole_rows(rows: list[list[float]]) -> list[list[int]]:
    """Rows of floats, which are fractions, as whole numbers, each row by a positive factor of its own."""
    fractions = [[Fraction(value) for value in row] for row in rows]
    factors = [math.lcm(*(value.denominator for value in row)) for row in fractions]
    return [[int(value * factor) for value in row] for row, factor in zip(fractions, factors, strict=True)]


def positive_weights(rows: list[list[int]]) -> tuple[list[int] | None, list[Fraction] | None]:
    """Whole u with ⟨u, row⟩ > 0 for all rows, and None; or None, and λ ≥ 0 with Σ λ = 1 and Σ_r λ_r row_r = 0.

    The tableau has a line for each coordinate j, Σ_r λ_r a_rj = 0, one for Σ_r λ_r = 1, and the sum of the misses last;
    a column for each row, one for each line's artificial variable, and the right side last. What it says is T/scale.
    """
    lines, count = len(rows[0]) + 1, len(rows)
    T = np.zeros((lines + 1, count + lines + 1), object)
    T[:-2, :count] = np.array(rows, object).T
    T[-2, :count] = T[-2, -1] = 1
    T[:-1, count:-1] = np.eye(lines, dtype=int).astype(object)
    T[-1] = -T[:-1].sum(axis=0)
    T[-1, count:-1] = 0
    basis, scale = list(range(count, count + lines)), 1
    while (entering := np.flatnonzero(T[-1, :count] < 0)).size:
        column = entering[0]
        candidates = np.flatnonzero(T[:-1, column] > 0)
        ratios = [(Fraction(T[row, -1], T[row, column]), basis[row], row) for row in candidates]
        row = min(ratios)[2]
        pivot, others = T[row, column], np.arange(lines + 1) != row
        T[others] = (pivot * T[others] - T[others, column][:, None] * T[row][None, :]) // scale
        basis[row], scale = column, pivot
    if T[-1, -1] == 0:
        shares = [Fraction(0)] * count
        for row, column in enumerate(basis):
            if column < count:
                shares[column] = Fraction(T[row, -1], scale)
        return None, shares
    u = [int(T[-1, count + j] - scale) for j in range(lines - 1)]
    common = math.gcd(*u)
    return [value // common for value in u], None
