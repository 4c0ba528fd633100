"""Whether a layer keeps its laws."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Layer, Params, State
from fnn.testing._asking import are_floats, ask, asked_again, chosen
from fnn.testing._doubts import asked_beside, asked_to_rounding
from fnn.testing._equations import narrowest
from fnn.testing._passes import OF_BACKWARD, OF_FORWARD, OF_INIT, init_gives_arrays
from fnn.testing._precision import IN_LOW_PRECISION
from fnn.testing._subject import Start, Subject
from fnn.testing._surroundings import AMONG_OTHERS, keeps_dtypes
from fnn.testing._trees import cast, shaken, shaken_state
from fnn.testing.reports import Laws

NARROW = 8
"""Error allowed to a layer that rounds to a narrower dtype inside, in units in the last place of that dtype."""

LAWS = (*OF_INIT, *OF_FORWARD, *OF_BACKWARD, keeps_dtypes, *IN_LOW_PRECISION, *AMONG_OTHERS)


def check_layer(
    layer: Layer,
    x: Any,
    *,
    params: Params = None,
    state: State = None,
    key: Any = None,
    tolerance: float = 1e-9,
    only: Iterable[str] | None = None,
) -> Laws:
    """Check a layer, usually your own, against all the laws that the rest of fnn relies on.

    Args:
        layer: any layer, with or without a `curve`.
        x: a few examples [n, …, i] of floats, or tokens [n, …], at least two.
        params: the params to check at; by default those of init plus noise of 0.1, since zeros hide faults.
        state: the state to check at; by default that of init, with its floats up to a tenth larger and small positive
            numbers in place of zeros, which hide faults too. Whole numbers and keys stay as they are.
        key: the key of init and forward; by default `jax.random.key(0)`.
        tolerance: largest relative error, of float64.
        only: names of the laws to check, such as "gradient equals jax.vjp", together with those they need; by default
            all.

    Returns:
        `Laws`, which prints as a table; ``check_layer(…).raise_if_failed()`` is a whole test. Everything is computed
        in float64 by compiled programs, then in float32, bfloat16 and float16 and compared with float64. The automatic
        references are `jax.vjp` and `jax.hessian` of the layer's own forward pass. At a kink of forward, as of relu
        at 0, any slope between those on its two sides is accepted, with a margin of the width of that range.

        A layer that rounds to a narrower dtype inside, as `mixed_precision` does, is judged to eight units in the last
        place of that dtype, which the finding of "keeps the dtype" names; check the layer inside it for more digits.
        Numbers are not compared where rounding leaves JAX's own gradient no correct digit, as where tanh is 1, or where
        they overflow or underflow a dtype. If a layer draws other random numbers in another dtype, only the numbers of
        its backward pass and of apply are compared there. A law for which the layer raises `fnn.core.Unsupported` is
        skipped; any other exception breaks the law.

    Raises:
        TypeError: something other than a layer, or an x that is neither floats nor whole numbers.
        ValueError: an x of one example or with NaN; a state without params; an unknown name of a law.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import dense, tanh
        >>> from fnn.testing import check_layer
        >>> right = dense(3, tanh)
        >>> wrong = right._replace(backward=lambda p, tape, error, read: right.backward(p, tape, 2 * error, read))
        >>> check_layer(right, jnp.eye(4)).passed
        True
        >>> [law.name for law in check_layer(wrong, jnp.eye(4)).failures][:2]
        ['error equals jax.vjp', 'gradient equals jax.vjp']
    """
    _of_layer(layer, x, params, state, tolerance)
    asked = chosen(LAWS, only)
    of_init = [question for question in asked if question in OF_INIT]
    of_passes = [question for question in asked if question not in OF_INIT]
    with jax.enable_x64(True):
        start = Start(layer, jax.random.key(0) if key is None else key, cast(x, jnp.float64))
        laws = ask(of_init, lambda: start, tolerance=tolerance, compiled=False)
        made = _made(start)
        unmet = {init_gives_arrays.name} if made is None and (params is None or state is None) else set()
        made = made or (params, state)
        params = shaken(made[0], 1) if params is None else cast(params, jnp.float64)
        state = shaken_state(made[1], 2) if state is None else cast(state, jnp.float64)
        given = params, state, start.x, start.key
        within = _within(layer, given)
        if within is not None:
            tolerance = max(tolerance, NARROW * float(jnp.finfo(within).eps))
        subject = partial(Subject, layer, within=within)
        laws += ask(of_passes, subject, *given, tolerance=tolerance, unmet=unmet)
        careful = partial(subject, careful=True)
        by_jax = [question for question in of_passes if question.by_jax]
        laws = asked_again(laws, IN_LOW_PRECISION, lambda those, _: ask(those, careful, *given, tolerance=tolerance))
        laws = asked_again(laws, by_jax, lambda those, _: asked_to_rounding(those, layer, given, tolerance))
        laws = asked_again(laws, by_jax, lambda those, broken: asked_beside(those, broken, layer, given, tolerance))
        return Laws(str(layer), tuple(laws))


def _within(layer: Layer, given: tuple[Any, ...]) -> Any:
    """The dtype below float64 to which forward rounds inside; None without one, and if forward fails."""
    try:
        return narrowest(layer.forward, *given)
    except Exception:
        return None


def _made(start: Start) -> tuple[Params, State] | None:
    """The params and state of init; None if init fails or makes params that are not floats, which breaks a law."""
    try:
        are_floats(start.made[0], "params")
        return cast(start.made, jnp.float64)
    except Exception:
        return None


def _of_layer(layer: Any, x: Any, params: Any, state: Any, tolerance: Any) -> None:
    """Raise unless there are a layer, two or more finite examples, and params of floats, at least with a state."""
    checks.is_layer("check_layer", layer)
    checks.is_array("check_layer", x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        checks.features("check_layer", x)
    checks.not_negative("tolerance", tolerance)
    if x.shape[0] < 2:
        raise ValueError(
            f"check_layer: expected at least 2 examples, to see whether the layer couples them, got x of shape "
            f"{x.shape}. Pass more."
        )
    known = checks.concrete(x)
    if known is None:
        raise TypeError("check_layer: expected a concrete x, got a tracer. Call it outside jit and vmap.")
    if not np.isfinite(known.astype(np.float64)).all():
        raise ValueError("check_layer: expected a finite x, got NaN or infinity. Replace them.")
    if params is not None:
        checks.floats("check_layer", "params", params)
    if params is None and state is not None:
        raise ValueError(
            "check_layer: expected params together with a state, got none. Pass both, or params alone, or neither."
        )
