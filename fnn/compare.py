"""Manual against automatic gradients, on any network, with one call.

`compare_gradients` answers two questions about a network, a loss and a batch. Are the gradients the same? Leaf by leaf
of the parameters in float64: BackProp by hand, `jax.value_and_grad`, and central differences, which know nothing of
either. And what do they cost? Of the two compiled programs: operations, memory traffic, temporary memory, compile time,
run time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import combinations
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn import checks
from fnn.backprop import Gradient, autodiff, backprop, objective
from fnn.types import Array, Batch, Layer, Loss, Params, State


class Difference(NamedTuple):
    """Two gradients of the same parameters."""

    largest: float
    """max |u − v|"""
    norm: float
    """‖v‖"""
    relative: float
    """‖u − v‖/‖v‖; 0 where both are 0"""
    cosine: float
    """⟨u, v⟩/(‖u‖‖v‖); 1 where both are 0"""
    ulps: float
    """max |u − v| in units in the last place of the larger of the two, entry by entry"""


class LeafComparison(NamedTuple):
    """One leaf of the parameters, compared in every pair of ways."""

    path: str
    shape: tuple[int, ...]
    differences: dict[str, Difference]
    """for "manual–automatic", "manual–differences", "automatic–differences" in float64, and for "manual–automatic" in
    the parameters' own dtype where that is another"""


class Cost(NamedTuple):
    """What a compiled gradient costs."""

    flops: float
    bytes_accessed: float
    temporary_bytes: float
    compile_seconds: float
    run_seconds: float
    """median of the timed runs"""


class GradientComparison(NamedTuple):
    """The answer of `compare_gradients`: prints as a table, and `to_dict` gives plain numbers."""

    label: str
    leaves: tuple[LeafComparison, ...]
    manual: Cost
    automatic: Cost
    time_ratio: float
    """manual over automatic run time: the median of the ratios of interleaved runs"""

    @property
    def worst(self) -> float:
        """The largest relative difference of manual and automatic gradients in float64 over the leaves."""
        return self.worst_of("manual–automatic")

    def worst_of(self, pair: str) -> float:
        """The largest relative difference over the leaves, of a pair such as "manual–differences".

        A leaf whose gradient is less than a thousandth of the whole gradient is measured against that thousandth: a
        bias before `batch_norm` has gradient 0, and nothing but rounding to be relative to.
        """
        found = [leaf.differences[pair] for leaf in self.leaves]
        least = 1e-3 * np.linalg.norm([d.norm for d in found])
        errors = ((d.relative * d.norm if d.norm else d.largest, max(d.norm, least)) for d in found)
        return max((float(error / scale) if scale else float(error > 0) for error, scale in errors), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, strings and numbers, ready for JSON."""
        return {
            "label": self.label,
            "worst": self.worst,
            "leaves": {
                leaf.path: {"shape": list(leaf.shape)}
                | {pair: difference._asdict() for pair, difference in leaf.differences.items()}
                for leaf in self.leaves
            },
            "cost": {"manual": self.manual._asdict(), "automatic": self.automatic._asdict()},
            "time_ratio": self.time_ratio,
        }

    def __repr__(self) -> str:
        rows = []
        for leaf in self.leaves:
            exact, *own = (d for pair, d in leaf.differences.items() if pair.startswith("manual–automatic"))
            by_differences = leaf.differences["manual–differences"], leaf.differences["automatic–differences"]
            shape = "×".join(map(str, leaf.shape)) or "scalar"
            numbers = f"{exact.largest:.1e}", f"{exact.relative:.1e}", f"{exact.cosine:.12f}", f"{exact.ulps:.3g}"
            relatives = (f"{d.relative:.1e}" for d in (*own, *by_differences))
            rows.append((leaf.path, shape, *numbers, *relatives))
        costs = [
            (name.replace("_", " "), f"{m:.4g}", f"{a:.4g}", f"{m / a:.3f}" if a else "–")
            for name, m, a in zip(Cost._fields, self.manual, self.automatic, strict=True)
        ]
        costs[-1] = (*costs[-1][:-1], f"{self.time_ratio:.3f}")
        pairs = self.leaves[0].differences if self.leaves else ()
        own_dtype = [pair.removeprefix("manual–automatic, ") for pair in pairs if ", " in pair]
        header = ("parameter", "shape", "largest |Δ|", "‖Δ‖/‖·‖", "cosine", "ulp", *own_dtype)
        header += ("manual–diff.", "auto–diff.")
        return "\n\n".join(
            (
                self.label,
                aligned((header, *rows), text_columns=2),
                aligned((("cost", "manual", "automatic", "ratio"), *costs), text_columns=1),
            )
        )


def compare_gradients(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    batch: Batch,
    key: Array,
    *,
    manual: Callable[[Layer, Loss], Gradient] = backprop,
    entries: int = 32,
    rounds: int = 25,
) -> GradientComparison:
    """Compare the hand-written gradient of a batch's mean loss with the automatic one and with central differences.

    The printed table has a row for each leaf: largest difference, relative norm, cosine and units in the last place of
    manual against automatic in float64; then relative norms only: the same in the parameters' own dtype, manual
    against central differences, automatic against central differences.

    The central difference of Q by a weight w is (Q(w + h) − Q(w − h))/2h with h = ∛eps·max(1, |w|) in float64; its own
    error is about 1e-10 of Q, and near a kink as large as the jump of the slope. Layers that draw get the same key
    throughout.

    Args:
        net: a layer.
        loss: a loss.
        params: its parameters.
        state: its state.
        batch: (x [n, …], y [n, …]).
        key: a key for layers that draw, and for the choice of entries.
        manual: what makes the gradient under test; `backprop`, or one of your own to be judged.
        entries: differences are taken at this many entries of each leaf, drawn at random, or at all of a smaller one.
        rounds: timed runs of each gradient, one after the other in turn; 0 to leave the timing out.

    Returns:
        A `GradientComparison`.

    Raises:
        TypeError: what is no layer or no loss.
        ValueError: params that are not this network's.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import compare_gradients, dense, linear, serial, squared, tanh
        >>> net, batch = serial(dense(8, tanh), linear(1)), (jnp.ones((4, 3)), jnp.ones((4, 1)))
        >>> params, state = net.init(jax.random.key(0), batch[0])
        >>> report = compare_gradients(net, squared, params, state, batch, jax.random.key(1))
        >>> report.worst < 1e-12
        True
    """
    entries, rounds = checks.count("entries", entries), checks.count("rounds", rounds, least=0)
    given = params, state, batch, key
    by_hand, automatic = manual(net, loss), autodiff(net, loss)
    costs, time_ratio, (own_hand, own_automatic) = _costs(by_hand, automatic, given, rounds)
    checks.same_structure("compare_gradients", "the gradient", own_hand, "params", params)
    with jax.enable_x64(True):
        precise = _in_float64(given)
        by_differences, chosen = _central_differences(objective(net, loss), precise, entries)
        gradients = {
            "manual": _flat_leaves(jax.jit(by_hand)(*precise)[1]),
            "automatic": _flat_leaves(jax.jit(automatic)(*precise)[1]),
        }
    own = _flat_leaves(own_hand), _flat_leaves(own_automatic)
    leaves = []
    for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(params)):
        sampled = {name: flat[i][chosen[i]] for name, flat in gradients.items()} | {"differences": by_differences[i]}
        differences = {f"{u}–{v}": _difference(sampled[u], sampled[v]) for u, v in combinations(sampled, 2)}
        differences["manual–automatic"] = _difference(gradients["manual"][i], gradients["automatic"][i])
        if own[0][i].dtype != np.float64:
            differences[f"manual–automatic, {own[0][i].dtype}"] = _difference(own[0][i], own[1][i])
        leaves.append(LeafComparison(jax.tree_util.keystr(path), leaf.shape, differences))
    return GradientComparison(f"{net}, {loss}", tuple(leaves), *costs, time_ratio)


def _in_float64(tree: Any) -> Any:
    """Floating-point leaves in float64; keys and integers as they are."""

    def converted(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(converted, tree)


def _flat_leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]


def _central_differences(
    mean_loss: Callable[..., Any], given: tuple[Params, State, Batch, Array], entries: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """∂Q/∂w by central differences at some entries of each leaf, and which entries these are."""
    params, state, batch, key = given
    if not jax.tree.leaves(params):
        return [], []
    w, unflatten = ravel_pytree(params)
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    starts = np.cumsum([0, *sizes[:-1]])
    generator = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))
    chosen = [np.sort(generator.permutation(size)[:entries]) for size in sizes]

    def quotient(i: Array) -> Array:
        h = np.cbrt(np.finfo(np.float64).eps) * jnp.maximum(1, jnp.abs(w[i]))
        above, below = (mean_loss(unflatten(w.at[i].add(step)), state, batch, key)[0] for step in (h, -h))
        return (above - below) / (2 * h)

    at = np.concatenate([start + c for start, c in zip(starts, chosen, strict=True)]).astype(int)
    quotients = np.asarray(jax.jit(lambda at: jax.lax.map(quotient, at, batch_size=16))(at))
    return np.split(quotients, np.cumsum([len(c) for c in chosen])[:-1]), chosen


def _difference(u: np.ndarray, v: np.ndarray) -> Difference:
    spacing = np.spacing(np.maximum(np.abs(u), np.abs(v)))
    u, v, spacing = u.astype(np.float64), v.astype(np.float64), np.abs(spacing.astype(np.float64))
    norm_u, norm_v, apart = np.linalg.norm(u), np.linalg.norm(v), np.abs(u - v)
    return Difference(
        largest=float(np.max(apart, initial=0)),
        norm=float(norm_v),
        relative=float(np.linalg.norm(apart) / norm_v) if norm_v else (np.inf if norm_u else 0.0),
        cosine=float(u @ v / (norm_u * norm_v)) if norm_u and norm_v else float(norm_u == norm_v),
        ulps=float(np.max(apart / spacing, initial=0)),
    )


def _costs(
    by_hand: Gradient, automatic: Gradient, given: tuple[Any, ...], rounds: int
) -> tuple[tuple[Cost, Cost], float, tuple[Params, Params]]:
    """The costs of two gradients, the ratio of their run times, and the gradients themselves."""
    programs = []
    for function in (by_hand, automatic):
        begin = time.perf_counter()
        program = jax.jit(function).lower(*given).compile()
        programs.append((program, time.perf_counter() - begin))
    run_hand, run_automatic = ((lambda program=program: program(*given)) for program, _ in programs)
    gradients = run_hand()[1], run_automatic()[1]
    seconds = _interleaved(run_hand, run_automatic, rounds)
    ratio = float(np.median(np.divide(*seconds))) if rounds else float("nan")
    (hand, hand_compiled), (auto, auto_compiled) = programs
    costs = _cost(hand, hand_compiled, seconds[0]), _cost(auto, auto_compiled, seconds[1])
    return costs, ratio, gradients


def _cost(program: Any, compile_seconds: float, runs: list[float]) -> Cost:
    analysis, memory = program.cost_analysis() or {}, program.memory_analysis()
    return Cost(
        flops=float(analysis.get("flops", np.nan)),
        bytes_accessed=float(analysis.get("bytes accessed", np.nan)),
        temporary_bytes=float(memory.temp_size_in_bytes) if memory is not None else np.nan,
        compile_seconds=compile_seconds,
        run_seconds=float(np.median(runs)) if runs else np.nan,
    )


def _interleaved(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds a call, in turn and in changing order, so that a slow moment of the machine meets both alike."""

    def timed(function: Callable[[], Any], calls: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready([function() for _ in range(calls)][-1])
        return (time.perf_counter() - begin) / calls

    timed(second, 1)
    calls = max(1, int(2e-3 / max(timed(first, 3), 1e-9)))  # about 2 ms a sample, well above the clock's grain
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            seconds[which].append(timed((first, second)[which], calls))
    return seconds


def aligned(rows: Iterable[tuple[str, ...]], text_columns: int) -> str:
    """Rows of text as columns, the first ones flush left and the numbers flush right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), "  ".join("─" * width for width in widths), *map(line, rows[1:])])
