"""What layers without parameters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fnn import checks
from fnn.types import Array, Params, State


def without_parameters(label: str) -> Callable[[Array, Any], tuple[Params, State]]:
    """init of a layer that has nothing to train and nothing to remember."""

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return (), ()

    return init
