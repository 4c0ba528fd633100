"""Everything that is read from a backward pass against its automatic twin, on all networks, batches of one included."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Loss,
    Reading,
    activate,
    backprop,
    dense,
    gradient,
    gram,
    grouped,
    inference_mode,
    linear,
    per_example,
    prelu,
    repeat,
    second_derivatives,
    second_moment,
    serial,
    sgd,
    sigmoid_margin,
    signal_to_noise,
    softmax_cross_entropy,
    softplus,
    squared,
    squared_norm,
    tanh,
    train,
    trainer,
    variance,
    watch,
)
from fnn.core import contributions, gathered
from fnn.derivatives import (
    clip_per_example,
    gate_curvature,
    ggn_diagonal,
    ggn_vector_product,
    gradient_noise,
    hessian_vector_product,
    kronecker_factors,
    unit_gate_curvature,
)
from fnn.derivatives import reference as automatic
from fnn.derivatives.gauss_newton import root_columns
from fnn.derivatives.hessian import loss_hessian
from fnn.nn import drop_records
from fnn.testing._asking import HASTE
from tests.checkers import check_close
from tests.problems import LOSSES, NETWORKS, Problem, couples, normal, posed, targets

NETS = {
    name: problem._replace(net=inference_mode(problem.net)) if couples(problem.net) else problem
    for name, problem in NETWORKS.items()
} | {
    "bottleneck": Problem(serial(dense(1, tanh), dense(4, softplus), linear(3)), softmax_cross_entropy, 4, 3),
    "side by side": Problem(serial(grouped(dense(3, tanh), 2), linear(2)), squared, 4, 2),
}
CONVEX = {name for name, problem in NETS.items() if problem.loss.root is not None}
OF_EXAMPLES = {
    gradient: lambda g: jnp.mean(g, axis=0),
    per_example: lambda g: g,
    squared_norm: lambda g: jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))),
    gram: lambda g: jnp.einsum("ni,mi->nm", *2 * [g.reshape(g.shape[0], -1)]),
    second_moment: lambda g: jnp.mean(jnp.square(g), axis=0),
    variance: lambda g: jnp.var(g, axis=0),
    signal_to_noise: lambda g: jnp.where(jnp.mean(g, axis=0) == 0, 0, jnp.mean(g, axis=0) ** 2 / jnp.var(g, axis=0)),
}
"""What each reading promises of the gradients g [n, …] of single examples."""


def readings_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any]) -> dict[str, tuple[Any, Any]]:
    """Each reading, taken in the backward pass or gathered from contributions later, and what it should be."""
    net, loss, _, _ = problem
    _, each = automatic.read(net, loss, per_example)(*given)
    _, kept = backprop(net, loss, contributions)(*given)
    pairs = {}
    for read, meant in OF_EXAMPLES.items():
        want = jax.tree.map(meant, each)
        pairs[f"{read}"] = backprop(net, loss, read)(*given)[1], want
        if read.scale(2) == 1:
            pairs[f"{read}, gathered"] = gathered(read, kept), want
            pairs[f"{read}, automatic"] = automatic.read(net, loss, read)(*given)[1], want
    # A variance is a difference of moments, and has the digits of the larger one; so has the noise of a ratio to it.
    mean, moment = pairs["gradient"][1], pairs["second_moment"][1]
    noise = lambda g, m, ratio: m + jnp.where(ratio == 0, 0, jnp.square(g) / ratio)  # noqa: E731
    for what, (got, want) in pairs.items():
        if what.startswith("variance"):
            pairs[what] = jax.tree.map(jnp.add, got, moment), jax.tree.map(jnp.add, want, moment)
        if what.startswith("signal_to_noise"):
            pairs[what] = jax.tree.map(noise, mean, moment, got), jax.tree.map(noise, mean, moment, want)
    return pairs


def diagnostics_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any]) -> dict[str, tuple[Any, Any]]:
    """Clipping, and the noise of gradients, of which the scale may be infinite and its inverse may not."""
    net, loss, _, _ = problem
    by_hand, twin = (f(0.5)(net, loss)(*given)[1] for f in (clip_per_example, automatic.clip_per_example))
    pairs = {"clipped": (by_hand, twin)}
    if given[2][0].shape[0] > 1:
        noises = (f(net, loss)(*given) for f in (gradient_noise, automatic.gradient_noise))
        by_hand, twin = (noise._replace(noise_scale=1 / noise.noise_scale)._asdict() for noise in noises)
        pairs |= {f"noise, {what}": (by_hand[what], twin[what]) for what in twin}
    return pairs


def curvatures_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any], v: Any) -> dict[str, tuple[Any, Any]]:
    """Each second derivative and its automatic twin."""
    net, loss, _, _ = problem
    Hv, Gv = (twin(net, loss)(*given, v) for twin in (automatic.hessian_vector_product, automatic.ggn_vector_product))
    each = automatic.hessian_diagonal(net, loss, per_example)(*given)[1]
    pairs = {
        "Hessians of examples": (second_derivatives(net, loss, per_example)(*given)[1], each),
        "Hessian": (second_derivatives(net, loss)(*given)[1], jax.tree.map(lambda h: jnp.mean(h, axis=0), each)),
        "Hv": (hessian_vector_product(net, loss)(*given, v), Hv),
        "Hv in reverse": (hessian_vector_product(net, loss, reverse=True)(*given, v), Hv),
        "GGN v": (ggn_vector_product(net, loss)(*given, v), Gv),
        "gates": tuple(f(net, loss)(*given) for f in (gate_curvature, automatic.gate_curvature)),
        "gates of units": tuple(f(net, loss)(*given) for f in (unit_gate_curvature, automatic.unit_gate_curvature)),
    }
    if loss.root is not None:
        want = automatic.ggn_diagonal(net, loss)(*given)[1]
        pairs["GGN"] = ggn_diagonal(net, loss)(*given)[1], want
        pairs["GGN, matrices"] = second_derivatives(net, loss, gauss_newton=True)(*given)[1], want
        factors = (f(net, loss)(*given)[1] for f in (kronecker_factors, automatic.kronecker_factors))
        pairs["Kronecker factors"] = tuple(factors)
    return pairs


@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("name", NETS)
def test_everything_equals_its_automatic_twin(name: str, n: int) -> None:
    """By one program a network and size, compiled in haste: the compiler is what takes the time here."""
    problem = NETS[name]
    given = posed(problem, n)
    if name in NETWORKS and couples(NETWORKS[name].net):  # statistics for inference mode: all of them 1
        given = (given[0], jax.tree.map(jnp.ones_like, given[1]), *given[2:])

    def both(given: Any, v: Any) -> Any:
        quantities = readings_and_twins(problem, given) | diagnostics_and_twins(problem, given)
        return quantities | curvatures_and_twins(problem, given, v)

    arguments = given, normal(given[0], seed=21)
    pairs = jax.jit(both).lower(*arguments).compile(compiler_options=HASTE)(*arguments)
    assert len(pairs) == 25 + 3 * (name in CONVEX) + 6 * (n > 1)
    wrong = {}
    for what, (got, want) in pairs.items():
        try:
            check_close(got, want, rtol=1e-10)
        except AssertionError as error:
            wrong[what] = str(error)
    assert not wrong, wrong


def test_there_are_twenty_networks() -> None:
    assert len(NETS) >= 20
    assert len(CONVEX) >= 20


# Readings


SMALL = Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2)
SPREADS = variance, signal_to_noise


def widened(tree: Any) -> Any:
    """A tree in float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


@pytest.mark.parametrize("n", [7, 128, 20000])
def test_examples_that_agree_have_no_variance(n: int) -> None:
    """In float32, where the two moments of n equal numbers differ by rounding that grows with n."""
    net = serial(dense(5, tanh), linear(3))
    params, state, (x, y), key = posed(Problem(net, softmax_cross_entropy, 4, 3), 1, dtype=jnp.float32)
    same = jnp.tile(x, (n, 1)), jnp.tile(y, n)
    found = jax.jit(lambda: [backprop(net, softmax_cross_entropy, r)(params, state, same, key)[1] for r in SPREADS])
    spread, ratio = found()
    assert all(not leaf.any() for leaf in jax.tree.leaves(spread))
    assert all(np.isinf(leaf).all() for leaf in jax.tree.leaves(ratio))


@pytest.mark.parametrize(("apart", "at_weights"), [(1e-4, False), (0.05, True)])
def test_a_small_variance_is_seen(apart: float, at_weights: bool) -> None:
    """At a bias even where it is 1e-9 of the moment, at weights from n eps on."""
    x = jnp.ones((256, 1), jnp.float32)
    y = jnp.where(jnp.arange(256)[:, None] < 128, 1, 1 + apart).astype(jnp.float32)
    params = {"w": jnp.zeros((1, 1), jnp.float32), "b": jnp.zeros(1, jnp.float32)}
    _, spread = backprop(linear(1), squared, variance)(params, (), (x, y), jax.random.key(0))
    np.testing.assert_allclose(spread["b"], apart**2 / 4, rtol=1e-2)
    np.testing.assert_allclose(spread["w"][0], spread["b"] if at_weights else 0, rtol=1e-2)


def test_variances_of_half_precision_are_found_in_float32() -> None:
    given = posed(SMALL._replace(loss=squared), 256, dtype=jnp.bfloat16)
    _, ratio = backprop(SMALL.net, squared, signal_to_noise)(*given)
    _, each = backprop(SMALL.net, squared, per_example)(*given)
    want = jax.tree.map(lambda g: jnp.mean(g, axis=0) ** 2 / jnp.var(g, axis=0), widened(each))
    for got, w in zip(jax.tree.leaves(ratio), jax.tree.leaves(want), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(got, np.float32), w, rtol=0.05, atol=1e-3)


def test_variance_of_nan_is_nan() -> None:
    params, state, (x, y), key = posed(SMALL, 3)
    bad = x.at[0].set(jnp.nan), y
    for read in SPREADS:
        _, found = backprop(SMALL.net, SMALL.loss, read)(params, state, bad, key)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))


def test_a_batch_of_one_has_no_variance_and_no_noise() -> None:
    given = posed(SMALL, 1)
    _, spread = jax.jit(backprop(SMALL.net, SMALL.loss, variance))(*given)
    _, ratio = jax.jit(backprop(SMALL.net, SMALL.loss, signal_to_noise))(*given)
    assert all(not leaf.any() for leaf in jax.tree.leaves(spread))
    assert all(np.isinf(leaf).all() for leaf in jax.tree.leaves(ratio))


def test_where_no_example_pulls_there_is_no_signal() -> None:
    params, state, (x, _), key = posed(SMALL._replace(loss=squared), 3)
    targets = SMALL.net.apply(params, state, x)
    _, ratio = backprop(SMALL.net, squared, signal_to_noise)(params, state, (x, targets), key)
    assert all(not leaf.any() for leaf in jax.tree.leaves(ratio))


def test_contributions_keep_the_two_factors_and_the_example_first() -> None:
    net = serial(repeat(repeat(dense(4, tanh), 2), 3), prelu())
    _, (copies, slopes) = jax.eval_shape(backprop(net, squared, contributions), *posed(Problem(net, squared, 4, 4), 7))
    assert (copies["w"].x.shape, copies["w"].error.shape, copies["b"].shape) == ((7, 3, 2, 4),) * 3
    assert slopes["alpha"].shape == (7, 4)


@pytest.mark.parametrize("read", [gram, variance, signal_to_noise, contributions], ids=str)
def test_batch_norm_refuses_what_is_of_single_examples(read: Reading) -> None:
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match=r"couples the examples.*fnn\.inference_mode"):
        jax.eval_shape(backprop(problem.net, problem.loss, read), *posed(problem))


def test_unwatched_leaves_the_readings() -> None:
    given = posed(SMALL, 3)
    _, seen = backprop(watch(SMALL.net), SMALL.loss)(*given)
    _, plain = backprop(SMALL.net, SMALL.loss)(*given)
    check_close(drop_records(seen), plain)


# Gates of units


@pytest.mark.parametrize("exact", [True, False])
def test_gates_of_units_are_second_derivatives_by_gates(exact: bool) -> None:
    """One hidden layer below a loss of separate outputs, where the one pass is exact too."""
    net = serial(dense(5, tanh), linear(2))
    params, state, (x, y), key = posed(Problem(net, squared, 4, 2), 7)

    def gated(gates: Any) -> Any:
        (p, q), (g, h) = params, gates
        hidden = jnp.tanh(x @ p["w"] + p["b"][None]) * g[None]
        return jnp.mean(jnp.sum(0.5 * ((hidden @ q["w"] + q["b"][None]) * h[None] - y) ** 2, axis=1))

    ones = jnp.ones(5), jnp.ones(2)
    want = [jax.hessian(lambda g, i=i: gated((*ones[:i], g, *ones[i + 1 :])))(ones[i]) for i in range(2)]
    got = unit_gate_curvature(net, squared, exact=exact)(params, state, (x, y), key)
    check_close(got, tuple(jnp.diagonal(h) for h in want), rtol=1e-11)


def test_gates_within_repeat_have_the_depth_first() -> None:
    net = serial(repeat(dense(4, tanh), 3), grouped(dense(3, tanh), 2))
    copies, beside = jax.eval_shape(unit_gate_curvature(net, squared), *posed(Problem(net, squared, 4, 6), 7))
    assert (copies.shape, beside.shape) == ((3, 4), (2, 3))


# Kronecker factors


def blocks(problem: Problem, given: Any) -> list[Any]:
    """The Gauss–Newton matrix's own block of each layer, weights row by row and then biases if any, by Jacobians."""
    net, loss, _, _ = problem
    params, state, (x, y), key = given
    output = lambda p: net.forward(p, state, x, key)[0]  # noqa: E731
    H = loss_hessian(loss, output(params), y)
    found = []
    for jacobian in jax.jacrev(output)(params):
        J = jnp.concatenate([jacobian["w"], *(b[:, :, None, :] for name, b in jacobian.items() if name == "b")], axis=2)
        J = J.reshape(*J.shape[:2], -1)
        found.append(jnp.einsum("nmu,nmk,nkv->uv", J, H, J) / x.shape[0])
    return found


@pytest.mark.parametrize(
    ("problem", "n"),
    [
        (Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2), 1),
        (Problem(serial(linear(3), linear(2)), squared, 4, 2), 7),
        (Problem(serial(dense(3, tanh, bias=False), linear(2)), softmax_cross_entropy, 4, 2), 1),
        (Problem(serial(linear(3, bias=False), linear(2, bias=False)), squared, 4, 2), 7),
    ],
)
def test_kronecker_factors_are_the_block_for_one_example_and_without_activations(problem: Problem, n: int) -> None:
    given = posed(problem, n)
    _, factors = kronecker_factors(problem.net, problem.loss)(*given)
    check_close([jnp.kron(f.A, f.G) for f in factors], blocks(problem, given), rtol=1e-11)


def test_kronecker_factors_are_an_approximation_elsewhere() -> None:
    given = posed(SMALL, 7)
    _, factors = kronecker_factors(SMALL.net, SMALL.loss)(*given)
    want = blocks(SMALL, given)[0]
    assert jnp.linalg.norm(jnp.kron(factors[0].A, factors[0].G) - want) > 0.01 * jnp.linalg.norm(want)


# Clipping


def test_clipping_bounds_every_example_and_leaves_short_gradients_alone() -> None:
    given = posed(SMALL, 7)
    _, g = backprop(SMALL.net, SMALL.loss)(*given)
    _, unclipped = clip_per_example(1e6)(SMALL.net, SMALL.loss)(*given)
    check_close(unclipped, g)
    _, tiny = clip_per_example(1e-3)(SMALL.net, SMALL.loss)(*given)
    assert float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tiny)))) <= 1e-3 * (1 + 1e-12)


def test_an_example_without_a_gradient_stays_without_one() -> None:
    params, state, (x, _), key = posed(SMALL._replace(loss=squared), 3)
    targets = SMALL.net.apply(params, state, x)
    _, g = clip_per_example(1.0)(SMALL.net, squared)(params, state, (x, targets), key)
    assert all(not leaf.any() for leaf in jax.tree.leaves(g))


def clipped_and_twin(given: Any) -> tuple[Any, Any]:
    """The mean of gradients of a linear layer with the norm 1 at most, and what it is in float64."""
    _, got = clip_per_example(1.0)(linear(3), squared)(*given)
    params, state, batch, key = given
    each = automatic.read(linear(3), squared, per_example)(widened(params), state, widened(batch), key)[1]
    g = jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(each)], axis=1)
    norm = jnp.linalg.norm(g, axis=1)
    mean = jnp.mean(g / jnp.maximum(norm, 1)[:, None], axis=0)
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(got)]), mean


@pytest.mark.parametrize(
    ("dtype", "factor", "rtol"),
    [(jnp.float16, 60, 1e-2), (jnp.bfloat16, 60, 3e-2), (jnp.float32, 1e22, 1e-5), (jnp.float32, 1e-25, 1e-5)],
)
def test_no_square_of_a_norm_overflows(dtype: Any, factor: float, rtol: float) -> None:
    """Data whose gradients have squared norms beyond the dtype, and for one example in float32 the norm too."""
    params, state, (x, y), key = posed(Problem(linear(3), squared, 4, 3), 6, dtype=dtype)
    larger = jnp.asarray(factor, dtype) * (x if dtype != jnp.float32 else x[:1])
    batch = (jnp.concatenate([larger, x[larger.shape[0] :]]), y)
    got, want = clipped_and_twin((params, state, batch, key))
    assert got.dtype == dtype
    np.testing.assert_allclose(np.asarray(got, np.float64), want, rtol=rtol, atol=rtol * float(jnp.max(jnp.abs(want))))


def test_an_example_of_nan_makes_the_clipped_mean_nan() -> None:
    params, state, (x, y), key = posed(SMALL, 3)
    _, g = clip_per_example(1.0)(SMALL.net, SMALL.loss)(params, state, (x.at[1].set(jnp.nan), y), key)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(g))


def test_a_network_without_params_has_nothing_to_clip() -> None:
    net = serial(activate(tanh), activate(tanh))
    given = posed(Problem(net, squared, 4, 4), 3)
    (value, _), g = jax.jit(clip_per_example(1.0)(net, squared))(*given)
    assert (float(value), g) == (float(backprop(net, squared)(*given)[0][0]), ((), ()))


def test_clipping_trains() -> None:
    net = serial(dense(8, tanh), linear(1))
    x = jnp.linspace(-1, 1, 32)[:, None]
    learn = trainer(net, squared, sgd(0.5), batch_size=16, gradient=clip_per_example(0.5))
    _, metrics = train(learn, learn.init(jax.random.key(0), (x, jnp.abs(x))), (x, jnp.abs(x)), 400, every=200)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan")])
def test_a_threshold_is_positive(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be"):
        clip_per_example(threshold)


def test_clipping_refuses_batch_norm() -> None:
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match="couples the examples"):
        clip_per_example(1.0)(problem.net, problem.loss)(*posed(problem))


# Losses


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.root is not None], ids=str)
def test_the_root_of_a_loss_is_one_of_its_hessian(loss: Loss) -> None:
    problem = Problem(linear(3), loss, 4, 3)
    a, y = normal(jnp.zeros((7, 3)), seed=5), targets(problem, 7)
    R = root_columns(loss, a, y)
    check_close(jnp.einsum("cnm,cnk->nmk", R, R), loss_hessian(loss, a, y))


def test_a_loss_without_a_root_is_refused_by_name() -> None:
    assert [str(loss) for loss in LOSSES if loss.root is None] == ["sigmoid_margin"]
    for quantity in (ggn_diagonal, kronecker_factors):
        with pytest.raises(ValueError, match=r"root.*sigmoid_margin.*gauss_newton=True"):
            quantity(linear(1), sigmoid_margin)
