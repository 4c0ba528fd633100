"""Inference as a network of its own, and the networks that dropout averages."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Layer,
    batch_norm,
    dense,
    dropout,
    grouped,
    inference_mode,
    inverted_dropout,
    linear,
    remat,
    repeat,
    residual,
    serial,
    tanh,
)
from fnn.nn import monte_carlo, thinned_average
from tests.checkers import check_close
from tests.nn.laws import Pairs, backward_by_hand_and_by_jax, check_laws
from tests.problems import EVERY_LAYER, Given, given

TWO_MODES = [name for name, case in EVERY_LAYER.items() if str(inference_mode(case.layer)) != str(case.layer)]


def laws_of_inference(layer: Layer, at: Given) -> Pairs:
    """Trained in inference mode, a layer computes what it applies, remembers nothing, and has the vjp of that."""
    at = at._replace(state=jax.tree.map(lambda s: s + 0.5, at.state))  # estimates that are not those of no batch
    y, after, _ = inference_mode(layer).forward(*at)
    pairs = {"applied": (y, layer.apply(at.params, at.state, at.x)), "state": (after, at.state)}
    return pairs | backward_by_hand_and_by_jax(inference_mode(layer), at)


@pytest.mark.parametrize("name", TWO_MODES)
def test_a_network_in_inference_mode_trains_as_it_is_applied(name: str) -> None:
    check_laws(EVERY_LAYER[name], laws=laws_of_inference)


def test_what_drops_or_normalises_has_two_modes() -> None:
    words = ("dropout", "batch_norm")
    of_words = [name for name, case in EVERY_LAYER.items() if any(word in str(case.layer) for word in words)]
    assert TWO_MODES == of_words != []


def test_what_has_one_stage_is_left_as_it_is() -> None:
    net = serial(dense(4, tanh), residual(linear(4)))
    assert inference_mode(net).children[0] is net.children[0]
    assert str(inference_mode(net)) == str(net)


# The 2^N networks


def by_loops(net: Any, masked: list[int], p: list[float], weights: list[Any], x: Any) -> Any:
    """Σ P(ξ) a(x; ξ) of dense–dropout–dense–dropout–linear, NumPy, a mask at a time."""
    total = 0.0
    for bits in product((0, 1), repeat=sum(masked)):
        first, second = np.array(bits[: masked[0]]), np.array(bits[masked[0] :])
        probability = np.prod(np.where(first, 1 - p[0], p[0])) * np.prod(np.where(second, 1 - p[1], p[1]))
        hidden = np.tanh(x @ weights[0]["w"] + weights[0]["b"]) * first
        hidden = np.tanh(hidden @ weights[2]["w"] + weights[2]["b"]) * second / (1 - p[1])
        total = total + probability * (hidden @ weights[4]["w"] + weights[4]["b"])
    return total


def test_every_mask_counts_by_its_probability() -> None:
    net = serial(dense(3, tanh), dropout(0.3), dense(4, tanh), inverted_dropout(0.6), linear(2))
    params, state, x, _ = given(net, 4)
    got = thinned_average(net, params, state, x, batch_size=20)
    want = by_loops(net, [3, 4], [0.3, 0.6], jax.tree.map(np.asarray, params), np.asarray(x))
    check_close(got, jnp.asarray(want))
    assert float(jnp.max(jnp.abs(got - net.apply(params, state, x)))) > 1e-4, "two layers: the rule approximates"


@pytest.mark.parametrize("drop", [dropout, inverted_dropout])
def test_the_rule_is_exact_for_a_linear_output(drop: Any) -> None:
    net = serial(dense(7, tanh), batch_norm(), drop(0.3), linear(3))
    params, state, x, _ = given(net, 4)
    check_close(thinned_average(net, params, state, x), net.apply(params, state, x))


def test_the_rule_is_the_geometric_mean_for_softmax() -> None:
    net = serial(dense(6, tanh), dropout(0.5), linear(3))
    params, state, x, _ = given(net, 4)
    geometric = jax.nn.softmax(thinned_average(net, params, state, x, of=jax.nn.log_softmax))
    arithmetic = thinned_average(net, params, state, x, of=jax.nn.softmax)
    rule = jax.nn.softmax(net.apply(params, state, x))
    check_close(geometric, rule)
    assert float(jnp.max(jnp.abs(arithmetic - rule))) > 1e-3


def test_a_thousand_networks_by_vmap_and_jit() -> None:
    net = serial(dense(10, tanh), dropout(0.5), linear(1))
    params, state, x, _ = given(net, 3)
    average = jax.jit(lambda params: thinned_average(net, params, state, x))
    check_close(average(params), net.apply(params, state, x))


# Monte Carlo


def test_drawn_networks_average_to_the_average_of_all() -> None:
    net = serial(dense(5, tanh), dropout(0.4), dense(3, tanh), batch_norm(), linear(2))
    params, state, x, key = given(net, 3, n=1)  # one example: batch norm is in inference mode
    draws = jax.jit(monte_carlo(net, 4000))(params, state, x, key)
    assert draws.shape == (4000, 1, 2)
    error = draws.std(axis=0) / np.sqrt(4000)
    assert np.all(np.abs(draws.mean(axis=0) - thinned_average(net, params, state, x)) < 5 * error)
    assert np.all(draws.std(axis=0) > 0.01)


def test_examples_are_thinned_independently() -> None:
    net = serial(dropout(0.5), linear(1))
    params, state, _, key = given(net, 6)
    draws = monte_carlo(net, 50)(params, state, jnp.ones((2, 6)), key)
    assert not np.allclose(draws[:, 0], draws[:, 1])


# Refusals


def test_too_many_neurons_are_refused() -> None:
    net = serial(dense(17, tanh), dropout(0.5), linear(1))
    with pytest.raises(ValueError, match=r"1 to 16 .* N = 17.*monte_carlo"):
        thinned_average(net, *given(net, 3)[:3])


@pytest.mark.parametrize(
    "net", [repeat(serial(dense(3, tanh), dropout(0.5)), 2), grouped(dropout(0.5), 3), remat(dropout(0.5))], ids=str
)
def test_dropouts_that_stand_for_several_are_refused(net: Any) -> None:
    with pytest.raises(ValueError, match="within repeat, grouped or remat"):
        thinned_average(net, *given(net, 3)[:3])


def test_networks_that_drop_nothing_are_refused() -> None:
    net = serial(dense(3, tanh), batch_norm())
    with pytest.raises(ValueError, match=r"expected a network with dropout.*Add dropout"):
        monte_carlo(net, 5)
    with pytest.raises(ValueError, match="N = 0"):
        thinned_average(net, *given(net, 3)[:3])
