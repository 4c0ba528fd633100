"""Two or three layers suffice for tables of moderate size.

Command: ``python -m experiments depth``; 50 seconds on two CPU cores. Expect 0.96 on digits with one, two or
three layers, and on two spirals 0.64 with one layer and 0.998 with two.
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

PARAMETERS, BATCH = 2000, 32
DEPTHS = (1, 2, 3, 5)
"""layers of weights, the last one included"""
RATES = (0.003, 0.02)
"""of Adam; the better one on validation examples is taken"""
POINT = 0.01


EQUATION = r"\dim\, W = \sum_l (H_{l-1} + 1)\, H_l"
LEAD = (
    f"Networks of ReLU with about {PARAMETERS} parameters each, whatever their number of layers, learn {{data}} by "
    "{steps} steps of Adam. Layers are counted as in the lecture, the last one included: one layer is a linear "
    "classifier, whose number of parameters cannot be chosen. A fifth of the examples chooses the rate, "
    f"{' or '.join(f'{rate:g}' for rate in RATES)}; another fifth is held out."
)
THREE = r.Claim(
    f"Three layers suffice: the held-out accuracy of the best deeper network is at most {POINT} higher.",
    why="Only {held_out} examples of {smallest} are held out, one of which is {one:.2g} of the accuracy: its interval "
    "is wide.",
    quantity="held-out accuracy, the deeper network less three layers",
)
TWO = r.Claim(
    f"Two layers suffice: the held-out accuracy of the best deeper network is at most {POINT} higher.",
    quantity="held-out accuracy, the deeper network less two layers",
)
ONE = r.Claim(
    f"One layer does not suffice: the held-out accuracy of the best deeper network is at least {POINT} higher.",
    why="A likely cause where one layer suffices: the classes are nearly linearly separable, so that a linear "
    "classifier is hardly worse than any other.",
    quantity="held-out accuracy, the deeper network less one layer",
)
CAPTION = "Held-out accuracy by the number of layers; means over seeds with 95 % intervals"
By = dict[str, dict[int, np.ndarray]]
"""by data set and number of layers, at the rate chosen on validation examples: values [seeds]"""


def spirals() -> data.Sample:
    """1000 points on two spirals of one and a half turns: two classes."""
    x, arm = data.spirals(jax.random.key(2026), 1000, turns=1.5, noise=0.03)
    return data.Sample("two spirals", x / jnp.std(x, axis=0, keepdims=True), arm)


def width(depth: int, features: int, classes: int) -> int:
    """Of the hidden layers, that brings a network of so many layers nearest to `PARAMETERS`."""

    def count(H: int) -> int:
        return (features + 1) * H + (depth - 2) * (H + 1) * H + (H + 1) * classes

    return min(range(1, PARAMETERS), key=lambda H: abs(count(H) - PARAMETERS))


def network(depth: int, sample: data.Sample) -> fnn.Layer:
    """So many layers of weights, ReLU between them."""
    hidden = width(depth, sample.x.shape[1], sample.classes)
    return fnn.serial(*[fnn.dense(hidden, fnn.relu, w=fnn.nn.he())] * (depth - 1), fnn.linear(sample.classes))


def experiment_with(depth: int, sample: data.Sample, steps: int) -> Callable[..., Any]:
    """The pure experiment ``(key, eta) -> accuracies`` on validation and on held-out examples, a fifth each."""
    net, fifth = network(depth, sample), len(sample.x) // 5

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        most = len(sample.x) - 2 * fifth
        train, validation, held_out = data.split(key_split, (sample.x, sample.y), most, fifth)
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, fnn.adam(eta), batch_size=BATCH, draw=fnn.with_replacement)
        state, records = fnn.train(learn, learn.init(key_run, train), train, steps, every=steps // 10)

        def accuracy(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            return data.accuracy(net.apply(state.params, state.layer_state, part[0]), part[1])

        loss = records["loss"][-1]
        return {"validation": accuracy(validation), "held out": accuracy(held_out), "loss": loss}

    return experiment


def picture(accuracy: By) -> r.Figure:
    """The held-out accuracy against depth."""
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, (name, of) in zip(r.COLORS, accuracy.items(), strict=False):
            mean, half = r.interval(list(of.values()), axis=1)
            axes.plot(DEPTHS, mean, color=color, label=name, marker="o", markersize=4)
            axes.errorbar(DEPTHS, mean, half, fmt="none", color=color, capsize=2)
        axes.set(xlabel="layers", ylabel="held-out accuracy", xticks=DEPTHS)
        r.name_lines(axes)
        means = r.spoken({name: [values.mean() for values in of.values()] for name, of in accuracy.items()})
        return r.finished(
            canvas,
            f"Held-out accuracy of networks of about {PARAMETERS} parameters by their number of layers: means over "
            "seeds with 95 % intervals",
            f"Line plot of accuracy against the number of layers, a line for each data set: {means}.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train every depth on every data set, choose rates, and judge."""
    steps = settings.pick(quick=400, full=1000)
    own = settings.pick(quick=(spirals,), full=(data.digits, data.wine, data.breast_cancer, spirals))
    samples = [make() for make in own]
    labels = [sample.label for sample in samples]
    accuracy: By = {label: {} for label in labels}
    loss: By = {label: {} for label in labels}
    validation: dict[str, dict[int, float]] = {label: {} for label in labels}
    for sample in samples:
        for depth in DEPTHS:
            log(f"{settings.seeds} seeds of {depth} layers on {sample.label}")
            found = r.sweep_seeds(experiment_with(depth, sample, steps), settings, eta=RATES)
            best = r.best(found["validation"])
            accuracy[sample.label][depth] = found["held out"][:, best]
            loss[sample.label][depth] = found["loss"][:, best]
            validation[sample.label][depth] = float(found["validation"].mean(axis=0)[best])
    layers = {depth: f"{depth} layers" if depth > 1 else "1 layer" for depth in DEPTHS}
    rows = {name: {layers[depth]: values for depth, values in of.items()} for name, of in accuracy.items()}
    return r.Outcome(
        LEAD.format(data=", ".join(accuracy), steps=steps),
        _verdicts(accuracy, validation, min(samples, key=lambda sample: len(sample.x))),
        EQUATION,
        slide=25,
        tables=[r.table(CAPTION, "data", rows)],
        figures=[picture(accuracy)],
        numbers={
            "held-out accuracy": {name: r.intervals(of) for name, of in accuracy.items()},
            "training loss": {name: {d: v.mean() for d, v in of.items()} for name, of in loss.items()},
        },
    )


def _verdicts(accuracy: By, validation: dict[str, dict[int, float]], small: data.Sample) -> list[r.Verdict]:
    def gained(over: int) -> dict[str, np.ndarray]:
        """By how much the deeper network that is best on validation examples beats the one of so many layers."""
        deeper = {
            name: max((depth for depth in of if depth > over), key=lambda depth: of[depth])
            for name, of in validation.items()
        }
        return {f"{name}, {d} layers": accuracy[name][d] - accuracy[name][over] for name, d in deeper.items()}

    three = THREE.filled(smallest=small.label, held_out=len(small.x) // 5, one=5 / len(small.x))
    return [r.at_most(three, POINT, gained(3)), r.at_most(TWO, POINT, gained(2)), r.at_least(ONE, POINT, gained(1))]
