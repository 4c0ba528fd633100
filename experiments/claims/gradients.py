"""Hand-written against automatic gradients on networks that use everything: are they the same, and what do they cost?

Command: ``python -m experiments gradients``; 1½ minutes on two CPU cores, or ten seconds for a network of your own
with ``--network my_module:net``, each of whose layers is asked for its laws too. Expect relative differences of at most
3e-14 in float64, and a median run-time ratio of about 1.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import jax
import numpy as np

import fnn
from experiments import report as r
from experiments import user_network
from experiments.costs import Costs, costs
from experiments.gradient_cases import CLASSES, faults, sound_networks
from experiments.user_network import Problem
from fnn import Layer, Loss
from fnn.testing import Difference, GradientComparison, Laws, LeafComparison, Outcome

TAKES = "network"
EXAMPLES, FEATURES = 128, 64


EQUATION = r"""\frac{\lVert g_\text{manual} - g_\text{automatic}\rVert}{\lVert g_\text{automatic}\rVert}
\frac{Q(w + h) - Q(w - h)}{2h}"""
LEAD = (
    "The gradients of {count} networks, written by hand, are compared with automatic ones, for their values and for "
    f"what they cost. The networks have {FEATURES} features and {EXAMPLES} examples a batch; those of the full run use "
    "every layer, combinator, activation and loss. BackProp by hand is compared with jax.value_and_grad of the same "
    "forward pass and with central differences; the costs are those of the two compiled programs, run in turn. The "
    "layer remat runs part of the forward pass twice on purpose, which the automatic gradient does not: it is no part "
    "of the medians."
)
EQUAL = r.Claim(
    "Hand-written gradients equal automatic ones (to 10⁻¹² in float64).", quantity="largest relative difference"
)
TIME = r.Claim(
    "Hand-written gradients take at most 1.05 times the time of automatic ones, in the median over networks.",
    quantity="time, by hand over automatic",
)
RESOURCES = {
    "flops": r.Claim(
        "Hand-written gradients take at most 1.02 times the operations of automatic ones, in the median over networks.",
        quantity="operations, by hand over automatic",
    ),
    "temporary_bytes": r.Claim(
        "Hand-written gradients take at most 1.02 times the temporary memory of automatic ones, in the median over "
        "networks.",
        quantity="temporary memory, by hand over automatic",
    ),
}
FAULTS = r.Claim(
    "The comparison of gradients gives the right verdict on every network with a planted fault, and on one without.",
    quantity="verdicts",
)
AGREE = r.Claim("Hand-written gradients, automatic gradients and difference quotients agree.")
LAWS = r.Claim("No layer breaks a law.")
COSTS = {
    "flops": "operations",
    "bytes_accessed": "memory traffic",
    "temporary_bytes": "temporary memory",
    "compile_seconds": "compile time",
    "run_seconds": "run time",
}
KINDS = {
    "manual–automatic": "manual against automatic, float64",
    "manual–automatic, float32": "manual against automatic, float32",
    "manual–differences": "manual against central differences",
}


def compared(net: Layer, loss: Loss, rounds: int) -> tuple[GradientComparison, dict[str, float]]:
    """One network's comparison on a random batch, and its costs as manual over automatic."""
    key_batch, key_net, key = jax.random.split(jax.random.key(7), 3)
    outputs = 1 if loss.label.endswith("margin") else CLASSES
    x, y = user_network.batch(loss, key_batch, EXAMPLES, FEATURES, outputs)
    params, state = net.init(key_net, x)
    given = params, state, (x, y), key
    report = fnn.compare_gradients(net, loss, *given, examples=False, dtypes=())
    return report, costs(fnn.backprop(net, loss), fnn.autodiff(net, loss), given, rounds).ratios()


def of_faults(planted: dict[str, tuple[Layer, str]], log: r.Log) -> dict[str, tuple[GradientComparison, str]]:
    """What the comparison says of each planted fault, beside the right verdict."""
    found = {}
    for name, (net, verdict) in planted.items():
        log(f"planted fault: {name}")
        x, y = user_network.batch(fnn.softmax_cross_entropy, jax.random.key(5), 7, 4, 3)
        given = *net.init(jax.random.key(6), x), (x, y), jax.random.key(7)
        report = fnn.compare_gradients(net, fnn.softmax_cross_entropy, *given, examples=False, dtypes=())
        found[name] = report, verdict
    return found


def _faults_table(found: dict[str, tuple[GradientComparison, str]]) -> r.Table:
    rows = {
        name: {
            "verdict": str(report.verdict),
            "arises in": str(report.culprit or "–"),
            "difference": _in_digits(report.worst),
        }
        for name, (report, _) in found.items()
    }
    return r.table("Planted faults and the verdicts", "planted", rows)


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Compare each network, then judge; or compare the user's."""
    if settings.problem is not None:
        return _of_users(settings.problem, settings, log)
    rounds, every = settings.pick(quick=(15, 4), full=(101, 1))
    networks = dict(list(sound_networks().items())[::every])
    wrong = dict(list(faults().items())[::every])
    reports, of_all = {}, {}
    for i, (name, (net, loss)) in enumerate(networks.items()):
        log(f"{i + 1} of {len(networks)}: {name}")
        reports[name], of_all[name] = compared(net, loss, rounds)
    planted = of_faults(wrong, log)
    return r.Outcome(
        LEAD.format(count=len(reports)),
        [*_verdicts(reports, _without_remat(of_all)), _faults_verdict(planted)],
        EQUATION,
        slide=11,
        title="Manual against automatic gradients",
        tables=[_table(networks, reports, of_all), _faults_table(planted)],
        figures=[_differences(reports), _costs(of_all)],
        numbers={name: _numbers(report) | {"ratios": of_all[name]} for name, report in reports.items()}
        | {f"planted: {name}": _numbers(report) for name, (report, _) in planted.items()},
    )


def _numbers(report: GradientComparison) -> dict[str, Any]:
    """The part of a report that says whether gradients agree; a user's own network gets all of it."""
    return {key: report.to_dict()[key] for key in ("label", "verdict", "worst", "culprit")}


def _of_users(given: Problem, settings: r.Settings, log: r.Log) -> r.Outcome:
    """The whole comparison of a user's network."""
    log(f"comparing {given.label}")
    key_net, key = jax.random.split(jax.random.key(7))
    start = user_network.tried(f"init of {given.label}", given.net.init, key_net, given.batch[0])
    at, rounds = (*start, given.batch, key), settings.pick(quick=15, full=101)
    report = user_network.tried(f"the comparison of {given.label}", fnn.compare_gradients, given.net, given.loss, *at)
    both = costs(fnn.backprop(given.net, given.loss), fnn.autodiff(given.net, given.loss), at, rounds)
    laws = user_network.laws_of(given, at, log)
    measured = str(report.verdict) + (f"; arises in {report.culprit}" if report.culprit else "")
    return r.Outcome(
        f"The gradients of a network over {len(given.batch[0])} random examples, written by hand, are compared with "
        f"automatic ones and with difference quotients. The network is {report.label}. {report.examples}.",
        [r.judged(AGREE, report.verdict.agree, measured), _laws_verdict(laws)],
        EQUATION.splitlines()[0],
        slide=11,
        title=f"Manual against automatic gradients of {given.label}",
        tables=_users_tables(report, both, laws),
        numbers=report.to_dict() | {"laws": {name: of_layer.to_dict() for name, of_layer in laws.items()}},
    )


def _users_tables(report: GradientComparison, both: Costs, laws: dict[str, Laws]) -> list[r.Table]:
    leaves = [
        (leaf.path, "×".join(map(str, leaf.shape)), str(leaf.verdict), *(_in_digits(d.relative) for d in _shown(leaf)))
        for leaf in report.leaves
    ]
    header = ("parameter", "shape", "verdict", "manual–automatic", "manual–differences", "automatic–differences")
    of_both = [
        (name.replace("_", " "), f"{m:.4g}", f"{a:.4g}")
        for name, m, a in zip(both.first._fields, both.first, both.second, strict=True)
    ]
    precisions = [(p.dtype, _in_digits(p.first), _in_digits(p.second)) for p in report.precisions]
    relative = "Relative differences in float64, over the sampled entries where quotients are meant"
    return [
        r.Table(relative, header, leaves),
        r.Table("Relative distance from each one's own float64", ("precision", *report.names), precisions),
        r.Table("Costs of the gradient by the parameters", ("cost", *report.names), of_both),
        r.Table("Laws of the layers, which fnn.check_layer asks", ("layer", "law", "finding"), _of_laws(laws)),
    ]


def _of_laws(found: dict[str, Laws]) -> list[tuple[str, ...]]:
    rows = []
    for name, laws in found.items():
        kept = sum(law.outcome is Outcome.HOLDS for law in laws.rows)
        shown = laws.failures if kept else laws.rows
        rows += [(name, law.name, f"{law.outcome}: {law.finding}") for law in shown] or [(name, "all", f"{kept} hold")]
    return rows


def _laws_verdict(found: dict[str, Laws]) -> r.Verdict:
    broken = {name: ", ".join(law.name for law in laws.failures) for name, laws in found.items() if laws.failures}
    asked = sum(any(law.outcome is not Outcome.SKIPPED for law in laws.rows) for laws in found.values())
    measured = "; ".join(f"{name} breaks: {laws}" for name, laws in broken.items()) or f"{asked} of {len(found)} asked"
    return r.judged(LAWS, not broken, measured)


def _in_digits(difference: float) -> str:
    return r.scientific(difference) if difference else "0"


def _shown(leaf: LeafComparison) -> list[Difference]:
    return [leaf.differences[f"{u}–{v}"] for u, v in combinations(("manual", "automatic", "differences"), 2)]


def _without_remat(of_all: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: costs for name, costs in of_all.items() if name != "remat"}


def _median(of_all: dict[str, dict[str, float]], cost: str) -> float:
    return float(np.median([costs[cost] for costs in _without_remat(of_all).values()]))


def _verdicts(reports: dict[str, GradientComparison], of_all: dict[str, dict[str, float]]) -> list[r.Verdict]:
    worst = max(reports, key=lambda name: reports[name].worst)
    difference, time = reports[worst].worst, _median(of_all, "run_seconds")

    def of_resource(cost: str, claim: r.Claim) -> r.Verdict:
        most = max(of_all, key=lambda name: of_all[name][cost])
        median = _median(of_all, cost)
        return r.judged(claim, median <= 1.02, f"{median:.3f}, at most {of_all[most][cost]:.3f} ({most})")

    return [
        r.judged(EQUAL, difference <= 1e-12, f"{_in_digits(difference)} ({worst})"),
        r.judged(TIME, time <= 1.05, f"{time:.3f}"),
        *(of_resource(cost, claim) for cost, claim in RESOURCES.items()),
    ]


def _faults_verdict(found: dict[str, tuple[GradientComparison, str]]) -> r.Verdict:
    wrong = [name for name, (report, right) in found.items() if not str(report.verdict).startswith(right)]
    planted = [name for name in found if name != "none"]
    right = f"right for {len(planted)} faults{' and a sound network' * ('none' in found)}"
    return r.judged(FAULTS, not wrong, f"wrong for: {', '.join(wrong)}" if wrong else right)


def _table(
    networks: dict[str, tuple[Layer, Loss]],
    reports: dict[str, GradientComparison],
    of_all: dict[str, dict[str, float]],
) -> r.Table:
    rows = []
    for name, report in reports.items():
        differences = (_in_digits(report.worst_of(pair)) for pair in KINDS)
        costs = (f"{of_all[name][cost]:.3f}" for cost in COSTS)
        rows.append((name, str(networks[name][1]), *differences, *costs))
    medians = (f"{_median(of_all, cost):.3f}" for cost in COSTS)
    rows.append(("median", "without remat", "", "", "", *medians))
    header = ("network", "loss", "float64", "float32", "differences", *COSTS.values())
    return r.Table("Largest relative difference over the parameters, and costs as manual over automatic", header, rows)


def _differences(reports: dict[str, GradientComparison]) -> r.Figure:
    texts = []
    with r.figure(5.4, 0.3 * len(reports) + 1.8) as canvas:
        axes = canvas.subplots()
        rows = np.arange(len(reports))[::-1]
        for color, (pair, label) in zip(r.COLORS, KINDS.items(), strict=False):
            found = [max(report.worst_of(pair), 1e-18) for report in reports.values()]
            axes.plot(found, rows, "o", color=color, label=label)
            most = list(reports)[int(np.argmax(found))]
            median, largest = _in_digits(np.median(found)), _in_digits(max(found))
            texts.append(f"{label}: {median} in the median, at most {largest}, {most}")
        axes.set_yticks(rows, list(reports))
        axes.set(xscale="log", xlabel="relative difference; 10⁻¹⁸ stands for 0", xticks=(1e-18, 1e-14, 1e-10, 1e-6))
        axes.minorticks_off()
        canvas.legend(loc="outside upper center")
        return r.finished(
            canvas,
            "Relative differences of the gradients, the worst parameter of each network",
            f"Dot plot. {'; '.join(texts)}.",
        )


def _costs(of_all: dict[str, dict[str, float]]) -> r.Figure:
    shown = ("flops", "temporary_bytes", "run_seconds")
    with r.figure(5.4, 0.3 * len(of_all) + 1.8) as canvas:
        axes = canvas.subplots()
        rows = np.arange(len(of_all))[::-1]
        for color, cost in zip(r.COLORS, shown, strict=False):
            axes.plot([costs[cost] for costs in of_all.values()], rows, "o", color=color, label=COSTS[cost])
        axes.axvline(1, linestyle=":", color="#888888")
        axes.set_yticks(rows, list(of_all))
        axes.set(xlabel="manual over automatic")
        canvas.legend(loc="outside upper center", ncols=3)
        return r.finished(
            canvas,
            "What the hand-written gradient costs beside the automatic one",
            "Dot plot of cost ratios per network, scattered around one.",
        )
