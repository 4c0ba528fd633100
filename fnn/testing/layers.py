"""Whether a layer keeps its laws."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core.readings import contributions, gram, per_example, second_moment, squared_norm, variance
from fnn.core.types import Layer, Params, State
from fnn.testing._asking import Judge, Measured, Question, ask
from fnn.testing._doubts import asked_to_rounding
from fnn.testing._equations import narrowest
from fnn.testing._judges import by_shape, close, equal, finite, repeated
from fnn.testing._law_kinks import asked_beside
from fnn.testing._memory import learns, state_learns
from fnn.testing._passes import (
    Start,
    Subject,
    apply_is_finite,
    apply_is_forward,
    apply_is_pure,
    backward_is_linear,
    backward_is_pure,
    backward_runs,
    draws_in_training_only,
    error_has_shape,
    error_is_automatic,
    forward_is_finite,
    forward_is_pure,
    forward_keeps_state,
    forward_runs,
    gradient_has_shapes,
    gradient_is_automatic,
    inference_is_automatic,
    init_gives_arrays,
    init_is_pure,
    zero_gives_zeros,
)
from fnn.testing._precision import DTYPES, close_to_float64, in_dtype
from fnn.testing._surroundings import (
    curve_at_params,
    curve_at_x,
    curve_gives_error,
    examples_are_independent,
    in_repeat,
    in_serial,
    keeps_dtypes,
    one_pass_is_diagonal,
    reading_is_automatic,
    runs_under_vmap,
    takes_one_example,
)
from fnn.testing._trees import are_floats, precise, shaken, shaken_state
from fnn.testing.reports import BROKEN, HOLDS, Law, Laws

READINGS = (per_example, squared_norm, gram, second_moment, variance, contributions)

NARROW = 8
"""Units in the last place of a dtype to which a layer rounds on its way, that it may be off by."""

INIT, FORWARD, BACKWARD = "init gives arrays", "forward runs under jit", "backward runs under jit"


def check_layer(
    layer: Layer, x: Any, *, params: Params = None, state: State = None, key: Any = None, tolerance: float = 1e-9
) -> Laws:
    """Whether a layer keeps all the laws that the rest of fnn relies on, for layers of one's own.

    Args:
        layer: any layer, with or without a `curve`.
        x: a few examples [n, i] of floats, at least two.
        params: where to look; by default what init makes, plus noise of 0.1, for zeros hide faults.
        state: where to look; by default what init makes, with its floats up to a tenth larger, and small positive
            numbers in the place of zeros, which hide faults too. Whole numbers and keys stay as they are.
        key: for init and forward; `jax.random.key(0)` if not given.
        tolerance: largest relative error, of float64.

    Returns:
        `Laws`, which prints as a table; ``check_layer(…).raise_if_failed()`` is a whole test. Everything is computed
        in float64 on compiled programs, and again in float32, bfloat16 and float16, beside float64. The automatic
        judges are `jax.vjp` and `jax.hessian` of the layer's own forward pass. On a kink of forward, as of relu at 0,
        any slope is accepted that lies between those beside it, or for once the width of that range off it.

        A layer that rounds to a narrower dtype on its way, as `mixed_precision` does, is judged to eight units in the
        last place of that dtype, which the finding of "keeps the dtype" names; check the layer inside it for more.
        Where rounding has taken all digits from JAX's own gradient, as where tanh is 1, or a number lies outside the
        range of a dtype, either side of it, nothing is judged by it. Of a layer that draws other random numbers in
        another dtype only the backward pass and apply are judged there by their numbers.

    Raises:
        TypeError: no layer, or an x that is not floats.
        ValueError: an x of one example or with NaN; a state without params.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import dense, tanh
        >>> from fnn.testing import check_layer
        >>> right = dense(3, tanh)
        >>> wrong = right._replace(backward=lambda p, tape, error, read: right.backward(p, tape, 2 * error, read))
        >>> check_layer(right, jnp.eye(4)).passed
        True
        >>> [law.name for law in check_layer(wrong, jnp.eye(4)).failures][:2]
        ['error equals jax.vjp', 'gradient equals jax.vjp']
    """
    _of_layer(layer, x, params, state, tolerance)
    with jax.enable_x64(True):
        start = Start(layer, jax.random.key(0) if key is None else key, precise(x))
        laws = ask(_of_init(), lambda: start, compiled=False)
        made = _made(start)
        unmet = {INIT} if made is None and (params is None or state is None) else set()
        made = made or (params, state)
        params = shaken(made[0], 1) if params is None else precise(params)
        state = shaken_state(made[1], 2) if state is None else precise(state)
        given = params, state, start.x, start.key
        within = _within(layer, given)
        if within is not None:
            tolerance = max(tolerance, NARROW * float(jnp.finfo(within).eps))
        questions = _questions(tolerance, within)
        laws += ask(questions, partial(Subject, layer), *given, unmet=unmet)
        laws = _with_care(laws, layer, given, within)
        by_jax = [q for q in questions if q.name in _by_jax()]
        laws = asked_to_rounding(laws, by_jax, layer, given, tolerance)
        laws = asked_beside(laws, by_jax, layer, given)
        return Laws(str(layer), tuple(laws))


def _within(layer: Layer, given: tuple[Any, ...]) -> Any:
    """The dtype below float64 to which forward rounds on its way; None too where it does not run, a law of its own."""
    try:
        return narrowest(layer.forward, *given)
    except Exception:
        return None


def _with_care(laws: list[Law], layer: Layer, given: tuple[Any, ...], within: Any) -> list[Law]:
    """The laws, those of low precision that are broken asked once more, and closer."""
    broken = {law.name for law in laws if law.verdict == BROKEN}
    doubtful = [Question(*question) for question in _of_dtypes(within, careful=True) if question[0] in broken]
    again = {law.name: law for law in ask(doubtful, partial(Subject, layer), *given)} if doubtful else {}
    return [again.get(law.name, law) for law in laws]


def _by_jax() -> set[str]:
    """The laws that compare with JAX's derivatives."""
    curves = {"curve at the params equals jax.hessian", "curve at x equals jax.hessian", "takes a batch of one"}
    inside = {"error equals jax.vjp", "gradient equals jax.vjp", "runs inside serial", "runs inside repeat"}
    inside |= {"inference_mode(layer) equals jax.vjp"}
    return curves | inside | {f"reading {read}" for read in READINGS}


def _made(start: Start) -> tuple[Params, State] | None:
    """What init makes; None where it fails or makes params that are no floats, which is a law of its own."""
    try:
        are_floats(start.made[0], "params")
        return precise(start.made)
    except Exception:
        return None


def _of_init() -> list[Question]:
    return [
        Question(INIT, init_gives_arrays, by_shape),
        Question("init is pure", init_is_pure, equal(_IMPURE_INIT), INIT),
    ]


def _questions(tolerance: float, within: Any) -> list[Question]:
    """What is asked of the passes, each by itself and then among other layers."""
    same = partial(close, tolerance)
    of_forward = [
        ("forward keeps the state", forward_keeps_state, by_shape),
        ("forward is pure", forward_is_pure, repeated(tolerance, _IMPURE)),
        ("forward is finite", forward_is_finite, finite(_NAN)),
        ("apply is pure", apply_is_pure, repeated(tolerance, _IMPURE)),
        ("apply is finite", apply_is_finite, finite(_NAN)),
        ("apply is forward", apply_is_forward, _of_modes(tolerance)),
        ("the state is learned", state_learns, learns),
        ("draws in training only", draws_in_training_only, by_shape),
    ]
    of_backward = [
        ("error has the shape of x", error_has_shape, by_shape),
        ("gradient has the shapes of the params", gradient_has_shapes, by_shape),
        ("error equals jax.vjp", error_is_automatic, same(_WRONG_ERROR)),
        ("gradient equals jax.vjp", gradient_is_automatic, same(_WRONG_GRADIENT)),
        ("inference_mode(layer) equals jax.vjp", inference_is_automatic, same(_WRONG_INFERENCE)),
        ("backward is linear in the error", backward_is_linear, same(_NOT_LINEAR)),
        ("a zero error gives zeros", zero_gives_zeros, equal(_NOT_ZERO)),
        ("backward is pure", backward_is_pure, repeated(tolerance, _IMPURE)),
        ("keeps the dtype", partial(keeps_dtypes, within=within), by_shape),
        *_of_dtypes(within, careful=False),
        ("runs under vmap", runs_under_vmap, same(_VMAP)),
        ("runs inside serial", in_serial, same(_INSIDE)),
        ("runs inside repeat", in_repeat, same(_INSIDE)),
        ("takes a batch of one", takes_one_example, same(_ONE)),
        ("examples are independent", examples_are_independent, _of_examples(tolerance)),
        *((f"reading {r}", partial(reading_is_automatic, read=r), same(_READING)) for r in READINGS),
        ("curve gives the error", curve_gives_error, same(_CURVE_ERROR)),
        ("one pass is the exact diagonal", one_pass_is_diagonal, same(_ONE_PASS)),
        ("curve at the params equals jax.hessian", curve_at_params, same(_CURVE)),
        ("curve at x equals jax.hessian", curve_at_x, same(_CURVE)),
    ]
    return [
        Question(FORWARD, forward_runs, by_shape, INIT),
        *(Question(name, measure, judge, FORWARD) for name, measure, judge in of_forward),
        Question(BACKWARD, backward_runs, by_shape, FORWARD),
        *(Question(name, measure, judge, BACKWARD) for name, measure, judge in of_backward),
    ]


def _of_dtypes(within: Any, careful: bool) -> list[tuple[str, Any, Judge]]:
    """The layer by its numbers in each of the dtypes one trains in."""
    judged = [(d, close_to_float64(d, within)) for d in DTYPES]
    return [(f"right in {d}", partial(in_dtype, dtype=d, careful=careful), judge) for d, judge in judged]


_IMPURE_INIT = "init may use the key and the shape and dtype of x only: no counter, no other random numbers, no values"

_APPLY = "a layer of one mode applies what it trains: apply must be forward's y; for two modes, fill in `modes`"

_IMPURE = "the same arguments gave something else: look for a counter, a random draw without the key, a changed global"

_NAN = "entries are NaN or infinite for a finite x: look for 0/0, log 0, and overflow of exp"

_WRONG_ERROR = "∂L/∂x must be the error times the layer's slopes: look for a missing transpose, a lost slope or path"

_WRONG_GRADIENT = "∂L/∂w must be summed over the examples: look at a mean for a sum, a sign, a lost slope"

_WRONG_INFERENCE = (
    "of the layer's modes the applied one is a layer with a backward pass of its own: it must be right too"
)

_NOT_LINEAR = "backward must multiply the error and nothing else: look for a clip, a sign, an added constant"

_NOT_ZERO = "look for what backward adds to the error's own products, or for 0 times infinity"

_VMAP = "a copy under vmap must compute what it does alone: look for axes counted from the front, or flattened"

_INSIDE = "the layer's error or its tape does not fit what stands around it; see the laws above first"

_ONE = "look for squeezed axes and statistics over the batch"

_READING = "read each parameter by read.outer(x, error) or read.rows(contributions [n, …]), one term an example"

_CURVE = "Jᵀ c J + Σ_k ε_k ∇²f_k: look for a lost σ'', a slope not squared, a matrix c taken for its diagonal"

_ONE_PASS = "of a diagonal c, [n, o], curve must make the diagonal of what it makes of the matrices diag(c), [n, o, o]"

_CURVE_ERROR = "curve is backward with more beside it: its error must be that of backward"


def _of_modes(tolerance: float) -> Judge:
    """Training and inference of a layer that draws or remembers may differ, which is no more than information."""

    def judge(found: Measured) -> tuple[str, str]:
        may_differ = found.pop("may differ")
        verdict, finding = close(tolerance, _APPLY)(found)
        if verdict == BROKEN and may_differ:
            return HOLDS, f"{finding.partition(':')[0]}: two modes, for the layer draws from the key or has a state"
        return verdict, finding

    return judge


def _of_examples(tolerance: float) -> Judge:
    """A layer may couple the examples, but then it must refuse to read single ones."""

    def judge(found: Measured) -> tuple[str, str]:
        refuses = found.pop("refuses")
        verdict, finding = close(tolerance, "coupled")(found)
        finding = f"among copies of itself, {finding}"
        if verdict == HOLDS or refuses:
            return HOLDS, finding + (", and readings of single examples are refused" if verdict == BROKEN else "")
        return BROKEN, f"{finding}, so backward must raise ValueError for a reading that is not linear"

    return judge


def _of_layer(layer: Any, x: Any, params: Any, state: Any, tolerance: Any) -> None:
    """A layer, two finite examples or more, params of floats, and those wherever there is a state."""
    checks.is_layer("check_layer", layer)
    checks.features("check_layer", x)
    checks.not_negative("tolerance", tolerance)
    if x.shape[0] < 2:
        raise ValueError(
            f"check_layer needs at least 2 examples, to tell whether the layer couples them, got x of shape {x.shape}"
        )
    known = checks.concrete(x)
    if known is None:
        raise TypeError("check_layer compiles programs of its own and gives words: call it outside jit and vmap")
    if not np.isfinite(known.astype(np.float64)).all():
        raise ValueError("check_layer needs a finite x, got NaN or infinity; what the layer makes of it is its own")
    if params is not None:
        checks.floats("check_layer", "params", params)
    if params is None and state is not None:
        raise ValueError("check_layer got a state without params; give both, or params alone, or neither")
