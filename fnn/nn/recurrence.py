"""Recurrent layers: a cell at every step of a sequence, and backpropagation through time by hand.

A recurrent layer is ``serial(linear(g·h), recurrent(cell))``: the input weights are a linear layer at all steps at
once, and the loop over time has only what needs it, the state h_{t−1} and its weights. Going back, the loop carries
errors alone; the weights are read once behind it, from all steps together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import logistic
from fnn.core.readings import at_weights, over_positions
from fnn.core.types import Activation, Array, Layer, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn.activations import tanh
from fnn.nn.compositions import serial
from fnn.nn.initializers import Initializer, glorot_uniform
from fnn.nn.neurons import linear


class Cell(NamedTuple):
    """What happens at one step: from a_t [n, g·h], made of the input, and s_t = h_{t−1} w [n, g·h] to h_t [n, h].

    Beside h a cell may carry a memory c [n, h] from step to step.
    """

    label: str
    gates: int
    """g"""
    step: Callable[[Array, Array, Array, Array], tuple[Array, Array, Any]]
    """(a_t, s_t, h_{t−1}, c_{t−1}) to (h_t, c_t, what `back` needs)"""
    back: Callable[[Any, Array, Array], tuple[Array, Array, Array, Array]]
    """(what is kept, ∂L/∂h_t, ∂L/∂c_t) to (∂L/∂a_t, ∂L/∂s_t, the parts of ∂L/∂h_{t−1} beside s_t, ∂L/∂c_{t−1})"""
    bias: bool = False
    """whether s_t has a bias of its own, s_t = h_{t−1} w + b, as the last gate of `gru_cell` needs"""

    def __repr__(self) -> str:
        return self.label


class RecurrentTape(NamedTuple):
    """The tape of `recurrent`."""

    before: Array
    """h_{t−1} at every step [n, t, h]"""
    kept: Any
    """what the cell keeps of every step, arrays [t, n, …]"""


def elman_cell(activation: Activation = tanh) -> Cell:
    """The simple cell, h_t = σ(a_t + s_t); ∂L/∂a = ∂L/∂s = ∂L/∂h σ'.

    Source: J. Elman, *Finding structure in time*, 1990.
    """
    nn_checks.is_activation("elman_cell", activation)

    def step(a: Array, s: Array, h: Array, c: Array) -> tuple[Array, Array, Array]:
        return activation.value(a + s), c, activation.slope(a + s)

    def back(z: Array, e: Array, d: Array) -> tuple[Array, Array, Array, Array]:
        return e * z, e * z, jnp.zeros_like(e), d

    return Cell(call_repr("elman_cell", activation), 1, step, back)


def lstm_cell() -> Cell:
    """Long short-term memory: a memory c that gates i, f, o write, keep and show.

    Equations, with s = logistic and e, d the errors at h_t and c_t::

        i, f, o = s(a + s_t) of their gates, g = tanh(a + s_t) of its
        c_t = f c_{t−1} + i g                 h_t = o tanh c_t
        D = d + e o (1 − tanh² c_t)           ∂L/∂c_{t−1} = D f
        ∂L/∂a = [D g i(1 − i) | D c_{t−1} f(1 − f) | D i(1 − g²) | e tanh c_t o(1 − o)] = ∂L/∂s

    The gates stand in the order i, f, g, o, as in torch and flax. Source: S. Hochreiter, J. Schmidhuber, 1997, with the
    forget gate of F. Gers and others, 2000.
    """

    def step(a: Array, s: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        i, f, g, o = jnp.split(a + s, 4, axis=-1)
        i, f, g, o = logistic(i), logistic(f), jnp.tanh(g), logistic(o)
        after = f * c + i * g
        shown = jnp.tanh(after)
        return o * shown, after, (i, f, g, o, c, shown)

    def back(kept: Any, e: Array, d: Array) -> tuple[Array, Array, Array, Array]:
        i, f, g, o, c, shown = kept
        D = d + e * o * (1 - shown * shown)
        at_gates = D * g * i * (1 - i), D * c * f * (1 - f), D * i * (1 - g * g), e * shown * o * (1 - o)
        at_a = jnp.concatenate(at_gates, axis=-1)
        return at_a, at_a, jnp.zeros_like(e), D * f

    return Cell("lstm_cell()", 4, step, back)


def gru_cell() -> Cell:
    """The gated recurrent unit: h_t lies between h_{t−1} and a new value m, at the gate z.

    Equations, with s = logistic, e = ∂L/∂h_t, and the last gate's s_m = (h_{t−1} w + b)_m::

        r, z = s(a + s_t) of their gates      m = tanh(a_m + r s_m)        h_t = (1 − z) m + z h_{t−1}
        ∂m = e (1 − z)(1 − m²)                ∂z = e (h_{t−1} − m) z(1 − z)      ∂r = ∂m s_m r(1 − r)
        ∂L/∂a = [∂r | ∂z | ∂m]                ∂L/∂s = [∂r | ∂z | ∂m r]           beside s: ∂L/∂h_{t−1} = e z

    The gates stand in the order r, z, m, and r acts behind the product with w, as in torch, flax and equinox. Source:
    K. Cho and others, 2014.
    """

    def step(a: Array, s: Array, h: Array, c: Array) -> tuple[Array, Array, Any]:
        (a_r, a_z, a_m), (s_r, s_z, s_m) = jnp.split(a, 3, axis=-1), jnp.split(s, 3, axis=-1)
        r, z = logistic(a_r + s_r), logistic(a_z + s_z)
        m = jnp.tanh(a_m + r * s_m)
        return (1 - z) * m + z * h, c, (r, z, m, s_m, h)

    def back(kept: Any, e: Array, d: Array) -> tuple[Array, Array, Array, Array]:
        r, z, m, s_m, h = kept
        at_m = e * (1 - z) * (1 - m * m)
        at_z = e * (h - m) * z * (1 - z)
        at_r = at_m * s_m * r * (1 - r)
        at_a = jnp.concatenate([at_r, at_z, at_m], axis=-1)
        return at_a, jnp.concatenate([at_r, at_z, at_m * r], axis=-1), e * z, d

    return Cell("gru_cell()", 3, step, back, bias=True)


def recurrent(cell: Cell, *, reverse: bool = False, w: Initializer | None = None) -> Layer:
    """A cell at every step of a sequence, from a_t made of the inputs to the states h_t, with h_0 = c_0 = 0.

    Equations of backpropagation through time, with ε_t = ∂L/∂y_t, from the last step to the first::

        s_t = h_{t−1} w + b          e_t = ε_t + ∂L/∂s_{t+1} wᵀ + (what passes by s)
        ∂L/∂a_t, ∂L/∂s_t as the cell has them
        ∂L/∂w = Σ_nt h_{t−1} ∂L/∂s_tᵀ          ∂L/∂b = Σ_nt ∂L/∂s_t

    Args:
        cell: an `elman_cell`, `lstm_cell`, `gru_cell`, or one of your own.
        reverse: whether time runs from the last step to the first, also in y.
        w: initializer of the weights [h, h] of each gate; by default `glorot_uniform()`.

    Returns:
        A layer from [n, t, g·h] to [n, t, h] with params ``{"w": [h, g·h]}``, and ``"b": [g·h]`` for a cell with a
        bias, and no state, as every sequence starts at 0. It has no `curve`.

    Raises:
        ValueError: an x that is no sequence, or whose width is no multiple of the number of gates.
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"recurrent: expected a cell such as lstm_cell(), got {checks.shown(cell)}.")
    nn_checks.flag("reverse", reverse)
    draw = w or glorot_uniform()
    nn_checks.is_initializer("w", draw)
    label = call_repr("recurrent", cell, reverse=(reverse, False), w=(w, None))
    names = ("w", "b") if cell.bias else ("w",)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        h = _width(label, x, cell.gates)
        keys = jax.random.split(key, cell.gates)
        params = {"w": jnp.concatenate([draw(keys[i], (h, h), x.dtype) for i in range(cell.gates)], axis=1)}
        return params | ({"b": jnp.zeros(x.shape[-1], x.dtype)} if cell.bias else {}), ()

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, RecurrentTape]:
        h = _width(label, x, cell.gates)
        nn_checks.fits(label, x, params, names, lambda states: states * cell.gates)
        zeros = jnp.zeros((len(x), h), x.dtype)

        def step(carry: tuple[Array, Array], a: Array) -> tuple[tuple[Array, Array], Any]:
            h, c = carry
            s = h @ params["w"]
            s = s + params["b"][None, :] if cell.bias else s
            after, c, kept = cell.step(a, s, h, c)
            return (after, c), (after, h, kept)

        _, (y, before, kept) = jax.lax.scan(step, (zeros, zeros), jnp.swapaxes(x, 0, 1), reverse=reverse)
        return jnp.swapaxes(y, 0, 1), state, RecurrentTape(jnp.swapaxes(before, 0, 1), kept)

    def apply(params: Params, state: State, x: Array) -> Array:
        return forward(params, state, x, jnp.zeros(()))[0]

    def backward(params: Params, tape: RecurrentTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.before.shape)
        zeros = jnp.zeros_like(error[:, 0])

        def step(carry: tuple[Array, Array], at: tuple[Array, Any]) -> tuple[tuple[Array, Array], Any]:
            (later, d), (e, kept) = carry, at
            at_a, at_s, beside, d = cell.back(kept, e + later, d)
            return (at_s @ params["w"].T + beside, d), (at_a, at_s)

        steps = jnp.swapaxes(error, 0, 1), tape.kept
        _, (at_a, at_s) = jax.lax.scan(step, (zeros, zeros), steps, reverse=not reverse)
        at_a, at_s = jnp.swapaxes(at_a, 0, 1), jnp.swapaxes(at_s, 0, 1)
        readings = {"w": at_weights(read, tape.before, at_s)}
        return at_a, readings | ({"b": read.rows(over_positions(at_s))} if cell.bias else {})

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward)


def _width(where: str, x: Any, gates: int) -> int:
    """The number of features of each gate; raises ValueError unless x is a sequence with equally many for each."""
    nn_checks.sequence(where, x)
    if x.shape[-1] % gates:
        raise ValueError(
            f"{where}: expected {gates} gates of equal width, got {x.shape[-1]} features. Put a linear layer of "
            f"{gates} times the width before it, as rnn, lstm and gru do."
        )
    return x.shape[-1] // gates


def rnn(width: int, activation: Activation = tanh, *, reverse: bool = False) -> Layer:
    """A simple recurrent layer, h_t = σ(x_t w + b + h_{t−1} u), from [n, t, i] to [n, t, width].

    Args:
        width: number of neurons.
        activation: σ.
        reverse: whether time runs backwards; ``branches(rnn(h), rnn(h, reverse=True))`` reads in both directions.

    Returns:
        ``serial(linear(width), recurrent(elman_cell(activation)))``.
    """
    return _composed(width, elman_cell(activation), reverse=reverse)


def lstm(width: int, *, reverse: bool = False) -> Layer:
    """A layer of long short-term memory, from [n, t, i] to [n, t, width]; see `lstm_cell` and `rnn`.

    Returns:
        ``serial(linear(4·width), recurrent(lstm_cell()))``.

    Example:
        >>> from fnn import linear, serial
        >>> from fnn.nn import last, lstm
        >>> serial(lstm(32), last(), linear(10))
        serial(serial(linear(128), recurrent(lstm_cell())), last(), linear(10))
    """
    return _composed(width, lstm_cell(), reverse=reverse)


def gru(width: int, *, reverse: bool = False) -> Layer:
    """A layer of gated recurrent units, from [n, t, i] to [n, t, width]; see `gru_cell` and `rnn`.

    Returns:
        ``serial(linear(3·width), recurrent(gru_cell()))``.
    """
    return _composed(width, gru_cell(), reverse=reverse)


def _composed(width: int, cell: Cell, *, reverse: bool) -> Layer:
    width = checks.count("width", width)
    return serial(linear(cell.gates * width), recurrent(cell, reverse=reverse))
