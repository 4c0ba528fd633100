"""Dropout stands for a vote of 2ᴺ networks with common weights.

Command: ``python -m experiments ensemble``; 17 seconds on two CPU cores. Expect the rule 1 − p to be exact to 1e-7 over
one dropped layer, and with p = 0.5 to be off by 24 % over two and 37 % over three, where it names the same class all
the same for 98 % of the examples or more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r

WIDTH, RATE, ETA = 4, 1e-2, 0.1
PROBABILITIES = (0.1, 0.3, 0.5, 0.7)
USUAL = PROBABILITIES.index(0.5)
SAMPLES = (1, 4, 16, 64, 256, 1024)
SAMPLED = 2
"""the depth at which networks are also sampled"""
HELD_OUT = 58
EXACT = 1e-5
"""a relative difference that is rounding"""
LOSS = fnn.softmax_cross_entropy
Found = dict[str, np.ndarray]


EQUATION = r"""\sum_\xi P(\xi)\, a(x; \xi) \approx a(x; 1 - p)
P(\xi) = (1 - p)^\text{kept}\, p^\text{dropped}
\text{normalised geometric mean:}
\operatorname{softmax} \sum_\xi P(\xi) \ln\, a(x; \xi)"""
LEAD = (
    f"Networks of 1 to {{deepest}} hidden layers of {WIDTH} tanh neurons, each layer under dropout, learn the three "
    "classes of wine for {steps} steps of Adam on all examples. A network with N dropped neurons is $2^N$ networks "
    "with common weights. The outputs of every one of them are computed, for each sixth example, and their mean over "
    "all masks is compared with what the network gives in inference, all neurons on, times 1 − p. Differences are "
    "$\\lVert a - b\\rVert / \\lVert b\\rVert$ over examples and outputs. Then the mean is estimated from a few "
    "random masks. Last, a network of 64 hidden neurons is trained by SGD with dropout and with inverted dropout on "
    f"{178 - HELD_OUT} wines, the others held out."
)
LINEAR = r.Claim(
    "For a linear output over one dropped layer of N neurons, dropout's rule 1 − p gives the mean of all 2ᴺ networks, "
    "up to rounding.",
    quantity="relative difference from the mean of all networks",
)
SOFTMAX = r.Claim(
    "For a softmax over one dropped layer of N neurons, dropout's rule 1 − p gives the normalised geometric mean of "
    "all 2ᴺ networks, up to rounding.",
    quantity="relative difference from the geometric mean of all networks",
)
APPROXIMATE = r.Claim(
    "Over two or more dropped layers, dropout's rule 1 − p only approximates the mean of all 2ᴺ networks (with "
    "p = 0.5 it is off by 1 % or more).",
    quantity="relative difference from the mean of all networks",
)
GROWS = r.Claim(
    "The error of dropout's rule 1 − p against the mean of all 2ᴺ networks grows with the number of dropped layers "
    "and with p.",
    quantity="relative difference from the mean of all networks, first less second",
)
SAME_CLASS = r.Claim(
    "With p = 0.5, dropout's rule 1 − p names the same class as a vote of all 2ᴺ networks for 95 % or more of the "
    "examples.",
    quantity="share of examples put into the same class",
)
SAMPLING = r.Claim(
    "The mean of k random thinned networks approaches that of all 2ᴺ networks as 1/√k, with p = 0.5 (the power of k "
    "in their difference is −0.5 ± 0.05).",
    quantity="power of k in the difference",
)
SAME_NETWORK = r.Claim(
    "Inverted dropout is the same network as dropout with outgoing weights times 1 − p: started so, and with these "
    "weights' rate times (1 − p)², it gives the same outputs after training (to 10⁻⁴).",
    quantity="relative difference of the outputs",
)
AS_WELL = r.Claim(
    "Inverted dropout trains as well as dropout from the same start and at the same rate, with nothing corrected (its "
    "held-out accuracy differs by at most 0.02).",
    quantity="held-out accuracy, inverted dropout less dropout",
)


def relative(a: jax.Array, b: jax.Array) -> jax.Array:
    """‖a − b‖/‖b‖ over all examples and outputs."""
    return jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())


def everything(key: jax.Array, step: jax.Array, size: int, batch_size: int) -> jax.Array:
    """Every example in every step: what is random is dropout alone."""
    return jnp.arange(size, dtype=jnp.int32)


def experiment_with(depth: int, steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, p) -> errors`` of the rule 1 − p, and of samples, against all 2^N networks."""
    x, y = data.wine()[1:]

    def experiment(key: jax.Array, p: Any) -> dict[str, jax.Array]:
        key_run, key_masks = jax.random.split(key)
        net = fnn.serial(*(fnn.dense(WIDTH, fnn.tanh), fnn.dropout(p)) * depth, fnn.linear(3))
        learn = fnn.trainer(net, LOSS, fnn.adam(RATE), batch_size=len(x), draw=everything)
        state, _ = fnn.train(learn, learn.init(key_run, (x, y)), (x, y), steps)

        def both(a: jax.Array) -> jax.Array:
            return jnp.concatenate([a, jax.nn.softmax(a), jax.nn.log_softmax(a)], axis=1)

        some = x[::6]
        mean, vote, geometric = jnp.split(
            fnn.nn.thinned_average(net, state.params, state.layer_state, some, both), 3, axis=1
        )
        rule = net.apply(state.params, state.layer_state, some)
        same = jnp.argmax(vote, axis=1) == jnp.argmax(rule, axis=1)
        found = {
            "mean": relative(rule, mean),
            "geometric": relative(jax.nn.softmax(rule), jax.nn.softmax(geometric)),
            "vote": relative(jax.nn.softmax(rule), vote),
            "same class": jnp.mean(same.astype(x.dtype)),
        }
        if depth == SAMPLED:
            drawn = fnn.nn.monte_carlo(net, SAMPLES[-1])(state.params, state.layer_state, some, key_masks)
            found["samples"] = jnp.stack([relative(jnp.mean(drawn[:k], axis=0), mean) for k in SAMPLES])
        return found

    return experiment


def scaled(factor: jax.Array) -> fnn.Optimizer:
    """A transform that multiplies gradients."""
    return fnn.Optimizer(lambda params: (), lambda g, state, params=None: (jax.tree.map(lambda g: factor * g, g), ()))


def experiment_of_forms(steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, p) -> differences`` between dropout and its inverted form, trained alike."""
    x, y = data.wine()[1:]
    hidden, output = fnn.dense(64, fnn.tanh), fnn.linear(3)

    def experiment(key: jax.Array, p: Any) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        order = fnn.permuted(key_split, 0, jnp.arange(len(x), dtype=jnp.int32), len(x))
        seen, unseen = ((x[part], y[part]) for part in (order[HELD_OUT:], order[:HELD_OUT]))
        plain, inverted = (fnn.serial(hidden, form(p), output) for form in (fnn.dropout, fnn.inverted_dropout))
        outgoing = [{"w": False, "b": False}, (), {"w": True, "b": False}]

        def trained(net: fnn.Layer, weights: jax.Array, factor: jax.Array) -> fnn.TrainState:
            rate = fnn.chain(fnn.masked(scaled(factor), tuple(outgoing)), fnn.sgd(ETA))
            learn = fnn.trainer(net, LOSS, rate, batch_size=len(seen[0]), draw=everything)
            start = learn.init(key_run, seen)
            first, _, last = start.params
            start = start._replace(params=(first, (), last | {"w": weights * last["w"]}))
            return fnn.train(learn, start, seen, steps)[0]

        one = jnp.ones_like(p)

        def output_of(net: fnn.Layer, weights: jax.Array, factor: jax.Array) -> jax.Array:
            end = trained(net, weights, factor)
            return net.apply(end.params, end.layer_state, unseen[0])

        a = output_of(plain, one, one)
        matched, own = jax.vmap(partial(output_of, inverted))(jnp.stack([1 - p, one]), jnp.stack([(1 - p) ** 2, one]))
        return {
            "apart": relative(matched, a),
            "plain": data.accuracy(a, unseen[1]),
            "inverted": data.accuracy(own, unseen[1]),
        }

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Enumerate, sample, compare the two forms, and judge."""
    steps, depths = settings.pick(quick=(60, (1, 2)), full=(300, (1, 2, 3)))
    found = {}
    for depth in depths:
        log(f"all {2 ** (WIDTH * depth):,} thinned networks of {settings.seeds} networks with {depth} dropped layers")
        found[depth] = r.sweep_seeds(experiment_with(depth, steps), settings, p=PROBABILITIES)
    log("dropout and inverted dropout, trained alike")
    forms = r.sweep_seeds(experiment_of_forms(steps), settings, p=PROBABILITIES)
    samples = found[SAMPLED]["samples"][:, USUAL]
    slopes = np.polyfit(np.log(SAMPLES), np.log(samples).T, 1)[0]
    return r.Outcome(
        LEAD.format(deepest=depths[-1], steps=steps),
        [*_of_rule(found), r.within(SAMPLING, -0.55, -0.45, slopes), *_of_forms(forms)],
        EQUATION,
        slide=19,
        tables=[_errors(found), _forms(forms)],
        figures=[_by_depth(found), _by_samples(samples, found[SAMPLED]["mean"][:, USUAL])],
        numbers={
            "p": PROBABILITIES,
            "depths": {
                depth: {key: f[key].mean(axis=0) for key in ("mean", "geometric", "vote", "same class")}
                for depth, f in found.items()
            },
            "samples": dict(zip(SAMPLES, samples.mean(axis=0), strict=True)),
            "forms": {key: values.mean(axis=0) for key, values in forms.items()},
        },
    )


def _by_p(values: np.ndarray) -> dict[str, np.ndarray]:
    return r.by_case(values, PROBABILITIES, "p = {:g}")


def _of_rule(found: dict[int, Found]) -> list[r.Verdict]:
    usual = {depth: {key: values[:, USUAL] for key, values in f.items()} for depth, f in found.items()}
    deep = [depth for depth in found if depth > 1]
    deeper = {f"{depth - 1} against {depth} layers": (usual[depth - 1]["mean"], usual[depth]["mean"]) for depth in deep}
    of_p = found[deep[0]]["mean"]
    return [
        r.at_most(LINEAR, EXACT, _by_p(found[1]["mean"])),
        r.at_most(SOFTMAX, EXACT, _by_p(found[1]["geometric"])),
        r.at_least(APPROXIMATE, 0.01, {f"{depth} layers": usual[depth]["mean"] for depth in deep}),
        r.smaller(GROWS, deeper | {"p = 0.1 against 0.5, two layers": (of_p[:, 0], of_p[:, USUAL])}),
        r.at_least(SAME_CLASS, 0.95, {f"N = {WIDTH * depth}": f["same class"] for depth, f in usual.items()}),
    ]


def _of_forms(forms: Found) -> list[r.Verdict]:
    return [
        r.at_most(SAME_NETWORK, 1e-4, _by_p(forms["apart"])),
        r.within(AS_WELL, -0.02, 0.02, _by_p(forms["inverted"] - forms["plain"])),
    ]


def _errors(found: dict[int, Found]) -> r.Table:
    rows = [
        (
            f"{depth}",
            f"{p:g}",
            *(f"{f[key][:, i].mean():.2g}".replace("-", "−") for key in ("mean", "geometric", "vote")),
            f"{100 * f['same class'][:, i].mean():.1f} %",
        )
        for depth, f in found.items()
        for i, p in enumerate(PROBABILITIES)
    ]
    header = ("dropped layers", "p", "mean output", "geometric mean", "mean probability", "same class as the vote")
    return r.Table(
        "How far the rule 1 − p is from three means over all 2ᴺ networks: relative, means over seeds", header, rows
    )


def _forms(forms: Found) -> r.Table:
    rows = {
        f"{p:g}": {
            "dropout, accuracy": forms["plain"][:, i],
            "inverted dropout, accuracy": forms["inverted"][:, i],
            "outputs apart, weights and rate matched": forms["apart"][:, i],
        }
        for i, p in enumerate(PROBABILITIES)
    }
    return r.table("Dropout and inverted dropout after training", "p", rows)


def _by_depth(found: dict[int, Found]) -> r.Figure:
    means = [f["mean"].mean(axis=0) for depth, f in found.items() if depth > 1]
    return r.curves(
        PROBABILITIES,
        {f"{depth} dropped layer{'s'[: depth - 1]}, N = {WIDTH * depth}": f["mean"] for depth, f in found.items()},
        "How far the rule 1 − p is from the mean of all 2ᴺ networks, relative",
        "Line plot over p on a logarithmic axis. For one dropped layer the difference is rounding, near 10⁻⁷; for more "
        f"it grows with p, from {100 * np.min(means):.0f} % to {100 * np.max(means):.0f} %.",
        xlabel="probability p of dropping a neuron",
        ylabel="relative difference",
        logy=True,
        marker="o",
    )


def _by_samples(samples: np.ndarray, rule: np.ndarray) -> r.Figure:
    return r.curves(
        SAMPLES,
        {"k random networks": samples},
        "The mean of k random thinned networks, and the rule 1 − p, against that of all: two dropped layers, p = 0.5",
        "Line plot on logarithmic axes: the error of sampling falls along the dotted line of 1/√k, and below that of "
        "the rule.",
        xlabel="k, networks sampled",
        ylabel="relative difference",
        logx=True,
        logy=True,
        marker="o",
        theory={
            "∝ 1/√k": samples[:, 0].mean() / np.sqrt(SAMPLES),
            "the rule 1 − p": np.full(len(SAMPLES), rule.mean()),
        },
    )
