"""Checks shared by several of the lecture's constructions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks


def truth_tables(where: str, tables: Any) -> tuple[jax.Array, int]:
    """Checked truth tables [..., 2^d] of functions of d variables, and d."""
    checks.is_array(where, tables)
    rows = tables.shape[-1] if tables.shape else 0
    d = rows.bit_length() - 1
    if rows < 2 or rows != 2**d:
        raise ValueError(
            f"{where}: expected truth tables [..., 2^d] with a value for each of the 2^d inputs, d >= 1, got shape "
            f"{tables.shape}. Order the values as in fnn.lecture.binary_inputs(d)."
        )
    known = checks.concrete(tables)
    if known is not None and not np.isin(known, (0, 1)).all():
        others = np.unique(known[~np.isin(known, (0, 1))])[:5].tolist()
        raise ValueError(f"{where}: expected truth tables of 0 and 1, got also {others}. Convert -1, 1 by t > 0.")
    tables = jnp.asarray(tables)
    return tables.astype(int) if tables.dtype == bool else tables, d


def half_spaces(where: str, normals: Any, offsets: Any) -> tuple[jax.Array, jax.Array]:
    """Checked inequalities ⟨x, normal_k⟩ > offset_k: normals [m, d] and offsets [m] of one dtype, no normal 0."""
    checks.is_array(f"{where}: normals", normals)
    checks.is_array(f"{where}: offsets", offsets)
    normals, offsets = jnp.asarray(normals), jnp.asarray(offsets)
    if normals.ndim != 2 or 0 in normals.shape or offsets.shape != normals.shape[:1]:
        raise ValueError(
            f"{where}: expected m inequalities in d dimensions as normals [m, d] and offsets [m], got shapes "
            f"{normals.shape} and {offsets.shape}. Give one row and one offset for each inequality, at least one."
        )
    if not jnp.issubdtype(normals.dtype, jnp.floating) or offsets.dtype != normals.dtype:
        raise TypeError(
            f"{where}: expected normals and offsets as floats of one dtype, got {normals.dtype} and {offsets.dtype}. "
            "Convert by astype."
        )
    for name, known in (("normals", checks.concrete(normals)), ("offsets", checks.concrete(offsets))):
        if known is not None and not np.isfinite(known.astype(np.float64)).all():
            raise ValueError(f"{where}: expected finite {name}, got {known.tolist()}. Leave the inequality out.")
    known = checks.concrete(normals)
    if known is not None and not known.any(axis=1).all():
        rows = np.flatnonzero(~known.any(axis=1)).tolist()
        raise ValueError(f"{where}: expected normals other than 0, got zeros in row {rows}. Leave these rows out.")
    return normals, offsets


def known_half_spaces(where: str, normals: Any, offsets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Checked half-spaces with concrete numbers, as float64, which represents all narrower floats exactly."""
    checked = half_spaces(where, normals, offsets)
    known = [checks.concrete(array) for array in checked]
    if known[0] is None or known[1] is None:
        raise TypeError(f"{where}: expected concrete half-spaces, got traced ones. Call it outside of jit.")
    return known[0].astype(np.float64), known[1].astype(np.float64)


def single_output(where: str, net: Any, a: Any) -> None:
    """Raise ValueError unless the network has one output."""
    if jnp.ndim(a) != 2 or a.shape[1] != 1:
        raise ValueError(
            f"{where}: expected a network with one output [n, 1], got {a.shape} of {net}. End it by linear(1)."
        )
