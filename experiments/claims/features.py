"""A deep network learns features: each layer makes the classes easier to tell apart.

Command: ``python -m experiments features``; 40 seconds on two CPU cores. Expect
probes that are right in 0.65 of two spirals on the inputs and in 0.99 on the fourth layer.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r

LAYERS, WIDTH, BATCH, HELD_OUT = 4, 32, 32, 0.3
POINTS, TURNS, NOISE = 1000, 1.5, 0.02
RIDGE = 1e-3
CLASSES = {"spirals": 2, "digits": 10}
PLACES = ("inputs", *(f"layer {layer}" for layer in range(1, LAYERS + 1)))
Found = dict[str, np.ndarray]


EQUATION = r"""x^l = \tanh(x^{l-1} W^l)
\min_V \lVert x^l V - y\rVert^2 + \rho\lVert V\rVert^2"""
LEAD = (
    f"Networks of {LAYERS} hidden layers of {WIDTH} tanh neurons learn two spirals (standardised) and handwritten "
    "digits, in {steps} steps of Adam. Then a linear probe is fitted to each layer: least squares from its outputs "
    "$x^l$ to the classes $y$, one column a class, on the training examples. Its accuracy on held-out examples says "
    "how well a linear model can use what the layer has made of the inputs. The same is done with networks that are "
    "not trained."
)
ACCURACY = "held-out accuracy of a linear probe"
RISES = r.Claim(
    "Each hidden layer of a trained network makes the classes easier to tell apart: a linear probe on it is right "
    "at least as often as one on the layer before.",
    why="Where a layer leaves nothing to improve, the next one can only lose a little.",
    quantity=f"{ACCURACY}, the layer before less this one",
)
SEPARABLE = r.Claim(
    "On the last hidden layer of a trained network the classes are linearly separable: a linear probe is right on at "
    "least 95 % of held-out examples.",
    why="Some networks have not learned the spirals to the end after so many steps.",
    quantity=ACCURACY,
)
INPUTS = r.Claim(
    "On the inputs themselves a linear probe tells the arms of two spirals apart hardly better than a coin: it is "
    "right on at most 65 %.",
    quantity=ACCURACY,
)
TRAINED = r.Claim(
    "Training makes the features: on the last hidden layer a probe is right more often if the network was trained.",
    quantity=f"{ACCURACY}, untrained less trained",
)
LOSES = r.Claim(
    "Without training depth makes features worse: a probe on the last hidden layer of an untrained network is right "
    "less often than one on its first.",
    why="Random layers bend the plane, by which a linear model gains on the spirals; on the digits it loses.",
    quantity=f"{ACCURACY}, last less first layer",
)


def spirals(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points on two spirals, standardised, and the arm of each."""
    x, arm = data.spirals(key, POINTS, TURNS, NOISE)
    return (x - jnp.mean(x, axis=0, keepdims=True)) / jnp.std(x, axis=0, keepdims=True), arm


def samples() -> dict[str, Callable[[jax.Array], tuple[jax.Array, jax.Array]]]:
    """What is learned, by name: a key to examples and their classes."""
    digits = data.digits()
    return {
        "spirals": spirals,
        "digits": lambda key: (digits.x, digits.y),
    }


def probe(x: np.ndarray, y: np.ndarray, unseen: np.ndarray, expected: np.ndarray, classes: int) -> float:
    """The held-out accuracy of a ridge regression from outputs of a layer [n, h] to classes [n]."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    given, asked = (np.pad((part - mean) / spread, ((0, 0), (0, 1)), constant_values=1.0) for part in (x, unseen))
    gram = given.T @ given / len(x) + RIDGE * np.eye(given.shape[1])
    fitted = np.linalg.solve(gram, given.T @ (y[:, None] == np.arange(classes)) / len(x))
    return float(np.mean((asked @ fitted).argmax(axis=1) == expected))


def probed(outputs: Found, classes: int) -> Found:
    """Accuracies of probes [seeds, trained or not, layers]."""
    known, unseen = outputs["class of known"], outputs["class of new"]
    found = np.array(
        [
            [
                [
                    probe(
                        outputs[f"{place}, known"][seed, i],
                        known[seed],
                        outputs[f"{place}, new"][seed, i],
                        new,
                        classes,
                    )
                    for place in PLACES
                ]
                for i in range(2)
            ]
            for seed, new in enumerate(unseen)
        ]
    )
    return outputs | {"probe": found}


def experiment_with(
    sample: Callable[[jax.Array], tuple[jax.Array, jax.Array]], classes: int, steps: int
) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The pure experiment ``key -> outputs of all layers``, before training [0] and after it [1]."""
    layers = [fnn.dense(WIDTH, fnn.tanh)] * LAYERS
    net = fnn.serial(*layers, fnn.linear(classes))
    learn = fnn.trainer(net, fnn.softmax_cross_entropy, fnn.adam(2e-3), batch_size=BATCH)

    def outputs(params: tuple, x: jax.Array) -> list[jax.Array]:
        found = [x]
        for layer, weights in zip(layers, params, strict=False):
            found.append(layer.apply(weights, (), found[-1]))
        return found

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        key_data, key_split, key_run = jax.random.split(key, 3)
        x, y = sample(key_data)
        (unseen, expected), known = data.split(key_split, (x, y), round(HELD_OUT * len(x)))
        start = learn.init(key_run, known)
        state, _ = fnn.train(learn, start, known, steps)
        found = {"class of known": known[1], "class of new": expected}
        for which, given in (("known", known[0]), ("new", unseen)):
            before, after = (outputs(params, given) for params in (start.params, state.params))
            found |= {f"{p}, {which}": jnp.stack(both) for p, *both in zip(PLACES, before, after, strict=True)}
        return found | {"network": data.accuracy(net.apply(state.params, state.layer_state, unseen), expected)}

    return experiment


def plane(x: np.ndarray) -> np.ndarray:
    """Outputs [n, h] along the two directions in which they vary most."""
    centred = x - x.mean(axis=0)
    return centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, probe every layer, judge and draw."""
    steps = settings.pick(quick=400, full=3000)
    found: dict[str, Found] = {}
    for name, sample in samples().items():
        log(f"{settings.seeds} networks that learn {name}, a probe on each layer")
        found[name] = probed(r.sweep_seeds(experiment_with(sample, CLASSES[name], steps), settings), CLASSES[name])
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(found),
        EQUATION,
        slide=6,
        tables=[_table(found)],
        figures=[_planes(found["spirals"]), _by_layer(found)],
        numbers={
            name: {
                "untrained": [r.Interval.of(of) for of in runs["probe"][:, 0].T],
                "trained": [r.Interval.of(of) for of in runs["probe"][:, 1].T],
                "network": r.Interval.of(runs["network"]),
            }
            for name, runs in found.items()
        },
    )


def _verdicts(found: dict[str, Found]) -> list[r.Verdict]:
    probes = {name: runs["probe"] for name, runs in found.items()}
    steps = {
        f"{name}, {PLACES[i]} to {PLACES[i + 1]}": (of[:, 1, i], of[:, 1, i + 1])
        for name, of in probes.items()
        for i in range(LAYERS)
    }
    return [
        r.smaller(RISES, steps, or_equal=True),
        r.at_least(SEPARABLE, 0.95, {name: of[:, 1, -1] for name, of in probes.items()}),
        r.at_most(INPUTS, 0.65, probes["spirals"][:, 1, 0]),
        r.smaller(TRAINED, {name: (of[:, 0, -1], of[:, 1, -1]) for name, of in probes.items()}),
        r.smaller(LOSES, {name: (of[:, 0, -1], of[:, 0, 1]) for name, of in probes.items()}),
    ]


def _table(found: dict[str, Found]) -> r.Table:
    rows = {
        f"{name}, {word}": {place: runs["probe"][:, i, j] for j, place in enumerate(PLACES)}
        | {"the network": runs["network"] if i else "–"}
        for name, runs in found.items()
        for i, word in enumerate(("untrained", "trained"))
    }
    return r.table("Accuracy of linear probes on held-out examples, and of the network itself", "network", rows)


def _by_layer(found: dict[str, Found]) -> r.Figure:
    lines = {
        f"{name}, {word}": runs["probe"][:, i]
        for name, runs in found.items()
        for i, word in ((1, "trained"), (0, "untrained"))
    }
    return r.curves(
        range(LAYERS + 1),
        lines,
        "Accuracy of linear probes by the layer that they are fitted to, 0 for the inputs; means and 95 % intervals",
        "Four lines over the layers: probes on trained layers rise with depth, those on untrained layers do not.",
        xlabel="layer",
        ylabel="held-out accuracy of a probe",
        marker="o",
    )


def _planes(runs: Found) -> r.Figure:
    shown = [0, *range(1, LAYERS + 1)]
    with r.figure(5.4, 3.8) as canvas:
        panels = canvas.subplots(2, 3).ravel()
        for axes, layer in zip(panels, shown, strict=False):
            points, arm = plane(runs[f"{PLACES[layer]}, new"][0, 1]), runs["class of new"][0]
            for number in (0, 1):
                axes.plot(*points[arm == number].T, "o^"[number], color=r.COLORS[number], markersize=2.5)
            axes.set(title=PLACES[layer], xticks=(), yticks=())
        panels[-1].remove()
        return r.finished(
            canvas,
            "Held-out points of two spirals as the layers of one trained network see them: the two directions in which "
            "a layer's outputs vary most (its principal components)",
            "Five panels. The inputs are two spirals, one in the other; from layer to layer they are unrolled and "
            "drawn apart, until the last layer has one group for each.",
        )
