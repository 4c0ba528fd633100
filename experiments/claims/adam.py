"""Why Adam calibrates its averages in the first steps.

Command: ``python -m experiments adam``; 9 seconds on two CPU cores. Expect v̂ and Ĝ to be right from the first step on
and, without calibration, steps that are 3.2 times as long at first and 6.6 times as long in the twelfth.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r

GAMMA, ALPHA, EPSILON = 0.9, 0.999, 1e-8
WEIGHTS, MEAN, STEPS = 4096, 1.0, 3000
"""weights with gradients of their own; the mean of these, whose variance is 1; steps of them"""
TOLD = (1, 2, 5, 10, 100, 1000)
"""steps k that verdicts speak of"""
HIDDEN, BATCH, FIRST = 32, 32, 100
RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)


def stretch(k: Any) -> Any:
    """How many times as long step k is without calibration."""
    return (1 - GAMMA**k) / np.sqrt(1 - ALPHA**k)


EQUATION = r"""v \coloneqq \gamma v + (1 - \gamma)\, g
\operatorname{E} v = (1 - \gamma^k)\, \operatorname{E} g, \quad \hat v \coloneqq \frac{v}{1 - \gamma^k}
G \coloneqq \alpha G + (1 - \alpha)\, g^2
\operatorname{E} G = (1 - \alpha^k)\, \operatorname{E} g^2, \quad \hat G \coloneqq \frac{G}{1 - \alpha^k}
\frac{v}{\sqrt{G}} = \frac{1 - \gamma^k}{\sqrt{1 - \alpha^k}} \cdot \frac{\hat v}{\sqrt{\hat G}}
\gamma = 0.9, \quad \alpha = 0.999"""
LEAD = (
    f"{WEIGHTS} weights get random gradients of mean {MEAN:g} and variance 1, which Adam averages. How large are v, "
    "v̂, G and Ĝ in step k beside the means of $g$ and $g^2$ that they estimate, and how long are the steps? A twin of "
    f"Adam without calibration takes v and G as they are. Then both train a network of {HIDDEN} hidden ReLU units on "
    "digits, from the same weights and on the same batches, for {steps} steps at learning rates from "
    f"{RATES[0]:g} to {RATES[-1]:g}; a quarter of the digits is held out."
)
CALIBRATED = r.Claim(
    "In Adam's first steps v and G are too small by the factors 1 − γᵏ and 1 − αᵏ; calibrated, v̂ and Ĝ have the means "
    "E g and E g² in every step (ratio within 5 %).",
    quantity="v̂ over E g, and Ĝ over E g²",
)
FIRST_STEP = r.Claim(
    "As the equations say, the first step of calibrated Adam is η in every weight (ratio within 1 %).",
    quantity="length of the first step over η",
)
LONGER = r.Claim(
    "As the equations say, √G starts smaller than v, so Adam's first steps are longer without calibration, not "
    f"shorter: by the factor (1 − γᵏ)/√(1 − αᵏ), {stretch(1):.2f} at k = 1 and {stretch(10):.2f} at k = 10 (ratio "
    "within 1 %).",
    quantity="measured factor over that of the equation",
)
QUICKER = r.Claim(
    "Calibration makes Adam's start quicker: at the η at which each learns digits soonest, the mean loss over the "
    f"first {FIRST} steps is smaller with calibration than without.",
    why="A likely cause: a smaller η with longer first steps is a learning rate that begins high and comes down to η "
    "within some 1/(1 − α) steps, which suits digits. What calibration gives is that η means the same in all steps.",
    quantity=f"mean loss over the first {FIRST} steps, with calibration less without",
)
HARM = r.Claim(
    "Without calibration large rates harm Adam: at η = 0.03 and 0.1 the mean loss over the first "
    f"{FIRST} steps is smaller with calibration.",
    quantity=f"mean loss over the first {FIRST} steps, with calibration less without",
)
IN_THE_END = r.Claim(
    "In the end Adam's calibration does not matter: after {steps} steps the held-out accuracies with and without it, "
    "each at its best η, differ by at most 0.01.",
    quantity="held-out accuracy, with calibration less without",
)


def uncalibrated(eta: Any) -> fnn.Optimizer:
    """Adam as it would be without v̂ and Ĝ: w := w − ηv/(√G + ε)."""
    adam = fnn.adam(eta, GAMMA, ALPHA, EPSILON)

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _, state = adam.update(gradient, state, params)
        return jax.tree.map(lambda v, G: -eta * v / (jnp.sqrt(G) + EPSILON), state.v, state.G), state

    return fnn.Optimizer(adam.init, update, "uncalibrated adam")


def calibrated(eta: Any) -> fnn.Optimizer:
    """Adam as on the slide."""
    return fnn.adam(eta, GAMMA, ALPHA, EPSILON)


BOTH = {"calibrated": calibrated, "uncalibrated": uncalibrated}


def experiment_of_averages(key: jax.Array) -> dict[str, jax.Array]:
    """Means over the weights, for each step k, of v, v̂, G and Ĝ as parts of what they estimate, and of |Δw|/η."""
    eta = jnp.asarray(1.0, jnp.float32)
    start = jnp.zeros(WEIGHTS, jnp.float32)

    def step(states: dict[str, Any], key: jax.Array) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        g = MEAN + jax.random.normal(key, (WEIGHTS,), jnp.float32)
        found = {name: make(eta).update(g, states[name]) for name, make in BOTH.items()}
        states = {name: state for name, (_, state) in found.items()}
        k, v, G = states["calibrated"]
        k = k.astype(jnp.float32)
        metrics = {
            "v": jnp.mean(v) / MEAN,
            "v̂": jnp.mean(v / (1 - GAMMA**k)) / MEAN,
            "G": jnp.mean(G) / (MEAN**2 + 1),
            "Ĝ": jnp.mean(G / (1 - ALPHA**k)) / (MEAN**2 + 1),
        }
        return states, metrics | {name: jnp.mean(jnp.abs(updates)) for name, (updates, _) in found.items()}

    return jax.lax.scan(
        step, {name: make(eta).init(start) for name, make in BOTH.items()}, jax.random.split(key, STEPS)
    )[1]


def experiment_with(sample: data.Sample, steps: int) -> Any:
    """The pure experiment ``(key, eta) -> {optimizer: {"losses", "accuracy"}}`` on digits, from one start."""
    net = fnn.serial(fnn.dense(HIDDEN, fnn.relu, w=fnn.nn.he()), fnn.linear(sample.classes))
    held_out = len(sample.x) // 4

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, dict[str, jax.Array]]:
        key_split, key_run = jax.random.split(key)
        (x_test, y_test), (x, y) = data.split(key_split, (sample.x, sample.y), held_out)

        def trained(optimizer: fnn.Optimizer) -> dict[str, jax.Array]:
            learn = fnn.trainer(net, fnn.softmax_cross_entropy, optimizer, batch_size=BATCH, draw=fnn.with_replacement)
            end, metrics = fnn.train(learn, learn.init(key_run, (x, y)), (x, y), steps, every=FIRST // 10)
            accuracy = data.accuracy(net.apply(end.params, end.layer_state, x_test), y_test)
            return {"losses": metrics["loss"], "accuracy": accuracy}

        return {name: trained(make(eta)) for name, make in BOTH.items()}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Average, train, judge and draw."""
    steps = settings.pick(quick=300, full=1000)
    log(f"{settings.seeds} seeds, {STEPS} steps of random gradients of {WEIGHTS} weights")
    averages = r.sweep_seeds(experiment_of_averages, settings)
    log(f"{settings.seeds} seeds × {len(RATES)} learning rates, {steps} steps on digits with and without calibration")
    trained = r.sweep_seeds(experiment_with(data.digits(), steps), settings, eta=RATES)
    first = {name: of["losses"][..., :10].mean(axis=-1) for name, of in trained.items()}
    accuracy = {name: of["accuracy"] for name, of in trained.items()}
    return r.Outcome(
        LEAD.format(steps=steps),
        [*_of_averages(averages), *_of_learning(first, accuracy, steps)],
        EQUATION,
        slide=15,
        tables=[_of_steps(averages), _of_training(first, accuracy)],
        figures=[_estimates(averages), _lengths(averages), _first_losses(first)],
        numbers={
            "k": TOLD,
            "averages": {name: values.mean(axis=0)[np.array(TOLD) - 1] for name, values in averages.items()},
            "eta": RATES,
            "loss_first": {name: [r.Interval.of(v) for v in values.T] for name, values in first.items()},
            "accuracy": {name: [r.Interval.of(v) for v in values.T] for name, values in accuracy.items()},
        },
    )


def _of_averages(averages: dict[str, np.ndarray]) -> list[r.Verdict]:
    longer = averages["uncalibrated"] / averages["calibrated"]
    return [
        r.within(
            CALIBRATED,
            0.95,
            1.05,
            {f"{name}, k = {k}": averages[name][:, k - 1] for name in ("v̂", "Ĝ") for k in TOLD},
        ),
        r.within(FIRST_STEP, 0.99, 1.01, averages["calibrated"][:, 0]),
        r.within(LONGER, 0.99, 1.01, {f"k = {k}": longer[:, k - 1] / stretch(k) for k in TOLD}),
    ]


def _of_learning(first: dict[str, np.ndarray], accuracy: dict[str, np.ndarray], steps: int) -> list[r.Verdict]:
    soonest = {name: int(np.argmin(values.mean(axis=0))) for name, values in first.items()}
    quickest = ", ".join(f"{RATES[i]:g} {name}" for name, i in soonest.items())
    best = {name: values[:, r.best(values)] for name, values in accuracy.items()}

    def pair(calibrated: int, uncalibrated: int) -> tuple[np.ndarray, np.ndarray]:
        return first["calibrated"][:, calibrated], first["uncalibrated"][:, uncalibrated]

    return [
        r.smaller(QUICKER, {f"η = {quickest}": pair(**soonest)}),
        r.smaller(HARM, {f"η = {RATES[i]:g}": pair(i, i) for i in map(RATES.index, (0.03, 0.1))}),
        r.within(IN_THE_END.filled(steps=steps), -0.01, 0.01, best["calibrated"] - best["uncalibrated"]),
    ]


def _of_steps(averages: dict[str, np.ndarray]) -> r.Table:
    names = ("v", "v̂", "G", "Ĝ", "uncalibrated", "calibrated")
    header = ("v / E g", "v̂ / E g", "G / E g²", "Ĝ / E g²", "|Δw|/η without", "|Δw|/η with calibration")
    rows = {
        f"{k}": {head: f"{averages[name][:, k - 1].mean():.4g}" for head, name in zip(header, names, strict=True)}
        for k in TOLD
    }
    return r.table("Averages and steps, means over weights and seeds", "step k", rows)


def _of_training(first: dict[str, np.ndarray], accuracy: dict[str, np.ndarray]) -> r.Table:
    rows = [
        (f"{eta:g}", *(str(r.Interval.of(values[name][:, i])) for values in (first, accuracy) for name in BOTH))
        for i, eta in enumerate(RATES)
    ]
    header = ("η", "first losses", "uncalibrated", "held-out accuracy", "uncalibrated")
    caption = f"Digits: mean loss over the first {FIRST} steps and held-out accuracy in the end"
    return r.Table(f"{caption}, with and without calibration, means over seeds with 95 % intervals", header, rows)


def _at() -> np.ndarray:
    """The steps that are drawn, more of them at the beginning."""
    return np.unique(np.geomspace(1, STEPS, 80).astype(int))


def _estimates(averages: dict[str, np.ndarray]) -> r.Figure:
    return r.curves(
        _at(),
        {name: averages[name][:, _at() - 1] for name in ("v", "v̂", "G", "Ĝ")},
        "The averages as parts of what they estimate, E g and E g², by steps, mean over weights and seeds",
        "On logarithmic scales v rises from a tenth to 1 within twenty steps and G from a thousandth to 1 within "
        "three thousand; v̂ and Ĝ are 1 from the first step on.",
        xlabel="step k",
        ylabel="average / what it estimates",
        logx=True,
        logy=True,
    )


def _lengths(averages: dict[str, np.ndarray]) -> r.Figure:
    theory = averages["calibrated"].mean(axis=0) * stretch(np.arange(1, STEPS + 1))
    return r.curves(
        _at(),
        {name: averages[name][:, _at() - 1] for name in BOTH},
        "The mean length of a step in one weight by steps; dotted, calibrated steps times (1 − γᵏ)/√(1 − αᵏ)",
        "With calibration steps are η long at first and then a little shorter. Without, they are three times as "
        "long at first, nearly five times at about the tenth step, and come down to the same within two thousand.",
        xlabel="step k",
        ylabel="mean |Δw| / η",
        logx=True,
        theory={"theory": theory[_at() - 1]},
    )


def _first_losses(first: dict[str, np.ndarray]) -> r.Figure:
    return r.curves(
        RATES,
        first,
        f"The mean loss over the first {FIRST} steps on digits against the learning rate, with 95 % intervals",
        "Both curves fall and rise again. Without calibration the loss is lower at small rates, and at the largest "
        "far higher than with it.",
        xlabel="learning rate η",
        ylabel=f"mean loss, first {FIRST} steps",
        logx=True,
        marker="o",
    )
