"""The judge of `fnn.testing` for tests: a layer's passes on given numbers, and two layers that compute the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from fnn import Layer, Reading, gradient
from fnn.nn import drop_records
from fnn.testing import _judges
from fnn.testing._asking import Broken, alike
from fnn.testing._subject import Subject
from fnn.testing._trees import norm_of_all, normal

TOLERANCE = {
    # Two orders of the same few dozen float64 operations: 1e-16 each, with three digits to spare for cancellation.
    "same gradient": 1e-12,
    # The same operations in the same order, once compiled alone and once within a larger program: a fused
    # multiplication and addition rounds once instead of twice.
    "same program": 1e-13,
    # One more derivative on top: one more digit is lost.
    "second derivative": 1e-11,
}


def random_cotangent(y: Any) -> Any:
    """Independent normal numbers. All ones would hide some faults: see `test_why_the_error_at_y_is_random`."""
    return normal(y, seed=11)


def norm(tree: Any) -> float:
    """The Euclidean norm of all the numbers of a tree."""
    return norm_of_all(jax.tree.leaves(tree))


def relative_errors(got: Any, want: Any) -> dict[str, float]:
    """‖got − want‖/‖want‖ for each leaf, by its path; no leaf counts as less than a hundredth of the whole tree."""
    return {path or ".": error for path, error in _judges.relative_errors({"": (got, want)}, least=1e-2).items()}


def check_close(got: Any, want: Any, rtol: float = TOLERANCE["same gradient"]) -> None:
    """Two trees of one structure, the same shapes and dtypes, and no leaf with a relative error above rtol."""
    try:
        alike(got, want, "tree")
    except Broken as finding:
        raise AssertionError(str(finding)) from finding
    wrong = {path: error for path, error in relative_errors(got, want).items() if not error <= rtol}
    assert not wrong, f"relative errors above {rtol}: {wrong}"


def check_backward(
    layer: Layer, params: Any, state: Any, x: Any, key: Any, rtol: float = TOLERANCE["same gradient"]
) -> None:
    """The hand-written backward equals `jax.vjp` of the plain forward: the error at the input and the gradients."""

    @jax.jit  # one program compiles in half the time that its operations take one by one
    def both(*given: Any) -> tuple[Any, Any]:
        s = Subject(layer, *given)
        error = random_cotangent(s.forward[0])
        return s.pulled(error), s.pulled_by_jax(error)

    got, want = both(params, state, x, key)
    check_close(got, want, rtol)


class Everything(NamedTuple):
    """All that a layer computes, for laws that say two layers are the same."""

    applied: Any
    y: Any
    state: Any
    error: Any
    readings: Any


def everything(layer: Layer, params: Any, state: Any, x: Any, key: Any, read: Reading = gradient) -> Everything:
    """Both modes and the backward pass of a random cotangent."""
    y, new_state, tape = layer.forward(params, state, x, key)
    error, readings = layer.backward(params, tape, random_cotangent(y), read)
    return Everything(layer.apply(params, state, x), y, new_state, error, drop_records(readings))


def check_same(one: Everything, other: Everything, rtol: float = TOLERANCE["same program"]) -> None:
    """Two layers compute the same. Nesting may differ where a law says so: the leaves are compared in their order."""
    for got, want in zip(one, other, strict=True):
        check_close(jax.tree.leaves(got), jax.tree.leaves(want), rtol)
