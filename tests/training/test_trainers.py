"""Training: the lecture's loop to the letter, runs that resume exactly, and a host loop that loses nothing."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import FrameType
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Trainer, autodiff, dense, dropout, fit, linear, serial, sgd, squared, tanh, train, trainer
from fnn import with_replacement as replaced
from fnn.training import diagnostics, fitting


def problem(size: int = 40, width: int = 3, dtype: Any = jnp.float64) -> tuple[jax.Array, jax.Array]:
    key_x, key_w = jax.random.split(jax.random.key(11))
    x = jax.random.normal(key_x, (size, width), dtype)
    return x, jnp.tanh(x @ jax.random.normal(key_w, (width, 2), dtype))


NET = serial(dense(5, tanh), linear(2))
LEARN = trainer(NET, squared, fnn.adam(0.01), batch_size=8, running_loss_rate=0.1)


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


def test_fit_ends_where_run_ends() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    done = fit(LEARN, start, data, 50, chunk=20, progress=False)
    state, metrics = train(LEARN, start, data, 40, every=20)
    assert done.stopped == "steps"
    assert done.history["step"].tolist() == [20, 40, 50]
    np.testing.assert_allclose(done.history["loss"][:2], metrics["loss"], rtol=1e-12)
    chex.assert_trees_all_equal(done.state, train(LEARN, state, data, 10)[0], done.best)


def test_fit_stops_early_and_keeps_the_best() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    values = iter([3.0, 2.0, 2.5, 2.0, 9.0])

    def validate(params: Any, state: Any) -> Any:
        return jax.pure_callback(lambda: np.float64(next(values)), jax.ShapeDtypeStruct((), jnp.float64))

    done = fit(LEARN, start, data, 1000, chunk=10, validate=validate, patience=2, progress=False)
    assert (done.stopped, int(done.state.step), int(done.best.step)) == ("early stop", 40, 20)
    assert done.history["validation"].tolist() == [3.0, 2.0, 2.5, 2.0]


def test_ctrl_c_returns_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    calls, chunk = [], fitting._chunk

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return chunk(*args)

    monkeypatch.setattr(fitting, "_chunk", interrupted)
    done = fit(LEARN, start, data, 100, chunk=10, progress=False)
    assert (done.stopped, int(done.state.step)) == ("interrupted", 20)
    resumed = fit(LEARN, done.state, data, 80, chunk=10, progress=False)
    chex.assert_trees_all_equal(resumed.state, train(LEARN, start, data, 100)[0])


def test_ctrl_c_waits_for_the_chunk_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    usual, steps, chunk = signal.getsignal(signal.SIGINT), [], fitting._chunk

    def pressed(*args: Any) -> Any:
        """Ctrl-C when the old state is given away and the new one not yet there."""
        state, metrics = chunk(*args)
        steps.append(int(state.step))
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return state, metrics

    monkeypatch.setattr(fitting, "_chunk", pressed)
    done = fit(LEARN, start, data, 100, chunk=10, progress=False)
    assert (done.stopped, int(done.state.step), steps) == ("interrupted", 20, [10, 20])
    assert done.history["step"].tolist() == [10, 20]
    assert signal.getsignal(signal.SIGINT) is usual
    chex.assert_trees_all_close(done.state.params, train(LEARN, start, data, 20)[0].params, rtol=1e-12)


def nothing_is_lost(done: fitting.Fitted, start: Any, data: Any, step: int) -> None:
    """After Ctrl-C: the state, the history and the best are of the same chunk, and the signal's handler is the old."""
    assert (done.stopped, int(done.state.step)) == ("interrupted", step)
    assert done.history["step"].tolist() == list(range(10, step + 1, 10))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((start, done.state, done.best)))
    if "validation" in done.history:
        assert int(done.best.step) == 10 * (1 + int(done.history["validation"].argmin()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    chex.assert_trees_all_close(done.state.params, train(LEARN, start, data, step)[0].params, rtol=1e-12)


def size_of_weights(params: Any, state: Any) -> jax.Array:
    return -fnn.tree_norm(params)


def test_ctrl_c_within_validate_keeps_its_chunk() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    looks = []

    def pressed(size: np.ndarray) -> np.ndarray:
        looks.append(size)
        if len(looks) == 2:
            signal.raise_signal(signal.SIGINT)
        return np.asarray(size)

    def validate(params: Any, state: Any) -> Any:
        size = size_of_weights(params, state)
        return jax.pure_callback(pressed, jax.ShapeDtypeStruct((), size.dtype), size)

    done = fit(LEARN, start, data, 100, chunk=10, validate=validate, progress=False)
    nothing_is_lost(done, start, data, 20)


def test_ctrl_c_while_a_chunk_computes_keeps_it() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)

    def press() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def pressed(step: np.ndarray) -> np.ndarray:
        if step == 15:
            thread = threading.Thread(target=press)
            thread.start()
            thread.join()
        return np.asarray(step)

    def step(state: Any, data: Any) -> Any:
        t = jax.pure_callback(pressed, jax.ShapeDtypeStruct((), state.step.dtype), state.step)
        return LEARN.step(state._replace(step=t), data)

    done = fit(LEARN._replace(step=step), start, data, 100, chunk=10, progress=False)
    nothing_is_lost(done, start, data, 20)


def pressing(chunk: Any, number: int) -> Any:
    """Chunks with Ctrl-C at this line of those that run in fitting.py and contextlib.py between the first and third."""
    calls, lines = [], []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in (fitting.__file__, contextlib.__file__):
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            if len(lines) == number:
                signal.raise_signal(signal.SIGINT)
        return trace

    def traced(*args: Any) -> Any:
        calls.append(args)
        sys._getframe(1).f_trace = trace
        sys.settrace(trace if len(calls) < 3 else None)
        return chunk(*args)

    return traced


def test_ctrl_c_at_any_line_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    chunk, usual, steps = fitting._chunk, sys.gettrace(), []
    while True:
        monkeypatch.setattr(fitting, "_chunk", pressing(chunk, len(steps) + 1))
        try:
            done = fit(LEARN, start, data, 40, chunk=10, validate=size_of_weights, progress=False)
        finally:
            sys.settrace(usual)
        if done.stopped == "steps":
            break
        steps.append(int(done.state.step))
        nothing_is_lost(done, start, data, steps[-1])
    assert steps == sorted(steps)
    assert set(steps) == {10, 20, 30}
    assert len(steps) > 40


def test_fit_off_the_main_thread_leaves_signals_alone() -> None:
    data = problem()
    with ThreadPoolExecutor() as pool:
        arguments = LEARN, LEARN.init(jax.random.key(0), data), data, 20
        assert pool.submit(fit, *arguments, chunk=10, progress=False).result().stopped == "steps"


def test_fit_gives_its_buffers_on_and_keeps_the_callers_and_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    given, chunk = [], fitting._chunk

    def seen(trainer: Any, state: Any, *rest: Any) -> Any:
        given.append(state)
        return chunk(trainer, state, *rest)

    monkeypatch.setattr(fitting, "_chunk", seen)
    values = iter([3.0, 2.0, 2.5, 2.6])

    def validate(params: Any, state: Any) -> Any:
        return jax.pure_callback(lambda: np.float64(next(values)), jax.ShapeDtypeStruct((), jnp.float64))

    done = fit(LEARN, start, data, 40, chunk=10, validate=validate, progress=False)
    assert all(leaf.is_deleted() for state in given for leaf in jax.tree.leaves((state.params, state.optimizer_state)))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((start, done.state, done.best)))
    chex.assert_trees_all_close(done.best.params, train(LEARN, start, data, 20)[0].params, rtol=1e-12)


def test_fit_gives_on_a_state_whose_leaves_are_one_buffer() -> None:
    def init(key: jax.Array, data: Any) -> fnn.TrainState:
        zeros = jnp.zeros(3)
        return fnn.TrainState(zeros, zeros, zeros, jnp.zeros((), jnp.int32), zeros[0], key)

    def step(state: fnn.TrainState, data: Any) -> tuple[fnn.TrainState, Any]:
        params = state.params + 1
        return fnn.TrainState(params, params, params, state.step + 1, state.running_loss, state.key), {
            "loss": params[0]
        }

    foreign = Trainer(init, step, step)
    nothing: Any = ()
    start = init(jax.random.key(0), nothing)
    done = fit(foreign, start, nothing, 30, chunk=10, progress=False)
    assert (done.stopped, done.state.params.tolist()) == ("steps", [30.0] * 3)
    assert start.params.tolist() == [0.0] * 3


def test_run_gives_nothing_on() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    train(LEARN, start, data, 10)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(start))


def test_a_diverged_chunk_is_never_the_best() -> None:
    def step(state: fnn.TrainState, data: Any) -> tuple[fnn.TrainState, Any]:
        after, metrics = LEARN.step(state, data)
        return after, metrics | {"loss": jnp.where(after.step > 20, jnp.inf, metrics["loss"])}

    data = problem()
    learn = LEARN._replace(step=step)

    def validate(params: Any, state: Any) -> Any:
        return size_of_weights(params, state)

    done = fit(learn, LEARN.init(jax.random.key(0), data), data, 100, chunk=10, validate=validate, progress=False)
    assert np.all(np.diff(done.history["validation"]) < 0)
    assert (done.stopped, int(done.state.step), int(done.best.step)) == ("diverged", 30, 20)


def test_fit_stops_where_the_loss_explodes() -> None:
    data = problem()
    learn = trainer(linear(2), squared, sgd(1e6), batch_size=8)
    done = fit(learn, learn.init(jax.random.key(0), data), data, 10_000, chunk=200, progress=False)
    assert done.stopped == "diverged"
    assert int(done.state.step) < 10_000


def test_fit_shows_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    data = problem()
    fit(LEARN, LEARN.init(jax.random.key(0), data), data, 20, chunk=10, progress=True)
    shown = capsys.readouterr().out
    assert "20/20" in shown
    assert "loss" in shown


@pytest.mark.parametrize("progress", [False, True])
def test_the_history_holds_metrics_of_layers_too(progress: bool) -> None:
    data = problem()
    learn = trainer(NET, squared, sgd(0.1), batch_size=8, metrics=diagnostics())
    done = fit(learn, learn.init(jax.random.key(0), data), data, 6, chunk=3, progress=progress)
    assert done.history["gradient_norm"]["1 linear(2)"].shape == (2,)
    assert done.history["update_norm"].shape == (2,)


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

    with jax.check_tracer_leaks():
        found = jax.vmap(final)(jnp.array([1e-3, 1e-2]))
    np.testing.assert_allclose(found, [final(eta) for eta in (1e-3, 1e-2)], rtol=1e-12)


# What ends fit


def test_a_run_that_diverges_keeps_the_last_finite_state() -> None:
    data = problem()
    explode = trainer(linear(2), squared, sgd(lambda k: jnp.where(k < 25, 0.01, 1e200)), batch_size=8)
    start = explode.init(jax.random.key(0), data)
    done = fit(explode, start, data, 100, chunk=10, progress=False)
    assert (done.stopped, int(done.best.step)) == ("diverged", 20)
    assert not np.isfinite(done.state.params["w"]).all()
    chex.assert_trees_all_equal(done.best, train(explode, start, data, 20)[0])


@pytest.mark.parametrize("validate", [None, lambda params, state: jnp.zeros(())])
def test_weights_that_the_last_step_made_nan_are_no_success(validate: Any) -> None:
    data = problem()
    learn = trainer(linear(2), squared, sgd(lambda k: jnp.where(k == 19, jnp.nan, 0.01)), batch_size=8)
    done = fit(learn, learn.init(jax.random.key(0), data), data, 20, chunk=10, validate=validate, progress=False)
    assert np.isfinite(done.history["loss"]).all()
    assert (done.stopped, int(done.best.step)) == ("diverged", 10)
    assert np.isfinite(done.best.params["w"]).all()


def test_sigterm_takes_effect_after_the_chunk_and_keeps_it() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    looks = []

    def asked_to_end(size: np.ndarray) -> np.ndarray:
        looks.append(size)
        if len(looks) == 2:
            signal.raise_signal(signal.SIGTERM)
        return np.asarray(size)

    def validate(params: Any, state: Any) -> Any:
        size = size_of_weights(params, state)
        return jax.pure_callback(asked_to_end, jax.ShapeDtypeStruct((), size.dtype), size)

    done = fit(LEARN, start, data, 100, chunk=10, validate=validate, progress=False)
    assert (done.stopped, int(done.state.step), done.history["step"].tolist()) == ("preempted", 20, [10, 20])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    chex.assert_trees_all_equal(done.state, train(LEARN, start, data, 20)[0])


def test_a_handler_of_ones_own_hears_sigterm_between_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, chunk, heard = problem(), fitting._chunk, []
    usual = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))

    def asked_to_end(*args: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        assert heard == [], "within a chunk"
        found = chunk(*args)
        heard.clear()
        return found

    try:
        monkeypatch.setattr(fitting, "_chunk", asked_to_end)
        done = fit(LEARN, LEARN.init(jax.random.key(0), data), data, 10, chunk=10, progress=False)
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert (done.stopped, heard) == ("steps", [signal.SIGTERM])


def test_an_error_carries_what_was_done_before_it() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    looks = []

    def failing(size: np.ndarray) -> np.ndarray:
        looks.append(size)
        if len(looks) == 3:
            raise OSError("the disk is full")
        return np.asarray(size)

    def validate(params: Any, state: Any) -> Any:
        size = size_of_weights(params, state)
        return jax.pure_callback(failing, jax.ShapeDtypeStruct((), size.dtype), size)

    with pytest.raises(Exception, match="the disk is full") as caught:
        fit(LEARN, start, data, 100, chunk=10, validate=validate, progress=False)
    done: fitting.Fitted = caught.value.done  # type: ignore[attr-defined]
    assert (done.stopped, int(done.state.step), done.history["step"].tolist()) == ("error", 30, [10, 20])
    assert "in its attribute `done`" in caught.value.__notes__[-1]
    chex.assert_trees_all_equal(done.state, train(LEARN, start, data, 30)[0])


def test_an_error_within_a_chunk_carries_the_state_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data, chunk, calls = problem(), fitting._chunk, []
    start = LEARN.init(jax.random.key(0), data)

    def failing(*args: Any) -> Any:
        calls.append(args)
        found = chunk(*args)
        if len(calls) == 3:
            raise FloatingPointError("invalid value")  # as under jax_debug_nans, when the buffers are gone already
        return found

    monkeypatch.setattr(fitting, "_chunk", failing)
    with pytest.raises(FloatingPointError) as caught:
        fit(LEARN, start, data, 100, chunk=10, progress=False)
    done: fitting.Fitted = caught.value.done  # type: ignore[attr-defined]
    chex.assert_trees_all_equal(done.state, done.best, train(LEARN, start, data, 20)[0])


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


def test_fit_within_a_trace_is_told_what_to_take() -> None:
    data = problem()

    def final(eta: jax.Array) -> Any:
        learn = trainer(NET, squared, sgd(eta), batch_size=8)
        return fit(learn, learn.init(jax.random.key(0), data), data, 10).history["loss"]

    with pytest.raises(
        TypeError, match=r"outside of jit, vmap and grad, got one inside\. Use train or train_with_early_stopping"
    ):
        jax.vmap(final)(jnp.array([0.1, 0.2]))


@pytest.mark.parametrize("given", [2, 2.0, np.float64(2), jnp.asarray(2, jnp.int32), jnp.asarray(2, jnp.bfloat16)])
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
    options |= {"validate": lambda params, state: -fnn.tree_norm(params), "patience": 9}
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


def test_a_signal_that_an_error_overtakes_is_told_with_it() -> None:
    data = problem()
    looks = []

    def failing(size: np.ndarray) -> np.ndarray:
        looks.append(size)
        if len(looks) == 2:
            signal.raise_signal(signal.SIGTERM)
            raise OSError("the disk is full")
        return np.asarray(size)

    def validate(params: Any, state: Any) -> Any:
        size = size_of_weights(params, state)
        return jax.pure_callback(failing, jax.ShapeDtypeStruct((), size.dtype), size)

    with pytest.raises(Exception, match="the disk is full") as caught:
        fit(LEARN, LEARN.init(jax.random.key(0), data), data, 100, chunk=10, validate=validate, progress=False)
    assert "SIGTERM arrived meanwhile." in caught.value.__notes__


def test_what_fit_cannot_judge_is_told_before_it_begins() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    with pytest.raises(ValueError, match="validate: expected a function that returns a scalar float"):
        fit(LEARN, start, data, 10, validate=lambda params, state: jnp.zeros(2))
    silent = LEARN._replace(step=lambda state, data: (state, {"error": jnp.zeros(())}))
    with pytest.raises(ValueError, match='metrics are a dict with the "loss" of a step'):
        fit(silent, start, data, 10)
