"""Every optimizer against the slide's loop on random gradients; clipping, L2, masks, chains; JAX's transformations.

The `check_…` functions are the laws themselves; `test_tests_optimizers` holds that they find faults.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import Optimizer, apply_updates, chain, clip_by_norm, l2, masked, sgd, tree_norm, weights_only
from fnn.optimizers import AdaDeltaState, AdamState, MomentumState, NAGState, RMSPropState, SGDState, nag_weights
from tests import oracles

STEPS = 50

EXACT_64: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-13}
"""Fifty float64 steps from weights of order one; atol is for weights that come close to zero."""


def schedule(k: Any) -> Any:
    """A learning rate that differs in every step."""
    return 0.1 / (1 + 0.3 * k.astype(float))


def as_held(params: Any, state: Any) -> Any:
    """The weights are the params."""
    return params


class Case(NamedTuple):
    """An optimizer, its slide, hyper-parameters other than the defaults, and the way from the params to w."""

    make: Callable[..., Optimizer]
    oracle: Callable[..., np.ndarray]
    other: dict[str, float]
    state: type
    letters: tuple[str, ...]
    weights: Callable[[Any, Any], Any] = as_held


CASES = {
    "sgd": Case(fnn.sgd, oracles.sgd, {}, SGDState, ("k",)),
    "momentum": Case(fnn.momentum, oracles.momentum, {"gamma": 0.7}, MomentumState, ("k", "v")),
    "nag": Case(fnn.nag, oracles.nag, {"gamma": 0.7}, NAGState, ("k", "v", "reach"), nag_weights),
    "rmsprop": Case(fnn.rmsprop, oracles.rmsprop, {"alpha": 0.7, "epsilon": 1e-3}, RMSPropState, ("k", "G")),
    "adadelta": Case(
        fnn.adadelta, oracles.adadelta, {"alpha": 0.7, "epsilon": 1e-2}, AdaDeltaState, ("k", "G", "Delta")
    ),
    "adam": Case(fnn.adam, oracles.adam, {"gamma": 0.7, "alpha": 0.8, "epsilon": 1e-2}, AdamState, ("k", "v", "G")),
    "nadam": Case(fnn.nadam, oracles.nadam, {"gamma": 0.7, "alpha": 0.8, "epsilon": 1e-2}, AdamState, ("k", "v", "G")),
}
HYPER = {
    "defaults": lambda case: {"eta": 0.1},
    "other": lambda case: {"eta": 0.03, **case.other},
    "schedule": lambda case: {"eta": schedule},
}

every_optimizer = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def start(dtype: Any = float) -> Any:
    """Params of tuples, dicts and a scalar."""
    random = np.random.default_rng(0)
    w = (
        {"w": random.normal(size=(3, 2)), "b": random.normal(size=2)},
        (),
        {"scale": random.normal()},
        (random.normal(size=4),),
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), w)


def random_gradients(steps: int = STEPS) -> np.ndarray:
    """Gradients [steps, dim] of the params of `start`, of sizes from 1e-4 to 10, so that ε is felt and so is G."""
    random = np.random.default_rng(1)
    dim = ravel_pytree(start())[0].size
    return random.normal(size=(steps, dim)) * 10 ** random.uniform(-4, 1, size=dim)


def paths(optimizer: Any, params: Any, gradient: Callable, steps: int, weights: Callable) -> tuple[Any, Any]:
    """The lecture's weights, and the params held, after every step, each [steps, dim]; one scan."""

    def step(carry: Any, k: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(gradient(params, k), state, params)
        params = apply_updates(params, updates)
        return (params, state), (ravel_pytree(weights(params, state))[0], ravel_pytree(params)[0])

    return jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(steps))[1]


def path_on(optimizer: Any, gradients: Any, weights: Callable = as_held) -> Any:
    """w after every step from `start`, on gradients [steps, dim] that do not depend on w."""
    params = start()
    unravel = ravel_pytree(params)[1]
    return paths(optimizer, params, lambda _, k: unravel(jnp.asarray(gradients)[k]), len(gradients), weights)[0]


def slide(oracle: Callable, gradients: np.ndarray, hyper: dict) -> np.ndarray:
    """What the slide's loop makes of the same start and gradients."""
    return oracle(np.asarray(ravel_pytree(start())[0]), lambda w, k: gradients[k], len(gradients), **hyper)


def check_optimizer(make: Callable[..., Any], oracle: Callable, hyper: dict, weights: Callable = as_held) -> None:
    """Fifty steps on random gradients are the slide's loop."""
    gradients = random_gradients()
    got = jax.jit(lambda: path_on(make(**hyper), gradients, weights))()
    np.testing.assert_allclose(got, slide(oracle, gradients, hyper), **EXACT_64)


def check_nag(make: Callable[..., Any], weights: Callable, hyper: dict) -> None:
    """The literal loop, its gradient taken at w − ηγv: both w and the look-ahead, on a quadratic and a wave."""
    random = np.random.default_rng(2)
    w, root = random.normal(size=5), random.normal(size=(5, 5))
    A = root @ root.T / 5
    got, held = jax.jit(
        lambda: paths(make(**hyper), jnp.asarray(w), lambda w, k: A @ w + jnp.cos(3 * w), STEPS, weights)
    )()
    path, ahead = oracles.nag_paths(w, lambda w, k: A @ w + np.cos(3 * w), STEPS, **hyper)
    np.testing.assert_allclose(got, path, **EXACT_64)
    np.testing.assert_allclose(held, ahead, **EXACT_64)


def check_vmap(case: Case, traced: list[str], rows: list[dict]) -> None:
    """Row i of one vmapped run is the slide's loop with row i's hyper-parameters; the others are those of row 0."""
    gradients = random_gradients(6)
    rows = [{**rows[0], **{name: row[name] for name in traced}} for row in rows]
    stacked = {name: jnp.asarray([row[name] for row in rows]) for name in traced}
    run = jax.vmap(lambda hyper: path_on(case.make(**{**rows[0], **hyper}), gradients, case.weights))
    for got, hyper in zip(jax.jit(run)(stacked), rows, strict=True):
        np.testing.assert_allclose(got, slide(case.oracle, gradients, hyper), **EXACT_64)


def check_l2(make_l2: Callable[[float], Any], make_sgd: Callable[[float], Any] = sgd) -> None:
    """Before sgd: w := w(1 − ηλ) − ηg."""
    gradients = random_gradients(10)
    got = jax.jit(lambda: path_on(chain(make_l2(0.3), make_sgd(0.1)), gradients))()
    np.testing.assert_allclose(got, slide(oracles.sgd_l2, gradients, {"eta": 0.1, "strength": 0.3}), **EXACT_64)


def check_clip(make: Callable[[float], Any]) -> None:
    """If ‖g‖ > θ then g := gθ/‖g‖ over the whole vector, and otherwise g as it is, bit for bit."""
    g, unravel = ravel_pytree(start())
    norm = float(np.linalg.norm(g))
    clip = jax.jit(lambda theta: ravel_pytree(make(theta).update(unravel(g), (), None)[0])[0])
    for theta in (norm / 7, norm * 0.999):
        result = clip(theta)
        np.testing.assert_allclose(result, oracles.clipped(np.asarray(g), theta), rtol=1e-14)
        np.testing.assert_allclose(np.linalg.norm(result), theta, rtol=1e-14)
    for theta in (norm * 1.001, norm * 7):
        np.testing.assert_array_equal(clip(theta), g)


# The slides' equations


@every_optimizer
@pytest.mark.parametrize("kind", HYPER)
def test_fifty_random_gradients_follow_the_slide(case, kind):
    check_optimizer(case.make, case.oracle, HYPER[kind](case), case.weights)


def test_adadelta_needs_no_rate():
    check_optimizer(fnn.adadelta, oracles.adadelta, {})


@pytest.mark.parametrize("kind", HYPER)
def test_nag_holds_the_look_ahead_and_gives_back_w(kind):
    check_nag(fnn.nag, nag_weights, HYPER[kind](CASES["nag"]))


def test_nag_starts_at_w():
    params = start()
    chex.assert_trees_all_equal(nag_weights(params, fnn.nag(0.1).init(params)), params)


def test_l2_then_sgd_is_the_slides_step():
    check_l2(l2)


def test_clip_is_exact_above_and_idle_below():
    check_clip(clip_by_norm)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1e30, 1e38, 3e38], ids=str)
@pytest.mark.parametrize("mode", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_clip_tames_gradients_whose_square_overflows(size, dtype, mode):
    g = jnp.asarray([size, -size, 0, 0], dtype)
    updates, _ = mode(lambda g: clip_by_norm(2.0).update(g, (), None))(g)
    expected = np.array([2**0.5, -(2**0.5), 0, 0])
    np.testing.assert_allclose(updates.astype(float), expected, rtol=4 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-44], ids=str)
def test_clip_leaves_vanishing_gradients_alone(size):
    g = jnp.full(4, size, jnp.float32)
    assert (clip_by_norm(1.0).update(g, (), None)[0] == g).all()


def test_clip_does_not_hide_nan():
    assert jnp.isnan(clip_by_norm(1.0).update(jnp.asarray([jnp.nan, 1.0]), (), None)[0][0])


def test_norm_is_of_all_leaves_together():
    np.testing.assert_allclose(tree_norm(({"w": jnp.full((2, 2), 2.0)}, jnp.asarray(3.0))), 5.0, rtol=1e-15)
    assert tree_norm(()) == 0


# Chains and masks


def test_order_in_a_chain_matters():
    """Clipping before L2 leaves the weight decay unclipped; after, it is part of the clipped gradient."""
    g, w = jnp.asarray([3.0, -4.0]), jnp.asarray([10.0, 20.0])
    clip_first = chain(clip_by_norm(1.0), l2(0.1), sgd(0.5))
    l2_first = chain(l2(0.1), clip_by_norm(1.0), sgd(0.5))
    for optimizer, direction in (
        (clip_first, oracles.clipped(np.asarray(g), 1.0) + 0.1 * np.asarray(w)),
        (l2_first, oracles.clipped(np.asarray(g) + 0.1 * np.asarray(w), 1.0)),
    ):
        updates, state = optimizer.update(g, optimizer.init(w), w)
        np.testing.assert_allclose(updates, -0.5 * direction, rtol=1e-14)
        chex.assert_trees_all_equal(state, ((), (), SGDState(jnp.ones((), jnp.int32))))


def test_chain_of_nothing_changes_nothing_and_chains_nest():
    g = start()
    chex.assert_trees_all_equal(chain().update(g, chain().init(g), g), (g, ()))
    flat = chain(clip_by_norm(1.0), l2(0.1), fnn.adam(0.1))
    nested = chain(clip_by_norm(1.0), chain(l2(0.1), fnn.adam(0.1)))
    gradients = random_gradients(5)
    both = jax.jit(lambda: (path_on(flat, gradients), path_on(nested, gradients)))()
    np.testing.assert_array_equal(*both)


def test_masked_l2_spares_the_biases():
    params, g = start(), jax.tree.map(jnp.ones_like, start())
    optimizer = masked(l2(0.5), weights_only)
    updates, _ = optimizer.update(g, optimizer.init(params), params)
    np.testing.assert_allclose(updates[0]["w"], 1 + 0.5 * params[0]["w"], rtol=1e-15)
    for new, old in zip(
        jax.tree.leaves((updates[0]["b"], updates[1:])), jax.tree.leaves((g[0]["b"], g[1:])), strict=True
    ):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(
    "mask",
    [weights_only, ({"w": True, "b": False}, (), {"scale": False}, (False,))],
    ids=["function", "tree"],
)
def test_masked_keeps_state_for_the_chosen_leaves_only(mask):
    params, g = start(), start()
    optimizer = masked(fnn.adam(0.1), mask)
    state = optimizer.init(params)
    assert [leaf.shape for leaf in jax.tree.leaves((state.v, state.G))] == [(3, 2), (3, 2)]
    updates, after = optimizer.update(g, state, params)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    alone = fnn.adam(0.1)
    expected = alone.update(g[0]["w"], alone.init(params[0]["w"]), params[0]["w"])[0]
    np.testing.assert_array_equal(updates[0]["w"], expected)
    np.testing.assert_array_equal(updates[0]["b"], g[0]["b"])


def test_weights_only_chooses_the_leaves_named_w():
    assert weights_only(start()) == ({"w": True, "b": False}, (), {"scale": False}, (False,))
    assert weights_only(jnp.ones(3)) is False


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


def test_foreign_pairs_stand_in_chains_and_masks():
    """A pair with init and update of another library: its state is a dict, its update takes params by name."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda u: 2 * u, updates), {"count": state["count"] + 1}

    foreign = SimpleNamespace(init=lambda params: {"count": 0}, update=update)
    g = start()
    optimizer = chain(masked(foreign, weights_only), foreign, sgd(0.5))
    updates, state = optimizer.update(g, optimizer.init(g), g)
    expected = jax.tree.map(lambda is_weight, leaf: -0.5 * (4 if is_weight else 2) * leaf, weights_only(g), g)
    chex.assert_trees_all_close(updates, expected, rtol=1e-15)
    assert state[:2] == ({"count": 1}, {"count": 1})


def test_apply_updates_keeps_the_params_dtype():
    params, updates = start(jnp.bfloat16), start(jnp.float32)
    chex.assert_trees_all_equal_shapes_and_dtypes(apply_updates(params, updates), params)


# JAX's transformations


@every_optimizer
def test_vmap_over_hyper_parameters_is_the_loop_over_them(case):
    rows = [
        {"eta": 0.1, **case.other},
        {"eta": 0.01, **{name: value / 2 for name, value in case.other.items()}},
        {"eta": 1.0, **{name: 1e-8 if name == "epsilon" else 0.0 for name in case.other}},
    ]
    check_vmap(case, ["eta", *case.other], rows)


def test_vmap_over_the_transforms_hyper_parameters():
    g, w = jnp.asarray([3.0, -4.0]), jnp.asarray([10.0, 20.0])

    def direction(theta: Any, strength: Any) -> Any:
        optimizer = chain(clip_by_norm(theta), l2(strength))
        return optimizer.update(g, optimizer.init(w), w)[0]

    thetas, strengths = jnp.asarray([0.5, 10.0]), jnp.asarray([0.1, 0.0])
    loop = [direction(float(t), float(s)) for t, s in zip(thetas, strengths, strict=True)]
    np.testing.assert_allclose(jax.vmap(direction)(thetas, strengths), loop, rtol=1e-15)


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


@pytest.mark.parametrize("make", [fnn.adam, fnn.nadam], ids=["adam", "nadam"])
def test_second_moment_forgets_in_bfloat16(make):
    """In bfloat16 itself 0.999 is 1, and G would never fall: the states are float32."""
    optimizer, steps = make(0.1), 2000
    one, none = jnp.ones(1, jnp.bfloat16), jnp.zeros(1, jnp.bfloat16)
    state = optimizer.update(one, optimizer.init(one), one)[1]
    assert state.G.dtype == state.v.dtype == jnp.float32
    state = jax.lax.fori_loop(0, steps, lambda _, state: optimizer.update(none, state, one)[1], state)
    # each float32 step rounds by half an ulp, 6e-8, and 0.999 itself is off by as much: 2000 · 1.2e-7
    np.testing.assert_allclose(state.G, (1 - 0.999) * 0.999**steps, rtol=2.5e-4)


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
