"""Sweeps: every row is the run it stands for, and new seeds or rates compile nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn import dense, inverted_dropout, linear, run, serial, squared, sweep, tanh, trainer

X = jax.random.normal(jax.random.key(1), (30, 3))
DATA = (X, jnp.sin(X))
KEYS = jax.random.split(jax.random.key(0), 4)


def experiment(key: jax.Array, eta: float = 0.01, p: float = 0.2) -> dict[str, jax.Array]:
    net = serial(dense(6, tanh), inverted_dropout(p), linear(3))
    learn = trainer(net, squared, fnn.adam(eta), batch_size=5)
    state, metrics = run(learn, learn.init(key, DATA), DATA, 20, every=10)
    return {"loss": metrics["loss"], "w": state.params[0]["w"]}


def test_every_row_equals_the_single_run() -> None:
    etas, ps = jnp.array([1e-3, 1e-2, 1e-1]), jnp.array([0.0, 0.5])
    results = sweep(experiment, KEYS, eta=etas, p=ps)
    assert results["loss"].shape == (4, 3, 2, 2)
    single = jax.jit(experiment)
    for i, j, k in np.ndindex(4, 3, 2):
        row = jax.tree.map(lambda leaf, at=(i, j, k): leaf[at], results)
        chex.assert_trees_all_close(row, single(KEYS[i], etas[j], ps[k]), rtol=1e-9)


def test_without_hyper_parameters_a_sweep_is_over_seeds() -> None:
    results = sweep(experiment, KEYS)
    chex.assert_trees_all_close(results["loss"][2], jax.jit(experiment)(KEYS[2])["loss"], rtol=1e-9)


def test_axes_come_in_the_order_of_the_arguments() -> None:
    table = sweep(lambda key, a, b: 10 * a + b, KEYS, b=[1, 2, 3], a=[4, 5])
    assert table.shape == (4, 3, 2)
    assert table[0].tolist() == [[41, 51], [42, 52], [43, 53]]


def test_new_keys_and_values_compile_nothing() -> None:
    traces = []

    def counted(key: jax.Array, eta: jax.Array) -> jax.Array:
        traces.append(eta)
        return eta * jax.random.normal(key)

    sweep(counted, KEYS, eta=[0.1, 0.2])
    once = len(traces)
    sweep(counted, jax.random.split(jax.random.key(9), 4), eta=[0.3, 0.4])
    assert len(traces) == once


def test_raw_keys_and_structured_results_sweep_too() -> None:
    raw = jax.random.key_data(KEYS)
    results = sweep(lambda key: (jax.random.uniform(key), {"constant": 1.0}), raw)
    np.testing.assert_array_equal(results[0], jax.vmap(jax.random.uniform)(KEYS))
    assert results[1]["constant"].shape == (4,)


def test_no_tracer_of_a_sweep_outlives_it() -> None:
    with jax.checking_leaks():
        sweep(lambda key, eta: experiment(key, eta)["loss"], KEYS, eta=[0.1])
