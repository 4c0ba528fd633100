"""Mini-batches of samples on the disk: every example once an epoch, in an order of its own, in bounded memory.

``python tests/data/test_streams.py`` learns from 10 million memory-mapped examples and prints the peak memory.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import linear, sgd, trainer
from fnn.data import memory_mapped, minibatches
from fnn.training import learn_online

# Mini-batches of samples on the disk


def stored(folder: Path, size: int) -> tuple[Any, Any]:
    """Examples that carry their number in every feature and in the target."""
    np.save(folder / "x.npy", np.arange(size, dtype=np.float32)[:, None] * np.ones(3, np.float32))
    np.save(folder / "y.npy", np.arange(size, dtype=np.int32))
    return memory_mapped(folder / "x.npy", folder / "y.npy")


@pytest.mark.parametrize(("contiguous", "buffer"), [(1, 8), (4, 20), (7, 1000), (64, None)])
def test_an_epoch_has_every_example_once_and_each_epoch_its_own_order(
    tmp_path: Path, contiguous: int, buffer: int | None
) -> None:
    x, y = stored(tmp_path, 103)
    cut = minibatches((x, y), 5, jax.random.key(3), epochs=2, contiguous=contiguous, buffer=buffer)
    epochs = np.array([batch[1] for batch in cut]).reshape(2, 20, 5)
    for epoch in epochs:
        assert len(np.unique(epoch)) == 100
    assert len(np.unique(epochs)) > 100  # other examples are left out
    assert (epochs[0] != epochs[1]).any()
    assert (np.diff(epochs.reshape(2, -1)) != 1).mean() > 0.9


def test_examples_keep_their_targets_and_the_key_decides(tmp_path: Path) -> None:
    x, y = stored(tmp_path, 103)
    first, again, other = (list(minibatches((x, y), 5, jax.random.key(k), contiguous=4, buffer=20)) for k in (3, 3, 4))
    for batch_x, batch_y in first:
        assert (batch_x.dtype, batch_y.dtype, batch_x.shape) == (np.float32, np.int32, (5, 3))
        np.testing.assert_array_equal(batch_x, batch_y[:, None] * np.ones(3))
    chex.assert_trees_all_equal(first, again)
    assert any((one[1] != another[1]).any() for one, another in zip(first, other, strict=True))


def test_runs_of_neighbours_come_in_uniform_order() -> None:
    """χ² of the 24 orders of 4 runs, with 23 degrees of freedom, over 600 epochs: below 52 with probability 0.9995."""
    x = np.arange(8)
    cut = minibatches((x, x), 2, jax.random.key(0), epochs=600, contiguous=2, buffer=2)
    epochs = np.array([batch[1] for batch in cut]).reshape(600, 4, 2)
    assert (epochs.max(2) - epochs.min(2) == 1).all()
    orders, counts = np.unique(epochs.min(2), axis=0, return_counts=True)
    assert len(orders) == 24
    assert np.sum((counts - 25) ** 2 / 25) < 52


def test_a_buffer_is_shuffled_whole() -> None:
    """Every place of the buffer is equally likely: χ² with 15 degrees of freedom, below 40 in 0.9995 of cases."""
    x = np.arange(16)
    cut = minibatches((x, x), 4, jax.random.key(0), epochs=800, contiguous=4)
    places = np.argmax(np.array([batch[1] for batch in cut]).reshape(800, 16) == 5, axis=1)
    assert np.sum((np.bincount(places, minlength=16) - 50) ** 2 / 50) < 40


class Counted:
    """A sample that counts the examples read of it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype, self.read = array, array.shape, array.dtype, 0

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, part: slice) -> np.ndarray:
        found = self.array[part]
        self.read += len(found)
        return found


@pytest.mark.parametrize(
    ("contiguous", "buffer", "first"),
    [(1, 10, 10), (3, 10, 9), (3, 3, 3), (4, 1000, 60), (7, 30, 28), (7, 60, {53, 56})],
)
def test_a_buffer_holds_as_many_runs_as_fit_into_it(contiguous: int, buffer: int, first: Any) -> None:
    x = Counted(np.arange(60))
    batches = minibatches((x, x), 3, jax.random.key(5), epochs=1, contiguous=contiguous, buffer=buffer)
    next(batches)
    assert x.read / 2 in (first if isinstance(first, set) else {first})
    assert len(list(batches)) == 19
    assert x.read == 2 * 60


@pytest.mark.parametrize(
    ("width", "contiguous", "first"), [(1, 1, 25), (4, 1, 10), (24, 1, 2), (99, 1, 2), (24, 5, 5), (4, 3, 9)]
)
def test_a_buffer_nobody_asked_for_holds_so_many_bytes(
    monkeypatch: pytest.MonkeyPatch, width: int, contiguous: int, first: int
) -> None:
    """Of 4·width + 4 bytes an example as many as fit into 200 bytes, but a batch and a run of neighbours at least."""
    monkeypatch.setattr("fnn.data.streams._BUFFER_BYTES", 200)
    x, y = Counted(np.zeros((60, width), np.float32)), np.zeros(60, np.int32)
    next(minibatches((x, y), 2, jax.random.key(5), contiguous=contiguous))
    assert x.read == first


def test_an_endless_stream_of_any_sliceable_sample() -> None:
    class Dataset:
        """As an HDF5 data set: shape, dtype, length and slices, and nothing else."""

        def __init__(self, array: np.ndarray) -> None:
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __len__(self) -> int:
            return len(self.array)

        def __getitem__(self, part: slice) -> np.ndarray:
            assert isinstance(part, slice)
            return self.array[part]

    x = np.arange(10)
    expected = list(minibatches((x, x), 3, jax.random.key(0), epochs=3, contiguous=2))
    for sample in (Dataset(x), jnp.arange(10)):
        got = list(islice(minibatches((sample, sample), 3, jax.random.key(0), epochs=None, contiguous=2), 9))
        chex.assert_trees_all_equal(got, expected)


def test_what_was_written_to_a_private_or_shared_map_is_kept(tmp_path: Path) -> None:
    stored(tmp_path, 5000)
    for mode in ("c", "r+"):
        x = np.load(tmp_path / "x.npy", mmap_mode=mode)
        x[:, 0] = -1
        for view in (x[10:], np.asarray(x)[10:]):
            assert all((batch[:, 0] == -1).all() for batch, _ in minibatches((view, view), 10, jax.random.key(0)))
        assert (x[:, 0] == -1).all()


def test_bad_samples_are_told_apart(tmp_path: Path) -> None:
    x, y = stored(tmp_path, 10)
    key = jax.random.key(0)
    bad: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        (r"equally many examples in all arrays, at least one, got x of shape \(10,.* and y of", ((x, y[:3]), 2), {}),
        ("expected at most the 10 examples of the sample in a batch, got batch_size 11", ((x, y), 11), {}),
        ("a batch of 4 and a run of 8 examples, got 6", ((x, y), 4), {"contiguous": 8, "buffer": 6}),
        ("contiguous must be a whole number >= 1", ((x, y), 4), {"contiguous": 0}),
        ("epochs must be a whole number >= 1", ((x, y), 4), {"epochs": 0}),
    ]
    for message, arguments, options in bad:
        with pytest.raises(ValueError, match=message):
            minibatches(*arguments, key=key, **options)
    with pytest.raises(TypeError, match=r"minibatches: expected arrays, such as \(x, y\), got float for x"):
        minibatches(([1.0], y), 2, key)
    np.save(tmp_path / "columns.npy", np.asfortranarray(np.ones((10, 3))))
    with pytest.raises(ValueError, match="in Fortran order"):
        memory_mapped(tmp_path / "columns.npy", tmp_path / "y.npy")
    np.save(tmp_path / "short.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"and 3 targets in .*short\.npy"):
        memory_mapped(tmp_path / "x.npy", tmp_path / "short.npy")


def test_a_trainer_starts_from_a_memory_map_without_reading_it(tmp_path: Path) -> None:
    x, y = stored(tmp_path, 100)
    with jax.enable_x64(False):
        learn = trainer(linear(200), fnn.softmax_cross_entropy, sgd(0.1), batch_size=10)
        whole, few = (learn.init(jax.random.key(0), data) for data in ((x, y), (x[:10], y[:10])))
        chex.assert_trees_all_equal(whole.params, few.params)
        done = learn_online(learn, few, minibatches((x, y), 10, jax.random.key(1)))
    assert (done.stopped, int(done.state.step)) == ("end of stream", 10)
    x: Any = np.lib.format.open_memmap(tmp_path / "x.npy", "r+")
    x[50] = np.nan
    learn.init(jax.random.key(0), (x, y))
    with pytest.raises(ValueError, match="NaN or infinity in x"):
        learn.init(jax.random.key(0), (jnp.array(x), y))


# Bounded memory, in a process of its own


EMPTY = """
import jax, jax.numpy as jnp
jax.jit(lambda x: x @ x)(jnp.ones((8, 8))).block_until_ready()
"""


LEARNING = """
import json, sys, time
import jax, numpy as np
from fnn import dense, linear, serial, sgd, squared, tanh, trainer
from fnn.training import learn_online
from fnn.data import memory_mapped, minibatches

folder, contiguous = sys.argv[1], int(sys.argv[2])
x, y = memory_mapped(folder + "/x.npy", folder + "/y.npy")
learn = trainer(serial(dense(16, tanh), linear(1)), squared, sgd(0.1), batch_size=1000)
state = learn.init(jax.random.key(0), (x, y) if sys.argv[3] == "all" else (x[:1000], y[:1000]))
begin = time.perf_counter()
done = learn_online(learn, state, minibatches((x, y), 1000, jax.random.key(1), contiguous=contiguous))
result = {"examples": int(done.history["examples"][-1]), "loss": [float(done.history["loss"][i]) for i in (0, -1)]}
result["seconds"] = time.perf_counter() - begin
"""


PEAK = """
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps(result | {name: int(lines[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon", "RssFile")}))
"""


def store_linear_sample(folder: Path, size: int, width: int) -> None:
    """Written chunk by chunk: x normal, y = x_1."""
    generator = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (size, width))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.float32, (size, 1))
    for first in range(0, size, 100_000):
        part = generator.standard_normal((min(100_000, size - first), width), np.float32)
        x[first : first + len(part)], y[first : first + len(part)] = part, part[:, :1]
    x.flush()
    y.flush()


def in_a_process(program: str, *arguments: str) -> dict[str, Any]:
    """What the program says, and its peak and last resident memory in MB."""
    program = f"import json\nresult = {{}}\n{program}\n{PEAK}"
    run = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_sample(tmp_path: Path) -> None:
    """The files take 204 MB; what the process takes besides an empty one is compiled code and a buffer of 32 MB."""
    store_linear_sample(tmp_path, 1_000_000, 50)
    empty, done = in_a_process(EMPTY), in_a_process(LEARNING, str(tmp_path), "64", "few")
    assert done["examples"] == 1_000_000
    assert done["loss"][-1] < 0.1 < done["loss"][0]
    assert done["VmHWM"] - empty["VmHWM"] < 170


def ten_million() -> None:
    """Learn from 10 million examples of 16 features, 680 MB in two files, and print the peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        store_linear_sample(Path(folder), 10_000_000, 16)
        empty = in_a_process(EMPTY)
        print("an empty JAX process:", empty)
        for contiguous, first in (("64", "few"), ("64", "all"), ("1", "few")):
            done = in_a_process(LEARNING, folder, contiguous, first)
            print(f"contiguous={contiguous}, init from {first}: +{done['VmHWM'] - empty['VmHWM']} MB", done)


if __name__ == "__main__":
    warnings.simplefilter("error")
    ten_million()


def test_minibatches_of_any_pytree_keep_its_rows_together() -> None:
    rows = np.arange(20)
    sample = {"image": rows[:, None] * np.ones(3), "text": (rows, rows.astype(np.float32)), "weight": jnp.asarray(rows)}
    seen = []
    for batch in minibatches(sample, 6, jax.random.key(0), contiguous=3):
        assert jax.tree.structure(batch) == jax.tree.structure(sample)
        number = batch["text"][0]
        for leaf in (batch["image"][:, 0], batch["text"][1], batch["weight"]):
            np.testing.assert_array_equal(leaf, number)
        assert batch["text"][1].dtype == np.float32
        seen += number.tolist()
    assert len(seen) == len(set(seen)) == 18
