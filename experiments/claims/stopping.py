"""When to stop: what SG's rules on Q and W leave to be gained, and what held-out examples tell in time.

Command: ``python -m experiments stopping``; 20 seconds on two CPU cores. Expect
Q to stop SG at a loss 4 % above the least, and W never to settle to one per cent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

EXAMPLES, FEATURES, ETA, EVERY, LONGEST = 256, 10, 0.05, 256, 102_400
TOLERANCES = (0.1, 0.03, 0.01)
RULES: dict[str, tuple[bool, bool, bool]] = {
    "Q": (True, False, False),
    "W": (False, True, False),
    "Q and W": (True, True, False),
    "Q or W": (True, True, True),
}
"""whether Q counts, whether W does, and whether one of them is enough"""
FEW, HIDDEN, NOISE, PATIENCE = 60, 64, 0.3, 10
AVERAGED = (0.1, 0.01, 0.001)
"""λ"""


EQUATION = r"""Q \coloneqq (1-\lambda)Q + \lambda\mathcal{L}_i
\left|Q - Q'\right| \le \tau\left|Q'\right|
\lVert W - W'\rVert \le \tau\lVert W'\rVert"""
LEAD = (
    f"Stochastic gradient descent, one example a step, fits a logistic model of {FEATURES} features to {EXAMPLES} "
    "examples that overlap, and stops by the lecture’s rules: where the running loss Q, the weights W, both or one of "
    f"them change by no more than a share τ within {EVERY} steps, at most {{longest}} steps. Its mean loss is compared "
    "with the least that any weights have, which the gradient of all examples finds. Then a network with "
    f"{HIDDEN} hidden neurons learns {FEW} noisy points, and stops by Q, or where held-out examples say so."
)
NEAR = r.Claim(
    f"Where SG stops by one of the lecture's rules, with τ = {TOLERANCES[-1]:g}, little is left to gain: its mean loss "
    "is within 10 % of the least that any weights have.",
    why="With a constant η the weights keep shaking about the best ones, and so does the loss.",
    quantity="mean loss over the least loss",
)
STOPS = r.Claim(
    f"With τ = {TOLERANCES[-1]:g} each of the lecture's rules ends SG: at least nine of ten runs stop before "
    "{longest} steps.",
    why="With a constant η the running loss of single examples keeps changing by more than one per cent.",
    quantity="share of the runs that stop",
)
CLOSER = r.Claim(
    f"A smaller tolerance leaves less to gain: with τ = {TOLERANCES[-1]:g} the mean loss is lower than with "
    f"τ = {TOLERANCES[0]:g}.",
    why="Once the weights shake about the best ones, more steps do not bring them nearer.",
    quantity="mean loss, small less large τ",
)
ESTIMATE = r.Claim(
    "The running loss Q, which costs nothing, estimates the mean loss over all examples to within 10 %.",
    why="Q averages the last 1/λ losses, of single examples, which differ widely: for a large λ these are few.",
    quantity="share by which Q and the mean loss differ",
)
EARLY = r.Claim(
    "Stopping by held-out examples generalises better than stopping when Q is stable: its loss on new points is "
    "smaller.",
    quantity="loss on new points, early less stable",
)
SOONER = r.Claim(
    "Stopping by held-out examples takes fewer steps than waiting until Q is stable.",
    why="Q changes little while the network learns slowly, and counts as stable then; held-out examples get better for "
    "longer.",
    quantity="steps, early less stable",
)


def overlapping(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Examples of two classes −1 and 1 whose Gaussians overlap."""
    key_x, key_y = jax.random.split(key)
    y = jnp.where(jax.random.bernoulli(key_y, shape=(EXAMPLES,)), 1, -1).astype(jnp.int32)
    return jax.random.normal(key_x, (EXAMPLES, FEATURES), jnp.float32) + 0.3 * y[:, None].astype(jnp.float32), y


def mean_loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Q over all examples."""
    return jnp.mean(fnn.logistic_margin.value(fnn.linear(1).apply(params, (), batch[0]), batch[1]))


def least_loss(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The smallest mean loss that any weights have, by a thousand steps along the gradient of all examples."""

    def step(w: Any, _: None) -> tuple[Any, None]:
        return jax.tree.map(lambda leaf, g: leaf - g, w, jax.grad(mean_loss)(w, batch)), None

    start = {"w": jnp.zeros((FEATURES, 1), jnp.float32), "b": jnp.zeros(1, jnp.float32)}
    return mean_loss(jax.lax.scan(step, start, length=1000)[0], batch)


def experiment_with(rule: tuple[bool, bool, bool], longest: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, tolerance) -> records`` of SG that stops by a rule."""
    of_loss, of_weights, either = rule
    learn = fnn.trainer(
        fnn.linear(1), fnn.logistic_margin, fnn.sgd(ETA), batch_size=1, running_loss_rate=1 / EVERY,
        draw=fnn.with_replacement,
    )  # fmt: skip

    def experiment(key: jax.Array, tolerance: jax.Array) -> dict[str, jax.Array]:
        key_data, key_run = jax.random.split(key)
        batch = overlapping(key_data)
        tolerances = {"running_loss_tolerance": of_loss, "weights_tolerance": of_weights}
        asked: Any = {name: tolerance for name, counts in tolerances.items() if counts}
        state, end = fnn.train_until_stable(
            learn, learn.init(key_run, batch), batch, max_steps=longest, every=EVERY, either=either, **asked
        )
        loss = mean_loss(state.params, batch)
        return {"loss": loss, "ratio": loss / least_loss(batch), "steps": end.steps, "stable": end.stable}

    return experiment


def experiment_of_estimates(longest: int) -> Callable[..., jax.Array]:
    """The pure experiment ``(key, λ) -> |Q − mean loss| / mean loss`` after many steps."""

    def experiment(key: jax.Array, rate: Any) -> jax.Array:
        key_data, key_run = jax.random.split(key)
        batch = overlapping(key_data)
        learn = fnn.trainer(
            fnn.linear(1), fnn.logistic_margin, fnn.sgd(ETA), batch_size=1, running_loss_rate=rate,
            draw=fnn.with_replacement,
        )  # fmt: skip
        state, _ = fnn.train(learn, learn.init(key_run, batch), batch, longest // 10)
        loss = mean_loss(state.params, batch)
        return jnp.abs(state.running_loss - loss) / loss

    return experiment


def experiment_early_with(longest: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The pure experiment ``key -> losses and steps`` of a network stopped by Q [0] and by held-out points [1]."""
    net = fnn.serial(fnn.dense(HIDDEN, fnn.tanh), fnn.linear(1))
    learn = fnn.trainer(net, fnn.squared, fnn.adam(1e-2), batch_size=10, running_loss_rate=0.01)

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        key_x, key_noise, key_run = jax.random.split(key, 3)
        x = jax.random.uniform(key_x, (3 * FEW, 1), jnp.float32, -3, 3)
        y = jnp.sin(2 * x) + NOISE * jax.random.normal(key_noise, x.shape, x.dtype)
        known, held_out, new = ((x[i : i + FEW], y[i : i + FEW]) for i in (0, FEW, 2 * FEW))

        def loss(state: fnn.TrainState, part: tuple[jax.Array, jax.Array]) -> jax.Array:
            return jnp.mean(fnn.squared.value(net.apply(state.params, state.layer_state, part[0]), part[1]))

        start = learn.init(key_run, known)
        stable, end = fnn.train_until_stable(
            learn, start, known, max_steps=longest // 4, every=128, running_loss_tolerance=TOLERANCES[-1]
        )
        early, stop = fnn.train_with_early_stopping(
            learn,
            start,
            known,
            max_steps=longest // 4,
            every=64,
            validate=lambda s: loss(s, held_out),
            patience=PATIENCE,
        )
        return {
            "loss": jnp.stack([loss(stable, new), loss(early, new)]),
            "steps": jnp.stack([end.steps, stop.steps]),
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Stop by every rule, estimate, stop early, and judge."""
    longest = settings.pick(quick=10_240, full=LONGEST)
    log(f"{settings.seeds} seeds × {len(TOLERANCES)} tolerances × {len(RULES)} rules")
    found = {
        name: r.sweep_seeds(experiment_with(rule, longest), settings, tolerance=TOLERANCES)
        for name, rule in RULES.items()
    }
    estimates = r.sweep_seeds(experiment_of_estimates(longest), settings, rate=AVERAGED)
    log("stopping a network by held-out examples")
    early = r.sweep_seeds(experiment_early_with(longest), settings)
    return r.Outcome(
        LEAD.format(longest=f"{longest:,}"),
        [
            r.at_least(
                STOPS.filled(longest=f"{longest:,}"), 0.9, {name: of["stable"][:, -1] for name, of in found.items()}
            ),
            r.at_most(NEAR, 1.1, {name: of["ratio"][:, -1] for name, of in found.items()}),
            r.smaller(CLOSER, {name: (of["loss"][:, -1], of["loss"][:, 0]) for name, of in found.items()}),
            r.at_most(ESTIMATE, 0.1, r.by_case(estimates, AVERAGED, "λ = {:g}")),
            r.smaller(EARLY, {"": (early["loss"][:, 1], early["loss"][:, 0])}),
            r.smaller(SOONER, {"": (early["steps"][:, 1], early["steps"][:, 0])}),
        ],
        EQUATION,
        slide=10,
        tables=[_table(found)],
        figures=[_picture(found)],
        numbers={
            name: {
                "steps": [r.Interval.of(steps) for steps in of["steps"].T],
                "ratio": [r.Interval.of(ratio) for ratio in of["ratio"].T],
            }
            for name, of in found.items()
        },
    )


def _table(found: dict[str, dict[str, np.ndarray]]) -> r.Table:
    rows = {
        f"{name}, τ = {tolerance:g}": {
            "steps": of["steps"][:, i].astype(float),
            "stopped": of["stable"][:, i],
            "mean loss over the least": of["ratio"][:, i],
        }
        for name, of in found.items()
        for i, tolerance in enumerate(TOLERANCES)
    }
    return r.table("Where SG stops by each rule, and what that leaves to be gained", "rule", rows)


def _picture(found: dict[str, dict[str, np.ndarray]]) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for marker, color, (name, of) in zip("osv^", r.COLORS, found.items(), strict=False):
            steps, losses = of["steps"].mean(axis=0), of["ratio"].mean(axis=0)
            axes.plot(steps, losses, marker=marker, color=color, label=name)
            for i, tolerance in enumerate(TOLERANCES):
                if name == "Q":
                    axes.annotate(
                        f"τ = {tolerance:g}", (steps[i], losses[i]), (4, 6), textcoords="offset points", fontsize=10
                    )
        axes.set(xscale="log", xlabel="steps until it stops", ylabel="mean loss over the least")
        axes.legend(title="stable is")
        return r.finished(
            canvas,
            "What each rule leaves to be gained, by the steps that it takes, at three tolerances; means over seeds",
            "Four lines: smaller tolerances take more steps; the mean loss comes down towards the least, and no "
            "further.",
        )
