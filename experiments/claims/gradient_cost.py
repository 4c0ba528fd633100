"""BackProp costs O(dim W), difference quotients O(dim² W).

Command: ``python -m experiments gradient_cost``; 11 seconds on two CPU cores. Expect operations that grow with the
powers 1.05 and 2.00 of dim W, and times with powers 1.1 apart in width, 1.0 in depth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import fnn
from experiments import report as r

EXAMPLES, SAMPLED, STEP, CALLS = 256, 4, 0.03, 3
"""examples of the batch; how many of the dim W quotients are timed; their h; the quickest of so many calls counts"""
WIDTHS, DEPTHS, DEEP = (64, 128, 256, 512), (4, 8, 16), 128
"""widths of two hidden layers; numbers of hidden layers, whose width is `DEEP`"""
BACKPROP, DIFFERENCES = METHODS = ("BackProp", "differences")


EQUATION = r"""\varepsilon^{l-1} = (\varepsilon^l \circ z^l)\, (W^l)^\top
\text{once through the network: } O(\dim\, W)
\frac{\partial Q}{\partial w_j} \approx \frac{Q(W + h e_j) - Q(W - h e_j)}{2h}
\text{twice for each } j \text{: } O((\dim\, W)^2)"""
LEAD = (
    "The gradients of networks that grow are found by BackProp and by central differences, and their operations and "
    "seconds are compared. The networks have tanh neurons and grow in width (2 hidden layers of {widths}) and in "
    f"depth ({{depths}} hidden layers of {DEEP}); the batch has {EXAMPLES} examples. Operations are counted in the "
    f"programs that JAX makes; times are measured in {{rounds}} rounds, in each of which all take turns. Of the dim W "
    f"quotients, which take equally long, {SAMPLED} are timed, and multiplied by dim W/{SAMPLED}. Powers are fitted "
    "to the logarithms in each round."
)
OPERATIONS = r.Claim(
    "The operations of BackProp grow with the power 1 of dim W, the number of weights, those of difference quotients "
    "with the power 2 (± 0.1).",
    quantity="power of dim W in the operations",
)
TIME = r.Claim(
    "The time of BackProp grows at most with the power 1.1 of dim W, the number of weights.",
    why="A likely cause: other programs share the machine.",
    quantity="power of dim W in the time",
)
HIGHER = r.Claim(
    "The time of difference quotients grows with a power of dim W that is higher by 1 than that of BackProp (± 0.1).",
    why="An interval that crosses a limit leaves it open. A likely cause of a larger difference in width: in small "
    "networks starting the program counts for BackProp, whose time grows more slowly than its operations, while the "
    "many quotients are one program.",
    quantity="power of dim W in the time, difference quotients less BackProp",
)
FIVE_TIMES = r.Claim(
    "The gradient by BackProp takes at most 5 times the operations of Q, however large the network (W. Baur and V. "
    "Strassen, 1983).",
    quantity="operations of the gradient over those of Q",
)
SAME = r.Claim(
    "BackProp and difference quotients find the same gradient (to 1 % in its norm).",
    quantity="largest relative difference of the gradients",
)


class Cost(NamedTuple):
    """What the whole gradient of a network costs by each method, and calls that find known shares of it."""

    dim: int
    operations: dict[str, float]
    forward: float
    """operations of Q itself"""
    calls: dict[str, Callable[[], Any]]
    share: dict[str, float]
    """seconds of the whole gradient for one second of a call"""
    off: float
    """‖quotients − BackProp‖/‖BackProp‖ over the sampled parameters"""


def experiment(net: fnn.Layer) -> Cost:
    """Both gradients of a network's mean loss, compiled: BackProp, and (Q(W + he_j) − Q(W − he_j))/2h for some j."""
    random, key = np.random.default_rng(2026), jax.random.key(0)
    x, y = (jnp.asarray(random.normal(size=(EXAMPLES, n)), jnp.float32) for n in (DEEP, 1))
    shapes, state = jax.eval_shape(net.init, key, x)
    params = jax.tree.map(lambda w: jnp.asarray(random.normal(size=w.shape) / w.shape[0] ** 0.5, w.dtype), shapes)
    W, unravel = ravel_pytree(params)
    Q = fnn.objective(net, fnn.squared)
    at = jnp.asarray(random.choice(W.size, SAMPLED, replace=False), jnp.int32)

    def quotient(W: jax.Array, j: jax.Array) -> jax.Array:
        above, below = (Q(unravel(W.at[j].add(h)), state, (x, y), key)[0] for h in (STEP, -STEP))
        return (above - below) / (2 * STEP)

    def operations(f: Callable[..., Any], *given: Any) -> float:
        return (jax.jit(f).lower(*given).cost_analysis() or {})["flops"]

    given, every = (params, state, (x, y), key), jax.ShapeDtypeStruct(W.shape, jnp.int32)
    by_hand, quotients = fnn.backprop(net, fnn.squared), jax.vmap(quotient, (None, 0))
    backprop = jax.jit(by_hand).lower(*given).compile()
    differences = jax.jit(lambda W, at: jax.lax.map(lambda j: quotient(W, j), at)).lower(W, at).compile()
    exact = ravel_pytree(backprop(*given)[1])[0][at]
    return Cost(
        W.size,
        {BACKPROP: operations(by_hand, *given), DIFFERENCES: operations(quotients, W, every)},
        operations(Q, *given),
        {BACKPROP: lambda: backprop(*given), DIFFERENCES: lambda: differences(W, at)},
        {BACKPROP: 1.0, DIFFERENCES: W.size / SAMPLED},
        float(jnp.linalg.norm(differences(W, at) - exact) / jnp.linalg.norm(exact)),
    )


def quickest(call: Callable[[], Any]) -> float:
    """Seconds of the quickest of some calls, so that little else of the machine counts."""
    seconds = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def timed(costs: dict[str, list[Cost]], rounds: int) -> dict[str, dict[str, np.ndarray]]:
    """Seconds of the whole gradient [rounds, networks]: in each round every network by both methods, in turn."""
    seconds = {way: {method: np.zeros((rounds, len(of))) for method in METHODS} for way, of in costs.items()}
    for turn in range(rounds):
        for way, of in costs.items():
            for i, cost in enumerate(of):
                for method in METHODS[:: 1 if turn % 2 else -1]:
                    seconds[way][method][turn, i] = cost.share[method] * quickest(cost.calls[method])
    return seconds


def power(dims: Any, costs: Any) -> np.ndarray:
    """The exponent p of cost ~ dim^p by least squares on logarithms, for costs [..., networks]."""
    x = np.log(dims) - np.mean(np.log(dims))
    return np.log(costs) @ x / (x @ x)


def picture(costs: dict[str, list[Cost]], seconds: dict[str, dict[str, np.ndarray]]) -> r.Figure:
    """Times against dim W."""
    slopes = []
    with r.figure(5.4, 6.6) as canvas:
        for axes, (way, of) in zip(canvas.subplots(2, 1, sharey=True), costs.items(), strict=True):
            dims = np.array([cost.dim for cost in of])
            fitted = (power(dims, seconds[way][method]).mean() for method in METHODS)
            slopes.append("in {} with slopes {:.2f} and {:.2f}".format(way, *fitted))
            for color, method, p in zip(r.COLORS, METHODS, (1, 2), strict=False):
                mean, half = r.interval(np.log10(seconds[way][method]))
                axes.errorbar(
                    dims, 10**mean, 10**mean * np.log(10) * half, color=color, marker="o", markersize=4, label=method
                )
                slope = 10 ** mean.mean() * (dims / np.exp(np.log(dims).mean())) ** p
                axes.plot(dims, slope, color=color, linestyle=":", label="dim W" if p == 1 else "dim² W")
            axes.set(title=f"growing in {way}", xscale="log", yscale="log", ylabel="seconds for the gradient")
            axes.minorticks_off()
            axes.set_xticks(dims, [f"{dim / 1000:.0f}k" for dim in dims])
        canvas.axes[1].set_xlabel("weights, dim W")
        canvas.axes[0].legend(ncols=2)
        return r.finished(
            canvas,
            f"Seconds for one gradient over {EXAMPLES} examples, geometric means over rounds with 95 % intervals. "
            "Dotted: the powers 1 and 2 of dim W",
            "Two plots of time against the number of parameters, on logarithmic scales, for networks that grow in "
            "width and in depth, beside dotted lines of slopes one and two. The times of BackProp and of differences, "
            f"which take many thousand times longer, rise {', '.join(slopes)}.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Count, time in turn, and fit."""
    widths, depths = settings.pick(quick=(WIDTHS[::2], DEPTHS[:2]), full=(WIDTHS, DEPTHS))
    shapes = {"width": [(H, 2) for H in widths], "depth": [(DEEP, L) for L in depths]}
    costs: dict[str, list[Cost]] = {way: [] for way in shapes}
    for way, of in shapes.items():
        for H, L in of:
            log(f"compiling both gradients of {L} hidden layers of {H}")
            costs[way].append(experiment(fnn.serial(*[fnn.dense(H, fnn.tanh)] * L, fnn.linear(1))))
    log(f"timing them in turn, {settings.seeds} rounds")
    timed(costs, 1)
    seconds = timed(costs, settings.seeds)
    dims = {way: np.array([cost.dim for cost in of]) for way, of in costs.items()}
    counted = {
        way: {m: float(power(dims[way], np.array([cost.operations[m] for cost in of]))) for m in METHODS}
        for way, of in costs.items()
    }
    powers = {way: {m: power(dims[way], seconds[way][m]) for m in METHODS} for way in costs}
    everywhere = [cost for of in costs.values() for cost in of]
    ratios = np.array([cost.operations[BACKPROP] / cost.forward for cost in everywhere])
    worst = max(cost.off for cost in everywhere)
    ends = (f"{sizes[0]} to {sizes[-1]}" for sizes in (widths, depths))
    return r.Outcome(
        LEAD.format(**dict(zip(("widths", "depths"), ends, strict=True)), rounds=settings.seeds),
        _verdicts(counted, powers, ratios, worst),
        EQUATION,
        slide=12,
        tables=[_table(shapes, costs, seconds)],
        figures=[picture(costs, seconds)],
        numbers={
            "power of the operations": counted,
            "power of the time": {way: r.intervals(of) for way, of in powers.items()},
            "operations of BackProp over those of Q": ratios,
            "largest dim W": max(cost.dim for cost in everywhere),
            "relative difference": worst,
        },
    )


def _verdicts(
    counted: dict[str, dict[str, float]], powers: dict[str, dict[str, np.ndarray]], ratios: np.ndarray, worst: float
) -> list[r.Verdict]:
    counts = {
        f"{method}, in {way}": (abs(of[method] - power) <= 0.1, f"{of[method]:.3f}")
        for way, of in counted.items()
        for method, power in zip(METHODS, (1, 2), strict=True)
    }
    apart = {f"in {way}": of[DIFFERENCES] - of[BACKPROP] for way, of in powers.items()}
    sampled = f"{r.scientific(worst)} in float32, over {SAMPLED} parameters of each network"
    return [
        r.judged_each(OPERATIONS, counts),
        r.at_most(TIME, 1.1, {f"in {way}": of[BACKPROP] for way, of in powers.items()}),
        r.within(HIGHER, 0.9, 1.1, apart),
        r.judged(FIVE_TIMES, ratios.max() <= 5, f"{ratios.min():.2f} to {ratios.max():.2f}"),
        r.judged(SAME, worst <= 0.01, sampled),
    ]


def _in_two_digits(value: Any) -> str:
    return np.format_float_positional(value, precision=2, fractional=False, trim="-")


def _table(
    shapes: dict[str, list[tuple[int, int]]],
    costs: dict[str, list[Cost]],
    seconds: dict[str, dict[str, np.ndarray]],
) -> r.Table:
    rows = [
        (
            f"{L} × {H}",
            str(cost.dim),
            *(f"{cost.operations[m]:.1e}" for m in METHODS),
            *(_in_two_digits(np.median(seconds[way][m][:, i])) for m in METHODS),
        )
        for way, of in shapes.items()
        for i, ((H, L), cost) in enumerate(zip(of, costs[way], strict=True))
    ]
    heads = (f"{what} {m}" for what in ("operations,", "seconds,") for m in METHODS)
    return r.Table("One gradient by each method; seconds are medians", ("hidden layers", "dim W", *heads), rows)
