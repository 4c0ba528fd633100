"""Learning from a stream that changes, and what a falling rate costs there.

Command: ``python -m experiments drift``; 40 seconds on two CPU cores. Expect
an error of 1e-3 where the teacher turns, by a constant η and by a falling one that hardly falls, and of 3 without
learning.
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
RATES, OF_ADAM, SPANS = (0.01, 0.02, 0.05, 0.1), (0.001, 0.003, 0.01, 0.03), (20, 200, 2000)
"""rates η to choose from; a falling one is η/(1 + k/K), with K of SPANS"""
CONSTANT, FALLING, ADAM, ONCE = WAYS = ("constant η", "falling η", "Adam, constant η", "trained once")
LATE = RECORDS // 4
"""the records of the last quarter"""
Found = dict[str, dict[str, np.ndarray]]
"""by the kind of the stream and the way of learning, errors [seeds, records]"""


EQUATION = r"""w \coloneqq w - \eta_k g, \quad \eta_k = \eta \text{ or } \frac{\eta}{1 + k/K}"""
LEAD = (
    f"A stream of examples has {FEATURES} features and a number that a linear teacher gives, with a little noise. The "
    "teacher stays as it is, turns by half a circle until the end, or is replaced by another in the middle. A linear "
    f"student takes a gradient step for each batch of {BATCH}, {{steps}} in all: with a constant η, with one that "
    "falls as 1/k, or by Adam, each at the best of {rates} rates on that stream, a falling one with the best of "
    "{spans} $K$; for comparison it learns in the first quarter only, with a constant η, and is kept. The error is the "
    "mean squared difference from the teacher of the moment, over that of answering 0."
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
    why="After a jump in the middle the best of the falling rates is one that hardly falls.",
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
ADAPTIVE = r.Claim(
    "Adam follows a teacher that turns as well as SGD: its error in the last quarter is no larger.",
    why="Adam's G remembers a thousand steps, and its steps are of about the same size however wrong the student is.",
    quantity="error, Adam less SGD",
)


def angle(kind: jax.Array, time: jax.Array) -> jax.Array:
    """How far the teacher has turned at a time from 0 to 1, in the stream KINDS[kind]."""
    return jnp.stack([jnp.zeros_like(time), jnp.pi * time, jnp.where(time < 0.5, 0.0, jnp.pi / 2)])[kind]


def experiment_with(make: Callable[..., fnn.Optimizer], steps: int) -> Callable[..., jax.Array]:
    """The pure experiment ``(key, kind, eta, span, until) -> errors [records]`` of a student in a stream.

    Its rate is eta/(1 + k/span) in step k, and it learns in the part `until` of the steps.
    """

    def experiment(key: jax.Array, kind: jax.Array, eta: jax.Array, span: jax.Array, until: jax.Array) -> jax.Array:
        optimizer = make(lambda k: eta / (1 + jnp.asarray(k, jnp.float32) / span))
        learn = fnn.trainer(fnn.linear(1, bias=False), fnn.squared, optimizer, batch_size=BATCH)
        key_teacher, key_stream, key_test, key_run = jax.random.split(key, 4)
        both = jax.random.normal(key_teacher, (2, FEATURES), jnp.float32)
        stop = jnp.asarray(until * steps, jnp.int32)
        first = both[0] / jnp.linalg.norm(both[0])
        across = both[1] - jnp.sum(both[1] * first) * first
        second = across / jnp.linalg.norm(across)
        test = jax.random.normal(key_test, (HELD_OUT, FEATURES), jnp.float32)

        def teacher(k: jax.Array) -> jax.Array:
            turned = angle(kind, k.astype(jnp.float32) / steps)
            return jnp.cos(turned) * first + jnp.sin(turned) * second

        def batch(k: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn = jax.random.normal(jax.random.fold_in(key_stream, k), (BATCH, FEATURES + 1), jnp.float32)
            return drawn[:, :-1], drawn[:, :-1] @ teacher(k)[:, None] + NOISE * drawn[:, -1:]

        def step(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, None]:
            learned, _ = learn.update(state, batch(state.step))
            kept = state._replace(step=learned.step)  # nothing is learned, but time goes on
            return jax.tree.map(lambda a, b: jnp.where(state.step < stop, a, b), learned, kept), None

        def record(state: fnn.TrainState, _: None) -> tuple[fnn.TrainState, jax.Array]:
            state, _ = jax.lax.scan(step, state, length=steps // RECORDS)
            truth, said = test @ teacher(state.step - 1), test @ state.params["w"][:, 0]
            return state, jnp.mean(jnp.square(said - truth)) / jnp.mean(jnp.square(truth))

        return jax.lax.scan(record, learn.init(key_run, batch(jnp.zeros((), jnp.int32))), length=RECORDS)[1]

    return experiment


def at_best(errors: np.ndarray) -> np.ndarray:
    """Of errors [seeds, candidates, records] those of the candidate with the least in the last quarter."""
    return errors[:, np.nan_to_num(errors[..., -LATE:], nan=np.inf).mean(axis=(0, 2)).argmin()]


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Learn from every stream in every way, judge and draw."""
    steps, rates, of_adam, spans = settings.pick(
        quick=(400, RATES[1:3], OF_ADAM[2:], SPANS[:2]), full=(2000, RATES, OF_ADAM, SPANS)
    )
    candidates = {
        CONSTANT: (fnn.sgd, [(eta, np.inf, 1.0) for eta in rates]),
        FALLING: (fnn.sgd, [(eta, span, 1.0) for eta in rates for span in spans]),
        ADAM: (fnn.adam, [(eta, np.inf, 1.0) for eta in of_adam]),
        ONCE: (fnn.sgd, [(eta, np.inf, 0.25) for eta in rates]),
    }
    found: Found = {kind: {} for kind in KINDS}
    for way, (make, tried) in candidates.items():
        log(f"{settings.seeds} seeds × {len(KINDS)} streams × {len(tried)} rates: {way}")
        experiment = experiment_with(make, steps)
        errors = r.sweep_seeds(
            lambda key, kind, tried, of=experiment: of(key, kind, *tried), settings, kind=range(len(KINDS)), tried=tried
        )
        for i, kind in enumerate(KINDS):
            found[kind][way] = at_best(errors[:, i])
    return r.Outcome(
        LEAD.format(steps=steps, rates=len(rates), spans=len(spans)),
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
    changing = ("turning", "jump")
    return [
        r.at_most(FOLLOWS, 0.1, late["turning"][CONSTANT]),
        r.at_least(STALE, 1, {kind: late[kind][ONCE] for kind in changing}),
        r.smaller(FALLS, {kind: (late[kind][CONSTANT], late[kind][FALLING]) for kind in changing}),
        r.smaller(STILL, {"": (late["still"][FALLING], late["still"][CONSTANT])}),
        r.at_most(RECOVERS, 0.05, found["jump"][CONSTANT][:, 3 * RECORDS // 4 - 1]),
        r.smaller(ADAPTIVE, {"": (late["turning"][ADAM], late["turning"][CONSTANT])}, or_equal=True),
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
        f"Four lines of the error while the teacher {words}: those that learn all the time stay "
        "or come back low, close to one another, and the one that was trained once rises to 1 and beyond.",
        xlabel="part of the stream gone by, %",
        ylabel="error, relative to answering 0",
        logy=True,
    )
