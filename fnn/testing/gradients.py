"""Two gradients compared with each other and with difference quotients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.derivatives.backpropagation import Gradient, Objective, autodiff, backprop, objective
from fnn.nn.surgery import intercept
from fnn.testing._blame import Culprit, culprit, follow_dtype
from fnn.testing._equations import narrowest
from fnn.testing._examples import alone
from fnn.testing._kinks import beside
from fnn.testing._programs import Compared, in_signature, is_pair, precisely, tried
from fnn.testing._quotients import Point, Quotients, quotients_of
from fnn.testing._rounding import in_dtype, in_own_dtype, of_narrow, of_returned
from fnn.testing._trees import cast, flat_leaves, norm
from fnn.testing._verdicts import Kind, Verdict, of_all, of_leaf
from fnn.testing.comparisons import GradientComparison, LeafComparison, compared, relative_to_whole

Given = tuple[Any, ...]
"""(params, state, batch, key), and what else a function may take."""

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
    examples: bool = True,
    dtypes: Sequence[str] = DTYPES,
) -> GradientComparison:
    """Compare the hand-written gradient of a batch's mean loss with the automatic one and with difference quotients.

    The verdict, of each leaf and of all:

    ================================ ====================================================================
    "agree to k digits"              the two are within the tolerance of each other
    "manual wrong"                   they are not, and the quotients agree with the automatic one
    "automatic wrong"                the same with the two exchanged
    "both wrong"                     the quotients agree with neither
    "differ at a kink"               they differ only where the slope of Q jumps; each lies between the two slopes
    "difference quotient unreliable" they differ by less than the quotients' own error
    … "but not with the quotients"   the two agree, but the quotients do not, at entries without a kink
    … "wrong in float32"             right in float64, but off by more than rounding in the params' own dtype
    "values differ", "states differ" the returned losses or states differ; the gradients may agree
    "agree to the rounding of …"     the forward pass itself rounds, to bfloat16 for example; they agree to that
    "differ by more than the …"      the forward pass rounds, and they differ by more than that
    ================================ ====================================================================

    A network that computes in a lower precision on purpose, as with `mixed_precision`, is judged to that precision
    only: its Q is a staircase, so there are no quotients and no blame. The effect of rounding is estimated by rounding
    all arguments anew; in bfloat16 errors well below a tenth stay invisible. To judge the equations of such a network,
    compare it without `mixed_precision`.

    The printed table has a row for each leaf: largest difference, relative norm, cosine and units in the last place of
    manual against automatic in float64; then relative norms only: the same in the parameters' own dtype, and each
    against quotients; then the quotients' step and their own estimate of their error. The last row, x, is ∂Q/∂x, the
    error that BackProp passes below the network; only a comparison of `backprop` with `autodiff` has it. If the two
    differ or are not finite, the report names the layer where that arises. Layers that draw always get the same key.

    Args:
        net: a layer.
        loss: a loss.
        params: its parameters.
        state: its state.
        batch: (x [n, …], y [n, …]) or (x, y, weight [n]), as `backprop` takes it.
        key: a key for layers that draw, and for the choice of entries.
        manual: the function of (net, loss) that gives the first gradient function: `backprop`, or your own.
        automatic: the same for the second.
        names: the names of the two in the report.
        entries: quotients are taken at this many entries of each leaf, or at all of a smaller one: those where the two
            differ most, and others at random.
        steps: a step for the quotients, or steps by path such as {"[0]['w']": 1e-3}; by default each entry's best.
        tolerance: relative difference up to which two gradients agree.
        examples: whether to compare the gradients of single examples too.
        dtypes: lower precisions to try. The report points out those in which one of the two loses ten times as much as
            the other; it has NaN for a dtype in which the network does not run.

    Returns:
        A `GradientComparison`.

    Raises:
        TypeError: arguments that are not a layer and a loss; a layer that does not compute in the dtype of x, as
            the comparison runs in float64; a call within `jax.jit`.
        ValueError: params of another network, or a step for an unknown path. With ``examples``, also what a function
            raises for a batch of one, except `fnn.core.NeedsMoreExamples`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import compare_gradients, dense, linear, serial, squared, tanh
        >>> net, batch = serial(dense(8, tanh), linear(1)), (jnp.ones((4, 3)), jnp.ones((4, 1)))
        >>> params, state = net.init(jax.random.key(0), batch[0])
        >>> report = compare_gradients(net, squared, params, state, batch, jax.random.key(1))
        >>> report.worst < 1e-12, report.verdict.agree
        (True, True)
    """
    _options(names, tolerance, dtypes)
    checks.is_function("manual", manual)
    checks.is_function("automatic", automatic)
    given = params, state, batch, key
    plain = in_signature(manual(net, loss), names[0]), in_signature(automatic(net, loss), names[1])
    tried("compare_gradients", plain, given)
    with jax.enable_x64(True):
        precise = cast(given, jnp.float64)
        follow_dtype(net, precise)
    options = {"entries": entries, "steps": steps, "tolerance": tolerance, "examples": examples, "dtypes": dtypes}
    options |= {"mean_loss": objective(net, loss), "names": names, "label": f"{net}, {loss}"}
    is_backprop = manual is backprop and automatic is autodiff and _has_floats(batch[0])
    if is_backprop:
        report = compare(backprop(_to_examples(net), loss), _autodiff_to_examples(net, loss), given, **options)
    else:
        report = compare(*plain, given, **options)
    verdict = report.verdict
    if verdict.agree or verdict.kind is Kind.RETURNED_DIFFER:
        return report
    is_known = is_backprop and verdict.kind is Kind.WRONG
    whose = ("manual", "automatic")[verdict.whose or 0] if is_known else ""
    return report._replace(culprit=_arises(net, loss, given, precise, tolerance, verdict, whose))


def _arises(
    net: Layer, loss: Loss, given: Given, precise: Given, tolerance: float, verdict: Verdict, whose: str
) -> Culprit | None:
    """The layer at fault, in the dtype in which the fault is."""
    not_finite = not verdict.is_finite
    if verdict.dtype:
        tolerance = max(tolerance, float(32 * jnp.finfo(verdict.dtype).eps))
        return culprit(net, loss, given, tolerance, whose, not_finite=not_finite)
    with jax.enable_x64(True):
        return culprit(net, loss, precise, tolerance, whose, not_finite=not_finite)


def _to_examples(net: Layer) -> Layer:
    """The network whose backward pass also shows the error at its input."""

    def backward(call: Any, params: Params, tape: Any, error: Array, read: Reading) -> tuple[Array, Point]:
        at_x, readings = call(params, tape, error, read)
        return at_x, Point(readings, at_x)

    return intercept(net, backward=backward)


def _autodiff_to_examples(net: Layer, loss: Loss) -> Gradient:
    """The automatic gradient by the params and by x."""
    Q = objective(net, loss)

    def value_and_gradient(params: Params, state: State, batch: Batch, key: Array) -> Any:
        at = lambda w: Q(w.params, state, (w.x, *batch[1:]), key)  # noqa: E731
        return jax.value_and_grad(at, has_aux=True)(Point(params, batch[0]))

    return value_and_gradient


def compare(
    first: Callable[..., Any],
    second: Callable[..., Any],
    given: Given,
    *,
    mean_loss: Objective | None = None,
    bare: bool = False,
    names: tuple[str, str] = ("first", "second"),
    label: str = "",
    entries: int = 32,
    steps: float | dict[str, float] | None = None,
    tolerance: float = 1e-9,
    examples: bool = True,
    dtypes: Sequence[str] = (),
) -> GradientComparison:
    """Compare any two functions with the signature of `backprop`, or that return a tree alone.

    That signature is ``(params, state, batch, key) -> ((value, state), tree)``; a batch is any pytree. Functions that
    return the tree alone are compared with ``bare=True``: `hessian_vector_product`, `ggn_vector_product`,
    `gate_curvature`, `gradient_noise`. Further arguments, such as the v of a product, follow the key in ``given``; a v
    that a function closes over would not be converted to float64 with the others.

    Args:
        first: a function.
        second: another, whose trees have the same structure.
        given: the arguments of both.
        mean_loss: ``(params, state, batch, key) -> (Q, state)``, whose difference quotients judge the two; None for
            trees that are not gradients of Q, such as second moments.
        bare: whether the functions return a tree alone, not ((value, state), tree).
        names: the names of the two.
        label: the first line of the report.
        entries: as in `compare_gradients`.
        steps: as in `compare_gradients`.
        tolerance: as in `compare_gradients`.
        examples: as in `compare_gradients`.
        dtypes: as in `compare_gradients`.

    Returns:
        A `GradientComparison`, without a culprit.

    Raises:
        TypeError: a function that returns something else, or does not accept the arguments in float64.
        ValueError: two trees of different structures.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.derivatives import reference as automatic
        >>> from fnn import backprop, linear, second_moment, squared
        >>> from fnn.testing import compare
        >>> from fnn.derivatives import hessian_vector_product
        >>> net, batch = linear(1), (jnp.arange(6.0).reshape(3, 2), jnp.ones((3, 1)))
        >>> given = *net.init(jax.random.key(0), batch[0]), batch, jax.random.key(1)
        >>> by_hand, by_jax = backprop(net, squared, second_moment), automatic.read(net, squared, second_moment)
        >>> compare(by_hand, by_jax, given, names=("by hand", "by JAX")).worst < 1e-12
        True
        >>> by_hand, by_jax = hessian_vector_product(net, squared), automatic.hessian_vector_product(net, squared)
        >>> compare(by_hand, by_jax, (*given, given[0]), bare=True).worst < 1e-12  # H v for v = the params
        True
    """
    _options(names, tolerance, dtypes)
    entries = checks.count("entries", entries)
    functions = in_signature(first, names[0], bare), in_signature(second, names[1], bare)
    tried("compare", functions, given)
    results = [jax.jit(f)(*given) for f in functions]
    own = results[1][1]
    checks.same_structure("compare", names[0], results[0][1], names[1], own)
    with jax.enable_x64(True):
        precise = cast(given, jnp.float64)
        is_own = _dtypes_of(precise) == _dtypes_of(given)
        sides = results if is_own else [precisely(f, name, precise) for f, name in zip(functions, names, strict=True)]
        narrow = narrowest(mean_loss, *precise[:4]) if mean_loss else narrowest(second, *precise)
        of = Compared(
            names=names,
            functions=functions,
            given=precise,
            mean_loss=mean_loss,
            paths=[jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(own)],
            sizes=_sizes(own, precise),
            rounds_to="" if narrow is None else narrow.name,
            tolerance=tolerance,
            entries=entries,
            steps=steps,
        )
        return _report(label, results, sides, given, of, examples, dtypes)


def _report(
    label: str, results: Any, sides: Any, given: Given, of: Compared, examples: bool, dtypes: Sequence[str]
) -> GradientComparison:
    """The report on the results of two functions in their own dtype, and in float64, `sides`."""
    tree = results[1][1]
    own, exact = ([flat_leaves(tree) for _, tree in both] for both in (results, sides))
    quotients = quotients_of(None if of.rounds_to else of.mean_loss, tree, of.given, exact, of.entries, of.steps)
    pairs = [([g[i] for g in exact], [g[i] for g in own], found) for i, found in enumerate(quotients)]
    differences = [compared(of.names, *pair) for pair in pairs]
    between = relative_to_whole(of.paths, [d["–".join(of.names)] for d in differences], of.sizes)
    verdicts = _judged(between, exact, own, quotients, given, of)
    returned, apart = of_returned(sides, None if sides is results else results, of)
    shapes = [leaf.shape for leaf in jax.tree.leaves(tree)]
    return GradientComparison(
        label=label,
        names=of.names,
        verdict=of_all([*verdicts, *apart], between, of.rounds_to),
        culprit=None,
        leaves=tuple(map(_leaf, of.paths, shapes, differences, verdicts, quotients, of.sizes)),
        examples=alone(of.functions, of.given) if examples else None,
        precisions=tuple(in_dtype(name, given, exact, of) for name in dtypes),
        returned=returned,
    )


def _sizes(tree: Any, precise: Given) -> list[float]:
    """The norms of what the leaves are the gradient by, which count where x is among it."""
    if not isinstance(tree, Point):
        return [1.0] * len(jax.tree.leaves(tree))
    return list(map(norm, jax.tree.leaves(Point(precise[0], precise[2][0]))))


def _dtypes_of(tree: Any) -> list[Any]:
    return [jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(tree)]


def _judged(
    between: list[float],
    exact: list[list[np.ndarray]],
    own: list[list[np.ndarray]],
    quotients: list[Quotients | None],
    given: Given,
    of: Compared,
) -> list[Verdict]:
    """The verdict on each leaf: by quotients, beside its kinks, and in its own dtype."""
    if of.rounds_to:
        found = of_narrow(exact, of)
    else:
        found = [
            of_leaf(of.names, relative, of.tolerance, [e[i] for e in exact], quotients[i])
            for i, relative in enumerate(between)
        ]
        found = beside(found, exact, quotients, of)
    return in_own_dtype(found, exact, own, given, of)


def _leaf(
    path: str, shape: Any, differences: Any, verdict: Verdict, found: Quotients | None, size: float
) -> LeafComparison:
    leaf = LeafComparison(
        path=path, shape=shape, differences=differences, verdict=verdict, step=np.nan, error=np.nan, kinks=0, size=size
    )
    if found is None or not found.at.size:
        return leaf
    step, error = float(np.median(found.step)), float(np.median(found.error))
    return leaf._replace(step=step, error=error, kinks=int(found.kink.sum()), sampled=found.at.size)


def _options(names: Any, tolerance: Any, dtypes: Any) -> None:
    """Two words for the two, a tolerance, and floating-point dtypes."""
    if not is_pair(names) or not all(isinstance(name, str) for name in names) or len({*names, "differences"}) < 3:
        raise ValueError(
            f"names must be two different words, what to call the two in the report, got {names!r}; take such as "
            "('manual', 'automatic'), and not 'differences', which are the quotients"
        )
    checks.not_negative("tolerance", tolerance)
    for name in [dtypes] if isinstance(dtypes, str) else dtypes:
        if isinstance(dtypes, str) or not _is_floating(name):
            raise ValueError(
                f"dtypes must be a sequence of floating-point dtypes, got {name!r}; write such as ('bfloat16',)"
            )


def _has_floats(x: Any) -> bool:
    """Whether x is one array of floats, by which Q can be differentiated."""
    return hasattr(x, "dtype") and bool(jnp.issubdtype(x.dtype, jnp.floating))


def _is_floating(dtype: Any) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
    except TypeError:
        return False
