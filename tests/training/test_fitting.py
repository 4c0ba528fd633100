"""`fit`: a host loop that ends where `train` ends, shows how far it is, and loses nothing to whatever ends it."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Trainer, fit, linear, sgd, squared, train, trainer
from fnn.training import diagnostics, fitting
from tests.training.learners import LEARN, NET, problem, size_of_weights


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal: tests that are started in the background inherit that Ctrl-C is ignored."""
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, usual)


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

    def validate(state: Any) -> Any:
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


def validating(at: int, do: Callable[[], None]) -> Callable[[Any], Any]:
    """A validation by the size of the weights, which does something on the host when it is called for that time."""
    looks = []

    def look(size: np.ndarray) -> np.ndarray:
        looks.append(size)
        if len(looks) == at:
            do()
        return np.asarray(size)

    def validate(state: Any) -> Any:
        size = size_of_weights(state)
        return jax.pure_callback(look, jax.ShapeDtypeStruct((), size.dtype), size)

    return validate


def nothing_is_lost(done: fitting.Fitted, start: Any, data: Any, step: int) -> None:
    """After Ctrl-C: the state, the history and the best are of the same chunk, and the signal's handler is the old."""
    assert (done.stopped, int(done.state.step)) == ("interrupted", step)
    assert done.history["step"].tolist() == list(range(10, step + 1, 10))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((start, done.state, done.best)))
    if "validation" in done.history:
        assert int(done.best.step) == 10 * (1 + int(done.history["validation"].argmin()))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    chex.assert_trees_all_close(done.state.params, train(LEARN, start, data, step)[0].params, rtol=1e-12)


def test_ctrl_c_within_validate_keeps_its_chunk() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    validate = validating(at=2, do=lambda: signal.raise_signal(signal.SIGINT))
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
        frame = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == fitting.__file__:
            frame.f_trace, frame = trace, frame.f_back
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

    def validate(state: Any) -> Any:
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


def test_a_diverged_chunk_is_never_the_best() -> None:
    def step(state: fnn.TrainState, data: Any) -> tuple[fnn.TrainState, Any]:
        after, metrics = LEARN.step(state, data)
        return after, metrics | {"loss": jnp.where(after.step > 20, jnp.inf, metrics["loss"])}

    data = problem()
    learn = LEARN._replace(step=step)

    def validate(state: Any) -> Any:
        return size_of_weights(state)

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


# What ends it


def test_a_run_that_diverges_keeps_the_last_finite_state() -> None:
    data = problem()
    explode = trainer(linear(2), squared, sgd(lambda k: jnp.where(k < 25, 0.01, 1e200)), batch_size=8)
    start = explode.init(jax.random.key(0), data)
    done = fit(explode, start, data, 100, chunk=10, progress=False)
    assert (done.stopped, int(done.best.step)) == ("diverged", 20)
    assert not np.isfinite(done.state.params["w"]).all()
    chex.assert_trees_all_equal(done.best, train(explode, start, data, 20)[0])


@pytest.mark.parametrize("validate", [None, lambda state: jnp.zeros(())])
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
    validate = validating(at=2, do=lambda: signal.raise_signal(signal.SIGTERM))
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

    def failing() -> None:
        raise OSError("the disk is full")

    validate = validating(at=3, do=failing)
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


def test_fit_within_a_trace_is_told_what_to_take() -> None:
    data = problem()

    def final(eta: jax.Array) -> Any:
        learn = trainer(NET, squared, sgd(eta), batch_size=8)
        return fit(learn, learn.init(jax.random.key(0), data), data, 10).history["loss"]

    with pytest.raises(
        TypeError, match=r"outside of jit, vmap and grad, got one inside\. Use train or train_with_early_stopping"
    ):
        jax.vmap(final)(jnp.array([0.1, 0.2]))


def test_a_signal_that_an_error_overtakes_is_told_with_it() -> None:
    data = problem()

    def failing() -> None:
        signal.raise_signal(signal.SIGTERM)
        raise OSError("the disk is full")

    validate = validating(at=2, do=failing)
    with pytest.raises(Exception, match="the disk is full") as caught:
        fit(LEARN, LEARN.init(jax.random.key(0), data), data, 100, chunk=10, validate=validate, progress=False)
    assert "SIGTERM arrived meanwhile." in caught.value.__notes__


def test_what_fit_cannot_judge_is_told_before_it_begins() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    with pytest.raises(ValueError, match="validate: expected a function that returns a scalar float"):
        fit(LEARN, start, data, 10, validate=lambda state: jnp.zeros(2))
    silent = LEARN._replace(step=lambda state, data: (state, {"error": jnp.zeros(())}))
    with pytest.raises(ValueError, match='metrics are a dict with the "loss" of a step'):
        fit(silent, start, data, 10)


# on_chunk


def test_on_chunk_sees_every_state_and_row_and_may_end_the_run() -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    seen: list[Any] = []

    def look(state: Any, row: dict[str, Any]) -> bool:
        seen.append((jax.device_get(state), row))
        return len(seen) == 3

    done = fit(LEARN, start, data, 100, chunk=10, on_chunk=look, validate=size_of_weights, progress=False)
    assert done.stopped == "on_chunk"
    assert [int(row["step"]) for _, row in seen] == done.history["step"].tolist() == [10, 20, 30]
    for state, row in seen:
        want = train(LEARN, start, data, int(row["step"]))[0]
        chex.assert_trees_all_equal(state.params, jax.device_get(want.params))
        assert row["validation"] == size_of_weights(want)
    chex.assert_trees_all_equal(seen[-1][0].params, jax.device_get(done.state.params))


def test_an_error_in_on_chunk_carries_its_chunk() -> None:
    data = problem()

    def fail(state: Any, row: Any) -> None:
        if row["step"] == 20:
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room") as caught:
        fit(LEARN, LEARN.init(jax.random.key(0), data), data, 40, chunk=10, on_chunk=fail, progress=False)
    assert caught.value.done.history["step"].tolist() == [10, 20]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("found", "stopped"), [(jnp.bool_(True), "on_chunk"), (np.False_, "steps"), (None, "steps")])
def test_what_on_chunk_returns(found: Any, stopped: str) -> None:
    data = problem()
    start = LEARN.init(jax.random.key(0), data)
    options: dict[str, Any] = {"chunk": 10, "progress": False}
    assert fit(LEARN, start, data, 20, on_chunk=lambda state, row: found, **options).stopped == stopped
    for strange in ("done", 1, [True]):
        with pytest.raises(TypeError, match="on_chunk: expected None or a bool"):
            fit(LEARN, start, data, 20, on_chunk=lambda state, row, found=strange: found, **options)


def test_on_chunk_is_a_function() -> None:
    data = problem()
    with pytest.raises(TypeError, match="on_chunk must be a function"):
        fit(LEARN, LEARN.init(jax.random.key(0), data), data, 40, on_chunk="log", progress=False)  # pyright: ignore
