"""Networks looked into: what `watch` shows, and leaves as it was."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import fnn
from fnn import (
    Reading,
    activate,
    backprop,
    dense,
    gradient,
    linear,
    per_example,
    prelu,
    repeat,
    residual,
    second_moment,
    serial,
    softmax_cross_entropy,
    softplus,
    squared,
    squared_norm,
    tanh,
    watch,
)
from fnn.nn import LayerRecord, drop_records
from tests.checkers import check_close, check_same, everything
from tests.nn.kinds import of_each_kind
from tests.nn.laws import check_laws, each_case_of
from tests.problems import Case, Problem, given, posed


@each_case_of("surgery")
def test_watched_layers_keep_their_laws(case: Case) -> None:
    check_laws(case)


SMALL = Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2)


def test_unwatched_leaves_the_readings() -> None:
    given = posed(SMALL, 3)
    _, seen = backprop(watch(SMALL.net), SMALL.loss)(*given)
    _, plain = backprop(SMALL.net, SMALL.loss)(*given)
    check_close(drop_records(seen), plain)


# watch


@of_each_kind
def test_watch_is_the_layer(case: Case) -> None:
    arguments = given(case.layer, case.inputs)
    check_same(everything(watch(case.layer), *arguments), everything(case.layer, *arguments))


def test_a_watched_network_prints_its_watched_parts() -> None:
    assert str(watch(serial(linear(1), prelu()))) == "serial(watch(linear(1)), watch(prelu()))"


def is_pass(node) -> bool:
    return isinstance(node, LayerRecord)


@pytest.mark.parametrize("read", [gradient, per_example, squared_norm, second_moment], ids=str)
def test_watch_shows_the_readings_in_the_place_of_each_layer(read: Reading) -> None:
    net = serial(dense(3, tanh), repeat(residual(serial(linear(2), linear(3))), 2), prelu())
    both = jax.jit(lambda *arguments: [backprop(f, squared, read)(*arguments)[1] for f in (net, watch(net))])
    drop_records, watched = both(*posed(Problem(net, squared, 4, 3)))
    check_close(jax.tree.map(lambda p: p.readings, watched, is_leaf=is_pass), drop_records)
    first, (second, third), last = watched
    assert first.error.shape == (5, 3)
    assert (second.x.shape, second.y.shape, third.error.shape) == ((2, 5, 3), (2, 5, 2), (2, 5, 3))
    assert last.y.shape == last.error.shape == (5, 3)


def test_watch_shows_the_error_and_slope_that_a_nudge_of_each_output_has() -> None:
    net = serial(dense(5, tanh), dense(4, softplus), linear(2))
    params, state, (x, y), key = posed(Problem(net, squared, 3, 2))
    _, passes = backprop(watch(net), squared)(params, state, (x, y), key)

    def computed(nudges):
        """The same network written out, with something added to the output of each layer."""
        (p, q, r), (d_1, d_2, d_3) = params, nudges
        S_1 = x @ p["w"] + p["b"][None]
        x_1 = jnp.tanh(S_1) + d_1
        S_2 = x_1 @ q["w"] + q["b"][None]
        x_2 = jnp.logaddexp(S_2, jnp.zeros_like(S_2)) + d_2
        a = x_2 @ r["w"] + r["b"][None] + d_3
        return 0.5 * jnp.sum((a - y) ** 2) / x.shape[0], (S_1, S_2, [x, x_1, x_2], [x_1, x_2, a])

    nothing = [jnp.zeros((5, width)) for width in (5, 4, 2)]
    errors, (S_1, S_2, xs, ys) = jax.grad(computed, has_aux=True)(nothing)
    check_close([p.error for p in passes], errors)
    check_close([p.x for p in passes], xs)
    check_close([p.y for p in passes], ys)
    check_close(passes[0].tape.z, 1 - jnp.tanh(S_1) ** 2)
    check_close(passes[1].tape.z, 1 / (1 + jnp.exp(-S_2)))


def test_watch_sees_the_errors_of_the_reading() -> None:
    # A reading of single examples takes each example's own loss, which is n times its share of the mean.
    net = serial(linear(3), activate(tanh))
    arguments = posed(Problem(net, squared, 4, 3))
    errors = [backprop(watch(net), squared, read)(*arguments)[1][0].error for read in (gradient, per_example)]
    check_close(5 * errors[0], errors[1])


def test_layers_are_iterated_in_the_order_of_composition() -> None:
    net = fnn.serial(fnn.dense(4, fnn.tanh), fnn.residual(fnn.serial(fnn.prelu(), fnn.linear(4))), fnn.linear(1))
    assert [str(layer) for layer in fnn.nn.iter_layers(net)] == ["dense(4, tanh)", "prelu()", "linear(4)", "linear(1)"]
    assert [str(layer) for layer in fnn.nn.iter_layers(fnn.linear(1))] == ["linear(1)"]
