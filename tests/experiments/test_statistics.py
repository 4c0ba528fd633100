"""Statistics of the experiments: intervals, shares, and the verdicts that follow from them."""

import math

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import data
from experiments.report import (
    Claim,
    Interval,
    Settings,
    Share,
    Verdict,
    at_least,
    at_most,
    best,
    by_case,
    error_bars,
    estimate,
    exactly,
    figure,
    interval,
    intervals,
    judged,
    judged_each,
    percent,
    scientific,
    smaller,
    spoken,
    sweep_seeds,
    table,
    within,
)

# Statistics


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(3).normal(size=(7, 4))
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 6, values.mean(axis=0), stats.sem(values, axis=0))
    np.testing.assert_allclose(mean - half, low, rtol=1e-12)
    np.testing.assert_allclose(mean + half, high, rtol=1e-12)


def test_interval_of_equal_values_is_a_point() -> None:
    mean, half = interval([0.25, 0.25, 0.25])
    assert (float(mean), float(half)) == (0.25, 0.0)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5).normal(size=(5, 4000))
    mean, half = interval(draws)
    share = float(np.mean(np.abs(mean) <= half))
    assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_interval_needs_two() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        interval([1.0])


# (k of n, the ends by the published table of Clopper–Pearson at 95 %)
@pytest.mark.parametrize(
    ("count", "seeds", "ends"), [(0, 10, (0, 0.3085)), (5, 10, (0.1871, 0.8129)), (10, 10, (0.6915, 1))]
)
def test_shares_have_exact_intervals(count: int, seeds: int, ends: tuple[float, float]) -> None:
    found = estimate(np.arange(seeds) < count)
    assert isinstance(found, Share)
    assert found.ends == pytest.approx(ends, abs=1e-4)
    assert str(found) == f"{count} of {seeds} ({ends[0]:.2f}–{ends[1]:.2f})"


def test_a_share_covers_as_often_as_it_says() -> None:
    draws = np.random.default_rng(5).random((4000, 20)) < 0.9
    inside = [low <= 0.9 <= high for low, high in (Share.of(row).ends for row in draws)]
    assert np.mean(inside) >= 0.95


def test_a_comparison_tells_the_difference_that_it_judges() -> None:
    told = smaller("", {"pairs": (WIDE, np.add(WIDE, 0.5))}).measured
    assert told == "pairs: 2.0 ± 5.0 against 2.5 ± 5.0 (difference −0.5 ± 0)"
    assert "the first less 0.5 times the second" in smaller("", {"pairs": (LOW, HIGH)}, factor=0.5).measured


LOW, HIGH, WIDE, LOST = [1.0, 1.1, 0.9], [3.0, 3.1, 2.9], [0.0, 2.0, 4.0], [1.0, math.nan, 1.0]


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        (at_most("", 2, LOW), "holds"),
        (at_most("", 2, HIGH), "does not hold"),
        (at_most("", 2, WIDE), "open"),
        (at_most("", 2, {"a": LOW, "b": HIGH}), "holds partly"),
        (at_most("", 2, {"a": HIGH, "b": HIGH}), "does not hold"),
        (at_least("", 2, HIGH), "holds"),
        (at_least("", 2, LOW), "does not hold"),
        (within("", 0.5, 1.5, LOW), "holds"),
        (within("", 2, 2.5, LOW), "does not hold"),
        (at_most("", 2, LOST), "does not hold"),
        (at_least("", 2, {"a": HIGH, "b": LOST}), "holds partly"),
        (smaller("", {"a": (LOW, HIGH)}), "holds"),
        (smaller("", {"a": (HIGH, LOW)}), "does not hold"),
        (smaller("", {"a": (LOW, LOW)}, factor=0.5), "does not hold"),
        (smaller("", {"pairs": (WIDE, np.add(WIDE, 0.1))}), "holds"),
        (smaller("", {"equal": (LOW, LOW)}), "does not hold"),
        (smaller("", {"equal": (LOW, LOW)}, or_equal=True), "holds"),
        (at_least("", 0.8, np.full(32, True)), "holds"),
        (at_least("", 0.9, np.full(32, True)), "open"),
        (at_least("", 0.9, np.arange(32) < 16), "does not hold"),
        (exactly("", [4, 14], [4, 14], ""), "holds"),
        (exactly("", [4, 15], [4, 14], ""), "does not hold"),
        (at_most("", 2, {"a": LOW, "b": WIDE}), "open"),
        (at_most("", 2, {"a": HIGH, "b": WIDE}), "does not hold"),
        (at_most("", 2, {"a": LOW, "b": WIDE, "c": HIGH}), "holds partly"),
        (judged_each("", {"a": (True, "1"), "b": (np.False_, "2")}), "holds partly"),
    ],
)
def test_verdicts_follow_from_intervals(verdict: Verdict, word: str) -> None:
    assert verdict.word == word


@pytest.mark.parametrize(
    ("mean", "half", "written"),
    [
        (14.7188, 0.6294, "14.72 ± 0.63"),
        (0.97431, 0.00341, "0.9743 ± 0.0034"),
        (157.1, 1.829, "157.1 ± 1.8"),
        (-2600.0, 90.0, "−2600 ± 90"),
        (1.0, 1e-9, "1.00000 ± 1e−09"),
        (2e-8, 3e-9, "2.0e−08 ± 3.0e−09"),
        (1.0, 0.0, "1 ± 0"),
        (math.nan, math.nan, "nan ± nan"),
    ],
)
def test_intervals_are_written_to_two_digits_of_their_half(mean: float, half: float, written: str) -> None:
    assert str(Interval(mean, half)) == written


def test_why_is_told_of_what_does_not_hold_alone() -> None:
    assert at_most(Claim("", "a reason"), 2, LOW).explanation == ""
    assert at_most(Claim("", "a reason"), 2, HIGH).explanation == "a reason"
    assert at_most(Claim("", "a reason"), 2, WIDE).explanation == "a reason"


def test_a_sweep_is_the_same_each_time() -> None:
    def experiment(key: jax.Array, eta: jax.Array) -> jax.Array:
        return eta * jax.random.normal(key, (), np.float32)

    first, again = (sweep_seeds(experiment, Settings(3, True), eta=np.array([1.0, 2.0], np.float32)) for _ in range(2))
    assert first.shape == (3, 2)
    np.testing.assert_array_equal(first, again)


def test_a_sweep_takes_plain_numbers_and_narrows_them() -> None:
    def experiment(key: jax.Array, rate: jax.Array, count: jax.Array, flag: jax.Array) -> dict[str, jax.Array]:
        return {"rate": rate, "count": count, "flag": flag}

    found = sweep_seeds(experiment, Settings(2, True), rate=(0.5, 2.0), count=range(3), flag=np.array([True, False]))
    assert {name: values.dtype for name, values in found.items()} == {"rate": "float32", "count": "int32", "flag": bool}
    assert found["rate"].shape == (2, 2, 3, 2)
    np.testing.assert_array_equal(found["count"][0, 0, :, 0], range(3))


def test_the_first_seed_makes_other_keys() -> None:
    def experiment(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (), np.float32)

    usual, again, other = (sweep_seeds(experiment, Settings(3, True), first=first) for first in (2026, 2026, 1989))
    np.testing.assert_array_equal(usual, again)
    assert not np.any(usual == other)


# Helpers


def test_a_setting_is_picked_for_quick_and_for_full_runs() -> None:
    assert [Settings(2, quick).pick(quick=1, full=2) for quick in (True, False)] == [1, 2]


def test_cases_are_named_along_the_second_axis() -> None:
    values = np.arange(6.0).reshape(2, 3)
    found = by_case(values, (0.1, 0.2, 10), "η = {:g}")
    assert list(found) == ["η = 0.1", "η = 0.2", "η = 10"]
    np.testing.assert_array_equal(found["η = 0.2"], [1.0, 4.0])
    assert intervals(found)["η = 10"] == Interval.of([2.0, 5.0])
    with pytest.raises(ValueError, match=r"by_case: expected values \[seeds, 2, …\], got \(2, 3\)"):
        by_case(values, (1, 2))


def test_the_best_setting_has_the_largest_mean() -> None:
    assert best([[0.0, 3.0, 2.0], [4.0, 0.0, 2.5]]) == 2


def test_a_table_writes_intervals_shares_and_words() -> None:
    rows = {"sgd": {"loss": np.array([1.0, 1.0]), "learned": np.array([True, False]), "η": "0.1"}}
    found = table("A caption", "who", rows)
    assert found.header == ("who", "loss", "learned", "η")
    assert found.rows == [("sgd", "1 ± 0", "1 of 2 (0.01–0.99)", "0.1")]


def test_numbers_are_said_in_words() -> None:
    assert spoken({"a": [0.254, 0.5], "b": np.array([1.0])}) == "a: 0.25, 0.50; b: 1.00"
    assert percent(0.256) == "26\u00a0%"
    assert percent(0.256, 1) == "25.6\u00a0%"
    assert scientific(2.5e-7) == "2.5e−07"


def test_error_bars_are_drawn_for_every_name() -> None:
    with figure() as canvas:
        axes = canvas.subplots()
        error_bars(axes, [1, 2], {"one": np.ones((3, 2)), "two": np.arange(6.0).reshape(3, 2)})
        assert [bars.get_label() for bars in axes.containers] == ["one", "two"]
        np.testing.assert_allclose(axes.containers[1][0].get_ydata(), [2.0, 3.0])


def test_a_claim_is_filled_in_with_its_reason() -> None:
    claim = Claim("It takes {steps} steps.", "{steps} are few", "steps from {steps} on").filled(steps=3)
    assert claim == ("It takes 3 steps.", "3 are few", "steps from 3 on")
    verdict = judged(claim, False, "4")
    assert (verdict.claim, verdict.word, verdict.explanation) == ("It takes 3 steps.", "does not hold", "3 are few")
    assert verdict.quantity == "steps from 3 on"
    assert judged(claim, True, "3").explanation == ""


def test_a_verdict_counts_its_cases_and_keeps_what_decides() -> None:
    verdict = within("", 0.5, 2, {"low": LOW, "wide": WIDE, "high": HIGH})
    assert verdict.counts == "1 of 3 cases holds, 1 is open"
    assert verdict.bounds == (0.5, 2)
    for case, values in zip(verdict.cases, (LOW, WIDE, HIGH), strict=True):
        mean, half = np.mean(values), stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
        assert case.interval is not None
        np.testing.assert_allclose(case.interval, (mean - half, mean, mean + half))
    assert at_least("", 1, LOW).bounds == (1, None)
    assert at_least("", 1, LOW).counts == ""
    assert at_least("", 1, LOST).cases[0].interval is None


def test_a_split_takes_every_example_once() -> None:
    x, y = np.arange(20.0), np.arange(20)
    parts = data.split(jax.random.key(0), (x, y), 5, 3)
    assert [len(part[0]) for part in parts] == [5, 3, 12]
    assert sorted(np.concatenate([np.asarray(part[1]) for part in parts])) == list(range(20))
    assert all((np.asarray(part[0]) == np.asarray(part[1])).all() for part in parts)
    train, validation, test = data.train_validation_test(jax.random.key(0), (x, y), 0.2)
    assert [len(part[0]) for part in (train, validation, test)] == [12, 4, 4]
