"""Every optimizer: its protocol, JAX's transformations, dtypes and traced hyper-parameters."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import apply_updates, chain, clip_by_norm, l2, masked, weights_only
from fnn.optimizers import nag_weights
from tests.optimizers.cases import (
    CASES,
    EXACT_64,
    MODULES,
    as_held,
    check_vmap,
    every_optimizer,
    path_on,
    paths,
    random_gradients,
    schedule,
    slide,
    start,
)


def test_every_optimizer_is_asked_for_its_slide_in_the_file_of_its_module():
    assert sorted(name for names in MODULES.values() for name in names) == sorted(CASES)


# The protocol


@every_optimizer
def test_state_is_named_by_the_lectures_letters(case):
    params = start()
    state = case.make(eta=0.1).init(params)
    assert type(state) is case.state
    assert state._fields == case.letters
    assert (state.k.shape, state.k.dtype, int(state.k)) == ((), jnp.int32, 0)
    for letter in set(case.letters) - {"k", "reach"}:
        chex.assert_trees_all_equal(getattr(state, letter), jax.tree.map(jnp.zeros_like, params))


@every_optimizer
def test_the_loop_everyone_knows_descends(case):
    """The optax-style loop, its update without params too; (w − 3)² falls."""
    params, opt = jnp.asarray([0.0, 10.0]), case.make(eta=0.3)

    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum((w - 3) ** 2)

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        g = jax.grad(loss)(params)
        updates, state = opt.update(g, state, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        return apply_updates(params, updates), state

    first, state = loss(params), opt.init(params)
    for _ in range(20):
        params, state = step(params, state)
    assert loss(params) < first
    assert state.k == 20
    chex.assert_trees_all_equal(opt.update(params, state), opt.update(params, state, params))


# JAX's transformations


@every_optimizer
def test_vmap_over_hyper_parameters_is_the_loop_over_them(case):
    rows = [
        {"eta": 0.1, **case.other},
        {"eta": 0.01, **{name: value / 2 for name, value in case.other.items()}},
        {"eta": 1.0, **{name: 1e-8 if name == "epsilon" else 0.0 for name in case.other}},
    ]
    check_vmap(case, ["eta", *case.other], rows)


@every_optimizer
def test_traces_once_for_ten_steps(case):
    chex.clear_trace_counter()
    optimizer, params = case.make(eta=0.1), start()

    @jax.jit
    @chex.assert_max_traces(1)
    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(params, state, params)
        return apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(10):
        params, state = step(params, state)
    assert state.k == 10


@every_optimizer
@pytest.mark.parametrize("eta", [0.1, schedule], ids=["number", "schedule"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64], ids=lambda d: d.__name__)
def test_scan_carry_is_stable_and_updates_have_the_gradients_dtype(case, dtype, eta):
    optimizer = chain(clip_by_norm(1.0), masked(l2(0.1), weights_only), case.make(eta=eta))
    params = start(dtype)
    state = jax.eval_shape(optimizer.init, params)
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    jax.eval_shape(lambda: paths(optimizer, params, lambda w, k: w, 3, as_held))
    if case.make is fnn.nag:
        chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(nag_weights, params, state[-1]), params)


@every_optimizer
def test_float64_params_take_float32_traced_hyper_parameters(case):
    hyper = {name: jnp.float32(value) for name, value in {"eta": 0.1, **case.other}.items()}
    gradients = random_gradients(5)
    got = jax.jit(lambda hyper: path_on(case.make(**hyper), gradients, case.weights))(hyper)
    assert got.dtype == jnp.float64
    same = {name: float(value) for name, value in hyper.items()}
    np.testing.assert_allclose(got, slide(case.oracle, gradients, same), **EXACT_64)


@every_optimizer
def test_traced_eta_and_other_hyper_parameters_may_differ_in_dtype(case):
    hyper = {"eta": jnp.float32(0.1), **{name: jnp.float64(value) for name, value in case.other.items()}}
    got = jax.eval_shape(lambda hyper: path_on(case.make(**hyper), random_gradients(2), case.weights), hyper)
    assert got.dtype == jnp.float64


@pytest.mark.parametrize("case", [CASES["nag"], CASES["adadelta"], CASES["adam"]], ids=["nag", "adadelta", "adam"])
def test_differentiable_by_its_own_rate(case):
    """A hyper-gradient: ∂w/∂η through five steps agrees with the slide's central differences."""
    gradients = random_gradients(5)

    def last(eta: Any) -> Any:
        return jnp.sum(path_on(case.make(eta=eta), gradients, case.weights)[-1])

    h = 1e-4
    above, below = (slide(case.oracle, gradients, {"eta": eta})[-1].sum() for eta in (0.1 + h, 0.1 - h))
    # central differences of a float64 function of order ten: h² and 1e-15/h
    np.testing.assert_allclose(jax.jit(jax.grad(last))(0.1), (above - below) / (2 * h), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("optimizer", "written"),
    [
        (fnn.sgd(0.1), "sgd(0.1)"),
        (fnn.momentum(0.1, gamma=0.5), "momentum(0.1, gamma=0.5)"),
        (fnn.adam(schedule), "adam(schedule)"),
        (fnn.adadelta(), "adadelta()"),
        (
            chain(clip_by_norm(1.0), masked(l2(0.1), weights_only)),
            "chain(clip_by_norm(1.0), masked(l2(0.1), weights_only))",
        ),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_prints_as_written(optimizer, written):
    assert str(optimizer) == written
