"""Layers, losses, optimizers, and pytrees that belong together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnn.checks.numbers import count, shown
from fnn.types import Activation, Layer, Loss, Optimizer, Reading, Trainer


def is_layer(where: str, value: Any) -> None:
    """A layer, with a hint for the two things most often passed in its place."""
    if isinstance(value, Layer):
        return
    hint = "make one by a factory: dense(10, tanh)"
    if callable(value):
        hint = "call the factory (dense(10, tanh), not dense), or wrap a function in from_function"
    elif isinstance(value, Activation):
        hint = f"an activation becomes a layer by activate({value})"
    elif isinstance(value, Loss):
        hint = "a loss is no part of the network: give it to trainer, objective or backprop"
    elif isinstance(value, list | tuple):
        hint = f"unpack a sequence of layers: {where}(*layers)"
    raise TypeError(f"{where} takes layers, got {shown(value)}; {hint}")


def is_trainer(where: str, value: Any) -> None:
    """A trainer, which comes first and the state second."""
    if not isinstance(value, Trainer):
        raise TypeError(
            f"{where} expects a Trainer as its first argument, got {type(value).__name__}; make one by "
            f"trainer(net, loss, optimizer) and call {where}(trainer, state, data, …)"
        )


def are_layers(where: str, values: Sequence[Any]) -> None:
    """Layers, each of them."""
    for value in values:
        is_layer(where, value)


def is_loss(value: Any) -> None:
    """A loss, with a hint for a plain function."""
    if not isinstance(value, Loss):
        raise TypeError(
            f"loss must be an fnn Loss such as fnn.softmax_cross_entropy, got {shown(value)}; "
            "make your own by Loss(label, value, slope, curvature)"
        )


def is_optimizer(where: str, value: Any) -> None:
    """Anything with init and update: fnn's own pairs and optax's."""
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise TypeError(
            f"{where} takes optimizers, pairs with .init and .update, got {shown(value)}; "
            "call the factory first: adam(1e-3), not adam"
        )


def role(optimizer: Any) -> tuple[str | None, str | None]:
    """At which leaves an optimizer takes gradients and makes steps of them; None, None of pairs that are not fnn's."""
    return (optimizer.takes, optimizer.steps) if isinstance(optimizer, Optimizer) else (None, None)


def takes_gradients_first(where: str, optimizers: Sequence[Any]) -> None:
    """None that takes gradients stands behind one that has made steps of them, at any leaf for certain."""
    made: dict[str | None, Any] = {}
    for optimizer in optimizers:
        takes, steps = role(optimizer)
        earlier = made.get("all", made.get("some") if takes == "all" else None)
        if takes and earlier is not None:
            raise ValueError(
                f"{where} expects gradients to reach {optimizer}, got the steps of {earlier}, whose minus sign is "
                f"inside; {'leave out one of the two' if steps else f'put {optimizer} before {earlier}'}"
            )
        if steps:
            made.setdefault(steps, optimizer)


def makes_steps(where: str, optimizer: Any) -> None:
    """An optimizer, and no transform alone, whose updates are gradients still: added to the weights, they climb."""
    is_optimizer(where, optimizer)
    takes, steps = role(optimizer)
    if takes and not steps:
        raise ValueError(
            f"{where} expects an optimizer that makes steps, got {optimizer}, whose updates are gradients still and "
            f"would climb; put one behind it: chain({optimizer}, sgd(0.1))"
        )


def is_activation(where: str, value: Any) -> None:
    """An activation with its derivatives."""
    if not isinstance(value, Activation):
        raise TypeError(
            f"{where} takes an fnn Activation such as fnn.tanh, got {shown(value)}; a function of your own needs "
            "its derivatives: Activation(label, value, slope, curvature)"
        )


def is_function(name: str, value: Any) -> None:
    """A function of the user's."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {shown(value)}")


def is_state(where: str, state: Any, kind: type) -> None:
    """The state of one certain optimizer."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{where} takes a {kind.__name__}, got {type(state).__name__}; the state of a chain is a tuple, "
            "pass the part that belongs to it"
        )


def per_object_readable(where: str, read: Reading) -> None:
    """A layer that couples the objects of a batch has no per-object contributions to read."""
    if not read.linear:
        raise ValueError(
            f"{where} couples the objects of a batch, so the reading '{read}' of single objects has no meaning "
            "through it; read `gradient`, or take the network in its application stage, fnn.applied(net)"
        )


def couples_objects(where: str) -> ValueError:
    """What a layer says that has no second derivatives of one object alone."""
    return ValueError(
        f"{where} couples the objects of a batch in training, so there are no second derivatives of single objects to "
        "carry through it; take them in the application stage, of fnn.applied(net)"
    )


def curve_of(layer: Layer) -> Callable[..., Any]:
    """The layer's `curve`, which a layer of the user's may lack."""
    if layer.curve is None:
        raise ValueError(
            f"{layer} has no `curve`, the walk that carries second derivatives; write one (see fnn.Layer), or make the "
            "layer by from_function, whose second derivatives are automatic"
        )
    return layer.curve


def is_reading(value: Any) -> None:
    """A reading, with a hint for its name."""
    if not isinstance(value, Reading):
        raise TypeError(f"read must be a Reading such as fnn.gradient or fnn.per_object, got {shown(value)}")


def is_initializer(name: str, value: Any) -> None:
    """A function (key, shape, dtype) -> array, with a hint for a factory that was not called."""
    try:
        inspect.signature(value).bind("key", "shape", "dtype")
    except TypeError:
        called = getattr(value, "__name__", None)
        hint = f"call the factory: {name}={called}()" if callable(value) else "take one such as fnn.he()"
        expected = "an initializer (key, shape, dtype) -> array"
        raise TypeError(f"{name} must be {expected}, got {shown(value)}; {hint}") from None


def no_bias_to_draw(where: str, b: Any, bias: Any) -> None:
    """First values for biases only where there are biases."""
    if not bias and b is not None:
        raise ValueError(f"{where} has no bias that b could draw, got b={b!r} with bias=False; leave out one of them")


def parts(where: str, expected: int, **trees: Any) -> None:
    """The params and the state of a composite are plain tuples with one entry a part."""
    for name, tree in trees.items():
        takes = f"{where} has {expected} parts and takes its {name} as a tuple of as many"
        if type(tree) is not tuple:
            raise TypeError(f"{takes}, got {type(tree).__name__}; pass the {name} that its own init made")
        if len(tree) != expected:
            raise ValueError(f"{takes}, got {len(tree)} entries; pass the {name} that its own init made")


def floats(where: str, name: str, tree: Any) -> None:
    """A pytree whose leaves are arrays of floats."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{where} expects {name} of floats, got {jnp.result_type(leaf)} at {name}{jax.tree_util.keystr(path)}; "
                "leave out what is not trained, or convert by astype"
            )


def slices(where: str, pairs: Sequence[Any]) -> None:
    """Pairs (number of features, layer), at least one."""
    if not pairs:
        raise ValueError(f"{where} needs at least one pair (number of features, layer), got none")
    for pair in pairs:
        if not isinstance(pair, tuple) or isinstance(pair, Layer) or len(pair) != 2:
            raise TypeError(f"{where} takes pairs (number of features, layer), got {shown(pair)}")
        count(f"{where}: number of features", pair[0])
        is_layer(where, pair[1])


def keeps_shape(where: str, x: Any, y: Any) -> None:
    """A layer around which, or after which, its own input must fit."""
    if x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(
            f"{where} needs a layer that keeps the shape, got {x.shape} {x.dtype} in and {y.shape} {y.dtype} out; "
            f"make its last layer {x.shape[-1]} wide"
        )


def same_structure(where: str, name: str, value: Any, like_name: str, like: Any) -> None:
    """Two pytrees of one structure and the same leaf shapes."""
    if jax.tree.structure(value) != jax.tree.structure(like):
        raise ValueError(
            f"{where}: {name} and {like_name} differ in structure:\n  {name}: {jax.tree.structure(value)}\n"
            f"  {like_name}: {jax.tree.structure(like)}\ngive {name} the structure of {like_name}"
        )
    for (path, v), k in zip(jax.tree.leaves_with_path(value), jax.tree.leaves(like), strict=True):
        if jnp.shape(v) != jnp.shape(k):
            at = jax.tree_util.keystr(path)
            place = f"{name}{at}" if at[:1] in ("", "[", ".") else f"{name} at {at}"
            raise ValueError(f"{where}: {place} has shape {jnp.shape(v)}, and {like_name} has {jnp.shape(k)} there")


def closes_over_no_tracer(where: str, constants: Sequence[Any]) -> None:
    """What an experiment closes over: arrays, and no tracer of a `vmap` or `grad` around it."""
    if any(isinstance(constant, Tracer) for constant in constants):
        raise TypeError(
            f"{where}: the experiment closes over a traced value; put jax.jit around what traces it, "
            "jax.vmap(jax.jit(...)), or pass it as a hyper-parameter"
        )


def float_dtype(where: str, dtype: Any) -> np.dtype:
    """A dtype of floats."""
    try:
        known = None if dtype is None else jnp.dtype(dtype)  # NumPy takes None for float64
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise TypeError(f"{where} needs a dtype of floats, such as jnp.bfloat16 or jnp.float32, got {shown(dtype)}")
    return known


def is_mask(where: str, mask: Any, tree: Any) -> None:
    """A mask holds one bool for each leaf."""
    if jax.tree.structure(mask) != jax.tree.structure(tree):
        raise ValueError(
            f"{where} takes a mask in the structure of the params:\n  mask:   {jax.tree.structure(mask)}\n"
            f"  params: {jax.tree.structure(tree)}\nmake it by jax.tree.map, or pass a function such as weights_only"
        )
    strange = [leaf for leaf in jax.tree.leaves(mask) if not isinstance(leaf, bool | np.bool_)]
    if strange:
        raise TypeError(f"{where} takes a mask of bools, got {strange[0]!r}")


def needs_params(where: str, params: Any) -> None:
    """An optimizer's update that looks at the weights must be given them."""
    if params is None:
        raise ValueError(f"{where} looks at the weights: call update(gradient, state, params)")
