"""Optimal Brain Damage that gives the last links back and stops, for links and for features.

Command: ``python -m experiments rollback``; 60 seconds on two CPU cores. Expect
a quarter of the links left at a cost of 0.01 of the accuracy, and the planted features alone in 23 of 32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data, pruned_digits
from experiments import report as r
from fnn.pruning import feature_pruner, features_left, obd, prune, pruner, sparse

AMOUNT, TOLERANCES = 0.2, (0.05, 0.2, 1e9)
"""the share of the links that a round removes; what Q may rise by, the last without bound"""
MIDDLE = TOLERANCES.index(0.05)
SCORES = (pruned_digits.EXACT, "|w|")
FEATURES, PLANTED, EXAMPLES, HIDDEN, NOISE, ALLOWED = 20, 5, 600, 16, 0.1, 0.03
Found = dict[str, dict[str, np.ndarray]]


EQUATION = r"""S_j = \sum_h \tfrac{1}{2} w_{jh}^2 \frac{\partial^2 Q}{\partial w_{jh}^2}
Q_{\text{train}} > Q_{\text{train}}^0 + \tau \quad\text{or}
Q_{\text{new}} > Q_{\text{new}}^0 + \tau"""
LEAD = (
    "Networks that read handwritten digits lose a fifth of their links a round, those with the least saliency or the "
    "smallest weights, and are trained again. As the lecture says, a round is undone, and pruning ends, where the loss "
    "of the training sample or of held-out digits has risen by more than τ; other digits tell what is left. The same "
    f"loop selects features: a target depends on {PLANTED} of {FEATURES}, each round removes the feature with the "
    f"least $S_j$, all its links at once, and τ = {ALLOWED:g}, in twice as many runs."
)
SAFE = r.Claim(
    f"Rolling back keeps what the network can do: with τ = {TOLERANCES[MIDDLE]:g} pruning costs at most 0.01 of the "
    "accuracy on other digits.",
    why="Held-out digits that decide are known to the loop: other digits may lose more.",
    quantity="accuracy before less after pruning",
)
MANY = r.Claim(
    f"Even so most links go: with τ = {TOLERANCES[MIDDLE]:g} at most a quarter of them is left.",
    why="When about a quarter of the links is left the loss of held-out digits has risen by τ.",
    quantity="share of the links left",
)
NEEDED = r.Claim(
    f"Without rolling back pruning goes too far: after all rounds the accuracy is lower than with τ = "
    f"{TOLERANCES[MIDDLE]:g}.",
    quantity="accuracy, without less with rolling back",
)
BETTER = r.Claim(
    f"With τ = {TOLERANCES[MIDDLE]:g} Optimal Brain Damage ends with fewer links than removing the smallest weights.",
    quantity="share of the links left, OBD less smallest weights",
)
STOPS = r.Claim(
    f"The loop selects features: in at least nine of ten runs it ends with exactly the {PLANTED} planted ones.",
    why="It stops early: to take away one more feature that does not matter raises the loss by more than τ, for the "
    "network has learned to use it.",
    quantity="share of the runs",
)
KEEPS = r.Claim(
    "No feature that matters is lost: in at least nine of ten runs all planted features are among those left.",
    quantity="share of the runs",
)


def experiment_with(steps: int, rounds: int) -> Callable[[jax.Array], dict[str, dict[str, jax.Array]]]:
    """The pure experiment ``key -> accuracy before and after, and the share of the links left``, by score."""

    def experiment(key: jax.Array) -> dict[str, dict[str, jax.Array]]:
        learn = pruned_digits.learner(steps)
        seed = pruned_digits.trained(key, learn, steps)
        decide, other = data.split(key, seed.held_out, len(seed.held_out[0]) // 2)
        losses = [
            lambda params, state, part=part: pruned_digits.mean_loss(params, state, part)
            for part in (seed.sample, decide)
        ]

        def pruned_by(score: str, tolerance: jax.Array) -> dict[str, jax.Array]:
            rule = pruner(
                learn, pruned_digits.SCORES[score], losses, amount=AMOUNT, retrain=pruned_digits.RETRAIN,
                tolerance=tolerance, scope="global",
            )  # fmt: skip
            pruned, report = prune(rule, seed.state, seed.sample, rounds)
            return {
                "before": pruned_digits.right(seed.state, other),
                "after": pruned_digits.right(pruned.state, other),
                "left": jnp.min(jnp.where(report["kept"], report["left"], 1.0)),
            }

        tolerances = jnp.asarray(TOLERANCES, jnp.float32)
        return {score: jax.vmap(partial(pruned_by, score))(tolerances) for score in SCORES}

    return experiment


def experiment_of_features(steps: int) -> Callable[[jax.Array], jax.Array]:
    """The pure experiment ``key -> which features are left [features]``."""
    net = fnn.serial(fnn.dense(HIDDEN, fnn.tanh), fnn.linear(1))
    optimizer = fnn.chain(fnn.masked(fnn.l2(1e-3), fnn.weights_only), fnn.adam(3e-3))
    learn = fnn.trainer(net, fnn.squared, sparse(optimizer), batch_size=30)

    def experiment(key: jax.Array) -> jax.Array:
        key_x, key_run = jax.random.split(key)
        drawn = jax.random.normal(key_x, (2 * EXAMPLES, FEATURES + 1), jnp.float32)
        a, b, c, d, e = drawn[:, :PLANTED].T
        y = (jnp.sin(2 * a) + b * c + d + jnp.square(e) / 2 + NOISE * drawn[:, -1])[:, None]
        known, unseen = ((drawn[part, :-1], y[part]) for part in (slice(0, EXAMPLES), slice(EXAMPLES, None)))

        def loss(part: tuple[jax.Array, jax.Array]) -> Callable[..., jax.Array]:
            return lambda params, state: jnp.mean(fnn.squared.value(net.apply(params, state, part[0]), part[1]))

        rule = feature_pruner(
            learn, obd(net, fnn.squared), [loss(known), loss(unseen)], amount=1, retrain=steps // 5, tolerance=ALLOWED
        )
        state, _ = fnn.train(learn, learn.init(key_run, known), known, steps)
        return features_left(prune(rule, state, known, FEATURES - 1)[0].links)

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Prune with every tolerance, select features, judge and draw."""
    steps, rounds = settings.pick(quick=(300, 3), full=(2000, 12))
    log(f"{settings.seeds} seeds × {len(SCORES)} scores × {len(TOLERANCES)} tolerances, {rounds} rounds")
    found: Found = r.sweep_seeds(experiment_with(steps, rounds), settings)
    twice = settings._replace(seeds=2 * settings.seeds)
    log(f"selecting features by the same loop, {twice.seeds} runs")
    left = r.sweep_seeds(experiment_of_features(steps), twice)
    return r.Outcome(
        LEAD,
        _verdicts(found, left),
        EQUATION,
        slide=24,
        tables=[_table(found)],
        figures=[_picture(found), _features(left)],
        numbers={
            "links left": {name: [r.Interval.of(of) for of in runs["left"].T] for name, runs in found.items()},
            "accuracy after": {name: [r.Interval.of(of) for of in runs["after"].T] for name, runs in found.items()},
            "features left": left.sum(axis=1),
            "planted left": left[:, :PLANTED].sum(axis=1),
        },
    )


def _verdicts(found: Found, left: np.ndarray) -> list[r.Verdict]:
    exact = found[SCORES[0]]
    planted = np.arange(FEATURES) < PLANTED
    return [
        r.at_most(SAFE, 0.01, {name: (of["before"] - of["after"])[:, MIDDLE] for name, of in found.items()}),
        r.at_most(MANY, 0.25, {name: of["left"][:, MIDDLE] for name, of in found.items()}),
        r.smaller(NEEDED, {name: (of["after"][:, -1], of["after"][:, MIDDLE]) for name, of in found.items()}),
        r.smaller(BETTER, {"": (exact["left"][:, MIDDLE], found[SCORES[1]]["left"][:, MIDDLE])}),
        r.at_least(STOPS, 0.9, (left == planted).all(axis=1)),
        r.at_least(KEEPS, 0.9, left[:, planted].all(axis=1)),
    ]


def _said(tolerance: float) -> str:
    return f"τ = {tolerance:g}" if tolerance < 1 else "no rolling back"


def _table(found: Found) -> r.Table:
    rows = {
        f"{name}, {_said(tolerance)}": {
            "share of links left": of["left"][:, i],
            "accuracy before": of["before"][:, i],
            "after": of["after"][:, i],
        }
        for name, of in found.items()
        for i, tolerance in enumerate(TOLERANCES)
    }
    return r.table("Where pruning ends, and the accuracy on digits that decided nothing", "links ranked by", rows)


def _picture(found: Found) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, (name, of) in zip(r.COLORS, found.items(), strict=False):
            (left, across), (after, up) = r.interval(of["left"]), r.interval(of["after"])
            axes.errorbar(left, after, up, across, fmt="o-", color=color, capsize=2, label=name)
            for i, tolerance in enumerate(TOLERANCES):
                if color == r.COLORS[0]:
                    place = left[i], after[i]
                    axes.annotate(_said(tolerance), place, (5, -14), textcoords="offset points", fontsize=10)
        axes.margins(x=0.2)
        axes.set(xscale="log", xlabel="share of the links left", ylabel="accuracy on other digits")
        axes.legend(title="ranked by")
        return r.finished(
            canvas,
            "Where pruning ends at each tolerance τ, and the accuracy there; means and 95 % intervals over seeds",
            "Two lines of accuracy over the share of the links that is left: nearly level as long as τ is small, and "
            "far lower at the left end, where nothing is rolled back.",
        )


def _features(left: np.ndarray) -> r.Figure:
    share = left.mean(axis=0)
    with r.figure(5.4, 2.6) as canvas:
        axes = canvas.subplots()
        colors = [r.COLORS[0] if feature < PLANTED else r.COLORS[7] for feature in range(FEATURES)]
        axes.bar(np.arange(1, FEATURES + 1), 100 * share, color=colors)
        axes.set(xlabel="feature", ylabel="runs in which it is left, %", ylim=(0, 100))
        axes.set_xticks([1, PLANTED, 10, 15, FEATURES])
        return r.finished(
            canvas,
            f"How often each feature is left when the loop ends; the first {PLANTED} are those that matter",
            f"Bars over {FEATURES} features: those of the first {PLANTED} are high, the others low.",
        )
