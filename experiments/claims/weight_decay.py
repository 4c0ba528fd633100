"""L2 regularisation keeps weights small and the overfitting gap narrow.

Command: ``python -m experiments weight_decay``; 9 seconds on two CPU cores. Expect λ = 0.01 to narrow the gap from
0.42 to 0.32 on digits and from 0.19 to 0.13 on breast cancer, and to change the accuracy by less
than 0.005.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r
from fnn.training import overfitting_gap

WIDTH, BATCH, ETA, SHRINKING = 32, 20, 0.3, 100
"""hidden neurons, examples in a batch, η, and steps that are taken without a gradient"""
RAISED = str(SHRINKING).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
"""as an exponent"""
LEARNED_ON = {"digits": 100, "breast cancer": 40}
"""how many examples are learned; the others are held out"""
STRENGTHS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
CHOSEN = STRENGTHS.index(1e-2)
CLEARLY = 0.99
"""what is to be smaller must be so by 1 % at least, and an accuracy larger by 0.001"""
POINTS = 40
Found = dict[str, dict[str, np.ndarray]]
"""for each data set arrays [seeds, strengths, …]"""


EQUATION = r"""L(W) + \tfrac{\lambda}{2} \lVert W\rVert^2 \to \min
w \coloneqq w(1 - \eta\lambda) - \eta\, \frac{\partial L}{\partial w}"""
LEAD = (
    f"A network of {WIDTH} hidden ReLUs learns a few examples ({{learned}}) by {{steps}} steps of SGD (stochastic "
    f"gradient descent) with η = {ETA}, with L2 on its weights, not the biases. All other examples are held out. The "
    "overfitting gap is the loss on held-out examples minus that on those learned, both without the penalty."
)
SHRINKS = r.Claim(
    f"As the equation of L2 says, a step without a gradient is w := w(1 − ηλ): after {SHRINKING} of them the weights "
    f"are (1 − ηλ){RAISED} times those at first (up to rounding, 10⁻⁵ of their norm).",
    quantity="relative difference of the weights",
)
GROW = r.Claim(
    "Without L2 the weights go on growing: ‖W‖ is larger at the end than at half time (by 1 % or more).",
    quantity=f"‖W‖, at half time less {CLEARLY} of that at the end",
)
SMALLER = r.Claim(
    "The larger the λ of L2, the smaller ‖W‖ is at the end (by 1 % or more each time).",
    quantity=f"‖W‖ at the end, with the larger λ less {CLEARLY} of that with the smaller",
)
GAP = r.Claim(
    "L2 with λ = 0.01 narrows the overfitting gap (by 1 % or more against λ = 0).",
    quantity=f"overfitting gap, with λ = 0.01 less {CLEARLY} of that with λ = 0",
)
LOSS = r.Claim(
    "L2 with λ = 0.01 lowers the held-out loss (by 1 % or more against λ = 0).",
    why="The λ with the lowest held-out loss is {best}. The larger λ is, the worse the examples learned are fitted.",
    quantity=f"held-out loss, with λ = 0.01 less {CLEARLY} of that with λ = 0",
)
ACCURACY = r.Claim(
    "L2 with λ = 0.01 raises the held-out accuracy (by 0.001 or more against λ = 0).",
    why="A likely cause: L2 makes predictions less sure, which lowers the loss where they are wrong; which class is "
    "the largest hardly changes.",
    quantity="held-out accuracy, with λ = 0.01 less with λ = 0",
)
HARM = r.Claim(
    "Too much L2 does harm: with λ = 0.1 the held-out loss is higher than with λ = 0.01 (by 1 % or more).",
    why="A likely cause: breast cancer, with two classes that a plane nearly separates, needs small weights only.",
    quantity=f"held-out loss, with λ = 0.01 less {CLEARLY} of that with λ = 0.1",
)


def weights(params: Any) -> Any:
    """The weights alone, which L2 is for; biases are left out."""
    return jax.tree.map(lambda w, chosen: w if chosen else None, params, fnn.weights_only(params))


def experiment_with(sample: data.Sample, steps: int) -> Callable[..., Any]:
    """The pure experiment ``(key, strength) -> records``: a few examples of the sample are learned."""
    net = fnn.serial(fnn.dense(WIDTH, fnn.relu), fnn.linear(sample.classes))

    def experiment(key: jax.Array, strength: Any) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        learned, held_out = data.split(key_split, (sample.x, sample.y), LEARNED_ON[sample.label])
        optimizer = fnn.chain(fnn.masked(fnn.l2(strength), fnn.weights_only), fnn.sgd(ETA))
        loss = fnn.softmax_cross_entropy
        learn, gap = fnn.trainer(net, loss, optimizer, batch_size=BATCH), overfitting_gap(net, loss, learned, held_out)

        def validate(state: fnn.TrainState) -> dict[str, Any]:
            return gap(state)._asdict() | {"norm": fnn.tree_norm(weights(state.params))}

        start = learn.init(key_run, learned)
        end, records = fnn.train(learn, start, learned, steps, every=steps // POINTS, validate=validate)
        accuracy = data.accuracy(net.apply(end.params, end.layer_state, held_out[0]), held_out[1])

        def shrink(params: Any, _: None) -> tuple[Any, None]:
            nothing = jax.tree.map(jnp.zeros_like, params)
            return fnn.apply_updates(params, optimizer.update(nothing, start.optimizer_state, params)[0]), None

        shrunk = weights(jax.lax.scan(shrink, start.params, length=SHRINKING)[0])
        expected = jax.tree.map(lambda w: w * (1 - ETA * strength) ** SHRINKING, weights(start.params))
        apart = fnn.tree_norm(jax.tree.map(jnp.subtract, shrunk, expected)) / fnn.tree_norm(expected)
        return records["validation"] | {"accuracy": accuracy, "apart": apart}

    return experiment


def name_of(strength: float) -> str:
    """As it stands in tables and pictures."""
    return f"λ = {strength:g}"


def grown(found: Found, steps: int) -> r.Figure:
    """‖W‖ and the overfitting gap over the steps."""
    at = (1 + np.arange(POINTS)) * (steps // POINTS)
    with r.figure(5.4, 6.0) as canvas:
        grid = canvas.subplots(2, len(found), sharex=True, sharey="row", squeeze=False)
        for row, (what, label) in zip(grid, (("norm", "‖W‖"), ("gap", "held-out − training loss")), strict=True):
            for axes, of in zip(row, found.values(), strict=True):
                for color, strength, values in zip(r.COLORS, STRENGTHS, np.moveaxis(of[what], 1, 0), strict=False):
                    mean, half = r.interval(values)
                    axes.plot(at, mean, color=color, label=name_of(strength))
                    axes.fill_between(at, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
            row[0].set_ylabel(label)
        for axes, name in zip(grid[0], found, strict=True):
            axes.set_title(name)
        for axes in grid[1]:
            axes.set_xlabel("step")
        canvas.legend(*grid[0][0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
        return r.finished(
            canvas,
            "Above: the norm of all weights during training. Below: the overfitting gap. Means over seeds with 95 % "
            "intervals",
            "Line plots for the data sets. Without L2 the norm of the weights grows to the end, and so does the gap "
            "between held-out and training loss; the larger λ is, the smaller both are, and the sooner they stand.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train with every strength, and judge."""
    steps, names = settings.pick(quick=(400, ("digits",)), full=(2000, tuple(LEARNED_ON)))
    found: Found = {}
    for sample in (data.digits(), data.breast_cancer()):
        if sample.label in names:
            log(f"{settings.seeds} seeds × {len(STRENGTHS)} strengths on {LEARNED_ON[sample.label]} of {sample.label}")
            found[sample.label] = r.sweep_seeds(experiment_with(sample, steps), settings, strength=STRENGTHS)
    end = {name: _at_the_end(of) for name, of in found.items()}
    return r.Outcome(
        LEAD.format(learned=", ".join(f"{LEARNED_ON[name]} of {name}" for name in found), steps=steps),
        _verdicts(found, end),
        EQUATION,
        slide=20,
        tables=[_table(name, of) for name, of in end.items()],
        figures=[grown(found, steps)],
        numbers={
            name: {
                name_of(strength): r.intervals({what: values[:, i] for what, values in of.items()})
                for i, strength in enumerate(STRENGTHS)
            }
            for name, of in end.items()
        },
    )


def _at_the_end(of: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    last = {"‖W‖": "norm", "training loss": "training", "held-out loss": "held_out", "gap": "gap"}
    return {name: of[key][..., -1] for name, key in last.items()} | {"held-out accuracy": of["accuracy"]}


def _table(name: str, of: dict[str, np.ndarray]) -> r.Table:
    rows = {f"{strength:g}": {what: v[:, i] for what, v in of.items()} for i, strength in enumerate(STRENGTHS)}
    return r.table(f"After training on {LEARNED_ON[name]} examples of {name}", "λ", rows)


def _verdicts(found: Found, end: Found) -> list[r.Verdict]:
    def chosen_and_none(what: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: (of[what][:, CHOSEN], of[what][:, 0]) for name, of in end.items()}

    losses = {name: of["held-out loss"].mean(axis=0) for name, of in end.items()}
    best = ", ".join(f"{STRENGTHS[int(np.argmin(loss))]:g} on {name}" for name, loss in losses.items())
    norms = {
        f"{name}, {name_of(STRENGTHS[i + 1])} against {STRENGTHS[i]:g}": (of["‖W‖"][:, i + 1], of["‖W‖"][:, i])
        for name, of in end.items()
        for i in range(len(STRENGTHS) - 1)
    }
    grown = {name: (of["norm"][:, 0, POINTS // 2 - 1], of["norm"][:, 0, -1]) for name, of in found.items()}
    raised = {name: chosen - none for name, (chosen, none) in chosen_and_none("held-out accuracy").items()}
    too_much = {name: (of["held-out loss"][:, CHOSEN], of["held-out loss"][:, -1]) for name, of in end.items()}
    return [
        r.at_most(SHRINKS, 1e-5, {name: of["apart"].max(axis=1) for name, of in found.items()}),
        r.smaller(GROW, grown, CLEARLY),
        r.smaller(SMALLER, norms, CLEARLY),
        r.smaller(GAP, chosen_and_none("gap"), CLEARLY),
        r.smaller(LOSS.filled(best=best), chosen_and_none("held-out loss"), CLEARLY),
        r.at_least(ACCURACY, 0.001, raised),
        r.smaller(HARM, too_much, CLEARLY),
    ]
