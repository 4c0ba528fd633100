"""Linear separability of Boolean functions: those that one threshold neuron represents (slide "XOR").

Of the 2^(2^d) functions of d variables 4, 14, 104, 1882, 94572, 15028134 are linearly separable, d = 1 … 6 (OEIS
A000609). No training or optimisation is needed here: all of them are listed, up to symmetry, and looked up.

Letters: inputs x_j = ±1 for j = 1 … d, the constant x_0 = −1, values f(x) = ±1, and S(x) = Σ_{j=0}^d w_j x_j. A
threshold function has weights with f(x) = sign S(x), S(x) ≠ 0, for all x.

**Small whole weights suffice** (Muroga, Toda and Takasu 1961, *Theory of majority decision elements*): every threshold
function has whole weights with ``|w_j|`` ≤ 2^−d (d + 1)^((d+1)/2), including the threshold w_0. Proof. The weights with
f(x)·S(x) ≥ 1 for all x form a polyhedron; it contains no line, as the x span ℝ^{d+1}, so it has a vertex, where d + 1
independent inequalities are equalities: A w = 1, with entries ±1 in A. By Cramer's rule w_j = det A_j / det A, and the
entries of A_j are ±1 too. A determinant of ±1 of order d + 1 is a multiple of 2^d (add the first row to the others) and
at most (d + 1)^((d+1)/2) (Hadamard's inequality). So ``w·|det A|/2^d`` is whole and within the bound, and still
satisfies f(x)·S(x) ≥ 1.

**Symmetry.** Permuting x_0 … x_d and changing signs of some of them maps threshold functions to threshold functions, if
f is extended to x_0 = +1 by f(−x) = −f(x), like sign S. Every orbit contains weights w with w_(0) ≥ … ≥ w_(d) ≥ 0, and
there are few orbits: 1, 2, 3, 7, 21, 135 for d = 1 … 6.

**Chow's theorem** (1961, *On the characterization of threshold functions*): a function g that has the same sums a_j =
Σ_x f(x) x_j as a threshold function f equals f. Proof. Σ_x (f(x) − g(x)) S(x) = Σ_j w_j·0 = 0, but each summand is
``|f(x) − g(x)|·|S(x)|`` ≥ 0, and S(x) ≠ 0. So f and its *Chow parameters* a [d + 1] transform by the same symmetries,
and w_i ≥ w_j ≥ 0 implies a_i ≥ a_j ≥ 0: f is a threshold function if and only if its sorted ``|a_j|`` are in the list.

Example:
    >>> import jax.numpy as jnp
    >>> AND, XOR = jnp.array([0, 0, 0, 1]), jnp.array([0, 1, 1, 0])
    >>> is_linearly_separable(jnp.stack([AND, XOR])).tolist()
    [True, False]
    >>> w, w_0 = threshold_weights(AND)
    >>> print(w, w_0)
    [1. 1.] 1.5
"""

from __future__ import annotations

import math
from collections import Counter
from functools import cache, partial
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array
from fnn.lecture import _checks as lecture_checks

_MOST = 6
"""variables; the list for 7 would be selected from 77 million weight vectors"""


class _Orbits(NamedTuple):
    """One threshold function for each orbit."""

    chow: np.ndarray
    """a_(0) ≥ … ≥ a_(d) ≥ 0 [orbits, d + 1], in lexicographic order"""
    w: np.ndarray
    """w_(0) ≥ … ≥ w_(d) ≥ 0 [orbits, d + 1], of the smallest sum"""


def is_linearly_separable(truth_tables: Array | np.ndarray) -> Array:
    """Whether one threshold neuron represents a Boolean function, decided exactly by the lookup above.

    Args:
        truth_tables: values 0 and 1, [..., 2^d], d ≤ 6, in the order of `binary_inputs`.

    Returns:
        Bools [...].

    Raises:
        ValueError: other shapes or values, or more variables.
        TypeError: an input that is not an array.
    """
    tables, d = lecture_checks.truth_tables("is_linearly_separable", truth_tables)
    _few_variables("is_linearly_separable", d, _MOST)
    return _in_list(tables, d)


def threshold_weights(truth_tables: Array | np.ndarray, dtype: Any = float) -> tuple[Array, Array]:
    """Weights of a threshold neuron, f(x) = [⟨w, x⟩ − w_0 > 0] for x in {0, 1}^d, for linearly separable functions.

    The w_j are whole, w_0 is whole or half, and ``|⟨w, x⟩ − w_0|`` ≥ ½. As weights for inputs ±1 they have the smallest
    ``Σ_{j=0}^d |w_j|`` within the bound. A variable without effect has weight 0.

    Args:
        truth_tables: values 0 and 1, [..., 2^d], d ≤ 6, in the order of `binary_inputs`.
        dtype: of the weights.

    Returns:
        w [..., d] and w_0 [...], as for ``neuron(w, w_0)``. For a traced table that is not separable they are NaN.

    Raises:
        ValueError: a function that is not linearly separable; other shapes or values, or more variables.
        TypeError: an input that is not an array.
    """
    tables, d = lecture_checks.truth_tables("threshold_weights", truth_tables)
    _few_variables("threshold_weights", d, _MOST)
    w, w_0, found = _listed_weights(tables, d)
    _separable(found, tables)
    return w.astype(dtype), w_0.astype(dtype)


def count_threshold_functions(d: int) -> int:
    """The number of Boolean functions of d variables that one threshold neuron represents.

    An orbit has as many functions as its Chow parameters have distinct permutations with changes of sign.

    Args:
        d: number of variables, 1 to 6.

    Returns:
        4, 14, 104, 1882, 94572 or 15028134.

    Raises:
        ValueError: another number.
        TypeError: d is not a whole number.

    Example:
        >>> [count_threshold_functions(d) for d in (1, 2, 3, 4, 5)]
        [4, 14, 104, 1882, 94572]
    """
    d = _few_variables("count_threshold_functions", d, _MOST)
    return sum(_arrangements(chow) for chow in _orbits(d).chow.tolist())


def _arrangements(values: list[int]) -> int:
    """The number of distinct vectors made from one by permutations and changes of sign."""
    signs = 2 ** sum(value != 0 for value in values)
    return signs * math.factorial(len(values)) // math.prod(map(math.factorial, Counter(values).values()))


@partial(jax.jit, static_argnames="d")
def _in_list(tables: Array, d: int) -> Array:
    return jnp.vectorize(lambda table: jnp.any(_orbit(table, d)[0]), signature="(r)->()")(tables)


@partial(jax.jit, static_argnames="d")
def _listed_weights(tables: Array, d: int) -> tuple[Array, Array, Array]:
    """w [..., d] and w_0 [...] for inputs 0 and 1, and whether they exist [...]."""

    def of_one(table: Array) -> tuple[Array, Array, Array]:
        is_orbit, chow, order = _orbit(table, d)
        found = jnp.any(is_orbit)
        listed = jnp.asarray(_orbits(d).w, float)[jnp.argmax(is_orbit)]
        w = jnp.sign(chow).astype(float) * jnp.zeros_like(listed).at[order].set(listed)
        w = jnp.where(found, w, jnp.nan)
        return w[1:], jnp.sum(w) / 2, found  # x_j = 2x^j − 1: S/2 = Σ_j w_j x^j − (w_0 + Σ_j w_j)/2

    return jnp.vectorize(of_one, signature="(r)->(d),(),()")(tables)


def _orbit(table: Array, d: int) -> tuple[Array, Array, Array]:
    """Whether a function is in each listed orbit [orbits], its Chow parameters [d + 1], and their descending order."""
    f = 2 * (table > 0).astype(jnp.int32) - 1
    chow = f @ jnp.asarray(_points(d))
    order = jnp.argsort(-jnp.abs(chow))
    return jnp.all(jnp.asarray(_orbits(d).chow) == jnp.abs(chow)[order][None], axis=1), chow, order


def _points(d: int) -> np.ndarray:
    """The inputs [2^d, d + 1] in the order of `binary_inputs`, as ±1, with x_0 = −1."""
    bits = np.arange(2**d)[:, None] >> np.arange(d + 1)[::-1] & 1
    return (2 * bits - 1).astype(np.int32)


@cache
def _orbits(d: int, margin: int = 0) -> _Orbits:
    """One threshold function for each orbit, from all sorted weights within the bound, or `margin` beyond it."""
    bound = math.isqrt((d + 1) ** (d + 1)) // 2**d + margin
    w = np.asarray(list(combinations_with_replacement(range(bound, -1, -1), d + 1)), np.int32)
    w = w[np.argsort(w.sum(axis=1), kind="stable")]
    S = w @ _points(d).T
    w, S = (array[(S != 0).all(axis=1)] for array in (w, S))
    chow, first = np.unique(np.sign(S) @ _points(d), axis=0, return_index=True)
    return _Orbits(chow, w[first])


def _few_variables(where: str, d: Any, most: int) -> int:
    """The checked number of variables, for which all threshold functions can be listed."""
    d = checks.count(f"{where}: the number of variables", d)
    if d > most:
        raise ValueError(
            f"{where}: expected functions of 1 to {most} variables, got {d}. For more, solve a linear program for the "
            "weights, with one inequality per row of the truth table."
        )
    return d


def _separable(found: jax.Array, tables: jax.Array) -> None:
    """Raise ValueError if a concrete truth table is not that of a threshold function."""
    known = checks.concrete(found)
    if known is not None and not known.all():
        first = np.asarray(tables)[~known][0].astype(int).tolist() if known.ndim else np.asarray(tables, int).tolist()
        raise ValueError(
            f"threshold_weights: expected linearly separable functions, got {first}, which is not linearly separable "
            f"({int((~known).sum())} of {known.size} are not). Use two layers: boolean_network."
        )
