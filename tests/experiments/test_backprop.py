"""The experiment `backprop`: its heat maps and their checks, its findings, and moving pictures on the page."""

import io
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageSequence

import fnn
from experiments.claims import backprop, paralysis
from experiments.report import Outcome, Settings, animated, site, storage
from experiments.report.plots import DIVERGING
from experiments.user_network import Problem


def silent(words: str) -> None:
    """Log nothing."""


@pytest.fixture(scope="module")
def irises():
    problem = backprop.irises()
    return problem, backprop.rows_of(problem, jax.random.key(1))


def test_the_rows_are_the_lectures_recursion(irises):
    problem, rows = irises
    x, y = (np.asarray(values) for values in problem.batch)
    params = jax.tree.map(np.asarray, problem.net.init(jax.random.split(jax.random.key(1))[0], problem.batch[0])[0])
    for row, own, slope in zip(rows, params, ("tanh", "tanh", None), strict=True):
        S = x @ own["w"] + own["b"]
        z = 1 - np.tanh(S) ** 2 if slope else np.ones_like(S)
        for found, expected in ((row.x, x), (row.w, own["w"]), (row.S, S), (row.z, z)):
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        x = np.tanh(S) if slope else S
    error = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) - np.eye(3)[y]
    for row in reversed(rows):
        np.testing.assert_allclose(row.error, error, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(row.gradient, row.x.T @ (error * row.z) / 16, rtol=1e-4, atol=1e-6)
        error = (error * row.z) @ row.w.T


def off(rows: list[backprop.Row]) -> tuple[float, float]:
    of_gradients, of_errors = backprop.differences(rows, True)
    assert of_gradients is not None
    assert of_errors is not None
    return of_gradients, of_errors


def test_the_checks_see_a_wrong_gradient_and_a_wrong_error(irises):
    rows = irises[1]
    assert max(off(rows)) < 1e-6
    of_gradients, of_errors = off([rows[0]._replace(gradient=rows[0].gradient * 1.01), *rows[1:]])
    assert of_gradients == pytest.approx(0.01, rel=1e-3)
    assert of_errors < 1e-6
    of_gradients, of_errors = off([rows[0]._replace(error=rows[0].error * 1.01), *rows[1:]])
    assert min(of_gradients, of_errors) == pytest.approx(0.01, rel=1e-2)


def test_the_figure_draws_every_map_small_and_with_its_scale(irises):
    problem, rows = irises
    figure = backprop.heat_maps(problem, rows, True)
    assert len(figure.svg) < 300_000
    assert figure.svg.count("<image") == 18
    for row in rows:
        for values in row[1:]:
            assert f"±{np.abs(values).max():.2g}" in figure.svg
            assert f"{values.shape[0]}×{values.shape[1]}" in figure.svg
    for text in ("x⁰", "S¹", "z²", "ε³", "∂Q/∂w³", "layer 1: dense(8, tanh)"):
        assert text in figure.svg


def test_nothing_is_no_ink_and_signs_have_colours_of_their_own():
    assert DIVERGING(0.5)[3] == 0
    low, high = DIVERGING(0.0), DIVERGING(1.0)
    assert low[3] == high[3] == 1
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert DIVERGING(0.25)[3] == pytest.approx(0.5, abs=0.05)


def test_a_users_network_is_drawn_whatever_its_layers():
    block = fnn.residual(fnn.serial(fnn.linear(70), fnn.batch_norm(), fnn.activate(fnn.relu), fnn.dropout(0.5)))
    net = fnn.serial(fnn.dense(70, fnn.tanh), block, fnn.repeat(fnn.dense(70, fnn.tanh), 2), fnn.prelu(), fnn.linear(1))
    x = jax.random.normal(jax.random.key(0), (80, 5), jnp.float32)
    problem = Problem(label="noise", net=net, loss=fnn.squared, batch=(x, x[:, :1]))
    outcome = backprop.run(Settings(2, True, problem), silent)
    (figure,) = outcome.figures
    layers = outcome.numbers["layers"]
    assert [layer for layer in layers if "[" in layer] == ["2 dense(70, tanh)[0]", "2 dense(70, tanh)[1]"]
    assert len(layers) == 9
    assert all(layer in figure.svg for layer in layers)
    assert "first 64 rows and columns" in figure.caption
    assert "noise" in figure.caption
    assert [verdict.word for verdict in outcome.verdicts] == ["holds"]
    assert not outcome.animations
    assert not outcome.tables


def test_a_watched_network_is_drawn_like_any_other(irises):
    problem, rows = irises
    for watched in (fnn.watch(problem.net), fnn.watch(fnn.watch(problem.net))):
        again = backprop.rows_of(problem._replace(net=watched), jax.random.key(1))
        for row, of_watched in zip(rows, again, strict=True):
            for drawn, expected in zip(of_watched[1:], row[1:], strict=True):
                np.testing.assert_array_equal(drawn, expected)


def test_a_chain_is_one_only_where_each_layer_feeds_the_next():
    linear = fnn.linear(3)
    assert backprop.is_chain(linear)
    assert backprop.is_chain(fnn.serial(linear, fnn.serial(fnn.activate(fnn.tanh), linear)))
    assert not backprop.is_chain(fnn.serial(linear, fnn.residual(linear)))


# Paralysis


def test_the_slopes_metric_is_numpys_histogram():
    z = np.random.default_rng(0).uniform(0, 0.25, (7, 5))
    z[0, 0] = 0.25
    seen: Any = SimpleNamespace(tape=SimpleNamespace(z=jnp.asarray(z), S=jnp.asarray(z)))
    found = paralysis._slopes({}, seen)
    np.testing.assert_allclose(np.asarray(found), np.histogram(z, paralysis.BINS, (0, 0.25))[0] / z.size, rtol=1e-6)


def test_the_error_metric_is_the_mean_norm_of_each_examples_own_error():
    net = fnn.serial(fnn.dense(4, fnn.sigmoid), fnn.linear(2))
    x, y = np.random.default_rng(0).normal(size=(2, 6, 2))
    learn = fnn.trainer(net, fnn.squared, fnn.sgd(0.1), batch_size=6, metrics=paralysis.METRICS[1:2])
    state = learn.init(jax.random.key(0), (x, y))
    _, metrics = learn.update(state, (jnp.asarray(x), jnp.asarray(y)))
    a, w = net.apply(state.params, state.layer_state, jnp.asarray(x)), np.asarray(state.params[1]["w"])
    expected = np.mean([np.linalg.norm((a[i] - y[i]) @ w.T) for i in range(6)])
    assert float(metrics["error"]["0 dense(4, sigmoid)"]) == pytest.approx(expected, rel=1e-12)


def records(loss: float, later: float, saturated: float, ratio: float) -> dict[str, np.ndarray]:
    """Two seeds of 20 steps and 20 more, whose last records say what is given."""
    time = 20 // paralysis.EVERY
    layers = np.ones((2, 2 * time, paralysis.HIDDEN))
    losses = np.concatenate([np.full((2, time), loss), np.full((2, time), later)], axis=1)
    error = layers.copy()
    error[:, :, 0] = ratio
    slopes = np.full((*layers.shape, paralysis.BINS), 1 / paralysis.BINS)
    return {"loss": losses, "saturated": saturated * layers, "error": error, "slopes": slopes}


def test_the_findings_are_those_of_the_ends_of_both_phases():
    found = paralysis.findings(records(2.3, 1.5, 0.9, 1e-3), 20)
    assert (found.loss.mean, found.later.mean, found.saturated.mean) == pytest.approx((2.3, 1.5, 0.9))
    assert found.through.mean == pytest.approx(-3)
    assert found.guessing == 0
    assert paralysis.findings(records(2.3, 2.3, 0.9, 0.0), 20).guessing == 1


def test_the_verdicts_follow_the_numbers():
    given = {"plain, η = 10": (2.3, 2.0, 0.9, 1e-3), "plain, η = 1": (0.1, 0.1, 0.0, 1.0), "b": (0.1, 0.1, 0.1, 1.0)}
    found = {name: paralysis.findings(records(*numbers), 20) for name, numbers in given.items()}
    assert all(verdict.word == "holds" for verdict in paralysis._of_paralysis(found))
    turned = dict(zip(found, reversed(found.values()), strict=True))
    assert not any(verdict.word == "holds" for verdict in paralysis._of_paralysis(turned))


def test_paralysis_arises_and_is_shown(monkeypatch):
    monkeypatch.setattr(paralysis, "HIDDEN", 2)
    monkeypatch.setattr(paralysis, "LAYERS", range(1, 3))
    monkeypatch.setattr(paralysis, "BATCH", 32)
    runs = paralysis.trained(Settings(2, True), 40, silent)
    assert list(runs) == ["plain, η = 10", "plain, η = 1", "batch norm, η = 10"]
    for run in runs.values():
        assert run["loss"].shape == (2, 40)
        assert run["slopes"].shape == (2, 40, 2, paralysis.BINS)
        np.testing.assert_allclose(run["slopes"].sum(axis=-1), 1, rtol=1e-5)
    still = [run["saturated"][:, 15:20, -1].mean() for run in runs.values()]
    assert still[0] > 2 * max(still[1:])
    picture = paralysis.moving_picture(runs, 40, 3)
    with Image.open(io.BytesIO(picture.gif)) as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 3


# Moving pictures


@pytest.fixture(scope="module")
def moving():
    def draw(canvas, k):
        canvas.add_axes((0.2, 0.2, 0.7, 0.7)).plot([0, 1 + k], color="#d9534f")

    return animated(draw, 4, "A growing line", "A line that grows in four frames.", size=(2, 1.5), milliseconds=90)


def test_a_moving_picture_has_its_frames_and_a_still(moving):
    with Image.open(io.BytesIO(moving.gif)) as gif, Image.open(io.BytesIO(moving.still)) as still:
        assert len(list(ImageSequence.Iterator(gif))) == 4
        assert gif.info["loop"] == 0
        assert still.format == "PNG"
        assert gif.size == still.size == (288, 216)
        durations, frames = [], []
        for k in range(4):
            gif.seek(k)
            durations.append(gif.info["duration"])
            frames.append(np.asarray(gif.convert("RGB")))
        assert durations == [90, 90, 90, 3000]
        assert (frames[0][0, 0] == 255).all()
        assert not np.array_equal(frames[0], frames[1])
        np.testing.assert_array_equal(frames[3], np.asarray(still.convert("RGB")))
    assert (moving.width, moving.height) == (192, 144)


def test_the_page_shows_the_moving_picture_or_its_still(moving, tmp_path):
    outcome = Outcome("A lead.", [], slide=12, animations=[moving], title="A title", name="one", command="none")
    storage.save(tmp_path, outcome, "made of this")
    site.write(tmp_path)
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    (gif,), (still,) = ((tmp_path / "pictures").glob(f"one.m1.*.{kind}") for kind in ("gif", "png"))
    assert f'alt="{moving.description}" width="192" height="144"' in text
    still_one, running = (
        text.split(f'<picture class="{kind}">')[1].split("</picture>")[0] for kind in ("still", "running")
    )
    assert f'src="pictures/{still.name}"' in still_one.split("</picture>")[0]
    assert f'src="pictures/{gif.name}"' in running.split("</picture>")[0]
    assert gif.read_bytes() == moving.gif
    assert still.read_bytes() == moving.still
