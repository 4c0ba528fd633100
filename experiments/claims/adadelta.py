"""AdaDelta works with η = 1, without tuning.

Command: ``python -m experiments adadelta``; 17 seconds on two CPU cores. Expect an accuracy at η = 1 within 0.01 of the
best of all optimizers and rates on three data sets, and on diabetes, where it overfits, an R² of 0.38 against 0.45.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r

HIDDEN, BATCH, PERCENT = 32, 32, 25
"""hidden units; examples in a batch; how many per cent of the examples are held out"""
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
ONE = RATES.index(1.0)
OPTIMIZERS = {"AdaDelta": fnn.adadelta, "RMSProp": fnn.rmsprop, "SGD": fnn.sgd}
NEAR = 0.02
"""two scores differ by less than this where it does not matter which optimizer was taken"""
Scores = dict[str, dict[str, np.ndarray]]
"""by data set and optimizer, [seeds, rates]"""


EQUATION = r"""G \coloneqq \alpha G + (1 - \alpha)\, g^2
\delta \coloneqq g\, \frac{\sqrt{\Delta} + \varepsilon}{\sqrt{G} + \varepsilon}
\Delta \coloneqq \alpha\Delta + (1 - \alpha)\, \delta^2
w \coloneqq w - \eta\delta, \quad \eta = 1"""
LEAD = (
    f"A network of {HIDDEN} hidden ReLUs learns {{data}} by {{steps}} steps with batches of {BATCH}, with AdaDelta, "
    f"RMSProp and SGD from the same weights and on the same batches, at learning rates from {RATES[0]:g} to "
    f"{RATES[-1]:g}. {PERCENT} % of the examples are held out, others for each seed. The score is the accuracy on "
    "them or, where the targets are numbers, $R^2 = 1 - \\sum (a - y)^2 / \\sum (y - \\bar y)^2$; a run that "
    "diverges, or is worse than the mean target, scores 0. The best η is chosen by the same held-out scores, which "
    "favours the tuned optimizers a little."
)
OWN_BEST = r.Claim(
    f"At η = 1 AdaDelta's held-out score is at most {NEAR} below that at its own best η.",
    quantity="held-out score, at the best η less at η = 1",
)
OTHERS_BEST = r.Claim(
    f"Untuned, at η = 1, AdaDelta scores at most {NEAR} less than RMSProp and SGD, each at its best η.",
    quantity="held-out score, the other at its best η less AdaDelta at η = 1",
)
TUNING = r.Claim(
    f"RMSProp and SGD need tuning: at η = 1 each scores at least {NEAR} less than at its best η.",
    why="Likely causes where the targets are classes: softmax bounds the error, and the plateau of SGD happens to "
    "reach to η = 1. A step of RMSProp is about η in every weight, whatever the loss, so that its weights become "
    "huge, which does little harm where classes are easy to separate.",
    quantity="held-out score, at the best η less at η = 1",
)


def experiment_with(sample: data.Sample, steps: int) -> Any:
    """The pure experiment ``(key, eta) -> {optimizer: {"score", "loss"}}`` on a data set: all from the same start."""
    classes = sample.classes
    net = fnn.serial(fnn.dense(HIDDEN, fnn.relu, w=fnn.nn.he()), fnn.linear(max(classes, 1)))
    loss = fnn.softmax_cross_entropy if classes else fnn.squared
    targets = sample.y if classes else sample.y[:, None]
    held_out = len(sample.x) * PERCENT // 100

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, dict[str, jax.Array]]:
        key_split, key_run = jax.random.split(key)
        (x_test, y_test), (x, y) = data.split(key_split, (sample.x, targets), held_out)

        def trained(optimizer: fnn.Optimizer) -> dict[str, jax.Array]:
            learn = fnn.trainer(net, loss, optimizer, batch_size=BATCH, draw=fnn.with_replacement)
            end, _ = fnn.train(learn, learn.init(key_run, (x, y)), (x, y), steps)
            a = net.apply(end.params, end.layer_state, x_test)
            if classes:
                score = data.accuracy(a, y_test)
            else:
                score = 1 - jnp.sum((a - y_test) ** 2) / jnp.sum((y_test - jnp.mean(y_test)) ** 2)
            return {"score": score, "loss": jnp.mean(loss.value(net.apply(end.params, end.layer_state, x), y))}

        return {name: trained(make(eta)) for name, make in OPTIMIZERS.items()}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, compare and draw."""
    steps = settings.pick(quick=200, full=400)
    own = settings.pick(quick=(data.wine,), full=(data.digits, data.breast_cancer, data.wine, data.diabetes))
    samples = [make() for make in own]
    scores: Scores = {}
    losses: Scores = {}
    for sample in samples:
        log(f"{sample.label}: {settings.seeds} seeds × {len(RATES)} learning rates × {len(OPTIMIZERS)} optimizers")
        found = r.sweep_seeds(experiment_with(sample, steps), settings, eta=RATES)
        scores[sample.label] = {name: np.maximum(np.nan_to_num(found[name]["score"]), 0) for name in OPTIMIZERS}
        losses[sample.label] = {name: found[name]["loss"] for name in OPTIMIZERS}
    measures = {sample.label: "accuracy" if sample.classes else "R²" for sample in samples}
    best = {label: {name: r.best(values) for name, values in of.items()} for label, of in scores.items()}
    return r.Outcome(
        LEAD.format(data=", ".join(scores), steps=steps),
        _verdicts(scores, losses, best, any(sample.classes for sample in samples)),
        EQUATION,
        slide=14,
        tables=[_table(scores, losses, best, measures)],
        figures=[_figure(scores, measures)],
        numbers={
            "eta": RATES,
            "score": {label: {name: v.mean(axis=0) for name, v in of.items()} for label, of in scores.items()},
            "best_eta": {label: {name: RATES[i] for name, i in of.items()} for label, of in best.items()},
        },
    )


def _verdicts(scores: Scores, losses: Scores, best: dict[str, dict[str, int]], classes: bool) -> list[r.Verdict]:
    def lost(one: str, other: str) -> dict[str, np.ndarray]:
        """By how much an optimizer at η = 1 scores less than one at its best η."""
        return {label: of[other][:, best[label][other]] - of[one][:, ONE] for label, of in scores.items()}

    others = [name for name in OPTIMIZERS if name != "AdaDelta"]
    untuned = {f"{label}, {name}": less for name in others for label, less in lost("AdaDelta", name).items()}
    own = {f"{label}, {name}": less for name in others for label, less in lost(name, name).items()}
    why = _why(scores, losses, best)
    return [
        r.at_most(OWN_BEST._replace(why=why), NEAR, lost("AdaDelta", "AdaDelta")),
        r.at_most(OTHERS_BEST._replace(why=why), NEAR, untuned),
        r.at_least(TUNING if classes else TUNING._replace(why=""), NEAR, own),
    ]


def _why(scores: Scores, losses: Scores, best: dict[str, dict[str, int]]) -> str:
    """The training losses where AdaDelta at η = 1 is short of its best: whether it learns too little or too much."""
    texts = []
    for label, of in scores.items():
        i = best[label]["AdaDelta"]
        if (of["AdaDelta"][:, i] - of["AdaDelta"][:, ONE]).mean() > NEAR:
            at_best, at_one = (losses[label]["AdaDelta"][:, k].mean() for k in (i, ONE))
            how = "it has learned the training set better and overfits" if at_one < at_best else "it has learned less"
            losses_there = f"{at_one:.3f} at η = 1 and {at_best:.3f} at η = {RATES[i]:g}"
            texts.append(f"On {label} AdaDelta's training loss is {losses_there}: {how}.")
    return " ".join(texts)


def _table(scores: Scores, losses: Scores, best: dict[str, dict[str, int]], measures: dict[str, str]) -> r.Table:
    rows = []
    for label, of in scores.items():
        for name, values in of.items():
            i = best[label][name]
            at_best, at_one = r.Interval.of(values[:, i]), r.Interval.of(values[:, ONE])
            of_one = losses[label][name][:, ONE].mean()
            loss = f"{of_one:.2g}" if np.isfinite(of_one) else "diverges"
            rows.append((label, measures[label], name, f"{RATES[i]:g}", str(at_best), str(at_one), loss))
    header = ("data", "score", "optimizer", "best η", "at the best η", "at η = 1", "training loss at η = 1")
    return r.Table("Held-out scores, means over seeds with 95 % intervals", header, rows)


def _figure(scores: Scores, measures: dict[str, str]) -> r.Figure:
    columns = 1 if len(scores) == 1 else 2
    rows = -(-len(scores) // columns)
    with r.figure(5.4, 2.6 * rows + 0.8) as canvas:
        panels = canvas.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axes, (label, of) in zip(panels, scores.items(), strict=False):
            axes.axvline(1, linestyle=":", color="#888888")
            r.error_bars(axes, RATES, of, markersize=3)
            axes.set(xscale="log", ylim=(-0.03, 1.03), title=label)
            axes.set_ylabel(f"held-out {measures[label]}")
        for axes in panels[-columns:]:
            axes.set_xlabel("learning rate η")
        canvas.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="outside upper center")
        best = (
            f"{label}, {name} {RATES[r.best(values)]:g}" for label, of in scores.items() for name, values in of.items()
        )
        return r.finished(
            canvas,
            "Held-out score against the learning rate, mean and 95 % interval over seeds; dotted, η = 1",
            f"A panel for each data set, in it a line for each optimizer. The best η: {'; '.join(best)}.",
        )
