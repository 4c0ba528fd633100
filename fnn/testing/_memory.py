"""Whether a layer that is applied by its state learns that state."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.testing._asking import Measured
from fnn.testing._passes import Subject
from fnn.testing._trees import is_float, named
from fnn.testing.reports import BROKEN, HOLDS


def state_learns(s: Subject) -> Measured | str:
    """From small positive numbers in the place of the state: which of its leaves apply and forward read, and change.

    One at a time, each leaf is drawn again, and the rest stays: what y follows, it reads.
    """
    paths = [keys for keys, leaf in jax.tree.leaves_with_path(s.state) if is_float(leaf)]
    if not paths:
        return "no floats to remember in the state"
    states = [_drawn(s.state, None), *(_drawn(s.state, keys) for keys in paths)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def passes(state: Any) -> Any:
        at = s.at(state=state)
        y, after, _ = at.forward
        return y, s.layer.apply(s.params, state, s.x), state, after

    y, applied, before, after = jax.lax.map(passes, stacked)
    rows = {
        named("state", keys): i for i, (keys, leaf) in enumerate(jax.tree.leaves_with_path(s.state)) if is_float(leaf)
    }
    return {"y": y, "applied": applied, "before": jax.tree.leaves(before), "after": jax.tree.leaves(after)} | {
        "rows": rows
    }


def _drawn(state: Any, again: Any) -> Any:
    """The state with numbers of about 0.1 for its floats, one leaf of them drawn anew."""

    def draw(keys: Any, leaf: Any) -> Any:
        rng = np.random.default_rng(1 if keys == again else 0)
        return jnp.asarray(rng.uniform(0.05, 0.15, leaf.shape), leaf.dtype) if is_float(leaf) else leaf

    return jax.tree.map_with_path(draw, state)


def learns(found: Measured) -> tuple[str, str]:
    """What apply reads and training mode does not must be taken from the batches, or nobody ever supplies it.

    A leaf that both modes read may stay as it is: it is a constant, such as a frozen or pretrained one.
    """
    differs = lambda tree, row: not np.array_equal(tree[row], tree[0], equal_nan=True)  # noqa: E731
    frozen, learned = [], 0
    for row, (name, leaf) in enumerate(found["rows"].items(), start=1):
        if differs(found["applied"], row) and not differs(found["y"], row):
            moves = not np.array_equal(found["before"][leaf][row], found["after"][leaf][row], equal_nan=True)
            learned += moves
            frozen += [] if moves else [name]
    if frozen:
        return BROKEN, (
            f"{', '.join(frozen)} stays as it is: apply reads it and training mode does not, so forward must give "
            "it back learned from the batch, as running estimates are; a constant belongs into the layer itself"
        )
    return HOLDS, f"{learned} leaves are read by apply alone, and learned by forward"
