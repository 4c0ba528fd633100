"""From whole numbers to features: a trained row for each token, and for each position."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.readings import at_weights
from fnn.core.types import Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import ShapeTape, empty_like
from fnn.nn.initializers import Initializer, uniform


class EmbeddingTape(NamedTuple):
    """The tape of an embedding."""

    x: Array
    """tokens [n, …], whole numbers"""


def embedding(vocabulary: int, width: int, *, table: Initializer | None = None, dtype: Any = jnp.float32) -> Layer:
    """A row of a trained table for each token, y_n = E[x_n]: a linear layer on one-hot rows, without forming them.

    Equations, with V tokens and ε = ∂L/∂y::

        y_npo = E_{x_np, o}              ∂L/∂E_vo = Σ_{n, p: x_np = v} ε_npo

    Args:
        vocabulary: number of tokens V; x has numbers from 0 to V − 1.
        width: number of features o.
        table: initializer of E [V, o]; by default ``uniform(√3)``, of variance 1.
        dtype: of E, which whole numbers cannot say.

    Returns:
        A layer with params ``{"table": [V, o]}`` and no state, from tokens [n, …] to [n, …, o]. The error at the tokens
        is 0. It has no `curve`.

    Raises:
        TypeError: an x that is not whole numbers.
        ValueError: a concrete x with other numbers; traced ones give NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.nn import embedding
        >>> layer, x = embedding(100, 8), jnp.array([[1, 5, 5], [0, 99, 2]])
        >>> params, state = layer.init(jax.random.key(0), x)
        >>> params["table"].shape, layer.apply(params, state, x).shape
        ((100, 8), (2, 3, 8))
    """
    vocabulary, width = checks.count("vocabulary", vocabulary), checks.count("width", width)
    draw = table or uniform(3**0.5)
    nn_checks.is_initializer("table", draw)
    label = call_repr("embedding", vocabulary, width, table=(table, None), dtype=(jnp.dtype(dtype).name, "float32"))

    def init(key: Array, x: Any) -> tuple[Params, State]:
        _are_tokens(label, x, vocabulary)
        return {"table": draw(key, (vocabulary, width), dtype)}, ()

    def apply(params: Params, state: State, x: Array) -> Array:
        _are_tokens(label, x, vocabulary)
        return params["table"].at[x].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, EmbeddingTape]:
        return apply(params, state, x), state, EmbeddingTape(x)

    def backward(params: Params, tape: EmbeddingTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x.shape, width)
        if read.linear:
            total = jnp.zeros((vocabulary, width), error.dtype).at[tape.x].add(error, wrap_negative_indices=False)
            at_table = read.rows(total[None])
        else:
            at_table = at_weights(read, jax.nn.one_hot(tape.x, vocabulary, dtype=error.dtype), error)
        return jnp.zeros(tape.x.shape, error.dtype), {"table": at_table}

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward)


def positional(*, table: Initializer | None = None) -> Layer:
    """A trained vector for each position, y_np = x_np + P_p; ∂L/∂x = ε and ∂L/∂P_p = Σ_n ε_np.

    Args:
        table: initializer of P, in the shape of an example; by default ``uniform(0.02·√3)``, of deviation 0.02.

    Returns:
        A layer with params ``{"positions": […, o]}`` and no state, the only layer that fixes the number of positions,
        as that of the x that initialised it. It has no `curve`.

    Raises:
        ValueError: an x with other positions than the one that initialised the layer.
    """
    draw = table or uniform(0.02 * 3**0.5)
    nn_checks.is_initializer("table", draw)
    label = call_repr("positional", table=(table, None))

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return {"positions": draw(key, tuple(x.shape[1:]), x.dtype)}, ()

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        if x.shape[1:] != params["positions"].shape:
            raise ValueError(
                f"{label}: expected examples of shape {params['positions'].shape}, as in init, got {x.shape[1:]}. "
                "Initialise the network with the longest x, and pad shorter ones to it."
            )
        return x + params["positions"][None]

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, ShapeTape]:
        return apply(params, state, x), state, ShapeTape(empty_like(x))

    def backward(params: Params, tape: ShapeTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, len(error), *tape.like.shape[1:])
        return error, {"positions": read.rows(error)}

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward)


def _are_tokens(where: str, x: Any, vocabulary: int) -> None:
    """Raise unless x is a batch [n, …] of whole numbers, below the vocabulary where they are concrete."""
    checks.is_array(where, x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"{where}: expected tokens [n, …] of whole numbers, got {x.dtype}. Convert by x.astype(int).")
    known = None if isinstance(x, jax.ShapeDtypeStruct) else checks.concrete(x)
    if known is not None and known.size and not (known.min() >= 0 and known.max() < vocabulary):
        strange = np.unique(known[(known < 0) | (known >= vocabulary)])[:5].tolist()
        raise ValueError(f"{where}: expected tokens from 0 to {vocabulary - 1}, got also {strange}. Enlarge the table.")
