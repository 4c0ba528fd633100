"""flax and equinox with optax, as their guides have it: a jitted step in a Python loop, one seed after another."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.problem import RATE, Problem, shuffled_batches


def _loss_with(optax: Any, problem: Problem) -> Callable[[Any, Any], Any]:
    if problem.classifies:
        return lambda a, y: jnp.mean(optax.softmax_cross_entropy_with_integer_labels(a, y))
    return lambda a, y: jnp.mean(jnp.sum(optax.l2_loss(a, y), axis=1))


def _one_after_another(problem: Problem, seeds: int, start: Callable[[int], Any], step: Callable[..., Any]) -> Any:
    """A loop in Python over ``step(state, x, y) -> (state, loss)`` for each seed."""

    def train(steps: int) -> float:
        losses = []
        for seed in range(seeds):
            state = start(seed)
            for chosen in shuffled_batches(problem, steps, seed):
                state, loss = step(state, problem.x[chosen], problem.y[chosen])
                losses.append(loss)
            jax.block_until_ready(state)
        return float(np.mean(jax.device_get(losses)))

    return train


def flax(problem: Problem, seeds: int) -> Any:
    """flax.linen and optax."""
    nn, optax = importlib.import_module("flax.linen"), importlib.import_module("optax")
    *hidden, outputs = problem.widths[1:]
    layers = [part for width in hidden for part in (nn.Dense(width), nn.relu)]
    model = nn.Sequential([*layers, nn.Dense(outputs)])
    optimizer, loss_of = optax.adam(RATE), _loss_with(optax, problem)

    def start(seed: int) -> Any:
        params = model.init(jax.random.key(seed), problem.x[:1])
        return params, optimizer.init(params)

    @jax.jit
    def step(state: Any, x: Any, y: Any) -> Any:
        params, optimizer_state = state
        loss, g = jax.value_and_grad(lambda params: loss_of(model.apply(params, x), y))(params)
        updates, optimizer_state = optimizer.update(g, optimizer_state, params)
        return (optax.apply_updates(params, updates), optimizer_state), loss

    return _one_after_another(problem, seeds, start, step)


def equinox(problem: Problem, seeds: int) -> Any:
    """Equinox and optax."""
    eqx, optax = importlib.import_module("equinox"), importlib.import_module("optax")
    optimizer, loss_of = optax.adam(RATE), _loss_with(optax, problem)

    def start(seed: int) -> Any:
        keys = iter(jax.random.split(jax.random.key(seed), len(problem.widths)))
        pairs = zip(problem.widths[:-1], problem.widths[1:], strict=True)
        layers = [part for i, o in pairs for part in (eqx.nn.Linear(i, o, key=next(keys)), eqx.nn.Lambda(jax.nn.relu))]
        model = eqx.nn.Sequential(layers[:-1])
        return model, optimizer.init(eqx.filter(model, eqx.is_array))

    @eqx.filter_jit
    def step(state: Any, x: Any, y: Any) -> Any:
        model, optimizer_state = state
        loss, g = eqx.filter_value_and_grad(lambda model: loss_of(jax.vmap(model)(x), y))(model)
        updates, optimizer_state = optimizer.update(g, optimizer_state, model)
        return (eqx.apply_updates(model, updates), optimizer_state), loss

    return _one_after_another(problem, seeds, start, step)
