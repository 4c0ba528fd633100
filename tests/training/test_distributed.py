"""Several processes on the loopback interface: the bits of several devices of one process, the numbers of one device.

P×D stands for P processes of D devices each.
"""

import os
import pickle
import shutil
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import backprop, second_derivatives, sgd, shuffled, softmax_cross_entropy, train, trainer
from fnn.data import shuffled_whole
from fnn.derivatives import microbatched
from fnn.pruning import obd, prune, pruner, sparse
from fnn.training import divided, everywhere, global_batch, mesh, own_rows
from fnn.training._chunks import chunks
from fnn.training._claims import Claim
from tests.training import workers

ROOT = Path(__file__).parents[2]
TIMEOUT = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the jobs; the tests are skipped where JAX's own processes do not reach each other."""
    made = tmp_path_factory.mktemp("workers")
    try:
        greetings = run(made, "hello", 2, 1)
    except (AssertionError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"two processes of JAX do not reach each other here: {str(error)[-300:]}")
    assert [said.tolist() for said in greetings] == [[0, 1]] * 2
    return made


def run(folder: Path, job: str, processes: int, devices: int, **environment: str) -> list[Any]:
    """What each process of a job returns; all are ended if one fails or none answers in time."""
    port, cache_folder = str(free_port()), str(folder / "cache")
    settings = (
        os.environ
        | environment
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": cache_folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
        }
    )
    outs = [folder / f"{job}-{processes}x{devices}-{rank}" for rank in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, workers.__file__, job, str(rank), str(processes), port, str(devices), str(out)],
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    try:
        said = [process.communicate(timeout=TIMEOUT)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert not any(process.returncode for process in started), "\n".join(text[-3000:] for text in said)
    return [pickle.loads(out.read_bytes()) for out in outs]


@cache
def once(folder: Path, job: str, processes: int, devices: int) -> list[Any]:
    return run(folder, job, processes, devices)


@pytest.mark.parametrize("job", ["sweeps", "training", "streams", "fits"])
def test_two_processes_have_the_bits_of_two_devices(folder: Path, job: str) -> None:
    """2×1 = 1×2, in every process."""
    (want,) = once(folder, job, 1, 2)
    for found in once(folder, job, 2, 1):
        chex.assert_trees_all_equal_dtypes(found, want)
        assert workers.bits(found) == workers.bits(want)


@pytest.mark.parametrize("job", ["training", "streams", "fits"])
def test_training_on_several_devices_is_that_on_one(folder: Path, job: str) -> None:
    (one,) = once(folder, job, 1, 1)
    (two,) = once(folder, job, 1, 2)
    chex.assert_trees_all_close(two, one, rtol=2e-5, atol=2e-6)


def test_in_float64_three_processes_are_one_device_to_rounding(folder: Path) -> None:
    (one,) = run(folder, "training", 1, 1, X64="1")
    for found in run(folder, "training", 3, 1, X64="1"):
        chex.assert_trees_all_close(found, one, rtol=1e-12, atol=1e-13)


def test_a_sharding_of_the_weights_is_kept(folder: Path) -> None:
    ((_, one),) = once(folder, "tensor_parallel", 1, 1)
    ((kept, two),) = once(folder, "tensor_parallel", 1, 2)
    assert kept
    chex.assert_trees_all_close(two, one, rtol=2e-5, atol=2e-6)
    for kept, found in once(folder, "tensor_parallel", 2, 1):
        assert kept
        assert workers.bits(found) == workers.bits(two)


SAID = {
    "seeds": "ValueError: everywhere: the tree: expected the same in all 2 processes, got others in process 1 than in "
    "process 0 (params.0.w differs). Make it from the same seed and the same data in every process.",
    "data": "(0 differs)",
    "shapes": "(a differs)",
    "structures": "(its structure differs)",
    "keys": "ValueError: sweep: keys and values: expected the same in all 2 processes, got others in process 1",
    "values": "sweep: keys and values: expected the same in all 2 processes",
    "devices": "devices: expected devices of all 2 processes, or of this one alone, got those of",
    "rows": "own_rows: expected a batch_size that is a multiple of the 2 devices on axis 'data', got 13. Take 12.",
    "axis": "divided: expected an axis of the mesh, one of ['data'], got 'model'",
    "explicit": "divided: expected axes of type Auto, got axis 'data' of another",
    "fit": "ValueError: resumable_fit: expected a state on the devices of all 2 processes, got params.0.b on those of "
    "one. Pass fnn.training.everywhere(state, mesh).",
    "sweep": "resumable_sweep: expected the same in all 2 processes, got others in process 1 than in process 0",
    "folder": "sweep.json, which process 0 sees, got none. Use a folder that all processes see.",
    "sizes": "mesh: expected axes whose product is the number of devices, 2, got {'data': 7}",
}


def test_what_cannot_be_is_told_in_every_process(folder: Path) -> None:
    for said, same in run(folder, "refusals", 2, 1, FOLDER=str(folder / "refused")):
        assert said.keys() == SAID.keys()
        for name, words in SAID.items():
            assert words in said[name], name
        assert same["a"].tolist() == [0, 1, 2]


def test_the_pieces_of_a_sweep_are_dealt_and_a_killed_process_is_made_up_for(folder: Path) -> None:
    """Killed in turn, restarted on two, on three and on one: the bits of one process."""
    (want,) = run(folder, "pieces", 1, 1, FOLDER=str(folder / "whole"))
    for found in run(folder, "pieces", 2, 1, FOLDER=str(folder / "halves")):
        assert workers.bits(found) == workers.bits(want)
    for end, processes in (("two", 2), ("one", 1)):
        place = folder / end
        for rank in ("1", "0"):
            with pytest.raises(AssertionError):
                run(folder, "pieces", 2, 1, FOLDER=str(place), KILLED=rank)
        assert 2 <= len(list(place.glob("piece-*.npz"))) < 5
        for found in run(folder, "pieces", processes, 1, FOLDER=str(place)):
            assert workers.bits(found) == workers.bits(want)


def test_a_fit_of_several_processes_goes_on_after_kills_with_any_number_of_them(folder: Path) -> None:
    """Either process is killed; two processes and two devices of one end with the bits of the whole run, three near."""
    (want,) = run(folder, "stored", 1, 2, FOLDER=str(folder / "unbroken"))
    place = folder / "broken"
    for rank, step in ((1, 15), (0, 35)):
        with pytest.raises(AssertionError):
            run(folder, "stored", 2, 1, FOLDER=str(place), KILLED=str(rank), AT=str(step))
        assert not place.joinpath("chunks", f"chunk_{step // 5 + 1}").exists()
    for processes, devices in ((2, 1), (1, 2), (3, 1)):
        copy = folder / f"{processes}x{devices}"
        shutil.copytree(place, copy)
        for found in run(folder, "stored", processes, devices, FOLDER=str(copy)):
            assert found[0] == want[0] == "steps"
            assert found[1][2]["step"].tolist() == list(range(5, 65, 5))
            if processes < 3:
                assert workers.bits(found[1]) == workers.bits(want[1])
            chex.assert_trees_all_close(found[1], want[1], rtol=2e-4, atol=2e-5)
    assert sorted(path.name for path in (folder / "2x1" / "chunks").iterdir()) == ["chunk_11", "chunk_12"]


def test_several_processes_go_on_where_one_has_begun_and_parts_of_weights_are_kept(folder: Path) -> None:
    place = str(folder / "parts")
    for steps, processes, devices in ((10, 1, 2), (20, 2, 1), (30, 1, 2), (40, 2, 1)):
        found = run(folder, "stored_parts", processes, devices, FOLDER=place, STEPS=str(steps))
    (want,) = run(folder, "stored_parts", 1, 2, FOLDER=str(folder / "whole_parts"), STEPS="40")
    for kept, state in found:
        assert kept
        assert workers.bits(state) == workers.bits(want[1])


def test_a_fit_that_is_stored_is_preempted_again_and_again_and_stored_as_it_ended(folder: Path) -> None:
    """SIGTERM to one process, in calls whose chunks have other numbers than JAX's looks for it."""
    place, before = folder / "preempted", 0
    for _ in range(2):
        one, other = run(folder, "stops", 2, 1, HOW="preempted", FOLDER=str(place))
        assert one[0] == other[0] == "preempted"
        steps = one[1]
        assert other[1] == steps
        assert workers.bits(one[2]) == workers.bits(other[2])
        assert before + 2 <= len(steps) < before + 100
        assert (place / "chunks" / f"chunk_{len(steps)}").exists()
        before = len(steps)


TREE = {"w": np.arange(3, dtype=np.float32), "key": jax.random.key(7), "narrow": jnp.ones(2, jnp.bfloat16)}


@pytest.mark.filterwarnings("ignore")  # those of orbax
def test_checkpoints_are_compared_before_they_are_restored(tmp_path: Path) -> None:
    (tmp_path / "chunks").mkdir()
    mine, others = (Claim(tmp_path, "fit", "chunk", {"rows": rows}) for rows in (1, 2))
    with chunks(mine, 2) as kept:
        for number in (3, 4):
            kept.checkpoint(number, TREE)
    with chunks(mine, 2) as kept:
        found = kept.last(lambda number: TREE)
        chex.assert_trees_all_equal_dtypes(*(tree | {"key": np.zeros(1)} for tree in (found, TREE)))
        assert workers.bits(found) == workers.bits(TREE)
        with pytest.raises(ValueError, match=r"chunk 4 .* with 0002 w float64 \[3\], got float32 \[3\]\. Use another"):
            kept.last(lambda number: TREE | {"w": np.arange(3.0)})
        with pytest.raises(ValueError, match=r"with 0003 x float64 \[1\], got none\. Use another folder"):
            kept.last(lambda number: TREE | {"x": np.ones(1)})
        with pytest.raises(ValueError, match=r"with 0002 w absent, got float32 \[3\]"):
            kept.last(lambda number: {"key": TREE["key"], "narrow": TREE["narrow"]})
    with chunks(others, 2) as kept, pytest.raises(ValueError, match="of this fit, got one of another fit"):
        kept.last(lambda number: TREE)
    for path in (tmp_path / "chunks" / "chunk_4").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with (
        chunks(mine, 2) as kept,
        pytest.raises(ValueError, match=r"chunk 4 .* to be whole, got a damaged one .*Remove it"),
    ):
        kept.last(lambda number: TREE)
    shutil.rmtree(tmp_path / "chunks" / "chunk_4")
    with chunks(mine, 2) as kept:
        assert workers.bits(kept.last(lambda number: TREE)) == workers.bits(TREE)


def test_everywhere_gathers_what_is_divided(folder: Path) -> None:
    for found in run(folder, "gathers", 2, 1):
        assert found["rows"].tolist() == list(range(12))
        assert found["again"] == [True, True]


def test_orbax_is_asked_for_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    (tmp_path / "chunks").mkdir()
    with (
        pytest.raises(ImportError, match=r"pip install 'fnn\[checkpoints\]'"),
        chunks(Claim(tmp_path, "fit", "chunk", {}), 2),
    ):
        pass


def test_any_folder_is_begun_by_all_at_once(folder: Path) -> None:
    for names in run(folder, "claims", 2, 1, FOLDER=str(folder / "many")):
        assert names == ["sweep.json"] * 200


@pytest.mark.parametrize("how", ["interrupted", "preempted", "on_chunk"])
def test_all_processes_stop_after_the_same_chunk(folder: Path, how: str) -> None:
    one, other = run(folder, "stops", 2, 1, HOW=how)
    assert one[:2] == other[:2]
    assert one[0] == how
    assert 20 <= one[1][-1] < 3000
    assert workers.bits(one[2]) == workers.bits(other[2])


# In one process


def test_a_divided_draw_is_the_draw() -> None:
    whole = mesh(jax.devices()[:3])
    key = jax.random.key(0)
    for step in (0, 5):
        np.testing.assert_array_equal(divided(shuffled, whole)(key, step, 20, 6), shuffled(key, step, 20, 6))
    assert own_rows(6, whole) == slice(0, 6)
    batch = global_batch({"a": np.arange(6)}, whole)
    assert [shard.data.tolist() for shard in batch["a"].addressable_shards] == [[0, 1], [2, 3], [4, 5]]


def test_everywhere_puts_keys_and_committed_arrays_on_all_devices() -> None:
    whole = mesh(jax.devices()[:2])
    bound = jax.device_put(jnp.arange(3.0), jax.devices()[2])
    found = everywhere({"a": bound, "key": jax.random.key(3), "none": None}, whole)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found))
    assert found["a"].tolist() == [0, 1, 2]
    assert jax.random.key_data(found["key"]).tolist() == jax.random.key_data(jax.random.key(3)).tolist()


@pytest.mark.parametrize("strange", [2, "mesh", None])
def test_a_mesh_is_a_mesh(strange: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a mesh, got .*Make one by fnn\.training\.mesh"):
        everywhere({"a": jnp.ones(1)}, strange)
    with pytest.raises(TypeError, match=r"divided: expected a mesh"):
        divided(shuffled, strange)


def test_weighted_means_are_those_of_all_devices_shares() -> None:
    """An epoch's remainder, whose weights of 0 fall on the last device: the mean is over the whole batch's weights."""
    whole = mesh(jax.devices()[:3])
    net, weights = workers.NETS["dense"], jnp.linspace(0.5, 2, 70)
    data = (*workers.data(), weights)
    found = []
    for draw in (shuffled_whole, divided(shuffled_whole, whole)):
        learn = trainer(net, softmax_cross_entropy, sgd(0.1), batch_size=12, draw=draw)
        state = learn.init(jax.random.key(0), data)
        if draw is not shuffled_whole:
            state, data = everywhere((state, data), whole)
        found.append(train(learn, state, data, 12, every=6))  # 70 = 5 · 12 + 10
    (one, metrics), (divided_one, divided_metrics) = found
    chex.assert_trees_all_close(divided_one.params, one.params, rtol=1e-12)
    chex.assert_trees_all_close(divided_metrics, metrics, rtol=1e-12)


def test_second_derivatives_and_microbatches_of_a_divided_batch_are_those_of_one_device() -> None:
    whole = mesh(jax.devices()[:3])
    net, key = workers.NETS["dense"], jax.random.key(3)
    batch = jax.tree.map(lambda leaf: leaf[:12], workers.data())
    params, state = net.init(jax.random.key(0), batch[0])
    divided_batch = global_batch(batch, whole)
    gradient = backprop(net, softmax_cross_entropy)
    for of in (second_derivatives(net, softmax_cross_entropy), microbatched(gradient, 4)):
        one = jax.jit(of)(params, state, batch, key)
        several = jax.jit(of)(*everywhere((params, state), whole), divided_batch, everywhere(key, whole))
        chex.assert_trees_all_close(several, one, rtol=1e-12, atol=1e-14)


def test_all_processes_leave_a_stream_after_the_same_row(folder: Path) -> None:
    one, other = run(folder, "stops_online", 2, 1)
    assert one[:2] == other[:2] == ("interrupted", [10, 20, 30])
    assert workers.bits(one[2]) == workers.bits(other[2])


def test_pruning_of_divided_batches_is_that_on_one_device() -> None:
    whole, net, found = mesh(jax.devices()[:3]), workers.NETS["dense"], []
    for draw in (shuffled, divided(shuffled, whole)):
        learn = trainer(net, softmax_cross_entropy, sparse(sgd(0.1)), batch_size=12, draw=draw)
        state, data = learn.init(jax.random.key(0), workers.data()), workers.data()
        if draw is not shuffled:
            state, data = everywhere((state, data), whole)
        x, y = data
        loss = lambda params, state, x=x, y=y: jnp.mean(  # noqa: E731
            softmax_cross_entropy.value(net.apply(params, state, x), y)
        )
        state, _ = train(learn, state, data, 20)
        rounds = pruner(learn, obd(net, softmax_cross_entropy), loss, amount=5, retrain=10)
        found.append(prune(rounds, state, data, 2))
    (one, _), (several, _) = found
    chex.assert_trees_all_equal(several.links, one.links)
    chex.assert_trees_all_close(several.state.params, one.state.params, rtol=1e-10)
