"""First weights: how signals pass a network at the start, and how fast it learns from there.

Command: ``python -m experiments initialization``; 26 seconds on two CPU cores. Expect 51 ± 3 steps to a loss of 0.2
from weights trained layer by layer, 74 ± 3 from rule 2 and 211 ± 10 from ±1/√H, whose variance falls to 3 % on the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r
from fnn.lecture import diversity, pretrain
from fnn.training import all_but_head, transplant

HIDDEN, WIDTH, BATCH, EVERY, RATE, ADAMS_RATE = 4, 32, 32, 10, 0.1, 0.003
REACHED = 0.2
"""the loss that counts as learned; guessing has ln 5 = 1.609"""
SMALL, UNIFORM, GLOROT = "normal, σ = 0.01", "±1/√H", "±√6/√(H + H′)"
LAYERWISE, TAUGHT = "layer by layer", "pre-trained"
DRAWN = {
    SMALL: lambda key, shape, dtype: 0.01 * jax.random.normal(key, shape, dtype),
    UNIFORM: fnn.nn.uniform_fan_in(),
    GLOROT: fnn.nn.glorot_uniform(),
    "orthogonal": fnn.nn.orthogonal(),
    "He": fnn.nn.he(),
}
LOSS = fnn.softmax_cross_entropy
DIFFERENT = {
    "none": {},
    "subsamples": {"subsample": 0.1},
    "inputs": {"inputs": 0.5},
    "starts": {"restart": True},
    "all three": {"subsample": 0.1, "inputs": 0.5, "restart": True},
}
"""what differs from neuron to neuron in layer-wise training"""
Found = dict[str, dict[str, np.ndarray]]


EQUATION = r"""\text{1: } w \sim \operatorname{uniform}(-r, r), \quad r = \frac{1}{\sqrt{H}}
\text{2: } w \sim \operatorname{uniform}(-r, r), \quad r = \frac{\sqrt{6}}{\sqrt{H + H{\prime}}}
\text{3: } \min_{w_h} \sum \mathcal{L}(\langle w_h, x\rangle\, y) \text{ for each } h
\text{4: } w \text{ of another task}
\text{5: } W^\top W = I"""
LEAD = (
    f"Networks of {HIDDEN} hidden layers of {WIDTH} tanh neurons learn the digits 5 to 9 by SGD (stochastic gradient "
    f"descent) at η = {RATE:g}. They start from weights drawn in several ways; or trained layer by layer, each neuron "
    "as a linear model on a random half of the examples and inputs; or taken from a network that has learned the "
    f"digits 0 to 4, all but the head. Each layer of the former had {{earlier}} steps of SGD at η = {RATE:g}, the "
    f"network of the latter {{earlier}} of Adam at η = {ADAMS_RATE:g}; these steps are not counted. Before the first "
    "step the variances of each hidden layer's outputs and of its weights' gradients are taken. Then steps are "
    f"counted until the mean loss of {EVERY} of them is {REACHED} or less, {{steps}} at most. Diversity is that of "
    "one layer of 16 neurons trained on breast cancer, all for the same target: 1 − the mean |correlation| of the "
    "outputs of two neurons."
)
OUTPUTS = r.Claim(
    "Weights drawn uniformly on ±1/√H even out the variances of the outputs: the last hidden layer's is between half "
    "and twice the first one's.",
    why="Uniform numbers on ±r have the variance r²/3, so each layer leaves about a third of the variance; ±√3/√H "
    "would keep it where tanh is nearly linear.",
    quantity="variance of the outputs, last hidden layer over first",
)
GRADIENTS = r.Claim(
    "Weights drawn uniformly on ±√6/√(H + H′) even out the variances of the gradients: the last hidden layer's is "
    "between half and twice the first one's.",
    quantity="variance of the gradients, last hidden layer over first",
)
FEWER = r.Claim(
    f"Each of the lecture's ways to draw the first weights takes fewer steps to a loss of {REACHED} than weights drawn "
    "with one small σ = 0.01.",
    quantity=f"steps to a loss of {REACHED}, this start less {SMALL}",
)
BEFOREHAND = r.Claim(
    "Hidden neurons trained beforehand, layer by layer or on another task, take fewer steps to a loss of "
    f"{REACHED} than weights drawn uniformly on ±√6/√(H + H′).",
    why="A likely cause: what hidden layers know of other digits is worth no more here, under a new head, than a good "
    "random start; neurons that have each learned this very task are worth more.",
    quantity=f"steps to a loss of {REACHED}, this start less {GLOROT}",
)
LOWER = r.Claim(
    "After all {steps} steps hidden neurons trained beforehand, layer by layer or on another task, have reached a "
    "lower loss than weights drawn uniformly on ±√6/√(H + H′).",
    why="Likely causes: neurons trained layer by layer for the same targets are much alike (see their diversity), so "
    "that a layer of them begins well and then has fewer different features to build on; what pre-trained neurons know "
    "of other digits no longer matters once random ones have been trained as long on these.",
    quantity=f"loss at the end, this start less {GLOROT}",
)
DIFFER = r.Claim(
    "Neurons trained as linear models differ if they are given random subsamples, random inputs or random starts; "
    "without any of these, as the equations say, they begin alike and stay alike.",
    quantity="diversity, without these less with them",
)
NOTABLY = r.Claim(
    "Neurons trained as linear models on random subsamples, on random inputs or from random starts differ notably "
    "(their diversity is 0.1 or more, a mean |correlation| of at most 0.9).",
    why="A linear model has one best solution, and all neurons of a layer are trained for it, so they all come near it "
    "whatever they see. The diversity of weights drawn at random and not trained is {untrained}.",
    quantity="diversity",
)


def network(w: Any) -> fnn.Layer:
    """Hidden layers of tanh under a linear one."""
    return fnn.serial(*[fnn.dense(WIDTH, fnn.tanh, w=w)] * HIDDEN, fnn.linear(5, w=w))


def halves() -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The digits 0–4, and 5–9 labelled 0–4: another task of the same kind."""
    x, y = data.digits()[1:]
    return (x[y < 5], y[y < 5]), (x[y >= 5], y[y >= 5] - 5)


def experiment_with(steps: int, earlier: int, layerwise: bool) -> Callable[..., dict[str, dict[str, jax.Array]]]:
    """The pure experiment ``(key) -> metrics by start``: variances before the first step, and steps to a loss."""
    other, sample = halves()
    net = network(fnn.nn.glorot_uniform())

    def measured(params: Any, key: jax.Array) -> dict[str, jax.Array]:
        learn = fnn.trainer(net, LOSS, fnn.sgd(RATE), batch_size=BATCH)
        start = learn.init(key, sample)._replace(params=params)
        _, passes = fnn.backprop(fnn.watch(net), LOSS)(params, start.layer_state, sample, key)
        losses = fnn.train(learn, start, sample, steps, every=EVERY)[1]["loss"]
        reached = losses <= REACHED
        first = EVERY * (1 + jnp.argmax(reached).astype(jnp.float32))
        return {
            "outputs": jnp.stack([jnp.var(seen.y) for seen in passes[:-1]]),
            "gradients": jnp.stack([jnp.var(seen.readings["w"]) for seen in passes[:-1]]),
            "steps": jnp.where(jnp.any(reached), first, jnp.asarray(steps, jnp.float32)),
            "loss": losses,
        }

    def experiment(key: jax.Array) -> dict[str, dict[str, jax.Array]]:
        key_start, key_run = jax.random.split(key)
        starts = {name: network(w).init(key_start, sample[0])[0] for name, w in DRAWN.items()}
        fresh = starts[GLOROT]
        if layerwise:
            slow = {"optimizer": fnn.sgd(RATE), "steps": earlier, "batch_size": BATCH, "head": False}
            starts[LAYERWISE] = pretrain(key_start, net, sample, LOSS, **slow)
        learn = fnn.trainer(net, LOSS, fnn.adam(ADAMS_RATE), batch_size=BATCH)
        taught = fnn.train(learn, learn.init(key_start, other), other, earlier)[0].params
        starts[TAUGHT] = transplant(fresh, taught, all_but_head(taught))
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts.values())
        found = jax.vmap(measured, (0, None))(stacked, key_run)
        return {name: jax.tree.map(lambda leaf, i=i: leaf[i], found) for i, name in enumerate(starts)}

    return experiment


def experiment_of_diversity(steps: int, different: tuple[str, ...]) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key) -> diversity`` of a layer whose neurons were trained as linear models."""
    x, y = data.breast_cancer()[1:]
    hidden = fnn.dense(16, fnn.tanh)
    net, labels = fnn.serial(hidden, fnn.linear(1)), 2 * y - 1

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        def of(options: dict[str, Any]) -> jax.Array:
            alike = {"subsample": None, "inputs": None, "restart": False, "head": False, "optimizer": fnn.sgd(RATE)}
            trained = pretrain(key, net, (x, labels), fnn.logistic_margin, steps=steps, **alike | options)
            return diversity(hidden.apply(trained[0], (), x))

        untrained = hidden.init(key, x)[0]
        found = {name: of(options) for name, options in DIFFERENT.items() if name in different}
        return found | {"untrained": diversity(hidden.apply(untrained, (), x))}

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Start in every way, look at the variances, train, and judge."""
    steps, earlier, different = settings.pick(quick=(100, 50, ("none", "subsamples")), full=(400, 200, (*DIFFERENT,)))
    log(f"{settings.seeds} seeds of each start of a network with {HIDDEN} hidden layers")
    values = r.sweep_seeds(experiment_with(steps, earlier, not settings.quick), settings)
    found = {name: values[name] for name in (*DRAWN, LAYERWISE, TAUGHT) if name in values}
    log("neurons trained as linear models, alike and with differences")
    values = r.sweep_seeds(experiment_of_diversity(earlier, different), settings)
    diverse = {name: values[name] for name in (*different, "untrained")}
    return r.Outcome(
        LEAD.format(steps=steps, earlier=earlier),
        [*_of_variances(found), *_of_steps(found, steps), *_of_diversity(diverse)],
        EQUATION,
        slide=23,
        tables=[_table(found), _diversities(diverse)],
        figures=[_losses(found, steps), _variances(found, "outputs"), _variances(found, "gradients")],
        numbers={
            "starts": {
                name: {
                    "variance of outputs": f["outputs"].mean(axis=0),
                    "variance of gradients": f["gradients"].mean(axis=0),
                    "steps": f["steps"].mean(),
                }
                for name, f in found.items()
            },
            "diversity": {name: values.mean() for name, values in diverse.items()},
        },
    )


def _ratio(values: np.ndarray) -> np.ndarray:
    """Variance in the last hidden layer over that in the first [seeds]."""
    return values[:, -1] / values[:, 0]


def _of_variances(found: Found) -> list[r.Verdict]:
    return [
        r.within(OUTPUTS, 0.5, 2.0, _ratio(found[UNIFORM]["outputs"])),
        r.within(GRADIENTS, 0.5, 2.0, _ratio(found[GLOROT]["gradients"])),
    ]


def _of_steps(found: Found, steps: int) -> list[r.Verdict]:
    fewest = {name: f["steps"] for name, f in found.items()}
    losses = {name: f["loss"][:, -1] for name, f in found.items()}
    prepared = [name for name in (LAYERWISE, TAUGHT) if name in fewest]
    return [
        r.smaller(FEWER, {name: (fewest[name], fewest[SMALL]) for name in (UNIFORM, GLOROT, "orthogonal", *prepared)}),
        r.smaller(BEFOREHAND, {name: (fewest[name], fewest[GLOROT]) for name in prepared}),
        r.smaller(LOWER.filled(steps=steps), {name: (losses[name], losses[GLOROT]) for name in prepared}),
    ]


def _of_diversity(diverse: dict[str, np.ndarray]) -> list[r.Verdict]:
    varied = {name: values for name, values in diverse.items() if name not in ("none", "untrained")}
    untrained = r.Interval.of(diverse["untrained"])
    return [
        r.smaller(DIFFER, {name: (diverse["none"], values) for name, values in varied.items()}),
        r.at_least(NOTABLY.filled(untrained=untrained), 0.1, varied),
    ]


def _table(found: Found) -> r.Table:
    rows = {
        name: {
            "outputs, last : first": f"{_ratio(f['outputs']).mean():.2g}",
            "gradients, last : first": f"{_ratio(f['gradients']).mean():.2g}",
            f"steps to {REACHED}": f["steps"],
        }
        for name, f in found.items()
    }
    caption = "Variances in the last hidden layer over those in the first, and steps to the loss"
    return r.table(caption, "start", rows)


def _diversities(diverse: dict[str, np.ndarray]) -> r.Table:
    rows = {name: {"1 − mean |correlation|": values} for name, values in diverse.items()}
    return r.table("Diversity of neurons trained as linear models", "what differs", rows)


def _variances(found: Found, of: str) -> r.Figure:
    what = {"outputs": "outputs x", "gradients": "gradients ∂Q/∂w"}[of]
    return r.curves(
        np.arange(1, HIDDEN + 1),
        {name: f[of] for name, f in found.items()},
        f"Variance of the {what} in each hidden layer, before the first step",
        f"Line plot on a logarithmic axis: the variance of the {of} over the number of the hidden layer, one line for "
        "each start. Flat lines are good.",
        xlabel="hidden layer",
        ylabel=f"variance of {what}",
        logy=True,
        marker="o",
    )


def _losses(found: Found, steps: int) -> r.Figure:
    return r.curves(
        EVERY * np.arange(1, steps // EVERY + 1),
        {name: f["loss"] for name, f in found.items()},
        f"Training loss from each start, mean of {EVERY} steps",
        "Line plot over training steps, one line for each start; weights of size 0.01 stay at the loss of guessing.",
        xlabel="step",
        ylabel="mean loss",
        logy=True,
    )
