"""Dropout against overfitting: a wide network that learns few examples.

Command: ``python -m experiments dropout``; 14 seconds on two CPU cores. Expect, with a fifth of the labels wrong, a
held-out error of 0.258 ± 0.012 with p = 0.5 against 0.284 ± 0.012 without dropout, and no difference with right labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r
from fnn.training import overfitting_gap

WIDTH, EXAMPLES, HELD_OUT, BATCH, RATE = 128, 100, 500, 25, 3e-3
PROBABILITIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
USUAL = PROBABILITIES.index(0.5)
"""the p that its inventors take for hidden layers, and that the verdicts look at"""
RIGHT, WRONG = "right labels", "a fifth of the labels wrong"
NOISES = {RIGHT: 0.0, WRONG: 0.2}
POINTS = 20
LOSS = fnn.softmax_cross_entropy
SHOWN = ("training", "held out", "half lost")
Found = dict[str, np.ndarray]


EQUATION = r"""\text{training: } x_h = \xi_h\, \sigma\left(\sum_k w_{kh} x_k\right)
P(\xi_h = 0) = p
\text{inference: } x_h = (1 - p)\, \sigma\left(\sum_k w_{kh} x_k\right)"""
LEAD = (
    f"A network with one hidden layer of {WIDTH} ReLUs learns {EXAMPLES} handwritten digits for {{steps}} steps of "
    f"Adam, its hidden neurons dropped with probability p; {HELD_OUT} other digits are held out. It has some "
    f"{WIDTH * 75} weights for {EXAMPLES} examples, so it can learn them by heart. It does so twice: with the right "
    "labels, and with a fifth of the labels wrong, which no network should learn. In inference all neurons are on, "
    "times 1 − p. Half lost means that afterwards a random half of the neurons of the trained network is switched off, "
    "anew for each example, and the rest doubled."
)
OVERFITTING = r.Claim(
    "Dropout with p = 0.5 makes overfitting, the held-out loss minus the training loss, smaller than without dropout.",
    quantity="held-out less training loss, with dropout less without",
)
ERRORS = r.Claim(
    "Dropout with p = 0.5 makes the share of errors on held-out examples smaller than without dropout.",
    why=f"From p = {PROBABILITIES[0]:g} to p = {PROBABILITIES[-1]:g} the mean share of errors stays {{ranges}}.",
    quantity="share of errors on held-out examples, with dropout less without",
)
HALF_LOST = r.Claim(
    "A network trained with dropout, p = 0.5, loses less accuracy than one trained without when half of its hidden "
    "neurons are switched off.",
    quantity="accuracy lost with half of the neurons, with dropout less without",
)


def experiment_with(steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, p, noise) -> metrics``: a few digits are learned, others are held out."""
    x, y = data.digits()[1:]
    hidden, output = fnn.dense(WIDTH, fnn.relu, w=fnn.nn.he()), fnn.linear(10)
    number = jnp.arange(EXAMPLES, dtype=jnp.int32)

    def experiment(key: jax.Array, p: Any, noise: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run, key_loss = jax.random.split(key, 3)
        order = fnn.permuted(key_split, 0, jnp.arange(EXAMPLES + HELD_OUT, dtype=jnp.int32), len(x))
        seen, unseen = ((x[part], y[part]) for part in jnp.split(order, [EXAMPLES]))
        wrong = number < jnp.round(noise * EXAMPLES).astype(jnp.int32)
        seen = seen[0], jnp.where(wrong, (seen[1] + 1 + number % 9) % 10, seen[1])
        net = fnn.serial(hidden, fnn.dropout(p), output)
        learn = fnn.trainer(net, LOSS, fnn.adam(RATE), batch_size=BATCH)
        gap = overfitting_gap(net, LOSS, seen, unseen)
        state, metrics = fnn.train(learn, learn.init(key_run, seen), seen, steps, every=steps // POINTS, validate=gap)
        halved = fnn.serial(hidden, fnn.inference_mode(fnn.dropout(p)), fnn.inverted_dropout(0.5), output)
        params = state.params[0], (), (), state.params[2]
        return {
            "training": data.accuracy(net.apply(state.params, state.layer_state, seen[0]), seen[1]),
            "held out": data.accuracy(net.apply(state.params, state.layer_state, unseen[0]), unseen[1]),
            "half lost": data.accuracy(halved.forward(params, ((),) * 4, unseen[0], key_loss)[0], unseen[1]),
            "training loss": metrics["validation"].training,
            "held-out loss": metrics["validation"].held_out,
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train for every p, with right and with wrong labels, and judge."""
    steps = settings.pick(quick=100, full=800)
    log(f"{settings.seeds} seeds × {len(PROBABILITIES)} probabilities, with right and with wrong labels")
    found = r.sweep_seeds(experiment_with(steps), settings, p=PROBABILITIES, noise=tuple(NOISES.values()))
    cases = {name: {key: values[:, :, i] for key, values in found.items()} for i, name in enumerate(NOISES)}
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(cases),
        EQUATION,
        slide=18,
        tables=[_table(name, case) for name, case in cases.items()],
        figures=[_accuracies(WRONG, cases[WRONG]), _losses(cases[WRONG], steps), _accuracies(RIGHT, cases[RIGHT])],
        numbers={
            name: {"p": PROBABILITIES} | {key: case[key].mean(axis=0) for key in SHOWN} for name, case in cases.items()
        },
    )


def _verdicts(cases: dict[str, Found]) -> list[r.Verdict]:
    def against_none(values: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return {name: (of_p[:, USUAL], of_p[:, 0]) for name, of_p in values.items()}

    errors = {name: 1 - case["held out"] for name, case in cases.items()}
    lost = {name: case["held out"] - case["half lost"] for name, case in cases.items()}
    means = {name: values.mean(axis=0) for name, values in errors.items()}
    ranges = ", and ".join(f"between {of.min():.3f} and {of.max():.3f} with {name}" for name, of in means.items())
    return [
        r.smaller(OVERFITTING, against_none({name: _gap(case) for name, case in cases.items()})),
        r.smaller(ERRORS.filled(ranges=ranges), against_none(errors)),
        r.smaller(HALF_LOST, against_none(lost)),
    ]


def _gap(case: Found) -> np.ndarray:
    """Held-out loss − training loss at the end [seeds, probabilities]."""
    return case["held-out loss"][:, :, -1] - case["training loss"][:, :, -1]


def _table(name: str, case: Found) -> r.Table:
    columns = {key: case[key] for key in SHOWN} | {"gap of losses": _gap(case)}
    rows = {f"{p:g}": {column: values[:, i] for column, values in columns.items()} for i, p in enumerate(PROBABILITIES)}
    return r.table(f"Accuracies after training with {name}, and the gap between the losses", "p", rows)


def _accuracies(name: str, case: Found) -> r.Figure:
    return r.curves(
        PROBABILITIES,
        {key: case[key] for key in SHOWN},
        f"Accuracy against the probability of dropping, {name}; mean and 95 % interval",
        f"Line plot for {name}: accuracy on the training examples, on held-out examples, and on these with half of the "
        "neurons lost, over p from 0 to 0.7.",
        xlabel="probability p of dropping a neuron",
        ylabel="accuracy",
        marker="o",
    )


def _losses(case: Found, steps: int) -> r.Figure:
    return r.curves(
        np.arange(1, POINTS + 1) * (steps // POINTS),
        {
            f"{which.removesuffix(' loss')}, p = {PROBABILITIES[i]:g}": case[which][:, i]
            for i in (0, USUAL)
            for which in ("training loss", "held-out loss")
        },
        "Losses in inference mode as training goes on, a fifth of the training labels wrong",
        "Line plot over training steps. Without dropout the training loss falls to nearly zero while the held-out loss "
        "rises again; with dropout both stay closer together.",
        xlabel="step",
        ylabel="mean loss",
        logy=True,
    )
