"""Truth tables, and how many variables they have."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks.arrays import is_array
from fnn.checks.numbers import concrete, count


def truth_table(where: str, table: Any) -> tuple[jax.Array, int]:
    """The values 0 and 1 of one function, [2^d], and its d."""
    tables, d = truth_tables(where, table)
    if tables.ndim != 1:
        raise ValueError(
            f"{where} takes the truth table [2^d] of one function, got shape {tables.shape}; for several, jax.vmap the "
            f"function that calls {where}"
        )
    return tables, d


def truth_tables(where: str, tables: Any) -> tuple[jax.Array, int]:
    """The values 0 and 1 of functions of d variables, [..., 2^d], and their d."""
    is_array(where, tables)
    rows = tables.shape[-1] if tables.shape else 0
    d = rows.bit_length() - 1
    if rows < 2 or rows != 2**d:
        raise ValueError(
            f"{where} takes truth tables [..., 2^d] with a value for each of the 2^d inputs, d >= 1, got shape "
            f"{tables.shape}; fnn.networks.logic.binary_inputs(d) says their order"
        )
    known = concrete(tables)
    if known is not None and not np.isin(known, (0, 1)).all():
        strange = np.unique(known[~np.isin(known, (0, 1))])[:5].tolist()
        raise ValueError(f"{where} takes truth tables of 0 and 1, got also {strange}; turn -1, 1 into them by t > 0")
    tables = jnp.asarray(tables)
    return tables.astype(int) if tables.dtype == bool else tables, d


def known_table(where: str, table: Any) -> np.ndarray:
    """A truth table whose values can be looked at, as an answer's shape depends on them."""
    known = concrete(table)
    if known is None:
        raise TypeError(
            f"{where}: the number of terms depends on the truth table, which is traced here; call it outside jax.jit "
            "and jax.vmap, or build the network without minimise"
        )
    return known


def few_variables(where: str, d: Any, most: int) -> int:
    """As many variables as all threshold functions have been listed for."""
    d = count(f"{where}: the number of variables", d)
    if d > most:
        raise ValueError(
            f"{where} lists the threshold functions of 1 to {most} variables, got {d}; for more, ask a linear program "
            "for weights, one inequality a row of the truth table"
        )
    return d


def separable(where: str, found: jax.Array, tables: jax.Array) -> None:
    """Truth tables of threshold functions, where they can be looked at."""
    known = concrete(found)
    if known is not None and not known.all():
        first = np.asarray(tables)[~known][0].astype(int).tolist() if known.ndim else np.asarray(tables, int).tolist()
        raise ValueError(
            f"{where}: no threshold neuron realises the truth table {first}, which is not linearly separable "
            f"({int((~known).sum())} of {known.size} are not); two layers do: boolean_network"
        )
