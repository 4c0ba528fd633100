"""Exploding gradients: clipping keeps them finite, at the right θ; momentum helps with some.

Command: ``python -m experiments clipping``; 11 seconds on two CPU cores. Expect every run without clipping and momentum
to fail; of those clipped at θ = 1, 19 % from large first weights and none with large steps.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r
from fnn.training import Metric

HIDDEN, WIDTH, BATCH = 8, 32, 32
CAUSES = {"large weights": (2.5, 0.1), "large steps": (math.sqrt(2), 1.0)}
"""the gain of Glorot's first weights, and η; a gain of √2 keeps the variance through ReLU"""
THETAS = (0.1, 1.0, 10.0, 100.0, math.inf)
GAMMAS = (0.0, 0.9, 0.99)
TENTH, ONE, NEVER = map(THETAS.index, (0.1, 1.0, math.inf))
LEARNED = 2.2
"""a mean loss that is not below this is that of guessing, ln 10 = 2.303, or worse"""
FEW, MOST = 0.2, 0.8

norm = Metric("norm", of_step=lambda step: fnn.tree_norm(step.gradient))
"""‖g‖ before it is clipped"""


EQUATION = r"""g \coloneqq \frac{\theta}{\lVert g\rVert}\, g \quad \text{if } \lVert g\rVert > \theta
v \coloneqq \gamma v + (1 - \gamma)\, g
w \coloneqq w - \eta v"""
LEAD = (
    f"Networks of {HIDDEN} hidden layers of {WIDTH} ReLUs learn digits for {{steps}} steps, with and without clipping "
    "and momentum. Training fails for two causes: first weights 1.8 times as large as keeps the variance, so that "
    "outputs and errors explode from layer to layer, with η = 0.1; or good weights and too large a rate, η = 1. The "
    "gradient is clipped at θ, then goes into momentum γ. A run fails if its mean loss over the last tenth is not "
    f"below {LEARNED}, guessing having ln 10 = 2.303; one that does not fail may still have learned little, as the "
    "accuracies show."
)
UNCLIPPED = r.Claim(
    f"With large weights or large steps, at least {100 * MOST:.0f} % of the runs without clipping and momentum fail "
    f"(γ = 0; the loss does not end below {LEARNED}).",
    quantity="runs that fail",
)
CLIPPED = r.Claim(
    f"With large weights or large steps, at most {100 * FEW:.0f} % of the runs fail that are clipped at θ = 1 or "
    f"θ = 0.1, without momentum (γ = 0; the loss does not end below {LEARNED}).",
    why="No step is longer than ηθ, which from large weights is 0.1 or 0.01. A likely cause: that is too short to undo "
    "them in so few steps.",
    quantity="runs that fail",
)
MOMENTUM = r.Claim(
    "A well chosen γ of momentum replaces clipping: with large weights or large steps and γ = 0.99, at most "
    f"{100 * FEW:.0f} % of the runs fail (the loss does not end below {LEARNED}).",
    why="A likely cause: momentum averages gradients, so with γ = 0.99 a step can be larger before it overshoots; but "
    "the average of exploded gradients has exploded too, and what large first weights have done is not undone.",
    quantity="runs that fail",
)


def experiment_with(steps: int) -> Any:
    """The pure experiment ``(key, cause, theta, gamma) -> records``, a cause being a gain and a rate."""
    x, y = data.digits()[1:]

    def experiment(key: jax.Array, cause: jax.Array, theta: Any, gamma: Any) -> dict[str, jax.Array]:
        gain, eta = cause
        w = fnn.nn.glorot_uniform(gain)
        net = fnn.serial(*[fnn.dense(WIDTH, fnn.relu, w=w)] * HIDDEN, fnn.linear(10, w=w))
        optimizer = fnn.chain(fnn.clip_by_norm(theta), fnn.momentum(eta, gamma))
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, optimizer, batch_size=BATCH, metrics=[norm])
        state, records = fnn.train(learn, learn.init(key, (x, y)), (x, y), steps, every=1)
        right = data.accuracy(net.apply(state.params, state.layer_state, x), y)
        loss = jnp.mean(records["loss"][-steps // 10 :])
        return {"failed": ~(loss < LEARNED), "accuracy": right, "norm": records["norm"]}

    return experiment


def norms(found: dict[str, np.ndarray]) -> r.Figure:
    """‖g‖ in every step of the first seed of each cause, clipped and not."""
    with r.figure(5.4, 5.8) as canvas:
        for axes, cause, name in zip(canvas.subplots(2, 1, sharex=True), range(2), CAUSES, strict=True):
            for color, theta, label in ((r.COLORS[3], NEVER, "not clipped"), (r.COLORS[0], ONE, "clipped at θ = 1")):
                values = found["norm"][0, cause, theta, 0]
                last = np.flatnonzero(np.isfinite(values) & (values > 0))
                axes.plot(1 + last, values[last], color=color, label=label)
            axes.axhline(1, linestyle=":", color="#888888")
            axes.set(title=name, ylabel="‖g‖ before clipping", xscale="log", yscale="log")
        canvas.axes[0].legend()
        canvas.axes[1].set_xlabel("step")
        return r.finished(
            canvas,
            "The norm of the gradient in every step of the first seed, γ = 0; a line ends where ‖g‖ is no finite "
            "number above 0",
            "Two line plots on logarithmic scales. From large weights the norm without clipping shoots up to a number "
            "of some twenty digits within a few steps, and then is none at all; clipped it falls slowly. With large "
            "steps it peaks in the first steps without clipping, and then stays small; clipped it keeps near 1.",
        )


def accuracies(found: dict[str, np.ndarray]) -> r.Figure:
    """The accuracy against θ."""
    cases = {
        name: r.by_case(np.moveaxis(found["accuracy"][:, i], 2, 1), GAMMAS, "γ = {:g}") for i, name in enumerate(CAUSES)
    }
    with r.figure(5.4, 5.8) as canvas:
        at = np.arange(len(THETAS))
        for axes, (name, of_gamma) in zip(canvas.subplots(2, 1, sharex=True), cases.items(), strict=True):
            r.error_bars(axes, at, of_gamma)
            axes.set(title=name, ylabel="accuracy at the end", xticks=at, ylim=(0, 1.02))
            axes.set_xticklabels(["∞" if theta == math.inf else f"{theta:g}" for theta in THETAS])
        canvas.axes[0].legend()
        canvas.axes[1].set_xlabel("threshold θ")
        means = {f"{name}, {gamma}": v.mean(0) for name, of in cases.items() for gamma, v in of.items()}
        return r.finished(
            canvas,
            "Accuracy on the training digits against the threshold θ, ∞ for no clipping: means over seeds with 95 % "
            "intervals",
            f"Two plots of accuracy against the clipping threshold {', '.join(f'{theta:g}' for theta in THETAS)} for "
            f"three values of γ. {r.spoken(means)}.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train with every threshold and inertia, and judge."""
    steps = settings.pick(quick=100, full=200)
    log(f"{settings.seeds} seeds × {len(CAUSES)} causes × {len(THETAS)} thresholds × {len(GAMMAS)} inertias")
    causes = tuple(CAUSES.values())
    found = r.sweep_seeds(experiment_with(steps), settings, cause=causes, theta=THETAS, gamma=GAMMAS)
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(found["failed"]),
        EQUATION,
        slide=17,
        tables=[_table(found["failed"])],
        figures=[accuracies(found), norms(found)],
        numbers={
            "steps": steps,
            "accuracy": {
                name: {
                    f"γ = {gamma:g}, θ = {theta:g}": r.Interval.of(found["accuracy"][:, i, j, k])
                    for j, theta in enumerate(THETAS)
                    for k, gamma in enumerate(GAMMAS)
                }
                for i, name in enumerate(CAUSES)
            },
        },
    )


def _verdicts(failed: np.ndarray) -> list[r.Verdict]:
    def runs(theta: int, gamma: float = 0.0) -> dict[str, np.ndarray]:
        return r.by_case(failed[:, :, theta, GAMMAS.index(gamma)], CAUSES)

    clipped = {f"{name}, θ = {THETAS[i]:g}": of for i in (ONE, TENTH) for name, of in runs(i).items()}
    return [
        r.at_least(UNCLIPPED, MOST, runs(NEVER)),
        r.at_most(CLIPPED, FEW, clipped),
        r.at_most(MOMENTUM, FEW, runs(NEVER, 0.99)),
    ]


def _table(failed: np.ndarray) -> r.Table:
    rows = [
        (name, f"{gamma:g}", *(r.percent(failed[:, i, j, k].mean()) for j in range(len(THETAS))))
        for i, name in enumerate(CAUSES)
        for k, gamma in enumerate(GAMMAS)
    ]
    header = ("cause", "γ", *("θ = ∞" if theta == math.inf else f"θ = {theta:g}" for theta in THETAS))
    return r.Table("Share of runs that fail, by the threshold; ∞ is no clipping", header, rows)
