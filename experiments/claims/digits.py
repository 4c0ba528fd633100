"""Seven optimizers learn handwritten digits, the learning rate swept over six decades.

Command: ``python -m experiments digits``; 2½ minutes on two CPU cores. Expect a held-out accuracy of
0.974 to 0.979, each ± 0.004, for the best rate of each optimizer over 32 seeds.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.ticker import LogLocator
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import fnn
from experiments import data
from experiments import report as r

WIDTH, BATCH, HELD_OUT = 64, 32, 0.15
OPTIMIZERS = {
    "SGD": fnn.sgd, "momentum": fnn.momentum, "NAG": fnn.nag, "RMSProp": fnn.rmsprop, "AdaDelta": fnn.adadelta,
    "Adam": fnn.adam, "Nadam": fnn.nadam,
}  # fmt: skip
RATES = np.logspace(-5, 1, 13)
REQUIRED = 0.97
"""accuracy"""
Runs = dict[str, dict[str, np.ndarray]]
"""for each optimizer its records [seeds, rates, …]"""


EQUATION = r"""\text{SGD: } w \coloneqq w - \eta g, \quad g = \frac{\partial Q}{\partial w} \text{ of a batch}
\text{momentum: } v \coloneqq \gamma v + (1 - \gamma)\, g
w \coloneqq w - \eta v
\text{NAG: likewise, with } g \text{ at } w - \eta\gamma v
\text{RMSProp: } G \coloneqq \alpha G + (1 - \alpha)\, g^2
w \coloneqq w - \frac{\eta g}{\sqrt{G} + \varepsilon}
\text{AdaDelta: } \delta \coloneqq g\, \frac{\sqrt{\Delta} + \varepsilon}{\sqrt{G} + \varepsilon}
\Delta \coloneqq \alpha\Delta + (1 - \alpha)\, \delta^2, \quad w \coloneqq w - \eta\delta
\text{Adam: } \hat v \coloneqq \frac{v}{1 - \gamma^k}, \quad \hat G \coloneqq \frac{G}{1 - \alpha^k}
w \coloneqq w - \frac{\eta \hat v}{\sqrt{\hat G} + \varepsilon}
\text{Nadam: } \tilde v \coloneqq \gamma \hat v + \frac{1 - \gamma}{1 - \gamma^k}\, g
w \coloneqq w - \frac{\eta \tilde v}{\sqrt{\hat G} + \varepsilon}"""
LEAD = (
    "Seven optimizers train the same network by hand-written BackProp, each at several learning rates. The network is "
    f"{{net}}; it learns {{train}} of the {{size}} examples for {{steps}} steps with batches of {BATCH}. "
    "Each seed has its own split, first weights and order of batches. All seeds and {rates} learning rates of an "
    "optimizer run in one compiled call; the rate is chosen by accuracy on validation examples, and the accuracy on "
    "other held-out examples is reported as a mean with a 95 % interval over {seeds} seeds."
)
REACHES = r.Claim(
    "Every optimizer reaches, at its best rate, a mean held-out accuracy of {required}.",
    quantity="held-out accuracy at the best rate",
)


def network(classes: int) -> fnn.Layer:
    """Two hidden layers of ReLU."""
    hidden = fnn.dense(WIDTH, fnn.relu, w=fnn.nn.he())
    return fnn.serial(hidden, hidden, fnn.linear(classes))


def experiment_with(name: str, sample: data.Sample, steps: int, points: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment for one optimizer, ``(key, eta) -> metrics``; a seed has a split of its own."""
    net = network(sample.classes)

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        train, validation, test = data.train_validation_test(key_split, (sample.x, sample.y), HELD_OUT)
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, OPTIMIZERS[name](eta), batch_size=BATCH)
        state, metrics = fnn.train(learn, learn.init(key_run, train), train, steps, every=steps // points)
        params = state.params
        if name == "NAG":  # its parameters look ahead; the weights are a step behind
            params = fnn.optimizers.nag_weights(params, state.optimizer_state)

        def right(part: tuple[jax.Array, jax.Array]) -> jax.Array:
            return data.accuracy(net.apply(params, state.layer_state, part[0]), part[1])

        return {"loss": metrics["loss"], "validation": right(validation), "test": right(test)}

    return experiment


def scikit_learn(settings: r.Settings, sample: data.Sample, steps: int) -> np.ndarray:
    """Held-out accuracies of scikit-learn's MLPClassifier: same shape, splits, batches, number of epochs; its Adam."""
    x, y = map(np.asarray, (sample.x, sample.y))

    def splits(key: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(data.train_validation_test(jax.random.split(key)[0], jnp.arange(len(x)), HELD_OUT))

    accuracies = []
    for seed, (train, _, test) in enumerate(zip(*r.sweep_seeds(splits, settings), strict=True)):
        epochs = max(1, round(steps * BATCH / len(train)))
        options: Any = {"hidden_layer_sizes": (WIDTH, WIDTH), "batch_size": BATCH, "max_iter": epochs, "alpha": 0.0}
        options |= {"tol": 0.0, "n_iter_no_change": epochs}  # no early stop, as ours has none
        model = MLPClassifier(random_state=seed, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed on purpose
            accuracies.append(model.fit(x[train], y[train]).score(x[test], y[test]))
    return np.array(accuracies)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, compare, and draw."""
    sample = data.digits()
    steps, points, rates = settings.pick(quick=(300, 10, RATES[2::4]), full=(2000, 40, RATES))
    runs: Runs = {}
    for name in OPTIMIZERS:
        log(f"{name}: {settings.seeds} seeds × {len(rates)} learning rates in one compiled call")
        runs[name] = r.sweep_seeds(experiment_with(name, sample, steps, points), settings, eta=rates)
    log(f"scikit-learn's MLPClassifier, {settings.seeds} fits")
    peer = r.Interval.of(scikit_learn(settings, sample, steps))
    best = {name: r.best(of["validation"]) for name, of in runs.items()}
    held_out = {name: of["test"][:, best[name]] for name, of in runs.items()}
    size = len(sample.x)
    return r.Outcome(
        LEAD.format(
            net=network(sample.classes),
            steps=steps,
            train=size - 2 * round(HELD_OUT * size),
            size=size,
            rates=len(rates),
            seeds=settings.seeds,
        ),
        [r.at_least(REACHES.filled(required=r.percent(REQUIRED, 1)), REQUIRED, held_out)],
        EQUATION,
        slide=16,
        title="Seven optimizers on handwritten digits",
        tables=[_table(runs, rates, best, peer)],
        figures=[_sensitivity(runs, rates), _curves(runs, rates, best, steps)],
        numbers={
            "held-out accuracy": r.intervals(held_out) | {"MLPClassifier": peer},
            "best rate": {name: rates[i] for name, i in best.items()},
            "accuracy by rate": {name: of["test"].mean(axis=0) for name, of in runs.items()},
            "rates": rates,
        },
    )


def _table(runs: Runs, rates: np.ndarray, best: dict[str, int], peer: r.Interval) -> r.Table:
    reached = f"η with {r.percent(REQUIRED, 1)} or more"
    rows = {}
    for name, of in runs.items():
        good = rates[of["test"].mean(axis=0) >= REQUIRED]
        rows[name] = {
            "best η": f"{rates[best[name]]:.2g}",
            "held-out accuracy": of["test"][:, best[name]],
            "validation": f"{of['validation'][:, best[name]].mean():.4f}",
            "loss": r.scientific(of["loss"][:, best[name], -1].mean()),
            reached: f"{good.min():.2g} … {good.max():.2g}" if good.size else "none",
        }
    rows["MLPClassifier"] = {
        "best η": "0.001", "held-out accuracy": peer, "validation": "–", "loss": "–", reached: "–"
    }  # fmt: skip
    return r.table(
        "Best learning rate of each optimizer, and the range of rates that reach what is required", "optimizer", rows
    )


def _curves(runs: Runs, rates: np.ndarray, best: dict[str, int], steps: int) -> r.Figure:
    losses = {f"{name}, η = {rates[best[name]]:.2g}": of["loss"][:, best[name]] for name, of in runs.items()}
    points = next(iter(losses.values())).shape[1]
    return r.curves(
        np.arange(1, points + 1) * (steps / points),
        losses,
        "Learning curves at each optimizer's best rate: mean training loss with its 95 % interval over seeds",
        "Line plot: the training loss of all seven optimizers falls over the steps, on a logarithmic scale.",
        xlabel="step",
        ylabel="mean training loss",
        logy=True,
    )


def _sensitivity(runs: Runs, rates: np.ndarray) -> r.Figure:
    with r.figure(5.4, 4.4) as canvas:
        axes = canvas.subplots()
        for i, (name, of) in enumerate(runs.items()):  # with ever smaller markers, so that those below show
            mean, half = r.interval(1 - of["test"])
            style = "-" if name in ("SGD", "momentum", "NAG") else "--"
            below = np.minimum(half, 0.9 * mean)  # a logarithmic axis has no place for 0
            look: Any = {"color": r.COLORS[i], "marker": "osv^DXP"[i], "linestyle": style, "markersize": 9 - 0.8 * i}
            axes.plot(rates, mean, label=name, **look)
            axes.errorbar(rates, mean, (below, half), fmt="none", color=r.COLORS[i], capsize=2)
        axes.axhline(1 - REQUIRED, linestyle=":", color="#888888")
        axes.set(xscale="log", yscale="log", xlabel="learning rate η", ylabel="1 − held-out accuracy")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        r.name_lines(axes)
        lowest = ", ".join(f"{rates[r.best(of['test'])]:.2g} for {name}" for name, of in runs.items())
        return r.finished(
            canvas,
            "How sensitive each optimizer is to its learning rate: 1 − held-out accuracy, mean and 95 % interval; "
            "dashed, the methods that scale the gradient; dotted, what is required",
            "Line plot of 1 − accuracy, on a logarithmic axis, against the learning rate for seven optimizers. "
            f"Lowest at {lowest}.",
        )
