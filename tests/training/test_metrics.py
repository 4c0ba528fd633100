"""Metrics of a step: found in its own passes, changing nothing, with values for every copy and part."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    backprop,
    columns,
    dense,
    linear,
    prelu,
    relu,
    remat,
    repeat,
    residual,
    serial,
    sgd,
    squared,
    tanh,
    train,
    trainer,
)
from fnn.nn import constant
from fnn.optimizers import tree_norm
from fnn.training import (
    Metric,
    gradient_norm,
    saturated,
    update_norm,
)
from tests.training.saturating import BELOW, DATA, LEARN, NET, START, large


def test_metrics_change_no_step_and_what_is_not_asked_for_costs_nothing() -> None:
    given = []

    def spied(net: Any, loss: Any) -> Any:
        given.append(net)
        return backprop(net, loss)

    plain = trainer(NET, squared, sgd(0.1), batch_size=8, gradient=spied)
    assert given[0] is NET
    chex.assert_trees_all_equal(train(plain, START, DATA, 20)[0], train(LEARN, START, DATA, 20)[0])
    bare = trainer(NET, squared, sgd(0.1), batch_size=8)
    assert set(jax.eval_shape(bare.update, START, DATA)[1]) == {"loss", "running_loss"}
    assert str(bare) == f"trainer({NET}, squared, sgd(0.1), batch_size=8)"
    assert str(LEARN).endswith("metrics=[saturated, dead, gradient_norm, gradient_ratio, update_norm])")


def test_a_run_gives_their_means() -> None:
    _, each = train(LEARN, START, DATA, 6, every=1)
    _, blocks = train(LEARN, START, DATA, 6, every=3)
    chex.assert_trees_all_close(blocks, jax.tree.map(lambda m: m.reshape(2, 3).mean(1), each), rtol=1e-12)


def test_copies_and_parts_of_composites_have_their_own_values() -> None:
    """A network of combinators, and the same with the copies written out and the same weights."""
    depth, x, y = 9, DATA[0][:8], DATA[1][:8]
    block = residual(remat(serial(dense(4, tanh, w=large(2.0)))))
    ends = dense(4, tanh), (columns((1, serial(linear(3), prelu())), (3, dense(2, relu))), linear(2))
    nets = serial(ends[0], repeat(block, depth), *ends[1]), serial(ends[0], *[block] * depth, *ends[1])
    learn, written_out = (trainer(n, squared, sgd(0.1), metrics=(saturated(BELOW), gradient_norm)) for n in nets)
    start = trainer(nets[0], squared, sgd(0.1), batch_size=8).init(jax.random.key(0), (x, y))
    first, copies, *rest = start.params
    same = tuple(jax.tree.map(lambda leaf: leaf[i], copies) for i in range(depth))  # noqa: B023
    _, got = jax.jit(learn.update)(start, (x, y))
    _, expected = jax.jit(written_out.update)(
        start._replace(params=(first, *same, *rest), layer_state=((), *[((),)] * depth, *start.layer_state[2:])), (x, y)
    )
    names = {
        "gradient_norm": ("0 dense(4, tanh)", "2.0.0 linear(3)", "2.0.1 prelu()", "2.1 dense(2, relu)", "3 linear(2)"),
        "saturated": ("0 dense(4, tanh)", "2.1 dense(2, relu)"),
    }
    for metric, layers in names.items():
        of_copies = got[metric].pop("1.0 dense(4, tanh, w=<lambda>)")
        np.testing.assert_allclose(
            of_copies, [expected[metric][f"{i + 1:02}.00 dense(4, tanh, w=<lambda>)"] for i in range(depth)], rtol=1e-10
        )
        assert tuple(got[metric]) == layers
        after = [value for name, value in expected[metric].items() if int(name[:2]) > depth]
        np.testing.assert_allclose(list(got[metric].values())[1:], after, rtol=1e-10)


def test_a_metric_of_ones_own_in_a_sweep() -> None:
    error = Metric("error", of_layer=lambda params, seen: {"norm": tree_norm(seen.error), "mean": seen.error.mean()})
    kept = Metric("kept", of_step=lambda step: tree_norm(step.after.params) / tree_norm(step.before.params))

    def experiment(key: jax.Array, eta: jax.Array) -> Any:
        net = serial(dense(4, tanh, w=constant(0.3)), linear(2, w=constant(0.2)))
        learn = trainer(net, squared, sgd(eta), batch_size=8, metrics=[error, kept])
        return train(learn, learn.init(key, DATA), DATA, 6, every=3)[1]

    keys = jax.random.split(jax.random.key(0), 3)
    metrics = fnn.sweep(experiment, keys, eta=[0.0, 0.1])
    assert metrics["error"]["1 linear(2, w=constant(0.2))"]["norm"].shape == (3, 2, 2)
    assert (metrics["kept"][:, 0] == 1).all()
    alone = experiment(keys[2], jnp.asarray(0.1))
    chex.assert_trees_all_close(jax.tree.map(lambda m: m[2, 1], metrics), alone, rtol=1e-10)


def test_metrics_are_in_single_precision_at_least_and_in_double_where_the_network_is() -> None:
    for dtype, expected in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)):
        data, params = jax.tree.map(lambda part: part.astype(dtype), (DATA, START.params))  # noqa: B023
        state = START._replace(params=params, running_loss=START.running_loss.astype(expected))
        metrics = jax.eval_shape(lambda: train(LEARN, state, data, 4))[1]  # noqa: B023
        assert {leaf.dtype for leaf in jax.tree.leaves(metrics)} == {jnp.dtype(expected)}


def test_a_metric_of_steps_sees_the_whole_step() -> None:
    def seen(step: Any) -> Any:
        return step.before.params, step.after.params, step.batch, step.gradient, step.updates

    batch = DATA[0][:8], DATA[1][:8]
    learn = trainer(NET, squared, sgd(0.1), batch_size=8, metrics=[Metric("seen", of_step=seen)])
    after, metrics = jax.jit(learn.update)(START, batch)
    _, g = jax.jit(backprop(NET, squared))(START.params, START.layer_state, batch, START.key)
    updates = jax.tree.map(lambda g: -0.1 * g, g)
    chex.assert_trees_all_close(metrics["seen"], (START.params, after.params, batch, g, updates), rtol=1e-10)


def test_bad_metrics_are_told_apart() -> None:
    def made(*metrics: Any, **options: Any) -> None:
        trainer(NET, squared, sgd(0.1), metrics=metrics, **options)

    both = Metric("both", of_layer=saturated().of_layer, of_step=update_norm.of_step)
    integers = Metric("count", of_step=lambda step: step.after.step)
    for error, message, metrics in (
        (TypeError, r"Call the factory: saturated\(\), not saturated", [saturated]),
        (TypeError, r"got 3\. Make one", [3]),
        (ValueError, "of the metric both, got of_layer and of_step", [both]),
        (ValueError, "of the metric none, got none", [Metric("none")]),
        (TypeError, "must be a function", [Metric("three", of_step=3)]),  # type: ignore[arg-type]
        (ValueError, "got two metrics named 'saturated'", [saturated(), saturated(0.1)]),
        (ValueError, "got two metrics named 'loss'", [update_norm._replace(name="loss")]),
    ):
        with pytest.raises(error, match=message):
            made(*metrics)
    with pytest.raises(TypeError, match=r"write metrics=\[gradient_norm\]"):
        trainer(NET, squared, sgd(0.1), metrics=gradient_norm)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got saturated with a gradient.*Choose gradient=backprop"):
        made(saturated(), gradient=fnn.autodiff)
    made(update_norm, gradient_norm, gradient=fnn.autodiff)
    with pytest.raises(TypeError, match="expected the metric 'count' of floats, got int32"):
        jax.eval_shape(trainer(NET, squared, sgd(0.1), metrics=[integers]).update, START, DATA)
    with pytest.raises(ValueError, match="below must be a finite number > 0"):
        saturated(0.0)
