"""Whether an optimizer keeps its laws."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Params
from fnn.testing._asking import ask, chosen
from fnn.testing._steps import LAWS, Reference, follows
from fnn.testing._trees import cast
from fnn.testing._updates import Subject
from fnn.testing.reports import Laws


def check_optimizer(
    optimizer: Any,
    params: Params,
    *,
    reference: Reference | None = None,
    transform: bool = False,
    steps: int = 10,
    key: Any = None,
    tolerance: float = 1e-9,
    only: Iterable[str] | None = None,
) -> Laws:
    """Check an optimizer against the laws that training relies on, and its steps against those of its equations.

    Args:
        optimizer: a pair with ``init`` and ``update``, from fnn or another library.
        params: a pytree of a few arrays of floats.
        reference: an independent plain loop of the equations, ``(params, [gradient, …]) -> [params, …]`` on NumPy
            arrays, which gives the params after each step.
        transform: whether the updates are still gradients, for the next link of a `chain`, as those of `clip_by_norm`
            and `l2` are. Otherwise they contain the minus sign and must decrease a quadratic function.
        steps: number of steps, at least 2; more than an optimizer waits before its first move.
        key: the key of the gradients; by default `jax.random.key(0)`.
        tolerance: largest relative error, of float64.
        only: names of the laws to check, such as "runs under vmap"; the laws they need are checked too. By default all.

    Returns:
        `Laws`, which prints as a table; ``check_optimizer(…).raise_if_failed()`` is a whole test. The gradients are
        random, of sizes from 1e-2 to 10, and do not depend on the params: a path to a minimum hides a wrong factor.
        In float32, bfloat16 and float16 each step is compared with the same step in float64, at gradients of 1/4 to 4.

    Raises:
        TypeError: something other than an optimizer, or params that are not floats.
        ValueError: params without arrays, fewer than 2 steps, or an unknown name of a law.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import momentum
        >>> from fnn.testing import check_optimizer
        >>> def loop(w, gradients):
        ...     v = 0
        ...     for g in gradients:
        ...         v = 0.9 * v + 0.1 * g
        ...         w = w - 0.01 * v
        ...         yield w
        >>> check_optimizer(momentum(0.01), jnp.ones(3), reference=loop).passed
        True
        >>> check_optimizer(momentum(0.02), jnp.ones(3), reference=loop).failures[0].name
        'steps equal the reference'
    """
    _of_optimizer(optimizer, params, reference, tolerance)
    steps = checks.count("steps", steps, least=2)
    with jax.enable_x64(True):
        params = cast(params, jnp.float64)
        given = jax.device_get((params, _gradients(params, steps, jax.random.key(0) if key is None else key)))
        asked = chosen((*LAWS, follows(reference, given)), only)
        laws = ask(asked, partial(Subject, optimizer, steps, transform), *given, tolerance=tolerance)
        return Laws(str(optimizer), tuple(laws))


def _gradients(params: Params, steps: int, key: Any) -> Params:
    """Random gradients [steps, …], of a different size for each weight."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(key), np.uint32))

    def of(leaf: Any) -> np.ndarray:
        return random.standard_normal((steps, *leaf.shape)) * 10 ** random.uniform(-2, 1, leaf.shape)

    return jax.tree.map(of, params)


def _of_optimizer(optimizer: Any, params: Any, reference: Any, tolerance: Any) -> None:
    """Raise unless there are an optimizer, params of floats, and a reference that can be called, if any."""
    checks.is_optimizer("check_optimizer", optimizer)
    checks.floats("check_optimizer", "params", params)
    checks.not_negative("tolerance", tolerance)
    if not jax.tree.leaves(params):
        raise ValueError("check_optimizer: expected params with at least one array, got none. Pass some.")
    if reference is not None:
        checks.is_function("reference", reference)
