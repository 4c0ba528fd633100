"""A trainer of any objective on any batch, beside the same one of a network and a loss."""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import adam, backprop, fit, linear, sgd, squared, sweep, train, trainer
from fnn.training import gradient_norm, gradient_ratio, learn_online, saturated
from tests.training.learners import NET, problem

KEY = jax.random.key(0)


def mean_loss(params: Any, state: Any, batch: Any, key: Any) -> Any:
    """The objective of NET and `squared`, of batches that are a dict."""
    a, state, _ = NET.forward(params, state, batch["in"], key)
    return jnp.mean(squared.value(a, batch["out"]["y"])), state, {"largest": jnp.max(jnp.abs(a))}


def first(key: Any, batch: Any) -> Any:
    return NET.init(key, batch["in"])


OWN = trainer(first, optimizer=adam(0.01), objective=mean_loss, batch_size=8)
USUAL = trainer(NET, squared, adam(0.01), batch_size=8)


def tree() -> dict[str, Any]:
    x, y = problem()
    return {"in": x, "out": {"y": y}}


def test_an_objective_trains_as_the_loss_that_it_computes() -> None:
    x, y = problem()
    one, other = OWN.init(KEY, tree()), USUAL.init(KEY, (x, y))
    chex.assert_trees_all_equal(one.params, other.params)
    one, metrics = train(OWN, one, tree(), 20, every=5)
    other, usual = train(USUAL, other, (x, y), 20, every=5)
    chex.assert_trees_all_close(one.params, other.params, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(metrics["loss"], usual["loss"], rtol=1e-10)
    assert sorted(metrics) == ["largest", "loss", "running_loss"]
    assert metrics["largest"].shape == (4,)


def test_it_goes_through_fit_streams_stopping_and_sweeps() -> None:
    data, start = tree(), OWN.init(KEY, tree())
    end, _ = train(OWN, start, data, 20)
    done = fit(OWN, start, data, 20, chunk=10, validate=lambda state: fnn.tree_norm(state.params), progress=False)
    chex.assert_trees_all_close(done.state.params, end.params, rtol=1e-12)
    assert done.history["largest"].shape == (2,)
    batches = [jax.tree.map(lambda leaf, i=i: leaf[8 * i : 8 * i + 8], data) for i in range(4)]
    learned = learn_online(OWN, start, batches, every=2)
    assert learned.history["examples"].tolist() == [16, 32]
    assert set(learned.history) >= {"largest", "loss"}
    options: dict[str, Any] = {"max_steps": 20, "every": 10, "patience": 9}
    _, stopped = fnn.train_with_early_stopping(OWN, start, data, validate=lambda s: -fnn.tree_norm(s.params), **options)
    assert int(stopped.steps) == 20

    def experiment(key: Any, eta: Any) -> Any:
        learn = trainer(first, optimizer=adam(eta), objective=mean_loss, batch_size=8)
        return train(learn, learn.init(key, data), data, 5)[1]["loss"]

    assert sweep(experiment, jax.random.split(KEY, 2), eta=[0.01, 0.1]).shape == (2, 2)


def test_the_averages_of_an_optimizer_can_be_validated() -> None:
    """validate sees the whole state: here the weights of NAG, which its own state holds."""
    learn = trainer(NET, squared, fnn.nag(0.01), batch_size=8)
    data = problem()

    def of_weights(state: fnn.TrainState) -> Any:
        return fnn.tree_norm(fnn.optimizers.nag_weights(state.params, state.optimizer_state))

    end, metrics = train(learn, learn.init(KEY, data), data, 10, every=5, validate=of_weights)
    np.testing.assert_allclose(metrics["validation"][-1], of_weights(end), rtol=1e-12)


def test_examples_of_weight_0_do_not_train() -> None:
    """An epoch's remainder, padded to a whole batch: the steps are those of the examples without padding."""
    x, y = problem(6)
    padded = [jnp.concatenate([part, 100 + jnp.ones((2, *part.shape[1:]))]) for part in (x, y)]
    weight = jnp.asarray([1.0] * 6 + [0.0] * 2)
    learn = trainer(NET, squared, adam(0.01), batch_size=6)
    start = learn.init(KEY, (x, y))
    plain, _ = learn.update(start, (x, y))
    weighted, _ = learn.update(start, (*padded, weight))
    chex.assert_trees_all_close(weighted._replace(key=0), plain._replace(key=0), rtol=1e-12)
    sampled = trainer(NET, squared, adam(0.01), batch_size=4)
    state = sampled.init(KEY, (*padded, weight))
    assert np.isfinite(train(sampled, state, (*padded, weight), 20)[1]["loss"])


def sharpness_aware(net: Any, loss: Any) -> Any:
    """SAM: the gradient at W + ρ g/‖g‖."""
    gradient = backprop(net, loss)

    def ascended(params: Any, state: Any, batch: Any, key: Any) -> Any:
        _, g = gradient(params, state, batch, key)
        step = 0.05 / fnn.tree_norm(g)
        return gradient(jax.tree.map(lambda w, g: w + step * g, params, g), state, batch, key)

    return ascended


def test_the_norm_of_a_gradient_does_not_depend_on_who_computed_it() -> None:
    net = fnn.serial(fnn.dense(3, fnn.tanh), fnn.repeat(fnn.dense(3, fnn.tanh), 2), linear(2))
    data = problem()
    metrics = [gradient_norm, gradient_ratio]
    found = {}
    for gradient in (backprop, fnn.autodiff, sharpness_aware):
        learn = trainer(net, squared, sgd(0.1), batch_size=40, gradient=gradient, metrics=metrics)
        start = learn.init(KEY, data)
        found[gradient] = learn.update(start, data)[1]
        _, g = gradient(net, squared)(start.params, start.layer_state, data, KEY)
        norms = [
            np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(part)])) for part in (g[0], g[2])
        ]
        labels = ["0 dense(3, tanh)", "2 linear(2)"]
        np.testing.assert_allclose([found[gradient]["gradient_norm"][label] for label in labels], norms, rtol=1e-12)
        of_copies = np.sqrt(sum(np.sum(np.square(leaf.reshape(2, -1)), axis=1) for leaf in jax.tree.leaves(g[1])))
        np.testing.assert_allclose(found[gradient]["gradient_norm"]["1 dense(3, tanh)"], of_copies, rtol=1e-12)
    chex.assert_trees_all_close(found[backprop], found[fnn.autodiff], rtol=1e-10)
    own = trainer(first, optimizer=sgd(0.1), objective=mean_loss, batch_size=8, metrics=[gradient_norm])
    assert list(own.step(own.init(KEY, tree()), tree())[1]["gradient_norm"]) == ["params"]


def without_aux(params: Any, state: Any, batch: Any, key: Any) -> Any:
    return jnp.mean(jnp.square(NET.apply(params, state, batch))), state


def test_x_alone_is_a_batch_for_an_objective() -> None:
    x, _ = problem()
    learn = trainer(NET, optimizer=sgd(0.1), objective=without_aux, batch_size=8)
    _, metrics = train(learn, learn.init(KEY, x), x, 50, every=10)
    assert metrics["loss"][-1] < metrics["loss"][0]


def returning(found: Any) -> Any:
    return lambda params, state, batch, key: found(jnp.sum(params[0]["w"]), state)


X, Y = problem()
WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "neither": (lambda: trainer(NET, optimizer=sgd(0.1)), ValueError, "a loss or an objective, got neither"),
    "both": (lambda: trainer(NET, squared, sgd(0.1), objective=mean_loss), ValueError, "an objective, got both"),
    "no optimizer": (lambda: trainer(NET, squared), TypeError, "expected optimizers"),
    "a gradient beside it": (
        lambda: trainer(NET, optimizer=sgd(0.1), objective=mean_loss, gradient=fnn.autodiff),
        ValueError,
        "no gradient beside an objective",
    ),
    "metrics of layers": (
        lambda: trainer(NET, optimizer=sgd(0.1), objective=mean_loss, metrics=[saturated()]),
        ValueError,
        "got saturated with a gradient that does not expose the layers",
    ),
    "a value alone": (lambda: started(returning(lambda value, state: value)), TypeError, "expected it to return"),
    "a vector": (lambda: started(returning(lambda value, state: (value[None], state))), ValueError, "scalar float"),
    "aux of numbers": (lambda: started(returning(lambda v, s: (v, s, v))), TypeError, "aux: expected a dict of floats"),
    "aux with a name that is taken": (
        lambda: started(returning(lambda v, s: (v, s, {"loss": v}))),
        ValueError,
        r"other than those of the metrics, got \['loss'\]",
    ),
    "arrays of two lengths": (
        lambda: OWN.init(KEY, {"in": X, "out": {"y": Y[:3]}}),
        ValueError,
        "equally many examples",
    ),
    "NaN in a leaf": (
        lambda: OWN.init(KEY, {"in": X, "out": {"y": Y.at[0].set(jnp.nan)}}),
        ValueError,
        r"NaN or infinity in batch\['out'\]\['y'\] \(1 of 40",
    ),
    "a network given what is no pair": (lambda: USUAL.init(KEY, {"x": X}), TypeError, "expected a pair"),
}


def started(objective: Any) -> Any:
    learn = trainer(NET, optimizer=sgd(0.1), objective=objective, batch_size=8)
    return learn.step(learn.init(KEY, (X, Y)), (X, Y))


@pytest.mark.parametrize(("call", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
