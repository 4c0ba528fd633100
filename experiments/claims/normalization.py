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
"""objects over which a gradient is averaged"""
PROBE = EVERY * BATCH
"""objects whose loss is compared before and after"""
ACTIVATIONS = {"sigmoid": fnn.sigmoid, "ReLU": fnn.relu}
LOSS = fnn.softmax_cross_entropy
Found = dict[str, np.ndarray]


def network(sigma: fnn.Activation, normal: bool) -> fnn.Layer:
    """Hidden layers with or without normalisation before each σ, under a linear one."""
    between = (fnn.batch_norm(),) if normal else ()
    w = fnn.he() if sigma is fnn.relu else fnn.glorot_uniform(4.0)
    return fnn.serial(*(fnn.linear(WIDTH, w=w), *between, fnn.activate(sigma)) * HIDDEN, fnn.linear(10))


def experiment_with(net: fnn.Layer, steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, eta, size) -> metrics``: steps of SG, each averaged over a batch of that size."""
    sample = data.digits()[1:]
    probe = sample[0][:PROBE], sample[1][:PROBE]

    def experiment(key: jax.Array, eta: jax.Array, size: jax.Array) -> dict[str, jax.Array]:
        def draw(key: jax.Array, step: jax.Array, objects: int, batch_size: int) -> jax.Array:
            return fnn.shuffled(key, step, objects, batch_size)[jnp.arange(batch_size, dtype=jnp.int32) % size]

        def loss(state: fnn.TrainState) -> jax.Array:
            return jnp.mean(LOSS.value(net.forward(state.params, state.state, probe[0], key)[0], probe[1]))

        learn = fnn.trainer(net, LOSS, fnn.sgd(eta), batch_size=BATCH, draw=draw)
        start = learn.init(key, sample)
        end, told = fnn.run(learn, start, sample, steps, every=EVERY)
        reached = told["loss"] <= REACHED
        first = EVERY * (1 + jnp.argmax(reached).astype(jnp.float32))
        return {
            "steps": jnp.where(jnp.any(reached), first, jnp.inf),
            "diverged": ~(loss(end) <= loss(start)),
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train with and without batch norm at every rate, and judge."""
    steps = 150 if settings.quick else 300
    found: dict[str, dict[str, Found]] = {}
    for name, sigma in ACTIVATIONS.items():
        if settings.quick and sigma is not fnn.relu:
            continue
        found[name] = {}
        for which, normal in (("without", False), ("with", True)):
            log(f"{settings.seeds} seeds × {len(RATES)} rates of {name} {which} batch norm")
            sizes = SIZES if sigma is fnn.relu and not normal else (BATCH,)
            values = r.sweep_seeds(
                experiment_with(network(sigma, normal), steps),
                settings,
                eta=jnp.asarray(RATES, jnp.float32),
                size=jnp.asarray(sizes, jnp.int32),
            )
            found[name][which] = values
    of_batch = {n: {w: {k: v[:, :, -1] for k, v in f.items()} for w, f in of.items()} for n, of in found.items()}
    averaged = found["ReLU"]["without"]["steps"]
    best = {
        name: (_best(of["with"]["steps"], steps), _best(of["without"]["steps"], steps)) for name, of in of_batch.items()
    }
    largest = {name: (_largest(of["without"]["steps"]), _largest(of["with"]["steps"])) for name, of in of_batch.items()}
    return r.Outcome(
        slide=22,
        lead=f"{HIDDEN} hidden layers of {WIDTH} neurons learn handwritten digits by SG in batches of {BATCH}, at "
        f"rates η over five decades. Counted are the steps until the mean loss of {EVERY} steps is {REACHED} or less, "
        f"in {steps} steps at most; a run that does not get there counts as {steps}. Each network stands at its own "
        "best rate, the one with the fewest steps on average. Steps are counted, not seconds: a step with batch norm "
        f"costs more. A run has diverged if its loss on {PROBE} objects is larger at the end than at the start, or no "
        f"number. Last, without batch norm, the gradient is averaged over fewer objects than {BATCH} a step.",
        equation="x̂_h = (x_h − μ_h)/√(σ_h² + ε),   μ_h, σ_h² over the batch\nx̃_h = γ_h x̂_h + β_h",
        verdicts=[
            r.smaller(
                f"at the best rate of each, a network with batch norm reaches a loss of {REACHED} in fewer steps than "
                "one without",
                best,
            ),
            r.smaller(
                f"the largest rate at which a network reaches a loss of {REACHED} is larger with batch norm than "
                "without (log₁₀ η, without against with)",
                largest,
            ),
            r.smaller(
                f"averaging the gradient over {BATCH} objects a step, {BATCH} times as many, takes fewer steps to a "
                f"loss of {REACHED} than one object a step, each at its best rate ({steps} stands for {steps} or more)",
                {"ReLU": (_best(averaged[:, :, -1], steps), _best(averaged[:, :, 0], steps))},
            ),
        ],
        tables=[_table(name, of) for name, of in of_batch.items()],
        figures=[_steps(of_batch, steps), _sizes(averaged, steps)],
        numbers={
            name: {
                which: {
                    "reached": np.isfinite(f["steps"]).mean(axis=0).tolist(),
                    "diverged": f["diverged"].mean(axis=0).tolist(),
                    "fewest steps": float(_best(f["steps"], steps).mean()),
                }
                for which, f in of.items()
            }
            for name, of in of_batch.items()
        }
        | {"eta": list(RATES)},
    )


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
        above.legend(fontsize=8)
        return r.finished(
            canvas,
            "Median steps until the loss is reached, where at least half of the seeds get there, and the share of "
            "seeds whose loss ends above where it started.",
            "Two line plots over the learning rate on a logarithmic axis. With batch norm the curves of steps lie "
            "lower and go on to larger rates. With and without it, the share diverged rises to one at the largest "
            "rates.",
        )


def _sizes(counted: np.ndarray, steps: int) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, size, of_size in zip(r.COLORS, SIZES, np.moveaxis(counted, 2, 0), strict=False):
            reached = np.isfinite(of_size).mean(axis=0)
            axes.plot(RATES, reached, color=color, marker="o", markersize=4, label=f"{size} object{'s'[: size - 1]}")
        axes.set(xscale="log", xlabel="learning rate η", ylabel=f"share that reaches the loss in {steps} steps")
        axes.legend(fontsize=8, title="gradient averaged over", title_fontsize=8)
        return r.finished(
            canvas,
            f"ReLU without batch norm: the share of seeds that reaches the loss in {steps} steps, for gradients "
            f"averaged over more and fewer objects; with {SIZES[-1]} a step it has seen {SIZES[-1]} times as many as "
            "with one.",
            "Line plot over the learning rate on a logarithmic axis, one line for each batch size; the larger the "
            "batch, the more seeds reach the loss, and at larger rates.",
        )
