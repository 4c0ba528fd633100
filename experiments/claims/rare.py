"""RMSProp gives weights that move rarely larger steps.

Command: ``python -m experiments rare``; 35 seconds on two CPU cores. Expect
an error of the rarest weights of 0.24 by RMSProp and 0.36 by SGD after 100 steps, and of 0.025 and 0.016 after 2000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

OFTEN = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""how often a feature is not 0"""
EACH, BATCH, NOISE, EXAMPLES = 10, 10, 0.1, 4000
"""features of each frequency"""
RATES = tuple(10.0 ** (k / 4) for k in range(-12, 2))
OF_ADADELTA = 100.0
"""how much larger those of AdaDelta are"""
METHODS: dict[str, Callable[..., fnn.Optimizer]] = {
    "SGD": fnn.sgd,
    "momentum": fnn.momentum,
    "RMSProp": fnn.rmsprop,
    "AdaDelta": fnn.adadelta,
    "Adam": fnn.adam,
}
SCALED = ("RMSProp", "AdaDelta", "Adam")
RARE, COMMON = -1, 0
EVERY, TIMES = 100, (100, 300, 1000, 2000)
"""steps after which the errors are taken"""
Found = dict[str, np.ndarray]
"""by method, the errors of the weights [seeds, rates, times, frequencies]"""


EQUATION = r"""G \coloneqq \alpha G + (1 - \alpha) g^2
w \coloneqq w - \eta \frac{g}{\sqrt{G} + \varepsilon}"""
LEAD = (
    f"A linear model learns {len(OFTEN) * EACH} weights from batches of {BATCH} examples, in {{steps}} steps. Its "
    f"features are 0 most of the time: those of the most frequent group in half of the examples, those of the rarest "
    "in 99 of 100. A weight moves only where its feature is not 0. All true weights are 1 or −1, and all begin at 0; "
    "the error of a group is its mean |w − true w|. After each number of steps a method has the best of {rates} rates, "
    "by the mean error of all groups then."
)
SPEEDS = r.Claim(
    "RMSProp speeds up weights that have moved little: after as many steps the rarest weights have a smaller error "
    "than with SGD, each method at its best η.",
    why="RMSProp is ahead in the first hundred steps only. Rare gradients are not small: with a large η SGD moves a "
    "weight far enough at each of them, and ends closer, for the steps of RMSProp do not shrink with the gradient.",
    quantity="error of the rarest weights, RMSProp less SGD",
)
OTHERS = r.Claim(
    "AdaDelta and Adam do so too: the rarest weights have a smaller error than with SGD.",
    why="Adam is ahead as long as the rare weights are far off, in the first 300 steps. AdaDelta measures its steps by "
    "those that it has made, and a weight that has hardly moved has made none.",
    quantity="error of the rarest weights, other less SGD",
)
EVEN = r.Claim(
    "With RMSProp rare and frequent weights learn alike: the error of the rarest is at most twice that of the most "
    "frequent, at the best η.",
    why="G forgets within ten steps: at its next gradient a rare weight begins as if it had never moved, and takes one "
    "large step.",
    quantity="error of the rarest over that of the most frequent",
)
PRICE = r.Claim(
    "Frequent weights do not pay for it: with RMSProp the error of the most frequent ones is at most 0.02 larger than "
    "with SGD.",
    why="The larger steps of a method that scales the gradient shake all weights about their best values.",
    quantity="error of the most frequent weights above that with SGD",
)
UNEVEN = r.Claim(
    "SGD leaves rare weights behind: their error is at least five times that of the most frequent ones.",
    why="With a large η a weight is learned in the few steps in which its feature is not 0.",
    quantity="error of the rarest over that of the most frequent",
)


def experiment_with(method: str, times: Sequence[int]) -> Callable[..., jax.Array]:
    """The pure experiment ``(key, eta) -> mean error of the weights of each frequency [times, frequencies]``."""
    share = jnp.asarray(np.repeat(OFTEN, EACH), jnp.float32)

    def experiment(key: jax.Array, eta: jax.Array) -> jax.Array:
        key_mask, key_x, key_noise, key_w, key_run = jax.random.split(key, 5)
        seen = jax.random.bernoulli(key_mask, share[None, :], (EXAMPLES, len(share))).astype(jnp.float32)
        x = seen * jax.random.normal(key_x, seen.shape, seen.dtype)
        truth = jnp.where(jax.random.bernoulli(key_w, shape=share.shape), 1.0, -1.0).astype(x.dtype)
        y = x @ truth[:, None] + NOISE * jax.random.normal(key_noise, (EXAMPLES, 1), x.dtype)
        learn = fnn.trainer(fnn.linear(1, w=fnn.nn.zeros()), fnn.squared, METHODS[method](eta), batch_size=BATCH)

        def record(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, jax.Array]:
            state, _ = fnn.train(learn, state, (x, y), EVERY)
            off = jnp.abs(state.params["w"][:, 0] - truth)
            return state, jnp.mean(off.reshape(len(OFTEN), EACH), axis=1)

        errors = jax.lax.scan(record, learn.init(key_run, (x, y)), length=times[-1] // EVERY)[1]
        return errors[np.array(times) // EVERY - 1]

    return experiment


def at_best(errors: np.ndarray) -> tuple[int, np.ndarray]:
    """The rate with the smallest mean error of all groups, of errors [seeds, rates, groups], and the errors there."""
    means = np.nan_to_num(errors, nan=np.inf).mean(axis=(0, 2))
    best = int(means.argmin())
    return best, errors[:, best]


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn by every method at every rate, judge and draw."""
    times, rates = settings.pick(quick=(TIMES[:2], RATES[::2]), full=(TIMES, RATES))
    found: Found = {}
    for method in METHODS:
        log(f"{settings.seeds} seeds × {len(rates)} rates of {method}")
        scale = OF_ADADELTA if method == "AdaDelta" else 1.0
        found[method] = r.sweep_seeds(experiment_with(method, times), settings, eta=scale * np.array(rates))
    by_time = {time: {method: at_best(of[:, :, i])[1] for method, of in found.items()} for i, time in enumerate(times)}
    return r.Outcome(
        LEAD.format(steps=times[-1], rates=len(rates)),
        _verdicts(by_time),
        EQUATION,
        slide=14,
        tables=[_table(found, np.array(rates), times)],
        figures=[_picture(by_time[times[-1]]), _over_time(by_time)],
        numbers={
            f"after {time} steps": {method: [r.Interval.of(group) for group in of.T] for method, of in errors.items()}
            for time, errors in by_time.items()
        },
    )


def _verdicts(by_time: dict[int, Found]) -> list[r.Verdict]:
    rarest = {time: {method: of[:, RARE] for method, of in errors.items()} for time, errors in by_time.items()}
    errors = by_time[max(by_time)]
    ratio = {method: of[:, RARE] / of[:, COMMON] for method, of in errors.items()}
    above = errors["RMSProp"][:, COMMON] - errors["SGD"][:, COMMON]
    return [
        r.smaller(SPEEDS, {f"after {time} steps": (of["RMSProp"], of["SGD"]) for time, of in rarest.items()}),
        r.smaller(
            OTHERS,
            {
                f"{method}, after {time} steps": (of[method], of["SGD"])
                for method in ("AdaDelta", "Adam")
                for time, of in rarest.items()
            },
        ),
        r.at_least(UNEVEN, 5, ratio["SGD"]),
        r.at_most(EVEN, 2, ratio["RMSProp"]),
        r.at_most(PRICE, 0.02, above),
    ]


def _table(found: Found, rates: np.ndarray, times: Sequence[int]) -> r.Table:
    rows = {}
    for method, of in found.items():
        for i, time in enumerate(times):
            best, errors = at_best(of[:, :, i])
            rate = rates[best] * (OF_ADADELTA if method == "AdaDelta" else 1)
            rows[f"{method}, {time} steps"] = {"best η": f"{rate:.2g}"} | {
                f"in {100 * share:g} %": errors[:, i] for i, share in enumerate(OFTEN)
            }
    return r.table("Mean error of the weights whose features are not 0 in so many of the examples", "method", rows)


def _picture(errors: Found) -> r.Figure:
    return r.curves(
        [100 * share for share in OFTEN],
        errors,
        "The error of weights by how often their features are not 0, each method at its best η; means and 95 % "
        "intervals",
        "Five lines over the share of examples in which a feature is not 0. Those of SGD and momentum are level, "
        "but for the rarest features; those of RMSProp and Adam rise steadily as features get rarer.",
        xlabel="examples in which the feature is not 0, %",
        ylabel="mean error of the weights",
        logx=True,
        logy=True,
        marker="o",
    )


def _over_time(by_time: dict[int, Found]) -> r.Figure:
    return r.curves(
        list(by_time),
        {method: np.stack([errors[method][:, RARE] for errors in by_time.values()], axis=1) for method in METHODS},
        "The error of the rarest weights after so many steps, each method at the η that is best then; means and 95 % "
        "intervals",
        "Five lines that fall with the steps. RMSProp and Adam lead at first; SGD and momentum overtake both.",
        xlabel="steps",
        ylabel="mean error of the rarest weights",
        logx=True,
        logy=True,
        marker="o",
    )
