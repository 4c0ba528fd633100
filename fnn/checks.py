"""Every check and every error message: what was expected, what came, and what to do.

Shapes and dtypes are checked at trace time. Values (rates, labels, NaN) can only be checked where they
are concrete; a traced value passes, and where it matters the numerics then answer with NaN instead
of a plausible number. Only this module and the tests use chex.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnn.types import Layer, Loss, Reading


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where it is traced and cannot be looked at."""
    return None if isinstance(value, Tracer) else np.asarray(value)


def number(name: str, value: Any, allowed: Callable[[Any], Any], expected: str) -> None:
    """A hyper-parameter is a scalar in its range; tracers are taken on trust, schedules are not."""
    if callable(value):
        raise TypeError(f"{name} must be {expected}, got a function; only a learning rate may be one")
    if np.ndim(value) != 0:
        raise ValueError(
            f"{name} must be one number, {expected}, got an array of shape {np.shape(value)}; "
            "to try several values, build the optimizer or network inside the function that jax.vmap "
            "or fnn.sweep maps"
        )
    known = concrete(value)
    if known is None:
        return
    if known.dtype == bool or not (np.issubdtype(known.dtype, np.number) or known.dtype.kind == "V"):
        raise TypeError(f"{name} must be a number, {expected}, got {value!r}")
    if not allowed(float(known)):
        raise ValueError(f"{name} must be {expected}, got {value!r}")


def fraction(name: str, value: Any) -> None:
    """A probability or decay in [0, 1)."""
    number(name, value, lambda v: 0 <= v < 1, "in [0, 1)")


def positive(name: str, value: Any) -> None:
    """A finite number above zero."""
    number(name, value, lambda v: 0 < v < np.inf, "a finite number > 0")


def not_negative(name: str, value: Any) -> None:
    """A finite number, zero allowed."""
    number(name, value, lambda v: 0 <= v < np.inf, "a finite number >= 0")


def finite(name: str, value: Any) -> None:
    """A finite number of either sign."""
    number(name, value, np.isfinite, "a finite number")


def rate(name: str, value: Any) -> None:
    """A learning rate: a number or tracer, or a schedule from the step to one."""
    if not callable(value):
        not_negative(name, value)


def count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, returned as an int."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or whole < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    return whole


def is_layer(where: str, value: Any) -> None:
    """A layer, with a hint for the two things most often passed in its place."""
    if isinstance(value, Layer):
        return
    hint = ""
    if callable(value):
        hint = "; call the factory (dense(10, tanh), not dense), or wrap a function in from_function"
    elif hasattr(value, "slope"):
        hint = f"; an activation becomes a layer by activate({value})"
    raise TypeError(f"{where} takes layers, got {value!r}{hint}")


def is_loss(value: Any) -> None:
    """A loss, with a hint for a plain function."""
    if not isinstance(value, Loss):
        raise TypeError(
            f"loss must be an fnn Loss such as fnn.softmax_cross_entropy, got {value!r}; "
            "make your own by Loss(label, value, slope, curvature)"
        )


def is_optimizer(where: str, value: Any) -> None:
    """Anything with init and update: fnn's own pairs and optax's."""
    if not (callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))):
        raise TypeError(
            f"{where} takes optimizers, pairs with .init and .update, got {value!r}; "
            "call the factory first: adam(1e-3), not adam"
        )


def is_activation(where: str, value: Any) -> None:
    """An activation with its derivatives."""
    if not hasattr(value, "slope"):
        raise TypeError(
            f"{where} takes an fnn Activation such as fnn.tanh, got {value!r}; a function of your own needs "
            "its derivatives: Activation(label, value, slope, curvature)"
        )


def features(where: str, x: Any, width: int | None = None) -> None:
    """Objects as a batch [n, features] of floats, of the width the layer was made for."""
    shape, dtype = jnp.shape(x), jnp.result_type(x)
    try:
        chex.assert_rank(x, 2)
    except AssertionError:
        raise ValueError(
            f"{where} expects a batch [n, features], got shape {shape}; a single object needs a batch axis: x[None, :]"
        ) from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{where} expects floats, got {dtype}; convert by x.astype(jnp.float32)")
    if width is not None and shape[1] != width:
        raise ValueError(
            f"{where} was initialised for {width} features, got {shape[1]} (x has shape {shape}); "
            "initialise the network with an x of this width"
        )


def same_dtype(where: str, x: Any, params: Any) -> None:
    """One precision for objects and parameters: mixing them is said, never done in silence."""
    if x.dtype != params.dtype:
        raise TypeError(
            f"{where} has {params.dtype} parameters and got {x.dtype} objects; convert one: "
            f"x.astype(jnp.{params.dtype}), or initialise with an x of {x.dtype}"
        )


def scores(where: str, a: Any) -> None:
    """A network's output [n, M] of floats."""
    if jnp.ndim(a) != 2 or not jnp.issubdtype(jnp.result_type(a), jnp.floating):
        raise ValueError(
            f"{where} expects the network's output a as floats [n, M], got {jnp.result_type(a)} of shape {jnp.shape(a)}"
        )


def answers(where: str, a: Any, y: Any, allowed: Sequence[int] | None = None) -> None:
    """Answers [n, M] beside outputs [n, M]; for one output [n] will do; `allowed` names labels."""
    scores(where, a)
    wanted, shape = jnp.shape(a), jnp.shape(y)
    if shape != wanted and not (wanted[1] == 1 and shape == wanted[:1]):
        also = f" (or {wanted[:1]})" if wanted[1] == 1 else ""
        raise ValueError(f"{where} expects y of shape {wanted}{also} as the output a, got {shape}")
    known = concrete(y)
    if allowed is not None and known is not None and not np.isin(known, allowed).all():
        strange = np.unique(known[~np.isin(known, allowed)])[:5].tolist()
        raise ValueError(f"{where} expects labels in {set(allowed)}, got also {strange}")
    if allowed is None and jnp.result_type(y) != jnp.result_type(a):
        raise TypeError(
            f"{where} expects y of a's dtype {jnp.result_type(a)}, got {jnp.result_type(y)}; convert by y.astype"
        )


def classes(where: str, a: Any, y: Any) -> None:
    """Integer labels [n] in 0..M−1 beside logits [n, M]."""
    scores(where, a)
    n, m = jnp.shape(a)
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        raise TypeError(
            f"{where} expects integer labels, got {jnp.result_type(y)}; convert by y.astype(int), "
            "and one-hot rows by y.argmax(1)"
        )
    if jnp.shape(y) != (n,):
        raise ValueError(
            f"{where} expects one label per object, y of shape ({n},), got {jnp.shape(y)}; "
            "turn one-hot rows into labels by y.argmax(1), a column by y[:, 0]"
        )
    known = concrete(y)
    if known is not None and known.size and (known.min() < 0 or known.max() >= m):
        raise ValueError(
            f"{where} expects labels 0..{m - 1} for {m} outputs, got {known.min()}..{known.max()}; "
            "number the classes from 0 or widen the last layer"
        )


def data(x: Any, y: Any) -> int:
    """A sample (x, y) of equally many objects, not empty and, where it can be seen, free of NaN."""
    for name, part in (("x", x), ("y", y)):
        if not hasattr(part, "shape") or not part.shape:
            raise TypeError(f"data must be (x, y), two arrays, got {type(part).__name__} for {name}")
    size = x.shape[0]
    if size == 0:
        raise ValueError("data is empty: x has 0 objects; at least one is needed")
    if y.shape[0] != size:
        raise ValueError(f"data has {size} objects in x and {y.shape[0]} answers in y; they must pair")
    for name, part in (("x", x), ("y", y)):
        known = concrete(part)
        if known is not None and known.dtype.kind == "f" and not np.isfinite(known).all():
            bad = int((~np.isfinite(known.reshape(size, -1)).all(1)).sum())
            raise ValueError(f"data has NaN or infinity in {name} ({bad} of {size} objects); clean or impute first")
    return size


def per_object_readable(where: str, read: Reading) -> None:
    """A layer that couples the objects of a batch has no per-object contributions to read."""
    if not read.linear:
        raise ValueError(
            f"{where} couples the objects of a batch, so the reading '{read}' of single objects has no meaning "
            "through it; read `gradient`, or leave the layer out"
        )


def weight_shape(where: str, shape: tuple[int, ...]) -> tuple[int, int]:
    """The shape (inputs, outputs) of a weight matrix, neither of them empty."""
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"{where} fills weight matrices of shape (inputs, outputs), both >= 1, got {shape}")
    return shape[0], shape[1]


def error(where: str, got: Any, n: int, width: int) -> None:
    """The error that arrives at a layer has the shape of what the layer put out."""
    if jnp.shape(got) != (n, width):
        raise ValueError(
            f"{where}.backward expects an error of its output's shape {(n, width)}, got {jnp.shape(got)}; "
            "pass ∂L/∂y for the y of the forward pass that left this tape"
        )


def batch_of_several(where: str, x: Any) -> int:
    """Batch statistics need two objects or more."""
    if x.shape[0] < 2:
        raise ValueError(
            f"{where} takes statistics over a batch and needs at least 2 objects to train, got {x.shape[0]}; "
            "enlarge the batch, or use net.apply for the application stage"
        )
    return x.shape[0]


def parts(where: str, expected: int, params: Any) -> None:
    """The params of a composite hold one entry a part."""
    if not isinstance(params, tuple) or len(params) != expected:
        got = f"{len(params)} entries" if isinstance(params, tuple | list | dict) else type(params).__name__
        raise ValueError(
            f"{where} has {expected} parts and takes params as a tuple of as many, got {got}; "
            "pass the params that its own init made"
        )


def slices(where: str, pairs: Sequence[Any]) -> None:
    """Pairs (number of features, layer), at least one."""
    if not pairs:
        raise ValueError(f"{where} needs at least one pair (number of features, layer), got none")
    for pair in pairs:
        if not isinstance(pair, tuple) or isinstance(pair, Layer) or len(pair) != 2:
            raise TypeError(f"{where} takes pairs (number of features, layer), got {pair!r}")
        count(f"{where}: number of features", pair[0])
        is_layer(where, pair[1])


def keeps_shape(where: str, x: Any, y: Any) -> None:
    """A layer around which, or after which, its own input must fit."""
    if x.shape != y.shape or x.dtype != y.dtype:
        raise ValueError(
            f"{where} needs a layer that keeps the shape, got {x.shape} {x.dtype} in and {y.shape} {y.dtype} out; "
            f"make its last layer {x.shape[-1]} wide"
        )


def is_function(name: str, value: Any) -> None:
    """A function of the user's."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")


def batch(pair: Any) -> tuple[Any, Any]:
    """A batch (x, y) of equally many objects, at least one."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"a batch is a pair (x, y), got {type(pair).__name__}")
    x, y = pair
    if jnp.ndim(x) == 0 or jnp.ndim(y) == 0 or x.shape[0] != y.shape[0] or x.shape[0] == 0:
        raise ValueError(
            f"a batch holds as many objects as answers, at least one, got x of shape {jnp.shape(x)} "
            f"and y of shape {jnp.shape(y)}"
        )
    return x, y


def same_structure(where: str, name: str, value: Any, like_name: str, like: Any) -> None:
    """Two pytrees of one structure and the same leaf shapes."""
    if jax.tree.structure(value) != jax.tree.structure(like):
        raise ValueError(
            f"{where}: {name} and {like_name} differ in structure:\n  {name}: {jax.tree.structure(value)}\n"
            f"  {like_name}: {jax.tree.structure(like)}\npass the tree this {like_name} came from"
        )
    for (path, v), k in zip(jax.tree.leaves_with_path(value), jax.tree.leaves(like), strict=True):
        if jnp.shape(v) != jnp.shape(k):
            raise ValueError(
                f"{where}: {name}{jax.tree_util.keystr(path)} has shape {jnp.shape(v)}, "
                f"the {like_name} there {jnp.shape(k)}"
            )


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


def is_state(where: str, state: Any, kind: type) -> None:
    """The state of one certain optimizer."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{where} takes a {kind.__name__}, got {type(state).__name__}; the state of a chain is a tuple, "
            "pass the part that belongs to it"
        )


def batch_fits(batch_size: int, size: int) -> None:
    """A batch of different objects holds no more than there are."""
    if batch_size > size:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {size} objects of data; take batch_size <= {size}, "
            "or draw=with_replacement"
        )


def divisor(name: str, value: Any, of: str, whole: int) -> int:
    """A count that divides another."""
    part = count(name, value)
    if whole % part:
        raise ValueError(
            f"{name} must divide {of}, got {name}={part} and {of}={whole}; take {of}={whole - whole % part}"
        )
    return part


def one_given(**options: Any) -> None:
    """At least one of some options, none of them negative."""
    if all(value is None for value in options.values()):
        raise ValueError(f"give {' or '.join(options)}, or both: without them nothing tells when to stop")
    for name, value in options.items():
        if value is not None:
            not_negative(name, value)


def patience(chunks: Any, validate: Any) -> None:
    """Patience waits for a validation value."""
    if chunks is None:
        return
    count("patience", chunks)
    if validate is None:
        raise ValueError("patience needs validate, a function (params, state) -> held-out loss, to wait for")


def values(name: str, sequence: Any) -> Any:
    """The values of a hyper-parameter, as an array whose first axis is swept."""
    try:
        array = jnp.asarray(sequence)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be numbers to sweep over, got {sequence!r}; sweep over arrays only") from None
    if array.ndim == 0:
        raise ValueError(
            f"{name} must be a sequence of values to sweep over, got {sequence!r}; write {name}=[{sequence!r}], or fix "
            "it by functools.partial(experiment, ...)"
        )
    if array.shape[0] == 0:
        raise ValueError(f"{name} is empty: a sweep needs at least one value")
    return array


def needs_params(where: str, params: Any) -> None:
    """An optimizer's update that looks at the weights must be given them."""
    if params is None:
        raise ValueError(f"{where} looks at the weights: call update(gradient, state, params)")


def seeds(keys: Any) -> int:
    """A stack of keys, one a run."""
    if not hasattr(keys, "dtype"):
        raise TypeError(f"keys must be an array of keys, jax.random.split(key, 32), got {type(keys).__name__}")
    rank = keys.ndim if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else keys.ndim - 1
    if rank != 1:
        raise ValueError(
            f"keys must be a stack of keys, one a run, got shape {keys.shape}; jax.random.split(key, 32) makes one"
        )
    if keys.shape[0] == 0:
        raise ValueError("keys is empty: a sweep needs at least one run")
    return keys.shape[0]
