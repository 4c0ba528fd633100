"""An optimizer with params and gradients, and the quantities that many laws look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core.types import Array, Optimizer, Params
from fnn.optimizers.transforms import apply_updates
from fnn.testing._equations import CHANGE, draws
from fnn.testing._trees import coarse, nudged

NUDGES = (CHANGE, CHANGE, *[2.0**-7] * 6)
"""How far what a step is given is changed: by little for its slopes, by much for its jumps."""


@dataclass(frozen=True)
class Subject:
    """An optimizer with params and random gradients; what many laws look at is traced once."""

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
            For every step the arguments, (gradient, state, params), and the results, (updates, state), there and
            where all arguments are changed by `NUDGES`: [steps, 1 + nudges, …] a leaf.
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
