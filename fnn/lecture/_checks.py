"""Checks that several of the lecture's constructions share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks


def truth_tables(where: str, tables: Any) -> tuple[jax.Array, int]:
    """The values 0 and 1 of functions of d variables, [..., 2^d], and their d."""
    checks.is_array(where, tables)
    rows = tables.shape[-1] if tables.shape else 0
    d = rows.bit_length() - 1
    if rows < 2 or rows != 2**d:
        raise ValueError(
            f"{where} takes truth tables [..., 2^d] with a value for each of the 2^d inputs, d >= 1, got shape "
            f"{tables.shape}; fnn.lecture.binary_inputs(d) says their order"
        )
    known = checks.concrete(tables)
    if known is not None and not np.isin(known, (0, 1)).all():
        strange = np.unique(known[~np.isin(known, (0, 1))])[:5].tolist()
        raise ValueError(f"{where} takes truth tables of 0 and 1, got also {strange}; turn -1, 1 into them by t > 0")
    tables = jnp.asarray(tables)
    return tables.astype(int) if tables.dtype == bool else tables, d


def half_spaces(where: str, normals: Any, offsets: Any) -> tuple[jax.Array, jax.Array]:
    """The inequalities ⟨x, normal_k⟩ > offset_k: normals [m, d] and offsets [m], floats of one dtype, no normal 0."""
    checks.is_array(f"{where}: normals", normals)
    checks.is_array(f"{where}: offsets", offsets)
    normals, offsets = jnp.asarray(normals), jnp.asarray(offsets)
    if normals.ndim != 2 or 0 in normals.shape or offsets.shape != normals.shape[:1]:
        raise ValueError(
            f"{where} takes m inequalities in d dimensions as normals [m, d] and offsets [m], got shapes "
            f"{normals.shape} and {offsets.shape}; give one row and one offset for each inequality, at least one"
        )
    if not jnp.issubdtype(normals.dtype, jnp.floating) or offsets.dtype != normals.dtype:
        raise TypeError(
            f"{where} takes normals and offsets as floats of one dtype, got {normals.dtype} and {offsets.dtype}; "
            "convert by astype"
        )
    for name, known in (("normals", checks.concrete(normals)), ("offsets", checks.concrete(offsets))):
        if known is not None and not np.isfinite(known.astype(np.float64)).all():
            raise ValueError(f"{where} takes finite {name}, got {known.tolist()}; leave an inequality out instead")
    known = checks.concrete(normals)
    if known is not None and not known.any(axis=1).all():
        rows = np.flatnonzero(~known.any(axis=1)).tolist()
        raise ValueError(f"{where}: a normal of zeros bounds no half-space, got one in row {rows}; leave it out")
    return normals, offsets


def known_half_spaces(where: str, normals: Any, offsets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Half-spaces whose numbers can be looked at, as float64, which holds those of every float exactly."""
    checked = half_spaces(where, normals, offsets)
    known = [checks.concrete(array) for array in checked]
    if known[0] is None or known[1] is None:
        raise TypeError(
            f"{where} looks at the numbers of the half-spaces, and these are traced; call it outside of jit"
        )
    return known[0].astype(np.float64), known[1].astype(np.float64)


def single_output(where: str, net: Any, a: Any) -> None:
    """A network that approximates a function has one output."""
    if jnp.ndim(a) != 2 or a.shape[1] != 1:
        raise ValueError(f"{where} takes a network with one output [n, 1], got {a.shape} of {net}; end it by linear(1)")
