"""The benchmark: everyone who takes part learns, times are what the further steps take, verdicts follow the numbers."""

import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.extend.core import subjaxprs

from experiments.benchmark import child, field, ours, timing
from experiments.benchmark.field import CONTENDERS, FLOOR, FNN, PLAIN, Contender
from experiments.benchmark.problem import random_problem, shuffled_batches
from experiments.benchmark.timing import Spread, in_turn, race, spread
from experiments.claims import bench

INSTALLED = field.installed()
LEARNING = [contender for contender in INSTALLED if contender.name not in (FLOOR, field.COMPILED)]


@pytest.mark.filterwarnings("default")  # what a peer warns of is its own affair
@pytest.mark.parametrize("widths", [(4, 8, 3), (2, 4, 1)], ids=str)
@pytest.mark.parametrize("contender", LEARNING, ids=lambda contender: contender.name)
def test_everyone_learns(contender: Contender, widths: tuple[int, ...]) -> None:
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):  # as others write JAX
        train = contender.prepare(random_problem(widths, 8, 64), 2)
        assert train(400) < 0.95 * train(8)


@pytest.mark.parametrize("seeds", [1, 3])
def test_by_hand_and_by_jax_grad_are_the_same_loop(seeds: int) -> None:
    problem = random_problem((4, 8, 3), 8, 64)
    losses = [prepare(problem, seeds)(16) for prepare in (ours.by_hand, ours.by_jax_grad)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_floor_has_the_matrix_products_of_training_and_nothing_else() -> None:
    def names(jaxpr: Any) -> list[str]:
        return [e.primitive.name for e in jaxpr.eqns] + [n for inner in subjaxprs(jaxpr) for n in names(inner)]

    def products(prepare: Any) -> int:
        seen = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ours, "on_all_devices", lambda experiment_of, seeds: seen.append(experiment_of(2)))
            prepare(random_problem((4, 8, 8, 3), 8, 64), 1)
        return names(jax.make_jaxpr(seen[0])(jax.random.key(0)).jaxpr).count("dot_general")

    assert products(ours.products_only) == 8
    assert products(ours.by_hand) == 9  # the error at the input too, which XLA leaves out


def test_batches_on_the_host_are_shuffled_epochs() -> None:
    batches = shuffled_batches(random_problem((2, 4, 1), 4, 11), 5, seed=0)
    assert [len(set(np.concatenate(batches[i : i + 2]))) for i in (0, 2)] == [8, 8]


def test_functions_run_in_turn() -> None:
    order: list[str] = []
    functions = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = in_turn(functions, 3)
    assert "".join(order) == "abc"[::-1] + "abc" + "abc"[::-1]
    assert {name: s.shape for name, s in seconds.items()} == dict.fromkeys("abc", (3,))


class Clock:
    """A clock that contenders advance."""

    def __init__(self) -> None:
        self.now = 0.0

    def prepare(self, first: float, step: float) -> Any:
        def prepare(problem: Any, seeds: int) -> Any:
            def train(steps: int) -> float:
                self.now += first + seeds * steps * step
                return 1 / steps

            return train

        return prepare


def test_times_are_those_of_the_further_steps_of_a_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    contenders = Contender("slow to start", clock.prepare(3.0, 1e-3)), Contender("one by one", clock.prepare(0, 2e-3))
    monkeypatch.setattr(field, "installed", lambda: (contenders[0], contenders[1]._replace(many=False)))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    times, losses = race(random_problem((2, 4, 1), 4, 40), 16, 3, lambda text: None)
    np.testing.assert_allclose(times["slow to start"], [1e-3] * 3)
    np.testing.assert_allclose(times["one by one"], [2e-3] * 3)
    assert losses == dict.fromkeys(times, 1 / 20)


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert spread([5.0, 1.0, 2.0, 3.0, 4.0]) == Spread(3, 2, 4)
    assert str(Spread(1.234, 1.2, 1.3)) == "1.23 (1.20–1.30)"
    assert str(Spread(123.4, 99.6, 130.2)) == "123 (100–130)"
    assert str(spread(1.5)) == "1.50"
    assert str(Spread(0.00367, 0.0036, 0.0041)) == "0.0037 (0.0036–0.0041)"
    assert str(Spread(0.0, 0.0, 0.0)) == "0.00"
    assert Spread(1.353, 1.25, 1.4).beside(1.35) == "1.353 (1.250–1.400)"
    assert Spread(1.35, 1.25, 1.4).beside(1.35) == "1.35 (1.25–1.40)"


@pytest.mark.parametrize(
    ("ratios", "at_most", "at_least"),
    [((1, 1, 1), True, False), ((1, 2, 3), None, None), ((2, 2, 2), True, True), ((3, 3, 3), False, True)],
)
def test_times_are_judged_by_both_quartiles(
    ratios: tuple[float, ...], at_most: bool | None, at_least: bool | None
) -> None:
    for judged, expected in ((timing.at_most_of_times, at_most), (timing.at_least_of_times, at_least)):
        verdict = judged("a claim", 2, ratios)
        assert verdict.cases[0].holds == expected


def verdicts(fnn: float, plain: float) -> dict[str, tuple[bool, str]]:
    """Of made-up times, without peers."""
    main = str(random_problem(timing.MAIN, 32))
    times = {FNN: fnn, FLOOR: 10.0, PLAIN: plain, field.BY_JAX_GRAD: 20.0}
    measured = {name: np.full(3, value) for name, value in times.items()}
    found = bench._verdicts(
        {(main, bench.MANY): measured, (main, 1): measured},
        {1797: {timing.SHUFFLED: np.full(3, 1.02), timing.WRITTEN: np.ones(3)}},
        {10: [1.0, 1.0], 1000: [1.1, 1.2]},
        {who: timing.ColdStart(np.ones(2), np.full(2, 2.0)) for who in ("fnn", "plain JAX")},
        {64: {"peak": 1e8}, 512: {"peak": 1.1e8}},
    )
    return {verdict.claim: (verdict.word == "holds", verdict.measured) for verdict in found}


def test_verdicts_follow_the_numbers_and_leave_out_who_is_not_installed() -> None:
    good, bad = verdicts(13, 30), verdicts(21, 30)
    assert all(holds for holds, _ in good.values())
    assert not any(peer in claim for claim in good for peer in (field.FLAX, field.TORCH, field.SKLEARN))
    floor = next(claim for claim in bad if "matrix products" in claim)
    assert (good[floor], bad[floor]) == ((True, "1.30"), (False, "2.10"))
    assert [claim.split(" batch 32, ")[1] for claim, (holds, _) in bad.items() if not holds][1:] == [
        "at least 2 times as fast as plain JAX.",
        "no slower than fnn with jax.grad.",
    ]


def test_children_measure_in_processes_of_their_own() -> None:
    held = np.ones(150_000_000)  # what this process holds is not the child's
    found = child.measured("memory", "6")
    assert 5e7 < found["peak"] < held.nbytes
    start = child.measured("cold", "plain")
    assert start["begin"] < start["imported"] < start["first"]


def test_plain_jax_is_plain() -> None:
    code = "import sys, experiments.benchmark.plain; sys.exit('fnn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_contenders_name_what_they_need() -> None:
    assert {c.name for c in CONTENDERS if not c.packages} == {FNN, FLOOR, field.BY_JAX_GRAD, PLAIN}
    assert "scikit-learn" in field.versions()
