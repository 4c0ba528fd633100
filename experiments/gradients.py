"""Hand-written against automatic gradients on a zoo of networks: are they the same, and what do they cost?

Command: ``python -m experiments gradients``; one minute on two CPU cores. Expect relative differences of about
1e-16 in float64, and a median run-time ratio of about 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments.outcomes import Figure, Outcome, Settings, Show, Table, Verdict
from experiments.plots import COLORS, figure, finished
from fnn import (
    GradientComparison,
    Layer,
    Loss,
    activate,
    batch_norm,
    columns,
    dense,
    dropout,
    from_function,
    inverted_dropout,
    linear,
    prelu,
    remat,
    repeat,
    residual,
    serial,
    watch,
)

OBJECTS, FEATURES, CLASSES = 128, 64, 10


def _scale(key: jax.Array, x: Any) -> jax.Array:
    return jnp.ones((x.shape[1],), x.dtype)


def _scaled_sine(scale: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.sin(scale[None, :] * x)


def zoo() -> dict[str, tuple[Layer, Loss]]:
    """Networks that together use every layer, combinator, activation and loss."""
    cross_entropy, out = fnn.softmax_cross_entropy, linear(CLASSES)
    block = serial(dense(64, fnn.tanh), linear(64))
    halves = columns((32, activate(fnn.gaussian)), (32, activate(fnn.heaviside)))
    return {
        "linear regression": (out, fnn.squared),
        "support vector machine": (linear(1), fnn.hinge_margin),
        "AdaBoost's loss": (serial(dense(32, fnn.sigmoid), linear(1)), fnn.exponential_margin),
        "logistic, logarithmic σ": (serial(dense(64, fnn.logarithmic), linear(1)), fnn.logistic_margin),
        "bounded loss, softplus": (serial(dense(64, fnn.softplus), linear(1)), fnn.sigmoid_margin),
        "tanh, three layers": (serial(dense(64, fnn.tanh), dense(64, fnn.tanh), out), cross_entropy),
        "wide tanh": (serial(dense(256, fnn.tanh), dense(256, fnn.tanh), out), cross_entropy),
        "ReLU, three layers": (serial(dense(64, fnn.relu), dense(64, fnn.relu), out), cross_entropy),
        "leaky ReLU, many questions": (serial(dense(64, fnn.leaky_relu()), out), fnn.binary_cross_entropy),
        "PReLU": (serial(linear(64), prelu(), linear(64), prelu(), out), cross_entropy),
        "dropout": (serial(dense(64, fnn.sigmoid), dropout(0.5), out), cross_entropy),
        "inverted dropout": (serial(dense(64, fnn.relu), inverted_dropout(0.2), out), cross_entropy),
        "batch norm": (serial(linear(64), batch_norm(), activate(fnn.relu), out), cross_entropy),
        "columns": (serial(linear(64), halves, dense(64, fnn.identity), out), fnn.squared),
        "residual": (serial(dense(64, fnn.tanh), residual(block), residual(block), out), cross_entropy),
        "repeat": (serial(dense(64, fnn.tanh), repeat(dense(64, fnn.tanh), 8), out), cross_entropy),
        "watch": (watch(serial(dense(64, fnn.tanh), out)), cross_entropy),
        "from_function": (serial(linear(64), from_function(_scale, _scaled_sine, "sine"), out), fnn.squared),
        "remat": (serial(dense(64, fnn.tanh), remat(block), out), cross_entropy),
    }


def batch(loss: Loss, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Random objects and answers of the kind a loss takes."""
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (OBJECTS, FEATURES), jnp.float32)
    if loss.label == "softmax_cross_entropy":
        return x, jax.random.randint(key_y, (OBJECTS,), 0, CLASSES, jnp.int32)
    if loss.label.endswith("margin"):
        return x, 2 * jax.random.bernoulli(key_y, 0.5, (OBJECTS, 1)).astype(jnp.int32) - 1
    if loss.label == "binary_cross_entropy":
        return x, jax.random.bernoulli(key_y, 0.5, (OBJECTS, CLASSES)).astype(jnp.int32)
    return x, jax.random.normal(key_y, (OBJECTS, CLASSES), jnp.float32)


def compared(net: Layer, loss: Loss, rounds: int) -> GradientComparison:
    """One network's comparison on a random batch."""
    key_batch, key_net, key = jax.random.split(jax.random.key(7), 3)
    x, y = batch(loss, key_batch)
    params, state = net.init(key_net, x)
    return fnn.compare_gradients(net, loss, params, state, (x, y), key, manual=_as_trained, rounds=rounds)


def _as_trained(net: Layer, loss: Loss) -> Any:
    """BackProp whose readings are gradients only: what `watch` saw besides is left out."""
    by_hand = fnn.backprop(net, loss)

    def gradient(*given: Any) -> Any:
        value, readings = by_hand(*given)
        is_pass = lambda node: isinstance(node, fnn.Pass)  # noqa: E731
        return value, jax.tree.map(lambda node: node.readings if is_pass(node) else node, readings, is_leaf=is_pass)

    return gradient


def ratios(report: GradientComparison) -> dict[str, float]:
    """Manual over automatic, for each cost; 1 where neither needs any."""
    pairs = zip(report.manual._fields, report.manual, report.automatic, strict=True)
    costs = {name: (m / a if a else 1.0) for name, m, a in pairs}
    return costs | {"run_seconds": report.time_ratio}


def run(settings: Settings, show: Show) -> Outcome:
    """Compare each network, then judge."""
    rounds = 15 if settings.quick else 101
    networks = zoo()
    if settings.quick:
        networks = {name: networks[name] for name in list(networks)[9:]}
    reports = {}
    for i, (name, (net, loss)) in enumerate(networks.items()):
        show(f"{i + 1} of {len(networks)}: {name}")
        reports[name] = compared(net, loss, rounds)
    of_all = {name: ratios(report) for name, report in reports.items()}
    return Outcome(
        name="gradients",
        title="Manual against automatic gradients",
        lead=f"{len(reports)} networks of {FEATURES} features, {OBJECTS} objects a batch; those of the full run use "
        "every layer, combinator, activation and loss. BackProp by hand is compared with jax.value_and_grad of the "
        "same forward pass and with central differences; the costs are those of the two compiled programs, run in "
        "turn. remat runs part of the forward pass twice on purpose, which the automatic gradient does not: it is no "
        "part of the medians.",
        equation="‖g_manual − g_automatic‖ / ‖g_automatic‖\n(Q(w + h) − Q(w − h)) / 2h",
        command="",
        verdicts=_verdicts(reports, {name: r for name, r in of_all.items() if name != "remat"}),
        tables=[_table(networks, reports, of_all)],
        figures=[_differences(reports), _costs(of_all)],
        numbers={name: report.to_dict() for name, report in reports.items()},
    )


def _median(of_all: dict[str, dict[str, float]], cost: str) -> float:
    return float(np.median([r[cost] for name, r in of_all.items() if name != "remat"]))


def _verdicts(reports: dict[str, GradientComparison], of_all: dict[str, dict[str, float]]) -> list[Verdict]:
    worst = max(reports, key=lambda name: reports[name].worst)
    time = _median(of_all, "run_seconds")
    verdicts = [
        Verdict(
            "gradients by hand equal automatic ones to 1e-12 in float64",
            reports[worst].worst <= 1e-12,
            f"largest relative difference {reports[worst].worst:.1e}, {worst}",
        ),
        Verdict("they take at most 1.05 of the time (median over networks)", time <= 1.05, f"median ratio {time:.3f}"),
    ]
    for cost, words in (("flops", "operations"), ("temporary_bytes", "temporary memory")):
        most = max(of_all, key=lambda name: of_all[name][cost])
        median = _median(of_all, cost)
        measured = f"median ratio {median:.3f}, largest {of_all[most][cost]:.3f}, {most}"
        verdicts.append(Verdict(f"and at most 1.02 of the {words} (median over networks)", median <= 1.02, measured))
    return verdicts


COSTS = {
    "flops": "operations",
    "bytes_accessed": "memory traffic",
    "temporary_bytes": "temporary memory",
    "compile_seconds": "compile time",
    "run_seconds": "run time",
}


def _table(
    networks: dict[str, tuple[Layer, Loss]],
    reports: dict[str, GradientComparison],
    of_all: dict[str, dict[str, float]],
) -> Table:
    rows = []
    for name, report in reports.items():
        differences = (f"{report.worst_of(p):.1e}" for p in ("manual–automatic", "manual–automatic, float32"))
        by_quotients = f"{report.worst_of('manual–differences'):.1e}"
        costs = (f"{of_all[name][cost]:.3f}" for cost in COSTS)
        rows.append((name, str(networks[name][1]), *differences, by_quotients, *costs))
    medians = (f"{_median(of_all, cost):.3f}" for cost in COSTS)
    rows.append(("median", "without remat", "", "", "", *medians))
    header = ("network", "loss", "float64", "float32", "differences", *COSTS.values())
    return Table("Largest relative difference over the parameters, and costs as manual over automatic", header, rows)


def _differences(reports: dict[str, GradientComparison]) -> Figure:
    kinds = {
        "manual–automatic": "manual against automatic, float64",
        "manual–automatic, float32": "manual against automatic, float32",
        "manual–differences": "manual against central differences",
    }
    with figure(5.4, 0.3 * len(reports) + 1.8) as canvas:
        axes = canvas.subplots()
        rows = np.arange(len(reports))[::-1]
        for color, (pair, label) in zip(COLORS, kinds.items(), strict=False):
            found = [max(report.worst_of(pair), 1e-18) for report in reports.values()]
            axes.plot(found, rows, "o", color=color, label=label)
        axes.set_yticks(rows, list(reports))
        axes.set(xscale="log", xlabel="largest relative difference (1e-18 stands for none)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), fontsize=9)
        return finished(
            canvas,
            "Relative differences of the gradients, the worst parameter of each network",
            "Dot plot: for every network about 1e-16 in float64, 1e-7 in float32, 1e-9 against central differences.",
        )


def _costs(of_all: dict[str, dict[str, float]]) -> Figure:
    shown = ("flops", "temporary_bytes", "run_seconds")
    with figure(5.4, 0.3 * len(of_all) + 1.8) as canvas:
        axes = canvas.subplots()
        rows = np.arange(len(of_all))[::-1]
        for color, cost in zip(COLORS, shown, strict=False):
            axes.plot([r[cost] for r in of_all.values()], rows, "o", color=color, label=COSTS[cost])
        axes.axvline(1, linestyle=":", color="#888888")
        axes.set_yticks(rows, list(of_all))
        axes.set(xlabel="manual over automatic")
        axes.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3, fontsize=9)
        return finished(
            canvas,
            "What the hand-written gradient costs beside the automatic one",
            "Dot plot of cost ratios per network, scattered around one.",
        )
