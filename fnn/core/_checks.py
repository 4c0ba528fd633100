"""The checks that many modules share, each with its message: what was expected, what came, what to do.

Shapes and dtypes are checked at trace time. Values (rates, NaN) can only be checked where they are concrete; a traced
value passes, and where it matters the numerics then give NaN instead of a plausible number. A check that only
one function needs stands beside that function; one that a single package shares, in that package's `_checks`.
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
    """An array, or a description of one, rather than a list."""
    if not (hasattr(x, "shape") and hasattr(x, "dtype")):
        raise TypeError(f"{where} expects an array, got {type(x).__name__}; convert by jnp.asarray")


def features(where: str, x: Any, width: int | None = None) -> None:
    """Examples as a batch [n, features] of floats, of a known width."""
    is_array(where, x)
    if len(x.shape) != 2:
        hint = (
            "give a single example a batch axis, x[None, :]"
            if len(x.shape) < 2
            else "give each example one row by x.reshape(len(x), -1), or map over stacked tasks by jax.vmap"
        )
        raise ValueError(f"{where} expects a batch [n, features], got shape {x.shape}; {hint}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{where} expects floats, got {x.dtype}; convert by x.astype(jnp.float32)")
    if width is not None and x.shape[1] != width:
        raise ValueError(
            f"{where} takes {width} features in all, got {x.shape[1]} (x has shape {x.shape}); "
            "make its numbers of features add up to the width of x"
        )


def batch(pair: Any) -> tuple[Any, Any]:
    """A batch (x, y) of equally many examples, at least one."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"a batch is a pair (x, y), got {type(pair).__name__}; pass (x, y)")
    x, y = pair
    is_array("x of a batch (x, y)", x)
    is_array("y of a batch (x, y)", y)
    if jnp.ndim(x) == 0 or jnp.ndim(y) == 0 or x.shape[0] != y.shape[0] or x.shape[0] == 0:
        raise ValueError(
            f"a batch holds as many examples as targets, at least one, got x of shape {jnp.shape(x)} "
            f"and y of shape {jnp.shape(y)}"
        )
    return x, y


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where it is traced and cannot be looked at."""
    return None if isinstance(value, Tracer) else np.asarray(value)


def shown(value: Any) -> str:
    """The value as it prints, or its type where that would bury the message."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def number(name: str, value: Any, allowed: Callable[[Any], Any], expected: str) -> None:
    """A hyper-parameter is a scalar in its range; tracers are taken on trust, schedules are not."""
    if callable(value):
        raise TypeError(f"{name} must be {expected}, got a function; only a learning rate may be one")
    if isinstance(value, str) or hasattr(value, "_fields"):
        raise TypeError(f"{name} must be a number, {expected}, got {shown(value)}")
    if np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be one number, {expected}, got an array of shape {np.shape(value)}; "
            "to try several values, build the optimizer or network inside the function that jax.vmap "
            "or fnn.sweep maps"
        )
    known = concrete(value)
    if known is None:
        return
    if known.dtype == bool or not (np.issubdtype(known.dtype, np.number) or known.dtype.kind == "V"):
        raise TypeError(f"{name} must be a number, {expected}, got {shown(value)}")
    if not allowed(float(known)):
        raise ValueError(f"{name} must be {expected}, got {shown(value)}")


def fraction(name: str, value: Any) -> None:
    """A probability or decay in [0, 1)."""
    number(name, value, lambda v: 0 <= v < 1, "in [0, 1)")


def positive(name: str, value: Any) -> None:
    """A finite number above zero."""
    number(name, value, lambda v: 0 < v < np.inf, "a finite number > 0")


def not_negative(name: str, value: Any) -> None:
    """A finite number, zero allowed."""
    number(name, value, lambda v: 0 <= v < np.inf, "a finite number >= 0")


def finite(name: str, value: Any) -> None:
    """A finite number of either sign."""
    number(name, value, np.isfinite, "a finite number")


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, returned as an int."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {shown(value)}") from None
    if isinstance(value, bool) or whole < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {shown(value)}")
    return whole


def is_layer(where: str, value: Any) -> None:
    """A layer, with a hint for the two things most often passed in its place."""
    if isinstance(value, Layer):
        return
    hint = "make one by a factory: dense(10, tanh)"
    if callable(value):
        hint = "call the factory (dense(10, tanh), not dense), or wrap a function in from_function"
    elif isinstance(value, Activation):
        hint = f"an activation becomes a layer by activate({value})"
    elif isinstance(value, Loss):
        hint = "a loss is no part of the network: give it to trainer, objective or backprop"
    elif isinstance(value, list | tuple):
        hint = f"unpack a sequence of layers: {where}(*layers)"
    raise TypeError(f"{where} takes layers, got {shown(value)}; {hint}")


def is_loss(value: Any) -> None:
    """A loss, with a hint for a plain function."""
    if not isinstance(value, Loss):
        raise TypeError(
            f"loss must be an fnn Loss such as fnn.softmax_cross_entropy, got {shown(value)}; "
            "make your own by Loss(label, value, slope, curvature)"
        )


def is_optimizer(where: str, value: Any) -> None:
    """Anything with init and update: fnn's own pairs and optax's."""
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise TypeError(
            f"{where} takes optimizers, pairs with .init and .update, got {shown(value)}; "
            "call the factory first: adam(1e-3), not adam"
        )


def role(optimizer: Any) -> tuple[str | None, str | None]:
    """At which leaves an optimizer takes gradients and makes steps of them; None, None of pairs that are not fnn's."""
    return (optimizer.takes, optimizer.steps) if isinstance(optimizer, Optimizer) else (None, None)


def is_function(name: str, value: Any) -> None:
    """A function of the user's."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")


def curve_of(layer: Layer) -> Callable[..., Any]:
    """The layer's `curve`, which a layer of the user's may lack."""
    if layer.curve is None:
        raise Unsupported(
            f"{layer} has no `curve`, the walk that carries second derivatives; write one (see fnn.Layer), or make the "
            "layer by from_function, whose second derivatives are automatic"
        )
    return layer.curve


def floats(where: str, name: str, tree: Any) -> None:
    """A pytree whose leaves are arrays of floats."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{where} expects {name} of floats, got {jnp.result_type(leaf)} at {name}{jax.tree_util.keystr(path)}; "
                "leave out what is not trained, or convert by astype"
            )


def same_structure(where: str, name: str, value: Any, like_name: str, like: Any) -> None:
    """Two pytrees of one structure and the same leaf shapes."""
    if jax.tree.structure(value) != jax.tree.structure(like):
        raise ValueError(
            f"{where}: {name} and {like_name} differ in structure:\n  {name}: {jax.tree.structure(value)}\n"
            f"  {like_name}: {jax.tree.structure(like)}\ngive {name} the structure of {like_name}"
        )
    for (path, v), k in zip(jax.tree.leaves_with_path(value), jax.tree.leaves(like), strict=True):
        if jnp.shape(v) != jnp.shape(k):
            at = jax.tree_util.keystr(path)
            place = f"{name}{at}" if at[:1] in ("", "[", ".") else f"{name} at {at}"
            raise ValueError(f"{where}: {place} has shape {jnp.shape(v)}, and {like_name} has {jnp.shape(k)} there")
