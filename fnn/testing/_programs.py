"""The two functions as programs, and what they are called with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from fnn.core import _checks as checks
from fnn.nn.surgery import drop_records


class Compared(NamedTuple):
    """Two functions, what they are called with in float64, and how they are judged."""

    names: tuple[str, str]
    functions: tuple[Callable[..., Any], Callable[..., Any]]
    """each in the signature of `in_signature`"""
    given: tuple[Any, ...]
    mean_loss: Callable[..., Any] | None
    paths: list[str]
    """of the leaves of the trees"""
    sizes: list[float]
    """the norms of what these are the gradient by"""
    rounds_to: str
    """the narrowest float dtype that the forward pass rounds to, given float64; empty for none"""
    tolerance: float
    entries: int
    steps: Any


def in_signature(f: Any, name: str, bare: bool = False) -> Callable[..., tuple[Any, Any]]:
    """A function to ((value, state), tree), or of a tree alone to (None, tree); the records of `watch` are left out."""
    checks.is_function(name, f)

    def function(*given: Any) -> tuple[Any, Any]:
        found = f(*given)
        value_and_state, tree = (None, found) if bare else _value_and_tree(name, found, given[1])
        return value_and_state, drop_records(tree)

    return function


def tried(where: str, functions: Any, given: tuple[Any, ...]) -> None:
    """Raise what is wrong with the arguments as they were given, before anything is made of them."""
    jax.eval_shape(lambda *given: [f(*given) for f in functions], *given)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(
            f"{where} compiles programs of its own and gives words, and was given traced arrays; call it outside of "
            "jit, vmap and grad"
        )


def precisely(f: Callable[..., tuple[Any, Any]], name: str, precise: tuple[Any, ...]) -> Any:
    """The results of a function in `in_signature` in float64.

    Raises:
        TypeError: it took the arrays as they were given, and not in float64.
    """
    try:
        return jax.jit(f)(*precise)
    except TypeError as error:
        raise TypeError(
            f"{name} takes the arrays as given and not in float64, in which the two are compared: {error}; let it "
            "follow the dtype of what it is given, and take all its arrays from there"
        ) from error


def is_pair(found: Any) -> bool:
    """Whether it is a tuple of two."""
    return isinstance(found, tuple) and len(found) == 2


def _value_and_tree(name: str, found: Any, state: Any) -> tuple[Any, Any]:
    """The results of a function in the signature of a gradient, ((value, state), tree)."""
    if not (is_pair(found) and is_pair(found[0]) and _is_scalar(found[0][0]) and _alike(found[0][1], state)):
        raise TypeError(
            f"{name} must return ((value, state), tree), a scalar and the next state before the tree, got "
            f"{jax.tree.structure(found)}; functions that return a tree alone, such as hessian_vector_product, are "
            "compared by fnn.testing.compare(…, bare=True)"
        )
    return found


def _is_scalar(value: Any) -> bool:
    return _alike(value, 0) and jnp.shape(value) == ()


def _alike(one: Any, other: Any) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other)
