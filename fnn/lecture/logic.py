"""Boolean functions as threshold networks (slides "AND, OR, NOT", "XOR", "Which functions can a net represent").

=================== ====== ====================================================================================
function            layers how
=================== ====== ====================================================================================
`and_neuron`        1      [x¹ + x² − 3/2 > 0]
`or_neuron`         1      [x¹ + x² − 1/2 > 0]
`not_neuron`        1      [−x¹ + 1/2 > 0]
`xor_by_product`    1      [x¹ + x² − 2x¹x² − 1/2 > 0], with x¹x² as a feature
`xor_by_layers`     2      [(x¹ ∨ x²) − (x¹ ∧ x²) > 0]
`boolean_network`   2      any function of d variables: an OR of ANDs, its disjunctive normal form (DNF)
=================== ====== ====================================================================================

A function of d variables is given by its truth table [2^d] of 0 and 1, whose rows are in the order of binary numbers
with x¹ the highest bit, as listed by `binary_inputs`: for d = 2 the inputs 00, 01, 10, 11, so that AND is 0001.

On inputs of 0 and 1 every network here is exact: S is a sum of whole numbers and halves, so it is 0, where H(0) = 0, or
at least ½ away from 0. `fnn.lecture.separability` decides which functions need no second layer.

Example:
    >>> import jax.numpy as jnp
    >>> from fnn.lecture import apply
    >>> exactly_one = boolean_network(jnp.array([0, 1, 1, 0, 1, 0, 0, 0]))
    >>> exactly_one.net
    serial(dense(8, heaviside), dense(1, heaviside))
    >>> apply(exactly_one, binary_inputs(3))[:, 0].tolist()
    [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array, Params
from fnn.lecture import _checks as lecture_checks
from fnn.lecture.neurons import Built, neuron
from fnn.nn.activations import heaviside
from fnn.nn.compositions import serial
from fnn.nn.functions import from_function
from fnn.nn.neurons import dense


def binary_inputs(d: int, dtype: Any = float) -> Array:
    """All inputs of d binary variables, [2^d, d] of 0 and 1: row r is the bits of r, with x¹ the highest.

    Example:
        >>> print(binary_inputs(2))
        [[0. 0.]
         [0. 1.]
         [1. 0.]
         [1. 1.]]
    """
    return jnp.asarray(_bits(checks.count("d", d)), dtype)


def and_neuron(dtype: Any = float) -> Built:
    """x¹ ∧ x² = [x¹ + x² − 3/2 > 0], from [n, 2] to [n, 1]."""
    return neuron(jnp.asarray([1, 1], dtype), 1.5)


def or_neuron(dtype: Any = float) -> Built:
    """x¹ ∨ x² = [x¹ + x² − 1/2 > 0], from [n, 2] to [n, 1]."""
    return neuron(jnp.asarray([1, 1], dtype), 0.5)


def not_neuron(dtype: Any = float) -> Built:
    """¬x¹ = [−x¹ + 1/2 > 0], from [n, 1] to [n, 1]."""
    return neuron(jnp.asarray([-1], dtype), -0.5)


def xor_by_product(dtype: Any = float) -> Built:
    """x¹ ⊕ x² = [x¹ + x² − 2x¹x² − 1/2 > 0]: one neuron on the features x¹, x², x¹x² (slide "XOR", first way).

    Args:
        dtype: of the params.

    Returns:
        A `Built` network ``serial(with_product, dense(1, heaviside))`` from [n, 2] to [n, 1].
    """

    def features(params: Params, x: Array) -> Array:
        return jnp.concatenate([x, x[:, :1] * x[:, 1:]], axis=1)

    def init(key: Array, x: Any) -> Params:
        checks.features("with_product", x, 2)
        return ()

    one = neuron(jnp.asarray([1, 1, -2], dtype), 0.5)
    return Built(serial(from_function(init, features, "with_product"), one.net), ((), one.params), ((), one.state))


def xor_by_layers(dtype: Any = float) -> Built:
    """x¹ ⊕ x² = [(x¹ ∨ x²) − (x¹ ∧ x²) > 0]: a layer of OR and AND, and a neuron (slide "XOR", second way).

    Args:
        dtype: of the params.

    Returns:
        A `Built` network ``serial(dense(2, heaviside), dense(1, heaviside))`` from [n, 2] to [n, 1].
    """
    either, both = or_neuron(dtype).params, and_neuron(dtype).params
    hidden = {name: jnp.concatenate([either[name], both[name]], axis=-1) for name in ("w", "b")}
    return _two_layers(hidden, neuron(jnp.asarray([1, -1], dtype), 0.0).params)


def boolean_network(truth_table: Array | np.ndarray, *, minimise: bool = False, dtype: Any = float) -> Built:
    """Any Boolean function by two layers, AND neurons and an OR neuron (slide "Which functions can a net represent").

    Equations, with one AND neuron per term t of a disjunctive normal form and literals s_tj = +1 if the term contains
    x^j, −1 if it contains ¬x^j, and 0 otherwise; p_t of them are +1::

        y_t  = [Σ_j s_tj x^j − (p_t − ½) > 0]      Σ_j s_tj x^j = p_t if all literals hold, and p_t − 1 or less if not
        a(x) = [Σ_t f_t y_t − ½ > 0]

    The canonical DNF has a term for every row r of the truth table, with the value f_r. Its hidden layer is the same
    for all functions of d variables and its outer weights are the truth table, so `jax.vmap` builds many at once.

    Args:
        truth_table: values 0 and 1, [2^d], in the order of `binary_inputs`.
        minimise: use the few terms of `minimal_dnf`, f_t = 1, instead of all 2^d rows.
        dtype: of the params.

    Returns:
        A `Built` network ``serial(dense(terms, heaviside), dense(1, heaviside))`` from [n, d] to [n, 1]. For the
        constant 0, whose minimal DNF has no term, it has one neuron without effect, f_t = 0.

    Raises:
        ValueError: other shapes or values.
        TypeError: a table that is not an array, or is traced although the number of terms depends on it.
        ImportError: `minimise` without sympy.

    Example:
        >>> import jax.numpy as jnp
        >>> x1_or_x2_and_x3 = jnp.array([0, 0, 0, 1, 1, 1, 1, 1])
        >>> boolean_network(x1_or_x2_and_x3, minimise=True).net
        serial(dense(2, heaviside), dense(1, heaviside))
    """
    table, d = _truth_table("boolean_network", truth_table)
    if minimise:
        terms = minimal_dnf(truth_table)
        f = jnp.full(max(len(terms), 1), len(terms) > 0, dtype)
        s = terms if len(terms) else np.zeros((1, d), int)
    else:
        f = jnp.where((table == 0) | (table == 1), table.astype(dtype), jnp.nan)
        s = 2 * _bits(d) - 1
    ands = {"w": jnp.asarray(s.T, dtype), "b": jnp.asarray(0.5 - (s > 0).sum(axis=1), dtype)}
    return _two_layers(ands, neuron(f, 0.5).params)


def minimal_dnf(truth_table: Array | np.ndarray) -> np.ndarray:
    """A disjunctive normal form of few terms, by sympy's Quine–McCluskey algorithm, `SOPform` (McCluskey 1956).

    The algorithm finds all prime implicants and chooses some that cover the function. For d ≤ 4 no function has a DNF
    of fewer terms; all of them were checked with sympy 1.14. Over the functions of 2, 3 and 4 variables the mean number
    falls from 2, 4 and 8 of the canonical DNF to 1.31, 2.31 and 4.13; parities keep all their terms. The choice is
    heuristic; for d ≥ 5 there may be one term too many.

    Args:
        truth_table: values 0 and 1, [2^d], in the order of `binary_inputs`; not traced.

    Returns:
        Literals [terms, d], int: +1 for x^j, −1 for ¬x^j, 0 if the term contains neither; the terms are in
        lexicographic order. The constant 0 has no terms, the constant 1 has one without literals.

    Raises:
        ValueError: other shapes or values.
        TypeError: a table that is not an array, or is traced.
        ImportError: sympy is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> print(minimal_dnf(jnp.array([0, 0, 0, 1, 1, 1, 1, 1])))
        [[0 1 1]
         [1 0 0]]
    """
    _, d = _truth_table("minimal_dnf", truth_table)
    rows = np.flatnonzero(_known_table("minimal_dnf", truth_table)).tolist()
    try:
        from sympy import And, Not, Or, false, symbols, true
        from sympy.logic.boolalg import SOPform
    except ImportError:
        raise ImportError(
            "minimal_dnf: expected sympy, which boolean_network(minimise=True) also needs, got none. Run pip install "
            "sympy."
        ) from None

    variables = list(symbols(f"x1:{d + 1}"))
    formula = SOPform(variables, rows)
    conjunctions = [] if formula == false else Or.make_args(formula)
    terms = np.zeros((len(conjunctions), d), int)
    for term, conjunction in zip(terms, conjunctions, strict=True):
        for literal in () if conjunction == true else And.make_args(conjunction):
            positive = not isinstance(literal, Not)
            term[variables.index(literal if positive else literal.args[0])] = 1 if positive else -1
    return terms[np.lexsort(terms.T[::-1])]


def _bits(d: int) -> np.ndarray:
    return np.arange(2**d)[:, None] >> np.arange(d)[::-1] & 1


def _two_layers(hidden: Params, outer: Params) -> Built:
    net = serial(*(dense(p["b"].shape[0], heaviside) for p in (hidden, outer)))
    return Built(net, (hidden, outer), ((), ()))


def _truth_table(where: str, table: Any) -> tuple[jax.Array, int]:
    """The checked truth table [2^d] of one function, and d."""
    tables, d = lecture_checks.truth_tables(where, table)
    if tables.ndim != 1:
        raise ValueError(
            f"{where}: expected the truth table [2^d] of one function, got shape {tables.shape}. For several, jax.vmap "
            f"the function that calls {where}."
        )
    return tables, d


def _known_table(where: str, table: Any) -> np.ndarray:
    """The values of a concrete truth table, on which the shape of the result depends."""
    known = checks.concrete(table)
    if known is None:
        raise TypeError(
            f"{where}: expected a concrete truth table, which determines the number of terms, got one that is traced "
            "here. Call it outside jax.jit and jax.vmap, or build the network without minimise."
        )
    return known
