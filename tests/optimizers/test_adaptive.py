"""RMSProp and AdaDelta."""

import pytest

import fnn
from tests import oracles
from tests.optimizers.cases import HYPER, check_optimizer, each_of


@each_of("adaptive")
@pytest.mark.parametrize("kind", HYPER)
def test_fifty_random_gradients_follow_the_slide(case, kind):
    check_optimizer(case.make, case.oracle, HYPER[kind](case), case.weights)


def test_adadelta_needs_no_rate():
    check_optimizer(fnn.adadelta, oracles.adadelta, {})


def test_a_label_leaves_the_defaults_out() -> None:
    assert (str(fnn.rmsprop(0.01)), str(fnn.adadelta())) == ("rmsprop(0.01)", "adadelta()")
