"""One nonlinear function is enough: networks of any one σ approximate.

Command: ``python -m experiments gorban``; 40 seconds on two CPU cores. Expect TODO.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

WIDTHS, POINTS, BATCH = (2, 4, 8, 16, 32), 200, 50
SQUARE = fnn.Activation("square", lambda S: S * S, lambda S: 2 * S, lambda S: 2 * jnp.ones_like(S))
NONLINEAR = {
    "sigmoid": fnn.sigmoid,
    "tanh": fnn.tanh,
    "Gaussian": fnn.gaussian,
    "logarithmic": fnn.logarithmic,
    "ReLU": fnn.relu,
}
LINEAR = "identity"
DEPTHS, NESTED = (1, 2, 3), 16
"""hidden layers of squares, and how wide they are"""
TARGETS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "a wave": lambda x: jnp.sin(6 * x),
    "a corner": lambda x: 2 * jnp.abs(2 * x - 1) - 1,
    "a steep step": lambda x: jnp.tanh(20 * (x - 0.5)),
}
CLOSE = 0.1
"""a root mean square error at most this large, of functions between −1 and 1"""
Found = dict[str, dict[str, np.ndarray]]
"""by σ and target, errors [seeds, widths]"""


EQUATION = r"""a(x) = \sum_{h=1}^{H} \alpha_h\, \sigma(w_h x + b_h) + \alpha_0"""
LEAD = (
    "Networks with one hidden layer of 2 to 32 neurons and a linear output learn three functions of $x$ from 0 to 1 by "
    "Adam, in {steps} steps, once for each of five nonlinear σ, and once for the identity. Gorban showed in 1998 that "
    "linear operations and any one nonlinear function of one variable approximate every continuous function, if they "
    f"may be nested: $\\sigma(S) = S^2$ is tried in one, two and three hidden layers of {NESTED}. The error is the "
    "root of the mean square difference over the interval."
)
ERROR = "root mean square error"
ANY = r.Claim(
    f"Any one nonlinear σ approximates: with 32 hidden neurons the error is at most {CLOSE:g} for each σ and each "
    f"function.",
    why="The neurons can represent the function, but training does not find them in so many steps.",
    quantity=ERROR,
)
WIDER = r.Claim(
    "More neurons come closer: for each σ the error, its mean over the three functions, is smaller with 32 hidden "
    "neurons than with 4.",
    quantity=f"{ERROR}, 32 less 4 neurons",
)
NEEDED = r.Claim(
    "Without a nonlinearity no width helps: with the identity and 32 neurons the error is at least that of the best "
    "straight line.",
    quantity=f"{ERROR}, over that of the best line",
)
PARABOLA = r.Claim(
    "In one hidden layer squares make parabolas only: their error is at least that of the best parabola.",
    quantity=f"{ERROR}, over that of the best parabola",
)
DEEP = r.Claim(
    "Nested, squares approximate: with three hidden layers the error is smaller than with one.",
    why="Powers of powers are badly scaled, and training hardly moves along them.",
    quantity=f"{ERROR}, three less one hidden layer",
)


def best_polynomial(target: str, degree: int) -> float:
    """The least root mean square error of a polynomial of this degree."""
    x = np.linspace(0, 1, POINTS)
    y = np.asarray(TARGETS[target](jnp.asarray(x)), np.float64)
    return float(np.sqrt(np.mean(np.square(np.polynomial.Polynomial.fit(x, y, degree)(x) - y))))


def experiment_with(net: fnn.Layer, steps: int) -> Callable[[jax.Array], jax.Array]:
    """The pure experiment ``key -> errors [targets]`` of a network that learns each of them."""
    x = jnp.linspace(0, 1, POINTS, dtype=jnp.float32)[:, None]

    def rate(step: jax.Array) -> jax.Array:
        return 0.02 * (1 - step / steps)

    def error(key: jax.Array, target: Callable[[jax.Array], jax.Array]) -> jax.Array:
        data = 2 * x - 1, target(x)
        optimizer = fnn.chain(fnn.clip_by_norm(1.0), fnn.adam(rate))
        learn = fnn.trainer(net, fnn.squared, optimizer, batch_size=BATCH)
        state, _ = fnn.train(learn, learn.init(key, data), data, steps)
        return jnp.sqrt(jnp.mean(jnp.square(net.apply(state.params, state.layer_state, data[0]) - data[1])))

    def experiment(key: jax.Array) -> jax.Array:
        return jnp.stack([error(key, target) for target in TARGETS.values()])

    return experiment


def learned(net: fnn.Layer, steps: int, settings: r.Settings) -> np.ndarray:
    """The errors [seeds, targets]; of a network that ends beyond all numbers that of answering 0, about 1."""
    return np.nan_to_num(r.sweep_seeds(experiment_with(net, steps), settings), nan=1.0, posinf=1.0)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn with every σ and width, and with squares in several layers; judge and draw."""
    steps, widths = settings.pick(quick=(300, WIDTHS[1::3]), full=(3000, WIDTHS))
    wide: dict[str, np.ndarray] = {}
    for name, activation in {**NONLINEAR, LINEAR: fnn.identity}.items():
        log(f"{settings.seeds} seeds × {len(widths)} widths of {name} neurons")
        nets = [
            fnn.serial(fnn.dense(width, activation, w=fnn.nn.glorot_uniform(4.0)), fnn.linear(1)) for width in widths
        ]
        wide[name] = np.stack([learned(net, steps, settings) for net in nets], axis=1)
    log(f"{settings.seeds} seeds × {len(DEPTHS)} depths of squares")
    deep = [fnn.serial(*[fnn.dense(NESTED, SQUARE)] * depth, fnn.linear(1)) for depth in DEPTHS]
    nested = np.stack([learned(net, steps, settings) for net in deep], axis=1)
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(wide, nested),
        EQUATION,
        slide=6,
        tables=[_table(wide, nested)],
        figures=[_by_width(wide, widths), _by_depth(nested)],
        numbers={
            name: {target: [r.Interval.of(of) for of in errors[..., i].T] for i, target in enumerate(TARGETS)}
            for name, errors in {**wide, "squares": nested}.items()
        },
    )


def _verdicts(wide: dict[str, np.ndarray], nested: np.ndarray) -> list[r.Verdict]:
    lines, parabolas = (np.array([best_polynomial(target, degree) for target in TARGETS]) for degree in (1, 2))
    each = {f"{name}, {t}": wide[name][:, -1, i] for name in NONLINEAR for i, t in enumerate(TARGETS)}
    means = {name: wide[name].mean(axis=2) for name in NONLINEAR}
    return [
        r.at_most(ANY, CLOSE, each),
        r.smaller(
            WIDER, {name: (of[:, -1], of[:, WIDTHS.index(4) if len(of.T) > 2 else 0]) for name, of in means.items()}
        ),
        r.at_least(NEEDED, 0.999, {t: wide[LINEAR][:, -1, i] / lines[i] for i, t in enumerate(TARGETS)}),
        r.at_least(PARABOLA, 0.999, {t: nested[:, 0, i] / parabolas[i] for i, t in enumerate(TARGETS)}),
        r.smaller(DEEP, {t: (nested[:, -1, i], nested[:, 0, i]) for i, t in enumerate(TARGETS)}),
    ]


def _table(wide: dict[str, np.ndarray], nested: np.ndarray) -> r.Table:
    rows = {f"{name}, 32 neurons": wide[name][:, -1] for name in wide}
    rows |= {f"squares, {depth} hidden layers": nested[:, i] for i, depth in enumerate(DEPTHS)}
    cells = {name: {t: errors[:, i] for i, t in enumerate(TARGETS)} for name, errors in rows.items()}
    return r.table("Root mean square errors on each function", "network", cells)


def _by_width(wide: dict[str, np.ndarray], widths: tuple[int, ...]) -> r.Figure:
    return r.curves(
        widths,
        {name: of.mean(axis=2) for name, of in wide.items()},
        "The error of each σ, its mean over three functions, by the number of hidden neurons; means and 95 % intervals",
        "Six lines over the width on logarithmic scales. Those of five nonlinear functions fall; that of the identity "
        "stays where it is.",
        xlabel="hidden neurons",
        ylabel=ERROR,
        logx=True,
        logy=True,
        marker="o",
    )


def _by_depth(nested: np.ndarray) -> r.Figure:
    return r.curves(
        DEPTHS,
        {target: nested[..., i] for i, target in enumerate(TARGETS)},
        f"The error of squares by the number of hidden layers of {NESTED}; means and 95 % intervals",
        "Three lines, one for each function, over one, two and three hidden layers.",
        xlabel="hidden layers of squares",
        ylabel=ERROR,
        logy=True,
        marker="o",
    )
