"""Checks shared by many modules, each with its message: what was expected, what was given, what to do.

Shapes and dtypes are checked at trace time. Values (rates, NaN) can be checked only if they are concrete; a traced
value passes, and where it matters the numerics then give NaN instead of a plausible number. A check that only
one function needs stands beside that function; one shared within a package, in that package's `_checks`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnn.core.errors import Unsupported
from fnn.core.types import Activation, Layer, Loss, Optimizer


def is_array(where: str, x: Any) -> None:
    """Raise TypeError unless x is an array or a description of one."""
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise TypeError(f"{where}: expected an array, got {type(x).__name__}. Convert by jnp.asarray.")


_AXES = "Give a single example a batch axis, x[None, :], and a single feature an axis, x[:, None]."


def features(where: str, x: Any, width: int | None = None) -> None:
    """Raise unless x is a batch [n, …, features] of floats, of the given width if there is one."""
    is_array(where, x)
    if len(x.shape) < 2:
        raise ValueError(f"{where}: expected a batch [n, …, features], got shape {x.shape}. {_AXES}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{where}: expected floats, got {x.dtype}. Convert by x.astype(jnp.float32).")
    if width is not None and x.shape[-1] != width:
        raise ValueError(
            f"{where}: expected {width} features in total, got {x.shape[-1]} (x has shape {x.shape}). "
            "Make its numbers of features add up to the width of x."
        )


def rows(where: str, x: Any, width: int | None = None) -> None:
    """Raise unless x is a batch [n, features] of floats without positions, of the given width if there is one."""
    is_array(where, x)
    if len(x.shape) != 2:
        hint = (
            _AXES
            if len(x.shape) < 2
            else "Give each example one row by x.reshape(len(x), -1), or map over stacked tasks by jax.vmap."
        )
        raise ValueError(f"{where}: expected a batch [n, features], got shape {x.shape}. {hint}")
    features(where, x, width)


def examples(where: str, batch: Any) -> int:
    """The number of examples, the first axis of every leaf of a pytree; raises unless all agree and there is one."""
    leaves = {leaf_of_batch(path, batch): leaf for path, leaf in jax.tree.leaves_with_path(batch)}
    if not leaves:
        raise TypeError(f"{where}: expected a pytree of arrays [n, …], got {shown(batch)}. Pass (x, y).")
    for name, leaf in leaves.items():
        if not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(
                f"{where}: expected arrays, such as (x, y), got {type(leaf).__name__} for {name}. Convert lists by "
                "jnp.asarray."
            )
        if not leaf.shape:
            raise ValueError(f"{where}: expected examples [n, …] in {name}, got a scalar. Give it an example axis.")
    sizes = {leaf.shape[0] for leaf in leaves.values()}
    size = max(sizes)
    if len(sizes) > 1 or size == 0:
        got = " and ".join(f"{name} of shape {leaf.shape}" for name, leaf in leaves.items())
        raise ValueError(
            f"{where}: expected equally many examples in all arrays, at least one, got {got}. Give every example one "
            "entry in each."
        )
    return size


def leaf_of_batch(path: Any, batch: Any) -> str:
    """The name of a leaf of a batch for messages: x, y['mask'], weight; its path where the batch is no (x, y)."""
    names = ("x", "y", "weight")
    is_usual = isinstance(batch, tuple | list) and not hasattr(batch, "_fields") and len(batch) in (2, 3)
    rest = jax.tree_util.keystr(path[1:] if is_usual else path)
    return f"{names[path[0].idx]}{rest}" if is_usual else f"batch{rest}"


def weights(where: str, weight: Any, size: int) -> None:
    """Raise unless there are weights [n], floats that are finite and not negative where they are concrete."""
    if jnp.shape(weight) != (size,):
        raise ValueError(
            f"{where}: expected one weight for each of {size} examples, got shape {jnp.shape(weight)}. Reshape it to "
            f"({size},)."
        )
    if not jnp.issubdtype(jnp.result_type(weight), jnp.floating):
        raise TypeError(f"{where}: expected weights of floats, got {jnp.result_type(weight)}. Convert by astype.")
    known = concrete(weight)
    if known is not None and not (np.isfinite(known.astype(np.float64)) & (known >= 0)).all():
        raise ValueError(f"{where}: expected finite weights >= 0, got others. Clip or drop them.")


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None if it is traced, or divided over other processes too."""
    if isinstance(value, Tracer):
        return None
    is_elsewhere = isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated)
    return None if is_elsewhere else np.asarray(value)


def shown(value: Any) -> str:
    """The repr of a value, or its type if the repr would be too long for a message."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def number(name: str, value: Any, allowed: Callable[[Any], Any], expected: str) -> None:
    """Raise unless a hyper-parameter is a scalar in its range; a tracer passes, a schedule does not."""
    if callable(value):
        raise TypeError(f"{name} must be {expected}, got a function. Pass a number: only a learning rate may vary.")
    if isinstance(value, str) or hasattr(value, "_fields"):
        raise TypeError(f"{name} must be a number, {expected}, got {shown(value)}")
    if np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be one number, {expected}, got an array of shape {np.shape(value)}. "
            "To try several values, build the optimizer or network inside the function that jax.vmap "
            "or fnn.sweep maps."
        )
    known = concrete(value)
    if known is None:
        return
    if known.dtype == bool or not (np.issubdtype(known.dtype, np.number) or known.dtype.kind == "V"):
        raise TypeError(f"{name} must be a number, {expected}, got {shown(value)}")
    if not allowed(float(known)):
        raise ValueError(f"{name} must be {expected}, got {shown(value)}")


def fraction(name: str, value: Any) -> None:
    """Raise unless the value is a probability or decay in [0, 1)."""
    number(name, value, lambda v: 0 <= v < 1, "in [0, 1)")


def positive(name: str, value: Any) -> None:
    """Raise unless the value is a finite number above zero."""
    number(name, value, lambda v: 0 < v < np.inf, "a finite number > 0")


def not_negative(name: str, value: Any) -> None:
    """Raise unless the value is a finite number, at least zero."""
    number(name, value, lambda v: 0 <= v < np.inf, "a finite number >= 0")


def finite(name: str, value: Any) -> None:
    """Raise unless the value is a finite number."""
    number(name, value, np.isfinite, "a finite number")


def count(name: str, value: Any, least: int = 1) -> int:
    """The value as an int; raises unless it is a whole number of at least `least`."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {shown(value)}") from None
    if isinstance(value, bool) or whole < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {shown(value)}")
    return whole


def is_layer(where: str, value: Any) -> None:
    """Raise TypeError unless the value is a layer, with a hint for what is often passed in its place."""
    if isinstance(value, Layer):
        return
    hint = "Make a layer by a factory: dense(10, tanh)."
    if callable(value):
        hint = "Call the factory (dense(10, tanh), not dense), or wrap a function in from_function."
    elif isinstance(value, Activation):
        hint = f"Make a layer of an activation by activate({value})."
    elif isinstance(value, Loss):
        hint = "Pass a loss to trainer, objective or backprop; it is not part of the network."
    elif isinstance(value, list | tuple):
        hint = f"Unpack a sequence of layers: {where}(*layers)."
    raise TypeError(f"{where}: expected layers, got {shown(value)}. {hint}")


def is_loss(value: Any) -> None:
    """Raise TypeError unless the value is a loss."""
    if not isinstance(value, Loss):
        raise TypeError(
            f"loss must be an fnn Loss such as fnn.softmax_cross_entropy, got {shown(value)}. "
            "Make your own by Loss(label, value, slope, curvature)."
        )


def is_optimizer(where: str, value: Any) -> None:
    """Raise TypeError unless the value has init and update, as the pairs of fnn and of optax have."""
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise TypeError(
            f"{where}: expected optimizers, pairs with .init and .update, got {shown(value)}. "
            "Call the factory first: adam(1e-3), not adam."
        )


def role(optimizer: Any) -> tuple[str | None, str | None]:
    """The ``takes`` and ``steps`` of an optimizer; None and None for a pair from another library."""
    return (optimizer.takes, optimizer.steps) if isinstance(optimizer, Optimizer) else (None, None)


def is_function(name: str, value: Any) -> None:
    """Raise TypeError unless the value is callable."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")


def curve_of(layer: Layer) -> Callable[..., Any]:
    """The layer's `curve`; raises Unsupported if it has none."""
    if layer.curve is None:
        raise Unsupported(
            f"{layer} has no `curve`, the pass that carries second derivatives. Write one (see fnn.Layer), make the "
            "layer by from_function, whose second derivatives are automatic, or use fnn.derivatives.ggn_diagonal."
        )
    return layer.curve


def floats(where: str, name: str, tree: Any) -> None:
    """Raise TypeError unless the leaves of a pytree are arrays of floats."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{where}: expected {name} of floats, got {jnp.result_type(leaf)} at "
                f"{name}{jax.tree_util.keystr(path)}. Leave out what is not trained, or convert by astype."
            )


def same_structure(where: str, name: str, value: Any, like_name: str, like: Any) -> None:
    """Raise ValueError unless two pytrees have the same structure and the same leaf shapes."""
    if jax.tree.structure(value) != jax.tree.structure(like):
        raise ValueError(
            f"{where}: {name} and {like_name} differ in structure:\n  {name}: {jax.tree.structure(value)}\n"
            f"  {like_name}: {jax.tree.structure(like)}\nGive {name} the structure of {like_name}."
        )
    for (path, v), k in zip(jax.tree.leaves_with_path(value), jax.tree.leaves(like), strict=True):
        if jnp.shape(v) != jnp.shape(k):
            at = jax.tree_util.keystr(path)
            is_path = not at or at.startswith(("[", "."))
            place = f"{name}{at}" if is_path else f"{name} at {at}"
            raise ValueError(f"{where}: {place} has shape {jnp.shape(v)}, but {like_name} has {jnp.shape(k)} there")
