"""A network that has learned a table, as two files: its weights, and all that turns rows of a table into its inputs."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments.tables.columns import Numbers, Words
from experiments.tables.errors import Unreadable
from experiments.tables.numbers import Written
from experiments.tables.table import Table
from experiments.tables.training import Length, Method, loss_of, network, outputs_of

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
KINDS = {"numbers": Numbers, "words": Words}


class Model(NamedTuple):
    """A network of dense layers with its columns and its answer."""

    label: str
    """the table it learned"""
    columns: tuple[Numbers | Words, ...]
    named: bool
    """whether that table names its columns"""
    answer: str
    classes: tuple[str, ...]
    """none where the answer is a number"""
    mean: float
    scale: float
    """a number is mean + scale · output"""
    hidden: tuple[int, ...]
    params: Any
    """of `network(hidden, outputs)`"""

    @property
    def features(self) -> int:
        """How many inputs it has."""
        return sum(column.features for column in self.columns)

    @property
    def net(self) -> fnn.Layer:
        """The network without its weights."""
        return network(self.hidden, len(self.classes) or 1)


def fitted(table: Table, method: Method, rate: float, steps: int, length: Length) -> Model:
    """A method trained on all examples of a table."""
    net = network(method.hidden, outputs_of(table), method.p)
    learn = fnn.trainer(net, loss_of(table), method.optimizer(jnp.float32(rate)), batch_size=length.batch)
    examples = jnp.asarray(table.x), jnp.asarray(table.y)
    state, _ = fnn.train(learn, learn.init(jax.random.key(2026), examples), examples, steps)
    params = tuple(part for part in state.params if jax.tree.leaves(part))  # Dropout has none
    answer = table.answer
    return Model(
        table.label, tuple(table.taken), table.named, answer.name, answer.classes, answer.mean, answer.scale,
        method.hidden, params,
    )  # fmt: skip


def predicted(model: Model, x: np.ndarray) -> np.ndarray:
    """For features [rows, features] the probabilities [rows, classes], or the numbers [rows]."""
    net = model.net
    _, state = jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, model.features), jnp.float32))
    a = net.apply(model.params, state, jnp.asarray(x))
    if model.classes:
        return np.asarray(jax.nn.softmax(a, axis=1))
    return model.mean + model.scale * np.asarray(a[:, 0], np.float64)


def files(model: Model) -> dict[str, bytes]:
    """The model as files by their names; the description has the hash of the weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        fnn.training.save(path, model.params)
        weights = path.read_bytes()
    plain = model._asdict() | {
        "columns": [_plain(column) for column in model.columns],
        "sha256": hashlib.sha256(weights).hexdigest(),
    }
    del plain["params"]
    return {WEIGHTS: weights, DESCRIPTION: json.dumps(plain, indent=1, ensure_ascii=False).encode("utf-8") + b"\n"}


def load(folder: Path) -> Model:
    """The model of a report.

    Raises:
        Unreadable: there is none, or it is damaged.
    """
    try:
        plain = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest() != plain.pop("sha256"):
            raise ValueError(f"{WEIGHTS} is not the one that {DESCRIPTION} describes")
        plain["columns"] = tuple(_column(column) for column in plain["columns"])
        for key in ("classes", "hidden"):
            plain[key] = tuple(plain[key])
        model = Model(**plain, params=None)
        x = jax.ShapeDtypeStruct((1, model.features), jnp.float32)
        like, _ = jax.eval_shape(model.net.init, jax.random.key(0), x)
        return model._replace(params=fnn.training.load(folder / WEIGHTS, like))
    except FileNotFoundError as error:
        do = "Make it by python -m experiments --data TABLE --out FOLDER"
        raise Unreadable(
            f"{folder}: expected a report of a table with its model, got no {Path(error.filename).name}. {do}."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{folder}: its model is damaged: {str(error).splitlines()[0]}") from None


def _plain(column: Numbers | Words) -> dict[str, Any]:
    kind = next(kind for kind, of in KINDS.items() if isinstance(column, of))
    plain = column._asdict()
    if isinstance(column, Numbers):
        plain["written"] = column.written._asdict()
    return {"kind": kind} | plain


def _column(plain: dict[str, Any]) -> Numbers | Words:
    kind = KINDS[plain.pop("kind")]
    tuples: dict[str, Any] = {
        key: tuple(of) for key, of in plain.items() if isinstance(of, Sequence) and not isinstance(of, str)
    }
    written = {"written": Written(**plain["written"])} if "written" in plain else {}
    return kind(**(plain | tuples | written))
