"""The networks that are tried on a user's table, each over many splits and learning rates in one compiled sweep."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments import data
from experiments import report as r
from experiments.tables.table import Table

WIDTH, HELD_OUT, CONFUSABLE = 64, 0.15, 12
"""hidden units of a layer; shares of validation and test examples; classes up to which mistakes are counted by pairs"""
ADAM, MOMENTUM = (0.001, 0.003, 0.01), (0.03, 0.1, 0.3)
"""learning rates"""


class Method(NamedTuple):
    """A network and how it learns."""

    name: str
    """such as "64–64, Adam": the units of its hidden layers, and what trains it"""
    hidden: tuple[int, ...]
    """units of each hidden layer of ReLU"""
    optimizer: Callable[[jax.Array], fnn.Optimizer]
    """of the learning rate"""
    rates: tuple[float, ...]
    p: float = 0.0
    """of Dropout after each hidden layer"""


def _decaying(eta: jax.Array) -> fnn.Optimizer:
    return fnn.optimizers.decoupled_decay(fnn.adam(eta), eta, 0.1, fnn.weights_only)


ONE, TWO = (WIDTH,), (WIDTH, WIDTH)
METHODS = (
    Method("linear, Adam", (), fnn.adam, (0.003, 0.01, 0.03)),
    Method(f"{WIDTH}, Adam", ONE, fnn.adam, ADAM),
    Method(f"{WIDTH}–{WIDTH}, momentum", TWO, fnn.momentum, MOMENTUM),
    Method(f"{WIDTH}–{WIDTH}, Adam, Dropout", TWO, fnn.adam, ADAM, p=0.3),
    Method(f"{WIDTH}–{WIDTH}, RMSProp", TWO, fnn.rmsprop, (0.0003, 0.001, 0.003)),
    Method(f"{WIDTH}–{WIDTH}, Adam", TWO, fnn.adam, ADAM),
    Method(f"{WIDTH}–{WIDTH}, Adam, decay", TWO, _decaying, ADAM),
)
"""in a quick run the first four"""
QUICK = 4


class Length(NamedTuple):
    """How long networks train."""

    steps: int
    points: int
    """how often they are looked at"""
    batch: int

    @classmethod
    def of(cls, settings: r.Settings, examples: int) -> Length:
        """For a table of so many examples: larger batches of more."""
        return cls(*settings.pick(quick=(300, 10), full=(3000, 30)), 32 if examples < 5000 else 128)

    @property
    def every(self) -> int:
        """Steps from one look to the next."""
        return self.steps // self.points


class Tried(NamedTuple):
    """What a method reached at its best learning rate, stopped early: each where its validation loss was lowest."""

    method: Method
    rate: float
    steps: np.ndarray
    """until the lowest validation loss [seeds]"""
    validation: np.ndarray
    """the lowest validation losses [seeds]"""
    errors: np.ndarray
    """on test examples [seeds]: the share of wrong classes, or the root mean square error in units of the answer"""
    r2: np.ndarray
    """1 − Σ(a − y)²/Σ(y − ȳ)² on test examples [seeds], where the answer is a number"""
    confusion: np.ndarray
    """test examples [seeds, classes, classes] by their class and the predicted one; empty of more than CONFUSABLE"""
    curve: np.ndarray
    """validation losses [seeds, points]"""


def network(hidden: tuple[int, ...], outputs: int, p: float = 0.0) -> fnn.Layer:
    """Hidden layers of ReLU, with inverted Dropout after each if p > 0, and a linear one."""
    parts = []
    for width in hidden:
        parts.append(fnn.dense(width, fnn.relu, w=fnn.nn.he()))
        if p:
            parts.append(fnn.inverted_dropout(p))
    return fnn.serial(*parts, fnn.linear(outputs))


def loss_of(table: Table) -> fnn.Loss:
    """What the networks minimise."""
    return fnn.softmax_cross_entropy if table.answer.classes else fnn.squared


def outputs_of(table: Table) -> int:
    """How many outputs a network has: one for each class."""
    return len(table.answer.classes) or 1


def sizes(examples: int) -> tuple[int, int]:
    """How many examples are test ones, and how many are for validation."""
    held = round(HELD_OUT * examples)
    return held, held


def order_of(key: jax.Array, y: jax.Array, classes: int) -> jax.Array:
    """The examples [n] in a random order in which every class is spread evenly, so that each part has its share.

    Equation: example i of class c, the k-th of its n_c by chance, stands at (k + u_c)/n_c, u_c uniform in [0, 1).
    """
    if not classes:
        return jax.random.permutation(key, len(y))
    of_examples, of_classes = jax.random.split(key)
    by_class = jnp.lexsort((jax.random.uniform(of_examples, y.shape, jnp.float32), y))
    counts = jnp.bincount(y, length=classes).astype(jnp.int32)
    c = y[by_class]
    k = jnp.arange(len(y), dtype=jnp.int32) - (jnp.cumsum(counts, dtype=jnp.int32) - counts)[c]
    u = jax.random.uniform(of_classes, (classes,), jnp.float32)[c]
    return by_class[jnp.argsort((k.astype(jnp.float32) + u) / counts[c].astype(jnp.float32))]


def parts_of(key: jax.Array, table: Table) -> list[jax.Array]:
    """The numbers of the examples for test, for validation and for training."""
    order = order_of(key, jnp.asarray(table.y), len(table.answer.classes))
    return jnp.split(order, np.cumsum(sizes(len(table.x))))


def splits(table: Table, settings: r.Settings) -> list[tuple[np.ndarray, ...]]:
    """The parts of each seed, the same as in `tried`."""
    found = r.sweep_seeds(lambda key: tuple(parts_of(jax.random.split(key)[0], table)), settings)
    return list(zip(*found, strict=True))


def tried(method: Method, table: Table, settings: r.Settings, length: Length) -> Tried:
    """A method on all splits at all its learning rates; the rate has the lowest mean validation loss."""
    rates = settings.pick(quick=method.rates[1:], full=method.rates)
    found = r.sweep_seeds(_experiment(method, table, length), settings, eta=rates)
    losses = np.where(np.isfinite(found["loss"]), found["loss"], np.finfo(np.float32).max / 1e6)
    best = r.best(-losses.min(axis=2))
    point = losses[:, best].argmin(axis=1)
    seeds = np.arange(settings.seeds)
    at_best = {name: values[seeds, best, point] for name, values in found.items()}
    return Tried(
        method,
        rates[best],
        (point + 1) * length.every,
        losses[seeds, best, point],
        _exact(at_best["error"], table),
        at_best["r2"],
        at_best["confusion"],
        found["loss"][:, best],
    )


def _exact(errors: np.ndarray, table: Table) -> np.ndarray:
    """Errors in float64; shares to the last digit, so that equal ones are equal."""
    if not table.answer.classes:
        return np.nan_to_num(errors.astype(np.float64), nan=np.inf)
    test, _ = sizes(len(table.x))
    return np.round(errors * test) / test


def _experiment(method: Method, table: Table, length: Length) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key, eta) -> what is seen at each point``."""
    classes, loss = len(table.answer.classes), loss_of(table)
    net = network(method.hidden, outputs_of(table), method.p)
    x, y = jnp.asarray(table.x), jnp.asarray(table.y)

    def experiment(key: jax.Array, eta: jax.Array) -> dict[str, jax.Array]:
        key_split, key_run = jax.random.split(key)
        test, validation, train = ((x[part], y[part]) for part in parts_of(key_split, table))

        def looked(state: fnn.TrainState) -> dict[str, jax.Array]:
            a, b = (net.apply(state.params, state.layer_state, part[0]) for part in (validation, test))
            seen = {"loss": jnp.mean(loss.value(a, validation[1]))}
            return seen | (_of_classes(b, test[1], classes) if classes else _of_numbers(b, test[1], table.answer.scale))

        learn = fnn.trainer(net, loss, method.optimizer(eta), batch_size=length.batch)
        start = learn.init(key_run, train)
        _, records = fnn.train(learn, start, train, length.steps, every=length.every, validate=looked)
        return records["validation"]

    return experiment


def _of_classes(a: jax.Array, y: jax.Array, classes: int) -> dict[str, jax.Array]:
    predicted = jnp.argmax(a, axis=1)
    pairs = jnp.zeros((classes, classes) if classes <= CONFUSABLE else (0, 0), jnp.int32)
    if classes <= CONFUSABLE:
        pairs = pairs.at[y, predicted].add(1)
    return {"error": 1 - data.accuracy(a, y), "r2": jnp.zeros((), jnp.float32), "confusion": pairs}


def _of_numbers(a: jax.Array, y: jax.Array, scale: float) -> dict[str, jax.Array]:
    square = jnp.mean((a - y) ** 2)
    r2 = 1 - square / jnp.mean((y - jnp.mean(y)) ** 2)
    return {"error": scale * jnp.sqrt(square), "r2": r2, "confusion": jnp.zeros((0, 0), jnp.int32)}
