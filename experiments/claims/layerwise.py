"""Layer-wise training, with neurons that differ in earnest.

Command: ``python -m experiments layerwise``; 40 seconds on two CPU cores. Expect
0.8 of the digits read after layer-wise training alone, and no gain in the end.
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

HIDDEN, BATCH, HELD_OUT, RECORDS = (32, 32), 32, 0.3, 10
PARTS = (0.05, 1.0)
"""of the examples, or of the inputs, that a neuron is trained on"""
WAYS: dict[str, dict[str, float | None]] = {
    **{f"{part:.0%} of the examples": {"subsample": part, "inputs": None} for part in PARTS[:-1]},
    **{f"{part:.0%} of the inputs": {"subsample": None, "inputs": part} for part in PARTS[:-1]},
    "all of both": {"subsample": None, "inputs": None},
}
FRESH = "random weights"
DIFFERENT = 0.5
"""a mean |correlation| of neurons below which they differ in earnest"""
Found = dict[str, dict[str, np.ndarray]]


EQUATION = r"""\text{neuron } h\text{: } \min_{w_h} \sum_{i} \mathcal{L}(\langle w_h, x_i\rangle, y_i)
\text{over its own examples and inputs}"""
LEAD = (
    f"A network of {len(HIDDEN)} hidden layers of {HIDDEN[0]} tanh neurons for handwritten digits is trained layer by "
    "layer: each neuron first by itself, as a linear model that tells one digit from the others, and then all "
    "together. Its neurons are made to differ by a small part of the examples or of the inputs for each. The "
    "correlation of two neurons is that of their outputs on held-out digits. For comparison, the same network learns "
    "from random weights, in as many steps as the joint training has."
)
ALIKE = r.Claim(
    "Neurons trained on all examples and inputs resemble each other: their mean absolute correlation is above "
    f"{DIFFERENT:g}.",
    why="Each neuron is given one of ten digits, and neurons of different digits differ whatever they are trained on.",
    quantity="mean absolute correlation of first-layer neurons",
)
DIFFER = r.Claim(
    "Neurons trained on a twentieth of the examples, or on a twentieth of the inputs, differ in earnest: their mean "
    f"absolute correlation is at most {DIFFERENT:g}.",
    quantity="mean absolute correlation of first-layer neurons",
)
SMALLER = r.Claim(
    "The smaller the part that each neuron is trained on, the more they differ: with a twentieth they are less "
    "correlated than with all.",
    quantity="mean absolute correlation, a twentieth less all",
)
READY = r.Claim(
    "Layer-wise training alone, before the network is trained as a whole, reads at least nine of ten held-out digits.",
    why="Neurons trained on few examples saturate, and those that see three pixels hardly change from digit to digit: "
    "what they know is there, on a scale that the last layer is slow to use.",
    quantity="held-out accuracy before joint training",
)
SOONER = r.Claim(
    "Layer-wise training pays: after as many gradient steps of the whole network, the held-out accuracy is higher than "
    "from random weights.",
    why="Random weights learn these digits in few steps already.",
    quantity="held-out accuracy, random weights less layer by layer",
)
DIVERSE = r.Claim(
    "Neurons that differ make a better network: after joint training, networks whose neurons saw a twentieth are more "
    "accurate than those whose neurons saw all.",
    why="The whole network is trained afterwards, and finds much the same features from either start.",
    quantity="held-out accuracy, all less a twentieth",
)


def experiment_with(way: dict[str, float | None] | None, steps: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The pure experiment ``key -> correlation and accuracies``: layer by layer, or from random weights for None."""
    net = fnn.serial(*(fnn.dense(width, fnn.tanh) for width in HIDDEN), fnn.linear(10))
    learn = fnn.trainer(net, fnn.softmax_cross_entropy, fnn.adam(2e-3), batch_size=BATCH)
    digits = data.digits()

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run, key_layers = jax.random.split(key, 3)
        (unseen, expected), known = data.split(key_split, (digits.x, digits.y), round(HELD_OUT * len(digits.x)))
        state = learn.init(key_run, known)
        if way is not None:
            options: Any = {"optimizer": fnn.adam(1e-2), "steps": steps, "batch_size": BATCH, **way}
            params = fnn.lecture.pretrain(key_layers, net, known, fnn.softmax_cross_entropy, **options)
            state = state._replace(params=params)

        def right(state: fnn.TrainState) -> jax.Array:
            return data.accuracy(net.apply(state.params, state.layer_state, unseen), expected)

        def record(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, jax.Array]:
            state, _ = fnn.train(learn, state, known, steps // RECORDS)
            return state, right(state)

        first = fnn.dense(HIDDEN[0], fnn.tanh).apply(state.params[0], (), unseen)
        first = (first - jnp.mean(first, axis=0)[None]) / (jnp.std(first, axis=0)[None] + 1e-6)
        correlation = jnp.abs(first.T @ first) / len(first)
        apart = (jnp.sum(correlation) - jnp.trace(correlation)) / (HIDDEN[0] * (HIDDEN[0] - 1))
        begun = right(state)
        return {"correlation": apart, "accuracy": jnp.stack([begun, *jax.lax.scan(record, state, length=RECORDS)[1]])}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train layer by layer in every way and from random weights, judge and draw."""
    steps = settings.pick(quick=50, full=200)
    found: Found = {}
    for name, way in {**WAYS, FRESH: None}.items():
        log(f"{settings.seeds} networks, {name}")
        found[name] = r.sweep_seeds(experiment_with(way, steps), settings)
    return r.Outcome(
        LEAD,
        _verdicts(found),
        EQUATION,
        slide=23,
        tables=[_table(found)],
        figures=[_curves(found, steps)],
        numbers={
            name: {
                "correlation": r.Interval.of(of["correlation"]),
                "before": r.Interval.of(of["accuracy"][:, 0]),
                "after": r.Interval.of(of["accuracy"][:, -1]),
            }
            for name, of in found.items()
        },
    )


def _verdicts(found: Found) -> list[r.Verdict]:
    few = [name for name in WAYS if name.startswith(f"{PARTS[0]:.0%}")]
    correlation = {name: of["correlation"] for name, of in found.items()}
    before, after = ({name: of["accuracy"][:, i] for name, of in found.items()} for i in (0, -1))
    return [
        r.at_least(ALIKE, DIFFERENT, correlation["all of both"]),
        r.at_most(DIFFER, DIFFERENT, {name: correlation[name] for name in few}),
        r.smaller(SMALLER, {name: (correlation[name], correlation["all of both"]) for name in few}),
        r.at_least(READY, 0.9, {name: before[name] for name in WAYS}),
        r.smaller(SOONER, {name: (after[FRESH], after[name]) for name in WAYS}),
        r.smaller(DIVERSE, {name: (after["all of both"], after[name]) for name in few}),
    ]


def _table(found: Found) -> r.Table:
    rows = {
        name: {
            "mean |correlation|": of["correlation"],
            "accuracy before": of["accuracy"][:, 0],
            "after joint training": of["accuracy"][:, -1],
        }
        for name, of in found.items()
    }
    return r.table("How alike first-layer neurons are, and held-out accuracy", "each neuron sees", rows)


def _curves(found: Found, steps: int) -> r.Figure:
    return r.curves(
        np.arange(RECORDS + 1) * (steps // RECORDS),
        {name: 1 - of["accuracy"] for name, of in found.items()},
        "Held-out error on the way of joint training, by what each neuron was trained on before; means with 95 % "
        "intervals",
        "Falling lines of the held-out error. Random weights and neurons of few inputs begin at 0.9, the others at "
        "0.2; in the end all are close to 0.07.",
        xlabel="steps of joint training",
        ylabel="1 − held-out accuracy",
        logy=True,
    )
