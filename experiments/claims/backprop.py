"""BackProp seen: one batch through a network as heat maps.

Command: ``python -m experiments backprop``; a second on two CPU cores. Expect gradients equal to xᵀ(ε∘z)/n to
1e-6 in float32.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_iris

import fnn
from experiments import report as r
from experiments.user_network import Problem
from fnn.nn import LinearTape
from fnn.training import Metric
from fnn.training.metrics import measured, parted

TAKES = "network"
MOST, MOST_ROWS = 64, 12
"""examples or units, and layers, that are drawn of a large network"""


EQUATION = r"""S^l = x^{l-1} w^l
x^l = \sigma(S^l), \quad z^l = \sigma{\prime}(S^l)
\varepsilon^{l-1} = (\varepsilon^l \circ z^l)\, (w^l)^\top
\frac{\partial Q}{\partial w^l} = \frac{1}{n}\, (x^{l-1})^\top (\varepsilon^l \circ z^l)"""
LEAD = (
    "One batch goes forwards and backwards through a network, and what each layer takes in, what it computes and what "
    "comes back to it is drawn. The network is {net}, the loss {loss}."
)
GRADIENTS = r.Claim(
    "Every gradient that BackProp finds is xᵀ(ε∘z)/n, computed from its layer's input x, error ε and slope z (to "
    "10⁻⁵).",
    quantity="largest relative difference",
)
ERRORS = r.Claim(
    "Every error ε that BackProp finds is (ε∘z)wᵀ, computed from the layer above (to 10⁻⁵).",
    quantity="largest relative difference",
)


class Row(NamedTuple):
    """One layer in the lecture's letters: what came in, what it computed, and what came back."""

    layer: str
    x: np.ndarray
    w: np.ndarray | None
    S: np.ndarray | None
    z: np.ndarray | None
    error: np.ndarray
    """ε_i = ∂ℒ_i/∂x of each example's own loss"""
    gradient: np.ndarray | None
    """∂Q/∂w of the mean loss"""


def irises() -> Problem:
    """A small network, and 16 irises of three kinds, the kinds one after another."""
    x, y = load_iris(return_X_y=True)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    chosen = np.linspace(0, len(x) - 1, 16).astype(int)
    net = fnn.serial(fnn.dense(8, fnn.tanh), fnn.dense(6, fnn.tanh), fnn.linear(3))
    batch = jnp.asarray(x[chosen], jnp.float32), jnp.asarray(y[chosen], jnp.int32)
    return Problem("16 irises of three kinds", net, fnn.softmax_cross_entropy, batch)


def rows_of(problem: Problem, key: jax.Array) -> list[Row]:
    """What BackProp sees at every layer in one forward and one backward pass."""
    x, y = map(jnp.asarray, problem.batch)
    look = Metric("seen", of_layer=partial(_seen, len(x)))

    @jax.jit
    def passes(key: jax.Array) -> dict[str, Any]:
        key_params, key = jax.random.split(key)
        params, state = problem.net.init(key_params, x)
        _, readings = fnn.backprop(measured(problem.net, [look]), problem.loss)(params, state, (x, y), key)
        return parted(readings)[1]["seen"]

    rows = []
    for layer, seen in passes(key).items():
        for copy in np.ndindex(seen["x"].shape[:-2]):  # `repeat` has one for each of its layers
            one = jax.tree.map(lambda leaf, copy=copy: np.asarray(leaf[copy]), seen)
            w, g = (_matrix(one.pop(name)) for name in ("params", "gradient"))
            rows.append(Row(f"{layer}{list(copy) if copy else ''}", w=w, gradient=g, **{"S": None, "z": None, **one}))
    return rows


def _seen(n: int, params: Any, seen: fnn.nn.LayerRecord) -> dict[str, Any]:
    while isinstance(seen.readings, fnn.nn.LayerRecord):  # of a layer that was watched already
        seen = seen.readings
    found = {"x": seen.x, "error": n * seen.error, "params": params, "gradient": seen.readings}
    if isinstance(seen.tape, LinearTape):  # σ = identity
        return found | {"S": seen.y, "z": jnp.ones_like(seen.y)}
    return found | {name: getattr(seen.tape, name) for name in ("S", "z") if hasattr(seen.tape, name)}


def _matrix(params: Any) -> np.ndarray | None:
    """The weights; of a layer with other parameters all that are as wide as the first, one under another."""
    if isinstance(params, dict) and "w" in params:
        return params["w"]
    leaves = [np.atleast_2d(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim <= 2]
    return np.concatenate([leaf for leaf in leaves if leaf.shape[1] == leaves[0].shape[1]]) if leaves else None


def is_chain(net: fnn.Layer) -> bool:
    """Whether every layer takes what the one before it gave, and nothing else does."""
    return not net.children or (net.label.startswith("serial(") and all(map(is_chain, net.children)))


def differences(rows: list[Row], chain: bool) -> tuple[float | None, float | None]:
    """How far the drawn arrays are from ∂Q/∂w = xᵀ(ε∘z)/n, and in a chain from ε^{l−1} = (ε^l∘z^l)wᵀ: relative.

    None where no layer has the letters of the equation.
    """
    of_gradients, of_errors = [], []
    for below, row in zip([None, *rows], rows, strict=False):
        at_S = row.error if row.z is None else row.error * row.z
        if row.z is not None and row.w is not None:
            of_gradients.append(_relative(row.gradient, row.x.T @ at_S / len(row.x)))
        if chain and below is not None and row.z is not None:
            of_errors.append(_relative(below.error, at_S @ row.w.T if row.w is not None else at_S))
    return max(of_gradients, default=None), max(of_errors, default=None)


def _relative(found: Any, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / (np.abs(expected).max() or 1.0))


def heat_maps(problem: Problem, rows: list[Row], chain: bool) -> r.Figure:
    """Two rows a layer: x, w, S on the way forwards, z, ε, ∂Q/∂w on the way back."""
    shown = rows[:MOST_ROWS]
    with r.figure(5.4, 2.7 * len(shown)) as canvas:
        strips = canvas.subfigures(len(shown), 1, squeeze=False).ravel()
        for layer, (strip, row) in enumerate(zip(strips, shown, strict=True), 1):
            strip.suptitle(_title(row.layer, layer if chain else None), fontsize=10, x=0.01, ha="left")
            of = [str(k).translate(_RAISED) if chain else "" for k in (layer - 1, layer)]
            names = (f"x{of[0]}", f"w{of[1]}", f"S{of[1]}", f"z{of[1]}", f"ε{of[1]}", f"∂Q/∂w{of[1]}")
            for axes, name, values in zip(strip.subplots(2, 3).ravel(), names, row[1:], strict=True):
                _map(axes, name, values)
        return r.finished(
            canvas,
            f"One batch forwards and backwards: {problem.label}. In x, S, z, ε an example is a row and a unit a "
            "column; w leads from the unit of its row to that of its column, biases are left out. Blue is negative, "
            f"orange positive, nothing zero; ± is the full ink of each map.{_left_out(rows)}",
            f"Heat maps for {len(shown)} layers of inputs x, weights w, sums S, slopes z, errors ε and gradients.",
        )


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def _title(layer: str, number: int | None) -> str:
    """The layer as it was written, with its number or, in a network that is no chain, its place in the params."""
    text = layer if number is None else f"layer {number}: {re.sub(r'^[0-9.]+ ', '', layer)}"
    return text if len(text) <= 64 else f"{text[:63]}…"


def _left_out(rows: list[Row]) -> str:
    """Which of the rows and units were too many to draw."""
    arrays = [values for row in rows[:MOST_ROWS] for values in row[1:] if values is not None]
    units = f" Of larger maps the first {MOST} rows and columns are drawn." if _any_larger(arrays) else ""
    return units + (f" The first {MOST_ROWS} of {len(rows)} layers are drawn." if len(rows) > MOST_ROWS else "")


def _any_larger(arrays: list[np.ndarray]) -> bool:
    return any(max(values.shape) > MOST for values in arrays)


def _map(axes: Any, name: str, values: np.ndarray | None) -> None:
    if values is None:
        axes.set_axis_off()
        return
    drawn = values[:MOST, :MOST]
    scale = float(np.abs(drawn).max())
    axes.imshow(drawn, cmap=r.DIVERGING, vmin=-scale or -1, vmax=scale or 1, aspect="auto", interpolation="none")
    axes.set_title(f"{name}  {values.shape[0]}×{values.shape[1]}", fontsize=10, pad=3)
    axes.set_xlabel(f"±{scale:.2g}", fontsize=10, labelpad=2)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_linewidth(0.5)


def _of_passes(rows: list[Row], chain: bool) -> list[r.Verdict]:
    return [
        r.judged(claim, difference <= 1e-5, r.scientific(difference))
        for claim, difference in zip((GRADIENTS, ERRORS), differences(rows, chain), strict=True)
        if difference is not None
    ]


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Draw one batch, of a network of ours or the user's."""
    problem = settings.problem or irises()
    log(f"one batch of {problem.label}")
    rows, chain = rows_of(problem, jax.random.key(1)), is_chain(problem.net)
    return r.Outcome(
        LEAD.format(net=problem.net, loss=problem.loss),
        _of_passes(rows, chain),
        EQUATION,
        slide=12,
        title="BackProp seen layer by layer",
        figures=[heat_maps(problem, rows, chain)],
        numbers={"layers": [row.layer for row in rows], "differences": differences(rows, chain)},
    )
