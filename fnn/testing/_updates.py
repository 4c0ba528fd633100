"""The laws of an optimizer: its first state, one step, and many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fnn.core.types import Array, Optimizer, Params
from fnn.optimizers.transforms import apply_updates
from fnn.testing._asking import Measured, or_refused
from fnn.testing._equations import CHANGE, draws
from fnn.testing._trees import (
    DTYPES,
    alike,
    are_arrays,
    cast,
    coarse,
    normal,
    nudged,
    paired,
    shaken,
    size,
    struct,
)

NUDGES = (CHANGE, CHANGE, *[2.0**-7] * 6)
"""How far what a step is given is changed: by little for its slopes, by much for its jumps."""


@dataclass(frozen=True)
class Subject:
    """An optimizer with params and random gradients, and what many laws look at, traced once."""

    optimizer: Optimizer
    steps: int
    transform: bool
    """whether its updates are gradients still"""
    params: Params
    gradients: Params
    """[steps, …] a leaf"""

    @cached_property
    def state(self) -> Any:
        """The first state."""
        return self.optimizer.init(self.params)

    @cached_property
    def gradient(self) -> Params:
        """The first gradient."""
        return self.gradient_at(0)

    def gradient_at(self, step: int) -> Params:
        """The gradient of a step."""
        return jax.tree.map(lambda g: g[step], self.gradients)

    def updated(self, gradient: Params) -> tuple[Params, Any]:
        """(updates, state) of the first step."""
        return self.optimizer.update(gradient, self.state, self.params)

    @cached_property
    def first(self) -> tuple[Params, Any]:
        """(updates, state) of the first step, for the first gradient."""
        return self.updated(self.gradient)

    @cached_property
    def path(self) -> Params:
        """The params after each of the steps, [steps, …] a leaf, by `jax.lax.scan`."""
        return self.scanned(lambda params, gradient: gradient)

    @cached_property
    def bits(self) -> list[str]:
        """The random bits that a step draws."""
        return draws(self.optimizer.update, self.gradient, self.state, self.params)

    @cached_property
    def short(self) -> tuple[Any, Any]:
        """Steps one by one, at gradients, params and states of eight binary digits, which every dtype holds.

        The gradients are of 1/4 to 4, whose squares have a place in float16.

        Returns:
            Of every step what is given, (gradient, state, params), and what (updates, state) come of it, there and
            where all that is given is changed by `NUDGES`: [steps, 1 + nudges, …] a leaf.
        """

        def step(carry: Any, gradient: Params) -> Any:
            params, state = coarse(carry)
            given = coarse(gradient), state, params
            found = jax.lax.map(lambda at: self.optimizer.update(*at), nudged(given, NUDGES))
            updates, state = jax.tree.map(lambda leaf: leaf[0], found)
            return (apply_updates(params, updates), state), (given, found)

        size = lambda g: jnp.where(g < 0, -1, 1) * jnp.clip(jnp.abs(g), 0.25, 4)  # noqa: E731
        return jax.lax.scan(step, (self.params, self.state), jax.tree.map(size, self.gradients))[1]

    def scanned(
        self, gradient_of: Callable[[Params, Params], Params], step_of: Callable[[Array], Array] = lambda u: u
    ) -> Params:
        """The params after each of the steps, with gradients that may depend on where they are taken."""

        def step(carry: Any, gradient: Params) -> Any:
            params, state = carry
            updates, state = self.optimizer.update(gradient_of(params, gradient), state, params)
            params = apply_updates(params, jax.tree.map(step_of, updates))
            return (params, state), params

        return jax.lax.scan(step, (self.params, self.state), self.gradients)[1]


def init_gives_arrays(s: Subject) -> str:
    """All of the state, the step counter too."""
    are_arrays(s.state, "state")
    return f"{size(s.state)} numbers in state"


def update_runs(s: Subject) -> str:
    """Updates and a state of arrays."""
    updates, state = s.first
    are_arrays(updates, "updates")
    are_arrays(state, "state")
    return f"{size(updates)} numbers in updates"


def init_is_pure(s: Subject) -> Measured:
    """The same state for the same params."""
    return paired(s.optimizer.init(s.params), s.state, "state")


def update_is_pure(s: Subject) -> Measured:
    """The same updates and state from the same arguments."""
    again = s.updated(s.gradient)
    return paired(again[0], s.first[0], "updates") | paired(again[1], s.first[1], "state")


def updates_fit(s: Subject) -> str:
    """The structure, shapes and dtypes of the params."""
    alike(s.first[0], s.params, "updates", "as the params")
    return f"{size(s.params)} numbers"


def state_is_kept(s: Subject) -> str:
    """From step to step, so that `jax.lax.scan` can carry it."""
    alike(s.first[1], s.state, "state", "as before the step")
    return f"{size(s.state)} numbers"


def keeps_dtypes(s: Subject) -> str:
    """Updates in the dtype of the params, and the state in its own, all by shapes alone."""
    for dtype in map(jnp.dtype, DTYPES):
        params, like = struct(s.params, dtype), f"for {dtype} params"
        state = jax.eval_shape(s.optimizer.init, params)
        updates, after = jax.eval_shape(s.optimizer.update, params, state, params)
        alike(updates, params, "updates", like)
        alike(after, state, "state", f"{like} as before the step")
    return ", ".join(DTYPES)


def in_dtype(s: Subject, dtype: str) -> Measured:
    """(updates, state) of every step in a dtype, by itself, and in float64."""
    given, exact = s.short
    like = jax.eval_shape(s.optimizer.init, struct(s.params, jnp.dtype(dtype)))
    low = cast(given[0], (), dtype), cast(given[1], like, dtype), cast(given[2], (), dtype)
    first = jax.tree.map(lambda leaf: leaf[0], low)
    anew = bool(s.bits) and s.bits != draws(s.optimizer.update, *first)
    got = jax.lax.map(lambda at: s.optimizer.update(*at), low)
    changes = jnp.array(NUDGES)
    return {"got": got, "exact": exact, "given": low, "changes": changes, "drawn anew": anew}


def zero_gives_finite(s: Subject) -> Measured:
    """The first step of a gradient that is 0."""
    updates, state = s.updated(jax.tree.map(jnp.zeros_like, s.gradient))
    return paired(updates, updates, "updates") | paired(state, state, "state")


def runs_under_vmap(s: Subject) -> Measured:
    """Of two copies with params and gradients of their own, each computes what it does alone."""

    def one(params: Params, gradient: Params) -> Params:
        return s.optimizer.update(gradient, s.optimizer.init(params), params)[0]

    pairs = (shaken(s.params, 1), s.params), (s.gradient_at(1), s.gradient)
    copies = (jax.tree.map(lambda u, v: jnp.stack([u, v]), *pair) for pair in pairs)
    second = jax.tree.map(lambda leaf: leaf[1], jax.vmap(one)(*copies))
    return paired(second, s.first[0], "updates")


def leaves_are_independent(s: Subject) -> Measured:
    """The updates with another gradient at one leaf, for each leaf: [leaves, …] a leaf."""
    flat, tree = jax.tree.flatten(s.gradient)
    which = jnp.eye(len(flat))
    changed = [jax.vmap(lambda at, g=g, i=i: g * (1 - 3 * at[i]))(which) for i, g in enumerate(flat)]
    updates = jax.vmap(lambda *leaves: s.updated(jax.tree.unflatten(tree, leaves))[0])(*changed)
    return {"updates": (updates, s.first[0])}


def runs_flat(s: Subject) -> Measured:
    """All params in one vector, which has no leaves and no names."""
    vector = lambda tree: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])  # noqa: E731
    params = vector(s.params)
    updates, _ = or_refused(lambda: s.optimizer.update(vector(s.gradient), s.optimizer.init(params), params))
    return {"updates": (updates, vector(s.first[0]))}


def scan_is_a_loop(s: Subject) -> Measured:
    """The first two steps of a scan against the same in Python."""
    params, state = s.params, s.state
    for step in range(2):
        updates, state = s.optimizer.update(s.gradient_at(step), state, params)
        params = apply_updates(params, updates)
    return paired(jax.tree.map(lambda leaf: leaf[1], s.path), params, "params after 2 steps")


def path_is_finite(s: Subject) -> Measured:
    """The params after each of the steps."""
    return {"path": s.path}


def descends(s: Subject) -> Measured:
    """On Q = ½‖w − c‖², Q before and after each step, and the step's cosine with −∂Q/∂w.

    The minimum c lies on the other side of 0, where a decay of the weights leads too. The updates of a transform are
    taken for the gradients they are.
    """
    c = jax.tree.map(jnp.subtract, normal(s.params, 2), s.params)
    slope = lambda w: jax.tree.map(jnp.subtract, w, c)  # noqa: E731
    path = s.scanned(lambda params, _: slope(params), lambda u: -0.1 * u if s.transform else u)
    w = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), s.params, path)
    w, slopes = (jax.vmap(lambda tree: ravel_pytree(tree)[0])(trees) for trees in (w, jax.vmap(slope)(w)))
    moves, norm = jnp.diff(w, axis=0), lambda rows: jnp.linalg.norm(rows, axis=1)
    lengths = norm(moves) * norm(slopes[:-1])
    cosines = -jnp.sum(moves * slopes[:-1], axis=1) / jnp.where(lengths > 0, lengths, 1)
    return {"Q": 0.5 * jnp.sum(jnp.square(slopes), axis=1), "cosines": cosines}
