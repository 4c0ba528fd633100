"""Seven optimizers learn handwritten digits, the learning rate sweep_seeds over six decades.

Command: ``python -m experiments digits``; 2½ minutes on two CPU cores. Expect a held-out accuracy of
0.974 to 0.979, each ± 0.004, for the best rate of each optimizer over 32 seeds. ``--data`` takes a table of your own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from matplotlib.ticker import LogLocator
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import fnn
from experiments import data
from experiments import report as r

TAKES = "table of classes"
WIDTH, BATCH, HELD_OUT = 64, 32, 0.15
OPTIMIZERS = ("sgd", "momentum", "nag", "rmsprop", "adadelta", "adam", "nadam")
RATES = np.logspace(-5, 1, 13)
REQUIRED = 0.97
"""accuracy on digits; on a user's table what scikit-learn reaches less SHORT_OF_PEER"""
SHORT_OF_PEER = 0.01
Runs = dict[str, dict[str, np.ndarray]]
"""for each optimizer its records [seeds, rates, …]"""


def network(classes: int) -> fnn.Layer:
    """Two hidden layers of ReLU."""
    hidden = fnn.dense(WIDTH, fnn.relu, w=fnn.he())
    return fnn.serial(hidden, hidden, fnn.linear(classes))


def split(key: jax.Array, size: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Indices for training, validation and test: a seed has a split of its own."""
    order, held = jax.random.permutation(key, size), round(HELD_OUT * size)
    return order[: -2 * held], order[-2 * held : -held], order[-held:]


def experiment_with(name: str, sample: data.Sample, steps: int, points: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment for one optimizer, ``(key, eta) -> metrics``."""
    x, y, net = sample.x, sample.y, network(sample.classes)

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        train, validation, test = split(key_split, len(x))
        learned = x[train], y[train]
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, getattr(fnn, name)(eta), batch_size=BATCH)
        state, metrics = fnn.run(learn, learn.init(key_run, learned), learned, steps, every=steps // points)
        params = state.params
        if name == "nag":  # its parameters look ahead; the weights are a step behind
            params = fnn.nag_weights(params, state.optimizer_state)

        def right(objects: jax.Array) -> jax.Array:
            return data.accuracy(net.apply(params, state.state, x[objects]), y[objects])

        return {"loss": metrics["loss"], "validation": right(validation), "test": right(test)}

    return experiment


def scikit_learn(settings: r.Settings, sample: data.Sample, steps: int) -> np.ndarray:
    """Held-out accuracies of scikit-learn's MLPClassifier: same shape, splits, batches, number of epochs; its Adam."""
    x, y = map(np.asarray, (sample.x, sample.y))

    def splits(key: jax.Array) -> tuple[jax.Array, ...]:
        return split(jax.random.split(key)[0], len(x))

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
    (sample,) = data.samples(settings, data.digits)
    steps, points = (300, 10) if settings.quick else (2000, 40)
    rates = RATES[2::4] if settings.quick else RATES
    runs: Runs = {}
    for name in OPTIMIZERS:
        log(f"{name}: {settings.seeds} seeds × {len(rates)} learning rates in one compiled call")
        runs[name] = r.sweep_seeds(experiment_with(name, sample, steps, points), settings, eta=rates.astype(np.float32))
    log(f"scikit-learn's MLPClassifier, {settings.seeds} fits")
    peer = r.Interval.of(scikit_learn(settings, sample, steps))
    best = {name: int(np.argmax(of["validation"].mean(axis=0))) for name, of in runs.items()}
    held_out = {name: r.Interval.of(of["test"][:, best[name]]) for name, of in runs.items()}
    required = REQUIRED if settings.data is None else peer.mean - SHORT_OF_PEER
    train = len(sample.x) - 2 * round(HELD_OUT * len(sample.x))
    return r.Outcome(
        slide=16,
        title=f"Seven optimizers on {'handwritten digits' if settings.data is None else sample.label}",
        lead=f"{network(sample.classes)}, batches of {BATCH}, {steps} steps of hand-written BackProp on {train} of the "
        f"{len(sample.x)} objects. Each seed has its own split, first weights and order of batches. All seeds and "
        f"{len(rates)} learning rates of an optimizer run in one compiled call; the rate is chosen by accuracy on "
        "validation objects, and the accuracy on other held-out objects is reported as a mean with a 95 % interval "
        f"over {settings.seeds} seeds.",
        equation="sgd: w := w − ηg,   g = ∂Q/∂w of a batch\n"
        "momentum: v := γv + (1 − γ)g,   w := w − ηv;   nag: likewise, with g at w − ηγv\n"
        "rmsprop: G := αG + (1 − α)g²,   w := w − ηg/(√G + ε)\n"
        "adadelta: δ := g(√Δ + ε)/(√G + ε),   Δ := αΔ + (1 − α)δ²,   w := w − ηδ\n"
        "adam: v̂ := v/(1 − γ^k),   Ĝ := G/(1 − α^k),   w := w − ηv̂/(√Ĝ + ε)\n"
        "nadam: w := w − η(γv̂ + (1 − γ)/(1 − γ^k)·g)/(√Ĝ + ε)",
        verdicts=[
            r.at_least(
                f"every optimizer's best setting reaches a mean held-out accuracy of {_percent(required)}",
                required,
                {name: of["test"][:, best[name]] for name, of in runs.items()},
            ),
        ],
        tables=[_table(runs, rates, best, held_out, peer, required)],
        figures=[_sensitivity(runs, rates, required), _curves(runs, rates, best, steps)],
        numbers={
            "held-out accuracy": held_out | {"MLPClassifier": peer},
            "best rate": {name: rates[i] for name, i in best.items()},
            "accuracy by rate": {name: of["test"].mean(axis=0) for name, of in runs.items()},
            "rates": rates,
        },
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(
    runs: Runs,
    rates: np.ndarray,
    best: dict[str, int],
    held_out: dict[str, r.Interval],
    peer: r.Interval,
    required: float,
) -> r.Table:
    rows = []
    for name, of in runs.items():
        good = of["test"].mean(axis=0) >= required
        rows.append(
            (
                name,
                f"{rates[best[name]]:.2g}",
                str(held_out[name]),
                f"{of['validation'][:, best[name]].mean():.4f}",
                f"{of['loss'][:, best[name], -1].mean():.1e}".replace("-", "−"),
                f"{rates[good].min():.2g} … {rates[good].max():.2g}" if good.any() else "none",
            )
        )
    rows.append(("MLPClassifier", "0.001", str(peer), "–", "–", "–"))
    return r.Table(
        "Best learning rate of each optimizer, and the range of rates that reach what is required",
        ("optimizer", "best η", "held-out accuracy", "validation", "loss", f"η with {_percent(required)} or more"),
        rows,
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


def _sensitivity(runs: Runs, rates: np.ndarray, required: float) -> r.Figure:
    with r.figure(5.4, 4.4) as canvas:
        axes = canvas.subplots()
        for i, (name, of) in enumerate(runs.items()):  # with ever smaller markers, so that those below show
            mean, half = r.interval(1 - of["test"])
            style = "-" if name in ("sgd", "momentum", "nag") else "--"
            below = np.minimum(half, 0.9 * mean)  # a logarithmic axis has no place for 0
            look = {
                "color": r.COLORS[i],
                "marker": "osv^DXP"[i],
                "linestyle": style,
                "capsize": 2,
                "markersize": 9 - 0.8 * i,
            }
            axes.errorbar(rates, mean, (below, half), label=name, **look)
        axes.axhline(1 - required, linestyle=":", color="#888888")
        axes.set(xscale="log", yscale="log", xlabel="learning rate η", ylabel="1 − held-out accuracy")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        canvas.legend(ncols=4, fontsize=9, loc="outside upper center")
        return r.finished(
            canvas,
            "How sensitive each optimizer is to its learning rate: 1 − held-out accuracy, mean and 95 % interval; "
            "dashed, the methods that scale the gradient; dotted, what is required",
            "Line plot of 1 − accuracy, on a logarithmic axis, against the learning rate for seven optimizers. "
            "Lowest at "
            + ", ".join(f"{rates[np.argmax(of['test'].mean(axis=0))]:.2g} for {name}" for name, of in runs.items())
            + ".",
        )
