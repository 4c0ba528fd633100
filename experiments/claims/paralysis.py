"""How too large a step paralyses a deep sigmoid network, and what prevents it.

Command: ``python -m experiments paralysis``; half a minute on two CPU cores. Expect, at η = 10, a loss that
stays at that of guessing, ln 10 = 2.3, and at η = 1, or with batch norm, one that falls below 0.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure as Canvas

import fnn
from experiments import report as r
from experiments.data import digits
from fnn.training import Metric, saturated

HIDDEN, WIDTH, BATCH, BINS = 5, 32, 64, 20
SMALL, LARGE = 1.0, 10.0
EVERY = 2
"""steps between two records"""
LAYERS = range(1, HIDDEN + 1)
STEEPEST = 0.25
"""the largest slope of the sigmoid, σ'(0)"""
GUESSING = 2.2
"""a loss above this is that of guessing, ln 10 = 2.303"""
RUN_COLORS = (r.COLORS[3], r.COLORS[2], r.COLORS[0])
Runs = dict[str, dict[str, np.ndarray]]
"""for each run its records [seeds, time, …]"""
SATURATED = 0.01
"""a neuron is saturated for an example where z is under this part of the largest slope"""


EQUATION = r"""\varepsilon^{l-1} = (\varepsilon^l \circ z^l)\, (w^l)^\top
z^l = \sigma{\prime}(S^l)"""
LEAD = (
    f"Networks of {HIDDEN} layers of {WIDTH} sigmoids learn digits with large and with small steps. Where a step is "
    "so large that S runs onto a horizontal asymptote of σ, z is nearly 0, the product ε∘z stops what comes back, and "
    "no layer before it learns any more: the lecture's paralysis. Its remedies are a smaller step from the start, or "
    "batch normalisation before σ. A neuron counts as saturated for an example where z is under "
    f"{100 * SATURATED:g} % of the largest σ′."
)
SATURATES = r.Claim(
    f"At η = {LARGE:g} more than half of the last hidden layer of a deep sigmoid network becomes saturated.",
    quantity="share of the last hidden layer that is saturated",
)
NO_ERROR = r.Claim(
    f"At η = {LARGE:g} hardly any error passes back through a deep sigmoid network: the first hidden layer's ‖ε‖ is at "
    "most 1/100 of the last one's.",
    quantity="log₁₀ of ‖ε‖ in the first hidden layer over that in the last",
)
NOTHING = r.Claim(
    f"At η = {LARGE:g} a deep sigmoid network learns nothing: its loss stays above {GUESSING}, where guessing has "
    "ln 10 = 2.303.",
    quantity="loss at the end",
)
OUTLASTS = r.Claim(
    f"Paralysis outlasts its cause: after steps at η = {LARGE:g} and as many more at η = {SMALL:g} the loss of a deep "
    "sigmoid network is still above 1.",
    quantity="loss at the end",
)
PREVENTS = r.Claim(
    f"Batch normalisation prevents the paralysis of a deep sigmoid network: at η = {LARGE:g} its loss falls below 0.5.",
    quantity="loss at the end",
)


def _slopes(params: Any, seen: fnn.nn.LayerRecord) -> jax.Array | None:
    """How z/max σ' is distributed over examples and neurons: shares in equal bins of [0, 1]."""
    if not hasattr(seen.tape, "z") or not hasattr(seen.tape, "S"):
        return None
    bins = jnp.minimum((seen.tape.z / STEEPEST * BINS).astype(jnp.int32), BINS - 1).reshape(-1, 1)
    return jnp.mean((bins == jnp.arange(BINS, dtype=jnp.int32)[None, :]).astype(jnp.float32), axis=0)


def _error(params: Any, seen: fnn.nn.LayerRecord) -> jax.Array | None:
    """‖ε_i‖, the mean over examples."""
    return None if not hasattr(seen.tape, "z") else jnp.sum(jnp.linalg.norm(seen.error, axis=1))


METRICS = (Metric("slopes", _slopes), Metric("error", _error), saturated(SATURATED * STEEPEST))


def networks() -> dict[str, fnn.Layer]:
    """The same sigmoid network, as it is and with batch norm before each σ."""
    w = fnn.nn.glorot_uniform(4.0)
    normal = fnn.serial(fnn.linear(WIDTH, w=w), fnn.batch_norm(), fnn.activate(fnn.sigmoid))
    return {
        "plain": fnn.serial(*[fnn.dense(WIDTH, fnn.sigmoid, w=w)] * HIDDEN, fnn.linear(10)),
        "batch norm": fnn.serial(*[normal] * HIDDEN, fnn.linear(10)),
    }


def experiment_with(net: fnn.Layer, steps: int) -> Callable[..., Any]:
    """The pure experiment ``(key, eta) -> records``: steps of size η, then as many of size SMALL from there."""
    _, x, y = digits()
    data = 2 * x - 1, y

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        rate = fnn.sgd(lambda step: jnp.where(step < steps, eta, jnp.asarray(SMALL, eta.dtype)))
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, rate, batch_size=BATCH, metrics=METRICS)
        _, records = fnn.train(learn, learn.init(key, data), data, 2 * steps, every=EVERY)
        of_layers = {metric.name: jnp.stack([*records[metric.name].values()], axis=1) for metric in METRICS}
        return of_layers | {"loss": records["loss"]}

    return experiment


def trained(settings: r.Settings, steps: int, log: r.Log) -> Runs:
    """The three runs, each a dict of records [seeds, time, …]."""
    found = {}
    for name, net in networks().items():
        log(f"{settings.seeds} seeds of a sigmoid network, {name}, {2 * steps} steps in one compiled call")
        rates = {"plain": (LARGE, SMALL), "batch norm": (LARGE,)}[name]
        records = r.sweep_seeds(experiment_with(net, steps), settings, eta=rates)
        for i, rate in enumerate(rates):
            found[f"{name}, η = {rate:g}"] = {key: values[:, i] for key, values in records.items()}
    return found


def moving_picture(runs: Runs, steps: int, frames: int) -> r.Animation:
    """The first seed of each run: slopes and errors of every layer, and the loss, as training goes on."""
    end = steps // EVERY
    at = np.unique(np.geomspace(1, end, frames).astype(int)) - 1
    first = {name: {key: values[0, :end] for key, values in records.items()} for name, records in runs.items()}
    errors, losses = (np.concatenate([records[key].ravel() for records in first.values()]) for key in ("error", "loss"))

    def draw(canvas: Canvas, k: int) -> None:
        grid = canvas.add_gridspec(
            3, 3, height_ratios=(1.3, 1, 1), left=0.13, right=0.96, top=0.89, bottom=0.08, hspace=0.4, wspace=0.1
        )
        canvas.text(0.5, 0.965, f"step {EVERY * (at[k] + 1)}", ha="center", fontsize=12)
        slopes, norms = ([canvas.add_subplot(grid[i, j]) for j in range(3)] for i in (0, 1))
        loss = canvas.add_subplot(grid[2, :])
        for i, (name, records) in enumerate(first.items()):
            _slope_map(slopes[i], records["slopes"][at[k]], records["saturated"][at[k]])
            slopes[i].set_title(name, fontsize=10, color=RUN_COLORS[i])
            norms[i].plot(LAYERS, records["error"][at[k]], "o-", color=RUN_COLORS[i])
            norms[i].set(xlim=slopes[i].get_xlim(), yscale="log", ylim=_decades(errors))
            time = EVERY * np.arange(1, at[k] + 2)
            loss.plot(time, records["loss"][: at[k] + 1], color=RUN_COLORS[i], linewidth=1.2)
        loss.axhline(np.log(10), linestyle=":", color="#888888")
        loss.set(xlim=(0, steps), yscale="log", ylim=_decades(losses))
        for axes in (*slopes, *norms, loss):
            axes.tick_params(labelsize=9)
        for axes in (*slopes, *norms):
            axes.tick_params(labelleft=axes in (slopes[0], norms[0]))
            axes.set(xticks=LAYERS)
            axes.minorticks_off()
        for axes, words in zip((*norms, loss), ("layer",) * 3 + ("step",), strict=True):
            axes.set_xlabel(words, fontsize=10, labelpad=1)
        for axes, words in ((slopes[0], "z / max σ′"), (norms[0], "‖ε‖"), (loss, "loss")):
            axes.set_ylabel(words, fontsize=10)
            axes.yaxis.set_label_coords(-0.095 / axes.get_position().width, 0.5, transform=axes.transAxes)
        loss.text(steps, np.log(10) * 1.4, "guessing", ha="right", fontsize=9)

    return r.animated(
        draw,
        len(at),
        f"How a network of {HIDDEN} sigmoid layers is paralysed, one seed. Above: how σ′(S) = z is distributed in each "
        "layer, ink for its share and the percentage of saturated neurons; middle: the mean norm of ε; below: the loss "
        "of the three runs in the same colours. The time runs slower at the beginning.",
        f"Moving picture of three training runs. At η = {LARGE:g} the slopes of the last hidden layer fall to zero "
        "within a few steps, the errors of the layers before it fall by orders of magnitude, and the loss stays at "
        f"that of guessing. At η = {SMALL:g}, or with batch normalisation, slopes and errors stay alive and the loss "
        "falls.",
        size=(5.4, 5.4),
    )


def _slope_map(axes: Any, shares: np.ndarray, still: np.ndarray) -> None:
    """The distribution of z in every layer as a column of ink, and the share of saturated neurons above it."""
    extent = (0.5, HIDDEN + 0.5, 0, 1)
    axes.imshow(np.sqrt(shares.T), vmin=0, vmax=1, origin="lower", aspect="auto", extent=extent)
    axes.set(ylim=(0, 1.13), yticks=(0, 0.5, 1))
    axes.grid(False)
    for layer, share in zip(LAYERS, still, strict=True):
        axes.text(layer, 1.03, f"{100 * share:.0f}%", fontsize=9, ha="center")


def _decades(values: np.ndarray) -> tuple[float, float]:
    """The powers of ten around all of the values."""
    return float(10 ** np.floor(np.log10(values.min()))), float(10 ** np.ceil(np.log10(values.max())))


class Findings(NamedTuple):
    """One run in numbers, means over seeds with their intervals."""

    loss: r.Interval
    later: r.Interval
    """the loss after as many steps at η = SMALL"""
    above: r.Share
    """the seeds whose later loss is above that of guessing"""
    saturated: r.Interval
    """in the last hidden layer"""
    through: r.Interval
    """log₁₀ of ‖ε‖ in the first over that in the last hidden layer"""

    @property
    def guessing(self) -> float:
        """The share of the seeds whose later loss is still that of guessing."""
        count, seeds = self.above
        return count / seeds


def findings(records: dict[str, np.ndarray], steps: int) -> Findings:
    """Everything at the end of its phase: the mean over the last tenth of it."""
    end, tail = steps // EVERY, max(1, steps // EVERY // 10)
    last = {name: values[:, end - tail : end].mean(axis=1) for name, values in records.items()}
    later = records["loss"][:, -tail:].mean(axis=1)
    errors = np.maximum(last["error"], np.finfo(np.float32).tiny)
    of = [last["loss"], later, last["saturated"][:, -1], np.log10(errors[:, 0] / errors[:, -1])]
    loss, after, saturated, through = map(r.Interval.of, of)
    return Findings(loss, after, r.Share.of(later > GUESSING), saturated, through)


def _of_paralysis(found: dict[str, Findings]) -> list[r.Verdict]:
    frozen, healthy, normal = found.values()
    beside, up = f"; at η = {SMALL:g}:", np.inf
    outlasted = f"{frozen.later}; above {GUESSING} in {r.percent(frozen.guessing)} of the seeds"
    return [
        r.bounded(SATURATES, 0.5, up, {"": frozen.saturated}, lambda of: f"{of}{beside} {healthy.saturated}"),
        r.bounded(NO_ERROR, -up, -2, {"": frozen.through}, lambda of: f"{of}{beside} {healthy.through}"),
        r.bounded(NOTHING, GUESSING, up, {"": frozen.loss}, lambda of: f"{of}{beside} {healthy.loss}"),
        r.bounded(OUTLASTS, 1, up, {"": frozen.later}, lambda of: outlasted),
        r.bounded(PREVENTS, -up, 0.5, {"": normal.loss}, lambda of: f"{of}; saturated: {normal.saturated}"),
    ]


def _table(found: dict[str, Findings], steps: int) -> r.Table:
    rows = {
        name: {
            "loss": f.loss,
            "later loss": f.later,
            f"later loss above {GUESSING}": f.above,
            "saturated": f.saturated,
            "‖ε¹‖/‖ε⁵‖": f"{10**f.through.mean:.2g}",
        }
        for name, f in found.items()
    }
    caption = f"Sigmoid networks after {steps} steps, and later: after as many more at η = {SMALL:g}. Means over seeds "
    return r.table(caption + "with 95 % intervals; saturated is of the last hidden layer", "run", rows)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, judge and draw."""
    steps, frames = settings.pick(quick=(200, 7), full=(600, 52))
    runs = trained(settings, steps, log)
    found = {name: findings(records, steps) for name, records in runs.items()}
    log("drawing the moving picture")
    return r.Outcome(
        LEAD,
        _of_paralysis(found),
        EQUATION,
        slide=12,
        title="How a network is paralysed",
        tables=[_table(found, steps)],
        animations=[moving_picture(runs, steps, frames)],
        numbers={"steps": steps, "runs": found},
    )
