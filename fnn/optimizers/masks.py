"""Masks: optimizers restricted to some of the leaves, and frozen leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._trees import Part, leaves_by_path, subtree
from fnn.core.types import Optimizer, Params
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._protocol import updated
from fnn.optimizers.transforms import chain

Mask = Any
"""A pytree of bools in the structure of the params, or a function from params to one."""


def weights_only(params: Params) -> Mask:
    """The mask that is True at the leaves named "w" and False at biases and all others."""

    def is_weight(path: tuple, leaf: Any) -> bool:
        return bool(path) and getattr(path[-1], "key", None) == "w"

    return jax.tree.map_with_path(is_weight, params)


def masked(optimizer: Any, mask: Mask) -> Optimizer:
    """An optimizer or transform for some of the leaves; the gradients of the others pass unchanged.

    Args:
        optimizer: a pair with ``init`` and ``update``; it receives, and keeps state for, the chosen leaves only.
        mask: a pytree of bools in the structure of the params, or a function from params to one: `weights_only`.

    Raises:
        ValueError: a mask of another structure than the params'.
        TypeError: a mask with leaves other than bools.
    """
    checks.is_optimizer("masked", optimizer)
    if not callable(mask):
        optimizers_checks.is_mask("masked", mask, mask)

    def chosen(tree: Any, params: Params) -> Any:
        flags = mask(params) if callable(mask) else mask
        optimizers_checks.is_mask("masked", flags, tree)
        return jax.tree.map(lambda flag, leaf: leaf if flag else None, flags, tree)

    def init(params: Params) -> Any:
        return optimizer.init(chosen(params, params))

    def update(gradient: Params, state: Any, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        shaped = gradient if params is None else params
        some = None if params is None else chosen(params, params)
        gradients = chosen(gradient, shaped)
        if not jax.tree.leaves(gradients):  # params of one array, which None for it would leave out altogether
            return gradient, state
        of_some = {"value": extra["value"]} if "value" in extra else {}  # grad and value_fn are of all params
        updates, state = updated(optimizer, gradients, state, some, of_some)
        merged = jax.tree.map(
            lambda new, old: old if new is None else new,
            updates,
            gradient,
            is_leaf=lambda leaf: leaf is None,
        )
        return merged, state

    takes, steps = checks.role(optimizer)
    return Optimizer(
        init=init,
        update=update,
        label=call_repr("masked", optimizer, mask if callable(mask) else "mask"),
        takes="some" if takes else None,
        steps="some" if steps else None,
    )


def mask_of_parts(params: Params, parts: Iterable[Part]) -> Mask:
    """The mask that is True in the given parts and False elsewhere, for `freeze` and `masked`.

    Args:
        params: a pytree.
        parts: parts of it, such as ``[0, (2, "w")]`` or the keys of the mapping given to `transplant`.

    Raises:
        ValueError: a part that the params do not have.

    Example:
        >>> mask_of_parts(({"w": 1.0, "b": 2.0}, {"w": 3.0}), [(0, "w"), 1])
        ({'b': False, 'w': True}, {'w': True})
    """
    chosen = [subtree("mask_of_parts: params", params, part)[0] for part in parts]
    flags = [any(path[: len(part)] == part for part in chosen) for path in leaves_by_path(params)]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def freeze(optimizer: Any, mask: Mask) -> Optimizer:
    """An optimizer for the leaves outside of a mask; the leaves in the mask do not move.

    Unlike ``masked(optimizer, …)``, which passes on the gradients of the other leaves unchanged for the next in a
    `chain`, it sets them to 0, and the optimizer has no state for them: no decay, no momentum. Running statistics are
    not parameters; they continue to change under frozen weights unless the layer is in `inference_mode`.

    Args:
        optimizer: a pair with ``init`` and ``update``.
        mask: True where a parameter is frozen, as from `mask_of_parts`; or a function from params to such a pytree.

    Raises:
        ValueError: a mask of another structure than the params'.
        TypeError: a mask with leaves other than bools.
    """
    checks.is_optimizer("freeze", optimizer)

    def others(params: Params) -> Mask:
        return jax.tree.map(lambda frozen: not frozen, mask(params) if callable(mask) else mask)

    both = chain(masked(_STILL, mask), masked(optimizer, others))
    takes, steps = checks.role(optimizer)
    return Optimizer(
        init=both.init,
        update=both.update,
        label=call_repr("freeze", optimizer, mask if callable(mask) else "mask"),
        takes=takes,
        steps=steps,
    )


def by_part(optimizers: Mapping[Any, Any], otherwise: Any = None) -> Optimizer:
    """Another optimizer, or another rate, for each part of the network; every weight belongs to exactly one part.

    Args:
        optimizers: maps parts to optimizers: ``{0: sgd(0.01), (1, "b"): sgd(0.1)}``, with parts as in `mask_of_parts`,
            or functions from params to a mask: ``{weights_only: adam(0.01)}``.
        otherwise: the optimizer of the weights in no part. Without it there must be none.

    Raises:
        ValueError: in init and update, a weight in several parts, or in none without `otherwise`; a part that the
            params do not have.

    Example:
        >>> from fnn import adam, sgd, weights_only
        >>> by_part({0: sgd(0.001)}, otherwise=adam(0.01))
        by_part({0: sgd(0.001)}, otherwise=adam(0.01))
    """
    if not isinstance(optimizers, Mapping):
        raise TypeError(
            f"by_part: expected a dict from parts to optimizers, got {checks.shown(optimizers)}. Write "
            "by_part({0: sgd(0.1)}, otherwise=…)."
        )
    makers = [*optimizers.values(), *([] if otherwise is None else [otherwise])]
    for optimizer in makers:
        optimizers_checks.makes_steps("by_part", optimizer)

    def mask_of(part: Any, params: Params) -> Mask:
        return part(params) if callable(part) else mask_of_parts(params, [part])

    def chosen(params: Params) -> list[Mask]:
        masks = [mask_of(part, params) for part in optimizers]
        for mask in masks:
            optimizers_checks.is_mask("by_part", mask, params)
        count = jax.tree.map(lambda _, *flags: sum(map(bool, flags)), params, *masks)
        _in_one_part(count, needs_one=otherwise is None)
        return masks if otherwise is None else [*masks, jax.tree.map(lambda parts: parts == 0, count)]

    def links(params: Params) -> Optimizer:
        return chain(*(masked(maker, mask) for maker, mask in zip(makers, chosen(params), strict=True)))

    def update(gradient: Params, state: Any, params: Params = None, **extra: Any) -> tuple[Any, Any]:
        return links(gradient if params is None else params).update(gradient, state, params, **extra)

    names = {part.__name__ if callable(part) else part: optimizer for part, optimizer in optimizers.items()}
    return Optimizer(
        init=lambda params: links(params).init(params),
        update=update,
        label=call_repr("by_part", names, otherwise=(otherwise, None)),
        takes="all",
        steps="all",
    )


def _in_one_part(count: Any, needs_one: bool) -> None:
    """Raise ValueError unless every leaf is in one part, or in at most one."""
    for path, parts in jax.tree.leaves_with_path(count):
        name = keystr(path, simple=True, separator=".")
        if parts > 1:
            raise ValueError(
                f"by_part: expected each weight in one part, got {name} in {parts}. Remove it from all but one."
            )
        if needs_one and parts == 0:
            raise ValueError(f"by_part: expected each weight in one part, got {name} in none. Pass otherwise=….")


_STILL = Optimizer(
    init=lambda params: (),
    update=lambda g, state, params=None: (jax.tree.map(jnp.zeros_like, g), state),
    label="still",
)
"""The optimizer whose updates are 0."""
