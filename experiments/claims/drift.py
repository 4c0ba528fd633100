"""Learning from a stream that changes, and what a falling rate costs there.

Command: ``python -m experiments drift``; 15 seconds on two CPU cores. Expect
an error of 5e-4 with a constant η where the teacher turns, and of 0.51 with a falling one.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import report as r

FEATURES, BATCH, RECORDS, HELD_OUT, NOISE = 10, 8, 40, 500, 0.1
KINDS = ("still", "turning", "jump")
"""a teacher that stays as it is, one that turns by half a circle, one that is another from the middle on"""
ETA, FALL = 0.05, 50
"""the constant rate; a falling one is ETA/(1 + k/FALL)"""
WAYS = ("constant η", "falling η", "Adam, constant η", "trained once")
LATE = RECORDS // 4
"""the records of the last quarter"""
Found = dict[str, dict[str, np.ndarray]]
"""by the kind of the stream and the way of learning, errors [seeds, records]"""


EQUATION = r"""w \coloneqq w - \eta_k g, \quad \eta_k = \eta \text{ or } \frac{\eta}{1 + k/K}"""
LEAD = (
    f"A stream of examples has {FEATURES} features and a number that a linear teacher gives, with a little noise. The "
    "teacher stays as it is, turns by half a circle until the end, or is replaced by another in the middle. A linear "
    f"student takes a gradient step for each batch of {BATCH}, {{steps}} in all: with a constant η, with one that "
    "falls as 1/k, or by Adam; for comparison it learns in the first quarter only and is kept. The error is the mean "
    "squared difference from the teacher of the moment, over that of answering 0."
)
FOLLOWS = r.Claim(
    "A student that learns from each batch follows a teacher that turns: with a constant η its error in the last "
    "quarter is at most 0.1.",
    quantity="error, relative to answering 0",
)
STALE = r.Claim(
    "A student that was trained once is of no use at the end of a stream that changes: its error in the last quarter "
    "is above 1, worse than answering 0.",
    quantity="error, relative to answering 0",
)
FALLS = r.Claim(
    "A rate that falls, as it should on a stream that stays the same, is a fault on one that changes: its error in the "
    "last quarter is larger than with a constant η.",
    quantity="error, constant less falling η",
)
STILL = r.Claim(
    "On a stream that stays the same a falling rate ends with a smaller error than a constant one.",
    quantity="error, falling less constant η",
)
RECOVERS = r.Claim(
    "After the teacher is replaced a student with a constant η recovers: within a quarter of the stream its error is "
    "below 0.05 again.",
    quantity="error a quarter after the change",
)
ADAM = r.Claim(
    "Adam follows a teacher that turns as well as SGD: its error in the last quarter is no larger.",
    why="Adam's G remembers a thousand steps, and its steps are of about the same size however wrong the student is.",
    quantity="error, Adam less SGD",
)


def teacher(kind: str, first: jax.Array, second: jax.Array, time: jax.Array) -> jax.Array:
    """The teacher's weights at a time from 0 to 1; both are of length 1, and the second stands at a right angle."""
    if kind == "jump":
        return jnp.where(time < 0.5, first, second)
    angle = (jnp.pi if kind == "turning" else 0.0) * time
    return jnp.cos(angle) * first + jnp.sin(angle) * second


def experiment_with(kind: str, way: str, steps: int) -> Callable[[jax.Array], jax.Array]:
    """The pure experiment ``key -> errors [records]`` of a student on the way through the stream."""
    rate = (lambda k: ETA / (1 + k / FALL)) if way == "falling η" else ETA
    optimizer = fnn.adam(ETA / 2) if way.startswith("Adam") else fnn.sgd(rate)
    learn = fnn.trainer(fnn.linear(1, bias=False), fnn.squared, optimizer, batch_size=BATCH)

    def experiment(key: jax.Array) -> jax.Array:
        key_teacher, key_stream, key_test, key_run = jax.random.split(key, 4)
        both = jax.random.normal(key_teacher, (2, FEATURES), jnp.float32)
        first = both[0] / jnp.linalg.norm(both[0])
        across = both[1] - jnp.sum(both[1] * first) * first
        second = across / jnp.linalg.norm(across)
        test = jax.random.normal(key_test, (HELD_OUT, FEATURES), jnp.float32)

        def batch(k: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn = jax.random.normal(jax.random.fold_in(key_stream, k), (BATCH, FEATURES + 1), jnp.float32)
            w = teacher(kind, first, second, k.astype(jnp.float32) / steps)
            return drawn[:, :-1], drawn[:, :-1] @ w[:, None] + NOISE * drawn[:, -1:]

        def step(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, None]:
            learned, _ = learn.update(state, batch(state.step))
            if way == "trained once":  # after a quarter nothing is learned, but time goes on
                kept = state._replace(step=learned.step)
                learned = jax.tree.map(lambda a, b: jnp.where(state.step < steps // 4, a, b), learned, kept)
            return learned, None

        def record(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, jax.Array]:
            state, _ = jax.lax.scan(step, state, length=steps // RECORDS)
            truth = test @ teacher(kind, first, second, (state.step - 1).astype(jnp.float32) / steps)
            said = test @ state.params["w"][:, 0]
            return state, jnp.mean(jnp.square(said - truth)) / jnp.mean(jnp.square(truth))

        return jax.lax.scan(record, learn.init(key_run, batch(jnp.zeros((), jnp.int32))), length=RECORDS)[1]

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn from every stream in every way, judge and draw."""
    steps = settings.pick(quick=800, full=4000)
    found: Found = {}
    for kind in KINDS:
        log(f"{settings.seeds} seeds × {len(WAYS)} ways to learn from a stream whose teacher is {kind}")
        found[kind] = {way: r.sweep_seeds(experiment_with(kind, way, steps), settings) for way in WAYS}
    return r.Outcome(
        LEAD.format(steps=steps),
        _verdicts(found),
        EQUATION,
        slide=12,
        tables=[_table(found)],
        figures=[_picture(found, kind) for kind in ("turning", "jump")],
        numbers={
            kind: {way: r.Interval.of(of[:, -LATE:].mean(axis=1)) for way, of in ways.items()}
            for kind, ways in found.items()
        },
    )


def _verdicts(found: Found) -> list[r.Verdict]:
    late = {kind: {way: of[:, -LATE:].mean(axis=1) for way, of in ways.items()} for kind, ways in found.items()}
    constant, falling, adam, once = WAYS
    changing = ("turning", "jump")
    return [
        r.at_most(FOLLOWS, 0.1, late["turning"][constant]),
        r.at_least(STALE, 1, {kind: late[kind][once] for kind in changing}),
        r.smaller(FALLS, {kind: (late[kind][constant], late[kind][falling]) for kind in changing}),
        r.smaller(STILL, {"": (late["still"][falling], late["still"][constant])}),
        r.at_most(RECOVERS, 0.05, found["jump"][constant][:, 3 * RECORDS // 4 - 1]),
        r.smaller(ADAM, {"": (late["turning"][adam], late["turning"][constant])}, or_equal=True),
    ]


def _table(found: Found) -> r.Table:
    rows = {way: {f"teacher {kind}": found[kind][way][:, -LATE:].mean(axis=1) for kind in KINDS} for way in WAYS}
    return r.table("Relative error in the last quarter of the stream", "way of learning", rows)


def _picture(found: Found, kind: str) -> r.Figure:
    words = {"turning": "turns by half a circle", "jump": "is another from the middle on"}[kind]
    return r.curves(
        100 * np.arange(1, RECORDS + 1) / RECORDS,
        found[kind],
        f"The error on the way through a stream whose teacher {words}; means and 95 % intervals over seeds",
        f"Four lines of the error while the teacher {words}: with a constant rate it stays or comes back low, with a "
        "falling one it comes late, and what was trained once drifts away.",
        xlabel="part of the stream gone by, %",
        ylabel="error, relative to answering 0",
        logy=True,
    )
