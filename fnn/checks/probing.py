"""What curvature from columns, products and random probes asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.checks.numbers import count
from fnn.checks.structures import is_loss, same_structure
from fnn.types import Layer, Loss


def has_root(where: str, loss: Loss) -> None:
    """A loss whose Hessian has a root, so a convex one."""
    is_loss(loss)
    if loss.root is None:
        raise ValueError(
            f"{where} takes a loss with a root of its Hessian, which {loss} has not, as when it is not convex; "
            "second_derivatives(net, loss, gauss_newton=True) needs none, or give your own loss one: Loss(…, root=…)"
        )


def draws_nothing(where: str, parts: Iterable[Layer]) -> None:
    """Layers of which none says that it drops neurons at random."""
    for part in parts:
        if part.stages is not None and part.stages.keep is not None:
            raise _draws(where, part)


def needs_no_key(where: str, net: Layer, *given: Any) -> None:
    """A network whose forward pass draws nothing, whatever its layers say, at these params, state, x and key."""
    if uses_key(net, *given):
        raise _draws(where, net)


def _draws(where: str, layer: Layer) -> ValueError:
    return ValueError(
        f"{where} with probes at units takes each object by itself, where {layer} would draw another mask than "
        "for the batch; take fnn.applied(net) of a layer with `stages`, or units=False"
    )


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
    same_structure(where, "v", v, "params", params)
    v = jax.tree.map(jnp.asarray, v)
    for (path, leaf), like in zip(jax.tree.leaves_with_path(v), jax.tree.leaves(params), strict=True):
        if leaf.dtype != jnp.result_type(like):
            raise TypeError(
                f"{where}: v{jax.tree_util.keystr(path)} is {leaf.dtype}, the params there {jnp.result_type(like)}; "
                "convert by v.astype"
            )
    return v


def bias_of(path: tuple[Any, ...], known: Iterable[Any]) -> tuple[Any, ...]:
    """The path of the bias that stands beside the weight at `path`."""
    beside = (*path[:-1], jax.tree_util.DictKey("b"))
    if beside not in known:
        raise ValueError(
            f"probes at units reach a weight through the bias beside it, {{'w': …, 'b': …}}, and the weight "
            f"params{jax.tree_util.keystr(path)} has none; take units=False"
        )
    return beside


def at_most(name: str, value: Any, most: int, what: str) -> int:
    """A count that something else bounds."""
    value = count(name, value)
    if value > most:
        raise ValueError(f"{name} must be at most {what}, which is {most}, got {value}")
    return value


def several_objects(where: str, n: int) -> None:
    """Two objects or more."""
    if n < 2:
        raise ValueError(f"{where} tells how objects differ, so it takes two or more, got a batch of {n}")
