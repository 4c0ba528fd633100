"""How many steps momentum and NAG save on long narrow valleys.

Command: ``python -m experiments nag``; 3 seconds on two CPU cores. Expect the rates of theory to within 5 %: for
condition number κ, about κ/2 steps per factor e with plain gradient descent, √κ with NAG, √κ/2 with momentum.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

WEIGHTS, EVERY = 16, 20
"""weights w; steps between two records"""
CURVED, BEYOND = 25.0, 200
"""κ of the valley that is no parabola, and the steps there"""
KAPPAS = (10.0, 100.0, 1000.0, 10000.0)
NAMES = ("gradient descent", "momentum", "NAG")
"""The first is `fnn.sgd`, with the gradient of the whole sample."""


EQUATION = r"""Q(w) = \tfrac12 \sum_j \lambda_j w_j^2, \quad \tfrac1\kappa \leq \lambda_j \leq 1
\text{a step shrinks } \lVert w\rVert \text{ by a factor:}
\text{gradient descent, } \eta = \frac{2}{1 + 1/\kappa}, \quad \frac{\kappa - 1}{\kappa + 1}
\text{momentum, } \sqrt{\gamma} = \frac{\sqrt{\kappa} - 1}{\sqrt{\kappa} + 1}
\eta(1 - \gamma) = \frac{4}{(1 + 1/\sqrt{\kappa})^2}, \quad \frac{\sqrt{\kappa} - 1}{\sqrt{\kappa} + 1}
\text{NAG, } \gamma = \frac{\sqrt{\kappa} - 1}{\sqrt{\kappa} + 1}
\eta(1 - \gamma) = 1, \quad 1 - \frac{1}{\sqrt{\kappa}}"""
LEAD = (
    "Plain gradient descent, momentum and NAG descend long narrow valleys from random starts, each with the "
    f"parameters that theory says are best. A valley Q(w) is quadratic in {WEIGHTS} weights, and its second "
    "derivatives lie between 1/κ and 1, both ends taken and the rest drawn at random between them. In {steps} steps "
    "float32 would underflow; but the iterations are linear, so w and v are divided by the same number after every "
    "step and the logarithms are summed. The rate is the slope of a straight line through the second half of ln ‖w‖. "
    "Last, one weight x descends a convex f with f″ = 1 between x = 1 and x = 2 and f″ = 25 elsewhere."
)
RATES = {
    "gradient descent": r.Claim(
        "Plain gradient descent shrinks the error by the factor (κ − 1)/(κ + 1) in a step (its rate, −ln of the "
        "factor, is within 5 % of that of theory).",
        quantity="measured rate over that of theory",
    ),
    "momentum": r.Claim(
        "Momentum shrinks the error by the factor (√κ − 1)/(√κ + 1) in a step (its rate, −ln of the factor, is within "
        "5 % of that of theory).",
        quantity="measured rate over that of theory",
    ),
    "NAG": r.Claim(
        "NAG shrinks the error by the factor 1 − 1/√κ in a step (its rate, −ln of the factor, is within 5 % of that of "
        "theory).",
        quantity="measured rate over that of theory",
    ),
}
ROOT = r.Claim(
    "The number of steps that momentum and NAG need grows as the root √κ of the condition number (power of κ between "
    "0.45 and 0.55).",
    quantity="power of κ in the number of steps",
)
FASTER = r.Claim(
    "On a parabola NAG needs fewer steps than momentum to shrink the error by a factor e, both at their best.",
    why="On a parabola whose κ is known, momentum at its best is about twice as fast. NAG's merit lies elsewhere: it "
    "is proved to need O(√κ) steps on every smooth, strongly convex Q, and momentum is not.",
    quantity="steps per factor e, NAG less momentum",
)
ARRIVES = r.Claim(
    "On a convex valley of κ = 25 that is no parabola, NAG reaches the minimum where momentum cycles for ever: after "
    f"{BEYOND} steps its |x| is at most 1/1000 of that of momentum, both at their best for κ.",
    quantity=f"|x| after {BEYOND} steps, NAG less 1/1000 of that of momentum",
)


def optimizers(kappa: Any, largest: float = 1.0) -> dict[str, fnn.Optimizer]:
    """The three with the parameters that theory says are best where ∂²Q/∂w² is from largest/κ to largest.

    Textbooks write v := γv + g, so that their η is (1 − γ) times the η of the lecture.
    """
    root: Any = jnp.sqrt(kappa)
    gamma = (root - 1) / (root + 1)
    return {
        "gradient descent": fnn.sgd(2 / (1 + 1 / kappa) / largest),
        "momentum": fnn.momentum(4 / (1 + 1 / root) ** 2 / (1 - gamma**2) / largest, gamma**2),
        "NAG": fnn.nag(1 / (1 - gamma) / largest, gamma),
    }


def theory(kappas: np.ndarray) -> dict[str, np.ndarray]:
    """By which factor ‖w‖ shrinks in a step, in the long run."""
    root = np.sqrt(kappas)
    return {
        "gradient descent": (kappas - 1) / (kappas + 1),
        "momentum": (root - 1) / (root + 1),
        "NAG": 1 - 1 / root,
    }


def experiment_with(steps: int) -> Any:
    """The pure experiment ``(key, kappa) -> records`` of each optimizer, one after each EVERY steps.

    A record is what to add to ln ‖φ‖, and ln ‖w‖ − ln ‖φ‖, where φ is what the optimizer holds: w, but for NAG.
    """

    def experiment(key: jax.Array, kappa: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        key_curvatures, key_start = jax.random.split(key)
        between = jax.random.uniform(key_curvatures, (WEIGHTS - 2,), jnp.float32)
        curvatures = kappa ** -jnp.concatenate([jnp.asarray([0, 1], jnp.float32), between])
        start = jax.random.normal(key_start, (WEIGHTS,), jnp.float32)

        def descent(optimizer: fnn.Optimizer) -> tuple[jax.Array, jax.Array]:
            def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
                phi, state = carry
                updates, state = optimizer.update(curvatures * phi, state, phi)
                phi, size = fnn.apply_updates(phi, updates), jnp.linalg.norm(phi)
                state = state._replace(v=state.v / size) if hasattr(state, "v") else state
                return (phi / size, state), jnp.log(size)

            def record(carry: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
                (phi, state), logs = jax.lax.scan(step, carry, length=EVERY)
                w = fnn.optimizers.nag_weights(phi, state) if hasattr(state, "reach") else phi
                return (phi, state), (jnp.sum(logs), jnp.log(jnp.linalg.norm(w) / jnp.linalg.norm(phi)))

            return jax.lax.scan(record, (start, optimizer.init(start)), length=steps // EVERY)[1]

        return {name: descent(optimizer) for name, optimizer in optimizers(kappa).items()}

    return experiment


def slope(x: jax.Array) -> jax.Array:
    """f'(x) of a convex f with 1 ≤ f'' ≤ 25, of which L. Lessard et al. 2016 show that momentum may cycle on it."""
    return jnp.where(x < 1, 25 * x, jnp.where(x < 2, x + 24, 25 * x - 24))


def experiment_beyond(key: jax.Array) -> dict[str, jax.Array]:
    """The way of x under each at its best for κ = 25, from near 3.3 on a valley that is no parabola."""
    start = jax.random.uniform(key, (), jnp.float32, 3.2, 3.4)

    def way(optimizer: fnn.Optimizer) -> jax.Array:
        def step(carry: Any, _: None) -> tuple[Any, jax.Array]:
            x, state = carry
            updates, state = optimizer.update(slope(x), state, x)
            x = fnn.apply_updates(x, updates)
            return (x, state), fnn.optimizers.nag_weights(x, state) if hasattr(state, "reach") else x

        return jax.lax.scan(step, (start, optimizer.init(start)), length=BEYOND)[1]

    best = optimizers(jnp.asarray(CURVED, jnp.float32), largest=CURVED)
    return {name: way(optimizer) for name, optimizer in best.items()}


def distances(shrunk: np.ndarray, of_w: np.ndarray) -> np.ndarray:
    """ln ‖w‖ [seeds, κ, records]."""
    return np.cumsum(shrunk, axis=-1, dtype=np.float64) + of_w


def rates(logs: np.ndarray) -> np.ndarray:
    """−ln of the factor per step: the slope of a line through the second half of ln ‖w‖ [seeds, κ, records]."""
    late = logs[..., logs.shape[-1] // 2 :]
    t = EVERY * (np.arange(late.shape[-1]) - (late.shape[-1] - 1) / 2)
    return -(late @ t) / (t @ t)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Descend, fit and compare with theory."""
    steps, kappas = settings.pick(quick=(20000, np.array(KAPPAS[:-1])), full=(100000, np.array(KAPPAS)))
    log(f"{settings.seeds} seeds × {len(kappas)} condition numbers, {steps} steps of three optimizers")
    records = r.sweep_seeds(experiment_with(steps), settings, kappa=kappas)
    logs = {name: distances(*records[name]) for name in NAMES}
    measured = {name: rates(values) for name, values in logs.items()}
    expected = {name: -np.log(factors) for name, factors in theory(kappas).items()}
    powers = {name: np.polyfit(np.log(kappas), -np.log(measured[name]).T, 1)[0] for name in NAMES}
    log(f"{settings.seeds} starts on a valley that is no parabola")
    ways = r.sweep_seeds(experiment_beyond, settings)
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(kappas, measured, expected, powers, ways),
        EQUATION,
        slide=13,
        tables=[_table(kappas, measured, expected)],
        figures=[_rates(kappas, measured, expected), _descent(logs, kappas), _beyond(ways)],
        numbers={
            "kappa": kappas,
            "power_of_kappa": r.intervals(powers),
            "rate": {name: [r.Interval.of(v) for v in values.T] for name, values in measured.items()},
            "rate_in_theory": expected,
        },
    )


def _verdicts(
    kappas: np.ndarray,
    measured: dict[str, np.ndarray],
    expected: dict[str, np.ndarray],
    powers: dict[str, np.ndarray],
    ways: dict[str, np.ndarray],
) -> list[r.Verdict]:
    def ratios(name: str) -> dict[str, np.ndarray]:
        return r.by_case(measured[name] / expected[name], kappas, "κ = {:g}")

    steps = {name: r.by_case(1 / rate, kappas, "κ = {:g}") for name, rate in measured.items()}
    arrived = {name: np.abs(way[:, -3:]).mean(axis=1) for name, way in ways.items()}
    return [
        *(r.within(claim, 0.95, 1.05, ratios(name)) for name, claim in RATES.items()),
        r.within(ROOT, 0.45, 0.55, {name: powers[name] for name in NAMES[1:]}),
        r.smaller(FASTER, {case: (of_nag, steps["momentum"][case]) for case, of_nag in steps["NAG"].items()}),
        r.smaller(ARRIVES, {"": (arrived["NAG"], arrived["momentum"])}, factor=1e-3),
    ]


def _table(kappas: np.ndarray, measured: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> r.Table:
    rows = {
        f"{k:g}": {name: f"{r.Interval.of(1 / measured[name][:, i])} ({1 / expected[name][i]:.4g})" for name in NAMES}
        for i, k in enumerate(kappas)
    }
    caption = "Steps in which ‖w‖ falls by the factor e, means over seeds with 95 % intervals; in brackets, theory"
    return r.table(caption, "κ", rows)


def _rates(kappas: np.ndarray, measured: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> r.Figure:
    return r.curves(
        kappas,
        {name: 1 / values for name, values in measured.items()},
        "Steps per factor e against the condition number, mean over seeds; dotted, theory",
        "Three rising straight lines on logarithmic scales. Gradient descent grows as κ, NAG and momentum as √κ, "
        "momentum at half of NAG. The dotted lines of theory lie on them.",
        xlabel="condition number κ",
        ylabel="steps in which ‖w‖ falls by the factor e",
        logx=True,
        logy=True,
        marker="o",
        theory={f"_{name}": 1 / values for name, values in expected.items()},
    )


def _descent(logs: dict[str, np.ndarray], kappas: np.ndarray) -> r.Figure:
    k, points = list(kappas).index(1000.0), 60
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, (name, values) in zip(r.COLORS, logs.items(), strict=False):
            mean, half = r.interval(values[:, k, :points] / np.log(10))
            t = EVERY * np.arange(1, points + 1)
            axes.plot(t, mean, color=color, label=name)
            axes.fill_between(t, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
        axes.set(xlabel="step", ylabel="log₁₀ ‖w‖")
        axes.legend()
        return r.finished(
            canvas,
            f"The distance from the minimum for κ = 1000, in the first {EVERY * points} steps, mean and 95 % interval",
            "Three falling lines. Gradient descent falls by a factor of about twenty, NAG by "
            "sixteen orders of magnitude and momentum by about thirty.",
        )


def _beyond(ways: dict[str, np.ndarray]) -> r.Figure:
    shown = 40
    return r.curves(
        np.arange(1, shown + 1),
        {name: ways[name][:, :shown] for name in NAMES},
        "The way of x on a convex valley with κ = 25 that is no parabola, mean and 95 % interval over seeds",
        "Momentum goes up and down between about minus 2 and plus 2 without end. NAG soon comes to the minimum, "
        "0, and stays there; gradient descent swings around it less and less.",
        xlabel="step",
        ylabel="x",
    )
