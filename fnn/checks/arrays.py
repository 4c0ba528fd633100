"""Batches, answers, data and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.checks.numbers import concrete


def is_array(where: str, x: Any) -> None:
    """An array, or a description of one, rather than a list."""
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise TypeError(f"{where} expects an array, got {type(x).__name__}; convert by jnp.asarray")


def features(where: str, x: Any, width: int | None = None) -> None:
    """Objects as a batch [n, features] of floats, of a known width."""
    import chex  # here, for it would be two thirds of what `import fnn` costs

    is_array(where, x)
    try:
        chex.assert_rank(x, 2)
    except AssertionError:
        hint = (
            "give a single object a batch axis, x[None, :]"
            if len(x.shape) < 2
            else "give each object one row by x.reshape(len(x), -1), or map over stacked tasks by jax.vmap"
        )
        raise ValueError(f"{where} expects a batch [n, features], got shape {x.shape}; {hint}") from None
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{where} expects floats, got {x.dtype}; convert by x.astype(jnp.float32)")
    if width is not None and x.shape[1] != width:
        raise ValueError(
            f"{where} takes {width} features in all, got {x.shape[1]} (x has shape {x.shape}); "
            "make its numbers of features add up to the width of x"
        )


def fits(where: str, x: Any, params: Any, names: Sequence[str]) -> None:
    """Objects that fit a layer's own params: these leaves, the first of them as long as x is wide, one dtype."""
    features(where, x)
    if not isinstance(params, dict) or set(params) != set(names):
        got = set(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(f"{where} takes params {set(names)}, got {got}; pass the params that its own init made")
    first = params[names[0]]
    if x.shape[1] != first.shape[0]:
        raise ValueError(
            f"{where} was initialised for {first.shape[0]} features, got {x.shape[1]} (x has shape {x.shape}); "
            "initialise the network with an x of this width"
        )
    if x.dtype != first.dtype:
        raise TypeError(
            f"{where} has {first.dtype} parameters and got {x.dtype} objects; convert one: "
            f"x.astype(jnp.{first.dtype}), or initialise with an x of {x.dtype}"
        )


def equal_slices(where: str, x: Any, count: int) -> int:
    """A width of features that so many equal slices make up; the width of one."""
    features(where, x)
    if x.shape[1] % count:
        raise ValueError(
            f"{where} cuts x into {count} equal slices, and its width {x.shape[1]} is no multiple of {count} (x has "
            f"shape {x.shape}); take slices of different widths by columns"
        )
    return x.shape[1] // count


def error(where: str, got: Any, n: int, width: int) -> None:
    """The error that arrives at a layer has the shape of what the layer put out."""
    if jnp.shape(got) != (n, width):
        raise ValueError(
            f"{where}.backward expects an error of its output's shape {(n, width)}, got {jnp.shape(got)}; "
            "pass ∂L/∂y for the y of the forward pass that left this tape"
        )


def curvature(where: str, error: Any, c: Any, n: int, width: int) -> None:
    """The error and the curvature that arrive at a layer, either the diagonal or one matrix an object."""
    if jnp.shape(error) != (n, width) or jnp.shape(c) not in ((n, width), (n, width, width)):
        raise ValueError(
            f"{where}.curve expects an error of its output's shape {(n, width)} and a curvature {(n, width)} (the "
            f"diagonal) or {(n, width, width)} (exact), got {jnp.shape(error)} and {jnp.shape(c)}; pass ∂L/∂y and "
            "∂²L/∂y² for the y of the forward pass that left this tape"
        )


def batch_of_several(where: str, x: Any) -> int:
    """Batch statistics need two objects or more."""
    if x.shape[0] < 2:
        raise ValueError(
            f"{where} takes statistics over a batch and needs at least 2 objects to train, got {x.shape[0]}; "
            "enlarge the batch, or use net.apply for the application stage"
        )
    return x.shape[0]


def weight_shape(where: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape (inputs, outputs) of a weight matrix, neither of them empty."""
    if len(shape) != 2 or min(shape) < 1:
        hint = "; biases [o] tell no number of inputs: take b=uniform(bound), or zeros()" if len(shape) == 1 else ""
        raise ValueError(f"{where} fills weight matrices of shape (inputs, outputs), both >= 1, got {shape}{hint}")
    return shape[0], shape[1]


def scores(where: str, a: Any) -> None:
    """A network's output [n, M] of floats."""
    if jnp.ndim(a) != 2 or not jnp.issubdtype(jnp.result_type(a), jnp.floating):
        raise ValueError(
            f"{where} expects the network's output a as floats [n, M], got {jnp.result_type(a)} of shape {jnp.shape(a)}"
        )


def answers(where: str, a: Any, y: Any, allowed: Sequence[int] | None = None) -> None:
    """Answers [n, M] beside outputs [n, M]; for one output [n] will do; `allowed` names labels."""
    scores(where, a)
    wanted, shape = jnp.shape(a), jnp.shape(y)
    if shape != wanted and not (wanted[1] == 1 and shape == wanted[:1]):
        also = f" (or {wanted[:1]})" if wanted[1] == 1 else ""
        raise ValueError(
            f"{where} expects y of shape {wanted}{also} as the output a, got {shape}; reshape y, or make the "
            "last layer as wide as there are answers"
        )
    known = concrete(y)
    if allowed is not None and known is not None and not np.isin(known, allowed).all():
        strange = np.unique(known[~np.isin(known, allowed)])[:5].tolist()
        low, high = min(allowed), max(allowed)
        hint = "turn labels 0, 1 into them by 2 * y - 1" if low < 0 else "turn labels -1, 1 into them by (y + 1) / 2"
        raise ValueError(f"{where} expects labels {low} and {high}, got also {strange}; {hint}")
    if allowed is None and jnp.result_type(y) != jnp.result_type(a):
        raise TypeError(
            f"{where} expects y of a's dtype {jnp.result_type(a)}, got {jnp.result_type(y)}; convert by y.astype"
        )


def classes(where: str, a: Any, y: Any) -> None:
    """Integer labels [n] in 0..M−1 beside logits [n, M]."""
    scores(where, a)
    n, m = jnp.shape(a)
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        raise TypeError(
            f"{where} expects integer labels, got {jnp.result_type(y)} of shape {jnp.shape(y)}; "
            f"{_towards_labels(y, (n, m))}"
        )
    if jnp.shape(y) != (n,):
        raise ValueError(
            f"{where} expects one label per object, y of shape ({n},), got {jnp.shape(y)}; {_towards_labels(y, (n, m))}"
        )
    known = concrete(y)
    if known is not None and known.size and (known.min() < 0 or known.max() >= m):
        raise ValueError(
            f"{where} expects labels 0..{m - 1} for {m} outputs, got {known.min()}..{known.max()}; "
            "number the classes from 0 or widen the last layer"
        )


def _towards_labels(y: Any, rows: tuple[int, int]) -> str:
    """How to make labels of y, if that loses nothing."""
    if jnp.shape(y) != rows or rows[1] == 1:
        return "convert by y.astype(int), a column by y[:, 0]"
    known = concrete(y)
    if known is None:
        return "turn one-hot rows into labels by y.argmax(1), which would lose shares of classes"
    if np.isin(known, (0, 1)).all() and (known.sum(1) == 1).all():
        return "turn one-hot rows into labels by y.argmax(1)"
    return (
        "these rows are not one-hot, and y.argmax(1) would lose what they say: pass a Loss of your own for shares of "
        "classes, whose slope is softmax(a) − y, or binary_cross_entropy for yes or no in each class"
    )


def batch(pair: Any) -> tuple[Any, Any]:
    """A batch (x, y) of equally many objects, at least one."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"a batch is a pair (x, y), got {type(pair).__name__}; pass (x, y)")
    x, y = pair
    is_array("x of a batch (x, y)", x)
    is_array("y of a batch (x, y)", y)
    if jnp.ndim(x) == 0 or jnp.ndim(y) == 0 or x.shape[0] != y.shape[0] or x.shape[0] == 0:
        raise ValueError(
            f"a batch holds as many objects as answers, at least one, got x of shape {jnp.shape(x)} "
            f"and y of shape {jnp.shape(y)}"
        )
    return x, y


def data(x: Any, y: Any) -> int:
    """A sample (x, y) of equally many objects, not empty and, where it can be seen, free of NaN.

    Memory-mapped arrays are not searched for NaN, which would read all of the file.
    """
    for name, part in (("x", x), ("y", y)):
        if not hasattr(part, "shape") or not part.shape:
            raise TypeError(f"data must be (x, y), two arrays, got {type(part).__name__} for {name}")
    size = x.shape[0]
    if size == 0:
        raise ValueError("data is empty: x has 0 objects; at least one is needed")
    if y.shape[0] != size:
        raise ValueError(f"data has {size} objects in x and {y.shape[0]} answers in y; they must pair")
    for name, part in (("x", x), ("y", y)):
        known = None if isinstance(part, np.memmap) else concrete(part)
        if known is not None and jnp.issubdtype(known.dtype, jnp.inexact) and not np.isfinite(known).all():
            bad = int((~np.isfinite(known.reshape(size, -1)).all(1)).sum())
            raise ValueError(f"data has NaN or infinity in {name} ({bad} of {size} objects); clean or impute first")
    return size


def seeds(keys: Any) -> int:
    """A stack of keys, one a run."""
    if not hasattr(keys, "dtype"):
        raise TypeError(f"keys must be an array of keys, jax.random.split(key, 32), got {type(keys).__name__}")
    rank = keys.ndim if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else keys.ndim - 1
    if rank != 1:
        raise ValueError(
            f"keys must be a stack of keys, one a run, got shape {keys.shape}; jax.random.split(key, 32) makes one"
        )
    if keys.shape[0] == 0:
        raise ValueError("keys is empty: a sweep needs at least one run")
    return keys.shape[0]
