"""Optimal Brain Damage on handwritten digits: does its loop of removing and retraining pay?

Command: ``python -m experiments pruning``; 1½ minutes on two CPU cores. Expect, at 5 % of the weights left, ranked over
all layers, an accuracy of 0.88 ± 0.01 by Optimal Brain Damage against 0.74 ± 0.03 by magnitude; where every layer loses
alike, no difference between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments.data import accuracy, digits
from experiments.digits import split
from experiments.report import (
    COLORS,
    Figure,
    Interval,
    Outcome,
    Settings,
    Show,
    Table,
    Verdict,
    figure,
    finished,
    interval,
    smaller,
    tick_at,
)
from fnn.pruning import Score, all_links, at_random, magnitude, obd, pruner, remove_least, remove_links, sparse, taylor

NET = fnn.serial(fnn.dense(30, fnn.tanh), fnn.dense(20, fnn.tanh), fnn.linear(10))
LOSS = fnn.softmax_cross_entropy
RANKED = {"layer": "within each layer", "global": "over all layers"}
EXACT = "OBD, exact"
FINAL, RETRAIN, BATCH = 0.95, 100, 32


def scores(net: fnn.Layer) -> dict[str, Score]:
    """What is compared."""
    return {
        EXACT: obd(net, LOSS),
        "OBD, one pass": obd(net, LOSS, exact=False),
        "OBD, Gauss–Newton": obd(net, LOSS, gauss_newton=True),
        "|w|": magnitude(),
        "|w ∂Q/∂w|": taylor(net, LOSS),
        "random": at_random(),
    }


SCORES = scores(NET)


class Seed(NamedTuple):
    """A trained network, its training sample, and held-out digits."""

    state: fnn.TrainState
    sample: tuple[jax.Array, jax.Array]
    held_out: tuple[jax.Array, jax.Array]


def learner(steps: int) -> fnn.Trainer:
    """Adam with L2, its rate falling to 0 in training and in each retraining: a saliency is worth most at a minimum."""

    def rate(step: jax.Array) -> jax.Array:
        done = jnp.where(step < steps, step / steps, (step - steps) % RETRAIN / RETRAIN)
        return 3e-3 * (1 - done)

    optimizer = fnn.chain(fnn.masked(fnn.l2(1e-4), fnn.weights_only), fnn.adam(rate))
    return fnn.trainer(NET, LOSS, sparse(optimizer), batch_size=BATCH)


def keys_of(settings: Settings) -> jax.Array:
    """A key for each seed, the same in each run."""
    return jax.random.split(jax.random.key(1989), settings.seeds)


def trained(key: jax.Array, learn: fnn.Trainer, steps: int) -> Seed:
    """A network trained on a split of its own."""
    _, x, y = digits()
    key_split, key_run = jax.random.split(key)
    train, _, test = split(key_split, len(x))
    sample = x[train], y[train]
    return Seed(fnn.train(learn, learn.init(key_run, sample), sample, steps)[0], sample, (x[test], y[test]))


def quality(params: Any, state: Any, sample: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Q, the mean loss."""
    return jnp.mean(LOSS.value(NET.apply(params, state, sample[0]), sample[1]))


def right(state: fnn.TrainState, sample: tuple[jax.Array, jax.Array]) -> jax.Array:
    """The share of digits that are read rightly."""
    return accuracy(NET.apply(state.params, state.layer_state, sample[0]), sample[1])


def any_score(number: jax.Array) -> Score:
    """The score of a number, which may be traced: one program for all of them."""

    def saliency(*arguments: Any) -> Any:
        return jax.lax.switch(number, [score.saliency for score in SCORES.values()], *arguments)

    return Score("any", saliency)


def prunings(steps: int, rounds: int, scope: str) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Rounds of removing and retraining down to 5 % of the weights; all at once; and the same links from the start."""

    def experiment(key: jax.Array, number: jax.Array) -> dict[str, jax.Array]:
        learn, score = learner(steps), any_score(number)
        seed = trained(key, learn, steps)
        one_round = pruner(
            learn,
            score,
            lambda params, state: quality(params, state, seed.sample),
            amount=1 - (1 - FINAL) ** (1 / rounds),
            retrain=RETRAIN,
            scope=scope,
        )

        def one(now: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
            now, report = one_round.round(now, seed.sample)
            return now, report | {"accuracy": right(now.state, seed.held_out)}

        pruned, report = jax.lax.scan(one, one_round.init(seed.state), length=rounds)
        saliency = score.saliency(seed.state.params, seed.state.layer_state, seed.sample, key)
        one_shot = remove_least(saliency, all_links(saliency), 0.8, scope=scope)
        patient = learner(steps + rounds * RETRAIN)
        fresh = remove_links(patient.init(jax.random.fold_in(key, 1), seed.sample), pruned.links)
        fresh, _ = fnn.train(patient, fresh, seed.sample, steps + rounds * RETRAIN)
        return {
            "left": report["left"],
            "accuracy": report["accuracy"],
            "whole": right(seed.state, seed.held_out),
            "one shot": quality(remove_links(seed.state, one_shot).params, seed.state.layer_state, seed.sample),
            "from the start": right(fresh, seed.held_out),
        }

    return experiment


def run(settings: Settings, show: Show) -> Outcome:
    """Prune by every score, and compare."""
    steps, rounds = (500, 4) if settings.quick else (3000, 10)
    seeds, keys = settings.seeds, keys_of(settings)
    pruned: dict[str, dict[str, Any]] = {scope: {} for scope in RANKED if scope == "global" or not settings.quick}
    for scope, results in pruned.items():
        of_all_seeds = jax.jit(jax.vmap(prunings(steps, rounds, scope), (0, None)))
        for number, name in enumerate(SCORES):
            show(f"pruning {seeds} networks by {name}, ranked {RANKED[scope]}")
            results[name] = jax.tree.map(np.asarray, of_all_seeds(keys, jnp.asarray(number)))
    return Outcome(
        slide=24,
        title="Pruning handwritten digits by Optimal Brain Damage",
        lead=f"{NET}, trained for {steps} steps of Adam with L2 on 1257 digits, {seeds} seeds. Links are removed in "
        f"{rounds} rounds, the least salient first, {RETRAIN} steps of retraining after each, down to "
        f"{_percent(1 - FINAL)} of the weights. The saliency of Optimal Brain Damage, OBD, is exact, takes only "
        "diagonals through the backward pass, or leaves out the term with σ''. Means with 95 % intervals over seeds; "
        "accuracy on 270 held-out digits.",
        equation="saliency = ½ w² ∂²Q/∂w²",
        verdicts=_verdicts({RANKED[scope]: results for scope, results in pruned.items()}),
        tables=[_table(scope, results) for scope, results in pruned.items()],
        figures=[_accuracies(scope, results) for scope, results in pruned.items()],
        numbers=_numbers(pruned, seeds, steps),
    )


def _verdicts(pruned: dict[str, Any]) -> list[Verdict]:
    """The claims about pruning, links ranked within each layer and over all layers."""
    rivals = [name for name in SCORES if not name.startswith("OBD")]

    def pairs(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> dict[str, tuple[Any, Any]]:
        return {ranked: (one(results), other(results)) for ranked, results in pruned.items()}

    def end(name: str) -> Callable[[Any], Any]:
        return lambda results: results[name]["accuracy"][:, -1]

    return [
        smaller(
            "links removed little by little by any score but OBD leave less accuracy than links removed by OBD, with "
            f"{_percent(1 - FINAL)} of the weights left",
            {f"{rival}, {ranked}": pair for rival in rivals for ranked, pair in pairs(end(rival), end(EXACT)).items()},
            why="saliencies are all in units of Q, and so compare across layers, where |w| does not; where every "
            "layer has to lose the same share, that is of no use; a likely cause where |w ∂Q/∂w| leaves more: OBD "
            "takes the gradient for 0, which it is not once links are gone",
        ),
        smaller(
            "training the pruned network from the start gives less accuracy than pruning by OBD",
            pairs(lambda results: results[EXACT]["from the start"], end(EXACT)),
            why="the same links trained from fresh weights, with as many steps in all, do at least as well here: a "
            f"likely cause is that they have all the steps to themselves, and what was pruned {RETRAIN} a round",
        ),
        smaller(
            "80 % removed at once without retraining cost less by OBD than by |w|",
            pairs(lambda results: results[EXACT]["one shot"], lambda results: results["|w|"]["one shot"]),
            why="a likely cause: ½ w² ∂²Q/∂w² foretells what one link costs while all others stay, and the effects of "
            "so many at once do not add up",
        ),
    ]


def _mean(values: np.ndarray) -> str:
    return str(Interval.of(values))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(scope: str, results: dict[str, Any]) -> Table:
    left = results[EXACT]["left"][0]
    shown = [len(left) // 2 - 1, len(left) - 2, len(left) - 1]
    rows = []
    for name, result in results.items():
        accuracies = [_mean(result["accuracy"][:, i]) for i in shown]
        rows.append((name, _mean(result["one shot"]), *accuracies, _mean(result["from the start"])))
    return Table(
        f"Links ranked {RANKED[scope]}: accuracy at three shares left, {_mean(results['|w|']['whole'])} with all",
        (
            "score",
            "Q, 80 % removed at once",
            *(f"accuracy, {_percent(left[i])} left" for i in shown),
            "same links from the start",
        ),
        rows,
    )


def _accuracies(scope: str, results: dict[str, Any]) -> Figure:
    with figure() as canvas:
        axes = canvas.subplots()
        for color, (name, result) in zip(COLORS, results.items(), strict=False):
            mean, half = interval(np.column_stack([result["whole"], result["accuracy"]]))
            left = 100 * np.append(1, result["left"].mean(axis=0))
            axes.errorbar(left, mean, half, color=color, label=name, marker="o", markersize=4, capsize=2)
        axes.set(xscale="log", xlabel="weights left, %", ylabel="held-out accuracy")
        tick_at(axes, (100, 50, 20, 10, 5))
        axes.invert_xaxis()
        axes.legend(fontsize=8)
        return finished(
            canvas,
            f"Accuracy while links, ranked {RANKED[scope]}, are removed and the rest retrained: mean, 95 % interval",
            "Line plot of accuracy against the share of weights left, from all of them to a twentieth, for each score: "
            "links that go at random cost most from the first round on; the other scores part in the last rounds.",
        )


def _numbers(pruned: dict[str, Any], seeds: int, steps: int) -> dict[str, Any]:
    def of(results: dict[str, Any], quantity: str) -> dict[str, Any]:
        return {name: result[quantity].mean(axis=0).tolist() for name, result in results.items()}

    quantities = ("left", "accuracy", "one shot", "from the start")
    return {
        "seeds": seeds,
        "steps": steps,
        "ranked": {
            scope: {quantity: of(results, quantity) for quantity in quantities} for scope, results in pruned.items()
        },
    }
