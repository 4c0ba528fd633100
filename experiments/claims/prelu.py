"""Dead neurons, and whether a slope on the negative side keeps them alive.

Command: ``python -m experiments prelu``; 30 seconds on two CPU cores. Expect
4 % dead neurons with ReLU at η = 0.3, none with leaky ReLU, and no gain by training α.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r

LAYERS, WIDTH, BATCH, HELD_OUT = 3, 32, 32, 0.3
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
LARGE = 0.3
"""an η at which steps are large enough to push neurons out"""
KINDS = ("ReLU", "leaky ReLU", "PReLU")
STILL = 1e-3
"""a neuron whose outputs over all examples differ by no more is dead"""
Found = dict[str, dict[str, np.ndarray]]


EQUATION = r"""\text{ReLU } \sigma(S) = \max(0, S)
\text{PReLU } \sigma(S) = \max(0, S) + \alpha\min(0, S)"""
LEAD = (
    f"Networks of three hidden layers of {WIDTH} neurons learn handwritten digits by SGD, in {{steps}} steps at "
    f"{{rates}} rates, with ReLU, with leaky ReLU, whose slope α below 0 is 0.01, and with PReLU, whose α begins at "
    "0.25 and is trained, one for each neuron. A neuron is dead if its output is the same for all training examples: "
    "no gradient of ReLU reaches it then."
)
DIE = r.Claim(
    f"At a large η = {LARGE:g} ReLU neurons die: at the end more than a tenth of them gives the same output to all "
    "examples.",
    why="This η is not large enough to push many neurons out of the range of the data.",
    quantity="share of dead neurons",
)
ALIVE = r.Claim(
    f"With a slope on the negative side no neuron dies: at η = {LARGE:g} at most one in a hundred is dead.",
    quantity="share of dead neurons",
)
LARGER = r.Claim(
    f"At η = {LARGE:g} leaky ReLU and PReLU read more digits than ReLU.",
    why="Networks with ReLU have neurons to spare.",
    quantity="held-out accuracy, ReLU less other",
)
BEST = r.Claim(
    "Each at its best η, PReLU and leaky ReLU are at least as accurate as ReLU, to within 0.01.",
    quantity="held-out accuracy above that of ReLU",
)
LEARNS = r.Claim(
    "Training α matters: at its best η PReLU is more accurate than leaky ReLU.",
    why="The digits are easy, and a fixed slope serves as well.",
    quantity="held-out accuracy, leaky ReLU less PReLU",
)


def hidden_layer(kind: str) -> fnn.Layer:
    """A hidden layer of a kind."""
    if kind == "PReLU":
        return fnn.serial(fnn.linear(WIDTH, w=fnn.nn.he()), fnn.prelu())
    return fnn.dense(WIDTH, fnn.relu if kind == "ReLU" else fnn.leaky_relu(), w=fnn.nn.he())


def experiment_with(kind: str, steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, eta) -> accuracy, share of dead neurons [layers], slopes [layers, neurons]``."""
    layers = [hidden_layer(kind)] * LAYERS
    net = fnn.serial(*layers, fnn.linear(10))

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        digits = data.digits()
        unseen, known = data.split(key_split, (digits.x, digits.y), round(HELD_OUT * len(digits.x)))
        learn = fnn.trainer(net, fnn.softmax_cross_entropy, fnn.sgd(eta), batch_size=BATCH)
        state, _ = fnn.train(learn, learn.init(key_run, known), known, steps)
        x, dead, slopes = known[0], [], []
        for layer, params, still in zip(layers, state.params, state.layer_state, strict=False):
            x = layer.apply(params, still, x)
            same = jnp.all(jnp.abs(x - x[:1]) <= STILL, axis=0)  # false where a network has diverged
            dead.append(jnp.mean(same.astype(jnp.float32)))
            slopes.append(params[1]["alpha"] if kind == "PReLU" else jnp.zeros(WIDTH, jnp.float32))
        right = data.accuracy(net.apply(state.params, state.layer_state, unseen[0]), unseen[1])
        diverged = ~jnp.all(jnp.isfinite(x))
        return {"accuracy": right, "dead": jnp.stack(dead), "slopes": jnp.stack(slopes), "diverged": diverged}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train every kind at every rate, judge and draw."""
    steps, rates = settings.pick(quick=(200, RATES[::2]), full=(800, RATES))
    found: Found = {}
    for kind in KINDS:
        log(f"{settings.seeds} seeds × {len(rates)} rates of networks with {kind}")
        found[kind] = r.sweep_seeds(experiment_with(kind, steps), settings, eta=rates)
    return r.Outcome(
        LEAD.format(steps=steps, rates=len(rates)),
        _verdicts(found, rates),
        EQUATION,
        slide=21,
        tables=[_table(found, rates)],
        figures=[_dead(found, rates), _accuracy(found, rates)],
        numbers={
            kind: {
                "dead": [r.Interval.of(of) for of in runs["dead"].mean(axis=-1).T],
                "accuracy": [r.Interval.of(of) for of in runs["accuracy"].T],
                "slopes": runs["slopes"].mean(axis=(0, 3)),
            }
            for kind, runs in found.items()
        },
    )


def _verdicts(found: Found, rates: tuple[float, ...]) -> list[r.Verdict]:
    large = int(np.argmin(np.abs(np.array(rates) - LARGE)))
    dead = {kind: runs["dead"][:, large].mean(axis=1) for kind, runs in found.items()}
    at_large = {kind: runs["accuracy"][:, large] for kind, runs in found.items()}
    best = {kind: runs["accuracy"][:, r.best(runs["accuracy"])] for kind, runs in found.items()}
    others = KINDS[1:]
    return [
        r.at_least(DIE, 0.1, dead["ReLU"]),
        r.at_most(ALIVE, 0.01, {kind: dead[kind] for kind in others}),
        r.smaller(LARGER, {kind: (at_large["ReLU"], at_large[kind]) for kind in others}),
        r.at_least(BEST, -0.01, {kind: best[kind] - best["ReLU"] for kind in others}),
        r.smaller(LEARNS, {"": (best["leaky ReLU"], best["PReLU"])}),
    ]


def _table(found: Found, rates: tuple[float, ...]) -> r.Table:
    rows = {
        f"{kind}, η = {rate:g}": {
            "dead neurons": runs["dead"][:, i].mean(axis=1),
            "diverged": r.percent(runs["diverged"][:, i].mean()),
            "held-out accuracy": runs["accuracy"][:, i],
            "mean α": f"{runs['slopes'][:, i].mean():.2f}" if kind == "PReLU" else "–",
        }
        for kind, runs in found.items()
        for i, rate in enumerate(rates)
    }
    return r.table("Share of dead neurons, runs that diverged, accuracy and trained slopes at the end", "network", rows)


def _dead(found: Found, rates: tuple[float, ...]) -> r.Figure:
    return r.curves(
        rates,
        {kind: 100 * runs["dead"].mean(axis=-1) for kind, runs in found.items()},
        "Dead neurons at the end of training, by the learning rate; means and 95 % intervals over seeds",
        "Three lines over the learning rate: that of ReLU falls at first and rises steeply at the largest η, those of "
        "leaky ReLU and PReLU stay lower.",
        xlabel="learning rate η",
        ylabel="dead neurons, %",
        logx=True,
        marker="o",
    )


def _accuracy(found: Found, rates: tuple[float, ...]) -> r.Figure:
    return r.curves(
        rates,
        {kind: runs["accuracy"] for kind, runs in found.items()},
        "Held-out accuracy by the learning rate; means and 95 % intervals over seeds",
        "Three lines of accuracy over the learning rate, which rise together and part at large η.",
        xlabel="learning rate η",
        ylabel="held-out accuracy",
        logx=True,
        marker="o",
    )
