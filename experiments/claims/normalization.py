"""Batch normalisation speeds convergence and allows larger steps.

Command: ``python -m experiments normalization``; 19 seconds on two CPU cores. Expect 62 ± 4 steps to a loss of 0.3
with batch norm against 142 ± 8 without, for ReLU at the best rate of each, and a largest rate nine times as large.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r

HIDDEN, WIDTH, BATCH, EVERY = 3, 32, 32, 10
RATES = tuple(10 ** (k / 2) for k in range(-6, 5))
"""η over five decades, 0.001 … 100"""
REACHED = 0.3
"""the loss that counts as learned; guessing has ln 10 = 2.303"""
SIZES = (1, 8, BATCH)
"""examples over which a gradient is averaged"""
PROBE = EVERY * BATCH
"""examples whose loss is compared before and after"""
ACTIVATIONS = {"sigmoid": fnn.sigmoid, "ReLU": fnn.relu}
LOSS = fnn.softmax_cross_entropy
Found = dict[str, np.ndarray]


EQUATION = r"""\hat x_h = \frac{x_h - \mu_h}{\sqrt{\sigma_h^2 + \varepsilon}}
\mu_h, \sigma_h^2 \text{ over the batch}
\tilde x_h = \gamma_h\, \hat x_h + \beta_h"""
LEAD = (
    f"Networks of {HIDDEN} hidden layers of {WIDTH} neurons, without and with batch normalisation, learn handwritten "
    f"digits by SGD in batches of {BATCH}, at rates η over five decades. Counted are the steps until the mean loss of "
    f"{EVERY} steps is {REACHED} or less, in {{steps}} steps at most; a run that does not get there counts as "
    "{steps}. Each network stands at its own best rate, the one with the fewest steps on average. Steps are counted, "
    f"not seconds: a step with batch norm costs more. A run has diverged if its loss on {PROBE} examples is larger at "
    "the end than at the start, or no number. Last, without batch norm, the gradient is averaged over fewer examples "
    f"than {BATCH} a step."
)
FEWER = r.Claim(
    f"At the best rate of each, a network with batch norm reaches a loss of {REACHED} in fewer steps than one without.",
    quantity=f"steps to a loss of {REACHED}, with batch norm less without",
)
LARGER = r.Claim(
    f"The largest rate at which a network reaches a loss of {REACHED} is larger with batch norm than without.",
    quantity="log₁₀ of the largest rate η, without batch norm less with",
)
AVERAGED = r.Claim(
    f"Averaging the gradient over {BATCH} examples a step takes fewer steps to a loss of {REACHED} than one example a "
    "step, each at its best rate ({steps} stands for {steps} steps or more).",
    quantity=f"steps to a loss of {REACHED}, {BATCH} examples a step less one",
)


def network(sigma: fnn.Activation, normal: bool) -> fnn.Layer:
    """Hidden layers with or without normalisation before each σ, under a linear one."""
    between = (fnn.batch_norm(),) if normal else ()
    w = fnn.nn.he() if sigma is fnn.relu else fnn.nn.glorot_uniform(4.0)
    return fnn.serial(*(fnn.linear(WIDTH, w=w), *between, fnn.activate(sigma)) * HIDDEN, fnn.linear(10))


def experiment_with(net: fnn.Layer, steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, eta, size) -> metrics``: steps of SG, each averaged over a batch of that size."""
    sample = data.digits()[1:]
    probe = sample[0][:PROBE], sample[1][:PROBE]

    def experiment(key: jax.Array, eta: jax.Array, size: jax.Array) -> dict[str, jax.Array]:
        def draw(key: jax.Array, step: jax.Array, examples: int, batch_size: int) -> jax.Array:
            return fnn.shuffled(key, step, examples, batch_size)[jnp.arange(batch_size, dtype=jnp.int32) % size]

        def loss(state: fnn.TrainState) -> jax.Array:
            return jnp.mean(LOSS.value(net.forward(state.params, state.layer_state, probe[0], key)[0], probe[1]))

        learn = fnn.trainer(net, LOSS, fnn.sgd(eta), batch_size=BATCH, draw=draw)
        start = learn.init(key, sample)
        end, metrics = fnn.train(learn, start, sample, steps, every=EVERY)
        reached = metrics["loss"] <= REACHED
        first = EVERY * (1 + jnp.argmax(reached).astype(jnp.float32))
        return {
            "steps": jnp.where(jnp.any(reached), first, jnp.inf),
            "diverged": ~(loss(end) <= loss(start)),
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train with and without batch norm at every rate, and judge."""
    steps, names = settings.pick(quick=(150, ("ReLU",)), full=(300, tuple(ACTIVATIONS)))
    found: dict[str, dict[str, Found]] = {name: {} for name in names}
    for name in names:
        for which, normal in (("without", False), ("with", True)):
            log(f"{settings.seeds} seeds × {len(RATES)} rates of {name} {which} batch norm")
            sizes = SIZES if name == "ReLU" and not normal else (BATCH,)
            experiment = experiment_with(network(ACTIVATIONS[name], normal), steps)
            found[name][which] = r.sweep_seeds(experiment, settings, eta=RATES, size=sizes)
    averaged = found["ReLU"]["without"]["steps"]
    of_batch = {n: {w: {k: v[:, :, -1] for k, v in f.items()} for w, f in of.items()} for n, of in found.items()}
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(of_batch, averaged, steps),
        EQUATION,
        slide=22,
        tables=[_table(name, of) for name, of in of_batch.items()],
        figures=[_steps(of_batch, steps), _sizes(averaged, steps)],
        numbers={
            name: {
                which: {
                    "reached": np.isfinite(f["steps"]).mean(axis=0),
                    "diverged": f["diverged"].mean(axis=0),
                    "fewest steps": _best(f["steps"], steps).mean(),
                }
                for which, f in of.items()
            }
            for name, of in of_batch.items()
        }
        | {"eta": RATES},
    )


def _verdicts(found: dict[str, dict[str, Found]], averaged: np.ndarray, steps: int) -> list[r.Verdict]:
    counted = {name: {which: f["steps"] for which, f in of.items()} for name, of in found.items()}
    fewest = {name: (_best(of["with"], steps), _best(of["without"], steps)) for name, of in counted.items()}
    largest = {name: (_largest(of["without"]), _largest(of["with"])) for name, of in counted.items()}
    sizes = {"": (_best(averaged[:, :, -1], steps), _best(averaged[:, :, 0], steps))}
    return [
        r.smaller(FEWER, fewest),
        r.smaller(LARGER, largest),
        r.smaller(AVERAGED.filled(steps=steps), sizes),
    ]


def _best(counted: np.ndarray, steps: int) -> np.ndarray:
    """Steps [seeds] at the rate that takes the fewest on average."""
    counted = np.minimum(counted, steps)
    return counted[:, counted.mean(axis=0).argmin()]


def _largest(counted: np.ndarray) -> np.ndarray:
    """log₁₀ of the largest rate at which a seed reaches the loss; below all of them where it never does."""
    logs = np.log10(RATES)
    return np.where(np.isfinite(counted), logs, logs[0] - 0.5).max(axis=1)


def _median(counted: np.ndarray) -> np.ndarray:
    """Over seeds, NaN where fewer than half of them reach the loss."""
    return np.array([np.median(c) if np.isfinite(np.median(c)) else np.nan for c in counted.T])


def _table(name: str, of: dict[str, Found]) -> r.Table:
    header = ("η", *(f"{words} {which}" for which in of for words in ("median steps", "diverged")))
    columns = [(_median(f["steps"]), f["diverged"].mean(axis=0)) for f in of.values()]
    rows = [
        (
            f"{rate:.3g}",
            *(
                cell
                for steps, diverged in columns
                for cell in ("not reached" if np.isnan(steps[i]) else f"{steps[i]:.0f}", f"{100 * diverged[i]:.0f} %")
            ),
        )
        for i, rate in enumerate(RATES)
    ]
    return r.Table(
        f"{name} without and with batch norm: steps to the loss {REACHED}, share of seeds diverged", header, rows
    )


def _steps(found: dict[str, dict[str, Found]], steps: int) -> r.Figure:
    with r.figure(5.4, 5.2) as canvas:
        above, below = canvas.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for color, (name, of) in zip(r.COLORS, found.items(), strict=False):
            for (which, f), line in zip(of.items(), ("--", "-"), strict=True):
                style = {"color": color, "linestyle": line, "marker": "o", "markersize": 4}
                above.plot(RATES, _median(f["steps"]), label=f"{name}, {which} batch norm", **style)
                below.plot(RATES, f["diverged"].mean(axis=0), **style)
        above.set(ylabel=f"steps to a loss of {REACHED}", ylim=(0, steps), xscale="log")
        below.set(ylabel="share diverged", xlabel="learning rate η")
        above.legend()
        return r.finished(
            canvas,
            "Median steps until the loss is reached, where at least half of the seeds get there, and the share of "
            "seeds whose loss ends above where it started",
            "Two line plots over the learning rate on a logarithmic axis. With batch norm the curves of steps lie "
            "lower and go on to larger rates. With and without it, the share diverged rises to one at the largest "
            "rates.",
        )


def _sizes(counted: np.ndarray, steps: int) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, size, of_size in zip(r.COLORS, SIZES, np.moveaxis(counted, 2, 0), strict=False):
            reached = np.isfinite(of_size).mean(axis=0)
            axes.plot(RATES, reached, color=color, marker="o", markersize=4, label=f"{size} example{'s'[: size - 1]}")
        axes.set(xscale="log", xlabel="learning rate η", ylabel=f"share that reaches the loss in {steps} steps")
        axes.legend(title="gradient averaged over")
        return r.finished(
            canvas,
            f"ReLU without batch norm: the share of seeds that reaches the loss in {steps} steps, for gradients "
            f"averaged over more and fewer examples; with {SIZES[-1]} a step it has seen {SIZES[-1]} times as many as "
            "with one",
            "Line plot over the learning rate on a logarithmic axis, one line for each batch size; the larger the "
            "batch, the more seeds reach the loss, and at larger rates.",
        )
