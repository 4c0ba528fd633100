"""What can be read from an open backward pass: is it right, what does it cost, and what does BackPACK say?

Command: ``python -m experiments quantities``; a minute on two CPU cores. Expect float64 differences of at
most 3e-14 from the automatic twins, and readings of first order at the cost of 0.8 to 1.6 gradients, more for those of
each example. Where torch and backpack-for-pytorch are installed, they take the same quantities of the same network and
data too. Costs are medians of runs in turn, with quartiles; ratios are taken within each turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r
from experiments.benchmark import backpack
from experiments.benchmark.timing import at_least_of_times, at_most_of_times, in_turn, spread
from fnn import Layer, backprop, dense, linear, serial, softmax_cross_entropy, tanh
from fnn.derivatives import (
    clip_per_example,
    ggn_diagonal,
    ggn_vector_product,
    gradient_noise,
    hessian_vector_product,
    hutchinson,
    kronecker_factors,
)
from fnn.derivatives import reference as automatic

LOSS = softmax_cross_entropy
FEATURES, CLASSES, EXAMPLES, THRESHOLD = 64, 10, 128, 1.0
WIDE = serial(dense(256, tanh), dense(256, tanh), linear(CLASSES))
SMALL = serial(dense(16, tanh), dense(16, tanh), linear(CLASSES))

Quantity = Callable[..., Any]
"""A function of (params, state, batch, key)."""

READINGS = {
    "gradient": fnn.gradient,
    "squared norms of examples": fnn.squared_norm,
    "Gram matrix": fnn.gram,
    "second moment": fnn.second_moment,
    "variance": fnn.variance,
    "signal to noise": fnn.signal_to_noise,
    "gradients of examples": fnn.per_example,
}


EQUATION = r"""g_n = x_n \varepsilon_n^\top, \quad \lVert g_n\rVert^2 = \lVert x_n\rVert^2\, \lVert\varepsilon_n\rVert^2
\sum_n g_n^2 = (x \circ x)^\top (\varepsilon \circ \varepsilon)
C_S = \operatorname{diag}(z)\, C \operatorname{diag}(z)
{} + \operatorname{diag}(\sigma{\prime\prime}(S) \circ \varepsilon)
\frac{\partial^2 Q}{\partial w_{io}^2} = \frac{1}{n} \sum_n x_{ni}^2\, (C_S)_{noo}"""
LEAD = (
    "Every quantity that fnn reads from its hand-written backward pass is compared with its automatic reference, and "
    "its cost is measured. Differences are those of a network 64-16-16-10 with 32 examples in float64. Costs are "
    f"those of a network 64-256-256-10 with {EXAMPLES} examples in float32, in run times of one gradient by hand, "
    "ratios taken within each of {rounds} turns, medians with quartiles; memory is what the compiled program takes "
    "for temporary arrays and results. {beside}"
)
NOISE = (
    "Ratios of times move from turn to turn, by as much as the quartiles say, and they are others on another machine."
)
TIME = "time over that of one gradient"
FOLD = "time of jax.vmap of jax.grad over that of fnn"
EQUAL = r.Claim(
    "Every quantity that is read from a backward pass equals its automatic reference (to 10⁻¹⁰ in float64).",
    quantity="largest relative difference",
)
COSTS = {
    "squared norms of examples": (
        0.9,
        r.Claim(
            "The squared gradient norms of all examples take at most 0.9 times the time of one gradient.", NOISE, TIME
        ),
    ),
    "second moment": (
        1.2,
        r.Claim(
            "The second moment of the examples' gradients takes at most 1.2 times the time of one gradient.",
            NOISE,
            TIME,
        ),
    ),
    "Gauss–Newton diagonal": (
        5.0,
        r.Claim("The Gauss–Newton diagonal takes at most 5 times the time of one gradient.", NOISE, TIME),
    ),
    "clipped per example": (
        2.2,
        r.Claim(
            "The sum of gradients clipped example by example takes at most 2.2 times the time of one gradient.",
            NOISE,
            TIME,
        ),
    ),
}
"""What each may cost, in gradients."""
FASTER = {
    "squared norms of examples": (
        10,
        r.Claim(
            "With fnn the squared gradient norms of all examples are found at least 10 times as fast as by jax.vmap of "
            "jax.grad.",
            NOISE,
            FOLD,
        ),
    ),
    "gradients of examples": (
        2,
        r.Claim(
            "With fnn the gradients of all examples are found at least 2 times as fast as by jax.vmap of jax.grad.",
            NOISE,
            FOLD,
        ),
    ),
}
"""How many times as fast as by automatic derivatives."""
MEMORY = r.Claim(
    "The squared gradient norms of all examples take at most 1.2 times the memory of one gradient.",
    quantity="memory over that of one gradient",
)
BACKPACK = r.Claim(
    "BackPACK finds the same numbers as fnn (to float32 accuracy, 10⁻⁴).", quantity="largest relative difference"
)


def readings_of(value_and_readings: Quantity) -> Quantity:
    """What comes beside the value and the state."""
    return lambda *given: value_and_readings(*given)[1]


def along_params(product: Quantity) -> Quantity:
    """A product with the vector of the parameters themselves."""
    return lambda *given: product(*given, given[0])


def by_hand(net: Layer) -> dict[str, Quantity]:
    """Every quantity by the hand-written backward pass."""
    in_signature = {name: backprop(net, LOSS, read) for name, read in READINGS.items()} | {
        "clipped per example": clip_per_example(THRESHOLD)(net, LOSS),
        "Gauss–Newton diagonal": ggn_diagonal(net, LOSS),
        "Gauss–Newton diagonal, 1 sample": ggn_diagonal(net, LOSS, samples=1),
        "Kronecker factors": kronecker_factors(net, LOSS),
        "Kronecker factors, 1 sample": kronecker_factors(net, LOSS, samples=1),
        "Hessian diagonal": fnn.second_derivatives(net, LOSS),
        "Hessian diagonal, one pass": fnn.second_derivatives(net, LOSS, exact=False),
        "Hessian diagonal, 1 probe at units": hutchinson(net, LOSS),
        "Hessian diagonal, 1 probe at weights": hutchinson(net, LOSS, units=False),
    }
    return {name: readings_of(f) for name, f in in_signature.items()} | {
        "gradient noise": gradient_noise(net, LOSS),
        "curvature at input gates": fnn.derivatives.gate_curvature(net, LOSS),
        "Hessian · v": along_params(hessian_vector_product(net, LOSS)),
        "Hessian · v, in reverse": along_params(hessian_vector_product(net, LOSS, reverse=True)),
        "Gauss–Newton · v": along_params(ggn_vector_product(net, LOSS)),
    }


def twins(net: Layer) -> dict[str, Quantity]:
    """The same by automatic derivatives of the plain forward pass."""
    in_signature = {name: automatic.read(net, LOSS, read) for name, read in READINGS.items()} | {
        "clipped per example": automatic.clip_per_example(THRESHOLD)(net, LOSS),
        "Gauss–Newton diagonal": automatic.ggn_diagonal(net, LOSS),
        "Kronecker factors": automatic.kronecker_factors(net, LOSS),
        "Hessian diagonal": automatic.hessian_diagonal(net, LOSS),
    }
    product = along_params(automatic.hessian_vector_product(net, LOSS))
    return {name: readings_of(f) for name, f in in_signature.items()} | {
        "gradient noise": automatic.gradient_noise(net, LOSS),
        "curvature at input gates": automatic.gate_curvature(net, LOSS),
        "Hessian · v": product,
        "Hessian · v, in reverse": product,
        "Gauss–Newton · v": along_params(automatic.ggn_vector_product(net, LOSS)),
    }


def vmapped(net: Layer) -> dict[str, Quantity]:
    """What one would write without an open backward pass: `jax.vmap` of `jax.grad` over single examples."""

    def each(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
        def of_one(x: jax.Array, y: jax.Array) -> Any:
            return jax.grad(lambda p: fnn.objective(net, LOSS)(p, state, (x[None], y[None]), key)[0])(params)

        return jax.vmap(of_one)(*batch)

    def norms(*given: Any) -> Any:
        return sum(jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in jax.tree.leaves(each(*given)))

    return {"gradients of examples": each, "squared norms of examples": norms}


def problem(net: Layer, examples: int, dtype: Any) -> tuple[Any, Any, Any, jax.Array]:
    """Random examples and labels, and the network's own first parameters."""
    keys = jax.random.split(jax.random.key(3), 4)
    x = jax.random.normal(keys[0], (examples, FEATURES), dtype)
    y = jax.random.randint(keys[1], (examples,), 0, CLASSES, jnp.int32)
    return *net.init(keys[2], x), (x, y), keys[3]


def agreement() -> dict[str, float]:
    """The largest relative difference over the leaves between each quantity and its twin, in float64."""

    def difference(got: Any, want: Any) -> float:
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
        return max(float(jnp.linalg.norm((u - v).ravel()) / jnp.linalg.norm(v.ravel())) for u, v in pairs)

    with jax.enable_x64(True):
        given = problem(SMALL, 32, jnp.float64)
        mine, theirs = by_hand(SMALL), twins(SMALL)
        return {name: difference(jax.jit(mine[name])(*given), jax.jit(f)(*given)) for name, f in theirs.items()}


def costs(rounds: int, log: r.Log) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, Any]]:
    """Run times [rounds] and memory in those of one gradient, of the same turn; and what was found."""
    given = problem(WIDE, EXAMPLES, jnp.float32)
    functions = by_hand(WIDE) | {f"vmap(grad), {name}": f for name, f in vmapped(WIDE).items()}
    programs, found = {}, {}
    for name, f in functions.items():
        log(f"compiling {name}")
        programs[name] = jax.jit(f).lower(*given).compile()
        found[name] = jax.block_until_ready(programs[name](*given))
    log("timing")
    seconds = in_turn({name: partial(program, *given) for name, program in programs.items()}, rounds)
    analyses = {name: program.memory_analysis() for name, program in programs.items()}
    memory = {name: a.temp_size_in_bytes + a.output_size_in_bytes for name, a in analyses.items()}
    of_gradient = lambda measured: {name: m / measured["gradient"] for name, m in measured.items()}  # noqa: E731
    return of_gradient(seconds), of_gradient(memory), found


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Compare, time, judge."""
    rounds = settings.pick(quick=7, full=61)
    log("comparing with automatic twins")
    differences = agreement()
    times, memory, found = costs(rounds, log)
    medians = {name: float(np.median(ratios)) for name, ratios in times.items()}
    peers: dict[str, tuple[float, float]] = {}
    if backpack.is_installed():
        log("BackPACK")
        params, _, (x, y), _ = problem(WIDE, EXAMPLES, jnp.float32)
        peers = backpack.compared(params, np.asarray(x), np.asarray(y), found, rounds)
    beside = f"Beside it {backpack.versions()}." if peers else "BackPACK is not installed here."
    return r.Outcome(
        LEAD.format(rounds=rounds, beside=beside),
        _verdicts(differences, times, memory, peers),
        EQUATION,
        title="What can be read from one backward pass",
        tables=[_table(differences, times, memory, peers)],
        figures=[_costs(medians)],
        numbers={"differences": differences, "times": medians, "memory": memory, "backpack": peers},
    )


def _verdicts(
    differences: dict[str, float],
    times: dict[str, np.ndarray],
    memory: dict[str, float],
    peers: dict[str, tuple[float, float]],
) -> list[r.Verdict]:
    def apart(claim: r.Claim, of: dict[str, float], most: float) -> r.Verdict:
        worst = max(of, key=lambda name: of[name])
        return r.judged(claim, of[worst] <= most, f"{r.scientific(of[worst])} ({worst})")

    taken = memory["squared norms of examples"]
    return [
        apart(EQUAL, differences, 1e-10),
        *(at_most_of_times(claim, most, times[name]) for name, (most, claim) in COSTS.items()),
        *(
            at_least_of_times(claim, least, times[f"vmap(grad), {name}"] / times[name])
            for name, (least, claim) in FASTER.items()
        ),
        r.judged(MEMORY, taken <= 1.2, f"{taken:.2f}"),
        *([apart(BACKPACK, {name: difference for name, (difference, _) in peers.items()}, 1e-4)] if peers else []),
    ]


def _table(
    differences: dict[str, float],
    times: dict[str, np.ndarray],
    memory: dict[str, float],
    peers: dict[str, tuple[float, float]],
) -> r.Table:
    rows = {
        name: {
            "from automatic": r.scientific(differences[name]) if name in differences else "–",
            "time": spread(ratios),
            "memory": f"{memory[name]:.2f}",
            "from BackPACK": r.scientific(peers[name][0]) if name in peers else "–",
            "BackPACK's time": f"{peers[name][1]:.2f}" if name in peers else "–",
        }
        for name, ratios in times.items()
    }
    caption = "Relative differences, and costs in gradients: fnn's in fnn's, BackPACK's in torch's"
    return r.table(caption, "quantity", rows)


def _costs(times: dict[str, float]) -> r.Figure:
    *light, each = (times[name] for name in READINGS)
    shown = dict(sorted(times.items(), key=lambda item: -item[1]))
    with r.figure(5.4, 0.3 * len(shown) + 1.2) as canvas:
        axes = canvas.subplots()
        colors = [r.COLORS[1] if name.startswith("vmap") else r.COLORS[0] for name in shown]
        axes.barh(list(shown), list(shown.values()), color=colors)
        axes.axvline(1, linestyle=":", color="#888888")
        axes.set(xscale="log", xlabel="run time, in gradients")
        axes.margins(y=0.01)
        return r.finished(
            canvas,
            "What each quantity costs",
            f"Bars: readings of first order cost {min(light):.1f} to {max(light):.1f} gradients, the gradients of "
            f"examples {each:.1f}, the exact Hessian diagonal {times['Hessian diagonal']:.0f}; by vmap(grad), in the "
            f"other colour, the gradients of examples cost {times['vmap(grad), gradients of examples']:.1f}, their "
            f"norms {times['vmap(grad), squared norms of examples']:.1f}.",
        )
