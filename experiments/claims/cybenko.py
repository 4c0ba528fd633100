"""A sum of H sigmoids comes as close to a continuous function as one likes.

Command: ``python -m experiments cybenko``; 13 seconds on two CPU cores. Expect sup errors of built staircases that fall
as H^(−1) for smooth functions and as H^(−1/2) for a root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

import fnn
from experiments import report as r
from fnn.lecture import cybenko, steps_at, sup_error, unit_grid
from fnn.pruning import all_links, remove_links, sparse

WIDTHS = (2, 4, 8, 16, 32)
"""H of the networks that are trained"""
POINTS = {1: (129, 2001), 2: (33, 129)}
"""by d, points along an axis to learn from, and to take the largest error over"""
SHOWN = 201
"""points of one dimension that are drawn"""
Function = Callable[[jax.Array], jax.Array]


EQUATION = r"""a(x) = \sum_{h=1}^{H} \alpha_h\, \sigma(\langle x, w_h\rangle - w_{0h})
\max_x |a(x) - f(x)| < \varepsilon"""
LEAD = (
    "Random continuous functions, sums of six waves whose largest value is 1, are approximated by sums of H sigmoids, "
    "and the largest error over a dense grid of the unit cube is taken. In one dimension the sum is also built without "
    "training: a step for every increment of f, sharp or as a sigmoid; also for $\\sqrt{{|x - c|}}$, which has no "
    "slope at c. In one and two dimensions neurons at random places get the best α by least squares, “fitted”, and all "
    "parameters are trained, {steps} steps of Adam. The exponent is the slope of log error over log H."
)
SMOOTH = r.Claim(
    "For smooth functions of one variable, the largest error of a sum of H steps, one for each increment of the "
    "function, falls as 1/H (exponent −1 ± 0.1).",
    quantity="exponent of H in the largest error",
)
STEEP = r.Claim(
    "For a function as steep as a root, the largest error of a sum of H steps, one for each increment of the function, "
    "falls as 1/√H, as its modulus of continuity says (exponent −½ ± 0.1).",
    quantity="exponent of H in the largest error",
)
CLOSER = r.Claim(
    "Trained sums of sigmoids come closer with more of them: 32 leave at most a tenth of the error that 2 leave.",
    why="In two dimensions the error falls more slowly; the theorem promises no rate.",
    quantity="largest error, 32 neurons less a tenth of that of 2",
)
CLOSE = r.Claim(
    "Sums of 32 trained sigmoids come within 0.05 of a function whose largest value is 1, everywhere on the unit cube.",
    why="The theorem says that some H and some weights suffice, not which. In two dimensions 32 neurons, trained like "
    "this, are too few; in one dimension the best α of random neurons get closer than Adam.",
    quantity="largest error on the unit cube",
)
BARRON = r.Claim(
    "In one and in two dimensions, the largest error of trained sums of H sigmoids falls at least as fast as 1/√H, the "
    "rate that Barron proved for the root mean square error.",
    quantity="exponent of H in the largest error",
)


def waves(key: jax.Array, d: int) -> Function:
    """A random smooth function on [0, 1]^d, Σ_{k=1}^6 a_k cos(⟨ω_k, x⟩ + φ_k), scaled to a largest value of 1."""
    key_a, key_w, key_phi = jax.random.split(key, 3)
    a = jax.random.normal(key_a, (6,), jnp.float32)
    w = 5 * jax.random.normal(key_w, (d, 6), jnp.float32)
    phi = jax.random.uniform(key_phi, (6,), jnp.float32, 0, 2 * np.pi)

    def f(x: jax.Array) -> jax.Array:
        return jnp.cos(x @ w + phi[None, :]) @ a

    largest = jnp.max(jnp.abs(f(unit_grid(d, POINTS[d][0], jnp.float32))))
    return lambda x: f(x) / largest


def root(key: jax.Array) -> Function:
    """f(x) = √|x − c| with a random c: continuous, but infinitely steep at c."""
    c = jax.random.uniform(key, (), jnp.float32, 0.2, 0.8)
    return lambda x: jnp.sqrt(jnp.abs(x[:, 0] - c))


def experiment_built(widths: tuple[int, ...]) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key) -> sup errors [widths]`` of sums written down by the function's increments."""

    def error(f: Function, sigma: fnn.Activation, H: int, grid: jax.Array) -> jax.Array:
        params = steps_at(f, jnp.linspace(0, 1, H, dtype=jnp.float32))
        return sup_error(f, cybenko(H, sigma), params, ((), ()), grid)

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        grid = unit_grid(1, 4001, jnp.float32)
        cases = {
            "smooth, steps": (waves(key, 1), fnn.heaviside),
            "smooth, sigmoids": (waves(key, 1), fnn.sigmoid),
            "root, steps": (root(key), fnn.heaviside),
        }
        return {name: jnp.stack([error(f, sigma, H, grid) for H in widths]) for name, (f, sigma) in cases.items()}

    return experiment


def experiment_with(d: int, steps: int) -> Callable[..., dict[str, Any]]:
    """The pure experiment ``(key, width) -> sup error`` of trained neurons; and where they started, and what f is."""
    widest = max(WIDTHS)
    net = cybenko(widest)
    learn = fnn.trainer(
        net, fnn.squared, sparse(fnn.adam(lambda k: 0.02 * (1 - k / steps).astype(jnp.float32))), batch_size=64
    )

    def experiment(key: jax.Array, width: jax.Array) -> dict[str, Any]:
        key_f, key = jax.random.split(key)
        f, (points, dense) = waves(key_f, d), (unit_grid(d, n, jnp.float32) for n in POINTS[d])
        data = points, f(points)
        start = learn.init(key, data)
        neurons, _ = all_links(start.params)
        counted = jnp.arange(widest, dtype=jnp.int32)[:, None] < width  # the other neurons have no way out
        start = remove_links(start, (neurons, {"w": counted}))
        end, _ = fnn.train(learn, start, data, steps)
        shown = jnp.linspace(0, 1, SHOWN, dtype=jnp.float32)[:, None] * jnp.ones((1, d), jnp.float32)
        return {
            "trained": sup_error(f, net, end.params, end.layer_state, dense),
            "neurons": start.params[0],
            "answers": (data[1], f(dense)),
            "f": f(shown),
            "a": net.apply(end.params, end.layer_state, shown)[:, 0],
        }

    return experiment


def fitted(runs: dict[str, Any], d: int) -> np.ndarray:
    """Sup errors [seeds, widths] of the neurons where training starts, with their α by least squares."""
    points, dense = (np.asarray(unit_grid(d, n)) for n in POINTS[d])
    errors = np.zeros(runs["trained"].shape)
    for seed, i in np.ndindex(errors.shape):
        w, b = (runs["neurons"][name][seed, i, ..., : WIDTHS[i]].astype(float) for name in ("w", "b"))
        at_points, at_dense = (expit(x @ w + b) for x in (points, dense))
        y, f = (answers[seed, i] for answers in runs["answers"])
        errors[seed, i] = np.abs(at_dense @ np.linalg.lstsq(at_points, y)[0] - f).max()
    return errors


def exponents(widths: Any, errors: np.ndarray) -> np.ndarray:
    """The slopes of log error over log H by least squares, [seeds] for errors [seeds, widths]."""
    return np.polyfit(np.log(widths), np.log(errors).T, 1)[0]


def _drawn(runs: dict[str, Any]) -> r.Figure:
    x = np.linspace(0, 1, SHOWN)
    with r.figure() as canvas:
        axes = canvas.subplots()
        axes.plot(x, runs["f"][0, 0], color=r.COLORS[7], linewidth=4, alpha=0.5, label="f")
        for color, width in zip(r.COLORS, (2, 4, 8), strict=False):
            axes.plot(x, runs["a"][0, WIDTHS.index(width)], color=color, linewidth=1.3, label=f"a, H = {width}")
        axes.set(xlabel="x", ylabel="f(x), a(x)")
        r.name_lines(axes)
        return r.finished(
            canvas,
            "A random function of one variable and trained sums of 2, 4 and 8 sigmoids, one seed",
            "Line plot: with two neurons the sum follows the function roughly, with eight it lies on it.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Build, fit, train, judge and draw."""
    steps, widths = settings.pick(quick=(300, (8, 32, 128)), full=(3000, (8, 16, 32, 64, 128, 256, 512)))
    log(f"{settings.seeds} random functions of one variable as sums of up to {max(widths)} steps, written down")
    built = r.sweep_seeds(experiment_built(widths), settings)
    runs = {}
    for d in POINTS:
        log(f"d = {d}: {settings.seeds} random functions × {len(WIDTHS)} widths, {steps} steps, in one compiled call")
        runs[d] = r.sweep_seeds(experiment_with(d, steps), settings, width=WIDTHS)
    errors = {}
    for d, of_d in runs.items():
        errors |= {f"d = {d}, trained": of_d["trained"], f"d = {d}, fitted": fitted(of_d, d)}
    slopes = {name: exponents(widths, values) for name, values in built.items()}
    falls = {name: exponents(WIDTHS, values) for name, values in errors.items()}
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(slopes, {f"d = {d}": of_d["trained"] for d, of_d in runs.items()}),
        EQUATION,
        slide=8,
        tables=[_table(errors, falls)],
        figures=[_drawn(runs[1]), _errors(errors), _built(widths, built)],
        numbers={
            "exponents, built": r.intervals(slopes),
            "exponents": r.intervals(falls),
            "largest error": {name: r.intervals(r.by_case(values, WIDTHS)) for name, values in errors.items()},
            "largest error, built": {
                name: {H: float(values[:, i].mean()) for i, H in enumerate(widths)} for name, values in built.items()
            },
        },
    )


def _verdicts(slopes: dict[str, np.ndarray], trained: dict[str, np.ndarray]) -> list[r.Verdict]:
    return [
        r.within(SMOOTH, -1.1, -0.9, {name: slopes[f"smooth, {name}"] for name in ("steps", "sigmoids")}),
        r.within(STEEP, -0.6, -0.4, slopes["root, steps"]),
        r.smaller(CLOSER, {name: (values[:, -1], values[:, 0]) for name, values in trained.items()}, 0.1),
        r.at_most(CLOSE, 0.05, {name: values[:, -1] for name, values in trained.items()}),
        r.at_most(BARRON, -0.5, {name: exponents(WIDTHS, values) for name, values in trained.items()}),
    ]


def _table(errors: dict[str, np.ndarray], falls: dict[str, np.ndarray]) -> r.Table:
    rows = {str(H): {name: values[:, i] for name, values in errors.items()} for i, H in enumerate(WIDTHS)}
    caption = "Largest error over the cube; means over random functions with 95 % intervals"
    return r.table(caption, "H", rows | {"exponent": falls})


def _errors(errors: dict[str, np.ndarray]) -> r.Figure:
    return r.curves(
        WIDTHS,
        errors,
        "Largest error over the cube against the number of neurons, trained and with random neurons "
        "whose α are fitted; means with 95 % intervals over random functions",
        "Line plot on logarithmic scales: all errors fall with H; in one dimension those of fitted sums fall "
        "to rounding.",
        xlabel="neurons H",
        ylabel="largest error",
        logx=True,
        logy=True,
        marker="o",
    )


def _built(widths: tuple[int, ...], built: dict[str, np.ndarray]) -> r.Figure:
    first = np.asarray(widths) / widths[0]
    return r.curves(
        widths,
        built,
        "Largest error of sums in one dimension that are built from the function's increments, and the rates of theory",
        "Line plot on logarithmic scales: for smooth functions the errors fall in parallel to 1/H, for the "
        "root in parallel to one over the square root of H.",
        xlabel="steps H",
        ylabel="largest error",
        logx=True,
        logy=True,
        marker="o",
        theory={
            "1/H": built["smooth, steps"][:, 0].mean() / first,
            "1/√H": built["root, steps"][:, 0].mean() / np.sqrt(first),
        },
    )
