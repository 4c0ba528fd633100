"""Tidy tables of results."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from fnn import linear, sgd, squared, sweep, train, trainer
from fnn.training import tidy

KEYS = jax.random.split(jax.random.key(0), 2)
DATA = jnp.arange(8.0)[:, None] / 8, jnp.ones((8, 1))


def experiment(key: jax.Array, eta: Any) -> dict[str, Any]:
    learn = trainer(linear(1), squared, sgd(eta), batch_size=4)
    state, metrics = train(learn, learn.init(key, DATA), DATA, 6, every=2)
    return {"curve": metrics, "w": state.params["w"][0, 0].astype(jnp.bfloat16)}


def test_a_sweep_of_curves_is_one_table() -> None:
    results, axes = sweep(experiment, KEYS, eta=[0.1, 0.2, 0.5], coordinates=True)
    table: Any = pd.DataFrame(tidy(results, axes | {"step": [2, 4, 6]}))
    assert list(table) == ["run", "eta", "step", "curve.loss", "curve.running_loss", "w"]
    assert len(table) == 2 * 3 * 3
    for run in range(2):
        for j, eta in enumerate([0.1, 0.2, 0.5]):
            rows = table[(table.run == run) & (table.eta == eta)]
            np.testing.assert_array_equal(rows["step"], [2, 4, 6])
            np.testing.assert_array_equal(rows["curve.loss"], results["curve"]["loss"][run, j])
            assert (rows["w"] == float(results["w"][run, j])).all()
    assert table["w"].dtype == np.float32


def test_axes_that_nothing_reaches_and_vectors_of_values() -> None:
    scales = np.array([[1.0, 2.0], [3.0, 4.0]])
    results, axes = sweep(lambda key, scale: jnp.sum(scale), KEYS, scale=scales, coordinates=True)
    table = tidy(results, axes | {"step": range(5)})
    assert {name: column.tolist() for name, column in table.items()} == {
        "run": [0, 0, 1, 1],
        "scale.0": [1.0, 3.0, 1.0, 3.0],
        "scale.1": [2.0, 4.0, 2.0, 4.0],
        "value": [3.0, 7.0, 3.0, 7.0],
    }


def test_a_result_of_no_axis_is_one_row() -> None:
    assert tidy({"loss": jnp.float32(2)}, {"run": [7]}) == {"loss": np.array([2.0])}


@pytest.mark.parametrize(
    ("results", "coordinates", "words"),
    [
        ({"a": jnp.ones((2, 3))}, {"run": [0, 1]}, r"axes of coordinates \(run=2\), got 'a' of shape \[2, 3\]\. Name"),
        ({"a": jnp.ones((2, 3))}, {"run": [0, 1], "step": [1, 2]}, r"\(run=2, step=2\), got 'a' of shape \[2, 3\]"),
        (jnp.ones(3), {}, r"\(none\), got 'value' of shape \[3\]"),
        ({"run": jnp.ones(2)}, {"run": [0, 1]}, "got two named 'run'"),
        ({"a": jnp.ones(1)}, {"run": 3}, r"of shape \[length\] or \[length, k\] for run, got \[\]"),
    ],
)
def test_what_is_no_table_is_refused(results: Any, coordinates: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tidy(results, coordinates)


def test_keys_are_no_numbers() -> None:
    with pytest.raises(TypeError, match="expected numbers, got the keys 'key'"):
        tidy({"key": KEYS}, {"run": [0, 1]})
    with pytest.raises(TypeError, match="the result 'a': expected an array"):
        tidy({"a": "text"}, {"run": [0, 1]})
