"""What a comparison of gradients asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fnn.checks.numbers import positive


def steps(given: Any, paths: Sequence[str]) -> list[float | None]:
    """A step for each leaf, or None where it is to be chosen."""
    if not isinstance(given, dict):
        if given is not None:
            positive("steps", given)
        return [given] * len(paths)
    strange = [path for path in given if path not in paths]
    if strange:
        raise ValueError(f"steps has {strange}, which are no leaves of the params; these are {list(paths)}")
    for path, step in given.items():
        positive(f"the step of {path}", step)
    return [given.get(path) for path in paths]


def gradient_of(where: str, leaves: Sequence[np.ndarray], params: Any) -> None:
    """Leaves as large as those of the params, so that difference quotients can judge them."""
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    if [leaf.size for leaf in leaves] != sizes:
        raise ValueError(
            f"{where} with a mean_loss takes gradients, which have the shapes of the params, {sizes} numbers a leaf, "
            f"got {[leaf.size for leaf in leaves]}; leave mean_loss out for other quantities"
        )
