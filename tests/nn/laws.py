"""What every layer must keep, asked by one compiled program a layer, and the layers that belong to each module.

The judges are `jax.vjp` and `jax.hessian` of the layer's own forward pass: nothing of `fnn.testing` is asked here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

from fnn import Layer, Reading, gradient, inference_mode, per_example, second_moment, squared_norm
from fnn.nn import drop_records
from tests.checkers import TOLERANCE, check_close
from tests.problems import EVERY_LAYER, Case, Given, couples, given, normal

KINDS: dict[str, tuple[str, ...]] = {
    "neurons": ("linear", "dense"),
    "elementwise": ("activate", "prelu"),
    "dropouts": ("dropout", "inverted_dropout"),
    "normalization": ("batch_norm",),
    "functions": ("from_function",),
    "compositions": ("serial", "columns", "branches"),
    "gates": ("product",),
    "tying": ("tied",),
    "copies": ("repeat", "grouped"),
    "wrappers": ("residual", "remat"),
    "surgery": ("watch",),
    "every_layer": ("everything",),
}
"""The first words of the names of the cases in each module's test file."""

EXACT, SECOND = TOLERANCE["same gradient"], TOLERANCE["second derivative"]

Pairs = dict[str, tuple[Any, Any]]
"""What is computed by hand and by JAX, by the law."""


def cases_of(module: str) -> dict[str, Case]:
    """The layers of one module."""
    return {name: case for name, case in EVERY_LAYER.items() if name.replace(",", "").split()[0] in KINDS[module]}


def each_case_of(module: str) -> pytest.MarkDecorator:
    """A test for each layer of one module."""
    found = cases_of(module)
    return pytest.mark.parametrize("case", found.values(), ids=found.keys())


READINGS: dict[Reading, Any] = {
    gradient: lambda g: jnp.sum(g, axis=0),
    per_example: lambda g: g,
    squared_norm: lambda g: jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))),
    second_moment: lambda g: jnp.sum(jnp.square(g), axis=0),
}
"""What each reading is of the gradients g [n, …] of single examples."""


def backward_by_hand_and_by_jax(layer: Layer, at: Given) -> Pairs:
    """The error at x and the gradient of a random error, and of a combination of two."""
    params, state, x, key = at
    y, pull = jax.vjp(lambda p, x: layer.forward(p, state, x, key)[0], params, x)
    _, _, tape = layer.forward(params, state, x, key)
    one, other = normal(y, 11), normal(y, 12)

    def back(error: Any) -> tuple[Any, Any]:
        through, readings = layer.backward(params, tape, error, gradient)
        return drop_records(readings), through

    combined = jax.tree.map(lambda u, v: 2 * u - v, back(one), back(other))
    return {"vjp": (back(one), pull(one)), "linear in the error": (back(2 * one - other), combined)}


def readings_by_hand_and_by_jax(layer: Layer, at: Given, readings: dict[Reading, Any] = READINGS) -> Pairs:
    """Each reading against the automatic gradients of one example at a time."""
    params, state, x, key = at
    y, pull = jax.vjp(lambda p: layer.forward(p, state, x, key)[0], params)
    _, _, tape = layer.forward(params, state, x, key)
    error = normal(y, 11)
    alone = jnp.eye(x.shape[0], dtype=y.dtype)[:, :, None] * error[None]
    each = jax.vmap(lambda error: pull(error)[0])(alone)

    def read(reading: Reading) -> Any:
        return drop_records(layer.backward(params, tape, error, reading)[1])

    return {f"{r}": (read(r), jax.tree.map(meant, each)) for r, meant in readings.items()}


def curve_by_hand_and_by_jax(layer: Layer, at: Given) -> Pairs:
    """The second derivatives of every example under a loss e·y + ½dᵀcd with a random e and a full random c."""
    params, state, x, key = at
    y, _, tape = layer.forward(params, state, x, key)
    error, c = normal(y, 11), normal(jnp.zeros((*y.shape, y.shape[1])), 13)
    c = c + jnp.swapaxes(c, 1, 2)

    def loss(params: Any, x: Any) -> Any:
        a = layer.forward(params, state, x, key)[0]
        return jnp.sum(error * a, axis=1) + 0.5 * jnp.einsum("no,nop,np->n", a - y, c, a - y)

    flat, unravel = ravel_pytree(params)
    at_x = jnp.einsum("ninj->nij", jax.hessian(lambda x: jnp.sum(loss(params, x)))(x))
    at_params = jnp.diagonal(jax.hessian(lambda p: loss(unravel(p), x))(flat), axis1=1, axis2=2)
    assert layer.curve is not None
    through, below, readings = layer.curve(params, tape, error, c, per_example)
    slope = jax.grad(lambda x: jnp.sum(loss(params, x)))(x)
    return {
        "curve's error": (through, slope),
        "curve at x": (below, at_x),
        "curve at the params": (drop_records(readings), jax.vmap(unravel)(at_params)),
    }


def one_pass_and_exact(layer: Layer, at: Given) -> Pairs:
    """Of a diagonal c, one pass through one layer makes the diagonal of what the matrices make."""
    params, state, x, key = at
    y, _, tape = layer.forward(params, state, x, key)
    error, h = normal(y, 14), normal(y, 15)
    assert layer.curve is not None
    one_pass = layer.curve(params, tape, error, h, gradient)
    through, below, readings = layer.curve(params, tape, error, jax.vmap(jnp.diag)(h), gradient)
    return {"one pass": (one_pass, (through, jnp.diagonal(below, axis1=1, axis2=2), readings))}


def all_laws(layer: Layer, at: Given) -> Pairs:
    """All pairs of one layer; second derivatives and readings of a layer that couples are those of its inference."""
    apart = inference_mode(layer) if couples(layer) else layer
    pairs = backward_by_hand_and_by_jax(layer, at) | readings_by_hand_and_by_jax(apart, at)
    pairs |= curve_by_hand_and_by_jax(apart, at)
    return pairs if layer.with_children else pairs | one_pass_and_exact(apart, at)


def check_laws(case: Case, n: int = 7, laws: Callable[[Layer, Given], Pairs] = all_laws) -> None:
    """Every law of a layer, by one program, at parameters and examples drawn at random."""
    pairs = jax.jit(lambda *at: laws(case.layer, Given(*at)))(*given(case.layer, case.inputs, n))
    for law, (got, want) in pairs.items():
        try:
            check_close(got, want, SECOND if "curve" in law else EXACT)
        except AssertionError as error:
            raise AssertionError(f"{case.layer} breaks the law {law!r}: {error}") from error
