"""The judge of `fnn.testing` for tests: a layer's passes on given numbers, and two layers that compute the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import Layer, Reading, gradient, per_example, second_moment, squared_norm
from fnn.nn import drop_records
from fnn.testing import Laws, Outcome, _judges
from fnn.testing._asking import Broken, alike, ask
from fnn.testing._subject import Subject
from fnn.testing._surroundings import curve_at_params, curve_at_x, curve_gives_error
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


def check_curve(
    layer: Layer, params: Any, state: Any, x: Any, key: Any, rtol: float = TOLERANCE["second derivative"]
) -> None:
    """The hand-written second derivatives of every example are those of `jax.hessian` of the plain forward."""
    laws = [curve_gives_error, curve_at_x, *([curve_at_params] if jax.tree.leaves(params) else [])]
    found = ask(laws, partial(Subject, layer), params, state, x, key, tolerance=rtol)
    assert all(law.outcome is Outcome.HOLDS for law in found), f"relative errors above {rtol}: {Laws('', tuple(found))}"


READINGS: dict[Reading, Callable[[Any], Any]] = {
    gradient: lambda g: jnp.sum(g, axis=0),
    per_example: lambda g: g,
    squared_norm: lambda g: jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))),
    second_moment: lambda g: jnp.sum(jnp.square(g), axis=0),
}
"""What each reading is of per-example gradients g [n, …]."""


def check_readings(
    layer: Layer,
    params: Any,
    state: Any,
    x: Any,
    key: Any,
    readings: dict[Reading, Callable[[Any], Any]] = READINGS,
) -> None:
    """Each reading of one backward pass is what its name says of the examples' own automatic gradients."""

    @jax.jit
    def both(*given: Any) -> tuple[Any, Any]:
        s = Subject(layer, *given)
        error = random_cotangent(s.forward[0])
        alone = jnp.eye(x.shape[0], dtype=error.dtype)[:, :, None] * error[None]
        each = jax.vmap(lambda error: s.pulled_by_jax(error)[1])(alone)
        got = {str(read): s.pulled(error, read)[1] for read in readings}
        return got, {str(read): jax.tree.map(meant, each) for read, meant in readings.items()}

    got, want = both(params, state, x, key)
    for name, reading in got.items():
        check_close(reading, want[name])


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
