"""Decision boundaries of one, two and three hidden layers as they form.

Command: ``python -m experiments boundaries``; 19 seconds on two CPU cores. Expect, of new points on two spirals,
0.915 ± 0.019 right for one hidden layer of tanh, 0.969 ± 0.023 for three, and 0.997 or more for ReLU.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Canvas

import fnn
from experiments import data
from experiments import report as r
from fnn.lecture import parameter_count

WIDTHS = {1: (80,), 2: (16, 16), 3: (11, 11, 11)}
"""of the hidden layers, so that the networks have about as many weights"""
ACTIVATIONS = {"tanh": (fnn.tanh, fnn.nn.glorot_uniform()), "ReLU": (fnn.relu, fnn.nn.he())}
EXAMPLES, TURNS, NOISE, BATCH, RATE = 300, 1.25, 0.03, 50, 0.01
REQUIRED = 0.95
CELLS = 31
"""points of the drawn plane a side"""
LINES = {"tanh": "--", "ReLU": "-"}
"""how the two are drawn; the colour shows the number of hidden layers"""
ARMS, SHADES = r.COLORS[:2], ("#b9d3ef", "#e3edf8", "#fbe9d6", "#f4cfa3")
"""of the points, and of outputs from surely the first to surely the second arm"""


EQUATION = r"""x^l = \sigma(x^{l-1} W^l), \quad l < L
a = x^{L-1} W^L
\dim\, W = \sum_l (H_{l-1} + 1)\, H_l"""
LEAD = (
    f"{EXAMPLES} points on two spirals of {TURNS:g} turns, a class each, are learned by fully connected networks of "
    f"{{depths}} hidden layers with about as many weights, by Adam with η = {RATE:g} and batches of {BATCH}, {{steps}} "
    "steps. tanh begins with Glorot's weights, ReLU with He's. Each seed has its own points, first weights and "
    f"batches, and {2 * EXAMPLES} new points to be judged on."
)
SUFFICE = r.Claim(
    "Two or three layers of neurons suffice: networks of one or two hidden layers and an output put "
    f"{100 * REQUIRED:.0f} % of new points on the right one of two spirals.",
    why="The networks of tanh may not have finished: from step {late} to step {steps} their mean loss goes from "
    "{falls}.",
    quantity="share of new points that are right",
)
DEEPER = r.Claim(
    "With about as many weights, a network with more hidden layers makes fewer errors on new points of two spirals.",
    why="The interval of the difference holds 0 for {undecided}.",
    quantity="share of new points that are wrong, more layers less fewer",
)
SOONER = r.Claim(
    "ReLU learns two spirals sooner than tanh at the same η (its mean loss over all steps is at most half as large).",
    quantity="mean loss, ReLU less half of that of tanh",
)
SIZE = r.Claim(
    "A fully connected network has as many weights as the slide says: in each layer, for every neuron, one for each of "
    "the layer's inputs and one more, the threshold.",
    quantity="weights",
)


def network(activation: str, layers: int) -> fnn.Layer:
    """So many hidden layers, and one output neuron."""
    sigma, w = ACTIVATIONS[activation]
    return fnn.serial(*(fnn.dense(width, sigma, w=w) for width in WIDTHS[layers]), fnn.linear(1))


def plane() -> jax.Array:
    """The points that are drawn [CELLS², 2]."""
    side = jnp.linspace(-1.15, 1.15, CELLS, dtype=jnp.float32)
    return jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)


def experiment_with(cases: list[tuple[str, int]], steps: int, frames: int) -> Callable[..., Any]:
    """The pure experiment ``key -> (points, records by case [frames, …])``; the networks learn the same points."""

    def experiment(key: jax.Array) -> tuple[jax.Array, dict[tuple[str, int], dict[str, jax.Array]]]:
        of_points, of_run = jax.random.split(key)
        x, arm = data.spirals(of_points, 3 * EXAMPLES, TURNS, NOISE)
        y = arm[:, None].astype(jnp.float32)
        known, new = (x[:EXAMPLES], y[:EXAMPLES]), (x[EXAMPLES:], y[EXAMPLES:])

        def learned(net: fnn.Layer) -> dict[str, jax.Array]:
            def validate(state: fnn.TrainState) -> dict[str, jax.Array]:
                right = (net.apply(state.params, state.layer_state, new[0]) > 0) == (new[1] > 0.5)
                outputs = net.apply(state.params, state.layer_state, plane())[:, 0]
                return {"accuracy": jnp.mean(right.astype(jnp.float32)), "plane": outputs}

            learn = fnn.trainer(net, fnn.binary_cross_entropy, fnn.adam(RATE), batch_size=BATCH)
            _, records = fnn.train(learn, learn.init(of_run, known), known, steps, steps // frames, validate)
            return {"loss": records["loss"]} | records["validation"]

        return known[0], {case: learned(network(*case)) for case in cases}

    return experiment


Found = dict[tuple[str, int], dict[str, np.ndarray]]
"""by activation and number of hidden layers, records [seeds, frames, …]"""


def named(activation: str, layers: int) -> str:
    """As tables and legends have it."""
    return f"{activation}, {layers} hidden"


def verdicts(found: Found, steps: int) -> list[r.Verdict]:
    """The verdicts on depth, on the weights that it takes, and on ReLU."""
    last = {case: records["accuracy"][:, -1] for case, records in found.items()}
    whole = {case: records["loss"].mean(axis=1) for case, records in found.items()}
    depths = sorted({layers for _, layers in found})
    frames = found["tanh", 1]["accuracy"].shape[1]
    late = {layers: found["tanh", layers]["loss"].mean(axis=0) for layers in depths[:-1]}
    falls = (f"{of[2 * frames // 3 - 1]:.2g} to {of[-1]:.2g} with {layers} hidden" for layers, of in late.items())
    filled = {"late": 2 * frames // 3 * (steps // frames), "steps": steps, "falls": " and from ".join(falls)}
    errors = {
        f"{activation}, {more} against {fewer} hidden": (1 - last[activation, more], 1 - last[activation, fewer])
        for activation in ACTIVATIONS
        for fewer, more in pairwise(depths)
    }
    differences = {name: r.Interval.of(one - other) for name, (one, other) in errors.items()}
    undecided = [name for name, difference in differences.items() if abs(difference.mean) <= difference.half]
    relu_and_tanh = {f"{layers} hidden": (whole["ReLU", layers], whole["tanh", layers]) for layers in depths}
    return [
        r.at_least(
            SUFFICE.filled(**filled), REQUIRED, {named(*case): values for case, values in last.items() if case[1] < 3}
        ),
        r.smaller(DEEPER.filled(undecided="; for ".join(undecided) or "none"), errors),
        r.smaller(SOONER, relu_and_tanh, factor=0.5),
        _of_sizes(),
    ]


def _of_sizes() -> r.Verdict:
    counted = [parameter_count(network("tanh", layers).init(jax.random.key(0), plane())[0]) for layers in WIDTHS]
    sizes = [(2, *widths, 1) for widths in WIDTHS.values()]
    expected = [sum((before + 1) * H for before, H in pairwise(size)) for size in sizes]
    return r.exactly(SIZE, counted, expected, f"{', '.join(map(str, counted))} for 1, 2 and 3 hidden layers")


def moving_picture(x: np.ndarray, found: Found, steps: int) -> r.Animation:
    """The first seed of each network: its outputs on the plane, and the loss."""
    depths = sorted({layers for _, layers in found})
    frames = found["tanh", 1]["loss"].shape[1]
    time = np.arange(1, frames + 1) * (steps // frames)
    side = np.linspace(-1.15, 1.15, CELLS)

    def draw(canvas: Canvas, k: int) -> None:
        grid = canvas.add_gridspec(
            3, len(depths), left=0.12, right=0.965, top=0.955, bottom=0.075, hspace=0.2, wspace=0.05
        )
        for row, activation in enumerate(ACTIVATIONS):
            for column, layers in enumerate(depths):
                axes = canvas.add_subplot(grid[row, column])
                outputs = found[activation, layers]["plane"][0, k].reshape(CELLS, CELLS)
                axes.contourf(side, side, outputs, (-1e9, -2, 0, 2, 1e9), colors=SHADES)
                axes.contour(side, side, outputs, (0,), colors=mpl.rcParams["text.color"], linewidths=1.2)
                for arm, color in enumerate(ARMS):
                    axes.plot(*x[arm::2].T, "o", color=color, markersize=2.2, markeredgewidth=0)
                axes.set(xticks=(), yticks=(), aspect="equal")
                axes.spines[:].set_visible(False)
                axes.set_title(named(activation, layers), fontsize=10, color=r.COLORS[layers + 1], pad=3)
        axes = canvas.add_subplot(grid[2, :])
        for (activation, layers), records in found.items():
            axes.plot(
                time[: k + 1], records["loss"][0, : k + 1], LINES[activation], color=r.COLORS[layers + 1], linewidth=1.4
            )
        axes.set(xlim=(0, steps), yscale="log", ylim=(1e-5, 1), yticks=10.0 ** np.arange(-5, 1))
        axes.minorticks_off()
        axes.tick_params(labelsize=9)
        axes.set_ylabel("loss", fontsize=10)
        axes.set_xlabel(f"step {time[k]}", fontsize=10, labelpad=2)

    return r.animated(
        draw,
        frames,
        "The outputs of networks with about as many weights on the plane as they learn two spirals, one seed. The "
        "black line is the boundary; where the colour is pale, the odds are below e² = 7.4. Below: the loss in the "
        "colours of the titles, tanh dashed.",
        "Moving picture of the planes of tanh and ReLU networks. Straight boundaries bend and wind themselves between "
        "the arms of two spirals; networks with more layers and those of ReLU get there first, and the loss below "
        "falls accordingly.",
        size=(5.4, 5.9),
    )


def _accuracies(found: Found, steps: int) -> r.Figure:
    frames = found["tanh", 1]["loss"].shape[1]
    time = np.arange(1, frames + 1) * (steps // frames)
    with r.figure() as canvas:
        axes = canvas.subplots()
        for activation, layers in sorted(found, key=lambda case: case[::-1]):
            mean, half = r.interval(found[activation, layers]["accuracy"])
            color = r.COLORS[layers + 1]
            axes.plot(time, mean, LINES[activation], color=color, label=named(activation, layers))
            axes.fill_between(time, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
        axes.set(xlabel="step", ylabel="accuracy on new points")
        r.name_lines(axes)
        return r.finished(
            canvas,
            f"Accuracy on {2 * EXAMPLES} new points as training goes on, mean and 95 % interval over seeds; tanh "
            "dashed",
            "Line plot of accuracy over steps for tanh and ReLU networks: those with more hidden layers rise sooner, "
            "and those of ReLU sooner than those of tanh.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, judge and draw."""
    steps, frames, depths = settings.pick(quick=(400, 8, (1, 3)), full=(1500, 30, tuple(WIDTHS)))
    cases = [(activation, layers) for activation in ACTIVATIONS for layers in depths]
    log(f"{settings.seeds} seeds of {len(cases)} networks, {steps} steps, in one compiled call")
    x, found = r.sweep_seeds(experiment_with(cases, steps, frames), settings)
    log("drawing the moving picture")
    last = {
        case: {key: r.Interval.of(records[key][:, -1]) for key in ("accuracy", "loss")}
        for case, records in found.items()
    }
    rows = {
        named(*case): {
            "widths": "-".join(map(str, (2, *WIDTHS[case[1]], 1))),
            "accuracy on new points": values["accuracy"],
            "loss": values["loss"],
        }
        for case, values in last.items()
    }
    return r.Outcome(
        LEAD.format(depths=", ".join(map(str, depths)), steps=steps),
        verdicts(found, steps),
        EQUATION,
        slide=9,
        tables=[r.table(f"After {steps} steps, means over seeds with 95 % intervals", "network", rows)],
        figures=[_accuracies(found, steps)],
        animations=[moving_picture(x[0], found, steps)],
        numbers={named(*case): values for case, values in last.items()},
    )
