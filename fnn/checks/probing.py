"""What curvature from columns, products and random probes asks for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax

from fnn.checks.numbers import count
from fnn.checks.structures import is_loss
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
    """Layers of which none drops neurons at random."""
    for part in parts:
        if part.stages is not None and part.stages.keep is not None:
            raise ValueError(
                f"{where} with probes at units takes each object by itself, where {part} would draw another mask than "
                "for the batch; take fnn.applied(net), or units=False"
            )


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
