"""Two layers represent any Boolean function, and how many hidden neurons that takes.

Command: ``python -m experiments boolean``; 6 seconds on two CPU cores. Expect all 65,536 functions of four variables
without an error, with at most 8 hidden neurons and 4.13 in the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r
from experiments.data import truth_tables
from fnn.lecture import apply, binary_inputs, boolean_network, is_linearly_separable
from fnn.pruning import all_links, remove_links, sparse

D, MOST = 4, 8
TABLES = truth_tables(D)
"""the truth tables of all functions [65536, 16]; function r is the number r, its values are the bits"""
ROWS = TABLES.sum(axis=1)
"""how many rows of each truth table are 1 [65536]"""
LITERALS = np.stack(np.meshgrid(*[(0, 1, -1)] * D, indexing="ij"), axis=-1).reshape(-1, D)
"""all ANDs of literals [81, 4]: +1 for x^j, −1 for ¬x^j, 0 for neither"""
PARITY = 0b0110100110010110
"""the number of x¹ ⊕ x² ⊕ x³ ⊕ x⁴"""
WIDTHS = (1, 2, 4, 8, 16)
"""hidden neurons of the networks that are trained"""
FUNCTIONS = 8
"""random functions to learn for each seed"""


EQUATION = r"""y_t = \left[\sum_j s_{tj} x^j - \left(p_t - \tfrac12\right) > 0\right]
a(x) = \left[\sum_t y_t - \tfrac12 > 0\right]"""
LEAD = (
    "Two-layer networks are built for all Boolean functions of four variables, and others are trained on some of them. "
    "A disjunctive normal form, an OR of ANDs, is such a network: a hidden neuron for each AND of literals, which are "
    "variables or negated variables, and one neuron for the OR. It is built once with an AND for each row of the truth "
    "table that is 1, and once with as few ANDs as there can be. Beside them stands how few neurons are enough where "
    "the hidden ones may be any half-spaces and not only ANDs. Then random functions are learned from their 16 rows by "
    "networks of 1 to 16 hidden tanh neurons, {functions} functions, {steps} steps of Adam."
)
PERFECT = r.Claim(
    "Every one of the 65,536 Boolean functions of four variables is a two-layer network: an AND neuron for each row of "
    "the truth table that is 1, then an OR.",
    quantity="functions with a wrong output",
)
MINIMAL = r.Claim(
    "Every one of the 65,536 Boolean functions of four variables is a two-layer network made of its shortest OR of "
    "ANDs, which dynamic programming finds: a hidden neuron for each AND of variables and negated variables.",
    quantity="functions with a wrong output",
)
AT_MOST = r.Claim(
    "No Boolean function of d = 4 variables needs more than 2ᵈ⁻¹ = 8 hidden AND neurons before the OR, half as many as "
    "its truth table has rows; the parity needs 8.",
    quantity="hidden AND neurons needed",
)
LEARNED = r.Claim(
    "Training finds such two-layer networks: with 16 hidden neurons they learn at least nine of ten random Boolean "
    "functions of four variables.",
    quantity="functions learned without an error",
)


class Unions(NamedTuple):
    """How each function is the OR of as few as possible of the given ones."""

    number: np.ndarray
    """of how many [65536]"""
    chosen: np.ndarray
    """which ones [65536, 8], and −1 where there is none"""


def fewest(given: np.ndarray) -> Unions:
    """Dynamic programming: what is the OR of n functions and not of fewer is the OR of one with one of n − 1."""
    number, chosen, n = np.full(len(TABLES), -1), np.full((len(TABLES), MOST), -1), 0
    number[0] = 0
    while (number < 0).any():
        reached = np.flatnonzero(number == n)
        for k, one in enumerate(given):
            first = number[reached | one] < 0
            new, old = (reached | one)[first], reached[first]
            number[new], chosen[new] = n + 1, chosen[old]
            chosen[new, n] = k
        n += 1
    return Unions(number, chosen)


def minimal_networks(chosen: np.ndarray) -> jax.Array:
    """The outputs [functions, 16] of the networks whose hidden neurons are these ANDs of literals.

    Equations: y_t = [Σ_j s_tj x^j − (p_t − ½) > 0] with p_t positive literals, a = [Σ_t f_t y_t − ½ > 0].
    """
    net = fnn.serial(fnn.dense(MOST, fnn.heaviside), fnn.dense(1, fnn.heaviside))

    def outputs(terms: jax.Array) -> jax.Array:
        s, f = jnp.asarray(LITERALS, jnp.float32)[terms], (terms >= 0).astype(jnp.float32)
        ands = {"w": s.T, "b": 0.5 - jnp.sum((s > 0).astype(jnp.float32), axis=1)}
        either = {"w": f[:, None], "b": jnp.full(1, -0.5, jnp.float32)}
        return net.apply((ands, either), ((), ()), binary_inputs(D, jnp.float32))[:, 0]

    return jax.jit(jax.vmap(outputs))(jnp.asarray(chosen))


def experiment_with(steps: int) -> Callable[..., jax.Array]:
    """The pure experiment ``(key, width) -> which of some random functions are learned without an error``."""
    x, widest = binary_inputs(D, jnp.float32), max(WIDTHS)
    net = fnn.serial(fnn.dense(widest, fnn.tanh), fnn.linear(1))
    learn = fnn.trainer(net, fnn.logistic_margin, sparse(fnn.adam(0.03)), batch_size=2**D)

    def experiment(key: jax.Array, width: jax.Array) -> jax.Array:
        def learned(key: jax.Array) -> jax.Array:
            key_f, key = jax.random.split(key)
            f = jax.random.bernoulli(key_f, shape=(2**D,))
            data = x, jnp.where(f, 1, -1).astype(jnp.int32)
            start = learn.init(key, data)
            hidden, outer = all_links(start.params)
            counted = jnp.arange(widest, dtype=jnp.int32)[:, None] < width  # the other neurons have no way out
            end, _ = fnn.train(learn, remove_links(start, (hidden, outer | {"w": counted})), data, steps)
            return jnp.all((net.apply(end.params, end.layer_state, x)[:, 0] > 0) == f)

        return jax.vmap(learned)(jax.random.split(key, FUNCTIONS))

    return experiment


def _histogram(dnf: np.ndarray, spaces: np.ndarray) -> r.Figure:
    numbers = {"ANDs of literals": dnf, "any half-spaces": spaces}
    counts = {name: np.bincount(number, minlength=MOST + 1) for name, number in numbers.items()}
    with r.figure(5.4, 4.6) as canvas:
        axes = canvas.subplots()
        at = np.arange(MOST + 1)
        for shift, color, (name, of) in zip((-0.2, 0.2), r.COLORS, counts.items(), strict=False):
            bars = axes.bar(at + shift, of, 0.4, color=color, label=name)
            axes.bar_label(bars, [f"{n:,}" if n else "" for n in of], fontsize=10, rotation=90, padding=2)
        axes.set(xlabel="hidden neurons needed", ylabel="functions of four variables", yscale="log", ylim=(0.6, 3e6))
        axes.set_xticks(at)
        axes.legend(loc="upper left")
        return r.finished(
            canvas,
            "How many of the 65,536 functions of four variables need how many hidden neurons before the OR, if these "
            "are ANDs of literals, as in a disjunctive normal form, and if they may be any half-spaces",
            f"Two histograms on a logarithmic scale, functions by 0 to 8 neurons. {r.spoken(counts, 0)}.",
        )


class Built(NamedTuple):
    """All functions of four variables by networks whose weights are written down."""

    perfect: np.ndarray
    """outputs of the networks with an AND for each row that is 1 [65536, 16]"""
    minimal: np.ndarray
    """outputs of the networks with as few ANDs as possible [65536, 16]"""
    ands: np.ndarray
    """how few ANDs of literals do [65536]"""
    spaces: np.ndarray
    """how few half-spaces do [65536]"""


def built(log: r.Log) -> Built:
    """Build and count."""
    log("all 65,536 functions of four variables, by their perfect normal forms, in one vmapped call")
    x = binary_inputs(D, jnp.float32)
    perfect = jax.jit(jax.vmap(lambda table: apply(boolean_network(table, dtype=jnp.float32), x)[:, 0]))(TABLES)
    log("their minimal normal forms")
    bits = 2 ** np.arange(2**D)[::-1]
    signs = 2 * np.asarray(binary_inputs(D, int)) - 1
    holds = ((LITERALS[:, None] == 0) | (LITERALS[:, None] == signs[None])).all(axis=2)
    dnf = fewest(holds @ bits)
    spaces = fewest(np.flatnonzero(is_linearly_separable(TABLES)))
    return Built(np.asarray(perfect), np.asarray(minimal_networks(dnf.chosen)), dnf.number, spaces.number)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Build, count, train, judge and draw."""
    steps, functions = settings.pick(quick=300, full=1000), settings.seeds * FUNCTIONS
    found = built(log)
    log(f"{functions} random functions learned by networks of five widths, in one compiled call")
    learned = r.sweep_seeds(experiment_with(steps), settings, width=WIDTHS)
    shares = learned.mean(axis=2)
    return r.Outcome(
        LEAD.format(functions=functions, steps=steps),
        _verdicts(found, learned[:, WIDTHS.index(16)].ravel()),
        EQUATION,
        slide=6,
        tables=[_table(found)],
        figures=[_histogram(found.ands, found.spaces), _learned(shares, found.ands, steps)],
        numbers={
            "functions by the fewest ANDs": np.bincount(found.ands),
            "functions by the fewest half-spaces": np.bincount(found.spaces),
            "mean number of ANDs": found.ands.mean(),
            "mean number of half-spaces": found.spaces.mean(),
            "share learned": r.intervals(r.by_case(shares, WIDTHS)),
        },
    )


def _verdicts(found: Built, learned: np.ndarray) -> list[r.Verdict]:
    wrong = [int((outputs != TABLES).any(axis=1).sum()) for outputs in (found.perfect, found.minimal)]
    ands = found.ands
    means = f"{ands.mean():.3f} hidden neurons on average, against {ROWS.mean():g} with one for each row that is 1"
    most = f"at most {ands.max()}, which {(ands == MOST).sum()} functions need; the parity needs {ands[PARITY]}"
    return [
        r.exactly(PERFECT, found.perfect, TABLES, f"{wrong[0]} of {len(TABLES):,}"),
        r.exactly(MINIMAL, found.minimal, TABLES, f"{wrong[1]} of {len(TABLES):,}; {means}"),
        r.exactly(AT_MOST, [ands.max(), ands[PARITY]], 2 ** (D - 1), most),
        r.at_least(LEARNED, 0.9, learned),
    ]


def _table(found: Built) -> r.Table:
    numbers = {
        "one for each row that is 1": ROWS,
        "as few ANDs as possible": found.ands,
        "as few half-spaces as possible": found.spaces,
    }
    rows = {
        name: {
            "mean": f"{n.mean():.3f}",
            "median": f"{np.median(n):g}",
            "most": f"{n.max()}",
            "functions that need the most": f"{(n == n.max()).sum()}",
        }
        for name, n in numbers.items()
    }
    caption = "Hidden neurons of networks that are the OR of them, over all functions of four variables"
    return r.table(caption, "hidden neurons", rows)


def _learned(shares: np.ndarray, ands: np.ndarray, steps: int) -> r.Figure:
    return r.curves(
        WIDTHS,
        {f"trained, {steps} steps": shares},
        "Share of random functions of four variables that a network learns without an error, by its hidden "
        "neurons, with the 95 % interval over seeds, and the share that so many ANDs can represent",
        "Line plot: the share learned rises from near zero with one hidden neuron to one with sixteen.",
        xlabel="hidden neurons",
        ylabel="share of functions",
        logx=True,
        marker="o",
        theory={"of so many ANDs": [(ands <= width).mean() for width in WIDTHS]},
    )
