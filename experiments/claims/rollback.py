"""Optimal Brain Damage that gives the last links back and stops, for links and for features.

Command: ``python -m experiments rollback``; 45 seconds on two CPU cores. Expect
a quarter of the links left at a cost of 0.01 of the accuracy, no planted feature lost, and others left in 15 of 64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data, pruned_digits
from experiments import report as r
from fnn.pruning import Score, feature_pruner, features_left, obd, prune, pruner, sparse

AMOUNT, TOLERANCES = 0.2, (0.0, 0.05, 0.2, 1e9)
"""the share of the links that a round removes; what Q may rise by, the last without bound"""
MIDDLE = TOLERANCES.index(0.05)
SCORES = ("OBD, one pass", "|w|")
FEATURES, PLANTED, EXAMPLES, HIDDEN, NOISE, ALLOWED = 20, 5, 600, 16, 0.1, 0.03
Found = dict[str, dict[str, np.ndarray]]


EQUATION = r"""S_j = \sum_h \tfrac{1}{2} w_{jh}^2 \frac{\partial^2 Q}{\partial w_{jh}^2}
Q_{\text{train}} > Q_{\text{train}}^0 + \tau \text{ or}
Q_{\text{new}} > Q_{\text{new}}^0 + \tau \text{: undo, stop}"""
LEAD = (
    "Networks that read handwritten digits lose a fifth of their links a round, those with the least saliency, of one "
    "backward pass as in the paper of 1989, or the smallest weights, and are trained again. As the lecture says, a "
    "round is undone, and pruning ends, where the loss of the training sample or of held-out digits has risen by more "
    "than τ; other digits tell what is left. The same loop selects features, twice for each seed: a target, "
    f"$\\sin 2a + bc + d + e^2/2$ and noise, depends on {PLANTED} of {FEATURES}, each round removes the feature with "
    f"the least $S_j$, all its links at once, and τ = {ALLOWED:g}."
)
SAFE = r.Claim(
    f"Rolling back keeps what the network can do: with τ = {TOLERANCES[MIDDLE]:g} pruning costs at most 0.01 of the "
    "accuracy on other digits.",
    why="The cost is so near to 0.01 that the interval crosses it: τ bounds the loss, not the accuracy.",
    quantity="accuracy before less after pruning",
)
MANY = r.Claim(
    f"Even so most links go: with τ = {TOLERANCES[MIDDLE]:g} at most a quarter of them is left.",
    why="Rounds of a fifth leave 26 % and then 21 %: in most runs by |w| the round to 21 % already lets one of the two "
    "losses rise by more than τ, and is undone.",
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
    why="It stops too early, and features that do not matter stay: a sum of the saliencies of single links ranks a "
    "planted feature, nearly always the linear one, below them; its removal is rightly undone, and that ends the loop.",
    quantity="share of the runs",
)
KEEPS = r.Claim(
    "No feature that matters is lost: in at least nine of ten runs all planted features are among those left.",
    quantity="share of the runs",
)


def by_either(smallest: jax.Array) -> Score:
    """The saliency of the links, or their |w| where `smallest` is true: one program for both."""
    of_links, of_weights = (pruned_digits.SCORES[name].saliency for name in SCORES)

    def saliency(*given: Any) -> Any:
        return jax.tree.map(lambda w, S: jnp.where(smallest, w, S), of_weights(*given), of_links(*given))

    return Score("S or |w|", saliency)


def experiment_with(steps: int, rounds: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, smallest) -> accuracy before and after, and the share of links left``, by τ.

    Whatever τ is, the rounds are the same until one is undone: one run, in which none is, shows where each τ ends.
    """

    def experiment(key: jax.Array, smallest: jax.Array) -> dict[str, jax.Array]:
        learn = pruned_digits.learner(steps)
        seed = pruned_digits.trained(key, learn, steps)
        decide, other = data.split(key, seed.held_out, len(seed.held_out[0]) // 2)

        def loss(part: tuple[jax.Array, jax.Array]) -> Callable[..., jax.Array]:
            return lambda params, state: pruned_digits.mean_loss(params, state, part)

        def wrong(params: Any, state: Any) -> jax.Array:
            return 1 - data.accuracy(pruned_digits.NET.apply(params, state, other[0]), other[1])

        looks = [loss(seed.sample), loss(decide), wrong]
        rule = pruner(learn, by_either(smallest), looks, amount=AMOUNT, retrain=pruned_digits.RETRAIN, scope="global")
        first = jnp.stack([look(seed.state.params, seed.state.layer_state) for look in looks])
        _, report = prune(rule, seed.state, seed.sample, rounds)
        found = jnp.concatenate([first[None], report["loss"]])
        share = jnp.concatenate([jnp.ones(1, report["left"].dtype), report["left"]])
        allowed = found[:1, :2] + jnp.asarray(TOLERANCES, found.dtype)[:, None]
        worse = jnp.any(~(found[None, 1:, :2] <= allowed[:, None]), axis=-1)
        kept = jnp.where(worse.any(axis=1), worse.argmax(axis=1), rounds)
        return {"before": 1 - found[0, 2], "after": 1 - found[kept, 2], "left": share[kept]}

    return experiment


def experiment_of_features(steps: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The pure experiment ``key -> which features are left [features], and which the undone round removed``."""
    net = fnn.serial(fnn.dense(HIDDEN, fnn.tanh), fnn.linear(1))
    optimizer = fnn.chain(fnn.masked(fnn.l2(1e-3), fnn.weights_only), fnn.adam(3e-3))
    learn = fnn.trainer(net, fnn.squared, sparse(optimizer), batch_size=30)
    score = obd(net, fnn.squared, exact=False)  # which is exact with one hidden layer

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        key_x, key_run = jax.random.split(key)
        drawn = jax.random.normal(key_x, (2 * EXAMPLES, FEATURES + 1), jnp.float32)
        a, b, c, d, e = drawn[:, :PLANTED].T
        y = (jnp.sin(2 * a) + b * c + d + jnp.square(e) / 2 + NOISE * drawn[:, -1])[:, None]
        known, unseen = ((drawn[part, :-1], y[part]) for part in (slice(0, EXAMPLES), slice(EXAMPLES, None)))

        def loss(part: tuple[jax.Array, jax.Array]) -> Callable[..., jax.Array]:
            return lambda params, state: jnp.mean(fnn.squared.value(net.apply(params, state, part[0]), part[1]))

        rule = feature_pruner(
            learn, score, [loss(known), loss(unseen)], amount=1, retrain=steps // 5, tolerance=ALLOWED
        )
        state, _ = fnn.train(learn, learn.init(key_run, known), known, steps)
        pruned, _ = prune(rule, state, known, FEATURES - 1)
        left, now = features_left(pruned.links), pruned.state
        S = score.saliency(now.params, now.layer_state, known, key)[0]["w"].sum(axis=1)
        return {"left": left, "undone": jnp.argmin(jnp.where(left, S, jnp.inf))}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Prune with every tolerance, select features, judge and draw."""
    steps, rounds = settings.pick(quick=(300, 4), full=(2000, 16))
    log(f"{settings.seeds} seeds × {len(TOLERANCES)} tolerances × {len(SCORES)} scores, {rounds} rounds")
    runs = r.sweep_seeds(experiment_with(steps, rounds), settings, smallest=(False, True))
    found = {score: {name: of[:, i] for name, of in runs.items()} for i, score in enumerate(SCORES)}
    log("selecting features by the same loop")
    features = r.sweep_seeds(experiment_of_features(steps), settings._replace(seeds=2 * settings.seeds))
    left = features["left"]
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
            "feature whose removal was undone": features["undone"] + 1,
        },
    )


def _verdicts(found: Found, left: np.ndarray) -> list[r.Verdict]:
    exact = found[SCORES[0]]
    planted = np.arange(FEATURES) < PLANTED
    return [
        r.at_most(SAFE, 0.01, {name: of["before"] - of["after"][:, MIDDLE] for name, of in found.items()}),
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
            "accuracy before": of["before"],
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
                    shift, side = ((8, -14), "left") if i == len(TOLERANCES) - 1 else ((0, 8), "center")
                    place, look = (left[i], after[i]), {"textcoords": "offset points", "fontsize": 10, "ha": side}
                    axes.annotate(_said(tolerance), place, shift, **look)
        axes.set(
            xscale="log",
            xlim=(0.02, 1.4),
            ylim=(0.55, 1.02),
            xlabel="share of the links left",
            ylabel="accuracy on other digits",
        )
        axes.legend(title="ranked by")
        return r.finished(
            canvas,
            "Where pruning ends at each tolerance τ, and the accuracy there; means and 95 % intervals over seeds",
            "Two lines of accuracy over the share of the links that is left: nearly level down to a quarter of them, "
            "and far lower at the left end, where nothing is rolled back; there smallest weights cost more than OBD.",
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
            f"Bars over {FEATURES} features: those of the first {PLANTED} reach 100 %, the others about a tenth.",
        )
