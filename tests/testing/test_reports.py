"""The report of laws, and the relative errors by which all is judged."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from fnn.testing import Law, Laws, Outcome
from fnn.testing._judges import relative_errors
from tests.checkers import check_close
from tests.problems import normal

FOUND = Laws(
    "it()", (Law("a", Outcome.HOLDS, "1"), Law("bc", Outcome.BROKEN, "by 0.5"), Law("d", Outcome.SKIPPED, "no"))
)


def test_the_report_prints_and_raises_and_becomes_plain_data():
    table = "name  outcome  finding\n────  ───────  ───────\na     holds    1\nbc    broken   by 0.5"
    assert repr(FOUND) == f"it(): 1 holds, 1 broken, 1 skipped\n\n{table}\nd     skipped  no"
    with pytest.raises(AssertionError, match=r"bc +broken +by 0.5") as raised:
        FOUND.raise_if_failed()
    assert "d     skipped" not in str(raised.value)
    assert json.loads(json.dumps(FOUND.to_dict())) == FOUND.to_dict()
    assert FOUND.to_dict()["laws"][1] == {"name": "bc", "outcome": "broken", "finding": "by 0.5"}
    assert not FOUND.passed
    Laws("it()", FOUND.rows[::2]).raise_if_failed()
    with pytest.raises(KeyError, match="none of the laws of it"):
        FOUND.law("e")


def test_a_relative_error_neither_overflows_nor_vanishes():
    with np.errstate(all="raise"):
        for scale in (1e-200, 1.0, 1e200):
            wanted = {"a": scale * np.array([3.0, 4.0]), "b": np.zeros(2)}
            got = {"a": scale * np.array([3.0, 4.5]), "b": scale * np.array([0.0, 5e-3])}
            errors = relative_errors({"": (got, wanted)})
            assert errors == {"['a']": pytest.approx(0.1), "['b']": pytest.approx(1.0)}


# The measure


def test_relative_error_is_the_norm_of_the_difference_by_the_norm_of_the_reference() -> None:
    got, wanted = {"a": np.array([3.0, 4.5]), "b": np.ones(2)}, {"a": np.array([3.0, 4.0]), "b": np.ones(2)}
    assert relative_errors({"": (got, wanted)}) == {"['a']": pytest.approx(0.1), "['b']": 0}


def test_a_leaf_of_rounding_is_measured_by_the_whole() -> None:
    big, rounding = jnp.ones(4), jnp.full(4, 1e-17)
    check_close({"w": big, "b": -rounding}, {"w": big, "b": rounding})
    with pytest.raises(AssertionError, match="'b'"):
        check_close({"w": big, "b": rounding + 1e-9}, {"w": big, "b": rounding})


def test_a_reference_of_zeros_allows_zeros_only() -> None:
    zeros = jnp.zeros((2, 2))
    check_close(zeros, zeros)
    for wrong in (zeros + 1e-30, zeros + jnp.nan):
        with pytest.raises(AssertionError):
            check_close(wrong, zeros)


@pytest.mark.parametrize("wrong", [jnp.nan, jnp.inf])
def test_what_is_not_finite_is_never_close(wrong: float) -> None:
    right = normal(jnp.ones(3), 1)
    with pytest.raises(AssertionError):
        check_close(right.at[1].set(wrong), right)
    with pytest.raises(AssertionError):
        check_close(right, right.at[1].set(wrong))
