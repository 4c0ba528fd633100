"""Half-spaces, polyhedra, grids and functions to approximate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks.arrays import is_array
from fnn.checks.numbers import concrete
from fnn.checks.structures import is_layer


def half_spaces(where: str, normals: Any, offsets: Any) -> tuple[jax.Array, jax.Array]:
    """The inequalities ⟨x, normal_k⟩ > offset_k: normals [m, d] and offsets [m], floats of one dtype, no normal 0."""
    is_array(f"{where}: normals", normals)
    is_array(f"{where}: offsets", offsets)
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
    for name, known in (("normals", concrete(normals)), ("offsets", concrete(offsets))):
        if known is not None and not np.isfinite(known.astype(np.float64)).all():
            raise ValueError(f"{where} takes finite {name}, got {known.tolist()}; leave an inequality out instead")
    known = concrete(normals)
    if known is not None and not known.any(axis=1).all():
        rows = np.flatnonzero(~known.any(axis=1)).tolist()
        raise ValueError(f"{where}: a normal of zeros bounds no half-space, got one in row {rows}; leave it out")
    return normals, offsets


def known_half_spaces(where: str, normals: Any, offsets: Any) -> tuple[np.ndarray, np.ndarray]:
    """Half-spaces whose numbers can be looked at, as float64, which holds those of every float exactly."""
    checked = half_spaces(where, normals, offsets)
    known = [concrete(array) for array in checked]
    if known[0] is None or known[1] is None:
        raise TypeError(
            f"{where} looks at the numbers of the half-spaces, and these are traced; call it outside of jit"
        )
    return known[0].astype(np.float64), known[1].astype(np.float64)


def told_cells(where: str, inside: Any, cells: np.ndarray) -> np.ndarray:
    """Which cells [c, m] a region is made of, bools [c]."""
    if not callable(inside):
        raise TypeError(
            f"{where} takes inside as a function of what the half-spaces say, bools [cells, m] to bools [cells], got "
            f"{inside!r}; write lambda says: says[:, 0] | says[:, 1]"
        )
    told = np.asarray(inside(cells))
    if told.shape != cells.shape[:1] or told.dtype != bool:
        raise ValueError(
            f"{where} takes inside from bools [cells, m] = {cells.shape} to bools [cells], got {told.dtype} of shape "
            f"{told.shape}; join columns by &, | and ~, or rows by .all(axis=1)"
        )
    return told


def told_apart(where: str, neuron: Any, shares: Any, cells: np.ndarray, inside: np.ndarray) -> Any:
    """A neuron that tells the cells inside from those outside; without one, `shares` are the proof that none does."""
    if neuron is not None:
        return neuron
    sums = [
        " + ".join(
            f"{2 * share} of {''.join(map(str, cell.astype(int)))}"
            for share, cell, within in zip(shares, cells, inside, strict=True)
            if share and within == side
        )
        for side in (True, False)
    ]
    raise ValueError(
        f"{where}: no neuron tells the region's cells from the others, for what the half-spaces say in it, {sums[0]}, "
        f"makes the same mean as outside of it, {sums[1]}; take three layers, by "
        "union, or a first layer of other half-spaces"
    )


def exact_in(where: str, weights: Any, dtype: Any) -> None:
    """Whole weights, the threshold in halves, whose sums a dtype holds without rounding."""
    digits = jnp.finfo(dtype).nmant + 1
    if 2 * sum(map(abs, weights)) >= 2**digits:
        raise ValueError(
            f"{where}: the neuron needs whole weights {weights}, whose sums {np.dtype(dtype)} with its {digits} bits "
            "rounds; give normals and offsets as float64"
        )


def polyhedra(where: str, pairs: Any) -> list[tuple[jax.Array, jax.Array]]:
    """A sequence of pairs (normals [m_k, d], offsets [m_k]), at least one, of one d and dtype."""
    if not isinstance(pairs, Sequence) or not pairs or not all(isinstance(p, tuple) and len(p) == 2 for p in pairs):
        raise TypeError(
            f"{where} takes a list of pairs (normals [m, d], offsets [m]), at least one, got {type(pairs).__name__} of "
            f"{[type(p).__name__ for p in pairs] if isinstance(pairs, Sequence) else '?'}; for one polyhedron write "
            "[(normals, offsets)]"
        )
    checked = [half_spaces(f"{where}: polyhedron {k}", *pair) for k, pair in enumerate(pairs)]
    kinds = [(normals.shape[1], str(normals.dtype)) for normals, _ in checked]
    if len(set(kinds)) > 1:
        raise ValueError(f"{where} takes polyhedra of one dimension and dtype, got {kinds}; make them equal")
    return checked


def threshold_network(where: str, net: Any, params: Any) -> None:
    """A network with params of dense layers, one after another."""
    is_layer(where, net)
    dense = isinstance(params, tuple) and all(isinstance(p, dict) and {"w"} <= set(p) <= {"w", "b"} for p in params)
    if not dense or not params:
        raise ValueError(
            f"{where} takes a network of threshold neurons in layers, with params ({{'w', 'b'}}, …), got {net} with "
            f"params {jax.tree.structure(params)}; make one by half_space, convex_polyhedron or union"
        )


def knots(where: str, values: Any) -> jax.Array:
    """Two or more knots [H] of floats, increasing."""
    is_array(f"{where}: knots", values)
    values = jnp.asarray(values)
    if values.ndim != 1 or len(values) < 2 or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"{where} takes two or more knots as floats [H], got {values.dtype} of shape {values.shape}; "
            "jnp.linspace(0, 1, 17) makes some"
        )
    known = concrete(values)
    if known is not None and not (np.diff(known) > 0).all():
        raise ValueError(f"{where} takes knots that increase strictly, got {known.tolist()}; sort them by jnp.unique")
    return values


def values_of(where: str, f: Any, x: jax.Array) -> jax.Array:
    """f at the points x [n, d], which must be [n] in x's dtype."""
    if not callable(f):
        raise TypeError(f"{where} takes f as a function from points [n, d] to values [n], got {f!r}")
    y: Any = f(x)
    if jnp.shape(y) != x.shape[:1] or jnp.result_type(y) != x.dtype:
        raise ValueError(
            f"{where} takes f from points [n, d] to values [n] of their dtype, got {jnp.result_type(y)} of shape "
            f"{jnp.shape(y)} for points {x.dtype} of shape {x.shape}; write f of one coordinate j as x[:, j], and "
            "return one number for each point"
        )
    return jnp.asarray(y)


def single_output(where: str, net: Any, a: Any) -> None:
    """A network that approximates a function has one output."""
    if jnp.ndim(a) != 2 or a.shape[1] != 1:
        raise ValueError(f"{where} takes a network with one output [n, 1], got {a.shape} of {net}; end it by linear(1)")


def one_variable(where: str, layer: Any) -> None:
    """A layer from one feature to one."""
    is_layer(where, layer)

    def output(x: jax.Array) -> jax.Array:
        params, state = layer.init(jax.random.key(0), x)
        return layer.apply(params, state, x)

    y = jax.eval_shape(output, jax.ShapeDtypeStruct((2, 1), jnp.float32))
    if y.shape != (2, 1):
        raise ValueError(
            f"{where} takes a layer of one variable, from [n, 1] to [n, 1], got one to [n, {y.shape[-1]}]: {layer}; "
            "end it by linear(1)"
        )
