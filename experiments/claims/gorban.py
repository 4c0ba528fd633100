"""Any one nonlinear function is enough, but some need depth.

Command: ``python -m experiments gorban``; 20 seconds on two CPU cores. Expect largest errors of 0.007 from 64
random neurons of tanh, 0.06 of ReLU and 0.07 of the sine, exactly the parabola's from squares in one layer, and 0.51,
0.29 and 0.17 from squares in two, three and four.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r
from fnn.lecture import cybenko

SINE = fnn.Activation("sine", jnp.sin, jnp.cos, lambda S: -jnp.sin(S))
SQUARE = fnn.Activation("square", jnp.square, lambda S: 2 * S, lambda S: jnp.full_like(S, 2))
ANY = {
    "sigmoid": fnn.sigmoid,
    "tanh": fnn.tanh,
    "Gaussian": fnn.gaussian,
    "logarithmic": fnn.logarithmic,
    "ReLU": fnn.relu,
    "sine": SINE,
}
"""σ that are no polynomials, the sine neither monotone nor bounded to one bend"""
SIGMAS = {**ANY, "square": SQUARE, "identity": fnn.identity}
WIDTHS = (2, 4, 8, 16, 32, 64)
DEPTHS = (1, 2, 3, 4)
"""hidden layers of squares"""
DEEP = 64
"""neurons in each of them"""
GRID = np.linspace(0, 1, 513)
"""where the largest error is taken; every fourth point is learned from"""
FUNCTIONS = {
    "sin 6x": np.sin(6 * GRID),
    "|x − ½|": np.abs(GRID - 0.5),
    "smooth step": np.tanh(20 * (GRID - 0.5)),
}
TARGETS = np.stack([*FUNCTIONS.values()], axis=1)
"""[points, functions]"""
ROUNDING = 1e-6
"""directions of the hidden values that are weaker than this, of the strongest, are rounding and not used"""

EQUATION = r"""
a(x) = \sum_{h=1}^{H} \alpha_h \, \sigma(w_h x + b_h)
\max_{0 \le x \le 1} |a(x) - f(x)| < \varepsilon
"""
LEAD = (
    "Gorban's theorem of 1998: linear operations and any one nonlinear function approximate every continuous function. "
    "Eight functions $\\sigma$ are tried on three continuous functions on [0, 1], in networks with one hidden layer. "
    "The hidden weights are random, the output weights the best by least squares, and the largest error over 513 "
    "points is taken. Squares are also nested in two, three and four hidden layers of 64 neurons."
)
SUFFICES = r.Claim(
    "Any one nonlinear σ suffices: 64 hidden neurons of sigmoid, tanh, Gaussian, logarithmic, ReLU or sine come within "
    "0.05 of each of the three functions, everywhere.",
    why="The theorem promises that enough neurons with the right weights suffice; among 64 with random weights few "
    "sines are fast enough for the step (weights three times as large bring them to 0.005), and few ReLUs bend where "
    "it bends.",
    quantity="largest error over x, of the worst of the three functions",
)
CLOSER = r.Claim(
    "More neurons come closer: 64 leave at most a tenth of the error that two leave.",
    why="Random neurons that miss the corner or the step leave its error as it is.",
    quantity="largest error with 64 neurons less a tenth of that with two",
)
LINES = r.Claim(
    "Without a nonlinearity nothing is gained: 64 neurons with the identity are no better than the best straight line.",
    quantity="largest error over that of the straight line by least squares",
)
PARABOLAS = r.Claim(
    "Squares in one hidden layer make parabolas and nothing else: 64 neurons are no better than the best parabola.",
    quantity="largest error over that of the parabola by least squares",
)
NESTED = r.Claim(
    "Nested, squares get on: every further hidden layer of squares makes the largest error smaller.",
    why="Random weights do not reach all polynomials of the degree that the layers allow, or rounding hides them.",
    quantity="largest error of the worst of the three functions, less that with one layer fewer",
)


def experiment_with(net: fnn.Layer) -> Callable[[jax.Array], jax.Array]:
    """The pure experiment ``(key) -> values of the random hidden neurons [points, neurons]`` at the grid."""

    def experiment(key: jax.Array) -> jax.Array:
        x = jnp.asarray(GRID, jnp.float32)[:, None]
        params, state = net.init(key, x)
        return net.apply(params, state, x)

    return experiment


def hidden(sigma: fnn.Activation) -> fnn.Layer:
    """The neurons of a `cybenko` network, without their sum."""
    whole = cybenko(max(WIDTHS), sigma)
    neurons = fnn.dense(max(WIDTHS), sigma)
    return neurons._replace(
        init=lambda key, x: tuple(part[0] for part in whole.init(key, x)), label=f"neurons of {whole}"
    )


def squares(depth: int) -> fnn.Layer:
    """Hidden layers of squares on 2x − 1."""
    centred = fnn.from_function(lambda key, x: (), lambda params, x: 2 * x - 1, "centred")
    first = fnn.dense(DEEP, SQUARE, w=fnn.nn.uniform(1.0), b=fnn.nn.uniform(1.0))
    further = fnn.dense(DEEP, SQUARE, w=fnn.nn.uniform_fan_in(), b=fnn.nn.uniform(1.0))
    return fnn.serial(centred, first, *[further] * (depth - 1))


def errors(values: np.ndarray) -> np.ndarray:
    """The largest errors [functions] of the best sums of these values [points, neurons] of hidden neurons."""
    values = values.astype(float)
    values /= np.maximum(np.abs(values).max(axis=0), np.finfo(float).tiny)
    return np.abs(approximated(values) - TARGETS).max(axis=0)


def approximated(values: np.ndarray) -> np.ndarray:
    """The best sums [points, functions] of the values of hidden neurons, by least squares at every fourth point."""
    return values @ np.linalg.lstsq(values[::4], TARGETS[::4], rcond=ROUNDING)[0]


def polynomial(degree: int) -> np.ndarray:
    """The largest errors [functions] of the best polynomial of this degree, by the same least squares."""
    return errors(np.vander(2 * GRID - 1, degree + 1))


def _verdicts(wide: dict[str, np.ndarray], deep: np.ndarray) -> list[r.Verdict]:
    worst = {name: of.max(axis=2) for name, of in wide.items()}
    nested = deep.max(axis=2)
    return [
        r.at_most(SUFFICES, 0.05, {name: worst[name][:, -1] for name in ANY}),
        r.smaller(CLOSER, {name: (worst[name][:, -1], worst[name][:, 0]) for name in ANY}, 0.1),
        *(
            r.within(claim, 0.99, 1.01, r.by_case(wide[name][:, -1] / polynomial(degree), FUNCTIONS))
            for claim, name, degree in ((LINES, "identity", 1), (PARABOLAS, "square", 2))
        ),
        r.smaller(NESTED, {f"{d} layers against {d - 1}": (nested[:, d - 1], nested[:, d - 2]) for d in DEPTHS[1:]}),
    ]


def _of_widths(wide: dict[str, np.ndarray]) -> r.Figure:
    return r.curves(
        WIDTHS,
        {name: of.max(axis=2) for name, of in wide.items()},
        "Largest error of one hidden layer of random neurons, for the worst of the three functions, by the number of "
        "neurons and their σ; mean and 95 % interval over seeds",
        "Eight lines on logarithmic scales. Those of the identity and of the square stay level; the six others fall to "
        "a few hundredths at 64 neurons.",
        xlabel="hidden neurons H",
        ylabel="largest error",
        logx=True,
        logy=True,
        marker="o",
    )


def _of_depths(deep: np.ndarray) -> r.Figure:
    return r.curves(
        DEPTHS,
        r.by_case(np.moveaxis(deep, 1, 2), FUNCTIONS),
        f"Largest error of nested squares, {DEEP} neurons in each layer, by the number of hidden layers; mean and 95 % "
        "interval over seeds",
        "Three lines that fall with every further layer: that of sin 6x to almost nothing, those of the corner and of "
        "the step slowly.",
        xlabel="hidden layers of squares",
        ylabel="largest error",
        logy=True,
        marker="o",
    )


def _drawn(values: dict[str, np.ndarray]) -> r.Figure:
    """What the first seed's networks make of the corner and of the step."""
    with r.figure(5.4, 3.6) as canvas:
        panels = canvas.subplots(1, 2)
        for axes, function in zip(panels, ("|x − ½|", "smooth step"), strict=True):
            index = list(FUNCTIONS).index(function)
            axes.plot(GRID, FUNCTIONS[function], color=r.COLORS[7], linewidth=5, alpha=0.5, label="f")
            for color, (name, of_seed) in zip(r.COLORS, values.items(), strict=False):
                axes.plot(GRID, approximated(of_seed.astype(float))[:, index], color=color, label=name)
            axes.set(xlabel="x", xticks=(0, 0.5, 1))
            axes.set_title(function, fontsize=11)
        canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return r.finished(
            canvas,
            "Two functions, wide and grey, and what networks of 64 neurons a layer make of them, one seed",
            "Two panels. Squares in one layer draw a parabola through the corner and a bent line through the step; "
            "squares in four layers and one layer of tanh follow both.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Draw hidden weights, fit output weights, judge and draw."""
    layers: dict[str, fnn.Layer] = {name: hidden(sigma) for name, sigma in SIGMAS.items()}
    layers |= {f"squares {d}": squares(d) for d in DEPTHS}
    values = {}
    for name, net in layers.items():
        log(f"{settings.seeds} random hidden layers of {name}")
        values[name] = r.sweep_seeds(experiment_with(net), settings)
    log("output weights by least squares")
    wide = {name: np.array([[errors(of_seed[:, :H]) for H in WIDTHS] for of_seed in values[name]]) for name in SIGMAS}
    deep = np.array([[errors(values[f"squares {d}"][i]) for d in DEPTHS] for i in range(settings.seeds)])
    shown = {"squares, one layer": "squares 1", "squares, four layers": "squares 4", "tanh, one layer": "tanh"}
    return r.Outcome(
        LEAD,
        _verdicts(wide, deep),
        EQUATION,
        slide=6,
        figures=[_of_widths(wide), _of_depths(deep), _drawn({name: values[of][0] for name, of in shown.items()})],
        numbers={
            "H": WIDTHS,
            "largest error": {
                name: {f: [r.Interval.of(v) for v in of[:, :, i].T] for i, f in enumerate(FUNCTIONS)}
                for name, of in wide.items()
            },
            "largest error of nested squares": {
                f: [r.Interval.of(v) for v in deep[:, :, i].T] for i, f in enumerate(FUNCTIONS)
            },
        },
    )
