"""Surfaces to go down, a long valley, a saddle and a bowl, and the paths of methods on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np

import fnn

Walks = dict[str, dict[str, jax.Array]]
STEPS = 400
NOISE = 2.0
"""the standard deviation of the noise of the bowl's gradients"""

STEEP = 10.0
"""the bowl's larger curvature"""


class Surface(NamedTuple):
    """A loss of two weights."""

    loss: Callable[[Any], Any]
    """of (x, y)"""
    lowest: float
    box: tuple[tuple[float, float], tuple[float, float]]
    """the part that is drawn, in x and in y"""


def valley(w: Any) -> Any:
    """Beale's function: 0 at (3, ½), at the end of a long valley."""
    x, y = w
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def saddle(w: Any) -> Any:
    """A saddle at 0, and −½ at (0, ±1)."""
    x, y = w
    return x**2 - y**2 + y**4 / 2


def bowl(w: Any) -> Any:
    """0 at 0."""
    x, y = w
    return (x**2 + STEEP * y**2) / 2


SURFACES = {
    "valley": Surface(valley, 0.0, ((-0.7, 4.2), (-1.6, 2.1))),
    "saddle": Surface(saddle, -0.5, ((-1.3, 1.3), (-1.5, 1.5))),
    "bowl": Surface(bowl, 0.0, ((-2.4, 1.4), (-1.1, 1.4))),
}


def walks(make: Callable[[str], fnn.Optimizer], key: jax.Array, methods: tuple[str, ...]) -> Walks:
    """The paths of methods from the same start on every surface; the bowl's gradients have the same noise.

    Args:
        make: the optimizer of a method.
        key: of the start, near a given point, and of the noise.
        methods: names of optimizers.

    Returns:
        By method and surface, positions [STEPS + 1, 2].
    """
    keys = jax.random.split(key, 3)
    near, tiny = jax.random.uniform(keys[0], (2,), minval=-0.2, maxval=0.2), 1e-3 * jax.random.normal(keys[1])
    starts = {
        "valley": jnp.asarray([1.0, 1.5], jnp.float32) + near.astype(jnp.float32),
        "saddle": jnp.stack([1 + near[0], tiny]).astype(jnp.float32),
        "bowl": jnp.asarray([-2.0, 1.0], jnp.float32) + near.astype(jnp.float32),
    }
    noise = NOISE * jax.random.normal(keys[2], (STEPS, 2), jnp.float32)

    def path(name: str) -> dict[str, jax.Array]:
        optimizer = make(name)

        def step(carry: Any, noise: jax.Array) -> tuple[Any, Any]:
            w, state = carry
            g = {surface: jax.grad(loss)(w[surface]) for surface, (loss, *_) in SURFACES.items()}
            updates, state = optimizer.update(g | {"bowl": g["bowl"] + noise}, state, w)
            w = fnn.apply_updates(w, updates)
            return (w, state), fnn.optimizers.nag_weights(w, state) if name == "nag" else w

        _, walked = jax.lax.scan(step, (starts, optimizer.init(starts)), noise)
        return jax.tree.map(lambda w0, w: jnp.concatenate([w0[None], w]), starts, walked)

    return {name: path(name) for name in methods}


def height(surface: str, path: np.ndarray) -> np.ndarray:
    """The loss above the lowest along a path [..., 2]; infinite where it is not a number."""
    loss, lowest, _ = SURFACES[surface]
    with np.errstate(all="ignore"):
        losses = loss(np.moveaxis(path.astype(np.float64), -1, 0)) - lowest
    return np.where(np.isfinite(losses), np.maximum(losses, 0), np.inf)


def draw_ground(axes: Any, surface: str) -> None:
    """The surface, darker where it is higher."""
    loss, lowest, ((left, right), (low, high)) = SURFACES[surface]
    x, y = np.meshgrid(np.linspace(left, right, 100), np.linspace(low, high, 100))
    height = np.log10(loss((x, y)) - lowest + 0.05)
    axes.contourf(x, y, height, 9, cmap=mpl.rcParams["image.cmap"], alpha=0.35)
    axes.set(xlim=(left, right), ylim=(low, high), xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.set_title("noisy bowl" if surface == "bowl" else surface, fontsize=10)
