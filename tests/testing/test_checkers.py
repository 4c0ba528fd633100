"""The checkers of tests/checkers.py are tested: each fails where it has to."""

import jax
import jax.numpy as jnp
import pytest

from fnn import (
    Reading,
    batch_norm,
    dense,
    gradient,
    per_example,
    prelu,
    repeat,
    second_moment,
    serial,
    squared_norm,
    tanh,
)
from tests.checkers import READINGS, check_backward, check_curve, check_readings, check_same, everything
from tests.problems import given
from tests.testing.faults import FAULTS

STACKED = repeat(dense(4, tanh), 2)

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


def test_check_readings_passes_on_the_right_ones() -> None:
    check_readings(STACKED, *given(STACKED, 4, n=3))


@pytest.mark.parametrize(("right", "wrong"), MISREADINGS.values(), ids=MISREADINGS.keys())
def test_check_readings_fails_on_a_wrong_reading(right: Reading, wrong: Reading) -> None:
    with pytest.raises(AssertionError):
        check_readings(STACKED, *given(STACKED, 4, n=3), readings={wrong: READINGS[right]})


# Laws


@pytest.mark.parametrize("name", ["applied", "y", "state", "error", "readings"])
def test_check_same_fails_where_one_part_differs(name: str) -> None:
    layer = serial(dense(3, tanh), batch_norm())
    one = everything(layer, *given(layer, 4))
    check_same(one, one)
    other = one._replace(**{name: jax.tree.map(lambda leaf: leaf * (1 + 1e-9), getattr(one, name))})
    with pytest.raises(AssertionError, match="relative errors above"):
        check_same(other, one)


def test_check_backward_and_check_curve_fail_on_wrong_layers() -> None:
    x = given(dense(3, tanh), 2).x
    for name, check, match in (
        ("sign of the bias", check_backward, "relative errors above"),
        ("gradient of another shape", check_backward, "float64"),
        ("curve without σ''", check_curve, "broken"),
        ("c unsymmetric", check_curve, "broken"),
    ):
        layer = FAULTS[name].layer
        with pytest.raises(AssertionError, match=match):
            check(layer, *given(layer, x.shape[1]))
    check_curve(prelu(), *given(prelu(), 3))
