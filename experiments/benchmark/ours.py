"""This library: BackProp by hand in a scan, all seeds in one compiled call on all devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp

import fnn
from experiments.benchmark.plain import first_weights
from experiments.benchmark.problem import RATE, Problem


def keys_of(seeds: int) -> jax.Array:
    """A key for each seed."""
    return jax.random.split(jax.random.key(0), seeds)


def on_all_devices(experiment_of: Callable[[int], Callable[[jax.Array], jax.Array]], seeds: int) -> Any:
    """Train by `fnn.sweep`, and one seed by itself."""
    keys = keys_of(seeds)
    alone = lru_cache(lambda steps: jax.jit(experiment_of(steps)))
    experiment_of = lru_cache(experiment_of)

    def train(steps: int) -> float:
        return float(alone(steps)(keys[0]) if seeds == 1 else jnp.mean(fnn.sweep(experiment_of(steps), keys)))

    return train


def by_hand(problem: Problem, seeds: int, gradient: Any = fnn.backprop, **options: Any) -> Any:
    """By `fnn.backprop`, or another gradient; options are the trainer's."""
    *hidden, outputs = problem.widths[1:]
    net = fnn.serial(*(fnn.dense(width, fnn.relu, w=fnn.nn.he()) for width in hidden), fnn.linear(outputs))
    loss = fnn.softmax_cross_entropy if problem.classifies else fnn.squared
    data = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def experiment_of(steps: int) -> Callable[[jax.Array], jax.Array]:
        def experiment(key: jax.Array) -> jax.Array:
            learn = fnn.trainer(net, loss, fnn.adam(RATE), batch_size=problem.batch, gradient=gradient, **options)
            return fnn.train(learn, learn.init(key, data), data, steps)[1]["loss"]

        return experiment

    return on_all_devices(experiment_of, seeds)


by_jax_grad = partial(by_hand, gradient=fnn.autodiff)
"""The same loop with automatic gradients."""


def products_only(problem: Problem, seeds: int) -> Any:
    """The floor: the loop with nothing in it but the matrix products of the forward and the backward pass.

    The products take the weights' places, so that each step needs the one before. They soon overflow; a processor
    multiplies infinities as fast as numbers.
    """
    batch = jnp.asarray(problem.x[: problem.batch])

    def step(ws: tuple[jax.Array, ...], _: None) -> tuple[tuple[jax.Array, ...], None]:
        xs = [batch]
        for w in ws:
            xs.append(xs[-1] @ w)
        error, products = xs.pop(), []
        for i in reversed(range(len(ws))):
            products.append(xs[i].T @ error)
            error = error @ ws[i].T if i else error
        return tuple(reversed(products)), None

    def experiment_of(steps: int) -> Callable[[jax.Array], jax.Array]:
        def experiment(key: jax.Array) -> jax.Array:
            ws, _ = jax.lax.scan(step, tuple(first_weights(problem, key)), length=steps)
            return sum((jnp.mean(w) for w in ws), jnp.zeros((), jnp.float32))

        return experiment

    return on_all_devices(experiment_of, seeds)
