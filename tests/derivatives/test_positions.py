"""Every quantity of networks with positions, against automatic gradients of one example at a time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Reading,
    activate,
    adam,
    backprop,
    compare_gradients,
    dense,
    derivatives,
    dropout,
    gradient,
    gram,
    linear,
    objective,
    per_example,
    relu,
    second_moment,
    serial,
    softmax_cross_entropy,
    squared,
    squared_norm,
    sweep,
    tanh,
    train,
    trainer,
    variance,
)
from fnn.core import Unsupported, contributions, gathered
from fnn.derivatives import Kronecker, ggn_diagonal, ggn_vector_product, hutchinson, kronecker_factors, reference
from fnn.derivatives.noise import _NORM
from fnn.nn import average_pool, conv, drop_records, each_position, flatten, last, lstm, thinned_average, watch
from fnn.pruning import gauss_newton, obd
from fnn.testing._trees import normal
from tests.checkers import check_close
from tests.positions import NETWORKS, Posed, given

each_network = pytest.mark.parametrize("posed", NETWORKS.values(), ids=NETWORKS.keys())

OF_ONE_OWN = Reading(
    label="cubes",
    outer=lambda x, error: (x**3).T @ error**3,
    rows=lambda rows: jnp.sum(rows**3, axis=0),
    stack=lambda stacked: stacked,
    scale=lambda n: 1.0,
    linear=False,
)
"""A reading as a user writes one, who has never heard of positions."""


def _square(g: Any) -> Any:
    return jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim)))


MEANT: dict[Reading, Any] = {
    gradient: lambda g: jnp.mean(g, axis=0),
    per_example: lambda g: g,
    squared_norm: _square,
    gram: lambda g: g.reshape(len(g), -1) @ g.reshape(len(g), -1).T,
    second_moment: lambda g: jnp.mean(jnp.square(g), axis=0),
    variance: lambda g: jnp.var(g, axis=0),
    OF_ONE_OWN: lambda g: jnp.sum(g**3, axis=0),
    _NORM: lambda g: jnp.sqrt(_square(g)),
}
"""What each reading is of the gradients g [n, …] of single examples."""


def _each_gradient(posed: Posed, params: Any, state: Any, batch: Any, key: Any) -> Any:
    """The automatic gradients of all examples: the network draws for the whole batch, so x is not cut."""
    x, y = batch

    def losses(params: Any) -> Any:
        a, _, _ = posed.net.forward(params, state, x, key)
        return posed.loss.value(a, y)

    _, pull = jax.vjp(losses, params)
    return jax.vmap(lambda e: pull(e)[0])(jnp.eye(len(x)))


@each_network
def test_readings_are_of_the_examples_own_gradients(posed: Posed) -> None:
    params, state, batch, key = given(posed)

    @jax.jit
    def both(params: Any, batch: Any) -> Any:
        each = _each_gradient(posed, params, state, batch, key)
        by_hand = {r: backprop(posed.net, posed.loss, r)(params, state, batch, key)[1] for r in MEANT}
        kept = backprop(posed.net, posed.loss, contributions)(params, state, batch, key)[1]
        later = {r: gathered(r, kept) for r in MEANT if r not in (gradient, second_moment)}
        return by_hand, later, {r: jax.tree.map(meant, each) for r, meant in MEANT.items()}

    by_hand, later, meant = both(params, batch)
    for read, want in meant.items():
        check_close(by_hand[read], want)
    for read, got in later.items():
        check_close(got, meant[read])


@each_network
def test_errors_and_gradients_are_those_of_jax(posed: Posed) -> None:
    """The gradient, recorded too, the error at x, and the losses' slopes."""
    params, state, (x, y), key = given(posed)
    net, loss = posed.net, posed.loss

    @jax.jit
    def both(params: Any, x: Any) -> Any:
        a, _, tape = net.forward(params, state, x, key)
        (_, by_jax) = jax.value_and_grad(objective(net, loss), has_aux=True)(params, state, (x, y), key)
        _, recorded = backprop(watch(net), loss)(params, state, (x, y), key)
        slope = jax.grad(lambda a: jnp.sum(loss.value(a, y)))(a)
        through, _ = net.backward(params, tape, slope, gradient)
        wanted = through
        if jnp.issubdtype(x.dtype, jnp.floating):
            wanted = jax.grad(lambda x: jnp.sum(loss.value(net.forward(params, state, x, key)[0], y)))(x)
        return (drop_records(recorded), loss.slope(a, y), through), (by_jax, slope, wanted)

    check_close(*both(params, x))


SMALL = {name: posed for name, posed in NETWORKS.items() if name not in ("causal transformer",)}


@pytest.mark.parametrize("posed", SMALL.values(), ids=SMALL.keys())
def test_gauss_newton_is_that_of_jacobians(posed: Posed) -> None:
    params, state, batch, key = given(posed, n=3)
    net, loss = posed.net, posed.loss
    v = normal(params, 9)

    @jax.jit
    def both(params: Any, batch: Any) -> Any:
        arguments = params, state, batch, key
        by_hand = ggn_diagonal(net, loss)(*arguments)[1], ggn_vector_product(net, loss)(*arguments, v)
        return by_hand, (
            reference.ggn_diagonal(net, loss)(*arguments)[1],
            reference.ggn_vector_product(net, loss)(*arguments, v),
        )

    check_close(*both(params, batch))


# Kronecker factors, where they are exact


def whole_block(A: Any, G: Any, inputs: int) -> Any:
    """A ⊗ G in the order of `ravel_pytree`: the biases first, and then w [i, o] row by row."""
    order = jnp.concatenate([jnp.asarray([inputs]), jnp.arange(inputs)])
    return jnp.kron(A[order][:, order], G)


EXACT: dict[str, tuple[Any, Any, tuple[int, ...], tuple[int, ...], bool]] = {
    "a loss at every step": (linear(3), each_position(squared, mean=False), (4, 2), (4, 3), False),
    "a loss at every pixel": (conv(2, 2), each_position(squared, mean=False), (3, 3, 2), (3, 3, 2), False),
    "steps averaged": (serial(linear(3), average_pool()), squared, (4, 2), (3,), True),
    "pixels averaged": (serial(conv(2, 2, stride=2), average_pool()), squared, (3, 3, 2), (2,), True),
}


@pytest.mark.parametrize(("net", "loss", "shape", "targets", "reduce"), EXACT.values(), ids=EXACT.keys())
def test_kronecker_factors_of_linear_networks_are_exact(
    net: Any, loss: Any, shape: tuple[int, ...], targets: tuple[int, ...], reduce: bool
) -> None:
    """Expand where every position has a loss, reduce where positions are averaged; the other of the two is not."""
    x, y = normal(jnp.zeros((5, *shape)), 1), normal(jnp.zeros((5, *targets)), 2)
    params, state = net.init(jax.random.key(0), x)
    given = params, state, (x, y), jax.random.key(1)
    block = reference.ggn(net, loss)(*given)
    for right in (True, False):
        _, factors = kronecker_factors(net, loss, reduce=reduce if right else not reduce)(*given)
        (found,) = jax.tree.leaves(factors, is_leaf=lambda node: isinstance(node, Kronecker))
        got = whole_block(found.A, found.G, len(found.A) - 1)
        if right:
            check_close(got, block)
        else:
            assert float(jnp.linalg.norm(got - block)) > 0.1 * float(jnp.linalg.norm(block))


def test_kronecker_factors_by_samples_are_unbiased() -> None:
    """The mean over many draws comes as close to the exact factors as chance allows."""
    posed = NETWORKS["a loss at every pixel"]
    params, state, batch, _ = given(posed)
    exact = kronecker_factors(posed.net, posed.loss)(params, state, batch, jax.random.key(0))[1]
    draw = lambda key: kronecker_factors(posed.net, posed.loss, samples=4)(params, state, batch, key)[1]  # noqa: E731
    drawn = jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(jax.random.key(1), 400))
    for each, want in zip(jax.tree.leaves(drawn), jax.tree.leaves(exact), strict=True):
        error = jnp.std(each, axis=0) / 20
        assert bool(jnp.all(jnp.abs(jnp.mean(each, axis=0) - want) <= 6 * error + 1e-9))


# Around them


def test_probes_at_units_are_refused_where_weights_are_shared() -> None:
    posed = NETWORKS["elman"]
    with pytest.raises(Unsupported, match="units=False"):
        hutchinson(posed.net, posed.loss)(*given(posed))


@pytest.mark.parametrize("name", ["conv, max pool, flatten", "gru in both directions"])
def test_the_comparison_of_gradients_agrees(name: str) -> None:
    posed = NETWORKS[name]
    assert str(compare_gradients(posed.net, posed.loss, *given(posed), dtypes=()).verdict).startswith("agree")


def test_the_comparison_of_gradients_names_a_faulty_convolution() -> None:
    layer = conv(3, 3)
    wrong = layer._replace(backward=lambda p, tape, error, read: layer.backward(p, tape, error[:, ::-1], read))
    net = serial(wrong, flatten(), linear(2))
    x, y = normal(jnp.zeros((4, 3, 3, 2)), 1), normal(jnp.zeros((4, 2)), 2)
    report = compare_gradients(net, squared, *net.init(jax.random.key(0), x), (x, y), jax.random.key(1), dtypes=())
    assert str(report.verdict) == "manual wrong"
    assert "conv(3, 3)" in str(report.culprit)


def test_clipping_is_that_of_all_gradients() -> None:
    posed = NETWORKS["conv, 1-d"]
    arguments = given(posed)
    by_hand, by_jax = (of.clip_per_example(0.5)(posed.net, posed.loss) for of in (derivatives, reference))
    check_close(*jax.jit(lambda *a: (by_hand(*a), by_jax(*a)))(*arguments))


def test_weights_of_examples_are_multiplicities() -> None:
    posed = NETWORKS["conv of one channel"]
    params, state, (x, y), key = given(posed)
    often = jnp.asarray([0, 0, 1, 3])
    for read in (gradient, second_moment, variance):
        weighted = backprop(posed.net, posed.loss, read)(params, state, (x, y, jnp.asarray([2.0, 1.0, 0.0, 1.0])), key)
        repeated = backprop(posed.net, posed.loss, read)(params, state, (x[often], y[often]), key)
        check_close(weighted, repeated)


def test_a_score_for_pruning_is_that_of_rows_and_of_the_gauss_newton_diagonal() -> None:
    rows = serial(dense(3, tanh), linear(2))
    x, y = normal(jnp.zeros((6, 4)), 1), jnp.asarray([0, 1, 1, 0, 1, 0])
    arguments = *rows.init(jax.random.key(0), x), (x, y), jax.random.key(1)
    scores = gauss_newton(rows, softmax_cross_entropy), obd(rows, softmax_cross_entropy, gauss_newton=True)
    check_close(*(score.saliency(*arguments) for score in scores))
    posed = NETWORKS["conv, 1-d"]
    params, *others = arguments = given(posed)
    diagonal = ggn_diagonal(posed.net, posed.loss)(*arguments)[1]
    got = gauss_newton(posed.net, posed.loss, chunk=2).saliency(params, *others)
    check_close(got, jax.tree.map(lambda h, w: 0.5 * h * w**2, diagonal, params))


def test_thinned_networks_drop_a_feature_at_all_positions() -> None:
    """For a linear output over one dropped layer the mean over all thinned networks is inference itself."""
    net = serial(dense(3, tanh), dropout(0.4), average_pool(), linear(2))
    x = normal(jnp.zeros((2, 4, 3)), 1)
    params, state = net.init(jax.random.key(0), x)
    check_close(thinned_average(net, params, state, x), net.apply(params, state, x))


def test_a_dead_neuron_is_dead_at_all_positions() -> None:
    x = jnp.asarray([[[-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]])
    _, record = backprop(watch(activate(relu)), each_position(squared))((), (), (x, x), jax.random.key(0))
    of_layer = fnn.training.dead().of_layer
    assert of_layer is not None
    assert float(of_layer((), record)) == pytest.approx(1 / 3)


def test_images_and_sequences_train_in_a_sweep() -> None:
    """Each of a conv net and an LSTM finds which half of its input is larger, in a few steps from two seeds."""
    rng = np.random.default_rng(0)
    y = jnp.asarray(rng.integers(0, 2, 64))
    marks = jnp.where(jnp.arange(6)[None, :] // 3 == y[:, None], 1.0, 0.0)
    x = jnp.asarray(rng.normal(size=(64, 6, 1)) * 0.3) + marks[:, :, None]
    for net in (serial(conv(4, (3,)), activate(tanh), flatten(), linear(2)), serial(lstm(4), last(), linear(2))):
        learn = trainer(net, softmax_cross_entropy, adam(0.03), batch_size=16)

        def experiment(key: Any, learn: Any = learn) -> Any:
            return train(learn, learn.init(key, (x, y)), (x, y), 150)[1]["loss"]

        assert float(jnp.max(sweep(experiment, jax.random.split(jax.random.key(0), 2)))) < 0.2
