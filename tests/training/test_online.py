"""Online learning: the steps of a loop over a stream, and what ends a stream loses nothing."""

import signal
from collections.abc import Iterator
from itertools import islice
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import linear, serial, sgd, squared, tanh, trainer
from fnn.training import diagnostics, learn_online

NET = serial(fnn.dense(4, tanh), linear(1))


LEARN = trainer(NET, squared, fnn.adam(0.01), batch_size=4, running_loss_rate=0.1)


def stream(sizes: list[int], seed: int = 0, dtype: Any = np.float64) -> Iterator[Any]:
    generator = np.random.default_rng(seed)
    for n in sizes:
        x = generator.normal(size=(n, 3))
        yield x.astype(dtype), np.sin(x[:, :1]).astype(dtype)


def start(learn: Any = LEARN) -> Any:
    return learn.init(jax.random.key(0), next(stream([4])))


def test_learning_online_is_the_loop_of_updates() -> None:
    done = learn_online(LEARN, start(), stream([4] * 10), every=4)
    state, losses, running_losses, update = start(), [], [], jax.jit(LEARN.update)
    for batch in stream([4] * 10):
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))
        running_losses.append(float(metrics["running_loss"]))
    assert done.stopped == "end of stream"
    chex.assert_trees_all_close(done.state.params, state.params, rtol=1e-12)
    assert done.history["step"].tolist() == [4, 8, 10]
    assert done.history["examples"].tolist() == [16, 32, 40]
    for name, values in (("loss", losses), ("running_loss", running_losses)):
        means = [np.mean(values[:4]), np.mean(values[4:8]), np.mean(values[8:])]
        np.testing.assert_allclose(done.history[name], means, rtol=1e-12)


def test_a_row_of_the_history_is_a_hundred_steps() -> None:
    assert learn_online(LEARN, start(), stream([4] * 201)).history["step"].tolist() == [100, 200, 201]


def test_it_stops_after_steps_and_takes_no_batch_more() -> None:
    batches = stream([4] * 10)
    done = learn_online(LEARN, start(), batches, steps=7, every=7)
    assert (done.stopped, int(done.state.step), len(list(batches))) == ("steps", 7, 3)
    resumed = learn_online(LEARN, done.state, islice(stream([4] * 10), 7, None), steps=7)
    assert resumed.stopped == "end of stream"
    chex.assert_trees_all_equal(resumed.state, learn_online(LEARN, start(), stream([4] * 10)).state)
    assert resumed.history["step"].tolist() == [10]


def test_ctrl_c_keeps_what_is_done() -> None:
    def interrupted() -> Iterator[Any]:
        yield from stream([4] * 5)
        raise KeyboardInterrupt

    done = learn_online(LEARN, start(), interrupted(), every=2)
    assert (done.stopped, done.history["step"].tolist()) == ("interrupted", [2, 4, 5])
    chex.assert_trees_all_equal(done.state, learn_online(LEARN, start(), stream([4] * 5)).state)
    nothing = learn_online(LEARN, start(), islice(interrupted(), 5, None))
    assert (nothing.stopped, int(nothing.state.step)) == ("interrupted", 0)


def test_it_stops_where_the_loss_explodes() -> None:
    learn = trainer(linear(1), squared, sgd(1e6), batch_size=4)
    done = learn_online(learn, start(learn), stream([4] * 300), every=50)
    assert done.stopped == "diverged"
    assert int(done.state.step) < 300


def test_the_step_is_traced_once_for_each_size_of_batch() -> None:
    traces = []

    def counted(S: jax.Array) -> jax.Array:
        traces.append(S.shape)
        return jnp.tanh(S)

    learn = trainer(serial(fnn.dense(4, tanh._replace(value=counted)), linear(1)), squared, sgd(0.1), batch_size=4)
    state = start(learn)
    traces.clear()
    learn_online(learn, state, stream([4] * 6 + [2]))
    assert traces == [(4, 4), (2, 4)]


def test_a_stream_may_fill_one_array_over_and_over() -> None:
    def reusing() -> Iterator[Any]:
        x, y = np.empty((4, 3)), np.empty((4, 1))
        for x[...], y[...] in stream([4] * 50):
            yield x, y

    done = learn_online(LEARN, start(), reusing())
    chex.assert_trees_all_equal(done.state, learn_online(LEARN, start(), stream([4] * 50)).state)


def test_metrics_of_layers_have_their_history() -> None:
    learn = trainer(NET, squared, sgd(0.1), batch_size=4, metrics=diagnostics())
    history = learn_online(learn, start(learn), stream([4] * 6), every=3).history
    assert history["saturated"]["0 dense(4, tanh)"].shape == (2,)
    assert history["update_norm"].shape == (2,)


def test_single_precision_comes_from_streams_of_double_precision_as_from_arrays() -> None:
    with jax.enable_x64(False):
        single = learn_online(LEARN, start(), stream([4] * 6)).state.params
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(single))


def test_bad_streams_are_told_apart() -> None:
    (x, y), state = next(stream([4])), start()
    bad = [
        (TypeError, r"one pair of arrays\. Cut x and y into batches by minibatches", (x, y)),
        (TypeError, r"one array\. Cut x and y into batches by minibatches", x),
        (TypeError, r"got function\. Call it", stream),
        (TypeError, r"got int\. Write a generator", 3),
        (ValueError, "batch 1 of the stream: expected the arrays x, y of batch 0, got batch", iter([(x, y), x])),
        (TypeError, r"batch 0 of the stream: expected arrays, such as \(x, y\), got float for y\[0\]", [(x, [1.0])]),
        (ValueError, "batch 0 of the stream: expected equally many examples", [(x, y[:3])]),
        (ValueError, "got an empty stream. Make a new generator", iter(())),
        (ValueError, r"batch 1 of the stream: expected x of float64 \[n, 3\] as in batch 0, got float64 \[n, 2\]",
         [(x, y), (x[:, :2], y)]),
        (ValueError, r"batch 1 of the stream: expected y of float64 \[n, 1\] as in batch 0, got int64 \[n, 1\]",
         [(x, y), (x, y.astype(int))]),
    ]  # fmt: skip
    for error, message, batches in bad:
        with pytest.raises(error, match=message):
            learn_online(LEARN, state, batches)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every must be a whole number >= 1"):
        learn_online(LEARN, state, stream([4]), every=0)
    with pytest.raises(ValueError, match="steps must be a whole number >= 1"):
        learn_online(LEARN, state, stream([4]), steps=0)


@pytest.mark.parametrize(
    ("last", "error"),
    [
        (lambda: np.zeros((2, 3)), ValueError),
        (lambda: (np.zeros((4, 3)), 1.0), TypeError),
        (lambda: (np.zeros((4, 2)), np.zeros((4, 1))), ValueError),
        (lambda: (np.zeros((4, 3)), np.zeros((3, 1))), ValueError),
        (lambda: 1 // 0, ZeroDivisionError),
    ],
)
def test_an_error_of_a_batch_carries_what_those_before_it_taught(last: Any, error: type[Exception]) -> None:
    def broken() -> Iterator[Any]:
        yield from stream([4] * 5)
        yield last()

    with pytest.raises(error) as caught:
        learn_online(LEARN, start(), broken(), every=2)
    done: Any = caught.value.done  # type: ignore[attr-defined]
    whole = learn_online(LEARN, start(), stream([4] * 5), every=2)
    assert done.stopped == "error"
    chex.assert_trees_all_equal((done.state, done.history), (whole.state, whole.history))
    assert "in its attribute `done`" in caught.value.__notes__[-1]


def test_a_layer_that_refuses_the_last_batch_loses_none_before_it() -> None:
    learn = trainer(serial(fnn.batch_norm(), linear(1)), squared, sgd(0.1), batch_size=4)
    with pytest.raises(ValueError, match="at least 2 examples") as caught:
        learn_online(learn, start(learn), stream([4, 4, 1]))
    assert int(caught.value.done.state.step) == 2  # type: ignore[attr-defined]


def test_sigterm_keeps_what_is_done() -> None:
    def asked_to_end() -> Iterator[Any]:
        yield from stream([4] * 5)
        signal.raise_signal(signal.SIGTERM)
        yield from stream([4] * 5)

    done = learn_online(LEARN, start(), asked_to_end(), every=2)
    assert (done.stopped, done.history["step"].tolist()) == ("preempted", [2, 4, 5])
    chex.assert_trees_all_equal(done.state, learn_online(LEARN, start(), stream([4] * 5)).state)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_one_batch_of_nan_loses_what_was_learned_before_it_to_no_one() -> None:
    def spoiled() -> Iterator[Any]:
        for number, (x, y) in enumerate(stream([4] * 20)):
            yield (x * np.nan if number == 9 else x), y

    batches = spoiled()
    done = learn_online(LEARN, start(), batches, every=100)
    assert done.stopped == "diverged"
    assert not np.isfinite(done.state.params[1]["w"]).all()
    assert len(list(batches)) >= 20 - 9 - 3, "it goes on learning from NaN"
    chex.assert_trees_all_equal(done.best, learn_online(LEARN, start(), stream([4] * 8)).state)


def test_the_best_is_the_last_unless_training_diverged() -> None:
    done = learn_online(LEARN, start(), stream([4] * 5))
    chex.assert_trees_all_equal(done.best, done.state)
    late = trainer(NET, squared, sgd(lambda k: jnp.where(k == 4, jnp.inf, 0.1)), batch_size=4)
    done = learn_online(late, start(late), stream([4] * 5))
    assert (done.stopped, int(done.best.step)) == ("diverged", 4)
    assert np.isfinite(done.history["loss"]).all()


@pytest.mark.parametrize(("dtype", "value"), [(jnp.bfloat16, 1.0), (jnp.float16, 100.0), (jnp.float32, 0.1)])
def test_means_of_half_precision_lose_nothing(dtype: Any, value: float) -> None:
    def update(state: Any, batch: Any) -> Any:
        return state._replace(step=state.step + 1), {"loss": jnp.asarray(value, dtype)}

    found = learn_online(LEARN._replace(update=update), start(), stream([4] * 1000), every=1000).history["loss"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [np.float32(value)], rtol=1e-7)


def test_the_history_counts_beyond_the_largest_int32() -> None:
    late = start()._replace(step=jnp.asarray(2**31 - 2, jnp.int32))
    done = learn_online(LEARN, late, stream([4] * 4), every=2)
    assert done.history["step"].tolist() == [2**31, 2**31 + 2]
    assert int(done.state.step) == 2


def test_sizes_that_go_on_changing_are_warned_of_once() -> None:
    with pytest.warns(UserWarning, match=r"three sizes so far, \[1, 2, 4\] examples") as caught:
        learn_online(LEARN, start(), stream([4, 2, 4, 1, 3]))
    assert len(caught) == 1
