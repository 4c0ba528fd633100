"""What one writes in JAX without a library; nothing of fnn is imported here."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark.problem import RATE, Problem


def first_weights(problem: Problem, key: jax.Array) -> list[jax.Array]:
    """Weights to start from, without biases."""
    shapes = list(zip(problem.widths[:-1], problem.widths[1:], strict=True))
    keys = jax.random.split(key, len(shapes))
    return [jax.random.normal(k, s, jnp.float32) * (2 / s[0]) ** 0.5 for k, s in zip(keys, shapes, strict=True)]


def vmapped(problem: Problem, seeds: int) -> Any:
    """`jax.grad` in a scan, and `jax.vmap` over the seeds on one device."""
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        *hidden, (w, b) = params
        for hidden_w, hidden_b in hidden:
            x = jax.nn.relu(x @ hidden_w + hidden_b)
        a = x @ w + b
        if not problem.classifies:
            return jnp.mean(jnp.sum(jnp.square(a - y), axis=1)) / 2
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(a), y[:, None], axis=1))

    def step(carry: Any, t: jax.Array) -> Any:
        params, v, G, order, key = carry
        batch = t % problem.batches
        order = jax.lax.cond(
            batch == 0, lambda: jax.random.permutation(jax.random.fold_in(key, t), len(x)), lambda: order
        )
        chosen = jax.lax.dynamic_slice(order, (batch * problem.batch,), (problem.batch,))
        value, g = jax.value_and_grad(loss)(params, x[chosen], y[chosen])
        v = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g, v, g)
        G = jax.tree.map(lambda G, g: 0.999 * G + 0.001 * g * g, G, g)
        k = t.astype(jnp.float32) + 1
        slow, fast = 1 - 0.9**k, 1 - 0.999**k
        params = jax.tree.map(lambda p, v, G: p - RATE * (v / slow) / (jnp.sqrt(G / fast) + 1e-8), params, v, G)
        return (params, v, G, order, key), value

    @partial(jax.jit, static_argnums=1)
    def experiments(keys: jax.Array, steps: int) -> jax.Array:
        def experiment(key: jax.Array) -> jax.Array:
            params = [(w, jnp.zeros(w.shape[1], jnp.float32)) for w in first_weights(problem, key)]
            zero = jax.tree.map(jnp.zeros_like, params)
            carry = params, zero, zero, jnp.arange(len(x)), key
            return jnp.mean(jax.lax.scan(step, carry, jnp.arange(steps))[1])

        return jax.vmap(experiment)(keys) if seeds > 1 else experiment(keys[0])

    return lambda steps: float(jnp.mean(experiments(jax.random.split(jax.random.key(0), seeds), steps)))
