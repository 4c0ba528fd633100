"""Kolmogorov's sum of functions of one variable, with small networks in their place.

Command: ``python -m experiments kolmogorov``; 14 seconds on two CPU cores. Expect errors that do not fall as the
networks of one variable widen, and a plain network of as many parameters that comes closer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r
from fnn.lecture import kolmogorov, sup_error, unit_grid
from fnn.pruning import all_links, remove_links, sparse

WIDTHS = {"Kolmogorov": (2, 4, 8), "plain": (8, 12, 17)}
"""neurons of a hidden layer: of each network of one variable, and of a plain network with as many parameters"""
FUNCTIONS = ("product", "kink", "waves")
GAIN = 4.0
"""how much steeper than by Glorot the neurons start, for the square is small and the waves are short"""
SHOWN = 33


EQUATION = r"""a(x) = \sum_{i=1}^{2d+1} \sigma_i\left(\sum_{j=1}^{d} f_{ij}(x_j)\right)
d = 2"""
LEAD = (
    "The form of Kolmogorov's theorem is trained, with small networks in the place of its functions of one variable. "
    "The theorem writes a continuous function of two variables as a sum of five functions of one variable, each of a "
    "sum of two functions of one variable, and does not say which. Here each of the fifteen is a network with one "
    "hidden layer of tanh, all trained together, {steps} steps of Adam on a grid of "
    f"{SHOWN}² points. The largest error over a finer grid of 129² points is compared with that of a plain network "
    "with two hidden layers and as many parameters, trained likewise. The largest value of each function is 1."
)
NARROWEST, *_, WIDEST = WIDTHS["Kolmogorov"]
EXACT = r.Claim(
    f"With {WIDEST} neurons for each function of one variable, Kolmogorov's form is within 0.05 of each function "
    "everywhere.",
    why="The theorem says that such functions of one variable exist; it gives neither smooth ones nor a way to find "
    "them, and gradient descent finds some that are far from exact.",
    quantity="largest error on the square",
)
WIDER = r.Claim(
    f"Kolmogorov's form with {WIDEST} neurons for each function of one variable leaves at most half the error that it "
    f"leaves with {NARROWEST}.",
    why="Wider networks of one variable are no closer after this many steps; whether longer training would bring them "
    "closer is left open here.",
    quantity=f"largest error, with {WIDEST} neurons less half of that with {NARROWEST}",
)
PLAIN = r.Claim(
    "With as many parameters Kolmogorov's form comes closer than a plain network of two hidden layers.",
    why="What the theorem promises holds for its own functions of one variable, which are not smooth; for smooth ones "
    "the form is only a network whose links are arranged otherwise than a plain one's.",
    quantity="largest error on the square, Kolmogorov's form less the plain network",
)
SIZES = {
    "Kolmogorov": [5 * (2 + 1) * (3 * q + 1) for q in WIDTHS["Kolmogorov"]],
    "plain": [(2 + 1) * H + (H + 1) * H + (H + 1) for H in WIDTHS["plain"]],
}
"""parameters"""


def values(x: jax.Array) -> jax.Array:
    """The functions to represent, at points [n, 2] of the unit square; the largest |f| of each is 1 [n, functions]."""
    one, two = x[:, 0], x[:, 1]
    return jnp.stack([one * two, jnp.abs(one - two), jnp.sin(2 * np.pi * one) * jnp.cos(2 * np.pi * two)], axis=1)


def networks() -> dict[str, fnn.Layer]:
    """Kolmogorov's form with networks of one variable, and a plain network of as many layers, at their widest."""
    w = fnn.nn.glorot_uniform(GAIN)
    of_one = fnn.serial(fnn.dense(WIDTHS["Kolmogorov"][-1], fnn.tanh, w=w), fnn.linear(1))
    plain = fnn.dense(WIDTHS["plain"][-1], fnn.tanh, w=w)
    return {"Kolmogorov": kolmogorov(2, inner=of_one, outer=of_one), "plain": fnn.serial(plain, plain, fnn.linear(1))}


def links(params: Any, widest: int, width: jax.Array) -> Any:
    """Which links a network keeps whose hidden layers have `width` neurons: the others have no way out."""
    counted = jnp.arange(widest, dtype=jnp.int32)[:, None] < width

    def kept(every: jax.Array) -> jax.Array:
        is_out = every.ndim > 1 and every.shape[-2] == widest
        return jnp.broadcast_to(counted, every.shape) if is_out else every

    return jax.tree.map(kept, all_links(params))


def experiment_with(name: str, steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, width, chosen) -> sup error``, for the function chosen by a 1 [functions]."""
    net, points, dense = networks()[name], unit_grid(2, SHOWN, jnp.float32), unit_grid(2, 129, jnp.float32)
    rate = fnn.adam(lambda k: 0.02 * (1 - k / steps).astype(jnp.float32))
    learn = fnn.trainer(net, fnn.squared, sparse(rate), batch_size=32)

    def experiment(key: jax.Array, width: jax.Array, chosen: jax.Array) -> dict[str, jax.Array]:
        def f(x: jax.Array) -> jax.Array:
            return values(x) @ chosen

        data = points, f(points)
        start = learn.init(key, data)
        start = remove_links(start, links(start.params, WIDTHS[name][-1], width))
        end, _ = fnn.train(learn, start, data, steps)
        a = net.apply(end.params, end.layer_state, points)[:, 0]
        return {"error": sup_error(f, net, end.params, end.layer_state, dense), "a": a.reshape(SHOWN, SHOWN)}

    return experiment


def _maps(learned: np.ndarray) -> r.Figure:
    """The functions, and Kolmogorov's form of the first seed [functions, SHOWN, SHOWN]."""
    f = np.asarray(values(unit_grid(2, SHOWN, jnp.float32))).T.reshape(-1, SHOWN, SHOWN)
    with r.figure(5.4, 3.8) as canvas:
        panels = canvas.subplots(2, len(FUNCTIONS))
        for row, name, maps in zip(panels, ("f", "a"), (f, learned), strict=True):
            for axes, title, one in zip(row, FUNCTIONS, maps, strict=True):
                axes.imshow(one.T, cmap=r.DIVERGING, vmin=-1, vmax=1, extent=(0, 1, 0, 1), origin="lower")
                axes.set(xticks=(), yticks=())
                axes.grid(False)
                axes.spines[:].set(visible=True, alpha=0.3)
                if name == "f":
                    axes.set_title(title)
            row[0].set_ylabel(name, rotation=0, labelpad=12)
        return r.finished(
            canvas,
            f"Three functions on the unit square and Kolmogorov's form of them with {WIDTHS['Kolmogorov'][-1]} neurons "
            "for each function of one variable, one seed; orange is positive, blue negative",
            "Two rows of three maps: the product of both variables, the absolute value of their difference, and a "
            "pattern of waves. The learned maps below look like the functions above.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, compare, judge and draw."""
    steps = settings.pick(quick=300, full=1500)
    runs = {}
    for name, widths in WIDTHS.items():
        log(f"{name}: {settings.seeds} seeds × {len(widths)} widths × {len(FUNCTIONS)} functions in one compiled call")
        grid = {"width": widths, "chosen": np.eye(len(FUNCTIONS))}
        runs[name] = r.sweep_seeds(experiment_with(name, steps), settings, **grid)
    errors = {name: r.by_case(found["error"].swapaxes(1, 2), FUNCTIONS) for name, found in runs.items()}
    ours, plain = errors["Kolmogorov"], errors["plain"]
    return r.Outcome(
        LEAD.format(steps=steps),
        [
            r.at_most(EXACT, 0.05, {f: of[:, -1] for f, of in ours.items()}),
            r.smaller(WIDER, {f: (of[:, -1], of[:, 0]) for f, of in ours.items()}, 0.5),
            r.smaller(PLAIN, {f: (ours[f][:, -1], plain[f][:, -1]) for f in FUNCTIONS}),
        ],
        EQUATION,
        slide=7,
        tables=[_table(errors)],
        figures=[_errors(errors), _maps(runs["Kolmogorov"]["a"][0, -1])],
        numbers={
            "parameters": SIZES,
            "largest error": {
                name: {f: r.intervals(r.by_case(of, WIDTHS[name])) for f, of in of_functions.items()}
                for name, of_functions in errors.items()
            },
        },
    )


def _table(errors: dict[str, dict[str, np.ndarray]]) -> r.Table:
    rows = {
        f"{name}, {WIDTHS[name][k]} neurons": {"parameters": SIZES[name][k]} | {f: of[f][:, k] for f in FUNCTIONS}
        for k in range(3)
        for name, of in errors.items()
    }
    return r.table("Largest error over the square; means over seeds with 95 % intervals", "network", rows)


def _errors(errors: dict[str, dict[str, np.ndarray]]) -> r.Figure:
    return r.curves(
        SIZES["Kolmogorov"],
        {f"{f}, {name}": of[f] for f in FUNCTIONS for name, of in errors.items()},
        "Largest error against the number of parameters, for three functions, Kolmogorov's form and a plain "
        "network; means with 95 % intervals over seeds",
        "Line plot on logarithmic scales: the plain network has the smaller errors for all three functions, "
        "and they fall as it grows; those of Kolmogorov's form do not.",
        xlabel="parameters",
        ylabel="largest error",
        logx=True,
        logy=True,
        marker="o",
    )
