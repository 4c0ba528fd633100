"""Training: the lecture's loop to the letter, runs that resume exactly, and a host loop that loses nothing."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Trainer, autodiff, dense, dropout, fit, fitting, linear, run, serial, sgd, squared, tanh, trainer
from fnn import with_replacement as replaced
from fnn.diagnostics import diagnostics


def problem(size: int = 40, width: int = 3, dtype: Any = jnp.float64) -> tuple[jax.Array, jax.Array]:
    key_x, key_w = jax.random.split(jax.random.key(11))
    x = jax.random.normal(key_x, (size, width), dtype)
    return x, jnp.tanh(x @ jax.random.normal(key_w, (width, 2), dtype))


NET = serial(dense(5, tanh), linear(2))
LEARN = trainer(NET, squared, fnn.adam(0.01), batch_size=8, quality_rate=0.1)


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal: tests that are started in the background inherit that Ctrl-C is ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


def numpy_backprop(W: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> tuple[float, list[np.ndarray]]:
    """The slide's BackProp for one object and two layers, with x_0 = −1 and w_0 in the first row of each matrix."""
    x0 = np.concatenate([[-1.0], x])
    S1 = x0 @ W[0]
    x1, z1 = np.concatenate([[-1.0], np.tanh(S1)]), 1 - np.tanh(S1) ** 2
    a = x1 @ W[1]
    e2 = a - y
    e1 = W[1] @ e2
    return 0.5 * float(np.sum(e2**2)), [np.outer(x0, e1[1:] * z1), np.outer(x1, e2)]


def test_sg_with_backprop_is_the_lectures_loop_object_by_object() -> None:
    data, eta, rate, steps = problem(), 0.05, 0.02, 200
    learn = trainer(NET, squared, sgd(eta), batch_size=1, draw=replaced, quality_rate=rate)
    start = learn.init(jax.random.key(0), data)
    W = [np.vstack([-np.asarray(p["b"])[None], np.asarray(p["w"])]) for p in start.params]  # b = −w_0
    Q = 0.0
    for k in range(steps):
        i = int(replaced(start.key, k, len(data[0]), 1)[0])
        L, g = numpy_backprop(W, np.asarray(data[0][i]), np.asarray(data[1][i]))
        W = [w - eta * d for w, d in zip(W, g, strict=True)]
        Q = L if k == 0 else (1 - rate) * Q + rate * L
    end, _ = run(learn, start, data, steps)
    for p, w in zip(end.params, W, strict=True):
        np.testing.assert_allclose(p["w"], w[1:], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(p["b"], -w[0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(end.quality, Q, rtol=1e-12)


def test_automatic_gradients_train_the_same_network() -> None:
    data = problem()
    twin = trainer(NET, squared, fnn.adam(0.01), batch_size=8, quality_rate=0.1, gradient=autodiff)
    by_hand, _ = run(LEARN, LEARN.init(jax.random.key(0), data), data, 100)
    automatic, _ = run(twin, twin.init(jax.random.key(0), data), data, 100)
    chex.assert_trees_all_close(by_hand.params, automatic.params, rtol=1e-9)


def test_a_run_is_its_steps_one_by_one_and_resumes_to_the_same_end() -> None:
    data = problem()
    net = serial(dense(5, tanh), dropout(0.3), linear(2))
    learn = trainer(net, squared, fnn.adam(0.01), batch_size=8)
    start = learn.init(jax.random.key(0), data)
    whole, history = run(learn, start, data, 30, every=1)
    state, step, losses = start, jax.jit(learn.step), []
    for _ in range(30):
        state, metrics = step(state, data)
        losses.append(metrics["loss"])
    chex.assert_trees_all_close(whole.params, state.params, rtol=1e-12)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-12)
    resumed, _ = run(learn, run(learn, start, data, 18)[0], data, 12)
    chex.assert_trees_all_equal(whole, resumed)


def test_metrics_are_means_over_blocks_and_without_every_over_the_run() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    _, each = run(LEARN, start, data, 20, every=1)
    _, blocks = run(LEARN, start, data, 20, every=5)
    _, total = run(LEARN, start, data, 20)
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
    run(learn, start, data, 10)
    once = len(traces)
    run(learn, learn.init(jax.random.key(1), data), data, 10)
    assert len(traces) - once <= 2  # init looks at the shapes once more, the run does not


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_the_state_keeps_its_dtypes(dtype: Any) -> None:
    data = problem(dtype=dtype)
    net = serial(dense(5, tanh), fnn.batch_norm(), fnn.prelu(), linear(2))
    learn = trainer(net, squared, fnn.chain(fnn.clip_by_norm(1.0), fnn.nadam(1e-3)), batch_size=8)
    start = learn.init(jax.random.key(0), data)
    end, metrics = run(learn, start, data, 3)
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
        ends.append(run(learn, learn.init(jax.random.key(0), data), data, 50)[0].params)
    chex.assert_trees_all_close(*ends, rtol=1e-10)


def test_fit_ends_where_run_ends() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    done = fit(LEARN, start, data, 50, chunk=20, progress=False)
    state, metrics = run(LEARN, start, data, 40, every=20)
    assert done.stopped == "steps"
    assert done.history["step"].tolist() == [20, 40, 50]
    np.testing.assert_allclose(done.history["loss"][:2], metrics["loss"], rtol=1e-12)
    chex.assert_trees_all_equal(done.state, run(LEARN, state, data, 10)[0], done.best)


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
    chex.assert_trees_all_equal(resumed.state, run(LEARN, start, data, 100)[0])


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
    chex.assert_trees_all_close(done.state.params, run(LEARN, start, data, 20)[0].params, rtol=1e-12)


def nothing_is_lost(done: fitting.Fitted, start: Any, data: Any, step: int) -> None:
    """After Ctrl-C: the state, the history and the best are of the same chunk, and the signal's handler is the old."""
    assert (done.stopped, int(done.state.step)) == ("interrupted", step)
    assert done.history["step"].tolist() == list(range(10, step + 1, 10))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((start, done.state, done.best)))
    if "validation" in done.history:
        assert int(done.best.step) == 10 * (1 + int(done.history["validation"].argmin()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    chex.assert_trees_all_close(done.state.params, run(LEARN, start, data, step)[0].params, rtol=1e-12)


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
    """Chunks with Ctrl-C at this line of those which run in fnn.fitting and contextlib between the first and third."""
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
    chex.assert_trees_all_close(done.best.params, run(LEARN, start, data, 20)[0].params, rtol=1e-12)


def test_fit_gives_on_a_state_whose_leaves_are_one_buffer() -> None:
    def init(key: jax.Array, data: Any) -> fnn.TrainState:
        zeros = jnp.zeros(3)
        return fnn.TrainState(zeros, zeros, zeros, jnp.zeros((), jnp.int32), zeros[0], key)

    def step(state: fnn.TrainState, data: Any) -> tuple[fnn.TrainState, Any]:
        params = state.params + 1
        return fnn.TrainState(params, params, params, state.step + 1, state.quality, state.key), {"loss": params[0]}

    foreign = Trainer(init, step, step)
    nothing: Any = ()
    start = init(jax.random.key(0), nothing)
    done = fit(foreign, start, nothing, 30, chunk=10, progress=False)
    assert (done.stopped, done.state.params.tolist()) == ("steps", [30.0] * 3)
    assert start.params.tolist() == [0.0] * 3


def test_run_gives_nothing_on() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    run(LEARN, start, data, 10)
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
