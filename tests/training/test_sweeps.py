"""Sweeps: every row is the run it stands for, on any devices and in any chunks; new seeds or rates compile nothing.

The tests run with three CPU devices (see conftest), so that most sweeps leave a remainder.
"""

import subprocess
import sys
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import fnn
from fnn import dense, inverted_dropout, linear, serial, squared, sweep, tanh, train, train_until_stable, trainer
from fnn.training.sweeps import _carried, _compiled, _fits_caches

X = jax.random.normal(jax.random.key(1), (30, 3))


DATA = (X, jnp.sin(X))


KEYS = jax.random.split(jax.random.key(0), 4)


ETAS, PS = jnp.array([1e-3, 1e-2, 1e-1]), jnp.array([0.0, 0.5])


def experiment(key: jax.Array, eta: Any = 0.01, p: Any = 0.2) -> dict[str, jax.Array]:
    net = serial(dense(6, tanh), inverted_dropout(p), linear(3))
    learn = trainer(net, squared, fnn.adam(eta), batch_size=5)
    state, metrics = train(learn, learn.init(key, DATA), DATA, 20, every=10)
    return {"loss": metrics["loss"], "w": state.params[0]["w"]}


def test_there_are_several_devices() -> None:
    assert len(jax.devices()) == 3


def test_every_row_equals_the_single_run() -> None:
    results = sweep(experiment, KEYS, eta=ETAS, p=PS)
    assert results["loss"].shape == (4, 3, 2, 2)
    single = jax.jit(experiment)
    for i, j, k in np.ndindex(4, 3, 2):
        row = jax.tree.map(lambda leaf, at=(i, j, k): leaf[at], results)
        chex.assert_trees_all_close(row, single(KEYS[i], ETAS[j], PS[k]), rtol=1e-9)


@pytest.mark.parametrize(("devices", "at_once"), [(1, None), (1, 5), (2, 1), (3, 2), (3, 100)])
def test_the_rows_do_not_depend_on_devices_and_chunks(devices: int, at_once: int | None) -> None:
    expected = sweep(experiment, KEYS, eta=ETAS[:1], p=PS)
    results = sweep(experiment, KEYS, devices=jax.devices()[:devices], at_once=at_once, eta=ETAS[:1], p=PS)
    chex.assert_trees_all_close(results, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("at_once", "calls", "loops"),
    [(None, 7, True), (1, 7, True), (3, 3, True), (4, 2, True), (6, 2, True), (7, 1, False), (100, 1, False)],
)
def test_so_many_rows_are_computed_together_in_chunks_of_one_size(at_once: int | None, calls: int, loops: bool) -> None:
    """Seven rows of a program; a single chunk needs no loop over chunks."""
    row = jax.make_jaxpr(lambda u: 2 * u)(jnp.ones(3))
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("rows",)), PartitionSpec("rows"))
    kind = ((3,), jnp.dtype(float))
    program = _compiled(row, jax.tree.structure(0), (kind,), 7, sharding, at_once)
    assert program.rows == calls * -(-7 // calls)
    x = jnp.arange(3.0 * program.rows).reshape(-1, 3)
    np.testing.assert_array_equal(program.call([x]), 2 * x)
    assert ("while" in program.call.as_text()) == loops


def test_fewer_rows_than_devices() -> None:
    assert sweep(lambda key: jax.random.uniform(key), KEYS[:1]).tolist() == [float(jax.random.uniform(KEYS[0]))]


def test_every_device_has_its_share() -> None:
    text = str(jax.make_jaxpr(lambda keys: sweep(lambda key: jax.random.uniform(key), keys))(KEYS))
    assert "shard_map" not in text  # inside another program a sweep stays on its device
    seen = []
    jax.block_until_ready(sweep(lambda key: jax.debug.callback(seen.append, jax.random.bits(key)), KEYS))
    jax.effects_barrier()
    assert len(seen) == 6  # four rows on three devices: shares of two, filled up
    assert len(set(map(int, seen))) == 4


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
    assert len(traces) == 1
    sweep(counted, jax.random.split(jax.random.key(9), 4), eta=[0.3, 0.4])
    assert len(traces) == 1


def test_raw_keys_and_structured_results_sweep_too() -> None:
    raw = jax.random.key_data(KEYS)
    results = sweep(lambda key: (jax.random.uniform(key), {"constant": 1.0}), raw)
    np.testing.assert_array_equal(results[0], jax.vmap(jax.random.uniform)(KEYS))


def test_results_mix_with_other_arrays() -> None:
    results = sweep(experiment, KEYS)
    committed = jax.device_put(jnp.ones(4), jax.devices()[0])
    assert (results["loss"] + committed[:, None]).shape == (4, 2)


def test_a_sweep_joins_jit_vmap_and_grad() -> None:
    def mean(eta: jax.Array) -> jax.Array:
        return jnp.mean(sweep(lambda key: experiment(key, eta)["loss"], KEYS))

    apart = [mean(eta) for eta in ETAS]
    np.testing.assert_allclose(jax.vmap(jax.jit(mean))(ETAS), apart, rtol=1e-9)
    assert jnp.isfinite(jax.grad(jax.jit(mean))(0.1))
    with pytest.raises(TypeError, match="closes over a traced value"):
        jax.vmap(mean)(ETAS)


def test_rows_that_stabilise_stop_by_themselves() -> None:
    def until_stable(key: jax.Array) -> jax.Array:
        learn = trainer(linear(3), squared, fnn.sgd(0.05), batch_size=5)
        options = {"max_steps": 400, "every": 20, "running_loss_tolerance": 0.1}
        return train_until_stable(learn, learn.init(key, DATA), DATA, **options)[1].steps

    steps = sweep(until_stable, KEYS, at_once=1)
    assert len(set(steps.tolist())) > 1
    assert steps.tolist() == [int(until_stable(key)) for key in KEYS]


def test_chunks_keep_what_rows_carry_in_the_caches() -> None:
    row = jax.make_jaxpr(experiment)(KEYS[0]).jaxpr
    params = 3 * (3 * 6 + 6 + 6 * 3 + 3) * 8  # the params and Adam's two averages, in float64
    assert params < _carried(row) < params + 200
    assert _fits_caches(row) == 64
    large = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda _, x: x + 1, x))(jnp.zeros(10**6))
    assert _carried(large.jaxpr) >= 8e6
    assert _fits_caches(large.jaxpr) == 1


def test_bases_of_every_row_on_every_device_are_had_without_waiting_for_ever() -> None:
    code = (
        "import fnn, jax, jax.numpy as jnp; fnn.use_cores(2)\n"
        "def experiment(key): return fnn.nn.orthogonal()(key, (64, 64), jnp.float32)\n"
        "w = fnn.sweep(experiment, jax.random.split(jax.random.key(0), 64))\n"
        "assert jnp.allclose(w @ jnp.swapaxes(w, 1, 2), jnp.eye(64)[None], atol=1e-5)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# What a program depends on


def drawn(key: jax.Array) -> jax.Array:
    return jax.random.normal(key, (2,)) / 3


def of_a_seed(key: jax.Array) -> jax.Array:
    return jnp.sum(jax.random.key_data(jax.random.key(5)))


def test_a_sweep_under_another_configuration_is_another_program() -> None:
    for x64 in (False, True, False):
        with jax.enable_x64(x64):
            assert sweep(drawn, KEYS).dtype == (jnp.float64 if x64 else jnp.float32)
    for impl, words in (("threefry2x32", 2), ("rbg", 4), ("threefry2x32", 2)):
        with jax.default_prng_impl(impl):
            assert int(sweep(of_a_seed, KEYS)[0]) == 5 * words // 2  # rbg's four words are those of threefry twice
    for precision in ("bfloat16", "highest"):
        with jax.default_matmul_precision(precision):
            seen: list[Any] = []

            def told(key: jax.Array, seen: list[Any] = seen) -> jax.Array:
                seen.append(jax.config.values["jax_default_matmul_precision"])
                return jnp.zeros(())

            sweep(told, KEYS)
            assert seen == [precision]


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("at_once", [None, 2])
def test_a_row_draws_what_its_key_gives_alone(impl: str, at_once: int | None) -> None:
    keys = jax.random.split(jax.random.key(1, impl=impl), 4)
    alone = np.stack([drawn(key) for key in keys])
    np.testing.assert_allclose(sweep(drawn, keys, at_once=at_once), alone, rtol=1e-14)
    np.testing.assert_allclose(jax.jit(lambda keys: sweep(drawn, keys, at_once=at_once))(keys), alone, rtol=1e-14)
    same = sweep(lambda key, eta: eta * drawn(key), keys[np.zeros(4, int)], eta=jnp.ones(3), at_once=at_once)
    np.testing.assert_allclose(same, np.broadcast_to(alone[0], (4, 3, 2)), rtol=1e-14)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_keys_that_an_experiment_makes_itself_count_too(impl: str) -> None:
    def experiment(key: jax.Array, seed: jax.Array) -> jax.Array:
        return drawn(jax.random.key(seed, impl=impl))

    alone = np.stack([drawn(jax.random.key(seed, impl=impl)) for seed in (3, 8, 9)])
    np.testing.assert_allclose(sweep(experiment, KEYS[:1], seed=[3, 8, 9])[0], alone, rtol=1e-14)


# What goes from sweep to sweep


def test_what_one_sweep_found_goes_into_the_next() -> None:
    first = sweep(lambda key, eta: {"w": eta * drawn(key), "key": key}, KEYS, eta=[1.0, 2.0])

    def second(key: jax.Array, i: jax.Array) -> jax.Array:
        return first["w"][i, 1] + drawn(first["key"][i, 0])

    expected = 3 * np.stack([drawn(key) for key in KEYS])
    for devices in (jax.devices(), jax.devices()[:2]):
        np.testing.assert_allclose(sweep(second, KEYS[:1], devices=devices, i=np.arange(4))[0], expected, rtol=1e-14)
        given = sweep(lambda key, w: 2 * w, KEYS[:1], devices=devices, w=first["w"])
        np.testing.assert_array_equal(given[0], 2 * first["w"])


def test_an_experiment_closes_over_arrays_of_any_sharding() -> None:
    mesh = jax.make_mesh((3,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    cut = jax.device_put(jnp.arange(6.0), jax.sharding.NamedSharding(mesh, jax.P("x")))
    np.testing.assert_array_equal(sweep(lambda key, i: cut[i], KEYS[:2], i=np.arange(6))[1], np.arange(6.0))


def test_a_nan_is_told_with_what_gave_it() -> None:
    def bad(key: jax.Array, a: jax.Array) -> jax.Array:
        return jnp.log(a) + 0 * jax.random.normal(key)

    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="encountered in log"):
        sweep(bad, KEYS, a=[1.0, -1.0])
    assert np.isnan(sweep(bad, KEYS, a=[1.0, -1.0])[0]).tolist() == [False, True]


def test_a_value_that_its_dtype_takes_for_1_is_refused() -> None:
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match="that float32 distinguishes from 1"):
            sweep(lambda key, alpha: 1 - alpha, KEYS, alpha=[0.9, 1 - 1e-8])
        assert sweep(lambda key, p: 1 - p, KEYS, p=[0.5, 1.0])[0].tolist() == [0.5, 0.0]


# Zipped trees


def _learner(eta: Any = 0.1) -> Any:
    return trainer(linear(1), squared, fnn.momentum(eta), batch_size=4)


def _rows(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[row], tree)


def _sample() -> Any:
    x = jax.random.normal(jax.random.key(5), (12, 3))
    return x, x @ jnp.array([[1.0], [-2.0], [0.5]])


@pytest.mark.parametrize("devices", [1, 3])
def test_the_states_of_one_sweep_go_on_in_the_next(devices: int) -> None:
    """Keys inside the states, a product axis beside the zipped one, remainders on three devices."""
    data, keys = _sample(), jax.random.split(jax.random.key(0), 5)
    learn, some = _learner(), jax.devices()[:devices]

    def begin(key: jax.Array) -> Any:
        return train(learn, learn.init(key, data), data, 5)[0]

    def go_on(key: jax.Array, state: Any, nothing: Any, eta: Any) -> Any:
        assert nothing is None
        return train(_learner(eta), state, data, 5)[0], jax.random.normal(key)

    states = sweep(begin, keys, devices=some)
    found, noise = sweep(
        go_on, keys, zipped={"state": states, "nothing": None}, eta=[0.1, 0.3], devices=some, at_once=2
    )
    for i in range(5):
        first = begin(keys[i])
        for j, eta in enumerate([0.1, 0.3]):
            want = train(_learner(eta), first, data, 5)[0]
            got = jax.tree.map(lambda leaf, i=i, j=j: leaf[i, j], found)
            chex.assert_trees_all_close(got.params, want.params, rtol=1e-12)
            assert got.step == 10
            assert jax.random.key_data(got.key).tolist() == jax.random.key_data(first.key).tolist()
        np.testing.assert_allclose(noise[i], jax.random.normal(keys[i]))


def test_successive_halving_in_three_calls() -> None:
    """Eight learning rates, the better half of them kept twice: what the same runs give one by one."""
    data, keys, etas = _sample(), jax.random.split(jax.random.key(1), 8), jnp.geomspace(1e-3, 1.0, 8)

    def longer(key: jax.Array, eta: Any, state: Any = None) -> Any:
        learn = _learner(eta)
        state, metrics = train(learn, learn.init(key, data) if state is None else state, data, 20, every=20)
        return state, metrics["loss"][-1]

    alive, runs = np.arange(8), None
    for _ in range(3):
        zipped = {"eta": etas[alive]} | ({} if runs is None else {"state": runs})
        states, losses = sweep(longer, keys[alive], zipped=zipped)
        best = np.argsort(losses)[: max(1, len(alive) // 2)]
        alive, runs = alive[best], jax.tree.map(lambda leaf, best=best: leaf[best], states)
    (winner,) = alive.tolist()

    expected, candidates = {}, list(range(8))
    for _ in range(3):
        for i in candidates:
            expected[i] = longer(keys[i], etas[i], expected[i][0] if i in expected else None)
        candidates = sorted(candidates, key=lambda i: float(expected[i][1]))[: max(1, len(candidates) // 2)]
    assert candidates == [winner]
    chex.assert_trees_all_close(_rows(runs, 0).params, expected[winner][0].params, rtol=1e-11)
    assert _rows(runs, 0).step == 60


def test_a_population_learns_from_its_better_half_in_one_program() -> None:
    """Population-based training: the worse half takes the states of the better one, with perturbed rates."""
    data, keys = _sample(), jax.random.split(jax.random.key(2), 4)

    def generation(key: jax.Array, eta: Any, state: Any) -> Any:
        state, metrics = train(_learner(eta), state, data, 10)
        return state, metrics["loss"]

    def exchanged(states: Any, etas: Any, losses: Any) -> Any:
        order = jnp.argsort(losses)
        source = jnp.concatenate([order[:2], order[:2]])
        return jax.tree.map(lambda leaf: leaf[source], states), etas[source] * jnp.array([1, 1, 0.8, 1.2])

    @jax.jit
    def evolve(keys: jax.Array) -> Any:
        states, etas = jax.vmap(lambda key: _learner().init(key, data))(keys), jnp.array([0.001, 0.01, 0.1, 0.3])
        for _ in range(3):
            states, losses = sweep(generation, keys, zipped={"eta": etas, "state": states})
            states, etas = exchanged(states, etas, losses)
        return states, etas

    states, etas = evolve(keys)
    population = [(_learner().init(key, data), eta) for key, eta in zip(keys, [0.001, 0.01, 0.1, 0.3], strict=True)]
    for _ in range(3):
        done = [(*generation(keys[0], eta, state), eta) for state, eta in population]
        done.sort(key=lambda run: float(run[1]))
        factors = [1, 1, 0.8, 1.2]
        population = [(state, eta * f) for (state, _, eta), f in zip([*done[:2], *done[:2]], factors, strict=True)]
    np.testing.assert_allclose(etas, [float(eta) for _, eta in population], rtol=1e-12)
    for row, (state, _) in enumerate(population):
        chex.assert_trees_all_close(_rows(states, row).params, state.params, rtol=1e-10)


def test_cross_validation_is_a_sweep_over_indices() -> None:
    x, y = _sample()
    order = np.random.default_rng(0).permutation(12).reshape(4, 3)
    folds = [{"held": order[k], "kept": np.delete(order, k, axis=0).ravel()} for k in range(4)]
    stacked = jax.tree.map(lambda *rows: jnp.stack(rows), *folds)

    def score(key: jax.Array, fold: Any, eta: Any) -> Any:
        learn, sample = _learner(eta), (x[fold["kept"]], y[fold["kept"]])
        state, _ = train(learn, learn.init(key, sample), sample, 30)
        return fnn.objective(linear(1), squared)(state.params, (), (x[fold["held"]], y[fold["held"]]), key)[0]

    keys = jnp.repeat(jax.random.key(3)[None], 4)
    found = sweep(score, keys, zipped={"fold": stacked}, eta=[0.01, 0.2])
    want = [[score(keys[0], fold, eta) for eta in (0.01, 0.2)] for fold in folds]
    np.testing.assert_allclose(found, want, rtol=1e-10)


def test_coordinates_name_the_axes() -> None:
    keys = jax.random.split(jax.random.key(0), 2)
    results, axes = sweep(lambda key, a, b: a * b, keys, a=[1.0, 2.0, 3.0], b=[4.0, 5.0], coordinates=True)
    assert results.shape == tuple(map(len, axes.values()))
    assert {name: np.asarray(values).tolist() for name, values in axes.items()} == {
        "run": [0, 1],
        "a": [1.0, 2.0, 3.0],
        "b": [4.0, 5.0],
    }
    with pytest.raises(ValueError, match='no hyper-parameter named "run"'):
        sweep(lambda key, run: run, keys, run=[1.0], coordinates=True)


@pytest.mark.parametrize(
    ("zipped", "error", "words"),
    [
        ([1, 2], TypeError, r"zipped: expected a dict from names to pytrees, got \[1, 2\]"),
        ({"a": np.ones((3, 2))}, ValueError, r"a row for each of the 2 keys, got a of shape \(3, 2\)"),
        ({"a": {"b": np.ones(())}}, ValueError, r"got a\.b of shape \(\)"),
        ({"a": [1.0]}, TypeError, r"zipped: the leaf 'a\.0': expected an array"),
        ({"eta": np.ones(2)}, ValueError, r"other names than the hyper-parameters', got 'eta' in both"),
    ],
)
def test_what_cannot_be_zipped_is_refused(zipped: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sweep(lambda key, **given: key, jax.random.split(jax.random.key(0), 2), zipped=zipped, eta=[1.0])


def test_a_tree_as_a_value_points_to_zipped() -> None:
    tree = {"w": jnp.ones((3, 3)), "b": jnp.zeros(3)}
    with pytest.raises(TypeError, match=r"pass zipped=\{'state': …\}") as told:
        sweep(lambda key, state: key, jax.random.split(jax.random.key(0), 2), state=tree)
    assert "\n" not in str(told.value)
