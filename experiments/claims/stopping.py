"""When to stop: what SG's rules on Q and W leave to be gained, and what held-out examples tell in time.

Command: ``python -m experiments stopping``; 30 seconds on two CPU cores. Expect
Q to stop SG at a loss 4 % above the least, and W to go on changing by a quarter of its norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

EXAMPLES, FEATURES, ETA, EVERY, LONGEST = 256, 10, 0.05, 256, 25_600
TOLERANCES = (0.1, 0.03, 0.01)
ANY = float("inf")
"""the tolerance of what may change as it likes"""
RULES = {"Q": (1.0, ANY), "W": (ANY, 1.0), "Q and W": (1.0, 1.0)}
"""by what τ is multiplied to make the tolerances of Q and of W"""
EITHER = "Q or W"
FEW, HIDDEN, NOISE, LOOK, PATIENCE, ENOUGH = 60, 64, 0.3, 64, 10, 12_800
"""of the network: examples, neurons, noise, steps from look to look, looks without progress, and most steps"""
AVERAGED = (0.1, 0.01, 0.001)
"""λ"""
Found = dict[str, dict[str, np.ndarray]]
"""by rule, records [runs, tolerances]"""


EQUATION = r"""Q \coloneqq (1-\lambda)Q + \lambda\mathcal{L}_i
\left|Q - Q'\right| \le \tau\left|Q'\right|
\lVert W - W'\rVert \le \tau\lVert W'\rVert"""
LEAD = (
    f"Stochastic gradient descent, one example a step, fits a logistic model of {FEATURES} features to {EXAMPLES} "
    "examples that overlap, and stops by the lecture’s rules: where the running loss Q, the weights W, both or one of "
    f"them change by no more than a share τ within {EVERY} steps, at most {{longest}} steps; two runs for each "
    "seed. Its mean loss is compared with the least that any weights have, which the gradient of all examples finds, "
    "and with Q after the most steps. Then a network with "
    f"{HIDDEN} hidden neurons learns {FEW} noisy points, and stops by Q, or where held-out examples say so."
)
NEAR = r.Claim(
    f"Where SG stops by one of the lecture's rules, with τ = {TOLERANCES[-1]:g}, little is left to gain: its mean loss "
    "is within 10 % of the least that any weights have.",
    why="With a constant η the weights keep shaking about the best ones, and so does the loss.",
    quantity="mean loss over the least loss, of the runs that stop",
)
STOPS = r.Claim(
    f"With τ = {TOLERANCES[-1]:g} each of the lecture's rules ends SG: at least nine of ten runs stop before "
    "{longest} steps.",
    why=f"With a constant η single examples keep shaking the weights, which within {EVERY} steps change by about a "
    "quarter of their norm however long it takes; Q does settle.",
    quantity="share of the runs that stop",
)
CLOSER = r.Claim(
    f"A smaller tolerance leaves less to gain: with τ = {TOLERANCES[-1]:g} the mean loss is lower than with "
    f"τ = {TOLERANCES[0]:g}.",
    why=f"With τ = {TOLERANCES[0]:g} Q already stops only when the weights shake about the best ones, and more steps "
    "bring them no nearer.",
    quantity="mean loss of the runs that stop, small less large τ",
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
    why="When Q counts as stable the loss of held-out examples is still hundreds of steps from its least on average, "
    f"and its rule then waits for {LOOK * PATIENCE} more to be sure.",
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


def experiment_with(longest: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, case) -> records`` of SG; a case is the tolerances of Q and of W, and λ."""

    def experiment(key: jax.Array, case: jax.Array) -> dict[str, jax.Array]:
        key_data, key_run = jax.random.split(key)
        batch = overlapping(key_data)
        of_loss, of_weights, rate = case
        learn = fnn.trainer(
            fnn.linear(1), fnn.logistic_margin, fnn.sgd(ETA), batch_size=1, running_loss_rate=rate,
            draw=fnn.with_replacement,
        )  # fmt: skip
        tolerances: Any = {"running_loss_tolerance": of_loss, "weights_tolerance": of_weights}
        start = learn.init(key_run, batch)
        state, end = fnn.train_until_stable(learn, start, batch, max_steps=longest, every=EVERY, **tolerances)
        loss = mean_loss(state.params, batch)
        return {
            "loss": loss,
            "ratio": loss / least_loss(batch),
            "steps": end.steps,
            "stable": end.stable,
            "moved": end.weights_change,
            "missed": jnp.abs(state.running_loss - loss) / loss,
        }

    return experiment


def stopped_by_rules(settings: r.Settings, longest: int) -> tuple[Found, dict[str, np.ndarray]]:
    """Where SG stops by each rule, and how far Q is from the mean loss [runs] by λ where nothing stops it.

    All runs of a seed take the same steps, so that of the rules Q and W the one that is met first ends "Q or W".
    """
    cases = [(of_Q * tau, of_W * tau, 1 / EVERY) for of_Q, of_W in RULES.values() for tau in TOLERANCES]
    cases += [(0.0, 0.0, rate) for rate in AVERAGED]
    runs = r.sweep_seeds(experiment_with(longest), settings, case=cases)
    each = len(TOLERANCES)
    found = {
        rule: {name: of[:, i * each : (i + 1) * each] for name, of in runs.items()} for i, rule in enumerate(RULES)
    }
    sooner = found["Q"]["steps"] <= found["W"]["steps"]
    found[EITHER] = {name: np.where(sooner, of, found["W"][name]) for name, of in found["Q"].items()}
    return found, r.by_case(runs["missed"][:, -len(AVERAGED) :], AVERAGED, "λ = {:g}")


def experiment_early_with(most: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The pure experiment ``key -> losses and steps`` of a network stopped by Q [0] and by held-out points [1]."""
    net = fnn.serial(fnn.dense(HIDDEN, fnn.tanh), fnn.linear(1))
    learn = fnn.trainer(
        net, fnn.squared, fnn.adam(1e-2), batch_size=10, running_loss_rate=0.01, draw=fnn.with_replacement
    )

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        key_x, key_noise, key_run = jax.random.split(key, 3)
        x = jax.random.uniform(key_x, (3 * FEW, 1), jnp.float32, -3, 3)
        y = jnp.sin(2 * x) + NOISE * jax.random.normal(key_noise, x.shape, x.dtype)
        known, held_out, new = ((x[i : i + FEW], y[i : i + FEW]) for i in (0, FEW, 2 * FEW))

        def loss(state: fnn.TrainState, part: tuple[jax.Array, jax.Array]) -> jax.Array:
            return jnp.mean(fnn.squared.value(net.apply(state.params, state.layer_state, part[0]), part[1]))

        start = learn.init(key_run, known)
        stable, end = fnn.train_until_stable(
            learn, start, known, max_steps=most, every=2 * LOOK, running_loss_tolerance=TOLERANCES[-1]
        )
        early, stop = fnn.train_with_early_stopping(
            learn, start, known, max_steps=most, every=LOOK, validate=lambda s: loss(s, held_out), patience=PATIENCE
        )
        return {
            "loss": jnp.stack([loss(stable, new), loss(early, new)]),
            "steps": jnp.stack([end.steps, stop.steps]),
            "best": stop.best_step,
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Stop by every rule, estimate, stop early, and judge."""
    longest = settings.pick(quick=LONGEST // 5, full=LONGEST)
    twice = settings._replace(seeds=2 * settings.seeds)
    log(f"{twice.seeds} runs × {len(TOLERANCES)} tolerances × {len(RULES)} rules")
    found, missed = stopped_by_rules(twice, longest)
    log("stopping a network by held-out examples")
    early = r.sweep_seeds(experiment_early_with(settings.pick(quick=ENOUGH // 5, full=ENOUGH)), twice)
    return r.Outcome(
        LEAD.format(longest=f"{longest:,}"),
        [
            r.at_least(
                STOPS.filled(longest=f"{longest:,}"), 0.9, {name: of["stable"][:, -1] for name, of in found.items()}
            ),
            r.at_most(NEAR, 1.1, {name: ratio[:, -1] for name, ratio in _of_stopped(found, "ratio").items()}),
            r.smaller(CLOSER, {name: (loss[:, -1], loss[:, 0]) for name, loss in _of_stopped(found, "loss").items()}),
            r.at_most(ESTIMATE, 0.1, missed),
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
                "change of W": [r.Interval.of(moved) for moved in of["moved"].T],
            }
            for name, of in found.items()
        }
        | {
            "network": {
                "steps by Q": r.Interval.of(early["steps"][:, 0]),
                "by held-out examples": r.Interval.of(early["steps"][:, 1]),
                "to their least loss": r.Interval.of(early["best"]),
            }
        },
    )


def _of_stopped(found: Found, measure: str) -> dict[str, np.ndarray]:
    """A measure [runs, tolerances] of the runs that stop at the least τ, of the rules that end two or more."""
    stopped = {name: of["stable"][:, -1] for name, of in found.items()}
    return {name: of[measure][stopped[name]] for name, of in found.items() if stopped[name].sum() > 1}


def _table(found: Found) -> r.Table:
    rows = {
        f"{name}, τ = {tolerance:g}": {
            "steps": of["steps"][:, i].astype(float),
            "stopped": of["stable"][:, i],
            "last change of W": of["moved"][:, i],
            "mean loss over the least": of["ratio"][:, i],
        }
        for name, of in found.items()
        for i, tolerance in enumerate(TOLERANCES)
    }
    return r.table("Where SG stops by each rule, and what that leaves to be gained", "rule", rows)


def _picture(found: Found) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for marker, color, (name, of) in zip("osv^", r.COLORS, found.items(), strict=False):
            steps, (losses, half) = of["steps"].mean(axis=0), r.interval(of["ratio"])
            filled = "none" if name in ("Q and W", EITHER) else color
            size = 9 if filled == "none" else 7
            axes.errorbar(
                steps, losses, half, marker=marker, color=color, label=name, capsize=2, markersize=size, mfc=filled
            )
        for i, tolerance in enumerate(TOLERANCES):
            place = found["Q"]["steps"][:, i].mean(), found["Q"]["ratio"][:, i].mean()
            above: Any = {"textcoords": "offset points", "fontsize": 10, "ha": "center"}
            axes.annotate(f"τ = {tolerance:g}", place, (0, 34 + 14 * (i % 2)), **above)
        axes.set(xscale="log", xlabel="steps until it stops, or the most", ylabel="mean loss over the least")
        axes.set(xlim=(500, 4e4), ylim=(1, 1.1))
        axes.legend(title="stable is")
        return r.finished(
            canvas,
            "What each rule leaves to be gained, by the steps that it takes, at three tolerances; means and 95 % "
            "intervals over runs",
            "Four lines in two pairs, all level at 1.04 of the least loss: by Q, or by whichever comes first, SG stops "
            "after about a thousand to three thousand steps, by W, or by both, at the most steps allowed or shortly "
            "before.",
        )
