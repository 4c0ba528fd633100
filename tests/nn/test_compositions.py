"""Layers one after another and side by side, each law an equation between layers."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Layer,
    activate,
    batch_norm,
    branches,
    columns,
    dense,
    dropout,
    gradient,
    linear,
    remat,
    residual,
    serial,
    softplus,
    tanh,
)
from tests.checkers import check_same, everything
from tests.nn.kinds import of_each_kind
from tests.nn.laws import check_laws, each_case_of, one_pass_and_exact
from tests.problems import Case, given, normal


@each_case_of("compositions")
def test_compositions_keep_their_laws(case: Case) -> None:
    check_laws(case)


# serial


def test_serial_of_nothing_is_the_identity(key: jax.Array) -> None:
    x = normal(jnp.ones((3, 4)), 1)
    params, state = serial().init(key, x)
    got = everything(serial(), params, state, x, key)
    error = everything(activate(fnn.identity), (), (), x, key).error
    chex.assert_trees_all_equal((params, state, got.applied, got.y, got.error), ((), (), x, x, error))


@of_each_kind
def test_serial_of_one_is_the_layer(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs)
    composite = everything(serial(case.layer), (params,), (state,), x, key)
    check_same(composite, everything(case.layer, params, state, x, jax.random.fold_in(key, 0)))


def test_serial_is_associative() -> None:
    # The keys of parts depend on the nesting, so the law is for layers that draw nothing.
    f, g, h = dense(5, tanh), serial(linear(3), batch_norm()), dense(2, softplus)
    params, state, x, key = given(serial(f, g, h), 4)
    flat = everything(serial(f, g, h), params, state, x, key)
    (p, q, r), (s, t, u) = params, state
    check_same(everything(serial(serial(f, g), h), ((p, q), r), ((s, t), u), x, key), flat)
    check_same(everything(serial(f, serial(g, h)), (p, (q, r)), (s, (t, u)), x, key), flat)
    check_same(everything(serial(f, serial(), g, h), (p, (), q, r), (s, (), t, u), x, key), flat)


def test_backward_of_serial_is_its_parts_backwards_in_reverse(key: jax.Array) -> None:
    f, g, h = dense(5, tanh), dropout(0.5), linear(3)
    params, state, x, _ = given(serial(f, g, h), 4)
    y, _, (t_f, t_g, t_h) = serial(f, g, h).forward(params, state, x, key)
    error = normal(y, 1)
    got = serial(f, g, h).backward(params, (t_f, t_g, t_h), error, gradient)
    at_g, of_h = h.backward(params[2], t_h, error, gradient)
    at_f, of_g = g.backward(params[1], t_g, at_g, gradient)
    at_x, of_f = f.backward(params[0], t_f, at_f, gradient)
    chex.assert_trees_all_equal(got, (at_x, (of_f, of_g, of_h)))


def test_parts_run_in_order_forward_and_in_reverse_backward(key: jax.Array) -> None:
    seen = []

    def logged(name: str) -> Layer:
        layer = activate(tanh)

        def forward(*arguments):
            seen.append(f"forward {name}")
            return layer.forward(*arguments)

        def backward(*arguments):
            seen.append(f"backward {name}")
            return layer.backward(*arguments)

        return layer._replace(forward=forward, backward=backward)

    net, x = serial(logged("a"), residual(logged("b")), remat(logged("c")), serial(logged("d"))), jnp.ones((2, 1))
    everything(net, ((),) * 3 + (((),),), ((),) * 3 + (((),),), x, key)
    forward = [f"forward {name}" for name in "abcd"]
    assert seen == [*forward, "backward d", "forward c", "backward c", "backward b", "backward a"]


# columns


@of_each_kind
def test_columns_of_one_is_the_layer(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs)
    composite = everything(columns((case.inputs, case.layer)), (params,), (state,), x, key)
    check_same(composite, everything(case.layer, params, state, x, jax.random.fold_in(key, 0)))


def test_columns_are_their_parts_on_slices(key: jax.Array) -> None:
    f, g = dense(5, tanh), serial(dropout(0.5), linear(2))
    layer = columns((3, f), (1, g))
    params, state, x, _ = given(layer, 4)
    y, _, tape = layer.forward(params, state, x, key)
    error = normal(y, 1)
    through, readings = layer.backward(params, tape, error, gradient)
    for i, (part, ins, outs) in enumerate([(f, slice(0, 3), slice(0, 5)), (g, slice(3, 4), slice(5, 7))]):
        y_i, _, tape_i = part.forward(params[i], state[i], x[:, ins], jax.random.fold_in(key, i))
        through_i, readings_i = part.backward(params[i], tape_i, error[:, outs], gradient)
        got = y[:, outs], through[:, ins], readings[i]
        chex.assert_trees_all_equal(got, (y_i, through_i, readings_i))


@pytest.mark.parametrize("pair", [[2, linear(1)], linear(2), (2, linear(1), linear(1)), 2], ids=str)
def test_columns_take_pairs_only(pair: Any) -> None:
    with pytest.raises(TypeError, match=r"columns: expected pairs \(number of features, layer\), got"):
        columns((1, linear(1)), pair)


def test_one_pass_through_columns_makes_the_diagonal_of_each() -> None:
    check_laws(Case(columns((2, dense(3, fnn.tanh)), (3, dense(2, fnn.tanh))), 5), laws=one_pass_and_exact)


# branches


def test_one_pass_through_branches_makes_its_own_diagonal() -> None:
    check_laws(Case(branches(dense(4, tanh), linear(2), serial()), 3), laws=one_pass_and_exact)


def test_branches_join_what_each_layer_makes_of_the_same_input() -> None:
    """A DenseNet block, y = [x | f(x)], with ∂L/∂x = ε_1 + Jᵀ ε_2."""
    block = dense(2, tanh)
    params, state, x, key = given(block, 3)
    inner, outer = block.apply(params, state, x), branches(serial(), block)
    y, _, tape = outer.forward(((), params), ((), state), x, key)
    np.testing.assert_allclose(y, jnp.concatenate([x, inner], axis=1), rtol=1e-14)
    error = normal(y, 3)
    through, readings = outer.backward(((), params), tape, error, gradient)
    want, of_block = block.backward(params, block.forward(params, state, x, key)[2], error[:, 3:], gradient)
    np.testing.assert_allclose(through, error[:, :3] + want, rtol=1e-13)
    chex.assert_trees_all_close(readings, ((), of_block), rtol=1e-13)


def test_branches_need_layers() -> None:
    with pytest.raises(ValueError, match=r"branches: expected at least one layer, got none"):
        branches()
    with pytest.raises(TypeError, match="branches"):
        branches(linear(2), tanh)  # pyright: ignore[reportArgumentType]
