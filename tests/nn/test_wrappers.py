"""A shortcut around a layer, and a layer that runs again instead of remembering."""

import chex
import jax
import jax.numpy as jnp
import pytest

from fnn import (
    Layer,
    backprop,
    dense,
    gradient,
    linear,
    remat,
    repeat,
    residual,
    serial,
    sigmoid,
    squared,
    tanh,
)
from tests.checkers import check_same, everything
from tests.nn.kinds import keeping_width, of_each_kind
from tests.nn.laws import check_laws, each_case_of, one_pass_and_exact
from tests.problems import Case, given, normal


@each_case_of("wrappers")
def test_wrappers_keep_their_laws(case: Case) -> None:
    check_laws(case)


# residual


def test_one_pass_through_a_residual_layer_makes_its_own_diagonal() -> None:
    """The diagonal of (I + J)ᵀ c (I + J), with the crossing term 2 c_i J_ii."""
    check_laws(Case(residual(dense(4, tanh)), 4), laws=one_pass_and_exact)


@keeping_width
def test_residual_adds_its_input_and_its_error(layer: Layer) -> None:
    params, state, x, key = given(layer, 4)
    inner, outer = everything(layer, params, state, x, key), everything(residual(layer), params, state, x, key)
    error = outer.error - inner.error
    want = inner._replace(applied=x + inner.applied, y=x + inner.y, error=inner.error + error)
    chex.assert_trees_all_close(error, normal(inner.y, 11), atol=1e-14)  # the cotangent of `everything`
    check_same(outer, want)


def test_one_pass_through_a_projected_shortcut_makes_its_own_diagonal() -> None:
    check_laws(Case(residual(dense(4, tanh), dense(4, sigmoid)), 3), laws=one_pass_and_exact)


def test_residual_with_the_identity_as_projection_is_residual() -> None:
    layer = dense(4, tanh)
    params, state, x, key = given(layer, 4)
    plain = everything(residual(layer), params, state, x, key)
    projected = everything(residual(layer, serial()), (params, ()), (state, ()), x, key)
    chex.assert_trees_all_close((projected.y, projected.error), (plain.y, plain.error), rtol=1e-13)


def test_a_projection_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"projection=linear\(2\)\): expected two outputs of the same shape"):
        residual(dense(4, tanh), linear(2)).init(jax.random.key(0), jnp.ones((1, 3)))


# remat


@of_each_kind
def test_remat_is_the_layer(case: Case) -> None:
    arguments = given(case.layer, case.inputs)
    check_same(everything(remat(case.layer), *arguments), everything(case.layer, *arguments))


def temporary_bytes(net: Layer, inputs: int, n: int) -> int:
    x = jax.ShapeDtypeStruct((n, inputs), jnp.float64)
    key = jax.random.key(0)
    params, state = jax.eval_shape(net.init, key, x)
    compiled = jax.jit(backprop(net, squared)).lower(params, state, (x, x), key).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_remat_saves_memory() -> None:
    block = serial(*[dense(32, tanh)] * 4)
    stored, run_again = (temporary_bytes(repeat(layer, 16), 32, n=4096) for layer in (block, remat(block)))
    # Of four layers, each of which keeps x and z, one x stays: an eighth. Half is a bound with room for buffers.
    assert run_again < stored / 2


def test_remat_keeps_only_its_arguments_and_runs_forward_again_when_the_error_is_there() -> None:
    block = serial(*[dense(4, tanh)] * 3)
    params, state, x, key = given(remat(block), 4)
    y, _, tape = remat(block).forward(params, state, x, key)
    chex.assert_trees_all_equal(tuple(tape), (state, x, key))
    program = jax.jit(lambda t, e: remat(block).backward(params, t, e, gradient)).lower(tape, y).as_text()
    assert program.count("exponential") >= 3  # the slopes of all three layers, at S that are computed anew
    assert program.count("tanh") >= 2  # and the values of all but the last
    assert "optimization_barrier" in program
