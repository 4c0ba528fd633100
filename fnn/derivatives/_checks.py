"""Checks that several derivatives share."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.errors import NeedsMoreExamples
from fnn.core.types import Layer, Reading


def uses_key(layer: Layer, params: Any, state: Any, x: Any, key: Any) -> bool:
    """Whether y = forward(…) depends on the key, or on a key kept in the state: for two of each, JAX makes two of y."""
    arguments, tree = jax.tree.flatten((params, state, x, key))
    keys = {i for i, leaf in enumerate(arguments) if is_key(leaf)} | {len(arguments) - 1}
    twice = [jnp.stack([leaf, leaf]) if i in keys else leaf for i, leaf in enumerate(arguments)]

    def output(*arguments: Any) -> Any:
        return layer.forward(*jax.tree.unflatten(tree, arguments))[0]

    jax.eval_shape(output, *arguments)
    try:
        jax.eval_shape(jax.vmap(output, [0 if i in keys else None for i in range(len(twice))], None), *twice)
    except ValueError:  # out_axes=None is for what is the same for both
        return True
    return False


def is_key(leaf: Any) -> bool:
    """Whether an array holds keys of `jax.random.key`."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def like_params(where: str, v: Any, params: Any) -> Any:
    """A vector in the structure, shapes and dtypes of the params, as arrays."""
    checks.same_structure(where, "v", v, "params", params)
    v = jax.tree.map(jnp.asarray, v)
    for (path, leaf), like in zip(jax.tree.leaves_with_path(v), jax.tree.leaves(params), strict=True):
        if leaf.dtype != jnp.result_type(like):
            raise TypeError(
                f"{where}: v{jax.tree_util.keystr(path)} is {leaf.dtype}, the params there {jnp.result_type(like)}; "
                "convert by v.astype"
            )
    return v


def several_examples(where: str, n: int) -> None:
    """Two examples or more."""
    if n < 2:
        raise NeedsMoreExamples(f"{where} tells how examples differ, so it takes two or more, got a batch of {n}")


def is_reading(value: Any) -> None:
    """A reading, with a hint for its name."""
    if not isinstance(value, Reading):
        raise TypeError(f"read must be a Reading such as fnn.gradient or fnn.per_example, got {checks.shown(value)}")
