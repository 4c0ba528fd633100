"""Literal weights of a neuron, params of layers of neurons, and the lecture's matrices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.checks.arrays import is_array


def literal(where: str, w: Any, w_0: Any) -> tuple[jax.Array, jax.Array]:
    """Weights [d] of floats and a threshold w_0, a number or an array [] of their dtype."""
    is_array(f"{where}: w", w)
    if len(w.shape) != 1 or w.shape[0] == 0 or jnp.shape(w_0) != ():
        raise ValueError(
            f"{where} takes the weights of one neuron, w [d] and a number w_0, got shapes {w.shape} and "
            f"{jnp.shape(w_0)}; a layer of neurons is made of the lecture's matrix by from_lecture"
        )
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise TypeError(f"{where} takes weights w of floats, got {w.dtype}; convert by w.astype(float)")
    if hasattr(w_0, "dtype") and w_0.dtype != w.dtype:
        raise TypeError(f"{where} takes w and w_0 of one dtype, got {w.dtype} and {w_0.dtype}; convert by astype")
    return jnp.asarray(w), jnp.asarray(w_0, w.dtype)


def is_neurons(leaf: Any) -> bool:
    """The params of a `linear` or `dense` layer."""
    return isinstance(leaf, dict) and set(leaf) == {"w", "b"}


def neurons(where: str, leaf: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """w [..., i, o] and b [..., o] that fit together, of one dtype."""
    w, b = jnp.asarray(leaf["w"]), jnp.asarray(leaf["b"])
    if w.ndim < 2 or b.shape != (*w.shape[:-2], w.shape[-1]):
        raise ValueError(
            f"{where} takes layers of neurons with w [i, o] and b [o], got shapes {w.shape} and {b.shape}; pass the "
            "params that the network's own init made"
        )
    if w.dtype != b.dtype:
        raise TypeError(f"{where} takes w and b of one dtype, got {w.dtype} and {b.dtype}; convert one by astype")
    return w, b


def is_matrix(where: str, leaf: Any) -> jax.Array:
    """A matrix [..., inputs + 1, o]: a row of thresholds and one for each input, at least one."""
    is_array(where, leaf)
    if len(leaf.shape) < 2 or leaf.shape[-2] < 2:
        raise ValueError(
            f"{where} takes matrices (inputs + 1) × o with the row of w_0 first, got an array of shape {leaf.shape}; "
            "to_lecture makes them"
        )
    return jnp.asarray(leaf)


def no_bare_array(where: str, leaf: Any) -> None:
    """Params name their arrays, so that an array alone can stand for a layer's matrix."""
    if not isinstance(leaf, dict):
        raise ValueError(
            f"{where} takes params whose arrays have names, {{'w': [i, o], 'b': [o]}}, got {type(leaf).__name__} of "
            f"shape {jnp.shape(leaf)} without one; is it a lecture matrix already? Then from_lecture takes it"
        )


def no_neurons(where: str, leaf: dict[str, Any]) -> None:
    """Among matrices there are no layers of neurons as params."""
    if is_neurons(leaf):
        raise ValueError(
            f"{where} takes the lecture's matrices, got the params {{'w', 'b'}} of a layer of neurons; they are params "
            "already, and to_lecture makes matrices of them"
        )
