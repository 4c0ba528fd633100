"""How small a part of a huge sample is enough to learn from.

Command: ``python -m experiments stream``; 14 seconds on two CPU cores. Expect half of the objects, seen
twice, to be as good as all of them, and a tenth, seen ten times, to cost 0.013 of accuracy, with noisy answers 0.026.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

FEATURES, CLASSES, TEACHER, STUDENT = 16, 5, 8, 64
BATCH, HELD_OUT, RECORDS = 32, 2000, 50
NOISE = (0.0, 0.5)
"""of the teacher's outputs, by standard deviation"""
SHARES = (0.02, 0.1, 0.5, 1.0)
"""of the stream that are seen, over and over in the same number of steps"""
TENTH, HALF = SHARES.index(0.1), SHARES.index(0.5)
NEAR = 0.01
"""errors this near are as good as equal: one object in a hundred"""


def experiment_with(steps: int) -> Any:
    """The pure experiment ``(key, noise, share) -> records``, RECORDS of them on the way through the stream."""
    teacher = fnn.serial(fnn.dense(TEACHER, fnn.tanh, w=fnn.glorot_uniform(2.0)), fnn.linear(CLASSES))
    student = fnn.serial(fnn.dense(STUDENT, fnn.relu, w=fnn.he()), fnn.linear(CLASSES))
    learn = fnn.trainer(
        student, fnn.softmax_cross_entropy, fnn.adam(lambda k: 0.01 / jnp.sqrt(1 + k / 100)), batch_size=BATCH
    )

    def experiment(key: jax.Array, noise: jax.Array, share: jax.Array) -> dict[str, jax.Array]:
        key_teacher, key_student, key_stream, key_test = jax.random.split(key, 4)
        knows, still = teacher.init(key_teacher, jax.ShapeDtypeStruct((1, FEATURES), jnp.float32))

        def objects(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
            drawn = jax.random.normal(key, (count, FEATURES + CLASSES), jnp.float32)
            x, blur = drawn[:, :FEATURES], noise * drawn[:, FEATURES:]
            a = teacher.apply(knows, still, x)
            y, truth = (jnp.argmax(outputs, axis=1).astype(jnp.int32) for outputs in (a + blur, a))
            return x, y, truth

        x_test, y_test, truth = objects(key_test, HELD_OUT)
        first = jnp.zeros((BATCH, FEATURES), jnp.float32), jnp.zeros(BATCH, jnp.int32)
        seen = jnp.round(share * steps).astype(jnp.int32)

        def step(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, jax.Array]:
            batch = objects(jax.random.fold_in(key_stream, state.step % seen), BATCH)
            state, metrics = learn.update(state, batch[:2])
            return state, metrics["loss"]

        def record(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, dict[str, jax.Array]]:
            state, losses = jax.lax.scan(step, state, length=steps // RECORDS)
            a = student.apply(state.params, state.state, x_test)
            wrong = jnp.argmax(a, axis=1).astype(jnp.int32) != truth
            return state, {
                "error": jnp.mean(wrong.astype(jnp.float32)),
                "held-out loss": jnp.mean(fnn.softmax_cross_entropy.value(a, y_test)),
                "running loss": jnp.mean(losses),
            }

        return jax.lax.scan(record, learn.init(key_student, first), length=RECORDS)[1]

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn from the stream and from parts of it, judge and draw."""
    steps = 1000 if settings.quick else 4000
    log(f"{settings.seeds} seeds × {len(NOISE)} levels of noise × {len(SHARES)} shares of {BATCH * steps} objects")
    found = r.sweep_seeds(
        experiment_with(steps),
        settings,
        noise=jnp.asarray(NOISE, jnp.float32),
        share=jnp.asarray(SHARES, jnp.float32),
    )
    error = found["error"]
    whole = error[:, :, -1]
    parts = np.arange(1, RECORDS + 1) / RECORDS
    late = np.arange(RECORDS) >= RECORDS // 10 - 1
    logs = np.log(np.maximum(whole[..., late], 1 / HELD_OUT))
    powers = -np.polyfit(np.log(parts[late]), logs.reshape(-1, late.sum()).T, 1)[0].reshape(logs.shape[:2])
    optimism = (found["held-out loss"] - found["running loss"])[..., -RECORDS // 5 :].mean(axis=-1)

    def by_noise(values: np.ndarray, told: str) -> dict[str, np.ndarray]:
        return {f"noise {noise:g}, {told}": values[:, i] for i, noise in enumerate(NOISE)}

    return r.Outcome(
        slide=12,
        lead=f"A stream of {BATCH * steps} objects with {FEATURES} random features, whose {CLASSES} classes a random "
        f"network of {TEACHER} hidden units gives, is too long to keep: every batch of {BATCH} is drawn when its turn "
        f"comes. A network of {STUDENT} hidden ReLU units learns from it, by Adam, whose rate falls with the step k "
        "as 0.01/√(1 + k/100), however long the run, in one pass and, in the same number of steps, from its first 2 %, "
        f"10 % or half, over and over. The error is the share of {HELD_OUT} other objects that it puts into another "
        "class than the teacher without noise. With noise, what it learns from is the largest of the teacher's "
        f"outputs with normal noise of deviation {NOISE[1]:g}.",
        equation="error after n objects ∝ n⁻ᵃ",
        verdicts=[
            r.at_most(
                f"one pass may stop early: after a tenth of a stream the error is at most {NEAR} above that after all "
                "of it",
                NEAR,
                by_noise(whole[..., RECORDS // 10 - 1] - whole[..., -1], "error above that after all"),
                why="the error keeps falling, about as a power of the number of objects, and has no plateau; a good "
                "part of that is not new objects but more steps, as the runs over and over a tenth of them show, and "
                "the rate has fallen less by then",
            ),
            *(
                r.at_most(
                    f"{part} of the objects of a stream is enough: in as many steps as the whole stream takes, from "
                    f"these alone, over and over, the error gets to at most {NEAR} above that from all",
                    NEAR,
                    by_noise(error[:, :, i, -1] - whole[..., -1], "error above that from all"),
                    why,
                )
                for part, i, why in (
                    (
                        "a tenth",
                        TENTH,
                        "the same objects again teach less than new ones, the more so with noisy answers",
                    ),
                    ("half", HALF, ""),
                )
            ),
            r.at_most(
                "the returns of a stream diminish: from a tenth of it on the error after n objects falls more slowly "
                "than 1/√n, as n⁻ᵃ with a < ½",
                0.5,
                by_noise(powers, "a"),
            ),
            r.within(
                "in one pass through a stream the running loss is an honest estimate: in the last fifth, held-out loss "
                "and loss of the batches before their steps differ by at most 0.02",
                -0.02,
                0.02,
                by_noise(optimism[:, :, -1], "held-out loss less running loss"),
            ),
        ],
        tables=[_table(error, optimism, steps)],
        figures=_figures(error, whole, parts),
        numbers={
            "objects": BATCH * steps,
            "share": list(SHARES),
            "error": {
                f"noise {noise:g}": [r.Interval.of(v)._asdict() for v in error[:, i, :, -1].T]
                for i, noise in enumerate(NOISE)
            },
            "power": {name: r.Interval.of(values)._asdict() for name, values in by_noise(powers, "a").items()},
        },
    )


def _table(error: np.ndarray, optimism: np.ndarray, steps: int) -> r.Table:
    rows = [
        (
            f"{noise:g}",
            f"{BATCH * round(share * steps)}",
            f"{1 / share:g}",
            str(r.Interval.of(error[:, i, j, -1])),
            str(r.Interval.of(optimism[:, i, j])),
        )
        for i, noise in enumerate(NOISE)
        for j, share in enumerate(SHARES)
    ]
    header = ("noise", "objects seen", "times each", "held-out error", "held-out loss − running loss")
    caption = f"After {steps} steps, means over seeds with 95 % intervals; losses of the last fifth of the steps"
    return r.Table(caption, header, rows)


def _figures(error: np.ndarray, whole: np.ndarray, parts: np.ndarray) -> list[r.Figure]:
    return [
        r.curves(
            100 * parts,
            {f"noise {noise:g}": whole[:, i] for i, noise in enumerate(NOISE)},
            "Held-out error in one pass, by how much of the stream has gone by, mean and 95 % interval over seeds",
            "Two falling lines, nearly straight on logarithmic scales: each doubling of the objects takes about the "
            "same part off the error. With noise the error is higher.",
            xlabel="part of the stream seen, %",
            ylabel="held-out error",
            logx=True,
            logy=True,
        ),
        r.curves(
            100 * np.array(SHARES),
            {f"noise {noise:g}": error[:, i, :, -1] for i, noise in enumerate(NOISE)},
            "Held-out error after equally many steps, by the share of the stream whose objects are seen over and over",
            "Two lines that fall steeply between two and ten per cent, little from ten to fifty, and not at all from "
            "there to a hundred.",
            xlabel="share of the stream that is used, %",
            ylabel="held-out error",
            logx=True,
            marker="o",
        ),
    ]
