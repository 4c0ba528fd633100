"""Many copies of a layer: the layer written out as often, by a program that does not grow."""

import chex
import jax
import jax.numpy as jnp

from fnn import (
    Layer,
    backprop,
    columns,
    dense,
    grouped,
    repeat,
    residual,
    serial,
    squared,
    tanh,
)
from tests.checkers import check_same, everything
from tests.nn.kinds import keeping_width
from tests.nn.laws import check_laws, each_case_of
from tests.problems import Case, given


@each_case_of("copies")
def test_copies_keep_their_laws(case: Case) -> None:
    check_laws(case)


# grouped


@keeping_width
def test_parallel_is_columns_of_equal_width(layer: Layer) -> None:
    params, state, x, key = given(grouped(layer, 2), 8)
    p, st = (tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(2)) for tree in (params, state))
    columned = everything(columns((4, layer), (4, layer)), p, st, x, key)
    joined = lambda parts: jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)  # noqa: E731
    stacked = columned._replace(state=joined(columned.state), readings=joined(columned.readings))
    check_same(everything(grouped(layer, 2), params, state, x, key), stacked)


# repeat


@keeping_width
def test_repeat_once_is_the_layer_up_to_the_stacked_axis(layer: Layer) -> None:
    params, state, x, key = given(layer, 4)
    stack = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)  # noqa: E731
    once = everything(repeat(layer, 1), stack(params), stack(state), x, key)
    layer_alone = everything(layer, params, state, x, jax.random.fold_in(key, 0))
    want = layer_alone._replace(state=stack(layer_alone.state), readings=stack(layer_alone.readings))
    check_same(once, want)


@keeping_width
def test_repeat_is_serial_of_the_unstacked_params(layer: Layer, key: jax.Array) -> None:
    depth = 3
    params, state, x, _ = given(repeat(layer, depth), 4)
    unstack = lambda tree: tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(depth))  # noqa: E731
    scanned = everything(repeat(layer, depth), params, state, x, key)
    written = everything(serial(*[layer] * depth), unstack(params), unstack(state), x, key)
    check_same(scanned._replace(state=unstack(scanned.state), readings=unstack(scanned.readings)), written)


@keeping_width
def test_repeat_draws_the_params_that_serial_draws(layer: Layer, key: jax.Array) -> None:
    like = jax.ShapeDtypeStruct((2, 4), jnp.float64)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *serial(layer, layer, layer).init(key, like)[0])
    chex.assert_trees_all_close(repeat(layer, 3).init(key, like)[0], stacked, rtol=1e-14)


def lines_of_the_gradients_program(net: Layer) -> int:
    like = jax.ShapeDtypeStruct((3, 4), jnp.float64)
    key = jax.random.key(0)
    params, state = jax.eval_shape(net.init, key, like)
    program = jax.jit(backprop(net, squared)).lower(params, state, (like, like), key)
    return len(program.as_text().splitlines())


def test_program_of_repeat_does_not_grow_with_depth() -> None:
    shallow, deep = (lines_of_the_gradients_program(repeat(residual(dense(4, tanh)), depth)) for depth in (2, 200))
    assert deep == shallow
    of_serial = [lines_of_the_gradients_program(serial(*[residual(dense(4, tanh))] * depth)) for depth in (2, 20)]
    assert of_serial[1] > 2 * of_serial[0]
