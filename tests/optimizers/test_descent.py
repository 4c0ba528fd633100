"""Stochastic gradient, momentum and Nesterov's accelerated gradient."""

import chex
import pytest

import fnn
from fnn.optimizers import nag_weights
from tests.optimizers.cases import CASES, HYPER, check_nag, check_optimizer, each_of, start


@each_of("descent")
@pytest.mark.parametrize("kind", HYPER)
def test_fifty_random_gradients_follow_the_slide(case, kind):
    check_optimizer(case.make, case.oracle, HYPER[kind](case), case.weights)


@pytest.mark.parametrize("kind", HYPER)
def test_nag_holds_the_look_ahead_and_gives_back_w(kind):
    check_nag(fnn.nag, nag_weights, HYPER[kind](CASES["nag"]))


def test_nag_starts_at_w():
    params = start()
    chex.assert_trees_all_equal(nag_weights(params, fnn.nag(0.1).init(params)), params)


def test_a_label_leaves_the_defaults_out() -> None:
    assert (str(fnn.momentum(0.1)), str(fnn.nag(0.1))) == ("momentum(0.1)", "nag(0.1)")
