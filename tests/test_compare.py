"""compare_gradients: it finds what is wrong, agrees with what is right, and can be printed and stored."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Layer, backprop, compare_gradients, dense, linear, serial, softmax_cross_entropy, tanh

KEY = jax.random.key(0)
X, Y = jax.random.normal(KEY, (6, 4)), jnp.array([0, 1, 2, 0, 1, 2])
NET = serial(dense(5, tanh), fnn.batch_norm(), fnn.inverted_dropout(0.2), linear(3))


def compared(net: Layer = NET, **options):
    params, state = net.init(KEY, X)
    return compare_gradients(net, softmax_cross_entropy, params, state, (X, Y), KEY, rounds=1, **options)


def off_by(factor: float):
    """BackProp whose last bias gradient is wrong by a factor."""

    def wrong(net, loss):
        right = backprop(net, loss)

        def gradient(*given):
            value, g = right(*given)
            return value, (*g[:-1], g[-1] | {"b": g[-1]["b"] * factor})

        return gradient

    return wrong


def test_right_gradients_agree_in_every_way() -> None:
    report = compared()
    assert report.worst < 1e-13
    for leaf in report.leaves:
        assert leaf.differences["manual–automatic"].cosine == pytest.approx(1, abs=1e-12)
        # A central difference is good to about ∛eps² of Q's scale; ten digits less than the gradients themselves.
        assert leaf.differences["manual–differences"].largest < 1e-8
        assert leaf.differences["automatic–differences"].largest < 1e-8


@pytest.mark.parametrize("error", [1e-3, 1e-6, 1e-9])
def test_a_wrong_gradient_is_measured_and_located(error: float) -> None:
    report = compared(manual=off_by(1 + error))
    assert report.worst == pytest.approx(error, rel=1e-3)
    worst = max(report.leaves, key=lambda leaf: leaf.differences["manual–automatic"].relative)
    assert worst.path == "[3]['b']"
    assert worst.differences["automatic–differences"].relative < 1e-7


def test_differences_tell_which_of_two_gradients_is_wrong() -> None:
    wrong = compared(manual=off_by(1.01)).leaves[-2]
    assert wrong.differences["manual–differences"].relative == pytest.approx(0.01, rel=1e-3)
    assert wrong.differences["automatic–differences"].relative < 1e-7


def test_single_precision_is_compared_beside_double() -> None:
    with jax.enable_x64(False):
        x = X.astype(jnp.float32)
        params, state = NET.init(KEY, x)
        report = compare_gradients(NET, softmax_cross_entropy, params, state, (x, Y.astype(jnp.int32)), KEY, rounds=0)
    assert report.worst < 1e-13
    assert all(leaf.differences["manual–automatic, float32"].relative < 1e-5 for leaf in report.leaves)
    assert np.isnan(report.time_ratio)


def test_the_report_prints_a_row_for_each_leaf_and_becomes_json() -> None:
    report = compared()
    printed = str(report)
    for leaf in report.leaves:
        assert printed.count(leaf.path) == 1
    assert "temporary bytes" in printed
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["worst"] == report.worst
    assert plain["leaves"]["[0]['w']"]["shape"] == [4, 5]
    assert set(plain["cost"]["manual"]) == {
        "flops",
        "bytes_accessed",
        "temporary_bytes",
        "compile_seconds",
        "run_seconds",
    }
    assert report.manual.flops > 0
    assert report.time_ratio > 0


def test_large_leaves_are_sampled_and_small_ones_taken_whole() -> None:
    few = compared(entries=2)
    for leaf in few.leaves:
        assert leaf.differences["manual–differences"].largest < 1e-8


def test_networks_without_parameters_can_be_compared() -> None:
    report = compared(serial(fnn.activate(tanh)))
    assert report.leaves == ()
    assert report.worst == 0.0
    assert "cost" in str(report)
