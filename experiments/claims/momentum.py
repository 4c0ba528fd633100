"""Momentum averages over about 1/(1 − γ) steps.

Command: ``python -m experiments momentum``; 4 seconds on two CPU cores. Expect a mean age of the averaged gradients of
1/(1 − γ), and a variance of v that is (1 − γ)/(1 + γ) of theirs, each to about one percent.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

GAMMAS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
WEIGHTS, SETTLING, STEPS = 128, 1000, 2000
"""weights w that get gradients of their own; steps until v has forgotten its start, and those measured after them"""
OLDEST = 1000
"""ages of gradients that are distinguished"""
DRAWN = (0.8, 0.9, 0.98)


EQUATION = r"""v \coloneqq \gamma v + (1 - \gamma)\, g
\frac{\partial v_t}{\partial g_{t-k}} = (1 - \gamma)\, \gamma^k
\text{mean age } \sum_k (k + 1)(1 - \gamma)\, \gamma^k = \frac{1}{1 - \gamma}
\frac{\operatorname{Var} v}{\operatorname{Var} g} = \sum_k (1 - \gamma)^2\, \gamma^{2k}
\frac{\operatorname{Var} v}{\operatorname{Var} g} = \frac{1 - \gamma}{1 + \gamma}"""
LEAD = (
    f"Momentum is given gradients of {WEIGHTS} weights that are white noise, and a gradient that rises by 1 in every "
    "step under the same noise. The distance of v behind the rise is the age of the gradients that it averages; its "
    "variance in the noise shows how many of them it averages; and $\\partial v/\\partial g$ of each past gradient, "
    f"found by differentiating through the optimizer, is the weight that this gradient has in v. {SETTLING} steps let "
    f"v forget its start, {STEPS} are measured."
)
AGE = r.Claim(
    "The gradients that momentum averages are on average 1/(1 − γ) steps old, the newest counted as 1 (ratio to "
    "1/(1 − γ) within 2 %).",
    quantity="mean age over 1/(1 − γ)",
)
NEWEST = r.Claim(
    "Most of the weight in momentum's average v, 1 − γⁿ, is on the last n = 1/(1 − γ) gradients (between 60 % and "
    "80 %; near 1 − 1/e = 0.632 where γ is near 1).",
    quantity="share of the weight on the last 1/(1 − γ) gradients",
)
VARIANCE = r.Claim(
    "Momentum's average v of white noise has (1 − γ)/(1 + γ) of the variance of the gradients (ratio within 5 %).",
    quantity="measured variance over that of theory",
)
PLAIN_MEAN = r.Claim(
    "Momentum's average v is as noisy as a plain mean of 1/(1 − γ) gradients (ratio of the variances within 20 %).",
    why="Old gradients keep a little weight, so more of them than 1/(1 − γ) take part: the noise of v is that of a "
    "plain mean of (1 + γ)/(1 − γ) gradients, nearly twice as many where γ is near 1. The slide's 1/(1 − γ) is the "
    "mean age, and the time in which a gradient's weight falls by about a factor e, the more nearly the nearer γ is "
    "to 1.",
    quantity="variance of v over that of the plain mean",
)


def averages(gamma: Any, gradients: jax.Array) -> jax.Array:
    """Every v [steps, …] of `fnn.momentum` for these gradients, by η = 1: the steps are −v."""
    optimizer = fnn.momentum(1.0, gamma)

    def step(state: Any, g: jax.Array) -> tuple[Any, jax.Array]:
        updates, state = optimizer.update(g, state)
        return state, -updates

    return jax.lax.scan(step, optimizer.init(gradients[0]), gradients)[1]


def experiment(key: jax.Array, gamma: Any) -> dict[str, jax.Array]:
    """What momentum makes of white noise and of a steady rise under it, and how much of v each past gradient is."""
    t = jnp.arange(SETTLING + STEPS, dtype=jnp.float32)
    noise = jax.random.normal(key, (len(t), WEIGHTS), jnp.float32)
    v = averages(gamma, noise)[SETTLING:]
    rise = averages(gamma, t[:, None] + noise)[SETTLING:]
    of_each = jax.grad(lambda g: averages(gamma, g)[-1])(jnp.zeros(OLDEST, jnp.float32))[::-1]
    window = jnp.round(1 / (1 - gamma))
    age = jnp.arange(1, OLDEST + 1, dtype=jnp.float32)
    return {
        "variance": jnp.mean(v**2) / jnp.mean(noise[SETTLING:] ** 2),
        "age": 1 + jnp.mean(t[SETTLING:, None] - rise),
        "newest": jnp.sum(jnp.where(age <= window, of_each, 0)),
        "weights": of_each,
    }


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Average, compare with theory, and draw."""
    log(f"{settings.seeds} seeds × {len(GAMMAS)} momenta, {SETTLING + STEPS} steps of {WEIGHTS} weights")
    found = r.sweep_seeds(experiment, settings, gamma=GAMMAS)
    gammas = np.array(GAMMAS)
    window, theory = 1 / (1 - gammas), (1 - gammas) / (1 + gammas)

    def cases(values: np.ndarray) -> dict[str, np.ndarray]:
        return r.by_case(values, GAMMAS, "γ = {:g}")

    return r.Outcome(
        LEAD,
        [
            r.within(AGE, 0.98, 1.02, cases(found["age"] / window)),
            r.within(NEWEST, 0.6, 0.8, cases(found["newest"])),
            r.within(VARIANCE, 0.95, 1.05, cases(found["variance"] / theory)),
            r.within(PLAIN_MEAN, 0.8, 1.2, cases(found["variance"] * window)),
        ],
        EQUATION,
        slide=13,
        tables=[_table(found, window, theory)],
        figures=[_weights(found["weights"]), _variance(found["variance"], gammas)],
        numbers={
            "gamma": GAMMAS,
            **{name: [r.Interval.of(values) for values in found[name].T] for name in ("variance", "age", "newest")},
            "variance_in_theory": theory,
        },
    )


def _table(found: dict[str, np.ndarray], window: np.ndarray, theory: np.ndarray) -> r.Table:
    rows = {
        f"{gamma:g}": {
            "1/(1 − γ)": f"{window[i]:.0f}",
            "mean age": found["age"][:, i],
            "weight of the last 1/(1 − γ)": r.percent(found["newest"][:, i].mean(), 1),
            "Var v/Var g": found["variance"][:, i],
            "(1 − γ)/(1 + γ)": f"{theory[i]:.4f}",
            "equivalent plain mean": f"{1 / found['variance'][:, i].mean():.1f}",
        }
        for i, gamma in enumerate(GAMMAS)
    }
    caption = "What v averages, and of how many gradients a plain mean would be as quiet. Means over seeds"
    return r.table(f"{caption} with 95 % intervals", "γ", rows)


def _weights(weights: np.ndarray) -> r.Figure:
    ages = np.arange(60)
    return r.curves(
        ages,
        {f"γ = {gamma:g}": weights[:, GAMMAS.index(gamma), : len(ages)] for gamma in DRAWN},
        "The weight in v of a gradient k steps ago, by differentiation; dotted, (1 − γ)γᵏ",
        "Three falling curves of weight against age on a logarithmic scale, straight lines, the flatter the nearer "
        "γ is to 1; the dotted lines of theory lie on them.",
        xlabel="age k of the gradient, steps",
        ylabel="∂v/∂g",
        logy=True,
        theory={f"_γ = {gamma:g}": (1 - gamma) * gamma**ages for gamma in DRAWN},
    )


def _variance(variance: np.ndarray, gammas: np.ndarray) -> r.Figure:
    return r.curves(
        1 / (1 - gammas),
        {"measured": variance},
        "The variance of v in white noise as a part of the gradients' own, mean and 95 % interval over seeds",
        "The variance falls in nearly a straight line on logarithmic scales as 1/(1 − γ) grows. It lies on the "
        "line of theory, (1 − γ)/(1 + γ), about half of the line for a plain mean of 1/(1 − γ) gradients.",
        xlabel="1/(1 − γ), steps",
        ylabel="Var v / Var g",
        logx=True,
        logy=True,
        marker="o",
        theory={"(1 − γ)/(1 + γ)": (1 - gammas) / (1 + gammas), "plain mean of 1/(1 − γ)": 1 - gammas},
    )
