"""How small a part of a huge sample is enough to learn from.

Command: ``python -m experiments stream``; 14 seconds on two CPU cores. Expect half of the examples, seen
twice, to be as good as all of them, and a tenth, seen ten times, to cost 0.013 of accuracy, with noisy targets 0.026.
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
SEEN = np.arange(1, RECORDS + 1) / RECORDS
"""the shares of the stream that are gone by at the records"""
NEAR = 0.01
"""errors this near are as good as equal: one example in a hundred"""


EQUATION = r"\text{error after } n \text{ examples} \propto n^{-a}"
LEAD = (
    "A network learns from a stream of examples that is too long to keep, in one pass and from parts of it. The "
    f"stream has {{examples}} examples with {FEATURES} random features, whose {CLASSES} classes a random network of "
    f"{TEACHER} hidden units gives; every batch of {BATCH} is drawn when its turn comes. The network has {STUDENT} "
    "hidden ReLUs and learns by Adam, whose rate falls with the step k as $0.01 / \\sqrt{{1 + k/100}}$, however long "
    "the run, in one pass and, in the same number of steps, from its first 2 %, 10 % or half, over and over. The "
    f"error is the share of {HELD_OUT} other examples that it puts into another class than the teacher without noise. "
    "With noise, what it learns from is the largest of the teacher's outputs with normal noise of deviation "
    f"{NOISE[1]:g}."
)
STOP = r.Claim(
    f"One pass through a stream may stop early: after a tenth of it the error is at most {NEAR} above that after all "
    "of it.",
    why="The error keeps falling, about as a power of the number of examples, and has no plateau. A good part of that "
    "is not new examples but more steps, as the runs over and over a tenth of them show, and the rate has fallen less "
    "by then.",
    quantity="error after a tenth less error after all",
)
PARTS = {
    TENTH: r.Claim(
        "A tenth of the examples of a stream is enough: learned from over and over, in as many steps as the whole "
        f"stream takes, these alone give an error at most {NEAR} above that from all.",
        why="The same examples again teach less than new ones, the more so with noisy targets.",
        quantity="error from a tenth less error from all",
    ),
    HALF: r.Claim(
        "Half of the examples of a stream is enough: learned from over and over, in as many steps as the whole stream "
        f"takes, these alone give an error at most {NEAR} above that from all.",
        quantity="error from a half less error from all",
    ),
}
DIMINISH = r.Claim(
    "The returns of a stream diminish: from a tenth of it on the error after n examples falls more slowly than 1/√n "
    "(as n⁻ᵃ with a < ½).",
    quantity="the power a",
)
HONEST = r.Claim(
    "In one pass through a stream the running loss, that of each batch before its step, is an honest estimate: in the "
    "last fifth of the pass it differs from the held-out loss by at most 0.02.",
    quantity="held-out loss less running loss",
)


def experiment_with(steps: int) -> Any:
    """The pure experiment ``(key, noise, share) -> records``, RECORDS of them on the way through the stream."""
    teacher = fnn.serial(fnn.dense(TEACHER, fnn.tanh, w=fnn.nn.glorot_uniform(2.0)), fnn.linear(CLASSES))
    student = fnn.serial(fnn.dense(STUDENT, fnn.relu, w=fnn.nn.he()), fnn.linear(CLASSES))
    learn = fnn.trainer(
        student, fnn.softmax_cross_entropy, fnn.adam(lambda k: 0.01 / jnp.sqrt(1 + k / 100)), batch_size=BATCH
    )

    def experiment(key: jax.Array, noise: jax.Array, share: jax.Array) -> dict[str, jax.Array]:
        key_teacher, key_student, key_stream, key_test = jax.random.split(key, 4)
        knows, still = teacher.init(key_teacher, jax.ShapeDtypeStruct((1, FEATURES), jnp.float32))

        def examples(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array, jax.Array]:
            drawn = jax.random.normal(key, (count, FEATURES + CLASSES), jnp.float32)
            x, blur = drawn[:, :FEATURES], noise * drawn[:, FEATURES:]
            a = teacher.apply(knows, still, x)
            y, truth = (jnp.argmax(outputs, axis=1).astype(jnp.int32) for outputs in (a + blur, a))
            return x, y, truth

        x_test, y_test, truth = examples(key_test, HELD_OUT)
        first = jnp.zeros((BATCH, FEATURES), jnp.float32), jnp.zeros(BATCH, jnp.int32)
        seen = jnp.round(share * steps).astype(jnp.int32)

        def step(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, jax.Array]:
            batch = examples(jax.random.fold_in(key_stream, state.step % seen), BATCH)
            state, metrics = learn.update(state, batch[:2])
            return state, metrics["loss"]

        def record(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, dict[str, jax.Array]]:
            state, losses = jax.lax.scan(step, state, length=steps // RECORDS)
            a = student.apply(state.params, state.layer_state, x_test)
            wrong = jnp.argmax(a, axis=1).astype(jnp.int32) != truth
            return state, {
                "error": jnp.mean(wrong.astype(jnp.float32)),
                "held-out loss": jnp.mean(fnn.softmax_cross_entropy.value(a, y_test)),
                "running loss": jnp.mean(losses),
            }

        return jax.lax.scan(record, learn.init(key_student, first), length=RECORDS)[1]

    return experiment


def _by_noise(values: np.ndarray) -> dict[str, np.ndarray]:
    return r.by_case(values, NOISE, "noise {:g}")


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn from the stream and from parts of it, judge and draw."""
    steps = settings.pick(quick=1000, full=4000)
    log(f"{settings.seeds} seeds × {len(NOISE)} levels of noise × {len(SHARES)} shares of {BATCH * steps} examples")
    found = r.sweep_seeds(experiment_with(steps), settings, noise=NOISE, share=SHARES)
    error, powers = found["error"], decay(found["error"][:, :, -1])
    optimism = (found["held-out loss"] - found["running loss"])[..., -RECORDS // 5 :].mean(axis=-1)
    return r.Outcome(
        LEAD.format(examples=BATCH * steps),
        _verdicts(error, powers, optimism),
        EQUATION,
        slide=12,
        tables=[_table(error, optimism, steps)],
        figures=[_on_the_way(error[:, :, -1]), _by_share(error[..., -1])],
        numbers={
            "examples": BATCH * steps,
            "share": SHARES,
            "error": {name: [r.Interval.of(v) for v in of[:, :, -1].T] for name, of in _by_noise(error).items()},
            "power": r.intervals(_by_noise(powers)),
        },
    )


def decay(whole: np.ndarray) -> np.ndarray:
    """The powers a with which the error falls from a tenth of the stream on [seeds, noise]."""
    late = np.arange(RECORDS) >= RECORDS // 10 - 1
    logs = np.log(np.maximum(whole[..., late], 1 / HELD_OUT))
    return -np.polyfit(np.log(SEEN[late]), logs.reshape(-1, late.sum()).T, 1)[0].reshape(logs.shape[:2])


def _verdicts(error: np.ndarray, powers: np.ndarray, optimism: np.ndarray) -> list[r.Verdict]:
    whole = error[:, :, -1]
    early = whole[..., RECORDS // 10 - 1] - whole[..., -1]
    return [
        r.at_most(STOP, NEAR, _by_noise(early)),
        *(r.at_most(claim, NEAR, _by_noise(error[:, :, i, -1] - whole[..., -1])) for i, claim in PARTS.items()),
        r.at_most(DIMINISH, 0.5, _by_noise(powers)),
        r.within(HONEST, -0.02, 0.02, _by_noise(optimism[:, :, -1])),
    ]


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
    header = ("noise", "examples seen", "times each", "held-out error", "held-out loss − running loss")
    caption = f"After {steps} steps, means over seeds with 95 % intervals; losses of the last fifth of the steps"
    return r.Table(caption, header, rows)


def _on_the_way(whole: np.ndarray) -> r.Figure:
    return r.curves(
        100 * SEEN,
        _by_noise(whole),
        "Held-out error in one pass, by how much of the stream has gone by, mean and 95 % interval over seeds",
        "Two falling lines, nearly straight on logarithmic scales: each doubling of the examples takes about the "
        "same part off the error. With noise the error is higher.",
        xlabel="part of the stream seen, %",
        ylabel="held-out error",
        logx=True,
        logy=True,
    )


def _by_share(last: np.ndarray) -> r.Figure:
    return r.curves(
        100 * np.array(SHARES),
        _by_noise(last),
        "Held-out error after equally many steps, by the share of the stream whose examples are seen over and over",
        "Two lines that fall steeply between two and ten per cent, little from ten to fifty, and not at all from "
        "there to a hundred.",
        xlabel="share of the stream that is used, %",
        ylabel="held-out error",
        logx=True,
        marker="o",
    )
