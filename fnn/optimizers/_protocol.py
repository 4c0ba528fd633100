"""The protocol of an update: what it is given besides the gradient, the state and the params."""

from __future__ import annotations

import inspect
from typing import Any

from fnn.core.types import Params


def updated(optimizer: Any, gradient: Any, state: Any, params: Params, extra: dict[str, Any]) -> tuple[Any, Any]:
    """The optimizer's update, given those of the further arguments that it has.

    An update may ask by name for the ``value`` of the objective, the ``grad`` of the params, and ``value_fn(params)``,
    the objective of this batch, as line searches and optax's L-BFGS do; most ask for none of them.
    """
    asked = inspect.signature(optimizer.update).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in asked.values())
    taken = {name: value for name, value in extra.items() if takes_all or name in asked}
    return optimizer.update(gradient, state, params, **taken)
