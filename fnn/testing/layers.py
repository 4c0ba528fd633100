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
"""Units in the last place of a dtype to which a layer rounds on its way, that it may be off by."""

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
    """Whether a layer keeps all the laws that the rest of fnn relies on, for layers of one's own.

    Args:
        layer: any layer, with or without a `curve`.
        x: a few examples [n, i] of floats, at least two.
        params: where to look; by default what init makes, plus noise of 0.1, for zeros hide faults.
        state: where to look; by default what init makes, with its floats up to a tenth larger, and small positive
            numbers in the place of zeros, which hide faults too. Whole numbers and keys stay as they are.
        key: for init and forward; `jax.random.key(0)` if not given.
        tolerance: largest relative error, of float64.
        only: names of the laws to ask, such as "gradient equals jax.vjp", besides those that they need; all if not
            given.

    Returns:
        `Laws`, which prints as a table; ``check_layer(…).raise_if_failed()`` is a whole test. Everything is computed
        in float64 on compiled programs, and again in float32, bfloat16 and float16, beside float64. The automatic
        judges are `jax.vjp` and `jax.hessian` of the layer's own forward pass. On a kink of forward, as of relu at 0,
        any slope is accepted that lies between those beside it, or for once the width of that range off it.

        A layer that rounds to a narrower dtype on its way, as `mixed_precision` does, is judged to eight units in the
        last place of that dtype, which the finding of "keeps the dtype" names; check the layer inside it for more.
        Where rounding has taken all digits from JAX's own gradient, as where tanh is 1, or a number lies outside the
        range of a dtype, either side of it, nothing is judged by it. Of a layer that draws other random numbers in
        another dtype only the backward pass and apply are judged there by their numbers. A request that the layer
        refuses by `fnn.core.Unsupported` is skipped; any other exception breaks the law.

    Raises:
        TypeError: no layer, or an x that is not floats.
        ValueError: an x of one example or with NaN; a state without params; a name of no law.

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
    """The dtype below float64 to which forward rounds on its way; None too where it does not run."""
    try:
        return narrowest(layer.forward, *given)
    except Exception:
        return None


def _made(start: Start) -> tuple[Params, State] | None:
    """The params and state of init; None where it fails or makes params that are no floats, which breaks a law."""
    try:
        are_floats(start.made[0], "params")
        return cast(start.made, jnp.float64)
    except Exception:
        return None


def _of_layer(layer: Any, x: Any, params: Any, state: Any, tolerance: Any) -> None:
    """A layer, two finite examples or more, params of floats, and those wherever there is a state."""
    checks.is_layer("check_layer", layer)
    checks.features("check_layer", x)
    checks.not_negative("tolerance", tolerance)
    if x.shape[0] < 2:
        raise ValueError(
            f"check_layer needs at least 2 examples, to see whether the layer couples them, got x of shape {x.shape}"
        )
    known = checks.concrete(x)
    if known is None:
        raise TypeError("check_layer compiles its own programs and reports in words: call it outside jit and vmap")
    if not np.isfinite(known.astype(np.float64)).all():
        raise ValueError("check_layer needs a finite x, got NaN or infinity; what the layer makes of it is its own")
    if params is not None:
        checks.floats("check_layer", "params", params)
    if params is None and state is not None:
        raise ValueError("check_layer got a state without params; give both, or params alone, or neither")
