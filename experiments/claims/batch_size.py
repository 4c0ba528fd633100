"""Small batches or large ones, when both see as many examples.

Command: ``python -m experiments batch_size``; 40 seconds on two CPU cores. Expect
batches of 8 and of one to end at a training loss of 0.06, those of 128 at 0.17.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r

SIZES, HIDDEN, HELD_OUT, RECORDS = (1, 8, 32, 128), 32, 0.15, 10
NORMALISED = (2, 32)
"""batches that batch normalisation can take: one example has no variance"""
RATES = tuple(10.0 ** (k / 2) for k in range(-5, 2))
FIRST = 100
"""steps after which batches are compared at equal steps"""
Runs = dict[int, dict[str, np.ndarray]]
"""by the size of the batch, records [seeds, rates, …]"""


EQUATION = r"""g = \frac{1}{B}\sum_{i \in \text{batch}} \frac{\partial\mathcal{L}_i}{\partial W}
W \coloneqq W - \eta g"""
LEAD = (
    f"A network with {HIDDEN} hidden ReLU neurons learns handwritten digits by SGD, from batches of one to 128, and "
    "each size sees the same number of examples, {examples:,}: a batch of one takes 128 times as many steps as one of "
    "128. Each size has the best of {rates} rates η, two to a decade, by its training loss at the end. The same is "
    f"done with batch normalisation, from two examples on. At equal steps large batches have more examples, so that "
    f"comparison, after {FIRST} steps, is their best case."
)
MORE_STEPS = r.Claim(
    "With as many examples, more and smaller steps go further: at its best η a smaller batch reaches a lower training "
    "loss.",
    why="Between sizes that differ little, or near a loss of 0, the difference is lost in the noise.",
    quantity="training loss, smaller less larger batch",
)
NO_WORSE = r.Claim(
    "Small batches generalise no worse: with as many examples the held-out accuracy of each smaller batch is at most "
    "0.01 below that of batches of 128.",
    quantity="held-out accuracy above that of batches of 128",
)
AVERAGES = r.Claim(
    f"Averaging over a batch makes steps better: after {FIRST} steps, whatever examples they took, a larger batch has "
    "a lower training loss than a smaller one.",
    quantity="training loss, larger less smaller batch",
)
RATE = r.Claim(
    "The larger the batch, the larger the best η.",
    quantity="decades of the best η, smaller less larger batch",
)
NORM = r.Claim(
    "With batch normalisation small batches lose their advantage: batches of two reach a higher training loss than "
    "batches of 32 that see as many examples.",
    quantity="training loss, batches of 32 less batches of 2",
)


def experiment_with(size: int, normalised: bool, examples: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, eta) -> losses of all training examples on the way, and the held-out accuracy``."""
    norm = (fnn.batch_norm(),) if normalised else ()
    net = fnn.serial(fnn.linear(HIDDEN, w=fnn.nn.he()), *norm, fnn.activate(fnn.relu), fnn.linear(10))
    outputs, steps = fnn.inference_mode(net), examples // size
    digits = data.digits()

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        unseen, known = data.split(key_split, (digits.x, digits.y), round(HELD_OUT * len(digits.x)))
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, fnn.sgd(eta), batch_size=size)

        def apply(state: fnn.TrainState, x: jax.Array) -> jax.Array:
            return outputs.apply(state.params, state.layer_state, x)

        def loss(state: fnn.TrainState) -> jax.Array:
            return jnp.mean(fnn.softmax_cross_entropy.value(apply(state, known[0]), known[1]))

        def record(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, jax.Array]:
            state, _ = fnn.train(learn, state, known, steps // RECORDS)
            return state, loss(state)

        start = learn.init(key_run, known)
        state, losses = jax.lax.scan(record, start, length=RECORDS)
        early = loss(fnn.train(learn, start, known, FIRST)[0])
        return {"loss": losses, "accuracy": data.accuracy(apply(state, unseen[0]), unseen[1]), "early": early}

    return experiment


def at_best(runs: Runs, measure: str = "loss") -> dict[int, np.ndarray]:
    """A measure [seeds] of each size at the rate with the smallest mean of the last loss, or of the early one."""
    found = {}
    for size, of in runs.items():
        chosen = of["early"] if measure == "early" else of["loss"][..., -1]
        best = int(np.argmin(np.nan_to_num(chosen, nan=np.inf).mean(axis=0)))
        found[size] = of[measure][:, best]
    return found


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train with every size and rate, and compare."""
    examples, rates = settings.pick(quick=(128 * RECORDS, RATES[::3]), full=(128 * RECORDS * 8, RATES))
    plain: Runs = {}
    normalised: Runs = {}
    for runs, sizes in ((plain, SIZES), (normalised, NORMALISED)):
        for size in sizes:
            log(f"{settings.seeds} seeds × {len(rates)} rates, batches of {size}")
            runs[size] = r.sweep_seeds(experiment_with(size, runs is normalised, examples), settings, eta=rates)
    return r.Outcome(
        LEAD.format(examples=examples, rates=len(rates)),
        _verdicts(plain, normalised, np.asarray(rates)),
        EQUATION,
        slide=10,
        tables=[_table({"plain": plain, "batch norm": normalised}, np.asarray(rates))],
        figures=[_curves(plain, examples)],
        numbers={
            name: {
                size: {"loss": r.Interval.of(at_best(runs)[size][:, -1]), "accuracy": r.Interval.of(accuracy)}
                for size, accuracy in at_best_accuracy(runs).items()
            }
            for name, runs in (("plain", plain), ("batch norm", normalised))
        },
    )


def at_best_accuracy(runs: Runs) -> dict[int, np.ndarray]:
    """The held-out accuracy [seeds] of each size at the rate with the smallest last loss."""
    rates = {
        size: int(np.argmin(np.nan_to_num(of["loss"][..., -1], nan=np.inf).mean(axis=0))) for size, of in runs.items()
    }
    return {size: of["accuracy"][:, rates[size]] for size, of in runs.items()}


def _verdicts(plain: Runs, normalised: Runs, rates: np.ndarray) -> list[r.Verdict]:
    last, early = (
        {size: of if of.ndim == 1 else of[:, -1] for size, of in at_best(plain, m).items()} for m in ("loss", "early")
    )
    accuracy, with_norm = at_best_accuracy(plain), {size: of[:, -1] for size, of in at_best(normalised).items()}
    best = {
        size: np.log10(rates)[np.nan_to_num(of["loss"][..., -1], nan=np.inf).argmin(axis=1)]
        for size, of in plain.items()
    }
    pairs = [*pairwise(SIZES)]
    return [
        r.smaller(MORE_STEPS, {f"{s} and {b}": (last[s], last[b]) for s, b in pairs}),
        r.at_least(NO_WORSE, -0.01, {f"batches of {s}": accuracy[s] - accuracy[128] for s in SIZES[:-1]}),
        r.smaller(AVERAGES, {f"{b} and {s}": (early[b], early[s]) for s, b in pairs}),
        r.smaller(RATE, {f"{s} and {b}": (best[s], best[b]) for s, b in pairs}),
        r.smaller(NORM, {"": (with_norm[32], with_norm[2])}),
    ]


def _table(found: dict[str, Runs], rates: np.ndarray) -> r.Table:
    rows = {}
    for name, runs in found.items():
        losses, accuracies = at_best(runs), at_best_accuracy(runs)
        for size, of in runs.items():
            best = int(np.argmin(np.nan_to_num(of["loss"][..., -1], nan=np.inf).mean(axis=0)))
            rows[f"{name}, {size}"] = {
                "best η": f"{rates[best]:.2g}",
                "training loss": losses[size][:, -1],
                "held-out accuracy": accuracies[size],
            }
    return r.table("The end of training at the best η of each size of the batch", "network, batch", rows)


def _curves(runs: Runs, examples: int) -> r.Figure:
    return r.curves(
        np.arange(1, RECORDS + 1) * (examples // RECORDS),
        {f"batches of {size}" if size > 1 else "one example": losses for size, losses in at_best(runs).items()},
        "Training loss by the examples seen, each size of the batch at its best η; means and 95 % intervals",
        "Four falling lines on a logarithmic scale, one for each size of the batch, over the number of examples seen.",
        xlabel="examples seen",
        ylabel="mean training loss",
        logy=True,
    )
