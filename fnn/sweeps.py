"""Experiments over seeds and hyper-parameters as one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.types import Array


def sweep(experiment: Callable[..., Any], keys: Array, **hyper: Any) -> Any:
    """The experiment for every key and every combination of hyper-parameters, in one compiled call.

    Inside the experiment the hyper-parameters are tracers: build the optimizer, or a layer with a rate, there. New
    keys and values of the same number do not compile again, as long as `experiment` is the same function.

    Args:
        experiment: a pure function ``(key, **hyper) -> pytree of arrays``.
        keys: a stack of keys, one a run: ``jax.random.split(key, 32)``.
        **hyper: for each hyper-parameter its values, a sequence or array whose first axis is swept.

    Returns:
        The experiment's results with axes [keys, values of the first hyper-parameter, …of the second, …] in front.
        Row i is what the experiment gives for ``keys[i]`` alone, up to the rounding of batched products.

    Raises:
        TypeError: keys or values that are no arrays.
        ValueError: no keys, a scalar or an empty sequence of values.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def experiment(key, eta, gamma):
        ...     return eta * 10 + gamma + 0 * jax.random.normal(key)
        >>> sweep(experiment, jax.random.split(jax.random.key(0), 4), eta=[1.0, 2.0, 3.0], gamma=[0.0, 0.9]).shape
        (4, 3, 2)
    """
    checks.is_function("experiment", experiment)
    checks.seeds(keys)
    grid = {name: checks.values(name, values) for name, values in hyper.items()}
    return _mapped(experiment, tuple(grid))(keys, *grid.values())


@lru_cache(maxsize=128)
def _mapped(experiment: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """The compiled sweep of an experiment over keys and the named hyper-parameters."""

    def one(key: Array, *values: Array) -> Any:
        return jax.tree.map(jnp.asarray, experiment(key, **dict(zip(names, values, strict=True))))

    mapped = one
    for axis in reversed(range(len(names) + 1)):
        mapped = jax.vmap(mapped, in_axes=[0 if i == axis else None for i in range(len(names) + 1)])
    return jax.jit(mapped)
