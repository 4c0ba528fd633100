"""Seven methods on a valley, at a saddle point and in a noisy bowl.

Command: ``python -m experiments comparison``; 13 seconds on two CPU cores. Expect SGD to leave the saddle after
14.7 ± 0.6 steps, not last: RMSProp takes 13.5 ± 1.0, AdaDelta 43 ± 4, Nadam 1.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure as Canvas

import fnn
from experiments import report as r
from experiments.explorer import explorer
from experiments.surfaces import NOISE, STEEP, STEPS, SURFACES, draw_ground, height, walks

METHODS = ("sgd", "momentum", "nag", "rmsprop", "adadelta", "adam", "nadam")
RATES = tuple(10.0 ** (k / 4) for k in range(-12, 5))
"""η, four to a decade, of every method; AdaDelta's are ten times these"""
SCALED = ("rmsprop", "adadelta", "adam", "nadam")
NAMES: dict[str, str] = dict(
    zip(METHODS, ("SGD", "momentum", "NAG", "RMSProp", "AdaDelta", "Adam", "Nadam"), strict=True)
)
"""as the lecture writes them"""
REACHED, LEFT = 0.01, 0.25
"""losses above the lowest at which the valley's end is reached, and the saddle left, halfway down"""
FLOOR = 1e-3
"""what is added to a loss above the lowest before its logarithm is taken"""
SAME = 0.1
"""the η at which the methods without scaling are compared in the bowl"""


EQUATION = rf"""\text{{valley: }} (1.5 - x + xy)^2
{{}} + (2.25 - x + xy^2)^2
{{}} + (2.625 - x + xy^3)^2
\text{{saddle: }} x^2 - y^2 + \tfrac12 y^4
\text{{bowl: }} \tfrac12 (x^2 + {STEEP:g}y^2)
\text{{noise leaves }} \sum_j \frac{{\eta\sigma^2}}{{2\left(2 - \eta\lambda_j \frac{{1 - \gamma}}{{1 + \gamma}}\right)}}
\lambda = 1, {STEEP:g}, \quad \sigma = {NOISE:g}
\gamma = 0 \text{{ for SGD}}"""
LEAD = (
    "Radford's animation, which the slide shows, is made again and measured. Seven methods go down three surfaces from "
    "the same random starts: Beale's long valley, a saddle point from within about 0.001 of its ridge, and a bowl "
    f"{STEEP:g} times as steep in one direction, whose gradients have noise of standard deviation {NOISE:g}. On each "
    "surface each method has the η, of four to a decade, that makes the mean over seeds and "
    f"{STEPS} steps of log₁₀(loss + {FLOOR:g}) smallest, the loss taken above the lowest: the best for the whole way, "
    "not for leaving the saddle. The saddle counts as left where this loss is halfway down, below "
    f"{LEFT:g}, and the valley's end as reached where it is below {REACHED:g}. γ = 0.9, α = 0.9 or Adam's 0.999, as in "
    "the lecture."
)
LEAVE = r.Claim(
    "Momentum, NAG, RMSProp, AdaDelta, Adam and Nadam each leave a saddle point in fewer steps than SGD.",
    why="Near the saddle SGD moves away from its ridge by a constant factor a step, so its time is a logarithm of how "
    "near it began. AdaDelta starts with steps of about 10⁻³ η and has to grow them first.",
    quantity="steps to leave the saddle, the method less SGD",
)
SCALED_LEAVE = r.Claim(
    "The methods that scale the gradient, RMSProp, AdaDelta, Adam and Nadam, leave a saddle point before momentum and "
    "NAG.",
    why="A step of Adam or Nadam is about η at once, however flat the place is. The η is the best one for the loss on "
    "the whole way, and RMSProp's is small, likely because at the bottom its steps stay that large.",
    quantity="steps to leave the saddle, the method less the faster of momentum and NAG",
)
SCALED_REACH = r.Claim(
    "The methods that scale the gradient, RMSProp, AdaDelta, Adam and Nadam, reach the end of Beale's valley in fewer "
    "steps than SGD.",
    why="A likely cause: AdaDelta starts with steps of about 10⁻³ η, at its best η too, and has to grow them first.",
    quantity="steps to the end of the valley, the method less SGD",
)
OVERSHOOT = r.Claim(
    "Momentum and NAG overshoot: their way down Beale's valley is longer than that of SGD.",
    quantity="length of the way over its distance, SGD less the method",
)
AHEAD = r.Claim(
    "Because it looks ahead, NAG overshoots less than momentum: its way down Beale's valley is shorter.",
    quantity="length of the way over its distance, NAG less momentum",
)
SMOOTH = r.Claim(
    "Momentum and NAG smooth the noise: successive steps in a noisy bowl turn less than those of SGD.",
    quantity="cosine between successive steps, SGD less the method",
)
QUIETER = r.Claim(
    f"At the same η = {SAME:g} the noise in a bowl leaves momentum a smaller loss than SGD, in the mean over the "
    "second half of the steps.",
    quantity="mean loss, momentum less SGD",
)
EXPECTED = r.Claim(
    f"The loss that the noise in a bowl leaves SGD and momentum at η = {SAME:g} is the one that theory expects "
    "(measured over expected is within 15 % of 1).",
    quantity="measured loss over expected",
)


def experiment(key: jax.Array, eta: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """The paths [steps + 1, 2] of every method with this rate, on every surface from the same start."""
    return walks(lambda name: getattr(fnn, name)(10 * eta if name == "adadelta" else eta), key, METHODS)


class Runs(NamedTuple):
    """One method on one surface at its best rate."""

    eta: float
    path: np.ndarray
    """[seeds, steps + 1, 2]"""
    loss: np.ndarray
    """above the lowest [seeds, steps + 1]"""
    steady: np.ndarray
    """at the rate SAME, the mean over the second half of the steps [seeds]"""

    @classmethod
    def best(cls, surface: str, rates: np.ndarray, paths: np.ndarray) -> Runs:
        """Of the paths [seeds, rates, steps + 1, 2], those with the smallest mean log₁₀ of the loss."""
        losses = height(surface, paths)
        i = int(np.argmin(np.log10(losses + FLOOR).mean(axis=(0, 2))))
        same = int(np.argmin(np.abs(rates - SAME)))
        return cls(float(rates[i]), paths[:, i], losses[:, i], losses[:, same, STEPS // 2 :].mean(axis=1))

    def steps_until(self, loss: float) -> np.ndarray:
        """Steps until the loss is below this one [seeds]; all of them where it never is."""
        below = self.loss < loss
        return np.where(below.any(axis=1), below.argmax(axis=1), STEPS).astype(float)

    def detour(self) -> np.ndarray:
        """The path's length over the distance between its ends [seeds]."""
        length = np.linalg.norm(np.diff(self.path, axis=1), axis=2).sum(axis=1)
        return length / np.linalg.norm(self.path[:, -1] - self.path[:, 0], axis=1)

    def straightness(self) -> np.ndarray:
        """The cosine between a step and the next, its mean over the second half [seeds]."""
        moves = np.diff(self.path[:, STEPS // 2 :], axis=1)
        moves /= np.linalg.norm(moves, axis=2, keepdims=True)
        return np.sum(moves[:, 1:] * moves[:, :-1], axis=2).mean(axis=1)


def walked(settings: r.Settings) -> dict[str, dict[str, Runs]]:
    """By surface and method."""
    rates = np.asarray(settings.pick(quick=RATES[::2], full=RATES), np.float32)
    found = r.sweep_seeds(experiment, settings, eta=rates)
    return {
        surface: {
            name: Runs.best(surface, (10 if name == "adadelta" else 1) * rates, found[name][surface])
            for name in METHODS
        }
        for surface in SURFACES
    }


def steady_loss(eta: float, gamma: float) -> float:
    """What theory expects in the bowl: Σ_j ησ²/(2(2 − ηλ_j(1 − γ)/(1 + γ))), γ = 0 for sgd."""
    curvatures = np.array([1.0, STEEP])
    return float(np.sum(eta * NOISE**2 / (2 * (2 - eta * curvatures * (1 - gamma) / (1 + gamma)))))


def verdicts(runs: dict[str, dict[str, Runs]]) -> list[r.Verdict]:
    """The verdicts on what the moving picture is quoted for."""
    left = {name: run.steps_until(LEFT) for name, run in runs["saddle"].items()}
    reached = {name: run.steps_until(REACHED) for name, run in runs["valley"].items()}
    detour = {name: run.detour() for name, run in runs["valley"].items()}
    straight = {name: run.straightness() for name, run in runs["bowl"].items()}
    steady = {name: runs["bowl"][name].steady for name in ("sgd", "momentum")}
    sooner = np.minimum(left["momentum"], left["nag"])
    ratios = {NAMES[name]: steady[name] / steady_loss(SAME, gamma) for name, gamma in (("sgd", 0.0), ("momentum", 0.9))}
    inert = ("momentum", "nag")
    return [
        r.smaller(LEAVE, {NAMES[name]: (left[name], left["sgd"]) for name in METHODS[1:]}),
        r.smaller(SCALED_LEAVE, {NAMES[name]: (left[name], sooner) for name in SCALED}),
        r.smaller(SCALED_REACH, {NAMES[name]: (reached[name], reached["sgd"]) for name in SCALED}),
        r.smaller(OVERSHOOT, {NAMES[name]: (detour["sgd"], detour[name]) for name in inert}),
        r.smaller(AHEAD, {"": (detour["nag"], detour["momentum"])}),
        r.smaller(SMOOTH, {NAMES[name]: (straight["sgd"], straight[name]) for name in inert}),
        r.smaller(QUIETER, {"": (steady["momentum"], steady["sgd"])}),
        r.within(EXPECTED, 0.85, 1.15, ratios),
    ]


def moving_picture(runs: dict[str, dict[str, Runs]], frames: int) -> r.Animation:
    """The first seed at every method's best rate: paths on the surfaces, and the loss over steps."""
    at = np.unique(np.geomspace(1, STEPS, frames).astype(int))

    def draw(canvas: Canvas, k: int) -> None:
        grid = canvas.add_gridspec(3, 2, left=0.02, right=0.97, top=0.885, bottom=0.055, hspace=0.15, wspace=0.2)
        canvas.text(0.02, 0.95, f"step {at[k]}", va="center", fontsize=12)
        for row, (surface, of_methods) in enumerate(runs.items()):
            plane, time = (canvas.add_subplot(grid[row, i]) for i in range(2))
            draw_ground(plane, surface)
            for color, (name, run) in zip(r.COLORS, of_methods.items(), strict=False):
                path, loss = run.path[0, : at[k] + 1], run.loss[0, : at[k] + 1]
                plane.plot(*path.T, color=color, linewidth=1.3, label=NAMES[name])
                plane.plot(*path[-1], "o", color=color, markersize=5, markeredgecolor="white", markeredgewidth=0.6)
                time.plot(np.arange(1, len(loss) + 1), loss + FLOOR, color=color, linewidth=1.3)
            time.set(xscale="log", yscale="log", xlim=(1, STEPS + 1), ylim=(FLOOR / 1.5, 100))
            time.set(xticks=(1, 10, 100), xticklabels=("0", "10", "100"), yticks=10.0 ** np.arange(-3, 3))
            time.tick_params(labelsize=9, labelbottom=row == 2)
            time.minorticks_off()
            if row == 0:
                time.set_title("loss above the lowest", fontsize=10)
                lines, names = plane.get_legend_handles_labels()
                canvas.legend(
                    lines, names, loc="center", bbox_to_anchor=(0.6, 0.95), ncols=4, fontsize=9, handlelength=1
                )
        canvas.text(0.745, 0.012, "steps", ha="center", fontsize=9)

    return r.animated(
        draw,
        len(at),
        "Seven methods from the same start, each at its best η, one seed. Left: their paths on Beale's valley, from a "
        "saddle point and in a bowl whose gradients are noisy, darker where the loss is higher; right: the loss. The "
        "time runs slower at the beginning.",
        "Moving picture of seven paths on three surfaces with their losses. In the valley momentum and NAG swing wide "
        "of the floor before they turn; from the saddle Adam and Nadam go at once, while SGD first comes almost to "
        "rest at it; in the noisy bowl SGD and RMSProp jitter where momentum's path is smooth.",
        size=(5.4, 6.9),
    )


def _table(runs: dict[str, dict[str, Runs]]) -> r.Table:
    rows = {}
    for name in METHODS:
        valley, saddle, bowl = (runs[surface][name] for surface in SURFACES)
        rows[NAMES[name]] = {
            "η, valley": f"{valley.eta:.2g}",
            "η, saddle": f"{saddle.eta:.2g}",
            "η, bowl": f"{bowl.eta:.2g}",
            "steps to the end": valley.steps_until(REACHED),
            "steps to leave": saddle.steps_until(LEFT),
            "detour": valley.detour(),
            "cosine": bowl.straightness(),
        }
    caption = "Best η of each method on each surface; steps to the valley's end and to leave the saddle; the length of "
    caption += "the way down the valley over its distance; the cosine between successive steps in the bowl"
    return r.table(caption, "method", rows)


def _losses(runs: dict[str, Runs], where: str) -> r.Figure:
    return r.curves(
        np.arange(1, STEPS + 2),
        {NAMES[name]: np.maximum(run.loss, FLOOR) for name, run in runs.items()},
        f"The loss above the lowest on the way {where}, mean and 95 % interval over seeds, at each method's "
        f"best η; cut off at {FLOOR:g}",
        f"Line plot of the loss of seven methods over steps, both axes logarithmic, on the way {where}.",
        xlabel="steps + 1",
        ylabel="loss above the lowest",
        logx=True,
        logy=True,
    )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Walk, tune, judge and draw."""
    log(f"{settings.seeds} seeds of seven methods on three surfaces, all rates in one compiled call")
    runs = walked(settings)
    log("drawing the moving picture")
    until = {"valley": REACHED, "saddle": LEFT, "bowl": LEFT}
    return r.Outcome(
        LEAD,
        verdicts(runs),
        EQUATION,
        slide=16,
        tables=[_table(runs)],
        figures=[_losses(runs["valley"], "down the valley"), _losses(runs["saddle"], "off the saddle")],
        animations=[moving_picture(runs, settings.pick(quick=6, full=44))],
        files={"explorer.json": explorer(NAMES)},
        numbers={
            surface: {
                name: {
                    "eta": run.eta,
                    "loss": run.loss[:, -1].mean(),
                    "steps": r.Interval.of(run.steps_until(until[surface])),
                }
                for name, run in of_methods.items()
            }
            for surface, of_methods in runs.items()
        },
    )
