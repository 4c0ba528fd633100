"""Batches: any pytree whose leaves have the examples as their first axis, and means over them.

A function of a network and a loss takes ``(x, y)`` or ``(x, y, weight)``: what the network is given, what the loss is
given (a pytree, or None), and a weight w_n ≥ 0 for each example. A weight is a **multiplicity**: 2 counts an example
twice, and 0 leaves it out. With ω_n = w_n/Σ w::

    Q = Σ_n ω_n L_n     g = Σ_n ω_n g_n     second moment = Σ_n ω_n g_n²     variance = Σ_n ω_n (g_n − g)²

and readings with a row for each example (`per_example`, `squared_norm`, `gram`, `contributions`) are of the gradients
g_n themselves, 0 for an example of weight 0. If all weights are 0, so are Q and its gradients. Without weights
ω_n = 1/n. The examples' x must be finite even where their weight is 0, for a backward pass multiplies them by 0.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import backprop, linear, squared
    >>> net, x, y = linear(1), jnp.array([[1.0], [2.0], [5.0]]), jnp.array([[0.0], [1.0], [1.0]])
    >>> params, state = net.init(jax.random.key(0), x)
    >>> gradient, key = backprop(net, squared), jax.random.key(1)
    >>> weighted = gradient(params, state, (x, y, jnp.array([2.0, 1.0, 0.0])), key)
    >>> repeated = gradient(params, state, (x[jnp.array([0, 0, 1])], y[jnp.array([0, 0, 1])]), key)
    >>> all(map(jnp.allclose, jax.tree.leaves(weighted), jax.tree.leaves(repeated)))
    True
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._numerics import ratio
from fnn.core.types import Array, Loss, Reading


class Supervised(NamedTuple):
    """The parts of a batch ``(x, y)`` or ``(x, y, weight)``."""

    x: Any
    y: Any
    """targets, a pytree; None for a loss that needs none"""
    weight: Array | None
    """[n], multiplicities; None if every example counts once"""
    size: int
    """n"""

    def mean(self, each: Array) -> Array:
        """Σ_n ω_n each_n of values [n]."""
        if self.weight is None:
            return jnp.mean(each)
        total = jnp.sum(jnp.where(self.weight > 0, each * self.weight.astype(each.dtype), 0))
        return ratio(total, jnp.sum(self.weight).astype(each.dtype))

    def shares(self, dtype: Any) -> Array:
        """ω_n [n]."""
        if self.weight is None:
            return jnp.full(self.size, 1 / self.size, dtype)
        return ratio(self.weight, jnp.sum(self.weight)[None]).astype(dtype)

    def present(self, rows: Array) -> Array:
        """The rows [n, …], 0 for an example of weight 0, whatever its row is."""
        return rows if self.weight is None else jnp.where(in_rank_of(rows, self.weight > 0), rows, 0)

    def scaled(self, error: Array, read: Reading) -> Array:
        """Each example's own error [n, …], scaled so that the readings are those of the mean loss."""
        if self.weight is None:
            return error * read.scale(self.size)
        counted_as = jnp.sum(self.weight) / jnp.where(self.weight > 0, self.weight, 1)
        factor = jnp.broadcast_to(jnp.asarray(read.scale(counted_as), self.weight.dtype), (self.size,))
        return self.present(error * in_rank_of(error, factor.astype(error.dtype)))

    def reading(self, read: Reading) -> Reading:
        """The reading, with the examples counted by their weights where scaled errors alone do not do it."""
        if self.weight is None or read.weighted is None:
            return read
        return read.weighted(ratio(self.weight, jnp.sum(self.weight)[None]))


def in_rank_of(rows: Array, values: Array) -> Array:
    """Values [n] in the rank of rows [n, …]."""
    return jnp.expand_dims(values, tuple(range(1, rows.ndim)))


def supervised(batch: Any, loss: Loss | None = None) -> Supervised:
    """The parts of a batch (x, y) or (x, y, weight), checked: one target and one weight for each example.

    Args:
        batch: a tuple or list of two or three pytrees of arrays [n, …]; y may be None; weights are floats [n].
        loss: a loss whose own weights, by the targets, are multiplied in.

    Raises:
        TypeError: no pair and no triple, leaves that are no arrays, weights that are no floats.
        ValueError: leaves with different numbers of examples, or none; negative or infinite weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.core.batches import supervised
        >>> batch = supervised((jnp.zeros((3, 2)), jnp.zeros(3), jnp.array([1.0, 0.0, 1.0])))
        >>> batch.size, batch.mean(jnp.array([1.0, 2.0, 4.0]))
        (3, Array(2.5, dtype=float32))
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise TypeError(f"batch: expected a pair (x, y) or a triple (x, y, weight), got {got}. Pass (x, y).")
    size = checks.examples("batch", batch)
    x, y, *weights = batch
    if not jax.tree.leaves(x):
        raise TypeError(f"batch: expected arrays as x, got {checks.shown(x)}. Pass (x, y) with an array x.")
    weight = weights[0] if weights else None
    if weight is not None:
        checks.weights("batch", weight, size)
        weight = jnp.asarray(weight)
    if loss is not None and loss.weight is not None:
        by_target = loss.weight(y)
        weight = by_target if weight is None else weight * by_target.astype(weight.dtype)
    return Supervised(x, y, weight, size)
