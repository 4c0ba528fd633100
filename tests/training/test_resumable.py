"""Resumable sweeps: the results of a sweep, whatever interrupted it, and no folder of another sweep touched."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from threading import Barrier
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import linear, squared, sweep, train, trainer
from fnn.training import resumable, resumable_fit, resumable_sweep
from fnn.training._claims import Claim
from tests.training import killed

KEYS = jax.random.split(jax.random.key(0), 5)
GRID: dict[str, Any] = {"eta": [0.1, 0.2, 0.3], "gamma": [0.0, 0.9]}
X = jax.random.normal(jax.random.key(1), (30, 3))


def experiment(key: jax.Array, eta: Any, gamma: Any) -> dict[str, Any]:
    learn = trainer(linear(2), squared, fnn.momentum(eta, gamma), batch_size=5)
    state, metrics = train(learn, learn.init(key, (X, X[:, :2])), (X, X[:, :2]), 10)
    return {"state": state, "loss": metrics["loss"], "narrow": metrics["loss"].astype(jnp.bfloat16)}


def resumed(folder: Path, experiment: Any = experiment, keys: Any = KEYS, **options: Any) -> Any:
    return resumable_sweep(folder, experiment, keys, progress=False, **(GRID | options))


def pieces(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npz"))


def test_it_gives_what_sweep_gives_keys_and_narrow_floats_included(tmp_path: Path) -> None:
    found, expected = resumed(tmp_path, pieces=4), sweep(experiment, KEYS, **GRID)
    assert len(pieces(tmp_path)) == 4
    words, expected_words = (jax.random.key_data(r["state"].key) for r in (found, expected))
    np.testing.assert_array_equal(words, expected_words)
    plain = [r | {"state": r["state"]._replace(key=())} for r in (found, expected)]
    chex.assert_trees_all_equal_dtypes(*plain)
    chex.assert_trees_all_close(*plain, rtol=1e-9)


def test_an_interrupted_sweep_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran, run_rows = [], resumable.run_rows

    def interrupting(*args: Any) -> Any:
        if len(ran) == 2:
            ran.append("interrupted")
            raise KeyboardInterrupt
        ran.append(args[1][2]["eta"][0])
        return run_rows(*args)

    monkeypatch.setattr(resumable, "run_rows", interrupting)
    with pytest.raises(KeyboardInterrupt):
        resumed(tmp_path, pieces=5)
    assert pieces(tmp_path) == ["piece-0000.npz", "piece-0001.npz"]
    found = resumed(tmp_path, pieces=5)
    assert len(ran) == 6  # three pieces more, none twice
    chex.assert_trees_all_close(found["loss"], sweep(experiment, KEYS, **GRID)["loss"], rtol=1e-9)
    resumed(tmp_path, pieces=5)
    assert len(ran) == 6


def test_a_piece_is_kept_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*args: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    monkeypatch.setattr("os.link", full_disk)
    with pytest.raises(OSError, match="no space left"):
        resumed(tmp_path)
    assert not pieces(tmp_path)
    assert not list(tmp_path.glob("*.json"))
    monkeypatch.undo()
    chex.assert_trees_all_close(resumed(tmp_path)["loss"], sweep(experiment, KEYS, **GRID)["loss"], rtol=1e-9)


@pytest.mark.parametrize(
    "change",
    [
        {"keys": jax.random.split(jax.random.key(9), 5)},
        {"eta": [0.1, 0.2, 0.4]},
        {"pieces": 3},
        {"experiment": lambda key, eta, gamma: experiment(key, eta, gamma)["loss"]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_folder_of_another_sweep_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    resumed(tmp_path, pieces=2)
    with pytest.raises(ValueError, match="got another sweep"):
        resumed(tmp_path, **({"pieces": 2} | change))


def test_arrays_in_the_experiment_count(tmp_path: Path) -> None:
    for scale in (1.0, 1.0, 2.0):
        weights = scale * np.arange(3.0)
        closing = lambda key, eta, gamma, weights=weights: jax.random.uniform(key) * jnp.asarray(weights)  # noqa: E731
        if scale == 1:
            resumed(tmp_path, closing)
        else:
            with pytest.raises(ValueError, match="got another sweep"):
                resumed(tmp_path, closing)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match=r"with thesis\.tex\. Use another folder"):
        resumed(tmp_path)


def test_every_piece_runs_the_same_program(tmp_path: Path) -> None:
    traces = []

    def counted(key: jax.Array, eta: jax.Array, gamma: jax.Array) -> jax.Array:
        traces.append(eta)
        return eta * jax.random.normal(key)

    resumed(tmp_path, counted, pieces=4)  # 30 rows in pieces of 8: the last is filled up
    assert len(traces) == 2  # one for the fingerprint, one for the program


def test_another_process_knows_the_sweep_again(tmp_path: Path) -> None:
    code = f"""
import jax, fnn
from fnn.training import resumable_sweep
def experiment(key, eta):
    learn = fnn.trainer(fnn.serial(fnn.dense(3, fnn.relu), fnn.linear(2)), fnn.squared, fnn.adam(eta), batch_size=2)
    data = jax.numpy.ones((4, 3)), jax.numpy.ones((4, 2))
    return fnn.train(learn, learn.init(key, data), data, 3)[1]["loss"]
keys = jax.random.split(jax.random.key(0), 3)
print(resumable_sweep({str(tmp_path)!r}, experiment, keys, eta=[0.1, 0.2], pieces=2, progress=False).sum())
"""
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120) for _ in range(2)]
    assert done[0].stdout, done[0].stderr
    assert done[1].stdout == done[0].stdout, done[1].stderr
    assert len(pieces(tmp_path)) == 2


# What is damaged, and what lies there besides


def plain(key: jax.Array, eta: jax.Array) -> jax.Array:
    return eta * jax.random.normal(key, dtype=eta.dtype)


def plainly(folder: Path, eta: Any = (1.0, 2.0, 3.0, 4.0), keys: Any = KEYS, **options: Any) -> list[list[float]]:
    """20 rows in five pieces of four."""
    found = resumable_sweep(folder, plain, keys, eta=list(eta), pieces=options.pop("pieces", 5), progress=False)
    return np.asarray(found).tolist()


RIGHT = [[float(e * jax.random.normal(k)) for e in (1.0, 2.0, 3.0, 4.0)] for k in KEYS]
"""Row by row, without a sweep."""


def cut(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])


DAMAGES: dict[str, Any] = {
    "empty": lambda folder: cut(folder / "piece-0003.npz", 0),
    "one byte": lambda folder: cut(folder / "piece-0003.npz", 1),
    "cut short": lambda folder: cut(folder / "piece-0003.npz", 400),
    "zeros": lambda folder: (folder / "piece-0003.npz").write_bytes(bytes(900)),
    "another piece": lambda folder: shutil.copy(folder / "piece-0001.npz", folder / "piece-0003.npz"),
    "anybody's": lambda folder: np.savez(folder / "piece-0003.npz", results=np.zeros(4)),
    "gone": lambda folder: (folder / "piece-0003.npz").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_piece_is_named_and_computed_again(tmp_path: Path, damage: str) -> None:
    np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)
    DAMAGES[damage](tmp_path)
    if damage == "gone":
        np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)
    else:
        with pytest.warns(UserWarning, match=r"piece-0003\.npz is computed again") as told:
            np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)
        assert len(told) == 1
        assert told[0].filename == __file__
    np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)


def test_every_flipped_byte_of_a_piece_is_found_or_changes_nothing(tmp_path: Path) -> None:
    plainly(tmp_path, pieces=1)
    path = tmp_path / "piece-0000.npz"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.testing.assert_allclose(plainly(tmp_path, pieces=1), RIGHT, rtol=1e-12)


def test_a_piece_of_another_sweep_is_computed_again(tmp_path: Path) -> None:
    plainly(tmp_path / "one")
    plainly(tmp_path / "other", eta=(5.0, 6.0, 7.0, 8.0))
    shutil.copy(tmp_path / "other" / "piece-0002.npz", tmp_path / "one")
    with pytest.warns(UserWarning, match=r"piece-0002\.npz is computed again: it is of another sweep"):
        np.testing.assert_allclose(plainly(tmp_path / "one"), RIGHT, rtol=1e-12)


NOTES: dict[str, Any] = {
    "cut short": 40,
    "empty": 0,
    "null": b"null",
    "a list": b"[1]",
    "of others": b'{"a": 1}',
    "flipped": "eta",
    "gone": None,
}


def spoil(note: Path, how: Any) -> None:
    if how is None:
        note.unlink()
    elif isinstance(how, int):
        cut(note, how)
    elif isinstance(how, str):
        note.write_text(note.read_text(encoding="utf-8").replace("float64 []", "float16 []"), encoding="utf-8")
    else:
        note.write_bytes(how)


@pytest.mark.parametrize("how", NOTES)
def test_a_damaged_note_is_written_anew_where_the_pieces_prove_whose_they_are(tmp_path: Path, how: str) -> None:
    plainly(tmp_path)
    note, times = tmp_path / "sweep.json", [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npz"))]
    whole = note.read_bytes()
    spoil(note, NOTES[how])
    told = (
        nullcontext()
        if how == "gone"
        else pytest.warns(UserWarning, match=r"sweep\.json is damaged and is written again")
    )
    with told as warned:
        np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)
    assert all(warning.filename == __file__ for warning in warned or [])
    assert note.read_bytes() == whole
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.glob("*.npz"))] == times  # nothing was run


@pytest.mark.parametrize("how", sorted(NOTES.keys() - {"flipped"}))
def test_a_damaged_note_of_another_sweep_is_told(tmp_path: Path, how: str) -> None:
    plainly(tmp_path)
    spoil(tmp_path / "sweep.json", NOTES[how])
    with pytest.raises(ValueError, match=r"json, got none or a damaged one, and piece-000\d\.npz is of another sweep"):
        plainly(tmp_path, eta=(5.0, 6.0, 7.0, 8.0))
    assert len(pieces(tmp_path)) == 5
    for path in tmp_path.glob("*.npz"):
        cut(path, 50)
    with pytest.raises(ValueError, match=r"no readable piece identifies its sweep\. Use another folder"):
        plainly(tmp_path)


def test_a_note_without_pieces_is_anybodys_unless_it_is_the_beginning_of_ours(tmp_path: Path) -> None:
    plainly(tmp_path)
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    for how in (b"null", b"[]", b'{"method": "grid"}', b'{"method": "gr'):
        (tmp_path / "sweep.json").write_bytes(how)
        with pytest.raises(ValueError, match="without pieces the file may belong to another program"):
            plainly(tmp_path)
        assert (tmp_path / "sweep.json").read_bytes() == how
    (tmp_path / "sweep.json").write_bytes(b"")
    with pytest.warns(UserWarning, match="is written again"):
        np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)


def test_files_of_the_system_and_drafts_do_not_count_and_stale_drafts_go(tmp_path: Path) -> None:
    new, old = (tmp_path / f".fnn-{number:016x}.draft" for number in range(2))
    for name in (".DS_Store", "desktop.ini", "Thumbs.db", "sweep.draft", new.name, old.name, ".fnn-notes"):
        (tmp_path / name).write_bytes(b"x")
    before = time.time() - 3 * 24 * 3600
    for name in (old.name, ".DS_Store", ".fnn-notes"):
        os.utime(tmp_path / name, (before, before))
    np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)
    left = {path.name for path in tmp_path.iterdir()} - set(pieces(tmp_path))
    assert left == {".DS_Store", "desktop.ini", "Thumbs.db", "sweep.draft", new.name, ".fnn-notes", "sweep.json"}


def test_any_number_may_begin_the_same_sweep_at_once(tmp_path: Path) -> None:
    whose, threads = {"rows": 20}, 8
    at_once = Barrier(threads)

    def begin(folder: Path) -> None:
        at_once.wait()
        Claim(folder, "sweep", "piece", whose).take()

    with ThreadPoolExecutor(threads) as pool:
        for number in range(50):
            list(pool.map(begin, [tmp_path / str(number)] * threads))
            assert [path.name for path in (tmp_path / str(number)).iterdir()] == ["sweep.json"]


@pytest.mark.parametrize("links", [True, False])
def test_of_sweeps_that_begin_at_once_one_has_the_folder(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    if not links:
        monkeypatch.setattr("os.link", no_links)
    threads = 4
    at_once = Barrier(threads)

    def begin(rows: int) -> str:
        at_once.wait()
        try:
            Claim(folder, "sweep", "piece", {"rows": rows}).take()
        except ValueError as error:
            return str(error)
        return "mine"

    with ThreadPoolExecutor(threads) as pool:
        for number in range(50):
            folder = tmp_path / str(number)
            said = list(pool.map(begin, range(threads)))
            assert said.count("mine") == 1 if links else "mine" in said
            assert all(words == "mine" or "got another sweep: rows: " in words for words in said)


@pytest.mark.parametrize("fails_at", range(6))
def test_a_disk_that_is_full_leaves_a_folder_that_goes_on(
    tmp_path: Path, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, fsync = [], os.fsync

    def full(handle: int) -> None:
        kept.append(handle)
        if len(kept) > 2 * fails_at:  # a file, then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        plainly(tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == fails_at  # the note, and pieces
    np.testing.assert_allclose(plainly(tmp_path), RIGHT, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eta": (1.0, 2.0, 3.0)}, r"values eta shape: \[4\] there, \[3\] here"),
        ({"eta": (1.0, 2.0, 3.0)}, r"rows: 20 there, 15 here"),
        ({"eta": (1.0, 2.0, 3.0, 5.0)}, r"sweep: other values eta\. Use"),
        (
            {"eta": jnp.arange(1, 5, dtype=jnp.float32)},
            r"sweep: values eta dtype: float64 there, float32 here; results",
        ),
        ({"keys": jax.random.split(jax.random.key(1), 5)}, r"sweep: other keys\. Use"),
        ({"keys": jax.random.split(jax.random.key(0, impl="rbg"), 5)}, r"keys dtype: key<fry> there, key<rbg> here"),
        ({"pieces": 10}, r"sweep: pieces: 5 there, 10 here\. Use"),
    ],
)
def test_how_another_sweep_differs_is_told_in_words(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    plainly(tmp_path)
    with pytest.raises(ValueError, match=words):
        plainly(tmp_path, **change)


def test_another_experiment_and_another_precision_are_told_in_words(tmp_path: Path) -> None:
    keys, eta = KEYS, [1.0, 2.0]
    resumable_sweep(tmp_path, plain, keys, eta=eta, progress=False)
    with pytest.raises(ValueError, match=r"got another sweep: another experiment\. Use"):
        resumable_sweep(tmp_path, lambda key, eta: -plain(key, eta), keys, eta=eta, progress=False)
    with pytest.raises(ValueError, match=r"results: float64 \[\] there, float32 \[\] here"), jax.enable_x64(False):
        resumable_sweep(tmp_path, plain, keys, eta=eta, progress=False)


def test_zipped_arrays_are_part_of_a_sweep(tmp_path: Path) -> None:
    along = lambda key, eta, a=0.0: eta + a  # noqa: E731
    options: dict[str, Any] = {"eta": [1.0, 2.0], "progress": False}
    found = resumable_sweep(tmp_path, along, KEYS, zipped={"a": jnp.arange(5.0)}, **options)
    np.testing.assert_array_equal(found, np.arange(5.0)[:, None] + [1, 2])
    with pytest.raises(ValueError, match="got another sweep: other zipped a"):
        resumable_sweep(tmp_path, along, KEYS, zipped={"a": jnp.ones(5)}, **options)
    with pytest.raises(ValueError, match=r"got another sweep: zipped a: some there, none here;"):
        resumable_sweep(tmp_path, along, KEYS, **options)


# resumable_fit


def fitted(folder: Path, steps: int = 40, **options: Any) -> Any:
    start = killed.LEARN.init(jax.random.key(0), killed.DATA)
    return resumable_fit(folder, killed.LEARN, start, killed.DATA, steps, **(killed.options() | options))


def chunks(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("chunk-*.npz"))


def test_a_resumable_fit_is_a_fit(tmp_path: Path) -> None:
    want = killed.uninterrupted(40)
    assert killed.bits(fitted(tmp_path)) == killed.bits(want)
    assert chunks(tmp_path) == ["chunk-0007.npz", "chunk-0008.npz"]
    ran: list[Any] = []
    again = fitted(tmp_path, on_chunk=lambda state, row: ran.append(row))
    assert killed.bits(again) == killed.bits(want)
    assert not ran
    assert jax.random.key_data(again.state.key).tolist() == jax.random.key_data(want.state.key).tolist()


@pytest.mark.parametrize("ends", ["interrupted", "on_chunk", "error"])
def test_a_fit_that_ended_early_goes_on_to_the_same_bits(tmp_path: Path, ends: str) -> None:
    def end(state: Any, row: Any) -> bool:
        if row["step"] == 15 and ends == "error":
            raise RuntimeError("lost")
        if row["step"] == 15 and ends == "interrupted":
            signal.raise_signal(signal.SIGTERM)
        return bool(row["step"] == 15) and ends == "on_chunk"

    if ends == "error":
        with pytest.raises(RuntimeError, match="lost"):
            fitted(tmp_path, on_chunk=end)
    else:
        assert fitted(tmp_path, on_chunk=end).stopped == {"interrupted": "preempted"}.get(ends, ends)
    assert chunks(tmp_path) == ["chunk-0002.npz", "chunk-0003.npz"]
    assert killed.bits(fitted(tmp_path)) == killed.bits(killed.uninterrupted(40))


def test_a_longer_fit_goes_on_from_the_end_of_a_shorter_one(tmp_path: Path) -> None:
    fitted(tmp_path, steps=12)
    longer = fitted(tmp_path, steps=40)
    assert longer.history["step"].tolist() == [5, 10, 12, 15, 20, 25, 30, 35, 40]
    chex.assert_trees_all_equal(longer.state.params, killed.uninterrupted(40).state.params)
    with pytest.raises(ValueError, match=r"expected at most steps=12 steps in .*, got 40\. Pass steps=40 or more"):
        fitted(tmp_path, steps=12)


def test_patience_is_counted_through_an_interruption(tmp_path: Path) -> None:
    rising = lambda state: state.step.astype(jnp.float32)  # noqa: E731  never better than the first
    options: dict[str, Any] = {"validate": rising, "patience": 3}
    fitted(tmp_path, steps=10, **options)
    done = fitted(tmp_path, steps=100, **options)
    assert (done.stopped, int(done.state.step), int(done.best.step)) == ("early stop", 20, 5)
    assert fitted(tmp_path, steps=100, **options).stopped == "early stop"
    longer = fitted(tmp_path, steps=100, **(options | {"patience": 5}))
    assert longer.history["step"].tolist() == [5, 10, 15, 20, 25, 30]


def test_a_diverged_fit_stays_so(tmp_path: Path) -> None:
    learn = trainer(linear(1), squared, fnn.sgd(1e30), batch_size=5)
    start = learn.init(jax.random.key(0), killed.DATA)
    for _ in range(2):
        done = resumable_fit(tmp_path, learn, start, killed.DATA, 100, chunk=5, progress=False)
        assert done.stopped == "diverged"
        assert done.history["step"][-1] < 100


@pytest.mark.parametrize("damage", ["cut", "swapped", "removed"])
def test_a_damaged_chunk_is_named_and_the_one_before_it_goes_on(tmp_path: Path, damage: str) -> None:
    fitted(tmp_path, steps=20)
    last = tmp_path / "chunk-0004.npz"
    if damage == "removed":
        last.unlink()
    elif damage == "cut":
        cut(last, 100)
    else:
        shutil.copy(tmp_path / "chunk-0003.npz", last)
    told = nullcontext() if damage == "removed" else pytest.warns(UserWarning, match=r"chunk-0004\.npz is passed over")
    with told:
        found = fitted(tmp_path)
    assert killed.bits(found) == killed.bits(killed.uninterrupted(40))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunk": 10}, r"another fit: chunk: 5 there, 10 here"),
        ({"validate": None, "patience": None}, r"another fit: another validate"),
        ({"validate": lambda state: jnp.sum(state.params[0]["w"])}, r"another fit: another validate"),
    ],
)
def test_the_folder_of_another_fit_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    fitted(tmp_path, steps=10)
    with pytest.raises(ValueError, match=words):
        fitted(tmp_path, **change)


def test_other_data_states_and_trainers_are_refused(tmp_path: Path) -> None:
    data, learn = killed.DATA, killed.LEARN
    start = learn.init(jax.random.key(0), data)
    options: dict[str, Any] = {"chunk": 5, "progress": False}
    resumable_fit(tmp_path, learn, start, data, 5, **options)
    with pytest.raises(ValueError, match="another fit: other data 1"):
        resumable_fit(tmp_path, learn, start, (data[0], data[1] + 1), 5, **options)
    with pytest.raises(ValueError, match="another fit: other state key"):
        resumable_fit(tmp_path, learn, start._replace(key=jax.random.key(9)), data, 5, **options)
    other = trainer(killed.LEARN_NET, squared, fnn.adam(0.03), batch_size=5)
    with pytest.raises(ValueError, match="another fit: another trainer"):
        resumable_fit(tmp_path, other, start, data, 5, **options)


@pytest.mark.parametrize("where", ["in the experiment", "in validate"])
def test_arrays_within_jitted_functions_count(tmp_path: Path, where: str) -> None:
    for scale in (1.0, 1.0, 2.0):
        weights = jnp.full(3, scale)
        inner = jax.jit(lambda x, weights=weights: jnp.sum(x * weights))
        refused = nullcontext() if scale == 1 else pytest.raises(ValueError, match="got another")
        with refused:
            if where == "in validate":
                fitted(tmp_path, steps=5, validate=lambda state, inner=inner: inner(state.params[0]["w"][:, 0]))
            else:
                resumed(tmp_path, lambda key, eta, gamma, inner=inner: inner(jax.random.uniform(key, (3,))))


def test_a_full_disk_costs_no_chunk_but_the_one_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted(tmp_path, steps=10)
    monkeypatch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left") as caught:
        fitted(tmp_path)
    monkeypatch.undo()
    assert caught.value.done.history["step"].tolist() == [5, 10, 15]  # pyright: ignore[reportAttributeAccessIssue]
    assert chunks(tmp_path) == ["chunk-0001.npz", "chunk-0002.npz"]
    assert killed.bits(fitted(tmp_path)) == killed.bits(killed.uninterrupted(40))


def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """kill −9 after drawn numbers of printed chunks, then after a drawn moment more."""
    random, command = np.random.default_rng(0), [sys.executable, killed.__file__, str(tmp_path), "300"]
    environment = os.environ | {"PYTHONPATH": str(Path(killed.__file__).parents[2])}
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        for _ in range(int(random.integers(1, 12))):
            process.stdout.readline()
        time.sleep(float(random.uniform(0, 0.01)))
        process.kill()
        process.communicate(timeout=60)
    end = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    code = f"import sys; sys.path.insert(0, {str(Path(killed.__file__).parent)!r}); import killed; "
    whole = [sys.executable, "-c", code + "print(killed.bits(killed.uninterrupted(300)))"]
    want = subprocess.run(whole, capture_output=True, text=True, timeout=120, env=environment)
    assert end.stdout.splitlines()[-1] == want.stdout.splitlines()[-1], end.stderr + want.stderr
