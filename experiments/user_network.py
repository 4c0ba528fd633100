"""Networks, losses and random batches to look at: the experiments' own, or a user's from the command line."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import fnn
from fnn import Layer, Loss
from fnn.nn import iter_layers
from fnn.testing import Law, Laws, Outcome, check_layer

OTHERS = str(Path(__file__).parent), str(Path(fnn.__file__).parent), sysconfig.get_path("stdlib"), "<"
"""Where files lie that are not the user's."""


class Refused(ValueError):
    """What a user gave cannot be taken: one line that says why."""


class Problem(NamedTuple):
    """A network, its loss and one batch."""

    label: str
    net: Layer
    loss: Loss
    batch: tuple[jax.Array, jax.Array]


def batch(loss: Loss, key: jax.Array, examples: int, features: int, outputs: int) -> tuple[jax.Array, jax.Array]:
    """Random examples [examples, features] and targets of the kind a loss takes; real numbers for your own loss."""
    key_x, key_y = jax.random.split(key)
    x = jax.random.normal(key_x, (examples, features), jnp.float32)
    if loss.label == "softmax_cross_entropy":
        return x, jax.random.randint(key_y, (examples,), 0, outputs, jnp.int32)
    if loss.label.endswith("margin"):
        return x, 2 * jax.random.bernoulli(key_y, 0.5, (examples, outputs)).astype(jnp.int32) - 1
    if loss.label == "binary_cross_entropy":
        return x, jax.random.bernoulli(key_y, 0.5, (examples, outputs)).astype(jnp.int32)
    return x, jax.random.normal(key_y, (examples, outputs), jnp.float32)


def load(network: str, loss: str, features: int, examples: int) -> Problem:
    """A user's network with a loss and a random batch.

    Args:
        network: "module:name" of a layer, or of a function without arguments that makes one.
        loss: a loss of fnn by name, or "module:name" of your own.
        features: of the examples.
        examples: in the batch.

    Returns:
        What is to be looked at.

    Raises:
        Refused: a module or a name that is not there, what is no layer or no loss, sizes below 1, and whatever the
            network or the loss raises in a step of training.
    """
    if features < 1 or examples < 1:
        raise Refused(f"--features and --examples must be 1 or more, got {features} and {examples}")
    net = _named(network)
    if callable(net) and not isinstance(net, Layer):
        net = tried(f"--network {network}, called without arguments,", net)
    if not isinstance(net, Layer):
        raise Refused(f"--network {network} is a {type(net).__name__}; expected an fnn.Layer, or a function of one")
    function = _named(loss) if ":" in loss else getattr(fnn, loss, None)
    if not isinstance(function, Loss):
        known = [name for name in fnn.__all__ if isinstance(getattr(fnn, name), Loss)]
        raise Refused(f"--loss {loss} is no loss; expected one of {', '.join(known)}, or MODULE:NAME of your own")
    given = f"--network {network}, given {examples} examples of {features} features,"
    x, key = jax.ShapeDtypeStruct((examples, features), jnp.float32), jax.random.key(0)
    outputs = tried(given, lambda: jax.eval_shape(lambda x: net.apply(*net.init(key, x), x), x).shape[-1])
    problem = Problem(network, net, function, batch(function, key, examples, features, outputs))
    step = lambda xy: fnn.backprop(net, function)(*net.init(key, xy[0]), xy, key)  # noqa: E731
    tried(f"{given} in training with --loss {loss}", jax.eval_shape, step, problem.batch)
    return problem


def laws_of(given: Problem, at: tuple[Any, ...], log: Callable[[str], None]) -> dict[str, Laws]:
    """The laws of each layer on what it meets in the network; of the whole network too, if no layer breaks one."""
    readings = jax.jit(fnn.backprop(fnn.watch(given.net), given.loss))(*at)[1]
    seen = jax.tree.leaves_with_path(readings, is_leaf=lambda node: isinstance(node, fnn.nn.LayerRecord))
    found = {}
    for (path, one), layer in zip(seen, iter_layers(given.net), strict=True):
        name = f"{jax.tree_util.keystr(path)} {layer}".strip()
        log(f"laws of {name}")
        found[name] = _asked(layer, one.x.reshape(-1, *one.x.shape[-2:])[0])  # of `repeat` the first copy
    if given.net.children and all(laws.passed for laws in found.values()):
        found["the network"] = _asked(given.net, given.batch[0])
    return found


def _asked(layer: Layer, x: jax.Array) -> Laws:
    """What `check_layer` finds on a few examples; where it takes none of them, why."""
    try:
        return check_layer(layer, x[:4])
    except (TypeError, ValueError) as refused:
        return Laws(str(layer), (Law("none", Outcome.SKIPPED, str(refused)),))


def tried(what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function that runs a user's code returns.

    Raises:
        Refused: it raised something.
    """
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise Refused(f"{what} raises {_said(error)}") from error


def _said(error: Exception) -> str:
    """The type, the first line of the message, and the line of the user's own code where the exception passed last."""
    said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    passed = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in passed if not file.startswith(OTHERS) and "-packages" not in file]
    return said + "".join(f" ({Path(file).name}, line {line})" for file, line in own[-1:])


def _named(spec: str) -> Any:
    module, _, name = spec.partition(":")
    if not name:
        raise Refused(f"{spec} names no example; expected MODULE:NAME, such as my_module:net")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Refused(f"{spec} cannot be loaded: {error}; run from the folder where {module}.py lies") from error
    except Exception as error:
        raise Refused(f"{spec} cannot be loaded: {_said(error)}") from error
