"""Model-agnostic meta-learning (MAML, Finn et al. 2017): first params from which one gradient step learns a new task.

A batch is a stack of tasks, each {"x", "y"} to learn from and {"x_test", "y_test"} to be judged by; the objective is
differentiated through the inner step, second derivatives included.
"""

from typing import Any

import jax
import jax.numpy as jnp

from fnn import Layer, Loss, apply_updates, backprop, objective, sgd


def meta_objective(net: Layer, loss: Loss, eta: float, steps: int = 1) -> Any:
    """An objective for ``trainer(net_init, optimizer=…, objective=meta_objective(net, loss, 0.1))``."""
    inner, after, optimizer = backprop(net, loss), objective(net, loss), sgd(eta)

    def of_task(params: Any, state: Any, task: Any, key: jax.Array) -> jax.Array:
        memory = optimizer.init(params)
        for _ in range(steps):
            _, g = inner(params, state, (task["x"], task["y"]), key)
            updates, memory = optimizer.update(g, memory, params)
            params = apply_updates(params, updates)
        return after(params, state, (task["x_test"], task["y_test"]), key)[0]

    def mean(params: Any, state: Any, tasks: Any, key: jax.Array) -> Any:
        return jnp.mean(jax.vmap(lambda task: of_task(params, state, task, key))(tasks)), state

    return mean
