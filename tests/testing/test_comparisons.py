"""The report of compare_gradients: rows for a reader, plain numbers for JSON, verdicts that can be copied."""

import json
import pickle

import numpy as np
import pytest

from fnn import dense, linear, serial, tanh
from fnn.testing import Difference, GradientComparison, Kind, LeafComparison, Verdict
from fnn.testing.comparisons import difference, whole
from tests.testing.test_gradients import compared, narrowly, trained_in


def test_the_report_prints_a_row_for_each_leaf_and_becomes_json() -> None:
    report = compared(examples=True, dtypes=("float32",))
    printed = str(report)
    rows = [line.split()[0] for line in printed.splitlines() if line]
    assert [leaf.path for leaf in report.leaves][-3:] == ["[3]['b']", "[3]['w']", "x"]
    assert all(rows.count(leaf.path) == 1 for leaf in report.leaves)
    plain = json.loads(json.dumps(report.to_dict()))
    assert plain["worst"] == report.worst
    assert plain["leaves"]["[0]['w']"]["shape"] == [4, 5]
    assert "not finite" not in printed
    assert "difference" not in str(report.verdict)
    assert len(plain["precisions"]) == 1


def leaf(path: str, relative: float, size: float) -> LeafComparison:
    """A leaf of a gradient of the given size, whose two versions differ by a part of it."""
    apart = Difference(largest=relative * size, norm=size, relative=relative, cosine=1.0, ulps=0.0)
    verdict = Verdict(Kind.AGREE, digits=9)
    return LeafComparison(path, (2,), {"manual–automatic": apart}, verdict, step=0.0, error=0.0, kinks=0)


def test_a_leaf_next_to_nothing_is_measured_against_the_whole_gradient() -> None:
    """Beside a gradient of size 1, a leaf of size 1e-9 that is off by 1e-12 is off by 1e-9 of a thousandth of 1."""
    leaves = leaf("w", 1e-12, 1.0), leaf("b", 1e-3, 1e-9)
    report = GradientComparison("net", ("manual", "automatic"), Verdict(Kind.AGREE, digits=9), None, leaves, None, ())
    assert report.worst == pytest.approx(1e-9, rel=1e-3)


def test_each_leaf_is_small_against_what_is_in_its_units() -> None:
    """Params against ‖g‖ of them all; the examples, where Σ x ∂Q/∂x = Σ w ∂Q/∂w, against ‖g_w‖ ‖w‖/‖x‖."""
    found = whole(["w", "b", "x"], [3.0, 4.0, 5.0], [2.0, 0.0, 10.0])
    assert found == pytest.approx([5.0, 5.0, 0.6])


def test_the_report_speaks_of_examples_only_if_they_were_compared() -> None:
    with_examples, without = str(compared(examples=True)), str(compared(examples=False))
    assert "\nexample by example: skipped" in with_examples  # for batch norm
    assert "example" not in without
    assert "None" not in without


def test_verdicts_can_be_copied() -> None:
    verdict = trained_in(
        serial(narrowly(dense(5, tanh), "float32", lambda e, g: (2 * e, g)), linear(3)), "float32"
    ).verdict
    again = pickle.loads(pickle.dumps(verdict))
    assert (again, str(again)) == (verdict, "manual wrong in float32")
    assert (again.kind, again.whose, again.dtype) == (Kind.WRONG, 0, "float32")


def test_the_cosine_of_nothing_and_nothing_is_1_and_of_one_nothing_0() -> None:
    zero, u, v = np.zeros(2), np.array([3.0, 4.0]), np.array([4.0, 3.0])
    cosines = [difference(*pair).cosine for pair in ((zero, zero), (zero, u), (u, zero), (u, v), (u, -u))]
    assert cosines == pytest.approx([1.0, 0.0, 0.0, 24 / 25, -1.0])
