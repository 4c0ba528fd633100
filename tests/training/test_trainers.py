"""Training: the lecture's loop to the letter, runs that resume exactly, and a host loop that loses nothing."""

import gc
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Trainer, autodiff, dense, dropout, fit, linear, serial, sgd, squared, tanh, train, trainer
from fnn import with_replacement as replaced
from fnn.data import shuffled_whole
from tests.training.learners import LEARN, NET, problem, size_of_weights


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal: tests that are started in the background inherit that Ctrl-C is ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


def numpy_backprop(W: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The slide's BackProp for one example and two layers, with x_0 = −1 and w_0 in the first row of each matrix."""
    x0 = np.concatenate([[-1.0], x])
    S1 = x0 @ W[0]
    x1, z1 = np.concatenate([[-1.0], np.tanh(S1)]), 1 - np.tanh(S1) ** 2
    a = x1 @ W[1]
    e2 = a - y
    e1 = W[1] @ e2
    return 0.5 * float(np.sum(e2**2)), [np.outer(x0, e1[1:] * z1), np.outer(x1, e2)]


def test_sg_with_backprop_is_the_lectures_loop_example_by_example() -> None:
    data, eta, rate, steps = problem(), 0.05, 0.02, 200
    learn = trainer(NET, squared, sgd(eta), batch_size=1, draw=replaced, running_loss_rate=rate)
    start = learn.init(jax.random.key(0), data)
    W = [np.vstack([-np.asarray(p["b"])[None], np.asarray(p["w"])]) for p in start.params]  # b = −w_0
    Q = 0.0
    for k in range(steps):
        i = int(replaced(start.key, k, len(data[0]), 1)[0])
        L, g = numpy_backprop(W, np.asarray(data[0][i]), np.asarray(data[1][i]))
        W = [w - eta * d for w, d in zip(W, g, strict=True)]
        Q = L if k == 0 else (1 - rate) * Q + rate * L
    end, _ = train(learn, start, data, steps)
    for p, w in zip(end.params, W, strict=True):
        np.testing.assert_allclose(p["w"], w[1:], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(p["b"], -w[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(end.running_loss, Q, rtol=1e-12)


def test_automatic_gradients_train_the_same_network() -> None:
    data = problem()
    twin = trainer(NET, squared, fnn.adam(0.01), batch_size=8, running_loss_rate=0.1, gradient=autodiff)
    by_hand, _ = train(LEARN, LEARN.init(jax.random.key(0), data), data, 100)
    automatic, _ = train(twin, twin.init(jax.random.key(0), data), data, 100)
    chex.assert_trees_all_close(by_hand.params, automatic.params, rtol=1e-9)


def test_a_run_is_its_steps_one_by_one_and_resumes_to_the_same_end() -> None:
    data = problem()
    net = serial(dense(5, tanh), dropout(0.3), linear(2))
    learn = trainer(net, squared, fnn.adam(0.01), batch_size=8)
    start = learn.init(jax.random.key(0), data)
    whole, history = train(learn, start, data, 30, every=1)
    state, step, losses = start, jax.jit(learn.step), []
    for _ in range(30):
        state, metrics = step(state, data)
        losses.append(metrics["loss"])
    chex.assert_trees_all_close(whole.params, state.params, rtol=1e-12)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)
    resumed, _ = train(learn, train(learn, start, data, 18)[0], data, 12)
    chex.assert_trees_all_equal(whole, resumed)


def test_metrics_are_means_over_blocks_and_without_every_over_the_run() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    _, each = train(LEARN, start, data, 20, every=1)
    _, blocks = train(LEARN, start, data, 20, every=5)
    _, total = train(LEARN, start, data, 20)
    np.testing.assert_allclose(blocks["loss"], each["loss"].reshape(4, 5).mean(1), rtol=1e-12)
    np.testing.assert_allclose(total["loss"], each["loss"].mean(), rtol=1e-12)
    assert total["loss"].shape == ()


def test_update_takes_a_batch_from_outside() -> None:
    x, y = problem()
    start = LEARN.init(jax.random.key(0), (x, y))
    chosen = fnn.shuffled(start.key, 0, len(x), 8)
    stepped, updated = LEARN.step(start, (x, y)), LEARN.update(start, (x[chosen], y[chosen]))
    chex.assert_trees_all_close(stepped[0].params, updated[0].params, rtol=1e-12)
    chex.assert_trees_all_close(stepped[1], updated[1], rtol=1e-12)


def test_ten_steps_are_one_trace_and_a_second_run_compiles_nothing() -> None:
    data = problem()
    traces = []

    def counted(S: jax.Array) -> jax.Array:
        traces.append(S.shape)
        return jnp.tanh(S)

    learn = trainer(serial(dense(5, tanh._replace(value=counted)), linear(2)), squared, sgd(0.1), batch_size=8)
    start = learn.init(jax.random.key(0), data)
    train(learn, start, data, 10)
    once = len(traces)
    train(learn, learn.init(jax.random.key(1), data), data, 10)
    assert len(traces) - once <= 2  # init looks at the shapes once more, the run does not


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_state_keeps_its_dtypes(dtype: Any) -> None:
    data = problem(dtype=dtype)
    net = serial(dense(5, tanh), fnn.batch_norm(), fnn.prelu(), linear(2))
    learn = trainer(net, squared, fnn.chain(fnn.clip_by_norm(1.0), fnn.nadam(1e-3)), batch_size=8)
    start = learn.init(jax.random.key(0), data)
    end, metrics = train(learn, start, data, 3)
    chex.assert_trees_all_equal_shapes_and_dtypes(start, end)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(end.params))
    assert np.isfinite(float(metrics["loss"]))


class HeavyBall(NamedTuple):
    """A stand-in in the protocol that optax made common: a pair with init and update, the sign inside."""

    eta: float

    def init(self, params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        trace = jax.tree.map(lambda g, t: g + 0.9 * t, updates, state)
        return jax.tree.map(lambda t: -self.eta * t, trace), trace


def test_an_optimizer_from_outside_trains_as_fnns_own() -> None:
    """Heavy ball without the factor (1 − γ) is the lecture's momentum with an η ten times larger, for γ = 0.9."""
    data = problem()
    ends = []
    for optimizer in (HeavyBall(0.01), fnn.momentum(0.1)):
        learn = trainer(NET, squared, optimizer, batch_size=8)
        ends.append(train(learn, learn.init(jax.random.key(0), data), data, 50)[0].params)
    chex.assert_trees_all_close(*ends, rtol=1e-10)


def test_run_gives_nothing_on() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    train(LEARN, start, data, 10)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(start))


# Data and draws that do not fit


@pytest.mark.parametrize("wrong", [(40, 39), (39, 40), (40, 4)])
def test_data_of_two_lengths_are_refused_wherever_they_come_in(wrong: tuple[int, int]) -> None:
    x, y = problem()
    start = LEARN.init(jax.random.key(0), (x, y))
    data = x[: wrong[0]], y[: wrong[1]]
    options: dict[str, Any] = {"max_steps": 10, "every": 5}
    ways = {
        "init": lambda: LEARN.init(jax.random.key(0), data),
        "step": lambda: LEARN.step(start, data),
        "update": lambda: LEARN.update(start, data),
        "run": lambda: train(LEARN, start, data, 10),
        "fit": lambda: fit(LEARN, start, data, 10, progress=False),
        "stable": lambda: fnn.train_until_stable(LEARN, start, data, weights_tolerance=0.1, **options),
        "early": lambda: fnn.train_with_early_stopping(
            LEARN, start, data, validate=size_of_weights, patience=1, **options
        ),
        "sweep": lambda: fnn.sweep(
            lambda key: train(LEARN, start, data, 10)[1], jax.random.split(jax.random.key(0), 2)
        ),
        "a gradient of one's own": lambda: trainer(NET, squared, sgd(0.1), gradient=autodiff).update(start, data),
    }
    for way in ways.values():
        with pytest.raises(ValueError, match=f"{wrong[0]}.*{wrong[1]}"):
            way()


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (lambda key, step, size, batch: jnp.arange(batch) + size - 3, r"got indices 37\.\.44\. Keep them below `size`"),
        (lambda key, step, size, batch: -jnp.arange(batch), "got indices -7..0"),
        (lambda key, step, size, batch: jnp.arange(batch - 3), r"integers \[8\] in 0..39, got int64 \[5\]"),
        (lambda key, step, size, batch: jnp.zeros(batch), r"got float64 \[8\]"),
        (lambda key, step, size, batch: list(range(batch)), "got list"),
    ],
)
def test_a_rule_that_draws_what_is_not_there_is_refused(rule: Any, told: str) -> None:
    learn = trainer(NET, squared, sgd(0.1), batch_size=8, draw=rule)
    with pytest.raises(ValueError, match=told):
        learn.init(jax.random.key(0), problem())
    with pytest.raises(ValueError, match=told):
        learn.step(LEARN.init(jax.random.key(0), problem())._replace(optimizer_state=sgd(0.1).init(None)), problem())


@pytest.mark.parametrize("away", [40, -1, 2**31 - 1])
def test_a_rule_that_leaves_the_sample_later_gives_nan(away: int) -> None:
    def rule(key: Any, step: Any, size: int, batch_size: int) -> jax.Array:
        first = jnp.where(jnp.asarray(step) < 2, 0, away)
        return jnp.arange(batch_size).at[0].set(first)

    x, y = problem()
    data = x, jnp.argmax(y, 1)
    learn = trainer(NET, fnn.softmax_cross_entropy, sgd(0.1), batch_size=8, draw=rule)
    start = learn.init(jax.random.key(0), data)
    _, metrics = train(learn, start, data, 3, every=1)
    assert np.isfinite(metrics["loss"]).tolist() == [True, True, False]


def test_a_rule_of_ones_own_draws_what_it_says() -> None:
    data = problem()

    def rule(key: Any, step: Any, size: int, batch_size: int) -> jax.Array:
        return (step * batch_size + jnp.arange(batch_size, dtype=jnp.int32)) % size

    learn = trainer(NET, squared, fnn.adam(0.01), batch_size=8, draw=rule)
    start = state = learn.init(jax.random.key(0), data)
    for t in range(7):
        rows = np.arange(8 * t, 8 * t + 8) % 40
        state, _ = learn.update(state, (data[0][rows], data[1][rows]))
    chex.assert_trees_all_close(train(learn, start, data, 7)[0].params, state.params, rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_with_nan_are_refused_in_every_dtype(dtype: Any, bad: float) -> None:
    x, y = problem(dtype=dtype)
    for data, name in (((x.at[3, 0].set(bad), y), "x"), ((x, y.at[[1, 2], 1].set(bad)), "y")):
        with pytest.raises(ValueError, match=f"NaN or infinity in {name} .[12] of 40 examples"):
            LEARN.init(jax.random.key(0), data)


# The running loss, the count of steps, and means over many


def test_the_running_loss_may_begin_at_an_estimate() -> None:
    data = problem()
    learn = trainer(NET, squared, sgd(0.1), batch_size=8, running_loss_rate=0.25)
    start = learn.init(jax.random.key(0), data)
    L = train(learn, start, data, 3, every=1)[1]["loss"]
    for given, first in ((None, float(L[0])), (5.0, 0.75 * 5 + 0.25 * float(L[0]))):
        state = start if given is None else start._replace(running_loss=jnp.asarray(given))
        right = [first]
        for loss in L[1:]:
            right.append(0.75 * right[-1] + 0.25 * float(loss))
        np.testing.assert_allclose(train(learn, state, data, 3, every=1)[1]["running_loss"], right, rtol=1e-12)


def test_steps_beyond_the_largest_int32_begin_again_and_never_turn_negative() -> None:
    data, last = problem(), 2**31 - 1
    start = LEARN.init(jax.random.key(0), data)._replace(
        step=jnp.asarray(last - 1, jnp.int32), running_loss=jnp.asarray(3.0)
    )
    seen = [start]
    for _ in range(3):
        seen.append(LEARN.step(seen[-1], data)[0])
    assert [int(state.step) for state in seen] == [last - 1, last, 0, 1]
    for before, after in pairwise(seen):
        x, y = (part[fnn.shuffled(start.key, int(before.step), 40, 8)] for part in data)
        loss = float(jnp.mean(squared.value(NET.apply(before.params, before.layer_state, x), y)))
        np.testing.assert_allclose(after.running_loss, 0.9 * before.running_loss + 0.1 * loss, rtol=1e-12)
    done = fit(LEARN, start, data, 30, chunk=10, progress=False)
    assert (done.stopped, done.history["step"].tolist()) == ("steps", [last + 9, last + 19, last + 29])
    chex.assert_trees_all_close(done.state.params, train(LEARN, start, data, 30)[0].params, rtol=1e-12)


def constant(value: float, dtype: Any) -> Trainer:
    """A trainer that does nothing but tell a metric."""
    return Trainer(
        LEARN.init,
        lambda state, data: (state._replace(step=state.step + 1), {"loss": jnp.asarray(value, dtype)}),
        LEARN.update,
    )


@pytest.mark.parametrize(
    ("dtype", "value", "steps"),
    [(jnp.float32, 0.1, 10**6), (jnp.bfloat16, 1.0, 2000), (jnp.float16, 100.0, 2000), (jnp.float32, np.inf, 10)],
)
def test_a_mean_over_many_steps_loses_nothing(dtype: Any, value: float, steps: int) -> None:
    start = LEARN.init(jax.random.key(0), problem())
    nothing: Any = ()
    found = train(constant(value, dtype), start, nothing, steps)[1]["loss"]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.float32(value), rtol=1.2e-7)


def test_no_tracer_is_kept_when_only_the_rate_is_traced() -> None:
    data = problem()

    def final(eta: Any) -> jax.Array:
        learn = trainer(NET, squared, fnn.adam(eta), batch_size=8)
        state = learn.init(jax.random.key(0), data)
        options: dict[str, Any] = {"max_steps": 4, "every": 2}
        _, end = fnn.train_until_stable(learn, state, data, weights_tolerance=0.0, **options)
        _, early = fnn.train_with_early_stopping(learn, state, data, validate=size_of_weights, patience=9, **options)
        return train(learn, state, data, steps=5)[1]["loss"] + 0 * (end.weights_change + early.validation)

    gc.collect()
    gc.freeze()  # the search for leaks collects garbage after every trace: let it see no more than these
    try:
        with jax.check_tracer_leaks():
            found = jax.vmap(final)(jnp.array([1e-3, 1e-2]))
    finally:
        gc.unfreeze()
    np.testing.assert_allclose(found, [final(eta) for eta in (1e-3, 1e-2)], rtol=1e-12)


# What cannot be trained


def test_arguments_in_another_order_are_told_in_a_line() -> None:
    data = problem()
    start: Any = LEARN.init(jax.random.key(0), data)
    swapped: Any = LEARN
    options: dict[str, Any] = {"max_steps": 4, "every": 2}
    for call in (
        lambda: train(start, swapped, data, 10),
        lambda: fit(start, swapped, data, 10),
        lambda: fnn.train_until_stable(start, swapped, data, weights_tolerance=0.1, **options),
        lambda: fnn.train_with_early_stopping(start, swapped, data, validate=size_of_weights, patience=1, **options),
    ):
        with pytest.raises(TypeError, match="expected a Trainer as the first argument, got TrainState") as caught:
            call()
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("given", [2, np.float64(2), jnp.asarray(2, jnp.bfloat16)])
def test_an_estimate_of_the_running_loss_is_any_number(given: Any) -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    right = LEARN.step(start._replace(running_loss=jnp.asarray(2.0)), data)
    chex.assert_trees_all_equal(LEARN.step(start._replace(running_loss=given), data), right)
    after, metrics = train(LEARN, start._replace(running_loss=given), data, 10, every=1)
    chex.assert_trees_all_close(
        (metrics["loss"][0], metrics["running_loss"][0]), (right[1]["loss"], right[1]["running_loss"])
    )
    assert after.running_loss.dtype == metrics["loss"].dtype == jnp.float64
    options: dict[str, Any] = {"max_steps": 10, "every": 5}
    stable, _ = fnn.train_until_stable(
        LEARN, start._replace(running_loss=given), data, running_loss_tolerance=0.0, **options
    )
    chex.assert_trees_all_close(stable.running_loss, after.running_loss, rtol=1e-12)
    options |= {"validate": lambda state: -fnn.tree_norm(state.params), "patience": 9}
    early, end = fnn.train_with_early_stopping(LEARN, start._replace(running_loss=given), data, **options)
    chex.assert_trees_all_equal(early, train(LEARN, start._replace(running_loss=given), data, int(end.best_step))[0])


def test_the_running_loss_forgets_all_at_a_rate_of_1() -> None:
    data = problem()
    learn = trainer(NET, squared, sgd(0.1), batch_size=8, running_loss_rate=1.0)
    start = learn.init(jax.random.key(0), data)._replace(running_loss=jnp.asarray(1e20))
    _, metrics = train(learn, start, data, 3, every=1)
    np.testing.assert_array_equal(metrics["running_loss"], metrics["loss"])


@pytest.mark.parametrize("transform", [fnn.clip_by_norm(1.0), fnn.chain(fnn.clip_by_norm(1.0), fnn.l2(0.01))])
def test_a_transform_alone_would_climb_and_is_refused(transform: Any) -> None:
    with pytest.raises(ValueError, match=r"expected an optimizer that makes steps, got .*clip_by_norm"):
        trainer(NET, squared, transform)
    trainer(NET, squared, fnn.chain(transform, sgd(0.1)))
    trainer(NET, squared, HeavyBall(0.1))


@pytest.mark.parametrize("steps", [2**31, 3 * 10**9])
def test_more_steps_than_int32_counts_are_refused_in_one_call(steps: int) -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    for call in (
        lambda: train(LEARN, start, data, steps),
        lambda: fit(LEARN, start, data, steps, chunk=steps),
        lambda: fnn.train_until_stable(LEARN, start, data, max_steps=steps, every=steps, weights_tolerance=0.1),
        lambda: fnn.train_with_early_stopping(
            LEARN, start, data, max_steps=steps, every=steps, validate=size_of_weights, patience=1
        ),
    ):
        with pytest.raises(ValueError, match="expected fewer than 2³¹"):
            call()


# Draws with weights, and optimizers that ask for more than the gradient


def test_an_epoch_with_its_remainder_is_gradient_descent_on_every_example() -> None:
    """Seven examples in batches of three: the last batch of an epoch is the mean over its single example."""
    x = jnp.arange(7.0)[:, None] / 7
    y = 3 * x - 1
    learn = trainer(linear(1), squared, sgd(0.3), batch_size=3, draw=shuffled_whole)
    state = learn.init(jax.random.key(0), (x, y))
    w, b = np.asarray(state.params["w"])[0, 0], np.asarray(state.params["b"])[0]
    for step in range(6):
        indices, weight = shuffled_whole(state.key, step, 7, 3)
        kept = np.asarray(indices)[np.asarray(weight) > 0]
        assert len(kept) == (1 if step % 3 == 2 else 3)
        x_b, y_b = np.asarray(x)[kept, 0], np.asarray(y)[kept, 0]
        apart = w * x_b + b - y_b
        w, b = w - 0.3 * np.mean(apart * x_b), b - 0.3 * np.mean(apart)
    end, _ = train(learn, state, (x, y), 6)
    np.testing.assert_allclose([end.params["w"][0, 0], end.params["b"][0]], [w, b], rtol=1e-12)


def test_weights_of_the_draw_multiply_those_of_the_data() -> None:
    def halves(key: jax.Array, step: Any, size: int, batch_size: int) -> Any:
        return jnp.arange(batch_size), jnp.where(jnp.arange(batch_size) < 1, 0.5, 1.0)

    x, y, weight = jnp.arange(3.0)[:, None], jnp.ones((3, 1)), jnp.array([2.0, 3.0, 1.0])
    learn = trainer(linear(1), squared, sgd(0.1), batch_size=3, draw=halves)
    state = learn.init(jax.random.key(0), (x, y, weight))
    _, metrics = learn.step(state, (x, y, weight))
    L = np.asarray((x @ state.params["w"] + state.params["b"][None] - y) ** 2 / 2)[:, 0]
    np.testing.assert_allclose(metrics["loss"], np.average(L, weights=[1, 3, 1]), rtol=1e-12)


def test_weights_of_a_draw_that_cannot_be_are_refused() -> None:
    data = jnp.ones((3, 1)), jnp.ones((3, 1))

    def drawn(weight: Any) -> Any:
        return lambda key, step, size, batch_size: (jnp.arange(batch_size), weight)

    for weight, error, words in (
        (jnp.ones(2), ValueError, "draw"),
        (jnp.ones(3, int), TypeError, "draw"),
    ):
        learn = trainer(linear(1), squared, sgd(0.1), batch_size=3, draw=drawn(weight))
        with pytest.raises(error, match=words):
            learn.init(jax.random.key(0), data)
    learn = trainer(
        lambda key, batch: (jnp.ones(()), ()),
        optimizer=sgd(0.1),
        objective=lambda params, state, batch, key: (params * jnp.mean(batch["a"]), state),
        batch_size=3,
        draw=shuffled_whole,
    )
    with pytest.raises(ValueError, match=r"draw: expected data \(x, y\) for a rule that returns weights, got dict"):
        learn.init(jax.random.key(0), {"a": jnp.ones(7)})


def line_search(eta: float) -> fnn.Optimizer:
    """Steps of η·2^−j with the least j ≤ 19 that lowers the value enough (Armijo's rule)."""

    def update(g: Any, state: Any, params: Any, *, value: Any, grad: Any, value_fn: Any) -> Any:
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad))
        rates = eta / 2.0 ** jnp.arange(20.0)
        values = jax.vmap(lambda rate: value_fn(jax.tree.map(lambda w, g: w - rate * g, params, g)))(rates)
        rate = rates[jnp.argmax(values <= value - rates * squares / 2)]
        return jax.tree.map(lambda g: -rate * g, g), state

    return fnn.Optimizer(init=lambda params: (), update=update, label=f"line_search({eta})", steps="all")


@pytest.mark.parametrize(
    "around",
    [
        lambda f: f,
        lambda f: fnn.chain(fnn.clip_by_norm(1e9), f),
        lambda f: fnn.optimizers.exponential_average(f),
        lambda f: fnn.optimizers.accumulated(f, 1),
        lambda f: fnn.pruning.sparse(f),
    ],
    ids=["alone", "chain", "average", "accumulated", "sparse"],
)
@pytest.mark.parametrize("kind", ["loss", "objective"])
def test_an_optimizer_that_asks_for_the_value_function_gets_it(around: Any, kind: str) -> None:
    """A rate of 1000 would explode; the line search lowers the loss in every step."""
    x = jnp.linspace(-1, 1, 8)[:, None]
    data, net = (x, 2 * x + 1), linear(1)
    if kind == "loss":
        learn = trainer(net, squared, around(line_search(1000.0)), batch_size=8)
    else:
        learn = trainer(net, optimizer=around(line_search(1000.0)), objective=fnn.objective(net, squared), batch_size=8)
    _, metrics = train(learn, learn.init(jax.random.key(0), data), data, 20, every=1)
    assert bool(jnp.all(jnp.diff(metrics["loss"]) < 0))
    assert float(metrics["loss"][-1]) < 0.01
