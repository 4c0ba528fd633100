"""Metrics against NumPy loops, the report of a start against closed forms, and that neither changes the training."""

from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    dense,
    dropout,
    linear,
    relu,
    repeat,
    serial,
    sgd,
    sigmoid,
    squared,
    tanh,
    train,
    trainer,
)
from fnn.nn import constant
from fnn.training import (
    Gap,
    Moments,
    diagnostics,
    overfitting_gap,
    propagation_report,
)
from fnn.training.diagnosis import _gradient_ratio, _norm
from tests.training.saturating import BELOW, DATA, LEARN, NET, START

HIDDEN, UPPER, OUTPUT = (
    "0 dense(7, tanh, w=<lambda>, b=constant(3.0))",
    "1 dense(5, gaussian, w=<lambda>)",
    "2 linear(2)",
)


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
    with pytest.raises(ValueError, match="equally many examples"):
        propagation_report(NET, squared, x, y[:3], key)
    with pytest.raises(ValueError, match="seeds must be a whole number >= 1"):
        propagation_report(NET, squared, x, y, key, seeds=0)


# Differentiated


def test_metrics_of_a_layer_that_stands_still_can_be_differentiated():
    def of(t: Any, w: Any) -> Any:
        return _gradient_ratio({"w": w[None]}, {"w": t[None]})

    assert float(jax.grad(lambda t: _norm({"w": t * jnp.ones(3)}))(0.0)) == 0
    assert float(of(jnp.zeros(()), jnp.zeros(()))) == 0
    assert float(jax.grad(of)(jnp.zeros(()), jnp.zeros(()))) == 0
    assert float(of(jnp.asarray(3.0), jnp.asarray(-2.0))) == 1.5
    assert float(jax.grad(of)(jnp.asarray(3.0), jnp.asarray(-2.0))) == 0.5


@pytest.mark.parametrize(
    ("metric", "share"),
    [(fnn.training.saturated(0.5), 0.5), (fnn.training.dead(0.25), 0.0), (fnn.training.dead(0.375), 0.5)],
    ids=["saturated", "at the threshold", "below it"],
)
def test_a_slope_of_just_the_threshold_is_not_saturated(metric: Any, share: float) -> None:
    seen = SimpleNamespace(tape=SimpleNamespace(z=jnp.array([[0.5, 0.25], [0.5, 0.125]])))
    assert metric.of_layer({}, seen) == share
