"""Weights in several places: every reading is of the sum of the contributions, not a sum of readings."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Layer,
    backprop,
    batch_norm,
    columns,
    dense,
    dropout,
    gram,
    linear,
    per_example,
    repeat,
    second_derivatives,
    second_moment,
    serial,
    sgd,
    squared,
    squared_norm,
    tanh,
    tied,
    train,
    trainer,
    variance,
    watch,
)
from fnn.core import contributions, gathered
from fnn.derivatives import ggn_diagonal, reference
from fnn.nn import drop_records
from fnn.training import gradient_norm, saturated
from tests.nn.laws import check_laws, each_case_of
from tests.problems import Case, given, normal

D = dense(4, tanh)
THRICE = tied(serial(D, D, D), {1: 0, 2: 0})


@each_case_of("tying")
def test_tied_layers_keep_their_laws(case: Case) -> None:
    check_laws(case)


def examples(width: int, targets: int) -> Any:
    x = normal(jnp.zeros((6, width)), 1)
    return x, normal(jnp.zeros((6, targets)), 2)


def test_one_neuron_used_twice_by_hand() -> None:
    """y = w² x with L = (y − t)²/2: g = 2wx(y − t) and L'' = 4w²x² + 2x(y − t)."""
    neuron = linear(1, bias=False)
    net = tied(serial(neuron, neuron), {1: 0})
    w, x, t = 0.5, np.array([[1.0], [2.0]]), np.array([[1.0], [-1.0]])
    params, arguments = (
        ({"w": jnp.array([[w]])}, {"w": ()}),
        (((), ()), (jnp.asarray(x), jnp.asarray(t)), jax.random.key(0)),
    )
    y = w * w * x
    g = (2 * w * x * (y - t))[:, 0]
    for read, want in ((squared_norm, g**2), (per_example, g[:, None, None]), (second_moment, [[np.mean(g**2)]])):
        np.testing.assert_allclose(backprop(net, squared, read)(params, *arguments)[1][0]["w"], want, rtol=1e-14)
    bent = second_derivatives(net, squared)(params, *arguments)[1][0]["w"]
    np.testing.assert_allclose(bent, [[np.mean(4 * w * w * x * x + 2 * x * (y - t))]], rtol=1e-14)


@pytest.mark.parametrize("read", [squared_norm, gram, second_moment, variance], ids=str)
def test_readings_are_those_of_the_examples_whole_gradients(read: Any) -> None:
    arguments = given(THRICE, 4)
    params, state, _, key = arguments
    _, rows = backprop(THRICE, squared, per_example)(params, state, examples(4, 4), key)
    _, found = backprop(THRICE, squared, read)(params, state, examples(4, 4), key)
    g = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(6, -1), rows)
    want = {
        squared_norm: lambda g: (g**2).sum(1),
        gram: lambda g: g @ g.T,
        second_moment: lambda g: (g**2).mean(0),
        variance: lambda g: g.var(0),
    }[read]
    for name in ("w", "b"):
        np.testing.assert_allclose(np.ravel(found[0][name]), np.ravel(want(g[0][name])), rtol=1e-11, atol=1e-15)
    kept = backprop(THRICE, squared, contributions)(params, state, examples(4, 4), key)[1]
    chex.assert_trees_all_close(gathered(squared_norm, kept), jax.tree.map(lambda g: (g**2).sum(1), g), rtol=1e-11)


def test_tied_is_the_network_with_equal_weights_and_its_gradient_their_sum() -> None:
    net = serial(D, D, D)
    params, state, _, key = given(THRICE, 4)
    batch = examples(4, 4)
    (value, _), g = backprop(THRICE, squared)(params, state, batch, key)
    (want, _), of_each = backprop(net, squared)((params[0],) * 3, state, batch, key)
    np.testing.assert_allclose(value, want)
    chex.assert_trees_all_close(g[0], jax.tree.map(lambda *leaves: sum(leaves), *of_each), rtol=1e-12)
    assert g[1:] == params[1:] == ({"b": (), "w": ()},) * 2


def test_gauss_newton_of_tied_weights() -> None:
    params, state, _, key = given(THRICE, 4)
    arguments = params, state, examples(4, 4), key
    found, want = (of(THRICE, squared)(*arguments)[1] for of in (ggn_diagonal, reference.ggn_diagonal))
    chex.assert_trees_all_close(found, want, rtol=1e-10)


@pytest.mark.parametrize(
    "net",
    [THRICE, tied(serial(D, dropout(0.3), D), {(2, "w"): (0, "w")}), repeat(tied(serial(D, D), {1: 0}), 2)],
    ids=str,
)
def test_a_watched_network_has_the_same_readings_and_records_every_use(net: Layer) -> None:
    params, state, _, key = given(net, 4)
    arguments = params, state, examples(4, 4), key
    for read in (squared_norm, per_example):
        plain, seen = (backprop(f, squared, read)(*arguments)[1] for f in (net, watch(net)))
        chex.assert_trees_all_equal(drop_records(seen), plain)
    plain, seen = (second_derivatives(f, squared)(*arguments)[1] for f in (net, watch(net)))
    chex.assert_trees_all_close(drop_records(seen), plain, rtol=1e-12)


def test_every_place_has_its_own_state() -> None:
    part = serial(linear(3), batch_norm())
    net = tied(columns((2, part), (2, part)), {1: 0})
    params, state, x, key = given(net, 4)
    _, after, _ = net.forward(params, state, x, key)
    assert params[1] == ({"b": (), "w": ()}, {"beta": (), "gamma": ()})
    left, right = (jax.tree.leaves(s) for s in after)
    assert any(bool(jnp.any(a != b)) for a, b in zip(left, right, strict=True))


def test_it_trains_with_metrics_of_layers() -> None:
    data = examples(4, 4)
    learn = trainer(THRICE, squared, sgd(0.1), batch_size=3, metrics=[gradient_norm, saturated()])
    first = learn.init(jax.random.key(0), data)
    _, metrics = train(learn, first, data, 50, every=10)
    assert float(metrics["loss"][-1]) < float(metrics["loss"][0])
    plain = trainer(serial(D, D, D), squared, sgd(0.1), batch_size=3, metrics=[saturated()])
    same = plain.init(jax.random.key(0), data)._replace(params=(first.params[0],) * 3, key=first.key)
    want = train(plain, same, data, 1)[1]["saturated"]
    assert train(learn, first, data, 1)[1]["saturated"] == want  # of each place
    assert list(metrics["gradient_norm"]) == ["0 dense(4, tanh)"]


@pytest.mark.parametrize(
    ("net", "places", "words"),
    [
        (serial(D, D, D), {1: 0, 2: 1}, r"sources with weights of their own, got 1, which is tied itself"),
        (serial(D, D), {0: 0}, "tied itself"),
        (serial(D, D), {(0, "w"): 0}, "overlaps a tied place"),
        (serial(D, linear(3)), {1: 0}, r"the same weights at 1 as at its source 0, got .*\[4, 3\].* and .*\[4, 4\]"),
        (serial(D, D), {5: 0}, "has no part"),
        (serial(D, serial()), {1: 0}, "the same weights at 1"),
    ],
)
def test_ties_that_cannot_be_are_refused(net: Layer, places: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tied(net, places).init(jax.random.key(0), jnp.ones((2, 4)))


@pytest.mark.parametrize("places", [{}, [(1, 0)], {-1: 0}, {1: True}, {(): 0}])
def test_places_are_a_dict_of_parts(places: Any) -> None:
    with pytest.raises(TypeError, match="tied: expected"):
        tied(serial(D, D), places)
