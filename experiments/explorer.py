"""Paths of all methods for all rates and memories, as data for a page on which the reader chooses among them."""

from __future__ import annotations

import base64
import inspect
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas

import fnn
from experiments.report.plots import COLORS, power
from experiments.surfaces import STEPS, SURFACES, Walks, height, walks

RATES = tuple(round(10 ** (k / 4), 4) for k in range(-12, 5))
MEMORIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
SHOWN = np.unique(np.concatenate([[0], np.geomspace(1, STEPS, 60).astype(int)]))
"""the steps that are stored"""
DECADES = (-6.0, 4.0)
"""of the losses, which are cut off there"""
LEVELS = 12
SIDE, OUTSIDE, SQUARE = 25000, 32767, 300
"""of a surface's box in stored numbers; a place that is not shown; the side of the drawing"""


def explorer(names: Mapping[str, str]) -> bytes:
    """JSON with the paths and losses of one seed, as 16-bit numbers in base64, and what is needed to draw them.

    Paths are [surfaces, methods, rates, memories, steps, 2]; losses above the lowest, without the last axis, are
    thousandths of decades.

    Args:
        names: of the optimizers in `fnn`, each with the name that is shown.
    """
    methods = tuple(names)
    remember = {name: "gamma" in inspect.signature(getattr(fnn, name)).parameters for name in methods}

    def experiment(key: jax.Array, eta: jax.Array, gamma: jax.Array) -> Walks:
        def make(name: str) -> fnn.Optimizer:
            rate = 10 * eta if name == "adadelta" else eta
            return getattr(fnn, name)(rate, gamma) if remember[name] else getattr(fnn, name)(rate)

        return walks(make, key, methods)

    eta, gamma = (jnp.asarray(of, jnp.float32) for of in (RATES, MEMORIES))
    found = fnn.sweep(experiment, jax.random.split(jax.random.key(2026), 1), eta=eta, gamma=gamma)
    paths, losses = [], []
    for surface, (_, _, box) in SURFACES.items():
        of_methods = np.stack([np.asarray(found[name][surface])[0][..., SHOWN, :] for name in methods])
        paths.append(_in_box(of_methods, box))
        with np.errstate(divide="ignore"):
            decades = np.log10(height(surface, of_methods))
        losses.append(np.round(1000 * np.clip(decades, *DECADES)))
    return json.dumps(
        {
            "surfaces": [{"name": name, "ground": _ground(name)} for name in SURFACES],
            "methods": [*names.values()],
            "remember": [remember[name] for name in methods],
            "colors": COLORS[: len(methods)],
            "rates": RATES,
            "memories": MEMORIES,
            "steps": SHOWN.tolist(),
            "start": (RATES.index(0.1), MEMORIES.index(0.9)),
            "decades": DECADES,
            "labels": {f"{decade:g}": power(10.0**decade) for decade in np.arange(DECADES[0], DECADES[1] + 1)},
            "side": SIDE,
            "outside": OUTSIDE,
            "paths": _packed(paths),
            "losses": _packed(losses),
        }
    ).encode("ascii")


def _in_box(points: np.ndarray, box: tuple[tuple[float, float], tuple[float, float]]) -> np.ndarray:
    """Places in a box from its upper left corner, in parts of SIDE; OUTSIDE for those too far beyond it."""
    (left, right), (low, high) = box
    with np.errstate(invalid="ignore"):
        places = np.round(SIDE * (points - (left, high)) / (right - left, low - high))
    near = (np.abs(places) < OUTSIDE).all(axis=-1, keepdims=True)
    return np.where(near, places, OUTSIDE)


def _packed(arrays: list[np.ndarray]) -> str:
    return base64.b64encode(np.stack(arrays).astype("<i2").tobytes()).decode("ascii")


def _ground(surface: str) -> list[str]:
    """The surface's contours, from low to high, as SVG paths in a square."""
    loss, lowest, box = SURFACES[surface]
    grids = np.meshgrid(*(np.linspace(*side, 120) for side in box))
    with mpl.rc_context():
        axes = Canvas().subplots()
        levels = np.log10(loss(tuple(grids)) - lowest + 0.05)
        contours = axes.contour(*grids, levels, LEVELS)
    lines = ([SQUARE / SIDE * _in_box(line[::2], box) for line in level if len(line) > 2] for level in contours.allsegs)
    return ["".join("M" + "L".join(f"{x:.0f} {y:.0f}" for x, y in line) for line in level) for level in lines]
