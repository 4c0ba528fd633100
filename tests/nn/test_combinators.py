"""The laws of composition, each as an equation between layers."""

import chex
import jax
import jax.numpy as jnp
import pytest

import fnn
from fnn import (
    Layer,
    activate,
    backprop,
    batch_norm,
    columns,
    dense,
    dropout,
    gradient,
    grouped,
    inverted_dropout,
    linear,
    prelu,
    remat,
    repeat,
    residual,
    serial,
    softplus,
    squared,
    tanh,
    watch,
)
from tests.checkers import check_backward, check_close, check_same, everything
from tests.problems import COMBINATORS, EVERY_LAYER, Case, couples, given, normal, scaled_sine

OF_EACH_KIND = [
    "dense relu",
    "prelu",
    "inverted_dropout",
    "batch_norm",
    "from_function",
    "serial",
    "columns, nested",
    "residual",
    "repeat of dropout",
    "remat",
]
of_each_kind = pytest.mark.parametrize("case", [EVERY_LAYER[name] for name in OF_EACH_KIND], ids=OF_EACH_KIND)

KEEP_WIDTH: dict[str, Layer] = {
    "dense": dense(4, tanh),
    "dropout": serial(dense(5, tanh), dropout(0.4), linear(4)),
    "batch_norm": serial(linear(4), batch_norm(), prelu()),
    "residual": residual(inverted_dropout(0.4)),
    "columns": columns((1, linear(3)), (3, dense(1, softplus))),
    "from_function": scaled_sine(),
}
keeping_width = pytest.mark.parametrize("layer", KEEP_WIDTH.values(), ids=KEEP_WIDTH.keys())


@pytest.mark.parametrize("case", COMBINATORS.values(), ids=COMBINATORS.keys())
def test_backward_is_the_vjp_of_forward(case: Case) -> None:
    check_backward(case.layer, *given(case.layer, case.inputs))


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


# grouped


@keeping_width
def test_parallel_is_columns_of_equal_width(layer: Layer) -> None:
    params, state, x, key = given(grouped(layer, 2), 8)
    p, st = (tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(2)) for tree in (params, state))
    columned = everything(columns((4, layer), (4, layer)), p, st, x, key)
    joined = lambda parts: jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)  # noqa: E731
    stacked = columned._replace(state=joined(columned.state), readings=joined(columned.readings))
    check_same(everything(grouped(layer, 2), params, state, x, key), stacked)


# residual


@keeping_width
def test_residual_adds_its_input_and_its_error(layer: Layer) -> None:
    params, state, x, key = given(layer, 4)
    inner, outer = everything(layer, params, state, x, key), everything(residual(layer), params, state, x, key)
    error = outer.error - inner.error
    want = inner._replace(applied=x + inner.applied, y=x + inner.y, error=inner.error + error)
    chex.assert_trees_all_close(error, normal(inner.y, 11), atol=1e-14)  # the cotangent of `everything`
    check_same(outer, want)


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


# watch


@of_each_kind
def test_watch_is_the_layer(case: Case) -> None:
    arguments = given(case.layer, case.inputs)
    check_same(everything(watch(case.layer), *arguments), everything(case.layer, *arguments))


# Labels

LABELS = [
    "serial()",
    "serial(dense(64, tanh), dropout(0.5), linear(10))",
    "serial(linear(6), columns((2, activate(tanh)), (4, activate(relu))), batch_norm(epsilon=0.001), linear(3))",
    "repeat(remat(residual(serial(dense(8, leaky_relu(0.1)), linear(4)))), 20)",
    "serial(prelu(), prelu(alpha=0.1), inverted_dropout(0.2), batch_norm(), batch_norm(rate=0.5))",
    "columns((1, columns((1, linear(2)))), (3, serial()))",
    "serial(dense(3, softplus, w=he(), b=constant(0.1)), linear(2, w=orthogonal()))",
]


@pytest.mark.parametrize("label", LABELS)
def test_a_layer_prints_as_it_is_written(label: str) -> None:
    layer = eval(label, dict(vars(fnn)))
    assert str(layer) == repr(layer) == label


def test_a_watched_network_prints_its_watched_parts() -> None:
    assert str(watch(serial(linear(1), prelu()))) == "serial(watch(linear(1)), watch(prelu()))"


# All of them under transformations


@pytest.mark.parametrize("name", ["dropout", "batch_norm", "columns", "repeat of dropout", "remat of from_function"])
def test_row_of_a_vmap_is_the_single_run(name: str, key: jax.Array) -> None:
    layer, inputs = EVERY_LAYER[name]
    seeds = [given(layer, inputs, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)

    def both_ways(params, state, x, key):
        y, new_state, tape = layer.forward(params, state, x, key)
        return y, new_state, layer.backward(params, tape, jnp.sin(y), gradient)

    rows = jax.jit(jax.vmap(both_ways))(*stacked)
    check_close(jax.tree.map(lambda leaf: leaf[1], rows), both_ways(*seeds[1]))


def test_couples_knows_batch_norm() -> None:
    assert couples(KEEP_WIDTH["batch_norm"])
    assert not couples(KEEP_WIDTH["dense"])
