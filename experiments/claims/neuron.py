"""What one neuron can say, and that XOR is not among it.

Command: ``python -m experiments neuron``; 9 seconds on two CPU cores. Expect that one neuron learns 14 of the 16
functions of two variables and never XOR, that two layers learn XOR from half of the starts, and that the perceptron's
rule learns 4, 14, 104 and 1882 functions of one to four variables.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r
from experiments.data import truth_tables
from fnn.lecture import (
    apply,
    binary_inputs,
    count_threshold_functions,
    is_linearly_separable,
    xor_by_layers,
    xor_by_product,
)

STARTS = 16
"""starts a seed"""
FUNCTIONS = truth_tables(2)
"""the truth tables of all functions of two variables [16, 4], targets at the inputs 00, 01, 10, 11"""
XOR = 0b0110
PARITIES = [XOR, 0b1001]
"""XOR and its negation, the two that no line separates"""
KNOWN = {1: 4, 2: 14, 3: 104, 4: 1882}
"""threshold functions of d variables, OEIS A000609"""


EQUATION = r"""x^1 \oplus x^2 = \left[x^1 + x^2 - 2x^1x^2 - \tfrac12 > 0\right]
x^1 \oplus x^2 = \left[(x^1 \vee x^2) - (x^1 \wedge x^2) > 0\right]"""
LEAD = (
    "One neuron, one neuron with the product of its two inputs as a third feature, and a network of two hidden neurons "
    "are trained on each of the 16 Boolean functions of two variables, {steps} steps from {starts} starts. One of "
    "these is XOR, which is 1 where the inputs differ: no line has the corners 01 and 10 on one side and 00 and 11 on "
    "the other. Then the perceptron's rule, which ends if and only if a function is linearly separable, is run on all "
    "functions of up to four variables at once."
)
NO_XOR = r.Claim(
    "A single neuron cannot represent XOR or its negation: from no start, and at no time, are all four outputs right.",
    quantity="runs with all four outputs right",
)
ALL_OTHERS = r.Claim(
    "A single neuron learns every Boolean function of two variables except XOR and its negation, the only two that no "
    "line separates.",
    quantity="functions learned",
)
BOTH_WAYS = r.Claim(
    "With the weights of the slide XOR is exact in both ways: one neuron with a product feature, or two layers of AND "
    "and OR.",
    quantity="outputs that are right",
)
PRODUCT = r.Claim(
    "With the product x¹x² as a feature, a single neuron learns XOR from at least nine of ten starts.",
    quantity="starts from which XOR is learned",
)
TWO_LAYERS = r.Claim(
    "A network with one hidden layer of two neurons learns XOR from at least nine of ten starts.",
    why="Two hidden neurons suffice, as the weights of the slide show, but training does not get there from every "
    "start in {steps} steps.",
    quantity="starts from which XOR is learned",
)
COUNTS = r.Claim(
    "A single threshold neuron represents 4, 14, 104 and 1882 functions of one, two, three and four variables.",
    quantity="functions of one to four variables",
)


def experiment_with(net: fnn.Layer, steps: int) -> Callable[..., jax.Array]:
    """The pure experiment ``(key, table, product) -> the most right outputs of four at any time [starts]``.

    The features are x¹, x² and product·x¹x²: with product = 0 the third says nothing.
    """
    x = binary_inputs(2, jnp.float32)

    def experiment(key: jax.Array, table: jax.Array, product: jax.Array) -> jax.Array:
        features = jnp.concatenate([x, product * x[:, :1] * x[:, 1:]], axis=1)
        y = 2 * table - 1

        def right(state: fnn.TrainState) -> jax.Array:
            sides = jnp.sign(net.apply(state.params, state.layer_state, features)[:, 0])
            return jnp.sum((sides.astype(y.dtype) == y).astype(y.dtype))

        def of_start(key: jax.Array) -> jax.Array:
            learn = fnn.trainer(net, fnn.logistic_margin, fnn.adam(0.1), batch_size=4)
            start, every = learn.init(key, (features, y)), steps // 20
            _, metrics = fnn.train(learn, start, (features, y), steps, every=every, validate=right)
            return jnp.max(metrics["validation"])

        return jax.vmap(of_start)(jax.random.split(key, STARTS))

    return experiment


def trained(settings: r.Settings, steps: int, log: r.Log) -> dict[str, np.ndarray]:
    """For each model whether it learned each function of two variables [seeds, functions, starts]."""
    runs = settings.seeds * STARTS
    log(f"one neuron, with and without the product: 16 functions from {runs} starts in one compiled call")
    neuron = experiment_with(fnn.linear(1), steps)
    one = r.sweep_seeds(neuron, settings, table=FUNCTIONS, product=(0.0, 1.0))
    log(f"two layers: 16 functions from {runs} starts in one compiled call")
    net = fnn.serial(fnn.dense(2, fnn.tanh), fnn.linear(1))
    two = r.sweep_seeds(experiment_with(net, steps), settings, table=FUNCTIONS, product=(0.0,))
    return {"one neuron": one[:, :, 0] == 4, "one neuron with x¹x²": one[:, :, 1] == 4, "two layers": two[:, :, 0] == 4}


def perceptron(rounds: int) -> dict[int, int]:
    """How many functions of d = 1 … 4 variables the perceptron's rule has learned after so many rounds.

    Equation, for x of ±1 with x_0 = −1: w := w + Σ_x [f(x)⟨w, x⟩ ≤ 0] f(x) x, whose numbers are whole. Functions of
    fewer variables are those of four that do not depend on the last ones.
    """
    x = jnp.concatenate([jnp.full((16, 1), -1, jnp.float32), 2 * binary_inputs(4, jnp.float32) - 1], axis=1)
    f = 2 * binary_inputs(16, jnp.float32) - 1

    @jax.jit
    def learned() -> jax.Array:
        def of_round(w: jax.Array, _: None) -> tuple[jax.Array, None]:
            return w + jnp.where(f * (w @ x.T) <= 0, f, 0) @ x, None

        w, _ = jax.lax.scan(of_round, jnp.zeros((len(f), 5), jnp.float32), length=rounds)
        return jnp.all(f * (w @ x.T) > 0, axis=1)

    realised, tables = np.asarray(learned()), np.asarray(f)
    blocks = {d: tables.reshape(len(f), 2**d, -1) for d in KNOWN}
    return {d: int((realised & (block == block[..., :1]).all(axis=(1, 2))).sum()) for d, block in blocks.items()}


def _of_functions(learned: dict[str, np.ndarray]) -> r.Figure:
    """Shares of the starts from which each network learns each function [16]."""
    shares = np.stack([of_net.mean(axis=(0, 2)) for of_net in learned.values()])
    with r.figure(5.4, 4.9) as canvas:
        axes = canvas.subplots()
        axes.imshow(-shares.T, cmap=r.DIVERGING, vmin=-1.5, vmax=1.5, aspect="auto")
        for (column, row), share in np.ndenumerate(shares):
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=10)
        names = ["".join(map(str, table)) for table in FUNCTIONS]
        axes.set_yticks(range(16), [name + " = XOR" * (name == "0110") for name in names])
        axes.set_xticks(range(len(shares)), [name.replace(" with", "\nwith") for name in learned])
        axes.xaxis.tick_top()
        axes.set_ylabel("targets at the inputs 00, 01, 10, 11")
        axes.grid(False)
        return r.finished(
            canvas,
            "Percentage of the starts from which a network learns all four outputs, for every Boolean function of two "
            "variables",
            "Table of colours, sixteen functions by three networks. One neuron has 0 percent at 0110 and 1001, XOR and "
            "its negation, alone.",
        )


def _of_planes() -> r.Figure:
    """Where the two networks of the slide say 1."""
    side = np.linspace(-0.5, 1.5, 200, dtype=np.float32)
    grid = jnp.asarray(np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2))
    built = {"one neuron with x¹x²": xor_by_product(jnp.float32), "two layers": xor_by_layers(jnp.float32)}
    with r.figure(5.4, 3.5) as canvas:
        for axes, (name, net) in zip(canvas.subplots(1, 2, sharey=True), built.items(), strict=True):
            says = np.asarray(apply(net, grid)).reshape(len(side), -1)
            axes.imshow(-says, cmap=r.DIVERGING, vmin=-2, vmax=2, extent=(-0.5, 1.5, -0.5, 1.5), origin="lower")
            for answer, marker in ((0, "o"), (1, "s")):
                at = np.asarray(binary_inputs(2))[FUNCTIONS[XOR] == answer]
                axes.plot(*at.T, marker, color=r.COLORS[1], markersize=9, fillstyle="full" if answer else "none")
            axes.set(xlabel="x¹", xticks=(0, 1), yticks=(0, 1))
            axes.set_title(name)
            axes.grid(False)
            axes.spines[:].set_visible(False)
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel("x²")
        return r.finished(
            canvas,
            "The slide's two ways to XOR: inside the shaded region the network says 1. Full squares are the inputs "
            "where XOR is 1, empty circles those where it is 0",
            "Two maps of the plane. With the product feature two opposite quadrants hold the corners 01 and 10; "
            "with two layers a strip between two parallel lines does.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, count, judge and draw."""
    steps = settings.pick(quick=200, full=400)
    learned = trained(settings, steps, log)
    of_xor = {name: of_net[:, XOR].ravel() for name, of_net in learned.items()}
    log("the perceptron's rule on all 65,536 functions of four variables")
    found = perceptron(30)
    counts = {d: count_threshold_functions(d) for d in range(1, 7)}
    return r.Outcome(
        LEAD.format(steps=steps, starts=settings.seeds * STARTS),
        [
            *_of_one(learned["one neuron"]),
            _of_the_slide(),
            r.at_least(PRODUCT, 0.9, of_xor["one neuron with x¹x²"]),
            r.at_least(TWO_LAYERS.filled(steps=steps), 0.9, of_xor["two layers"]),
            _of_counts(found, counts),
        ],
        EQUATION,
        slide=5,
        tables=[_table(found, counts)],
        figures=[_of_functions(learned), _of_planes()],
        numbers={
            "share of starts that learn XOR": {name: r.estimate(of) for name, of in of_xor.items()},
            "share of starts that learn each function": {
                name: of_net.mean(axis=(0, 2)) for name, of_net in learned.items()
            },
            "threshold functions": counts,
            "learned by the perceptron's rule": found,
        },
    )


def _of_one(neuron: np.ndarray) -> list[r.Verdict]:
    separable = np.asarray(is_linearly_separable(FUNCTIONS))
    parities, learned = neuron[:, PARITIES], neuron.any(axis=(0, 2))
    starts = f"{neuron[:, separable].sum():,} of {neuron[:, separable].size:,} starts"
    return [
        r.exactly(NO_XOR, parities, False, f"{parities.sum()} of {parities.size:,}"),
        r.exactly(ALL_OTHERS, learned, separable, f"{learned.sum()} of 16, these from {starts}"),
    ]


def _of_the_slide() -> r.Verdict:
    x = binary_inputs(2, jnp.float32)
    ways = np.stack([np.asarray(apply(net(jnp.float32), x))[:, 0] for net in (xor_by_product, xor_by_layers)])
    right = int((ways == FUNCTIONS[XOR]).sum())
    return r.exactly(BOTH_WAYS, ways, np.stack([FUNCTIONS[XOR]] * 2), f"{right} of 8")


def _of_counts(found: dict[int, int], counts: dict[int, int]) -> r.Verdict:
    by_rule, by_symmetry = list(found.values()), [counts[d] for d in KNOWN]
    texts = (", ".join(map(str, numbers)) for numbers in (by_rule, by_symmetry))
    measured = "learned by the perceptron's rule: {}; counted by their symmetries: {}".format(*texts)
    return r.exactly(COUNTS, by_rule + by_symmetry, [*KNOWN.values()] * 2, measured)


def _table(found: dict[int, int], counts: dict[int, int]) -> r.Table:
    rows = {
        str(d): {
            "functions": f"{2**2**d:,}",
            "of one neuron": f"{n:,}",
            "share": f"{n / 2**2**d:.2g}".replace("-", "−"),
            "learned by the perceptron's rule": f"{found[d]:,}" if d in found else "–",
        }
        for d, n in counts.items()
    }
    caption = "Functions of d variables that one threshold neuron realises; “–” where there are too many to try"
    return r.table(caption, "d", rows)
