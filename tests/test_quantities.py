"""Everything that is read from a backward pass against its automatic twin, on all networks, batches of one included."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkers import check_close
from problems import LOSSES, NETWORKS, Problem, answers, couples, normal, posed

from fnn import (
    Loss,
    Reading,
    applied,
    automatic,
    backprop,
    contributions,
    dense,
    gate_curvature,
    gathered,
    gradient,
    gram,
    linear,
    parallel,
    per_object,
    prelu,
    repeat,
    run,
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
    trainer,
    unwatched,
    variance,
    watch,
)
from fnn.curvature import loss_hessian, unit_gate_curvature
from fnn.gauss_newton import Kronecker, columns, ggn_diagonal, ggn_product, kronecker_factors
from fnn.noise import clip_per_object
from fnn.products import hessian_product
from fnn.readings import is_outer

NETS = {
    name: problem._replace(net=applied(problem.net)) if couples(problem.net) else problem
    for name, problem in NETWORKS.items()
} | {
    "bottleneck": Problem(serial(dense(1, tanh), dense(4, softplus), linear(3)), softmax_cross_entropy, 4, 3),
    "side by side": Problem(serial(parallel(dense(3, tanh), 2), linear(2)), squared, 4, 2),
}
CONVEX = {name for name, problem in NETS.items() if problem.loss.root is not None}
BOTH_SIZES = ["softmax regression", "several yes-no questions", "prelu", "residual", "side by side"]
SIZES = [(name, (1, 7)[i % 2]) for i, name in enumerate(NETS)]
SIZES += [(name, n) for name in BOTH_SIZES for n in (1, 7) if (name, n) not in SIZES]
"""A compilation for each network and batch size is dear: every network meets one of the two, some both."""

OF_OBJECTS = {
    gradient: lambda g: jnp.mean(g, axis=0),
    per_object: lambda g: g,
    squared_norm: lambda g: jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))),
    gram: lambda g: jnp.einsum("ni,mi->nm", *2 * [g.reshape(g.shape[0], -1)]),
    second_moment: lambda g: jnp.mean(jnp.square(g), axis=0),
    variance: lambda g: jnp.var(g, axis=0),
}
"""What each reading promises of the gradients g [n, …] of single objects."""


def readings_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any]) -> dict[str, tuple[Any, Any]]:
    """Each reading, taken in the backward pass or gathered from contributions later, and what it should be."""
    net, loss, _, _ = problem
    _, each = automatic.read(net, loss, per_object)(*given)
    _, kept = backprop(net, loss, contributions)(*given)
    pairs = {}
    for read, meant in OF_OBJECTS.items():
        want = jax.tree.map(meant, each)
        pairs[f"{read}"] = backprop(net, loss, read)(*given)[1], want
        if read.scale(2) == 1:
            pairs[f"{read}, gathered"] = gathered(read, kept), want
            pairs[f"{read}, automatic"] = automatic.read(net, loss, read)(*given)[1], want
    # A variance is a difference of moments, and has the digits of the larger one.
    for what in [what for what in pairs if what.startswith("variance")]:
        pairs[what] = tuple(jax.tree.map(jnp.add, tree, pairs["second_moment"][1]) for tree in pairs[what])
    pairs["clipped"] = tuple(f(0.5)(net, loss)(*given)[1] for f in (clip_per_object, automatic.clip_per_object))
    return pairs


def curvatures_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any], v: Any) -> dict[str, tuple[Any, Any]]:
    """Each second derivative and its automatic twin."""
    net, loss, _, _ = problem
    Hv, Gv = (twin(net, loss)(*given, v) for twin in (automatic.hessian_product, automatic.ggn_product))
    pairs = {
        "Hessian": (second_derivatives(net, loss)(*given)[1], automatic.hessian_diagonal(net, loss)(*given)[1]),
        "Hv": (hessian_product(net, loss)(*given, v), Hv),
        "Hv in reverse": (hessian_product(net, loss, reverse=True)(*given, v), Hv),
        "GGN v": (ggn_product(net, loss)(*given, v), Gv),
        "gates": (gate_curvature(net, loss)(*given), automatic.gate_curvature(net, loss)(*given)),
    }
    if loss.root is not None:
        want = automatic.ggn_diagonal(net, loss)(*given)[1]
        pairs["GGN"] = ggn_diagonal(net, loss)(*given)[1], want
        pairs["GGN, matrices"] = second_derivatives(net, loss, gauss_newton=True)(*given)[1], want
    return pairs


@pytest.mark.parametrize(("name", "n"), SIZES)
def test_everything_equals_its_automatic_twin(name: str, n: int) -> None:
    problem = NETS[name]
    given = posed(problem, n)
    if name in NETWORKS and couples(NETWORKS[name].net):  # statistics for the application stage: all of them 1
        given = (given[0], jax.tree.map(jnp.ones_like, given[1]), *given[2:])

    @jax.jit
    def both(given: Any, v: Any) -> Any:
        return readings_and_twins(problem, given) | curvatures_and_twins(problem, given, v)

    pairs = both(given, normal(given[0], seed=21))
    assert ("GGN" in pairs) == (name in CONVEX)
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
    assert {name for name, _ in SIZES} == NETS.keys()


# Readings


SMALL = Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2)


def test_signal_to_noise_is_mean_squared_over_variance() -> None:
    given = posed(SMALL, 7)
    _, each = automatic.read(SMALL.net, SMALL.loss, per_object)(*given)
    _, got = backprop(SMALL.net, SMALL.loss, signal_to_noise)(*given)
    check_close(got, jax.tree.map(lambda g: jnp.mean(g, axis=0) ** 2 / jnp.var(g, axis=0), each), rtol=1e-9)


def test_a_batch_of_one_has_no_variance_and_no_noise() -> None:
    given = posed(SMALL, 1)
    _, spread = jax.jit(backprop(SMALL.net, SMALL.loss, variance))(*given)
    _, ratio = jax.jit(backprop(SMALL.net, SMALL.loss, signal_to_noise))(*given)
    assert all(not leaf.any() for leaf in jax.tree.leaves(spread))
    assert all(np.isinf(leaf).all() for leaf in jax.tree.leaves(ratio))


def test_where_no_object_pulls_there_is_no_signal() -> None:
    params, state, (x, _), key = posed(SMALL._replace(loss=squared), 3)
    answers = SMALL.net.apply(params, state, x)
    _, ratio = backprop(SMALL.net, squared, signal_to_noise)(params, state, (x, answers), key)
    assert all(not leaf.any() for leaf in jax.tree.leaves(ratio))


def test_contributions_keep_the_two_factors_and_the_object_first() -> None:
    net = serial(repeat(repeat(dense(4, tanh), 2), 3), prelu())
    _, (copies, slopes) = jax.eval_shape(backprop(net, squared, contributions), *posed(Problem(net, squared, 4, 4), 7))
    assert (copies["w"].x.shape, copies["w"].error.shape, copies["b"].shape) == ((7, 3, 2, 4),) * 3
    assert slopes["alpha"].shape == (7, 4)


@pytest.mark.parametrize("read", [gram, variance, signal_to_noise, contributions], ids=str)
def test_batch_norm_refuses_what_is_of_single_objects(read: Reading) -> None:
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match=r"couples the objects.*fnn\.applied"):
        jax.eval_shape(backprop(problem.net, problem.loss, read), *posed(problem))


def test_unwatched_leaves_the_readings() -> None:
    given = posed(SMALL, 3)
    _, seen = backprop(watch(SMALL.net), SMALL.loss)(*given)
    _, plain = backprop(SMALL.net, SMALL.loss)(*given)
    check_close(unwatched(seen), plain)


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
    net = serial(repeat(dense(4, tanh), 3), parallel(dense(3, tanh), 2))
    copies, beside = jax.eval_shape(unit_gate_curvature(net, squared), *posed(Problem(net, squared, 4, 6), 7))
    assert (copies.shape, beside.shape) == ((3, 4), (2, 3))


# Kronecker factors


def blocks(problem: Problem, given: Any) -> list[Any]:
    """The Gauss–Newton matrix's own block of each {"w", "b"}, weights row by row and then biases, by Jacobians."""
    net, loss, _, _ = problem
    params, state, (x, y), key = given
    output = lambda p: net.forward(p, state, x, key)[0]  # noqa: E731
    H = loss_hessian(loss, output(params), y)
    found = []
    for jacobian in jax.jacrev(output)(params):
        J = jnp.concatenate([jacobian["w"], jacobian["b"][:, :, None, :]], axis=2)
        J = J.reshape(*J.shape[:2], -1)
        found.append(jnp.einsum("nmu,nmk,nkv->uv", J, H, J) / x.shape[0])
    return found


@pytest.mark.parametrize(
    ("problem", "n"),
    [
        (Problem(serial(dense(3, tanh), linear(2)), softmax_cross_entropy, 4, 2), 1),
        (Problem(serial(linear(3), linear(2)), squared, 4, 2), 7),
    ],
)
def test_kronecker_factors_are_the_block_for_one_object_and_without_activations(problem: Problem, n: int) -> None:
    given = posed(problem, n)
    _, factors = kronecker_factors(problem.net, problem.loss)(*given)
    check_close([jnp.kron(f.A, f.G) for f in factors], blocks(problem, given), rtol=1e-11)


def test_kronecker_factors_are_an_approximation_elsewhere() -> None:
    given = posed(SMALL, 7)
    _, factors = kronecker_factors(SMALL.net, SMALL.loss)(*given)
    want = blocks(SMALL, given)[0]
    assert jnp.linalg.norm(jnp.kron(factors[0].A, factors[0].G) - want) > 0.01 * jnp.linalg.norm(want)


@pytest.mark.parametrize("name", ["several margins", "relu", "deep", "side by side", "batch norm", "dropout"])
def test_kronecker_factors_have_the_ggn_diagonal_on_theirs(name: str) -> None:
    """Tr over objects: Σ_i A_ii has Σ_n x_ni², and G_oo the bias's diagonal."""
    problem = NETS[name]
    given = posed(problem, 7)

    def pairs(given: Any) -> Any:
        _, factors = kronecker_factors(problem.net, problem.loss)(*given)
        _, diagonal = ggn_diagonal(problem.net, problem.loss)(*given)
        _, kept = backprop(problem.net, problem.loss, contributions)(*given)
        return factors, diagonal, kept

    factors, diagonal, kept = jax.jit(pairs)(given)
    is_factors = lambda node: isinstance(node, Kronecker)  # noqa: E731
    neurons = [node for node in jax.tree.leaves(factors, is_leaf=is_factors) if is_factors(node)]
    of_dense = lambda node: isinstance(node, dict) and "w" in node  # noqa: E731
    biases = [node["b"] for node in jax.tree.leaves(diagonal, is_leaf=of_dense) if of_dense(node)]
    inputs = [node.x for node in jax.tree.leaves(kept, is_leaf=is_outer) if is_outer(node)]
    assert len(neurons) == len(biases) == len(inputs) > 0
    for f, b, x in zip(neurons, biases, inputs, strict=True):
        check_close(jnp.diagonal(f.G, axis1=-2, axis2=-1), b)
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)
        check_close(
            f.A,
            jnp.stack([jnp.outer(r, r) for r in x.reshape(-1, x.shape[-1])])
            .reshape(*x.shape, x.shape[-1])
            .mean(axis=0),
        )


# Clipping


def test_clipping_bounds_every_object_and_leaves_short_gradients_alone() -> None:
    given = posed(SMALL, 7)
    _, g = backprop(SMALL.net, SMALL.loss)(*given)
    _, unclipped = clip_per_object(1e6)(SMALL.net, SMALL.loss)(*given)
    check_close(unclipped, g)
    _, tiny = clip_per_object(1e-3)(SMALL.net, SMALL.loss)(*given)
    assert float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tiny)))) <= 1e-3 * (1 + 1e-12)


def test_an_object_without_a_gradient_stays_without_one() -> None:
    params, state, (x, _), key = posed(SMALL._replace(loss=squared), 3)
    answers = SMALL.net.apply(params, state, x)
    _, g = clip_per_object(1.0)(SMALL.net, squared)(params, state, (x, answers), key)
    assert all(not leaf.any() for leaf in jax.tree.leaves(g))


def test_clipping_trains() -> None:
    net = serial(dense(8, tanh), linear(1))
    x = jnp.linspace(-1, 1, 32)[:, None]
    learn = trainer(net, squared, sgd(0.5), batch_size=16, gradient=clip_per_object(0.5))
    _, metrics = run(learn, learn.init(jax.random.key(0), (x, jnp.abs(x))), (x, jnp.abs(x)), 400, every=200)
    assert metrics["loss"][-1] < 0.5 * metrics["loss"][0]


@pytest.mark.parametrize("threshold", [0, -1.0, float("nan")])
def test_a_threshold_is_positive(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be"):
        clip_per_object(threshold)


def test_clipping_refuses_batch_norm() -> None:
    problem = NETWORKS["batch norm"]
    with pytest.raises(ValueError, match="couples the objects"):
        clip_per_object(1.0)(problem.net, problem.loss)(*posed(problem))


# Losses


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss.root is not None], ids=str)
def test_the_root_of_a_loss_is_one_of_its_hessian(loss: Loss) -> None:
    problem = Problem(linear(3), loss, 4, 3)
    a, y = normal(jnp.zeros((7, 3)), seed=5), answers(problem, 7)
    R = columns(loss, a, y)
    check_close(jnp.einsum("cnm,cnk->nmk", R, R), loss_hessian(loss, a, y))


def test_a_loss_without_a_root_is_refused_by_name() -> None:
    assert [str(loss) for loss in LOSSES if loss.root is None] == ["sigmoid_margin"]
    for quantity in (ggn_diagonal, kronecker_factors):
        with pytest.raises(ValueError, match=r"root.*sigmoid_margin.*gauss_newton=True"):
            quantity(linear(1), sigmoid_margin)
