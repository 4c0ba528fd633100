"""Networks looked into: what `watch` shows, and leaves as it was."""

from __future__ import annotations

from fnn import (
    backprop,
    dense,
    linear,
    serial,
    softmax_cross_entropy,
    tanh,
    watch,
)
from fnn.nn import drop_records
from tests.checkers import check_close
from tests.problems import Problem, posed

# Readings


SMALL = Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2)


def test_unwatched_leaves_the_readings() -> None:
    given = posed(SMALL, 3)
    _, seen = backprop(watch(SMALL.net), SMALL.loss)(*given)
    _, plain = backprop(SMALL.net, SMALL.loss)(*given)
    check_close(drop_records(seen), plain)
