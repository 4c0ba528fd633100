"""Beside flax and equinox: their modules as layers in a network of fnn, and a network of fnn in their training steps.

A peer is imported where it is used, and its tests are skipped where it is not installed. With the environment variable
PEERS nothing is skipped: `.ci/run` sets it in an environment that has the peers. Their layers get float64 parameters:
strict promotion raises for their default float32 beside the tests' float64 inputs.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import (
    Layer,
    as_function,
    autodiff,
    backprop,
    batch_norm,
    compare_gradients,
    dense,
    dropout,
    fit,
    from_function,
    linear,
    per_example,
    serial,
    sgd,
    squared,
    tanh,
    trainer,
)
from tests.checkers import check_close

README = Path(__file__).parents[2] / "README.md"


def installed(name: str) -> Any:
    """A module of a peer's; without it the test is skipped, or fails where PEERS are said to be there."""
    return importlib.import_module(name) if "PEERS" in os.environ else pytest.importorskip(name)


def mean_loss(a: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.mean(jnp.sum((a - y) ** 2, axis=1) / 2)


# A module of theirs in a network of fnn


class Peer(NamedTuple):
    """A perceptron 3-5-2 of a peer's, and what is known of it without fnn."""

    layer: Layer
    own: Callable[[jax.Array], Any]
    """the parameters by the peer's own initialization"""
    value: Callable[[Any, jax.Array], jax.Array]
    """the peer's own evaluation, (params, x [n, 3]) -> [n, 2]"""
    weights: Callable[[Any], tuple[Any, ...]]
    """the same numbers as parameters of serial(dense(5, tanh), linear(2))"""


def from_linen(module: Any, label: str) -> Layer:
    """A module of flax.linen as a layer."""
    return from_function(
        lambda key, x: module.lazy_init(key, x).get("params", {}),
        lambda params, x: module.apply({"params": params}, x),
        label,
    )


def linen_peer() -> Peer:
    nn = installed("flax.linen")
    module = nn.Sequential([nn.Dense(5, param_dtype=jnp.float64), nn.tanh, nn.Dense(2, param_dtype=jnp.float64)])

    def weights(params: Any) -> tuple[Any, ...]:
        return tuple({"w": layer["kernel"], "b": layer["bias"]} for layer in (params["layers_0"], params["layers_2"]))

    return Peer(
        from_linen(module, "mlp"),
        lambda key: module.init(key, jnp.zeros((1, 3)))["params"],
        lambda params, x: module.apply({"params": params}, x),
        weights,
    )


def from_nnx(make: Callable[[Any], Any], label: str) -> Layer:
    """A module of flax.nnx as a layer; make is ``rngs -> module``."""
    nnx = installed("flax.nnx")
    graph, _ = nnx.split(make(nnx.Rngs(0)), nnx.Param)
    return from_function(
        lambda key, x: nnx.split(make(nnx.Rngs(key)), nnx.Param)[1],
        lambda params, x: nnx.merge(graph, params)(x),
        label,
    )


def nnx_peer() -> Peer:
    nnx = installed("flax.nnx")

    def make(rngs: Any) -> Any:
        first = nnx.Linear(3, 5, param_dtype=jnp.float64, rngs=rngs)
        return nnx.Sequential(first, nnx.tanh, nnx.Linear(5, 2, param_dtype=jnp.float64, rngs=rngs))

    def value(params: Any, x: jax.Array) -> jax.Array:
        module = make(nnx.Rngs(0))
        nnx.update(module, params)
        return module(x)

    def weights(params: Any) -> tuple[Any, ...]:
        layers = nnx.to_pure_dict(params)["layers"]
        return tuple({"w": layers[i]["kernel"], "b": layers[i]["bias"]} for i in (0, 2))

    return Peer(from_nnx(make, "mlp"), lambda key: nnx.state(make(nnx.Rngs(key))), value, weights)


def from_equinox(make: Callable[[jax.Array], Any], label: str) -> Layer:
    """A module of equinox as a layer; make is ``key -> module``, and the module takes one example."""
    eqx = installed("equinox")
    _, static = eqx.partition(make(jax.random.key(0)), eqx.is_inexact_array)
    return from_function(
        lambda key, x: eqx.filter(make(key), eqx.is_inexact_array),
        lambda params, x: jax.vmap(eqx.combine(params, static))(x),
        label,
    )


def equinox_peer() -> Peer:
    eqx = installed("equinox")

    def make(key: jax.Array) -> Any:
        return eqx.nn.MLP(3, 2, 5, 1, jnp.tanh, dtype=jnp.float64, key=key)

    def value(params: Any, x: jax.Array) -> jax.Array:
        module = eqx.tree_at(lambda m: m.layers, make(jax.random.key(0)), params.layers)
        return jnp.stack([module(row) for row in x])

    return Peer(
        from_equinox(make, "mlp"),
        lambda key: eqx.filter(make(key), eqx.is_array),
        value,
        lambda params: tuple({"w": layer.weight.mT, "b": layer.bias} for layer in params.layers),
    )


class Given(NamedTuple):
    """A network of fnn with a layer of a peer's within, as its init makes it."""

    peer: Peer
    net: Layer
    params: Any
    state: Any


def around(layer: Layer) -> Layer:
    """A network of fnn with a layer 3 -> 2 within."""
    return serial(dense(3, tanh), layer, linear(1))


def some_data(examples: int = 6) -> tuple[jax.Array, jax.Array]:
    x = np.random.default_rng(0).standard_normal((examples, 4))
    return jnp.asarray(x), jnp.asarray(np.sin(x[:, :1]) - x[:, 1:2])


@pytest.fixture(scope="module", params=[linen_peer, nnx_peer, equinox_peer], ids=["linen", "nnx", "equinox"])
def mixed(request: pytest.FixtureRequest) -> Given:
    peer = request.param()
    net = around(peer.layer)
    return Given(peer, net, *jax.jit(net.init)(jax.random.key(7), some_data()[0]))


def test_init_gives_their_own_parameters(mixed: Given) -> None:
    own = jax.jit(mixed.peer.own)(jax.random.fold_in(jax.random.key(7), 1))
    chex.assert_trees_all_equal(mixed.params[1], own)
    assert str(mixed.net) == "serial(dense(3, tanh), mlp, linear(1))"


def test_gradient_is_that_of_the_plain_composition(mixed: Given, key: jax.Array) -> None:
    x, y = some_data()

    def value(params: Any) -> jax.Array:
        first, theirs, last = params
        hidden = mixed.peer.value(theirs, jnp.tanh(x @ first["w"] + first["b"][None]))
        return mean_loss(hidden @ last["w"] + last["b"][None], y)

    @jax.jit
    def both(params: Any) -> Any:
        (by_hand, _), g = backprop(mixed.net, squared)(params, mixed.state, (x, y), key)
        return (by_hand, g), jax.value_and_grad(value)(params)

    check_close(*both(mixed.params))


def test_gradients_of_single_examples_are_those_of_the_same_layers_of_fnn(mixed: Given, key: jax.Array) -> None:
    written, data = around(serial(dense(5, tanh), linear(2))), some_data()

    def in_fnn(tree: Any) -> Any:
        return tree[0], mixed.peer.weights(tree[1]), tree[2]

    @jax.jit
    def both(params: Any) -> Any:
        _, theirs = backprop(mixed.net, squared, per_example)(params, mixed.state, data, key)
        _, ours = backprop(written, squared, per_example)(in_fnn(params), ((), ((), ()), ()), data, key)
        return in_fnn(theirs), ours

    check_close(*both(mixed.params))


def test_manual_and_automatic_gradient_agree(mixed: Given, key: jax.Array) -> None:
    given = mixed.params, mixed.state, some_data(), key
    report = compare_gradients(mixed.net, squared, *given, entries=4, examples=False, dtypes=())
    assert re.fullmatch(r"agree to 1[2-6] digits", str(report.verdict))


def test_training_lowers_the_loss_and_moves_their_parameters(mixed: Given, key: jax.Array) -> None:
    data = some_data(64)
    learn = trainer(mixed.net, squared, sgd(0.2), batch_size=16)
    start = jax.jit(learn.init)(key, data)
    done = fit(learn, start, data, 300, chunk=150, progress=False)
    at_start = mean_loss(mixed.net.apply(start.params, start.layer_state, data[0]), data[1])
    assert done.history["loss"][-1] < 0.1 * at_start
    moved = jax.tree.map(lambda u, v: bool(jnp.any(u != v)), done.state.params[1], start.params[1])
    assert all(jax.tree.leaves(moved))


def test_a_module_of_linen_becomes_a_layer_in_one_line_as_in_the_readme(key: jax.Array) -> None:
    nn = installed("flax.linen")
    mlp = nn.Sequential([nn.Dense(5, param_dtype=jnp.float64), nn.gelu, nn.Dense(2, param_dtype=jnp.float64)])
    net, (x, y) = around(from_function(mlp.lazy_init, mlp.apply, "mlp")), some_data()
    params, state = jax.jit(net.init)(key, x)
    (_, _), g = jax.jit(backprop(net, squared))(params, state, (x, y), key)
    check_close(g, jax.jit(autodiff(net, squared))(params, state, (x, y), key)[1])
    assert 'from_function(mlp.lazy_init, mlp.apply, "mlp")' in README.read_text(encoding="utf-8")


# What from_function has no place for: layers of theirs that draw or that keep running statistics


def linen_layer(name: str) -> Layer:
    nn = installed("flax.linen")
    layers = {
        "dropout": lambda: nn.Dropout(0.5, deterministic=False),
        "batch norm": lambda: nn.BatchNorm(use_running_average=False),
        "batch norm, applied": lambda: nn.BatchNorm(use_running_average=True),
    }
    return from_linen(layers[name](), name)


def nnx_layer(name: str) -> Layer:
    nnx = installed("flax.nnx")
    layers = {
        "dropout": lambda rngs: nnx.Dropout(0.5, rngs=rngs),
        "batch norm": lambda rngs: nnx.BatchNorm(3, rngs=rngs),
    }
    return from_nnx(layers[name], name)


def equinox_layer(name: str) -> Layer:
    eqx = installed("equinox")
    layer = {"dropout": eqx.nn.Dropout(0.5), "batch norm": eqx.nn.BatchNorm(3, "examples", mode="ema")}[name]
    return from_equinox(lambda key: layer, name)


@pytest.mark.parametrize(
    ("layer", "name", "said"),
    [
        (linen_layer, "dropout", "needs PRNG for .dropout."),
        (linen_layer, "batch norm", "batch_stats"),
        (linen_layer, "batch norm, applied", "batch_stats"),
        (nnx_layer, "dropout", "Non-exhaustive filters"),
        (nnx_layer, "batch norm", "Non-exhaustive filters"),
        (equinox_layer, "dropout", "requires a key"),
        (equinox_layer, "batch norm", "missing 1 required positional argument: 'state'"),
    ],
)
def test_their_layers_that_draw_or_remember_are_refused_when_the_network_is_made(
    layer: Callable[[str], Layer], name: str, said: str, key: jax.Array
) -> None:
    # flax keeps its running statistics in float32, which strict promotion would refuse first.
    with jax.numpy_dtype_promotion("standard"), pytest.raises(Exception, match=said):
        serial(layer(name), linear(1)).init(key, some_data()[0][:, :3])


# A network of fnn in a training step of theirs


def doubled(net: Layer) -> Layer:
    """The network with a backward which gives twice the gradient, so that it shows who differentiates by it."""

    def backward(*arguments: Any) -> Any:
        return jax.tree.map(lambda leaf: 2 * leaf, net.backward(*arguments))

    return net._replace(backward=backward)


NET = serial(dense(3, tanh), batch_norm(), dropout(0.3), linear(1))
"""A network whose parameters, running statistics and random numbers all matter."""
ETA = 0.1


def by_fnn(params: Any, state: Any, data: Any, key: jax.Array) -> Any:
    """The value, the new state, twice the gradient, and the parameters after a step down twice the gradient."""
    (value, state), g = jax.jit(autodiff(NET, squared))(params, state, data, key)
    twice = jax.tree.map(lambda slope: 2 * slope, g)
    return value, state, twice, jax.tree.map(lambda w, slope: w - ETA * slope, params, twice)


def in_linen(net: Layer) -> Any:
    """A network of fnn as a module of flax.linen."""
    nn = installed("flax.linen")

    class Network(nn.Module):
        net: Layer

        @nn.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            made = lambda key: self.net.init(key, x)  # noqa: E731
            params = self.param("net", lambda key: made(key)[0])
            state = self.variable("batch_stats", "net", lambda: made(jax.random.key(0))[1])
            if not train:
                return self.net.apply(params, state.value, x)
            y, new_state = as_function(self.net)(params, state.value, x, self.make_rng("dropout"))
            if not self.is_initializing():
                state.value = new_state
            return y

    return Network(net)


def test_in_a_train_state_of_flax(key: jax.Array) -> None:
    train_state = installed("flax.training.train_state")
    module, (x, y) = in_linen(doubled(NET)), some_data()
    variables = jax.jit(module.init)(key, x)
    params, statistics = variables["params"]["net"], variables["batch_stats"]["net"]
    learn = train_state.TrainState.create(apply_fn=module.apply, params=variables["params"], tx=sgd(ETA))

    @jax.jit
    def step(learn: Any, statistics: Any, key: jax.Array) -> Any:
        def objective(params: Any) -> Any:
            given = {"params": params, "batch_stats": statistics}
            a, changed = learn.apply_fn(given, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})
            return mean_loss(a, y), changed["batch_stats"]

        value, g = jax.value_and_grad(objective, has_aux=True)(learn.params)
        return learn.apply_gradients(grads=g), value, g

    learn, (value, changed), g = step(learn, variables["batch_stats"], key)
    key_of_layers = module.apply(variables, method=lambda m: m.make_rng("dropout"), rngs={"dropout": key})
    want = by_fnn(params, statistics, (x, y), key_of_layers)
    check_close((value, changed["net"], g["net"], learn.params["net"]), want)
    applied = module.apply({"params": learn.params, "batch_stats": changed}, x)
    check_close(applied, NET.apply(learn.params["net"], changed["net"], x))


def in_equinox(net: Layer, params: Any) -> Any:
    """A network of fnn as a module of equinox, with the call of its stateful layers: (x, state, key) -> (y, state)."""
    eqx = installed("equinox")

    class Network(eqx.Module):
        params: Any
        net: Layer = eqx.field(static=True)

        def __call__(self, x: jax.Array, state: Any, key: jax.Array) -> tuple[jax.Array, Any]:
            return as_function(self.net)(self.params, state, x, key)

    return Network(params, net)


def test_in_a_filtered_step_of_equinox(key: jax.Array) -> None:
    eqx = installed("equinox")
    x, y = some_data()
    params, state = jax.jit(NET.init)(key, x)

    @eqx.filter_jit
    def step(module: Any, state: Any, key: jax.Array) -> Any:
        def objective(module: Any) -> Any:
            a, new_state = module(x, state, key)
            return mean_loss(a, y), new_state

        value, g = eqx.filter_value_and_grad(objective, has_aux=True)(module)
        return eqx.apply_updates(module, jax.tree.map(lambda slope: -ETA * slope, g)), value, g

    module, (value, new_state), g = step(in_equinox(doubled(NET), params), state, key)
    check_close((value, new_state, g.params, module.params), by_fnn(params, state, (x, y), key))


# Optimizers of theirs that ask for more than the gradient


@pytest.mark.parametrize("name", ["reduce_on_plateau", "lbfgs", "backtracking"])
def test_optaxs_line_searches_and_plateaus_get_what_they_ask_for(name: str) -> None:
    optax = installed("optax")
    optimizer = {
        "reduce_on_plateau": lambda: optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=2)),
        "lbfgs": lambda: optax.lbfgs(),
        "backtracking": lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15)),
    }[name]()
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        x = jnp.linspace(-1, 1, 8)[:, None]
        data = x, 2 * x + 1
        learn = trainer(serial(dense(4, tanh), linear(1)), squared, optimizer, batch_size=8)
        done = fit(learn, learn.init(jax.random.key(0), data), data, 60, chunk=20, progress=False)
    assert done.history["loss"][-1] < (1e-3 if name == "lbfgs" else 0.2) * done.history["loss"][0]
