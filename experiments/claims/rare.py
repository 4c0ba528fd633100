"""RMSProp gives weights that move rarely larger steps.

Command: ``python -m experiments rare``; 15 seconds on two CPU cores. Expect
an error of the rarest weights of 0.032 by RMSProp, twice that of SGD.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

OFTEN = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
"""how often a feature is not 0"""
EACH, BATCH, NOISE, EXAMPLES = 10, 10, 0.1, 4000
"""features of each frequency"""
RATES = tuple(10.0 ** (k / 2) for k in range(-8, 3))
METHODS: dict[str, Callable[..., fnn.Optimizer]] = {
    "SGD": fnn.sgd,
    "momentum": fnn.momentum,
    "RMSProp": fnn.rmsprop,
    "AdaDelta": fnn.adadelta,
    "Adam": fnn.adam,
}
SCALED = ("RMSProp", "AdaDelta", "Adam")
RARE, COMMON = -1, 0
Found = dict[str, np.ndarray]
"""by method, the errors of the weights [seeds, rates, frequencies]"""


EQUATION = r"""G \coloneqq \alpha G + (1 - \alpha) g^2
w \coloneqq w - \eta \frac{g}{\sqrt{G} + \varepsilon}"""
LEAD = (
    f"A linear model learns {len(OFTEN) * EACH} weights from batches of {BATCH} examples, in {{steps}} steps. Its "
    f"features are 0 most of the time: those of the most frequent group in half of the examples, those of the rarest "
    "in 99 of 100. A weight moves only where its feature is not 0. All true weights are 1 or −1, and all begin at 0; "
    "the error of a group is its mean |w − true w|. Each method has the best of {rates} rates, by the mean error of "
    "all groups."
)
SPEEDS = r.Claim(
    "RMSProp speeds up weights that have moved little: after as many steps the rarest weights have a smaller error "
    "than with SGD, each method at its best η.",
    why="A rare weight has rare gradients, but not small ones: with a large η SGD moves it far enough at each of them, "
    "and ends closer, for the steps of RMSProp do not shrink with the gradient.",
    quantity="error of the rarest weights, RMSProp less SGD",
)
OTHERS = r.Claim(
    "AdaDelta and Adam do so too: the rarest weights have a smaller error than with SGD.",
    why="Adam's G remembers a thousand steps, and its v only ten: after a rare gradient both act for long.",
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


def experiment_with(method: str, steps: int) -> Callable[..., jax.Array]:
    """The pure experiment ``(key, eta) -> mean error of the weights of each frequency``."""
    share = jnp.asarray(np.repeat(OFTEN, EACH), jnp.float32)

    def experiment(key: jax.Array, eta: jax.Array) -> jax.Array:
        key_mask, key_x, key_noise, key_w, key_run = jax.random.split(key, 5)
        seen = jax.random.bernoulli(key_mask, share[None, :], (EXAMPLES, len(share))).astype(jnp.float32)
        x = seen * jax.random.normal(key_x, seen.shape, seen.dtype)
        truth = jnp.where(jax.random.bernoulli(key_w, shape=share.shape), 1.0, -1.0).astype(x.dtype)
        y = x @ truth[:, None] + NOISE * jax.random.normal(key_noise, (EXAMPLES, 1), x.dtype)
        learn = fnn.trainer(fnn.linear(1, w=fnn.nn.zeros()), fnn.squared, METHODS[method](eta), batch_size=BATCH)
        state, _ = fnn.train(learn, learn.init(key_run, (x, y)), (x, y), steps)
        off = jnp.abs(state.params["w"][:, 0] - truth)
        return jnp.mean(off.reshape(len(OFTEN), EACH), axis=1)

    return experiment


def at_best(errors: np.ndarray) -> tuple[int, np.ndarray]:
    """The rate with the smallest mean error of all groups, and the errors [seeds, frequencies] there."""
    means = np.nan_to_num(errors, nan=np.inf).mean(axis=(0, 2))
    best = int(means.argmin())
    return best, errors[:, best]


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn by every method at every rate, judge and draw."""
    steps, rates = settings.pick(quick=(300, RATES[::2]), full=(2000, RATES))
    found: Found = {}
    for method in METHODS:
        log(f"{settings.seeds} seeds × {len(rates)} rates of {method}")
        scale = 10.0 if method == "AdaDelta" else 1.0
        found[method] = r.sweep_seeds(experiment_with(method, steps), settings, eta=scale * np.array(rates))
    errors = {method: at_best(of)[1] for method, of in found.items()}
    return r.Outcome(
        LEAD.format(steps=steps, rates=len(rates)),
        _verdicts(errors),
        EQUATION,
        slide=14,
        tables=[_table(found, np.array(rates))],
        figures=[_picture(errors)],
        numbers={method: [r.Interval.of(group) for group in of.T] for method, of in errors.items()},
    )


def _verdicts(errors: Found) -> list[r.Verdict]:
    rarest = {method: of[:, RARE] for method, of in errors.items()}
    ratio = {method: of[:, RARE] / of[:, COMMON] for method, of in errors.items()}
    above = errors["RMSProp"][:, COMMON] - errors["SGD"][:, COMMON]
    return [
        r.smaller(SPEEDS, {"": (rarest["RMSProp"], rarest["SGD"])}),
        r.smaller(OTHERS, {method: (rarest[method], rarest["SGD"]) for method in ("AdaDelta", "Adam")}),
        r.at_least(UNEVEN, 5, ratio["SGD"]),
        r.at_most(EVEN, 2, ratio["RMSProp"]),
        r.at_most(PRICE, 0.02, above),
    ]


def _table(found: Found, rates: np.ndarray) -> r.Table:
    rows = {}
    for method, of in found.items():
        best, errors = at_best(of)
        rate = rates[best] * (10 if method == "AdaDelta" else 1)
        rows[method] = {"best η": f"{rate:.2g}"} | {
            f"in {100 * share:g} %": errors[:, i] for i, share in enumerate(OFTEN)
        }
    return r.table("Mean error of the weights whose features are not 0 in so many of the examples", "method", rows)


def _picture(errors: Found) -> r.Figure:
    return r.curves(
        [100 * share for share in OFTEN],
        errors,
        "The error of weights by how often their features are not 0, each method at its best η; means and 95 % "
        "intervals",
        "Five lines over the share of examples in which a feature is not 0: the rarer a feature, the larger the error; "
        "that of SGD rises most.",
        xlabel="examples in which the feature is not 0, %",
        ylabel="mean error of the weights",
        logx=True,
        logy=True,
        marker="o",
    )
