"""Four margin losses side by side on one linear classifier.

Command: ``python -m experiments margins``; 30 seconds on two CPU cores. Expect
exact errors within 0.01 of the least on clean examples, and with outliers 0.168 ± 0.002 by the sigmoid loss, against
0.233 by the logistic one.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import fnn
from experiments import report as r

LOSSES = {
    "logistic": fnn.logistic_margin,
    "hinge": fnn.hinge_margin,
    "exponential": fnn.exponential_margin,
    "sigmoid": fnn.sigmoid_margin,
}
FEATURES, EXAMPLES, APART, FLIPPED, OUTLIERS, FAR = 5, 400, 1.0, 0.1, 8, 10.0
"""the class means lie APART on either side of 0; a share of labels is wrong; wrong examples lie FAR out"""
CASES = ("clean", "wrong labels", "outliers")
ETA, STARTS = 0.1, 8
"""the rate falls from ETA to 0; the first start is at 0, the others are farther and farther from it"""
BAYES = float(stats.norm.cdf(-APART))
"""the least error that any classifier has: Φ(−APART)"""
NEAR = 0.01
MARGINS = np.linspace(-3, 3, 601)


EQUATION = r"""\ln(1 + e^{-M}),\quad (1 - M)_+,\quad e^{-M},\quad \frac{1}{1 + e^{M}}
M = \langle w, x\rangle\, y"""
LEAD = (
    f"A linear classifier of {FEATURES} features learns two Gaussian classes that overlap, from {EXAMPLES} examples, "
    "by four losses of the margin $M$, each from {starts} starts, of which the one with the smallest loss counts. "
    f"Once the examples are clean, once {FLIPPED:.0%} of the labels are wrong, and once {OUTLIERS} examples lie far "
    "out on the side of the other class. "
    f"The error of its direction is computed exactly, and so is the least that any classifier has, {BAYES:.4f}."
)
FALL = r.Claim(
    "None of the four losses rises with the margin.",
)
CLEAN = r.Claim(
    f"On clean examples all four losses serve: each comes within {NEAR:g} of the least error that any classifier has.",
    why="The sigmoid loss counts wrong answers, of which examples near the boundary decide.",
    quantity="error above the least",
)
FLIPS = r.Claim(
    f"With {FLIPPED:.0%} of the labels wrong all four losses still come within {NEAR:g} of the least error.",
    why="The sigmoid loss is smallest for long weights, where it counts wrong answers: of the directions with few of "
    "them it takes the one that suits these very examples.",
    quantity="error above the least",
)
BOUNDED = r.Claim(
    "Where a few examples lie far out on the wrong side, the sigmoid loss, which is bounded, errs less than each of "
    "the others.",
    quantity="error, sigmoid less other loss",
)
EXPONENTIAL = r.Claim(
    "The faster a loss grows for wrong examples, the more outliers harm: the exponential loss errs more than the "
    "logistic one.",
    why="The outliers turn both until they lie near the boundary, 43 degrees off, and beyond there is nothing to gain.",
    quantity="error, logistic less exponential loss",
)


def drawn(key: jax.Array, case: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Examples of two classes −1 and 1, whose means are ±APART along the first feature, as CASES[case] says."""
    key_y, key_x, key_flip = jax.random.split(key, 3)
    y = jnp.where(jax.random.bernoulli(key_y, shape=(EXAMPLES,)), 1, -1).astype(jnp.int32)
    x = jax.random.normal(key_x, (EXAMPLES, FEATURES), jnp.float32)
    x = x.at[:, 0].add(APART * y.astype(x.dtype))
    wrong = (case == CASES.index("wrong labels")) & jax.random.bernoulli(key_flip, FLIPPED, (EXAMPLES,))
    y = jnp.where(wrong, -y, y)
    number = jnp.arange(EXAMPLES)
    side = jnp.where(number % 2 == 0, 1, -1).astype(y.dtype)
    far = jnp.zeros_like(x).at[:, :2].set(FAR * side[:, None].astype(x.dtype))
    out = (case == CASES.index("outliers")) & (number < OUTLIERS)  # each with the label of the other side
    return jnp.where(out[:, None], far, x), jnp.where(out, -side, y)


def exact_error(w: jax.Array, b: jax.Array) -> jax.Array:
    """The error of sign(⟨w, x⟩ + b): the mean over both classes of Φ(−(APART·w₁ ± b)/‖w‖)."""
    norm = jnp.sqrt(jnp.sum(jnp.square(w))) + 1e-12
    return jnp.mean(jax.scipy.stats.norm.cdf(-(APART * w[0] + jnp.stack([b, -b])) / norm))


def experiment_with(loss: fnn.Loss, steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, case, start) -> error, angle and loss`` of the classifier that a loss finds."""

    def rate(k: jax.Array) -> jax.Array:
        return ETA * (1 - k / steps)

    def experiment(key: jax.Array, case: jax.Array, start: jax.Array) -> dict[str, jax.Array]:
        key_data, key_run = jax.random.split(key)
        examples = drawn(key_data, case)
        learn = fnn.trainer(fnn.linear(1), loss, fnn.adam(rate), batch_size=EXAMPLES)
        first = learn.init(jax.random.fold_in(key_run, start), examples)
        far = jax.tree.map(lambda w: w * start.astype(w.dtype), first.params)
        state, _ = fnn.train(learn, first._replace(params=far), examples, steps)
        w, b = state.params["w"][:, 0], state.params["b"][0]
        cosine = w[0] / (jnp.sqrt(jnp.sum(jnp.square(w))) + 1e-12)
        value = jnp.mean(loss.value(fnn.linear(1).apply(state.params, (), examples[0]), examples[1]))
        return {"error": exact_error(w, b), "angle": jnp.degrees(jnp.arccos(jnp.clip(cosine, -1, 1))), "loss": value}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn by every loss in every case, from the start that ends with the smallest training loss."""
    steps, starts = settings.pick(quick=(200, 2), full=(1000, STARTS))
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {case: {} for case in CASES}
    for name, loss in LOSSES.items():
        log(f"{settings.seeds} seeds × {starts} starts × {len(CASES)} kinds of examples, the {name} loss")
        runs = r.sweep_seeds(experiment_with(loss, steps), settings, case=range(len(CASES)), start=range(starts))
        best = np.nan_to_num(runs["loss"], nan=np.inf).argmin(axis=2)[..., None]
        for i, case in enumerate(CASES):
            found[case][name] = {of: np.take_along_axis(v, best, 2)[:, i, 0] for of, v in runs.items()}
    error = {case: {name: of["error"] for name, of in losses.items()} for case, losses in found.items()}
    return r.Outcome(
        LEAD.format(starts=starts),
        _verdicts(error),
        EQUATION,
        slide=1,
        tables=[_table(found)],
        figures=[_losses(), _errors(error)],
        numbers={case: {"error": r.intervals(of)} for case, of in error.items()},
    )


def values() -> dict[str, np.ndarray]:
    """Each loss over MARGINS."""
    a, y = jnp.asarray(MARGINS, jnp.float32)[:, None], jnp.ones(len(MARGINS), jnp.int32)
    return {name: np.asarray(loss.value(a, y)) for name, loss in LOSSES.items()}


def _verdicts(error: dict[str, dict[str, np.ndarray]]) -> list[r.Verdict]:
    above = {case: {name: of - BAYES for name, of in losses.items()} for case, losses in error.items()}
    far = error["outliers"]
    rises = {name: float(np.diff(of).max()) for name, of in values().items()}
    return [
        r.judged_each(
            FALL, {name: (rise <= 0, f"largest change {r.scientific(rise)}") for name, rise in rises.items()}
        ),
        r.at_most(CLEAN, NEAR, above["clean"]),
        r.at_most(FLIPS, NEAR, above["wrong labels"]),
        r.smaller(BOUNDED, {f"than {name}": (far["sigmoid"], far[name]) for name in LOSSES if name != "sigmoid"}),
        r.smaller(EXPONENTIAL, {"": (far["logistic"], far["exponential"])}),
    ]


def _table(found: dict[str, dict[str, dict[str, np.ndarray]]]) -> r.Table:
    rows = {
        f"{case}, {name}": {"error": of["error"], "degrees from the best direction": of["angle"]}
        for case, losses in found.items()
        for name, of in losses.items()
    }
    return r.table(f"Exact errors, of which {BAYES:.4f} is the least, and angles", "examples, loss", rows)


def _losses() -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        for color, (name, of) in zip(r.COLORS, values().items(), strict=False):
            axes.plot(MARGINS, of, color=color, label=name)
        axes.step([-3, 0, 3], [1, 1, 0], where="pre", color="#888888", linestyle=":", label="error, 0 or 1")
        axes.set(xlabel="margin M", ylabel="loss", ylim=(0, 4))
        axes.legend()
        return r.finished(
            canvas,
            "The four losses over the margin, and what they stand for: the error, 1 for a negative margin and 0 else",
            "Four falling curves. The exponential one rises fastest to the left, the logistic and the hinge as "
            "straight lines, and the sigmoid one comes to rest at 1.",
        )


def _errors(error: dict[str, dict[str, np.ndarray]]) -> r.Figure:
    with r.figure(5.4, 3.2) as canvas:
        axes = canvas.subplots()
        by_loss = {name: np.stack([error[case][name] for case in CASES], axis=1) for name in LOSSES}
        for i, (name, of) in enumerate(by_loss.items()):
            mean, half = r.interval(of)
            axes.errorbar(
                np.arange(3) + 0.12 * (i - 1.5), mean, half, fmt="o", color=r.COLORS[i], capsize=2, label=name
            )
        axes.axhline(BAYES, linestyle=":", color="#888888")
        axes.set_xticks(range(3), CASES)
        axes.set(ylabel="error")
        axes.legend()
        return r.finished(
            canvas,
            "The exact error of each loss by the kind of examples, mean and 95 % interval; dotted, the least error",
            "Groups of four points: close to the dotted line on clean examples, and apart where there are outliers.",
        )
