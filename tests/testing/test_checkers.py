"""The checkers of tests/checkers.py and tests/nn/laws.py are tested: each fails where it has to."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from fnn import (
    Reading,
    batch_norm,
    dense,
    gradient,
    per_example,
    repeat,
    second_moment,
    serial,
    squared_norm,
    tanh,
)
from tests.checkers import check_backward, check_same, everything
from tests.nn.laws import READINGS, check_laws, readings_by_hand_and_by_jax
from tests.problems import Case, given
from tests.testing.faults import FAULTS

STACKED = Case(repeat(dense(4, tanh), 2), 4)

MISREADINGS: dict[str, tuple[Reading, Reading]] = {
    "gradient of the first example": (gradient, gradient._replace(outer=lambda x, e: x[:1].T @ e[:1])),
    "share in the mean": (per_example, per_example._replace(outer=lambda x, e: per_example.outer(x, e) / x.shape[0])),
    "per example, depth first": (per_example, per_example._replace(stack=gradient.stack)),
    "norm instead of its square": (
        squared_norm,
        squared_norm._replace(outer=lambda x, e: jnp.sqrt(squared_norm.outer(x, e))),
    ),
    "norm of rows forgotten": (squared_norm, squared_norm._replace(rows=lambda rows: jnp.zeros(rows.shape[0]))),
    "norm of the last layer": (squared_norm, squared_norm._replace(stack=lambda readings: readings[-1])),
    "square of the sum": (second_moment, second_moment._replace(outer=lambda x, e: jnp.square(x.T @ e))),
    "rows not squared": (second_moment, second_moment._replace(rows=gradient.rows)),
}


@pytest.mark.parametrize(("right", "wrong"), MISREADINGS.values(), ids=MISREADINGS.keys())
def test_the_laws_of_readings_fail_on_a_wrong_reading(right: Reading, wrong: Reading) -> None:
    check_laws(STACKED, 3, partial(readings_by_hand_and_by_jax, readings={right: READINGS[right]}))
    with pytest.raises(AssertionError):
        check_laws(STACKED, 3, partial(readings_by_hand_and_by_jax, readings={wrong: READINGS[right]}))


# Laws


@pytest.mark.parametrize("name", ["applied", "y", "state", "error", "readings"])
def test_check_same_fails_where_one_part_differs(name: str) -> None:
    layer = serial(dense(3, tanh), batch_norm())
    one = everything(layer, *given(layer, 4))
    check_same(one, one)
    other = one._replace(**{name: jax.tree.map(lambda leaf: leaf * (1 + 1e-9), getattr(one, name))})
    with pytest.raises(AssertionError, match="relative errors above"):
        check_same(other, one)


def test_check_backward_fails_on_wrong_layers() -> None:
    for name, match in (("sign of the bias", "relative errors above"), ("gradient of another shape", "float64")):
        layer = FAULTS[name].layer
        with pytest.raises(AssertionError, match=match):
            check_backward(layer, *given(layer, 2))
