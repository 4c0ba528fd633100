"""Optimal Brain Damage on handwritten digits: does its loop of removing and retraining pay?

Command: ``python -m experiments pruning``; 1½ minutes on two CPU cores. Expect, at 5 % of the weights left, ranked over
all layers, an accuracy of 0.88 ± 0.01 by Optimal Brain Damage against 0.74 ± 0.03 by magnitude; where every layer loses
alike, no difference between them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import fnn
from experiments import pruned_digits
from experiments import report as r
from experiments.pruned_digits import EXACT, RETRAIN
from fnn.pruning import Score, all_links, pruner, remove_least, remove_links

RANKED = {"layer": "within each layer", "global": "over all layers"}
FINAL = 0.95
QUANTITIES = ("left", "accuracy", "one shot", "from the start")
Found = dict[str, dict[str, np.ndarray]]
"""by score, arrays [seeds, …]"""


EQUATION = r"\text{saliency} = \tfrac12 w^2\, \frac{\partial^2 Q}{\partial w^2}"
LEAD = (
    "Links are removed from networks that have learned handwritten digits, by several scores, and the accuracies that "
    "are left are compared. The network is {net}, trained for {steps} steps of Adam with L2 on 1257 digits, with "
    f"{{seeds}} seeds. Links go in {{rounds}} rounds, the least salient first, {RETRAIN} steps of retraining after "
    f"each, down to {r.percent(1 - FINAL)} of the weights. The saliency of Optimal Brain Damage, OBD, is exact, takes "
    "only diagonals through the backward pass, or leaves out the term with σ''. Means with 95 % intervals over seeds; "
    "accuracy on 270 held-out digits."
)
GRADUALLY = r.Claim(
    "Removing links gradually by Optimal Brain Damage (OBD) leaves more accuracy than removing them by any other score "
    f"(with {r.percent(1 - FINAL)} of the weights left).",
    why="Saliencies are all in units of Q, and so compare across layers, where |w| does not; where every layer has to "
    "lose the same share, that is of no use. A likely cause where |w ∂Q/∂w| leaves more: OBD takes the gradient for 0, "
    "which it is not once links are gone.",
    quantity="held-out accuracy, this score less OBD",
)
FROM_START = r.Claim(
    "Training the pruned network from the start gives less accuracy than pruning by OBD.",
    why="The same links trained from fresh weights, with as many steps in all, do at least as well here. A likely "
    f"cause: they have all the steps to themselves, and what was pruned had {RETRAIN} a round.",
    quantity="held-out accuracy, trained from the start less pruned",
)
AT_ONCE = r.Claim(
    "Removing 80 % of the links at once, without retraining, costs less if they are chosen by OBD than by |w|.",
    why="A likely cause: ½ w² ∂²Q/∂w² foretells what one link costs while all others stay, and the effects of so many "
    "at once do not add up.",
    quantity="loss Q after the removal, by OBD less by |w|",
)


def any_score(number: jax.Array) -> Score:
    """The score of a number, which may be traced: one program for all of them."""

    def saliency(*arguments: Any) -> Any:
        return jax.lax.switch(number, [score.saliency for score in pruned_digits.SCORES.values()], *arguments)

    return Score("any", saliency)


def experiment_with(steps: int, rounds: int, scope: str) -> Callable[[jax.Array, jax.Array], dict[str, jax.Array]]:
    """The pure experiment ``(key, number of the score) -> metrics``.

    Rounds of removing and retraining down to 5 % of the weights; all at once; and the same links from the start.
    """

    def experiment(key: jax.Array, number: jax.Array) -> dict[str, jax.Array]:
        learn, score = pruned_digits.learner(steps), any_score(number)
        seed = pruned_digits.trained(key, learn, steps)
        one_round = pruner(
            learn,
            score,
            lambda params, state: pruned_digits.mean_loss(params, state, seed.sample),
            amount=1 - (1 - FINAL) ** (1 / rounds),
            retrain=RETRAIN,
            scope=scope,
        )

        def one(now: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
            now, report = one_round.round(now, seed.sample)
            return now, report | {"accuracy": pruned_digits.right(now.state, seed.held_out)}

        pruned, report = jax.lax.scan(one, one_round.init(seed.state), length=rounds)
        saliency = score.saliency(seed.state.params, seed.state.layer_state, seed.sample, key)
        one_shot = remove_least(saliency, all_links(saliency), 0.8, scope=scope)
        patient = pruned_digits.learner(steps + rounds * RETRAIN)
        fresh = remove_links(patient.init(jax.random.fold_in(key, 1), seed.sample), pruned.links)
        fresh, _ = fnn.train(patient, fresh, seed.sample, steps + rounds * RETRAIN)
        less = remove_links(seed.state, one_shot).params
        return {
            "left": report["left"],
            "accuracy": report["accuracy"],
            "whole": pruned_digits.right(seed.state, seed.held_out),
            "one shot": pruned_digits.mean_loss(less, seed.state.layer_state, seed.sample),
            "from the start": pruned_digits.right(fresh, seed.held_out),
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Prune by every score, and compare."""
    steps, rounds, scopes = settings.pick(quick=(500, 4, ("global",)), full=(3000, 10, tuple(RANKED)))
    pruned: dict[str, Found] = {scope: {} for scope in scopes}
    for scope, results in pruned.items():
        of_all_seeds = pruned_digits.for_all_seeds(experiment_with(steps, rounds, scope), settings)
        for number, name in enumerate(pruned_digits.SCORES):
            log(f"pruning {settings.seeds} networks by {name}, ranked {RANKED[scope]}")
            results[name] = of_all_seeds(number)
    return r.Outcome(
        LEAD.format(net=pruned_digits.NET, steps=steps, seeds=settings.seeds, rounds=rounds),
        _verdicts({RANKED[scope]: results for scope, results in pruned.items()}),
        EQUATION,
        slide=24,
        title="Pruning handwritten digits by Optimal Brain Damage",
        tables=[_table(scope, results) for scope, results in pruned.items()],
        figures=[_accuracies(scope, results) for scope, results in pruned.items()],
        numbers={
            "seeds": settings.seeds,
            "steps": steps,
            "ranked": {
                scope: {what: {name: of[what].mean(axis=0) for name, of in results.items()} for what in QUANTITIES}
                for scope, results in pruned.items()
            },
        },
    )


def _verdicts(pruned: dict[str, Found]) -> list[r.Verdict]:
    """The claims about pruning, links ranked within each layer and over all layers."""
    rivals = [name for name in pruned_digits.SCORES if not name.startswith("OBD")]

    def end(results: Found, name: str) -> np.ndarray:
        return results[name]["accuracy"][:, -1]

    by_rival = {
        f"{rival}, {ranked}": (end(results, rival), end(results, EXACT))
        for rival in rivals
        for ranked, results in pruned.items()
    }
    from_start = {ranked: (of[EXACT]["from the start"], end(of, EXACT)) for ranked, of in pruned.items()}
    at_once = {ranked: (of[EXACT]["one shot"], of["|w|"]["one shot"]) for ranked, of in pruned.items()}
    return [r.smaller(GRADUALLY, by_rival), r.smaller(FROM_START, from_start), r.smaller(AT_ONCE, at_once)]


def _table(scope: str, results: Found) -> r.Table:
    left = results[EXACT]["left"][0]
    shown = [len(left) // 2 - 1, len(left) - 2, len(left) - 1]
    rows = {
        name: {
            "Q, 80 % removed at once": result["one shot"],
            **{f"accuracy, {r.percent(left[i])} left": result["accuracy"][:, i] for i in shown},
            "same links from the start": result["from the start"],
        }
        for name, result in results.items()
    }
    whole = r.Interval.of(results["|w|"]["whole"])
    return r.table(f"Links ranked {RANKED[scope]}: accuracy at three shares left, {whole} with all", "score", rows)


def _accuracies(scope: str, results: Found) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, (name, result) in zip(r.COLORS, results.items(), strict=False):
            mean, half = r.interval(np.column_stack([result["whole"], result["accuracy"]]))
            left = 100 * np.append(1, result["left"].mean(axis=0))
            axes.plot(left, mean, color=color, label=name, marker="o", markersize=4)
            axes.errorbar(left, mean, half, color=color, fmt="none", capsize=2)
        axes.set(xscale="log", xlabel="weights left, %", ylabel="held-out accuracy")
        r.tick_at(axes, (100, 50, 20, 10, 5))
        axes.invert_xaxis()
        r.name_lines(axes)
        return r.finished(
            canvas,
            f"Accuracy while links, ranked {RANKED[scope]}, are removed and the rest retrained: mean, 95 % interval",
            "Line plot of accuracy against the share of weights left, from all of them to a twentieth, for each score: "
            "links that go at random cost most from the first round on; the other scores part in the last rounds.",
        )
