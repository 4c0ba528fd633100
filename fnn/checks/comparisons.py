"""What a comparison of gradients asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnn.checks.numbers import not_negative, positive


def options(names: Any, tolerance: Any, dtypes: Any) -> None:
    """Two words for the two, a tolerance, and floating-point dtypes."""
    if not _is_pair(names) or not all(isinstance(name, str) for name in names) or len({*names, "differences"}) < 3:
        raise ValueError(
            f"names must be two different words, what to call the two in the report, got {names!r}; take such as "
            "('manual', 'automatic'), and not 'differences', which are the quotients"
        )
    not_negative("tolerance", tolerance)
    for name in [dtypes] if isinstance(dtypes, str) else dtypes:
        if isinstance(dtypes, str) or not _is_floating(name):
            raise ValueError(
                f"dtypes must be a sequence of floating-point dtypes, got {name!r}; write such as ('bfloat16',)"
            )


def _is_floating(dtype: Any) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
    except TypeError:
        return False


def is_known(where: str, given: Any) -> None:
    """Arrays with numbers in them, for programs that are compiled, timed and put into words."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(
            f"{where} compiles programs of its own and gives words, and was given traced arrays; call it outside of "
            "jit, vmap and grad"
        )


def value_and_tree(name: str, found: Any, state: Any) -> tuple[Any, Any]:
    """What a function in the signature of a gradient returns, ((value, state), tree)."""
    if not (_is_pair(found) and _is_pair(found[0]) and _is_scalar(found[0][0]) and _alike(found[0][1], state)):
        raise TypeError(
            f"{name} must return ((value, state), tree), a scalar and the next state before the tree, got "
            f"{jax.tree.structure(found)}; functions that return a tree alone, such as hessian_product, are compared "
            "by fnn.compare.compare(…, bare=True)"
        )
    return found


def _is_pair(found: Any) -> bool:
    return isinstance(found, tuple) and len(found) == 2


def _is_scalar(value: Any) -> bool:
    return _alike(value, 0) and jnp.shape(value) == ()


def _alike(one: Any, other: Any) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other)


def follows_dtype(layer: Any, x: Any, y: Any) -> None:
    """A layer that computes in the dtype of its objects and parameters."""
    if jnp.issubdtype(x.dtype, jnp.floating) and y.dtype != x.dtype:
        raise TypeError(
            f"{layer} does not follow the dtype of x: for {x.dtype} objects and parameters it gives {y.dtype}; let it "
            "compute in x.dtype, whatever that is, for gradients are judged in float64"
        )


def steps(given: Any, paths: Sequence[str]) -> list[float | None]:
    """A step for each leaf, or None where it is to be chosen."""
    if not isinstance(given, dict):
        if given is not None:
            positive("steps", given)
        return [given] * len(paths)
    strange = [path for path in given if path not in paths]
    if strange:
        raise ValueError(f"steps has {strange}, which are no leaves of the params; these are {list(paths)}")
    for path, step in given.items():
        positive(f"the step of {path}", step)
    return [given.get(path) for path in paths]


def gradient_of(where: str, leaves: Sequence[np.ndarray], params: Any) -> None:
    """Leaves as large as those of the params, so that difference quotients can judge them."""
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    if [leaf.size for leaf in leaves] != sizes:
        raise ValueError(
            f"{where} with a mean_loss takes gradients, which have the shapes of the params, {sizes} numbers a leaf, "
            f"got {[leaf.size for leaf in leaves]}; leave mean_loss out for other quantities"
        )
