"""Optimal Brain Damage selects features: those that matter are planted, and are to be found.

Command: ``python -m experiments feature_selection``; 15 seconds on two CPU cores. Expect all six planted features
to be found by every score if features have one scale; with different scales 0.75 ± 0.09 of them by the saliencies of
links, 0.79 ± 0.07 by |w| and 0.90 ± 0.05 by the second derivative at a gate.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r
from fnn.pruning import feature_saliency, gate_saliency, magnitude, obd

FEATURES, PLANTED, FEWER = 30, 6, 4
"""features, those that the target depends on, and how many are removed in a round"""
ROUNDS = (FEATURES - PLANTED) // FEWER
LEFT = FEATURES - FEWER * np.arange(ROUNDS + 1)
EXAMPLES, HELD_OUT, BATCH, NOISE = 2000, 500, 50, 0.1
NET, LOSS = fnn.serial(fnn.dense(20, fnn.tanh), fnn.linear(1)), fnn.squared
SCORES = ("OBD, links", "OBD, gates", "sum of |w|")
SCALES = {"one scale": 0.0, "different scales": 1.0}
"""log₁₀ of the ratio of the largest scale of a feature to the smallest"""
Found = dict[str, np.ndarray]


EQUATION = r"""S_{jh} = \tfrac12 w_{jh}^2\, \frac{\partial^2 Q}{\partial w_{jh}^2}
\text{links: } S_j = \sum_h S_{jh}
\text{gates: } S_j = \tfrac12\, \frac{\partial^2 Q}{\partial g_j^2} \text{ at } g = 1
\text{where } x_j \text{ goes in as } g_j x_j"""
LEAD = (
    "Features that matter are planted among others, and it is counted how many of them the scores of a trained "
    f"network find. The target depends on {PLANTED} of {FEATURES} normally distributed features, $y = \\sin 2a + bc + "
    f"\\tanh 2d + e^2/2 + f$ plus noise. The network {NET} learns it from {EXAMPLES} examples in {{steps}} steps of "
    f"Adam with L2, whose rate falls to 0, so that it ends near a minimum. Then, {ROUNDS} times, the {FEWER} features "
    "that a score ranks last are removed, and the network goes on learning for {retrain} steps likewise, until "
    f"{PLANTED} are left; features removed blindly would leave the planted ones in proportion. For comparison the "
    "network goes through the same rounds with nothing removed, and all features are ranked once at their end. Once "
    "all features have the same scale, and once scales that differ up to tenfold, as those of units do, which weights "
    "make up for. R² is that on held-out examples. Means over seeds."
)
FINDS = r.Claim(
    "Optimal Brain Damage finds the features that matter, by the summed saliencies of their links: nine tenths of the "
    f"{PLANTED} planted features are among the last {PLANTED} of {FEATURES}.",
    why="A likely cause: the network has not learned features of a small scale yet when they are first ranked, and "
    "what is removed then does not come back.",
    quantity="share of the planted features that is found",
)
NO_MORE = r.Claim(
    "Optimal Brain Damage, by the summed saliencies of a feature's links, misses no more of the planted features than "
    "the sum of their |w| does.",
    why="A likely cause: a sum of the second derivatives of single links leaves out how they act together, and away "
    "from a minimum some of them are negative.",
    quantity="share of the planted features that is missed, saliencies less |w|",
)
GRADUALLY = r.Claim(
    "Removing features gradually by their links' summed saliencies, with training in between, misses fewer of the "
    "planted ones than ranking all once after as many steps.",
    why="Where ranking all features once misses none of the planted, nothing can miss fewer.",
    quantity="share of the planted features that is missed, gradually less at once",
)
BETTER = r.Claim(
    f"With the {PLANTED} features that the links' summed saliencies leave, the held-out error 1 − R² is smaller than "
    f"with all {FEATURES} after as many steps.",
    why="A likely cause: where the saliencies miss planted features, as the tables show, the output lacks their part.",
    quantity=f"held-out error 1 − R², with {PLANTED} features less with all",
)
GATES = r.Claim(
    "The second derivative by a gate on each feature, which includes what its links do together, misses no more of the "
    "planted features than the summed saliencies of these links.",
    quantity="share of the planted features that is missed, gates less links",
)


def target(x: jax.Array) -> jax.Array:
    """A function of the first six features: waves, a product, a threshold, a square, a line."""
    a, b, c, d, e, f = x[:, :PLANTED].T
    return jnp.sin(2 * a) + b * c + jnp.tanh(2 * d) + jnp.square(e) / 2 + f


def experiment_with(steps: int, retrain: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, spread) -> metrics [scores + 1, rounds + 1]``: train, remove features, retrain.

    Last come the same rounds with nothing removed. In its network at the end all features are ranked once.
    """

    def rate(step: jax.Array) -> jax.Array:
        return 1e-2 * (1 - jnp.where(step < steps, step / steps, (step - steps) % retrain / retrain))

    optimizer = fnn.chain(fnn.masked(fnn.l2(1e-3), fnn.weights_only), fnn.adam(rate))
    learn = fnn.trainer(NET, LOSS, optimizer, batch_size=BATCH)
    links, gates = obd(NET, LOSS).saliency, gate_saliency(NET, LOSS)

    def experiment(key: jax.Array, spread: jax.Array) -> dict[str, jax.Array]:
        key_x, key_scale, key_run = jax.random.split(key, 3)
        drawn = jax.random.normal(key_x, ((EXAMPLES + HELD_OUT) * (FEATURES + 1),), jnp.float32)
        drawn = drawn.reshape(EXAMPLES + HELD_OUT, FEATURES + 1)
        y = target(drawn) + NOISE * drawn[:, -1]
        scale = 10 ** (spread * jax.random.uniform(key_scale, (FEATURES,), jnp.float32, -0.5, 0.5))
        (x, unseen), (y, expected) = (jnp.split(array, [EXAMPLES]) for array in (drawn[:, :-1] * scale[None, :], y))

        def saliencies(state: fnn.TrainState, x: jax.Array) -> jax.Array:
            given = state.params, state.layer_state, (x, y[:, None]), key
            of_links, of_weights = (feature_saliency(of(*given)[0]["w"]) for of in (links, magnitude().saliency))
            return jnp.stack([of_links, gates(*given), of_weights])

        def look(state: fnn.TrainState, left: jax.Array) -> dict[str, jax.Array]:
            a = NET.apply(state.params, state.layer_state, jnp.where(left[None, :], unseen, 0))[:, 0]
            return {
                "found": jnp.mean(left[:PLANTED].astype(x.dtype)),
                "R²": 1 - jnp.mean(jnp.square(a - expected)) / jnp.var(expected),
            }

        def rounds(score: jax.Array, fewer: jax.Array) -> tuple[fnn.TrainState, dict[str, jax.Array]]:
            def one(
                carry: tuple[fnn.TrainState, jax.Array], keep: jax.Array
            ) -> tuple[tuple[fnn.TrainState, jax.Array], dict[str, jax.Array]]:
                state, left = carry
                worth = saliencies(state, jnp.where(left[None, :], x, 0))[score]
                ascending = jnp.argsort(jnp.where(left, worth, -jnp.inf))
                left = jnp.zeros_like(left).at[ascending].set(jnp.arange(FEATURES) >= FEATURES - keep)
                state, _ = fnn.train(learn, state, (jnp.where(left[None, :], x, 0), y[:, None]), retrain)
                return (state, left), look(state, left)

            (state, _), found = jax.lax.scan(one, (whole, every), FEATURES - fewer * jnp.arange(1, ROUNDS + 1))
            return state, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), look(whole, every), found)

        every = jnp.ones(FEATURES, bool)
        whole, _ = fnn.train(learn, learn.init(key_run, (x, y[:, None])), (x, y[:, None]), steps)
        states, found = jax.vmap(rounds)(jnp.asarray([0, 1, 2, 0]), jnp.asarray([FEWER] * len(SCORES) + [0]))
        best = jnp.argsort(saliencies(jax.tree.map(lambda leaf: leaf[-1], states), x), axis=1)[:, -PLANTED:]
        return found | {"once": jnp.mean((best < PLANTED).astype(x.dtype), axis=1)}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, remove features by each score, and count the planted ones that stay."""
    steps, retrain = settings.pick(quick=(200, 50), full=(1200, 300))
    log(f"{settings.seeds} seeds × {len(SCORES)} scores and none, {ROUNDS} rounds of {FEWER} features removed")
    values = r.sweep_seeds(experiment_with(steps, retrain), settings, spread=tuple(SCALES.values()))
    kept = values["R²"][:, :, -1]
    found = {
        scale: {
            score: {key: v[:, i, j] for key, v in values.items()} | {"R², all kept": kept[:, i]}
            for j, score in enumerate(SCORES)
        }
        for i, scale in enumerate(SCALES)
    }
    numbers = {
        scale: {score: {key: v.mean(axis=0) for key, v in f.items()} for score, f in of.items()}
        for scale, of in found.items()
    }
    return r.Outcome(
        LEAD.format(steps=steps, retrain=retrain),
        _verdicts(found),
        EQUATION,
        slide=24,
        tables=[_table(scale, of) for scale, of in found.items()],
        figures=[_shares(found["different scales"]), _qualities(found["different scales"])],
        numbers=numbers | {"features left": LEFT},
    )


def _verdicts(found: dict[str, dict[str, Found]]) -> list[r.Verdict]:
    links, gates, weights = SCORES

    def of(score: str, what: str) -> dict[str, np.ndarray]:
        return {scale: of_scores[score][what] for scale, of_scores in found.items()}

    def missed(score: str) -> dict[str, np.ndarray]:
        return {scale: 1 - shares[:, -1] for scale, shares in of(score, "found").items()}

    def errors(what: str) -> dict[str, np.ndarray]:
        return {scale: 1 - values[:, -1] for scale, values in of(links, what).items()}

    def pairs(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {scale: (one[scale], other[scale]) for scale in found}

    missed_at_once = {scale: 1 - values for scale, values in of(links, "once").items()}
    return [
        r.at_least(FINDS, 0.9, {scale: shares[:, -1] for scale, shares in of(links, "found").items()}),
        r.smaller(NO_MORE, pairs(missed(links), missed(weights)), or_equal=True),
        r.smaller(GRADUALLY, pairs(missed(links), missed_at_once)),
        r.smaller(BETTER, pairs(errors("R²"), errors("R², all kept"))),
        r.smaller(GATES, pairs(missed(gates), missed(links)), or_equal=True),
    ]


def _table(scale: str, of: dict[str, Found]) -> r.Table:
    rows = {
        score: {
            "planted found at once": f["once"],
            "in rounds": f["found"][:, -1],
            "R², all features": f["R², all kept"][:, -1],
            f"R², {PLANTED} left": f["R²"][:, -1],
        }
        for score, f in of.items()
    }
    return r.table(
        f"Features of {scale}: share of the planted ones found, and R², all after as many steps", "score", rows
    )


def _shares(of: dict[str, Found]) -> r.Figure:
    return r.curves(
        LEFT,
        {score: f["found"] for score, f in of.items()},
        "The share of planted features that is left as others are removed, features of different scales",
        f"Line plot over the number of features left from {FEATURES} to {PLANTED}: the share of planted ones that is "
        "still among them, for three scores and for removal at random; highest for gates.",
        xlabel="features left",
        ylabel="share of planted features left",
        marker="o",
        theory={"at random": LEFT / FEATURES},
    )


def _qualities(of: dict[str, Found]) -> r.Figure:
    return r.curves(
        LEFT,
        {score: f["R²"] for score, f in of.items()} | {"nothing removed": of[SCORES[0]]["R², all kept"]},
        "Held-out R² as features of different scales are removed, and after as many steps with nothing removed",
        f"Line plot over the number of features left from {FEATURES} to {PLANTED}: R² on held-out examples for three "
        "scores, and without removal.",
        xlabel="features left",
        ylabel="R² on held-out examples",
        marker="o",
    )
