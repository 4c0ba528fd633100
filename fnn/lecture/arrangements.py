"""The cells into which half-spaces divide space, and their separation by one neuron, both computed exactly.

Both are the same problem: find weights u with ⟨u, a_r⟩ > 0 for all rows a_r of a matrix A.

===================== ======================================== ========================================
question              rows                                     u
===================== ======================================== ========================================
does a cell exist?    ±(normal_k, −offset_k) for all k; (0, 1) (x, t): the point x/t is inside the cell
is one neuron enough? ±(cell_r, −1) for all cells r            (v, v_0): [⟨v, cell⟩ − v_0 > 0]
===================== ======================================== ========================================

**Gordan's alternative** (1873): either such a u exists, or there are λ ≥ 0, Σ λ_r = 1, with Σ_r λ_r a_r = 0; never
both, as then 0 = ⟨u, Σ λ_r a_r⟩ > 0. For cells, such a λ means that an average of cells inside equals an average of
cells outside: no neuron separates them. For XOR it is (01 + 10)/2 = (00 + 11)/2.

The λ are found by the first phase of the simplex method: start from the artificial 1 = Σ_r λ_r and reduce the sum of
the rows' residuals to 0. If its minimum is positive, the prices at the minimum are −u. Floats are fractions, so the
tableau is kept in integers (Edmonds 1967; divisions leave no remainder), and Bland's rule (1977) guarantees
termination: both results are proofs, independent of rounding elsewhere.
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
    """The cells of space between the borders of half-spaces, each by the half-spaces that contain it.

    Few of the 2^m combinations exist: m lines in general position divide the plane into 1 + m + m(m − 1)/2 cells. They
    are found one border at a time, which either cuts a cell or does not. Every cell is listed, however thin; a set
    without interior, such as a part of a border, is not a cell.

    Args:
        normals: [m, d] floats, as in `convex_polyhedron`; not traced.
        offsets: [m] of the same dtype.

    Returns:
        Bools [cells, m], whether ⟨x, normal_k⟩ > offset_k in the cell, in lexicographic order.

    Raises:
        ValueError: other shapes, values that are not finite, or a normal of zeros.
        TypeError: inputs that are not arrays of floats of one dtype, or are traced.

    Example: two parallel lines and one that crosses them.
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
    origin = [0] * normals.shape[1] + [1]
    cells: list[tuple[list[int], list[int]]] = [([], origin)]  # the signs so far, and a point (x, t) inside
    for k, border in enumerate(borders):
        longer = []
        for signs, u in cells:
            at_u = sum(map(mul, border, u))
            for sign in (-1, 1):
                inside = u if sign * at_u > 0 else _point([*signs, sign], borders[: k + 1], origin)
                longer += [([*signs, sign], inside)] if inside else []
        cells = longer
    return np.array([signs for signs, _ in cells]) > 0


def _point(signs: list[int], borders: list[list[int]], origin: list[int]) -> list[int] | None:
    return positive_weights([origin, *signed(signs, borders)])[0]


def separating_neuron(
    cells: np.ndarray, within: np.ndarray
) -> tuple[tuple[list[int], float] | None, list[Fraction] | None]:
    """A neuron that is 1 in some of the cells and 0 in the others, or a proof that none exists.

    Args:
        cells: bools [cells, m], all different.
        within: bools [cells], True for the cells in which it is to be 1.

    Returns:
        Whole weights v [m] and a threshold v_0, whole or half, with ⟨v, cell⟩ − v_0 ≥ ½ within and ≤ −½ elsewhere, and
        None. Or None and weights λ [cells], Σ λ = 1, by which the cells within and the others have the same mean, where
        each group has total weight ½ and Σ λ cell over the one = Σ λ cell over the other.

    Example: AND has one, XOR has none.
        >>> corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]) == 1
        >>> separating_neuron(corners, np.array([0, 0, 0, 1]) == 1)[0]
        ([1, 1], 1.5)
        >>> print(*separating_neuron(corners, np.array([0, 1, 1, 0]) == 1)[1])
        1/4 1/4 1/4 1/4
    """
    rows = [[*map(int, cell), -1] for cell in cells]
    u, shares = positive_weights(signed(np.where(within, 1, -1), rows))
    if u is None:
        return None, shares
    v = [value // (math.gcd(*u[:-1]) or 1) for value in u[:-1]]
    sums = [sum(value for value, is_in in zip(v, cell, strict=True) if is_in) for cell in cells]
    least = min((total for total, is_in in zip(sums, within, strict=True) if is_in), default=max(sums) + 1)
    most = max((total for total, is_in in zip(sums, within, strict=True) if not is_in), default=least - 1)
    return (v, (least + most) / 2), None


def signed(signs: Any, rows: list[list[int]]) -> list[list[int]]:
    """The rows multiplied by their signs."""
    return [[int(sign) * value for value in row] for sign, row in zip(signs, rows, strict=True)]


def whole_rows(rows: list[list[float]]) -> list[list[int]]:
    """Rows of floats, which are fractions, as whole numbers: each row times a positive factor."""
    fractions = [[Fraction(value) for value in row] for row in rows]
    factors = [math.lcm(*(value.denominator for value in row)) for row in fractions]
    return [[int(value * factor) for value in row] for row, factor in zip(fractions, factors, strict=True)]


def positive_weights(rows: list[list[int]]) -> tuple[list[int] | None, list[Fraction] | None]:
    """Whole u with ⟨u, row⟩ > 0 for all rows, and None; or None, and λ ≥ 0 with Σ λ = 1 and Σ_r λ_r row_r = 0.

    The tableau has a line for each coordinate j, Σ_r λ_r a_rj = 0, one for Σ_r λ_r = 1, and last the sum of the
    residuals; a column for each row, one for each line's artificial variable, and last the right-hand side. Its values
    are T/scale.
    """
    lines = len(rows[0]) + 1
    count = len(rows)
    T = np.zeros((lines + 1, count + lines + 1), object)
    T[:-2, :count] = np.array(rows, object).T
    T[-2, :count] = T[-2, -1] = 1
    T[:-1, count:-1] = np.eye(lines, dtype=int).astype(object)
    T[-1] = -T[:-1].sum(axis=0)
    T[-1, count:-1] = 0
    basis = list(range(count, count + lines))
    scale = 1
    while (entering := np.flatnonzero(T[-1, :count] < 0)).size:
        column = entering[0]
        candidates = np.flatnonzero(T[:-1, column] > 0)
        ratios = [(Fraction(T[row, -1], T[row, column]), basis[row], row) for row in candidates]
        row = min(ratios)[2]
        pivot = T[row, column]
        others = np.arange(lines + 1) != row
        T[others] = (pivot * T[others] - T[others, column][:, None] * T[row][None, :]) // scale
        basis[row] = column
        scale = pivot
    if T[-1, -1] == 0:
        shares = [Fraction(0)] * count
        for row, column in enumerate(basis):
            if column < count:
                shares[column] = Fraction(T[row, -1], scale)
        return None, shares
    u = [int(T[-1, count + j] - scale) for j in range(lines - 1)]
    common = math.gcd(*u)
    return [value // common for value in u], None
