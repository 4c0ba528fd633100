"""The comparison itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn import checks
from fnn.backprop import Gradient, Objective, autodiff, backprop, objective
from fnn.checks import comparisons
from fnn.compare import verdicts
from fnn.compare.costs import measured
from fnn.compare.culprits import culprit
from fnn.compare.quotients import Quotients, difference_quotients
from fnn.compare.report import Difference, GradientComparison, LeafComparison, Objects, Precision, relative_to_whole
from fnn.types import Array, Batch, Layer, Loss, Params, State

Given = tuple[Params, State, Batch, Array]
DTYPES = ("float32", "bfloat16", "float16")


def compare_gradients(
    net: Layer,
    loss: Loss,
    params: Params,
    state: State,
    batch: Batch,
    key: Array,
    *,
    manual: Callable[[Layer, Loss], Gradient] = backprop,
    automatic: Callable[[Layer, Loss], Gradient] = autodiff,
    names: tuple[str, str] = ("manual", "automatic"),
    entries: int = 32,
    steps: float | dict[str, float] | None = None,
    tolerance: float = 1e-9,
    objects: bool = True,
    dtypes: Sequence[str] = DTYPES,
    rounds: int = 25,
) -> GradientComparison:
    """Compare the hand-written gradient of a batch's mean loss with the automatic one and with difference quotients.

    The verdict, of each leaf and of all:

    ================================ ====================================================================
    "agree to k digits"              the two are within the tolerance of each other
    "manual wrong"                   they are not, and the quotients are with the automatic one
    "automatic wrong"                the other way round
    "both wrong"                     the quotients are with neither
    "differ at a kink"               they do, but only where the slope of Q jumps: any slope between is as good
    "difference quotient unreliable" they differ by less than the quotients' own error: nobody can tell
    … "but not with the quotients"   the two agree, and at entries without a kink the quotients do not
    ================================ ====================================================================

    The printed table has a row for each leaf: largest difference, relative norm, cosine and units in the last place of
    manual against automatic in float64; then relative norms only: the same in the parameters' own dtype, and each
    against quotients; then the quotients' step and their own estimate of their error. If the two differ or are not
    finite, the report names the layer where that arises. Layers that draw get the same key throughout.

    Args:
        net: a layer.
        loss: a loss.
        params: its parameters.
        state: its state.
        batch: (x [n, …], y [n, …]).
        key: a key for layers that draw, and for the choice of entries.
        manual: what makes the first gradient; `backprop`, or one of your own to be judged.
        automatic: what makes the second.
        names: what to call the two in the report.
        entries: quotients are taken at this many entries of each leaf, or at all of a smaller one: those where the two
            differ most, and others at random.
        steps: a step for the quotients, or steps by path such as {"[0]['w']": 1e-3}; each entry's own best otherwise.
        tolerance: relative difference up to which two gradients agree.
        objects: compare the gradients of each object alone too.
        dtypes: lower precisions to try.
        rounds: timed runs of each gradient, one after the other in turn; 0 to leave the timing out.

    Returns:
        A `GradientComparison`.

    Raises:
        TypeError: what is no layer or no loss.
        ValueError: params that are not this network's, or a step for a path that is not there.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import compare_gradients, dense, linear, serial, squared, tanh
        >>> net, batch = serial(dense(8, tanh), linear(1)), (jnp.ones((4, 3)), jnp.ones((4, 1)))
        >>> params, state = net.init(jax.random.key(0), batch[0])
        >>> report = compare_gradients(net, squared, params, state, batch, jax.random.key(1))
        >>> report.worst < 1e-12, report.verdict.startswith("agree to 1")
        (True, True)
    """
    given = params, state, batch, key
    functions = manual(net, loss), automatic(net, loss)
    options = {"entries": entries, "steps": steps, "objects": objects, "dtypes": dtypes, "rounds": rounds}
    report = compare(
        *functions,
        given,
        mean_loss=objective(net, loss),
        names=names,
        tolerance=tolerance,
        label=f"{net}, {loss}",
        **options,
    )
    if report.verdict.startswith("agree") and "not" not in report.verdict:
        return report
    with jax.enable_x64(True):
        found = culprit(net, loss, _cast(given, jnp.float64), tolerance, not_finite="finite" in report.verdict)
    return report._replace(culprit=found)


def compare(
    first: Gradient,
    second: Gradient,
    given: Given,
    *,
    mean_loss: Objective | None = None,
    names: tuple[str, str] = ("first", "second"),
    label: str = "",
    entries: int = 32,
    steps: float | dict[str, float] | None = None,
    tolerance: float = 1e-9,
    objects: bool = True,
    dtypes: Sequence[str] = (),
    rounds: int = 0,
) -> GradientComparison:
    """Compare any two functions in the signature of a gradient, ``(params, state, (x, y), key) -> (_, tree)``.

    Args:
        first: one of them.
        second: the other; trees of the same structure.
        given: what both are called with.
        mean_loss: ``(params, state, (x, y), key) -> (Q, state)``, to judge the two by difference quotients; None where
            they are no gradients, such as second moments, and there is nobody to judge.
        names: what to call the two.
        label: the first line of the report.
        entries: as in `compare_gradients`.
        steps: as in `compare_gradients`.
        tolerance: as in `compare_gradients`.
        objects: as in `compare_gradients`.
        dtypes: as in `compare_gradients`.
        rounds: as in `compare_gradients`.

    Returns:
        A `GradientComparison`, without a culprit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import automatic, backprop, linear, second_moment, squared
        >>> from fnn.compare import compare
        >>> net, batch = linear(1), (jnp.arange(6.0).reshape(3, 2), jnp.ones((3, 1)))
        >>> given = *net.init(jax.random.key(0), batch[0]), batch, jax.random.key(1)
        >>> by_hand, twin = backprop(net, squared, second_moment), automatic.read(net, squared, second_moment)
        >>> compare(by_hand, twin, given, names=("by hand", "twin")).worst < 1e-12
        True
    """
    entries, rounds = checks.count("entries", entries), checks.count("rounds", rounds, least=0)
    costs, time_ratio, results = measured(first, second, given, rounds)
    own = [result[1] for result in results]
    checks.same_structure("compare_gradients", "the gradient", own[0], f"that of {names[1]}", own[1])
    with jax.enable_x64(True):
        precise = _cast(given, jnp.float64)
        is_own = _dtypes(precise) == _dtypes(given)
        exact = [
            _flat_leaves(mine if is_own else jax.jit(f)(*precise)[1])
            for f, mine in zip((first, second), own, strict=True)
        ]
        quotients = _quotients(mean_loss, precise, exact, entries, steps)
        alone = _alone(first, second, precise) if objects else None
        lower = tuple(_in_dtype(name, (first, second), given, exact) for name in dtypes)
    leaves = []
    for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(own[1])):
        pairs = _pairs(names, [e[i] for e in exact], [np.asarray(o).reshape(-1) for o in _leaf(own, i)], quotients[i])
        leaves.append(LeafComparison(jax.tree_util.keystr(path), leaf.shape, pairs, "", np.nan, np.nan, 0))
    between = relative_to_whole([leaf.differences["–".join(names)] for leaf in leaves])
    found = [
        verdicts.of_leaf(names, relative, tolerance, [e[i] for e in exact], quotients[i])
        for i, relative in enumerate(between)
    ]
    judged = tuple(_judged(*each) for each in zip(leaves, found, quotients, strict=True))
    verdict = verdicts.of_all(names, found, between)
    return GradientComparison(label, names, verdict, None, judged, alone, lower, costs, time_ratio)


def _cast(tree: Any, dtype: Any) -> Any:
    """Floating-point leaves in another dtype; keys and integers as they are."""

    def converted(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(converted, tree)


def _dtypes(tree: Any) -> list[Any]:
    return [jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(tree)]


def _flat_leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf).reshape(-1) for leaf in jax.tree.leaves(tree)]


def _leaf(trees: list[Any], i: int) -> list[Array]:
    return [jax.tree.leaves(tree)[i] for tree in trees]


def _quotients(
    mean_loss: Objective | None, given: Given, exact: list[list[np.ndarray]], entries: int, steps: Any
) -> list[Quotients | None]:
    """Quotients at the entries of each leaf where the two differ most, and at others at random."""
    params, state, batch, key = given
    if mean_loss is None or not jax.tree.leaves(params):
        return [None] * len(exact[0])
    comparisons.gradient_of("compare", exact[1], params)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    generator = np.random.default_rng(np.asarray(jax.random.bits(key, (4,), jnp.uint32)))

    def some(u: np.ndarray, v: np.ndarray) -> np.ndarray:
        worst = np.argsort(-np.nan_to_num(np.abs(u - v), nan=np.inf), kind="stable")[: (entries + 3) // 4]
        others = generator.permutation(u.size)
        return np.sort(np.concatenate([worst, others[~np.isin(others, worst)]])[:entries])

    chosen = [some(u, v) for u, v in zip(*exact, strict=True)]
    Q = lambda p: mean_loss(p, state, batch, key)[0]  # noqa: E731
    return list(difference_quotients(Q, params, chosen, comparisons.steps(steps, paths)))


def _pairs(
    names: tuple[str, str], exact: list[np.ndarray], own: list[np.ndarray], found: Quotients | None
) -> dict[str, Difference]:
    first_pair = "–".join(names)
    pairs = {first_pair: _difference(*exact)}
    if own[1].dtype != np.float64:
        pairs[f"{first_pair}, {own[1].dtype}"] = _difference(*own)
    if found is not None:
        smooth = ~found.kink
        sampled = {name: g[found.at[smooth]] for name, g in zip(names, exact, strict=True)}
        sampled["differences"] = found.value[smooth]
        pairs |= {f"{u}–{v}": _difference(sampled[u], sampled[v]) for u, v in list(combinations(sampled, 2))[1:]}
    return pairs


def _difference(u: np.ndarray, v: np.ndarray) -> Difference:
    with np.errstate(invalid="ignore", over="ignore"):
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


def _judged(leaf: LeafComparison, verdict: str, found: Quotients | None) -> LeafComparison:
    if found is None or not found.at.size:
        return leaf._replace(verdict=verdict)
    step, error = float(np.median(found.step)), float(np.median(found.error))
    return leaf._replace(verdict=verdict, step=step, error=error, kinks=int(found.kink.sum()))


def _alone(first: Gradient, second: Gradient, given: Given) -> Objects:
    """Both gradients of every object as a batch of one."""
    params, state, (x, y), key = given

    def of_one(xy: Batch) -> Array:
        one = jax.tree.map(lambda a: a[None], xy)
        pairs = [jax.tree.leaves(f(params, state, one, key)[1]) for f in (first, second)]
        zero = jnp.zeros(())
        apart = sum((jnp.sum(jnp.square(u - v)) for u, v in zip(*pairs, strict=True)), zero)
        size = sum((jnp.sum(jnp.square(v)) for v in pairs[1]), zero)
        return jnp.where(apart == 0, 0.0, jnp.sqrt(apart / size))

    try:
        errors = jax.jit(lambda x, y: jax.lax.map(of_one, (x, y), batch_size=16))(x, y)
    except (TypeError, ValueError) as refused:
        return Objects(np.zeros(0), str(refused).splitlines()[0])
    return Objects(np.asarray(errors), "")


def _in_dtype(
    name: str, functions: tuple[Gradient, Gradient], given: Given, exact: list[list[np.ndarray]]
) -> Precision:
    """The two gradients in a lower precision against their own float64."""
    lower = _cast(given, jnp.dtype(name))

    def off(f: Gradient, want: list[np.ndarray]) -> float:
        try:
            got = [g.astype(np.float64) for g in _flat_leaves(jax.jit(f)(*lower)[1])]
        except TypeError:
            return np.nan
        return float(np.max(relative_to_whole([_difference(u, v) for u, v in zip(got, want, strict=True)]), initial=0))

    return Precision(name, *(off(f, want) for f, want in zip(functions, exact, strict=True)))
