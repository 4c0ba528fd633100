"""A `resumable_fit` for tests that kill it: ``python killed.py FOLDER STEPS`` prints a line for each chunk."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn import adam, dense, dropout, fit, linear, serial, squared, tanh, trainer
from fnn.training import resumable_fit

X = jax.random.normal(jax.random.key(1), (24, 3))
DATA = X, jnp.sin(X[:, :1])
LEARN_NET = serial(dense(4, tanh), dropout(0.2), linear(1))
LEARN = trainer(LEARN_NET, squared, adam(0.02), batch_size=5)


def held_out(state: Any) -> jax.Array:
    return jnp.mean(jnp.square(LEARN_NET.apply(state.params, state.layer_state, DATA[0]) - DATA[1]))


def options() -> dict[str, Any]:
    return {"chunk": 5, "validate": held_out, "patience": 500, "progress": False}


def run(folder: str, steps: int) -> Any:
    start = LEARN.init(jax.random.key(0), DATA)
    shown = lambda state, row: print(int(row["step"]), flush=True)  # noqa: E731
    return resumable_fit(folder, LEARN, start, DATA, steps, on_chunk=shown, **options())


def uninterrupted(steps: int) -> Any:
    return fit(LEARN, LEARN.init(jax.random.key(0), DATA), DATA, steps, **options())


def bits(done: Any) -> str:
    """All numbers of a result, in order."""
    leaves = jax.tree.leaves(
        (done.state._replace(key=()), done.best._replace(key=()), dict(sorted(done.history.items())))
    )
    return done.stopped + "".join(np.asarray(leaf).tobytes().hex() for leaf in leaves)


if __name__ == "__main__":
    print(bits(run(sys.argv[1], int(sys.argv[2]))))
