"""Checks shared by several derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._trees import is_key
from fnn.core.errors import NeedsMoreExamples
from fnn.core.types import Layer, Reading


def uses_key(layer: Layer, params: Any, state: Any, x: Any, key: Any) -> bool:
    """True if y = forward(…) depends on the key or on a key in the state: two keys then yield two y under `vmap`."""
    arguments, tree = jax.tree.flatten((params, state, x, key))
    keys = {i for i, leaf in enumerate(arguments) if is_key(leaf)} | {len(arguments) - 1}
    twice = [jnp.stack([leaf, leaf]) if i in keys else leaf for i, leaf in enumerate(arguments)]

    def output(*arguments: Any) -> Any:
        return layer.forward(*jax.tree.unflatten(tree, arguments))[0]

    jax.eval_shape(output, *arguments)
    try:
        jax.eval_shape(jax.vmap(output, [0 if i in keys else None for i in range(len(twice))], None), *twice)
    except ValueError:  # out_axes=None requires a y that is the same for both
        return True
    return False


def like_params(where: str, v: Any, params: Any) -> Any:
    """The vector v as arrays; raises unless it has the structure, shapes and dtypes of the params."""
    checks.same_structure(where, "v", v, "params", params)
    v = jax.tree.map(jnp.asarray, v)
    for (path, leaf), like in zip(jax.tree.leaves_with_path(v), jax.tree.leaves(params), strict=True):
        if leaf.dtype != jnp.result_type(like):
            raise TypeError(
                f"{where}: expected v{jax.tree_util.keystr(path)} in the params' dtype {jnp.result_type(like)}, "
                f"got {leaf.dtype}. Convert by v.astype."
            )
    return v


def several_examples(where: str, n: int) -> None:
    """Raise NeedsMoreExamples unless there are at least two examples."""
    if n < 2:
        raise NeedsMoreExamples(
            f"{where}: expected at least two examples to compare, got a batch of {n}. Enlarge the batch."
        )


def is_reading(value: Any) -> None:
    """Raise TypeError unless the value is a reading."""
    if not isinstance(value, Reading):
        raise TypeError(f"read must be a Reading such as fnn.gradient or fnn.per_example, got {checks.shown(value)}")
