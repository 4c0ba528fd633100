"""Two or three layers suffice for tables of moderate size.

Command: ``python -m experiments depth``; 50 seconds on two CPU cores. Expect 0.96 on digits with one, two or
three layers, and on two spirals 0.64 with one layer and 0.998 with two. ``--data`` takes a table of your own.
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

TAKES = "table of classes"
PARAMETERS, BATCH = 2000, 32
DEPTHS = (1, 2, 3, 5)
"""layers of weights, the last one included"""
RATES = (0.003, 0.02)
"""of Adam; the better one on validation objects is taken"""
POINT = 0.01


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
    return fnn.serial(*[fnn.dense(hidden, fnn.relu, w=fnn.he())] * (depth - 1), fnn.linear(sample.classes))


def experiment_with(depth: int, sample: data.Sample, steps: int) -> Callable[..., Any]:
    """The pure experiment ``(key, eta) -> accuracies`` on validation and on held-out objects, a fifth each."""
    net, fifth = network(depth, sample), len(sample.x) // 5

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        order = jax.random.permutation(key_split, len(sample.x))
        learned, validation, held_out = order[: -2 * fifth], order[-2 * fifth : -fifth], order[-fifth:]
        train = sample.x[learned], sample.y[learned]
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, fnn.adam(eta), batch_size=BATCH, draw=fnn.with_replacement)
        state, records = fnn.run(learn, learn.init(key_run, train), train, steps, every=steps // 10)

        def accuracy(part: jax.Array) -> jax.Array:
            return data.accuracy(net.apply(state.params, state.state, sample.x[part]), sample.y[part])

        loss = records["loss"][-1]
        return {"validation": accuracy(validation), "held out": accuracy(held_out), "loss": loss}

    return experiment


def picture(accuracy: dict[str, dict[int, np.ndarray]]) -> r.Figure:
    """The held-out accuracy against depth."""
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, (name, of) in zip(r.COLORS, accuracy.items(), strict=False):
            mean, half = r.interval(np.stack(list(of.values()), axis=1))
            axes.errorbar(list(of), mean, half, color=color, marker="o", markersize=4, capsize=2, label=name)
        axes.set(xlabel="layers", ylabel="held-out accuracy", xticks=DEPTHS)
        axes.legend(fontsize=8)
        return r.finished(
            canvas,
            f"Held-out accuracy of networks of about {PARAMETERS} parameters by their number of layers: means over "
            "seeds with 95 % intervals",
            "Line plot of accuracy against the number of layers, a line for each data set: "
            + "; ".join(
                f"{name} {', '.join(f'{values.mean():.2f}' for values in of.values())}" for name, of in accuracy.items()
            )
            + ".",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train every depth on every data set, choose rates, and judge."""
    steps = 400 if settings.quick else 1000
    own = (spirals,) if settings.quick else (data.digits, data.wine, data.breast_cancer, spirals)
    samples = data.samples(settings, *own)
    accuracy: dict[str, dict[int, np.ndarray]] = {}
    validation: dict[str, dict[int, float]] = {}
    loss: dict[str, dict[int, np.ndarray]] = {}
    for sample in samples:
        accuracy[sample.label], validation[sample.label], loss[sample.label] = {}, {}, {}
        for depth in DEPTHS:
            log(f"{settings.seeds} seeds of {depth} layers on {sample.label}")
            eta = jnp.asarray(RATES, jnp.float32)
            found = r.sweep_seeds(experiment_with(depth, sample, steps), settings, eta=eta)
            means = found["validation"].mean(axis=0)
            best = int(np.argmax(means))
            validation[sample.label][depth] = float(means[best])
            accuracy[sample.label][depth] = found["held out"][:, best]
            loss[sample.label][depth] = found["loss"][:, best]

    small = min(samples, key=lambda sample: len(sample.x))

    def gained(over: int) -> dict[str, np.ndarray]:
        """By how much the deeper network that is best on validation objects beats the one of so many layers."""
        deeper = {
            name: max((depth for depth in of if depth > over), key=lambda depth: of[depth])
            for name, of in validation.items()
        }
        return {f"{name}, {d} layers": accuracy[name][d] - accuracy[name][over] for name, d in deeper.items()}

    return r.Outcome(
        slide=25,
        lead=f"Networks of ReLU with about {PARAMETERS} parameters each, whatever their number of layers, learn "
        f"{', '.join(accuracy)} by {steps} steps of Adam. Layers are counted as in the lecture, the last one "
        "included: one layer is a linear classifier, whose number of parameters cannot be chosen. A fifth of the "
        f"objects chooses the rate, {' or '.join(f'{rate:g}' for rate in RATES)}; another fifth is held out.",
        equation="dim W = Σ_l (H_{l−1} + 1) H_l",
        verdicts=[
            r.at_most(
                f"three layers suffice: the best deeper network's held-out accuracy is at most {POINT} higher",
                POINT,
                gained(3),
                why=f"{small.label} has {len(small.x) // 5} held-out objects, one of which is "
                f"{5 / len(small.x):.2g} of the accuracy: its interval is wide",
            ),
            r.at_most(
                f"two layers suffice: the best deeper network's held-out accuracy is at most {POINT} higher",
                POINT,
                gained(2),
            ),
            r.at_least(
                f"one layer does not suffice: the best deeper network's held-out accuracy is at least {POINT} higher",
                POINT,
                gained(1),
                why="a likely cause where one layer does: the classes are nearly linearly separable, so that a linear "
                "classifier is hardly worse than any other",
            ),
        ],
        tables=[
            r.Table(
                "Held-out accuracy by the number of layers; means over seeds with 95 % intervals",
                ("data", *(f"{depth} layers" if depth > 1 else "1 layer" for depth in DEPTHS)),
                [(name, *(str(r.Interval.of(values)) for values in of.values())) for name, of in accuracy.items()],
            )
        ],
        figures=[picture(accuracy)],
        numbers={
            "held-out accuracy": {
                name: {str(depth): r.Interval.of(values)._asdict() for depth, values in of.items()}
                for name, of in accuracy.items()
            },
            "training loss": {
                name: {str(depth): float(values.mean()) for depth, values in of.items()} for name, of in loss.items()
            },
        },
    )
