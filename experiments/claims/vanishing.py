"""Gradients vanish in deep sigmoid networks, and batch normalisation or ReLU keeps them.

Command: ``python -m experiments vanishing``; 40 seconds on two CPU cores. Expect the gradient of a sigmoid network to
shrink to 0.232 ± 0.003 of it a layer, and such networks of 5 hidden layers or more to learn only with batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r
from fnn.training import gradient_norm

WIDTH, BATCH = 32, 32
DEPTHS = (2, 5, 10, 20)
"""numbers of hidden layers"""
ACTIVATIONS = {"sigmoid": (fnn.sigmoid, 1.0, 1.0), "tanh": (fnn.tanh, 1.0, 0.1), "ReLU": (fnn.relu, math.sqrt(2), 0.1)}
"""σ; the gain of Glorot's first weights, √2 keeping the variance through ReLU; η, larger for the flatter sigmoid"""
NORMS = {"plain": (), "batch norm": (fnn.batch_norm(),)}
LEARNED, GUESSING = 0.5, 2.2
"""a loss under the one has learned; above the other it is that of guessing, ln 10 = 2.303"""
EXPLODING = math.sqrt(math.pi / (math.pi - 1))
Found = dict[str, dict[int, dict[str, np.ndarray]]]
"""for plain networks and for batch norm, and for each depth: arrays [seeds, activations, …]"""


EQUATION = r"""\varepsilon^{l-1} = (\varepsilon^l \circ \sigma{\prime}(S^l))\, (W^l)^\top
\sigma{\prime} \leq \tfrac14 \text{ for the sigmoid}"""
LEAD = (
    f"Networks of {{depths}} hidden layers of {WIDTH} neurons, sigmoid, tanh or ReLU, without and with batch "
    "normalisation before σ, learn digits by SGD for {steps} steps, with "
    f"η = {', '.join(f'{rate:g} for {name}' for name, (_, _, rate) in ACTIVATIONS.items())}. First weights are "
    "Glorot's, for ReLU √2 times as large. The norms of the gradient, layer by layer, are those of the first step; a "
    "loss is the mean over the last tenth of the steps, where guessing has ln 10 = 2.303."
)
SHRINKS = r.Claim(
    "In a plain sigmoid network, where σ′ ≤ 1/4, the gradient shrinks to a quarter or less from each layer to the one "
    "before it.",
    quantity="factor of the gradient's norm a layer, on the way back",
)
KEEP = r.Claim(
    "Networks of tanh with Glorot's weights, and of ReLU with weights √2 times as large, keep the norm of the gradient "
    "from layer to layer (to ± 5 % a layer).",
    quantity="factor of the gradient's norm a layer, on the way back",
)
NORM_KEEPS = r.Claim(
    "Batch norm keeps the norm of the gradient from layer to layer, whatever σ is (to ± 5 % a layer).",
    why="Where it leaves these bounds, gradients grow towards the first layer: what vanished is cured and overdone.",
    quantity="factor of the gradient's norm a layer, on the way back",
)
EXPLODES = r.Claim(
    "With batch norm and ReLU the gradient grows by √(π/(π − 1)) = 1.211 a layer (± 2 %; G. Yang and others, 2019, for "
    "wide layers and large batches).",
    why=f"Here layers have {WIDTH} neurons and batches {BATCH} examples, where the theory has infinitely many.",
    quantity="factor of the gradient's norm a layer, on the way back",
)
PLAIN_FAILS = r.Claim(
    f"A plain sigmoid network of 5 or more hidden layers does not learn (its loss stays above {GUESSING}).",
    quantity="loss at the end",
)
NORM_LEARNS = r.Claim(
    f"A sigmoid network of 5 or more hidden layers with batch norm learns (its loss falls below {LEARNED}).",
    why="Such networks leave guessing at every depth, but the deeper they are, the higher their loss is at the end.",
    quantity="loss at the end",
)
STILL_LEARN = r.Claim(
    f"Without batch norm, tanh and ReLU still learn with {{deepest}} hidden layers (their loss falls below {LEARNED}).",
    why="A gradient that keeps its norm is not all; whether another η would do is left open here.",
    quantity="loss at the end",
)


def chosen(which: jax.Array) -> fnn.Activation:
    """The activation of this number, so that one compiled program trains networks of all."""

    def of(part: str) -> Callable[[jax.Array], jax.Array]:
        return lambda S: jax.lax.switch(which, [getattr(sigma, part) for sigma, *_ in ACTIVATIONS.values()], S)

    return fnn.Activation("chosen", of("value"), of("slope"), of("curvature"))


def experiment_with(norm: str, depth: int, steps: int) -> Callable[..., Any]:
    """The pure experiment ``(key, which) -> metrics`` for networks of so many hidden layers."""
    sample = data.digits()[1:]
    gains, rates = (jnp.asarray(column, jnp.float32) for column in list(zip(*ACTIVATIONS.values(), strict=True))[1:])

    def experiment(key: jax.Array, which: jax.Array) -> dict[str, jax.Array]:
        gain: Any = gains[which]
        w = fnn.nn.glorot_uniform(gain)
        hidden = fnn.serial(fnn.linear(WIDTH, w=w), *NORMS[norm], fnn.activate(chosen(which)))
        net = fnn.serial(hidden, fnn.repeat(hidden, depth - 1), fnn.linear(10))
        optimizer = fnn.sgd(rates[which])
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, optimizer, batch_size=BATCH, metrics=[gradient_norm])
        _, records = fnn.train(learn, learn.init(key, sample), sample, steps, every=1)
        of_layers = [found[0] for layer, found in records["gradient_norm"].items() if "linear" in layer]
        return {
            "norms": jnp.concatenate([jnp.reshape(norm, (-1,)) for norm in of_layers]),
            "loss": jnp.mean(records["loss"][-steps // 10 :]),
        }

    return experiment


def factor(norms: np.ndarray) -> np.ndarray:
    """By what ‖∂Q/∂Wˡ‖ grows from layer to layer on the way back, from the last hidden layer to the second.

    Args:
        norms: of all weights [..., hidden layers + 1]; the first and the last have other shapes than the rest.
    """
    return (norms[..., 1] / norms[..., -2]) ** (1 / (norms.shape[-1] - 3))


def profiles(found: Found) -> r.Figure:
    """The norms of the gradient layer by layer, without and with batch norm."""
    with r.figure(5.4, 7.2) as canvas:
        for axes, (norm, of_depths) in zip(canvas.subplots(2, 1, sharex=True, sharey=True), found.items(), strict=True):
            for i, (color, name) in enumerate(zip(r.COLORS, ACTIVATIONS, strict=False)):
                for depth, line in zip(sorted(of_depths)[-1:0:-1] or of_depths, ("-", "--"), strict=False):
                    mean, half = r.interval(np.log10(of_depths[depth]["norms"][:, i]))
                    at = np.arange(1, depth + 2)
                    axes.plot(at, 10**mean, line, color=color, label=name if line == "-" else "_dashed")
                    axes.fill_between(at, 10 ** (mean - half), 10 ** (mean + half), color=color, alpha=0.2, linewidth=0)
            axes.set(title=norm, ylabel="‖∂Q/∂Wˡ‖", yscale="log")
        for axes in canvas.axes:
            r.name_lines(axes)
        canvas.axes[1].set_xlabel("layer l")
        canvas.axes[1].locator_params(axis="x", integer=True)
        return r.finished(
            canvas,
            "The gradient of each layer's weights at the start, without and with batch normalisation before σ, in the "
            "deepest network and, dashed, in the next: geometric means over seeds with 95 % intervals",
            "Two plots of the norm of the gradient against the layer, on a logarithmic scale. Without batch norm the "
            "norms of a sigmoid network fall by many orders of magnitude from the last layer to the first, while those "
            "of tanh and ReLU stay level. With batch norm all of them stay within about two orders, and grow towards "
            "the first layer.",
        )


def losses(found: Found) -> r.Figure:
    """The loss at the end against depth."""
    with r.figure() as canvas:
        axes = canvas.subplots()
        for norm, line in zip(found, ("--", "-"), strict=True):
            for i, (color, name) in enumerate(zip(r.COLORS, ACTIVATIONS, strict=False)):
                mean, half = r.interval([of["loss"][:, i] for of in found[norm].values()], axis=1)
                at = list(found[norm])
                axes.plot(at, mean, f"o{line}", color=color, markersize=4, label=f"{name}, {norm}")
                axes.errorbar(at, mean, half, fmt="none", color=color, capsize=2)
        axes.axhline(math.log(10), linestyle=":", color="#888888")
        axes.set(xlabel="hidden layers", ylabel="training loss at the end", xticks=list(found["plain"]))
        r.name_lines(axes)
        return r.finished(
            canvas,
            "Which networks learn: the training loss of the last tenth of the steps against depth, means over seeds "
            "with 95 % intervals; the dotted line is guessing, ln 10",
            "Plot of loss against the number of hidden layers. The sigmoid network without batch norm is at guessing "
            "from five layers on; with batch norm every network learns at small depths.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Look at the gradients at the start, train, and judge."""
    depths, steps = settings.pick(quick=((5,), 100), full=(DEPTHS, 300))
    found: Found = {norm: {} for norm in NORMS}
    for norm in NORMS:
        for depth in depths:
            log(f"{settings.seeds} seeds × {len(ACTIVATIONS)} activations of {depth} hidden layers, {norm}")
            experiment = experiment_with(norm, depth, steps)
            found[norm][depth] = r.sweep_seeds(experiment, settings, which=range(len(ACTIVATIONS)))
    factors = {norm: r.by_case(factor(of[depths[-1]]["norms"]), ACTIVATIONS) for norm, of in found.items()}
    return r.Outcome(
        LEAD.format(depths=" to ".join(map(str, sorted({depths[0], depths[-1]}))), steps=steps),
        _verdicts(found, factors),
        EQUATION,
        slide=22,
        tables=[_table(found, factors)],
        figures=[profiles(found), losses(found)],
        numbers={
            "growth of the gradient by layer, backwards": {norm: r.intervals(of) for norm, of in factors.items()},
            "loss": {
                f"{norm}, {depth} hidden layers": r.intervals(r.by_case(of["loss"], ACTIVATIONS))
                for norm, of_depths in found.items()
                for depth, of in of_depths.items()
            },
        },
    )


def _verdicts(found: Found, factors: dict[str, dict[str, np.ndarray]]) -> list[r.Verdict]:
    deep = {norm: {d: of["loss"] for d, of in of_depths.items() if d >= 5} for norm, of_depths in found.items()}
    sigmoids = {norm: {f"{d} hidden layers": loss[:, 0] for d, loss in of.items()} for norm, of in deep.items()}
    plain, normal = factors["plain"], factors["batch norm"]
    deepest = max(deep["plain"])
    others = {name: deep["plain"][deepest][:, i] for i, name in enumerate(ACTIVATIONS) if i}
    return [
        r.at_most(SHRINKS, 0.25, plain["sigmoid"]),
        r.within(KEEP, 0.95, 1.05, {"tanh": plain["tanh"], "ReLU": plain["ReLU"]}),
        r.within(NORM_KEEPS, 0.95, 1.05, normal),
        r.within(EXPLODES, EXPLODING * 0.98, EXPLODING * 1.02, normal["ReLU"]),
        r.at_least(PLAIN_FAILS, GUESSING, sigmoids["plain"]),
        r.at_most(NORM_LEARNS, LEARNED, sigmoids["batch norm"]),
        r.at_most(STILL_LEARN.filled(deepest=deepest), LEARNED, others),
    ]


def _table(found: Found, factors: dict[str, dict[str, np.ndarray]]) -> r.Table:
    rows = [
        (
            name,
            norm,
            str(r.Interval.of(factors[norm][name])),
            *(str(r.Interval.of(of["loss"][:, i])) for of in of_depths.values()),
        )
        for i, name in enumerate(ACTIVATIONS)
        for norm, of_depths in found.items()
    ]
    return r.Table(
        "By what ‖∂Q/∂Wˡ‖ grows from layer to layer on the way back, in the deepest network, and the loss at the end "
        "by the number of hidden layers",
        ("σ", "norm", "growth", *(f"loss, {depth} hidden" for depth in found["plain"])),
        rows,
    )
