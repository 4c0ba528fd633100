"""Value and gradient of a network's loss or of any objective, and the first params for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._numerics import wide
from fnn.core.batches import supervised
from fnn.core.types import Array, Batch, Layer, Loss, Params, State
from fnn.derivatives.backpropagation import Gradient, backprop
from fnn.training import _checks as training_checks
from fnn.training.metrics import Metric, measured


def value_and_gradient_of(
    net: Any, loss: Loss | None, objective: Any, gradient: Callable[[Layer, Loss], Gradient], metrics: Sequence[Metric]
) -> Gradient:
    """``(params, state, batch, key) -> ((value, state, *aux), gradient)`` of a loss or of an objective."""
    if loss is None:
        return _automatic(objective)
    return gradient(measured(net, metrics), loss)


def first_of(
    net: Any, loss: Loss | None, value_and_gradient: Gradient, key: Array, data: Batch, batch: Any
) -> tuple[Params, State, Array]:
    """The first params and state, and the Q before the first step; raises unless the data fit.

    The batch, by its shapes, is what an objective is tried on; a loss needs none.
    """
    if loss is not None:
        params, state = _first(net, key, supervised(data))
        return params, state, _no_running_loss(net, loss, params, state, data)
    params, state = _first(net, key, data)
    (value, *_), _ = jax.eval_shape(value_and_gradient, params, state, batch, key)
    return params, state, _infinite(value.dtype)


def _automatic(objective: Callable[..., Any]) -> Gradient:
    """``((value, state, *aux), gradient)`` of an objective, by `jax.value_and_grad`."""

    def valued(params: Params, state: State, batch: Batch, key: Array) -> tuple[Array, Any]:
        value, *others = _is_value(objective(params, state, batch, key))
        return value, others

    def value_and_gradient(params: Params, state: State, batch: Batch, key: Array) -> Any:
        (value, others), g = jax.value_and_grad(valued, has_aux=True)(params, state, batch, key)
        return (value, *others), g

    return value_and_gradient


def _first(net: Any, key: Array, data: Batch) -> tuple[Params, State]:
    """The first params and state: by the net's init, from the shapes of x, or by the user's function of the data."""
    if not isinstance(net, Layer):
        return net(key, data)
    x = data[0] if isinstance(data, tuple | list) else data
    return net.init(key, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.result_type(x)), x))


def _infinite(dtype: Any) -> Array:
    """Q before the first step, without an estimate, in the dtype of the losses."""
    return jnp.asarray(np.array(np.inf, wide(jnp.zeros((), dtype)).dtype))


def _no_running_loss(net: Layer, loss: Loss, params: Params, state: State, data: Batch) -> Array:
    """Q before the first step, after a check that the targets fit: y stays concrete, so labels are checked."""
    examples = supervised(data, loss)
    a = jax.eval_shape(net.apply, params, state, examples.x)
    return _infinite(jax.eval_shape(lambda a: loss.value(a, examples.y), a).dtype)


def fits_together(net: Any, loss: Any, objective: Any, gradient: Any) -> None:
    """Raise unless there is a loss or an objective, with what it needs."""
    if (loss is None) == (objective is None):
        got = "neither" if loss is None else "both"
        raise ValueError(f"trainer: expected a loss or an objective, got {got}. Pass trainer(net, loss, optimizer, …).")
    if objective is None:
        checks.is_layer("trainer", net)
        checks.is_loss(loss)
        return
    checks.is_function("objective", objective)
    if not callable(net):
        checks.is_layer("trainer", net)
    if gradient is not backprop:
        raise ValueError(
            f"trainer: expected no gradient beside an objective, whose gradient is automatic, got {gradient!r}. Pass a "
            "loss, or a gradient of your own as gradient=lambda net, loss: … with any loss."
        )


def _is_value(found: Any) -> Any:
    """What an objective returns, checked: (value, state) or (value, state, aux)."""
    if not isinstance(found, tuple | list) or len(found) not in (2, 3):
        raise TypeError(
            f"objective: expected it to return (value, state) or (value, state, aux), got {checks.shown(found)}. "
            "Return the state that it was given if it has none of its own."
        )
    training_checks.scalar("objective", found[0])
    return found


def values_of_aux(aux: Sequence[Any], found: dict[str, Any]) -> dict[str, Any]:
    """The auxiliary values as metrics; raises unless they are a dict of floats with names of their own."""
    if not aux:
        return {}
    (values,) = aux
    if not isinstance(values, dict):
        raise TypeError(f"aux: expected a dict of floats, got {checks.shown(values)}. Return {{name: value}}.")
    if taken := sorted(values.keys() & found.keys()):
        raise ValueError(f"aux: expected names other than those of the metrics, got {taken}. Rename them.")
    checks.floats("a trainer", "aux", values)
    return jax.tree.map(jnp.asarray, values)
