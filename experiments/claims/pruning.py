"""Optimal Brain Damage on handwritten digits: does its loop of removing and retraining pay?

Command: ``python -m experiments pruning``; 1½ minutes on two CPU cores. Expect, at 5 % of the weights left, ranked over
all layers, an accuracy of 0.88 ± 0.01 by Optimal Brain Damage against 0.74 ± 0.03 by magnitude; where every layer loses
alike, no difference between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import pruned_digits
from experiments import report as r
from experiments.pruned_digits import EXACT, RETRAIN
from fnn.pruning import (
    Score,
    all_links,
    pruner,
    remove_least,
    remove_links,
)

RANKED = {"layer": "within each layer", "global": "over all layers"}
FINAL = 0.95


def any_score(number: jax.Array) -> Score:
    """The score of a number, which may be traced: one program for all of them."""

    def saliency(*arguments: Any) -> Any:
        return jax.lax.switch(number, [score.saliency for score in pruned_digits.SCORES.values()], *arguments)

    return Score("any", saliency)


def prunings(steps: int, rounds: int, scope: str) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """Rounds of removing and retraining down to 5 % of the weights; all at once; and the same links from the start."""

    def experiment(key: jax.Array, number: jax.Array) -> dict[str, jax.Array]:
        learn, score = pruned_digits.learner(steps), any_score(number)
        seed = pruned_digits.trained(key, learn, steps)
        one_round = pruner(
            learn,
            score,
            lambda params, state: pruned_digits.quality(params, state, seed.sample),
            amount=1 - (1 - FINAL) ** (1 / rounds),
            retrain=RETRAIN,
            scope=scope,
        )

        def one(now: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
            now, report = one_round.round(now, seed.sample)
            return now, report | {"accuracy": pruned_digits.right(now.state, seed.held_out)}

        pruned, report = jax.lax.scan(one, one_round.init(seed.state), length=rounds)
        saliency = score.saliency(seed.state.params, seed.state.state, seed.sample, key)
        one_shot = remove_least(saliency, all_links(saliency), 0.8, scope=scope)
        patient = pruned_digits.learner(steps + rounds * RETRAIN)
        fresh = remove_links(patient.init(jax.random.fold_in(key, 1), seed.sample), pruned.links)
        fresh, _ = fnn.run(patient, fresh, seed.sample, steps + rounds * RETRAIN)
        return {
            "left": report["left"],
            "accuracy": report["accuracy"],
            "whole": pruned_digits.right(seed.state, seed.held_out),
            "one shot": pruned_digits.quality(remove_links(seed.state, one_shot).params, seed.state.state, seed.sample),
            "from the start": pruned_digits.right(fresh, seed.held_out),
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Prune by every score, and compare."""
    steps, rounds = (500, 4) if settings.quick else (3000, 10)
    seeds, keys = settings.seeds, pruned_digits.keys_of(settings)
    pruned: dict[str, dict[str, Any]] = {scope: {} for scope in RANKED if scope == "global" or not settings.quick}
    for scope, results in pruned.items():
        of_all_seeds = jax.jit(jax.vmap(prunings(steps, rounds, scope), (0, None)))
        for number, name in enumerate(pruned_digits.SCORES):
            log(f"pruning {seeds} networks by {name}, ranked {RANKED[scope]}")
            results[name] = jax.tree.map(np.asarray, of_all_seeds(keys, jnp.asarray(number)))
    return r.Outcome(
        slide=24,
        title="Pruning handwritten digits by Optimal Brain Damage",
        lead=f"{pruned_digits.NET}, trained for {steps} steps of Adam with L2 on 1257 digits, {seeds} seeds. Links are removed in "
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


def _verdicts(pruned: dict[str, Any]) -> list[r.Verdict]:
    """The claims about pruning, links ranked within each layer and over all layers."""
    rivals = [name for name in pruned_digits.SCORES if not name.startswith("OBD")]

    def pairs(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> dict[str, tuple[Any, Any]]:
        return {ranked: (one(results), other(results)) for ranked, results in pruned.items()}

    def end(name: str) -> Callable[[Any], Any]:
        return lambda results: results[name]["accuracy"][:, -1]

    return [
        r.smaller(
            "links removed little by little by any score but OBD leave less accuracy than links removed by OBD, with "
            f"{_percent(1 - FINAL)} of the weights left",
            {f"{rival}, {ranked}": pair for rival in rivals for ranked, pair in pairs(end(rival), end(EXACT)).items()},
            why="saliencies are all in units of Q, and so compare across layers, where |w| does not; where every "
            "layer has to lose the same share, that is of no use; a likely cause where |w ∂Q/∂w| leaves more: OBD "
            "takes the gradient for 0, which it is not once links are gone",
        ),
        r.smaller(
            "training the pruned network from the start gives less accuracy than pruning by OBD",
            pairs(lambda results: results[EXACT]["from the start"], end(EXACT)),
            why="the same links trained from fresh weights, with as many steps in all, do at least as well here: a "
            f"likely cause is that they have all the steps to themselves, and what was pruned {RETRAIN} a round",
        ),
        r.smaller(
            "80 % removed at once without retraining cost less by OBD than by |w|",
            pairs(lambda results: results[EXACT]["one shot"], lambda results: results["|w|"]["one shot"]),
            why="a likely cause: ½ w² ∂²Q/∂w² foretells what one link costs while all others stay, and the effects of "
            "so many at once do not add up",
        ),
    ]


def _mean(values: np.ndarray) -> str:
    return str(r.Interval.of(values))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _table(scope: str, results: dict[str, Any]) -> r.Table:
    left = results[EXACT]["left"][0]
    shown = [len(left) // 2 - 1, len(left) - 2, len(left) - 1]
    rows = []
    for name, result in results.items():
        accuracies = [_mean(result["accuracy"][:, i]) for i in shown]
        rows.append((name, _mean(result["one shot"]), *accuracies, _mean(result["from the start"])))
    return r.Table(
        f"Links ranked {RANKED[scope]}: accuracy at three shares left, {_mean(results['|w|']['whole'])} with all",
        (
            "score",
            "Q, 80 % removed at once",
            *(f"accuracy, {_percent(left[i])} left" for i in shown),
            "same links from the start",
        ),
        rows,
    )


def _accuracies(scope: str, results: dict[str, Any]) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, (name, result) in zip(r.COLORS, results.items(), strict=False):
            mean, half = r.interval(np.column_stack([result["whole"], result["accuracy"]]))
            left = 100 * np.append(1, result["left"].mean(axis=0))
            axes.errorbar(left, mean, half, color=color, label=name, marker="o", markersize=4, capsize=2)
        axes.set(xscale="log", xlabel="weights left, %", ylabel="held-out accuracy")
        r.tick_at(axes, (100, 50, 20, 10, 5))
        axes.invert_xaxis()
        axes.legend(fontsize=8)
        return r.finished(
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
