"""The checkers that judge layers: a hand-written backward pass against an automatic one, and laws between layers.

`test_tests_layers.py` shows that each of them fails on layers that are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn import Layer, Reading, gradient, per_example, second_moment, squared_norm
from fnn.nn import drop_records
from tests.problems import normal

TOLERANCE = {
    # Two orders of the same few dozen float64 operations: 1e-16 each, with three digits to spare for cancellation.
    "same gradient": 1e-12,
    # The same operations in the same order, once compiled alone and once within a larger program: a fused
    # multiplication and addition rounds once instead of twice.
    "same program": 1e-13,
    # One more derivative on top: one more digit is lost.
    "second derivative": 1e-11,
}

Cotangent = Callable[[Any], Any]


def random_cotangent(y: Any) -> Any:
    """Independent normal numbers. All ones would hide what is wrong: see test_tests_layers.py."""
    return normal(y, seed=11)


def norm(tree: Any) -> float:
    """The Euclidean norm of all the numbers of a tree."""
    return math.sqrt(sum(float(np.square(np.asarray(leaf, np.float64)).sum()) for leaf in jax.tree.leaves(tree)))


def relative_errors(got: Any, want: Any) -> dict[str, float]:
    """‖got − want‖/‖want‖ for each leaf, by its path.

    A leaf that is zero in exact arithmetic, such as the gradient of a bias ahead of a batch_norm, is rounding in both,
    and ‖want‖ no measure for it. So no leaf counts as less than a hundredth of the whole tree: the measure is
    max(‖want‖, ‖all of want‖/100). Where all of want is 0, got must be 0 too, else the error is infinite.
    """
    least = norm(want) / 100

    def error(u: Any, v: Any) -> float:
        difference, measure = norm(np.asarray(u, np.float64) - np.asarray(v, np.float64)), max(norm(v), least)
        return difference / measure if measure else (0.0 if difference == 0 else float("inf"))

    paths = [jax.tree_util.keystr(path) or "." for path, _ in jax.tree.leaves_with_path(want)]
    return dict(zip(paths, map(error, jax.tree.leaves(got), jax.tree.leaves(want)), strict=True))


def check_close(got: Any, want: Any, rtol: float = TOLERANCE["same gradient"]) -> None:
    """Two trees of one structure, the same shapes and dtypes, and no leaf with a relative error above rtol."""
    chex.assert_trees_all_equal_structs(got, want)
    chex.assert_trees_all_equal_shapes_and_dtypes(got, want)
    wrong = {path: error for path, error in relative_errors(got, want).items() if not error <= rtol}
    assert not wrong, f"relative errors above {rtol}: {wrong}"


def check_backward(
    layer: Layer,
    params: Any,
    state: Any,
    x: Any,
    key: Any,
    rtol: float = TOLERANCE["same gradient"],
    cotangent: Cotangent = random_cotangent,
) -> None:
    """The hand-written backward equals `jax.vjp` of the plain forward: the gradients and the error at the input."""

    @jax.jit  # one program compiles in half the time that its operations take one by one
    def both(params: Any, state: Any, x: Any, key: Any) -> tuple[Any, Any]:
        y, pull = jax.vjp(lambda p, x: layer.forward(p, state, x, key)[0], params, x)
        _, _, tape = layer.forward(params, state, x, key)
        error, readings = layer.backward(params, tape, cotangent(y), gradient)
        want_readings, want_error = pull(cotangent(y))
        return {"params": drop_records(readings), "x": error}, {"params": want_readings, "x": want_error}

    got, want = both(params, state, x, key)
    check_close(got, want, rtol)


def per_example_gradients(layer: Layer, params: Any, state: Any, x: Any, key: Any) -> Any:
    """Every example's own gradient, automatic: pull back the errors of one example at a time, [n, …] at each leaf."""
    y, pull = jax.vjp(lambda p: layer.forward(p, state, x, key)[0], params)
    alone = jnp.eye(x.shape[0], dtype=y.dtype)[:, :, None] * random_cotangent(y)[None]
    return jax.vmap(lambda error: pull(error)[0])(alone)


def squares(leaf: Any) -> Any:
    """Σ over all but the first axis of squares."""
    return jnp.sum(jnp.square(leaf), axis=tuple(range(1, leaf.ndim)))


READINGS: dict[Reading, Callable[[Any], Any]] = {
    gradient: lambda g: jnp.sum(g, axis=0),
    per_example: lambda g: g,
    squared_norm: squares,
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
    def both(params: Any, state: Any, x: Any, key: Any) -> tuple[Any, Any]:
        each = per_example_gradients(layer, params, state, x, key)
        y, _, tape = layer.forward(params, state, x, key)
        got = {str(read): layer.backward(params, tape, random_cotangent(y), read)[1] for read in readings}
        return drop_records(got), {str(read): jax.tree.map(meant, each) for read, meant in readings.items()}

    got, want = both(params, state, x, key)
    for name, reading in got.items():
        check_close(reading, want[name])


def quadratic(layer: Layer, params: Any, state: Any, x: Any, key: Any) -> tuple[Any, Any, Any]:
    """A loss [n] of each example apart, with a random error e and a random curvature c at the output: e·y + ½ dᵀcd."""
    y, _, _ = layer.forward(params, state, x, key)
    error, c = random_cotangent(y), normal(jnp.zeros((*y.shape, y.shape[1])), seed=12)
    c = c + jnp.swapaxes(c, 1, 2)

    def loss(params: Any, x: Any) -> Any:
        a = layer.forward(params, state, x, key)[0]
        d = a - y
        return jnp.sum(error * a, axis=1) + 0.5 * jnp.einsum("no,nop,np->n", d, c, d)

    return error, c, loss


def hessians(loss: Callable[[Any, Any], Any], params: Any, x: Any) -> tuple[Any, Any]:
    """Of a loss [n] the examples' automatic Hessians at x [n, i, i], and diagonals at the params, [n, …] a leaf."""
    flat, unravel = ravel_pytree(params)
    at_x = jax.hessian(lambda x: jnp.sum(loss(params, x)))(x)
    at_params = jnp.diagonal(jax.hessian(lambda p: loss(unravel(p), x))(flat), axis1=1, axis2=2)
    return jnp.einsum("ninj->nij", at_x), jax.vmap(unravel)(at_params)


def check_curve(
    layer: Layer,
    params: Any,
    state: Any,
    x: Any,
    key: Any,
    rtol: float = TOLERANCE["second derivative"],
) -> None:
    """The hand-written second derivatives of every example are those of `jax.hessian` of the plain forward."""

    @jax.jit
    def both(params: Any, state: Any, x: Any, key: Any) -> tuple[Any, Any]:
        error, c, loss = quadratic(layer, params, state, x, key)
        _, _, tape = layer.forward(params, state, x, key)
        assert layer.curve is not None
        through, below, readings = layer.curve(params, tape, error, c, per_example)
        slope = jax.grad(lambda x: jnp.sum(loss(params, x)))(x)
        return (through, below, drop_records(readings)), (slope, *hessians(loss, params, x))

    for got, want in zip(*both(params, state, x, key), strict=True):
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
