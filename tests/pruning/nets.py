"""A network to prune, its examples, its loss and its trainer."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnn import (
    adam,
    dense,
    linear,
    serial,
    squared,
    tanh,
    trainer,
)
from fnn.pruning import (
    sparse,
)
from tests.problems import normal

NET = serial(dense(5, tanh), linear(2))


def data(n: int = 40, inputs: int = 4, outputs: int = 2) -> tuple[Any, Any]:
    """Examples with correlated features and targets that are a smooth function of some of them."""
    x = normal(jnp.zeros((n, inputs)), seed=1)
    x = x.at[:, 1].add(0.5 * x[:, 0])
    return x, jnp.stack([jnp.sin(x[:, 0]) + 0.3 * x[:, 1], x[:, 0] * x[:, 1]], axis=1)[:, :outputs]


def evaluate(params: Any, state: Any) -> Any:
    x, y = data()
    return jnp.mean(squared.value(NET.apply(params, state, x), y))


def learner(optimizer: Any = None) -> Any:
    return trainer(NET, squared, sparse(optimizer or adam(0.02)), batch_size=10)
