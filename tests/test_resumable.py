"""Resumable sweeps: the results of a sweep, whatever interrupted it, and no folder of another sweep touched."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import linear, resumable, run, squared, sweep, trainer
from fnn.resumable import resumable_sweep

KEYS = jax.random.split(jax.random.key(0), 5)
GRID: dict[str, Any] = {"eta": [0.1, 0.2, 0.3], "gamma": [0.0, 0.9]}
X = jax.random.normal(jax.random.key(1), (30, 3))


def experiment(key: jax.Array, eta: Any, gamma: Any) -> dict[str, Any]:
    learn = trainer(linear(2), squared, fnn.momentum(eta, gamma), batch_size=5)
    state, metrics = run(learn, learn.init(key, (X, X[:, :2])), (X, X[:, :2]), 10)
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
        ran.append(args[1][1][0])
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
    with pytest.raises(OSError, match="no space left"):
        resumed(tmp_path)
    assert not pieces(tmp_path)
    assert not list(tmp_path.glob("*.json"))


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
    with pytest.raises(ValueError, match="holds another sweep"):
        resumed(tmp_path, **({"pieces": 2} | change))


def test_arrays_in_the_experiment_count(tmp_path: Path) -> None:
    for scale in (1.0, 1.0, 2.0):
        weights = scale * np.arange(3.0)
        closing = lambda key, eta, gamma, weights=weights: jax.random.uniform(key) * jnp.asarray(weights)  # noqa: E731
        if scale == 1:
            resumed(tmp_path, closing)
        else:
            with pytest.raises(ValueError, match="holds another sweep"):
                resumed(tmp_path, closing)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"is not empty and holds no sweep; take another folder"):
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
from fnn.resumable import resumable_sweep
def experiment(key, eta):
    learn = fnn.trainer(fnn.serial(fnn.dense(3, fnn.relu), fnn.linear(2)), fnn.squared, fnn.adam(eta), batch_size=2)
    data = jax.numpy.ones((4, 3)), jax.numpy.ones((4, 2))
    return fnn.run(learn, learn.init(key, data), data, 3)[1]["loss"]
keys = jax.random.split(jax.random.key(0), 3)
print(resumable_sweep({str(tmp_path)!r}, experiment, keys, eta=[0.1, 0.2], pieces=2, progress=False).sum())
"""
    done = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120) for _ in range(2)]
    assert done[0].stdout, done[0].stderr
    assert done[1].stdout == done[0].stdout, done[1].stderr
    assert len(pieces(tmp_path)) == 2
