"""Metrics against NumPy loops, the report of a start against closed forms, and that neither changes the training."""

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
    dropout,
    gaussian,
    linear,
    prelu,
    relu,
    remat,
    repeat,
    residual,
    serial,
    sgd,
    sigmoid,
    squared,
    tanh,
    train,
    trainer,
)
from fnn.nn import constant
from fnn.optimizers import tree_norm
from fnn.training import (
    Gap,
    Metric,
    Moments,
    diagnostics,
    gradient_norm,
    overfitting_gap,
    propagation_report,
    saturated,
    update_norm,
)

BELOW = 0.1


def problem(size: int = 40) -> tuple[jax.Array, jax.Array]:
    x = jax.random.normal(jax.random.key(11), (size, 3))
    return x, jnp.sin(x @ jax.random.normal(jax.random.key(12), (3, 2)))


def large(scale: float) -> Any:
    """Weights so large that some neurons stand on an asymptote, and some of those for every example."""
    return lambda key, shape, dtype: scale * jax.random.normal(key, shape, dtype)


DATA = problem()
NET = serial(dense(7, tanh, w=large(0.8), b=constant(3.0)), dense(5, gaussian, w=large(2.0)), linear(2))
HIDDEN, UPPER, OUTPUT = (
    "0 dense(7, tanh, w=<lambda>, b=constant(3.0))",
    "1 dense(5, gaussian, w=<lambda>)",
    "2 linear(2)",
)
LEARN = trainer(NET, squared, sgd(0.1), batch_size=8, metrics=diagnostics(BELOW))
START = LEARN.init(jax.random.key(0), DATA)


# Metrics of a training step


def numpy_step(params: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """The metrics of the network of `NET` from BackProp written out for one example at a time."""
    (w1, b1), (w2, b2), (w3, b3) = ((np.asarray(p["w"]), np.asarray(p["b"])) for p in params)
    slopes: list[list[np.ndarray]] = [[], []]
    gradients = [np.zeros_like(v) for v in (w1, b1, w2, b2, w3, b3)]
    for x0, target in zip(x, y, strict=True):
        x1 = np.tanh(x0 @ w1 + b1)
        S2 = x1 @ w2 + b2
        x2 = np.exp(-(S2**2) / 2)
        z1, z2, e3 = 1 - x1**2, -S2 * x2, x2 @ w3 + b3 - target
        e2 = w3 @ e3
        e1 = w2 @ (e2 * z2)
        parts = np.outer(x0, e1 * z1), e1 * z1, np.outer(x1, e2 * z2), e2 * z2, np.outer(x2, e3), e3
        gradients = [g + part / len(x) for g, part in zip(gradients, parts, strict=True)]
        slopes[0].append(z1)
        slopes[1].append(z2)
    still = [np.abs(np.array(z)) < BELOW for z in slopes]
    norms = [np.sqrt(np.sum(w**2) + np.sum(b**2)) for w, b in zip(gradients[::2], gradients[1::2], strict=True)]
    sizes = [np.sqrt(np.sum(w**2) + np.sum(b**2)) for w, b in ((w1, b1), (w2, b2), (w3, b3))]
    layers = HIDDEN, UPPER, OUTPUT
    return {
        "saturated": {layer: s.mean() for layer, s in zip(layers, still, strict=False)},
        "dead": {layer: s.all(axis=0).mean() for layer, s in zip(layers, still, strict=False)},
        "gradient_norm": dict(zip(layers, norms, strict=True)),
        "gradient_ratio": {layer: g / w for layer, g, w in zip(layers, norms, sizes, strict=True)},
        "update_norm": 0.1 * np.sqrt(sum(np.sum(g**2) for g in gradients)),
    }


def test_the_metrics_of_a_step_are_those_of_backprop_example_by_example() -> None:
    batch = DATA[0][:8], DATA[1][:8]
    _, metrics = jax.jit(LEARN.update)(START, batch)
    expected = numpy_step(START.params, *map(np.asarray, batch))
    assert all(0 < share < 1 for name in ("saturated", "dead") for share in expected[name].values())
    assert expected["dead"] != expected["saturated"]
    metrics = {name: value for name, value in metrics.items() if name not in ("loss", "running_loss")}
    chex.assert_trees_all_close(metrics, expected, rtol=1e-12)


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


def test_paralysis_and_death_show() -> None:
    x, y = (part.astype(jnp.float32) for part in DATA)
    stuck = serial(dense(6, sigmoid, b=constant(30.0)), dense(6, relu, b=constant(-30.0)), dense(6, relu), linear(2))
    learn = trainer(stuck, squared, sgd(0.1), batch_size=8, metrics=diagnostics())
    _, metrics = jax.jit(learn.update)(learn.init(jax.random.key(0), (x, y)), (x, y))
    assert [float(v) for v in metrics["saturated"].values()] == [1, 1, 1]  # the second layer's death kills the third
    assert [float(v) for v in metrics["dead"].values()] == [1, 1, 1]
    assert [float(v) > 0 for v in metrics["gradient_norm"].values()] == [False, False, False, True]
    assert float(metrics["gradient_ratio"]["0 dense(6, sigmoid, b=constant(30.0))"]) == 0
    assert float(metrics["gradient_ratio"]["3 linear(2)"]) > 0


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

    both = Metric("both", of_layer=gradient_norm.of_layer, of_step=update_norm.of_step)
    integers = Metric("count", of_step=lambda step: step.after.step)
    for error, message, metrics in (
        (TypeError, r"Call the factory: saturated\(\), not saturated", [saturated]),
        (TypeError, r"got 3\. Make one", [3]),
        (ValueError, "expected either of_layer or of_step of the metric both, got both", [both]),
        (ValueError, "of the metric none, got neither", [Metric("none")]),
        (TypeError, "must be a function", [Metric("three", of_step=3)]),  # type: ignore[arg-type]
        (ValueError, "got two metrics named 'saturated'", [saturated(), saturated(0.1)]),
        (ValueError, "got two metrics named 'loss'", [update_norm._replace(name="loss")]),
    ):
        with pytest.raises(error, match=message):
            made(*metrics)
    with pytest.raises(TypeError, match=r"write metrics=\[gradient_norm\]"):
        trainer(NET, squared, sgd(0.1), metrics=gradient_norm)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got gradient_norm with a gradient.*Choose gradient=backprop"):
        made(gradient_norm, gradient=fnn.autodiff)
    made(update_norm, gradient=fnn.autodiff)
    with pytest.raises(TypeError, match="expected the metric 'count' of floats, got int32"):
        jax.eval_shape(trainer(NET, squared, sgd(0.1), metrics=[integers]).update, START, DATA)
    with pytest.raises(ValueError, match="below must be a finite number > 0"):
        saturated(0.0)


# Overfitting


def test_the_gap_is_measured_after_every_block_in_the_inference_mode() -> None:
    (x, y), net = DATA, serial(dense(5, tanh, w=constant(0.3)), dropout(0.5), linear(2, w=constant(0.2)))
    seen, unseen = (x[:24], y[:24]), (x[24:], y[24:])
    learn = trainer(net, squared, sgd(0.1), batch_size=8)
    start = state = learn.init(jax.random.key(0), seen)
    gap = overfitting_gap(net, squared, seen, unseen)
    end, metrics = train(learn, start, seen, 6, every=2, validate=gap)
    for block in range(3):
        state, _ = train(learn, state, seen, 2)
        p, q = (jax.tree.map(np.asarray, state.params[i]) for i in (0, 2))
        losses = []
        for examples, targets in (seen, unseen):
            outputs = 0.5 * np.tanh(np.asarray(examples) @ p["w"] + p["b"]) @ q["w"] + q["b"]
            losses.append(np.mean(0.5 * np.sum((outputs - np.asarray(targets)) ** 2, axis=1)))
        expected = Gap(losses[0], losses[1], losses[1] - losses[0])
        chex.assert_trees_all_close(jax.tree.map(lambda m: m[block], metrics["validation"]), expected, rtol=1e-10)  # noqa: B023
    chex.assert_trees_all_equal(end, state)
    with pytest.raises(ValueError, match="got NaN or infinity in x"):
        overfitting_gap(net, squared, seen, (unseen[0] * jnp.nan, unseen[1]))
    with pytest.raises(TypeError, match="batch: expected a pair"):
        overfitting_gap(net, squared, seen, x)  # type: ignore[arg-type]


# How a network starts


def fan_in_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    return jax.random.normal(key, shape, dtype) / np.sqrt(shape[0])


along_ones = fnn.Loss("along_ones", lambda a, y: jnp.sum(a, axis=1), lambda a, y: jnp.ones_like(a), jnp.zeros_like)
"""ε^L = 1 whatever the network gives, so that errors have a closed form."""


def standard_errors(values: Any, expected: float) -> float:
    return float(abs(values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values))))


@pytest.mark.parametrize(
    ("initializer", "activation", "factor"),
    [(fan_in_normal, fnn.identity, 1), (fnn.nn.uniform_fan_in(), fnn.identity, 1 / 3), (fnn.nn.he(), relu, 1)],
    ids=["fan-in", "uniform", "he"],
)
def test_mean_squares_grow_as_the_theory_says(initializer: Any, activation: Any, factor: float) -> None:
    """A layer multiplies E mean x² by Hv, ReLU by half; in linear layers E mean ε² is multiplied by Hv too."""
    width, depth = 24, 3
    x = 0.3 + jax.random.normal(jax.random.key(5), (10, width))
    net = repeat(dense(width, activation, w=initializer), depth)
    report = propagation_report(net, along_ones, x, x, jax.random.key(1), seeds=1000)
    before = float(jnp.mean(jnp.square(x)))
    assert (report.layers[-1].error.mean_square == 1).all()
    for layer, row in enumerate(report.layers, 1):
        assert standard_errors(row.output.mean_square, before * factor**layer) < 5
        if activation is fnn.identity and layer < depth:
            assert standard_errors(row.error.mean_square, factor ** (depth - layer)) < 5


def test_the_report_is_backprop_written_out() -> None:
    """Sigmoids, whose outputs have mean 1/2 and whose errors fade; every moment of every seed."""
    (x, y), seeds = (DATA[0][:10], DATA[1][:10]), 3
    net = serial(dense(4, sigmoid), dense(3, sigmoid), linear(2))
    report = propagation_report(net, squared, x, y, jax.random.key(2), seeds=seeds)
    for seed, key in enumerate(jax.random.split(jax.random.key(2), seeds)):
        params, _ = net.init(jax.random.split(key)[0], x)
        (w1, b1), (w2, b2), (w3, b3) = ((np.asarray(p["w"]), np.asarray(p["b"])) for p in params)
        x1 = 1 / (1 + np.exp(-(np.asarray(x) @ w1 + b1)))
        x2 = 1 / (1 + np.exp(-(x1 @ w2 + b2)))
        x3 = x2 @ w3 + b3
        e3 = x3 - np.asarray(y)
        e2 = e3 @ w3.T
        e1 = (e2 * x2 * (1 - x2)) @ w2.T
        d1, d2, d3 = e1 * x1 * (1 - x1), e2 * x2 * (1 - x2), e3
        gradients = [
            np.concatenate([(below.T @ d).ravel(), d.sum(0)]) / 10
            for below, d in ((np.asarray(x), d1), (x1, d2), (x2, d3))
        ]
        for row, *expected in zip(report.layers, (x1, x2, x3), (e1, e2, e3), gradients, strict=True):
            for moments, numbers in zip(row[1:], expected, strict=True):
                assert isinstance(moments, Moments)
                got = [float(m[seed]) for m in moments]
                np.testing.assert_allclose(got, [numbers.mean(), (numbers**2).mean(), numbers.var()], rtol=1e-10)
    np.testing.assert_allclose(report.input.mean_square, np.mean(np.square(x)) * np.ones(seeds), rtol=1e-12)
    assert report.seeds == seeds


def test_the_report_prints_as_a_table_with_a_row_for_each_copy() -> None:
    neurons = dense(3, tanh, w=constant(0.4))  # random weights compile for seconds
    net = serial(neurons, dropout(0.5), repeat(repeat(neurons, 2), 2), linear(2, w=constant(0.1)))
    report = propagation_report(net, squared, *DATA, jax.random.key(0), seeds=4)
    title, _, header, rule, *rows = str(report).splitlines()
    assert title == f"{net}, squared: mean and standard deviation over 4 initialisations"
    assert " ".join(header.split()) == "layer mean x var x ± var ε ± var ∂Q/∂w ±"
    assert set(rule) == {"─", " "}
    copies = [f"2 {neurons}[{i}, {j}]" for i in (0, 1) for j in (0, 1)]
    names = ["input", f"0 {neurons}", "1 dropout(0.5)", *copies, "3 linear(2, w=constant(0.1))"]
    assert [row.split("  ")[0] for row in rows] == names
    cells = dict(zip(names, (row[len(names[3]) :].split() for row in rows), strict=True))
    assert [len(cells[name]) for name in ("input", "1 dropout(0.5)", "3 linear(2, w=constant(0.1))")] == [3, 5, 7]
    assert cells["3 linear(2, w=constant(0.1))"][1] == f"{report.layers[-1].output.variance.mean():.3g}"
    assert report.layers[1].gradient is None


def test_bad_questions_are_told_apart() -> None:
    x, y = DATA
    key = jax.random.key(0)
    with pytest.raises(TypeError, match="propagation_report: expected layers"):
        propagation_report(tanh, squared, x, y, key)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="loss must be an fnn Loss"):
        propagation_report(NET, jnp.square, x, y, key)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many examples as targets"):
        propagation_report(NET, squared, x, y[:3], key)
    with pytest.raises(ValueError, match="seeds must be a whole number >= 1"):
        propagation_report(NET, squared, x, y, key, seeds=0)
