"""The layers, each with its forward and its hand-written backward pass on one screen.

Index letters, here as everywhere: ``n`` object of the batch, ``i`` inputs, ``o`` outputs of the layer. In a forward
pass x is [n, i] and y is [n, o]; in a backward pass ``error`` comes in as ∂L/∂y [n, o] and goes out as ∂L/∂x [n, i].
Parameters take the dtype of the x a layer is initialised with, and a layer refuses objects of another.

A new layer is a function that returns `Layer(label, init, apply, forward, backward)`; `from_function` makes one from a
function whose backward nobody has derived.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import dense, gradient, tanh
    >>> layer, x = dense(2, tanh), jnp.ones((3, 4))
    >>> params, state = layer.init(jax.random.key(0), x)
    >>> y, state, tape = layer.forward(params, state, x, jax.random.key(1))
    >>> error, readings = layer.backward(params, tape, jnp.ones_like(y), gradient)
    >>> layer, error.shape, {name: r.shape for name, r in readings.items()}
    (dense(2, tanh), (3, 4), {'w': (4, 2), 'b': (2,)})
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.initializers import Initializer, glorot_uniform, zeros
from fnn.types import Activation, Array, Layer, Params, Reading, State, written


class LinearTape(NamedTuple):
    """What BackProp keeps of a linear layer."""

    x: Array
    """inputs [n, i]"""


class DenseTape(NamedTuple):
    """What BackProp keeps of a dense layer."""

    x: Array
    """inputs [n, i]"""
    z: Array
    """slopes σ'(S) [n, o]"""


class ActivateTape(NamedTuple):
    """What BackProp keeps of an activation."""

    z: Array
    """slopes σ'(S) [n, o]"""


class PReLUTape(NamedTuple):
    """What BackProp keeps of a PReLU."""

    x: Array
    """inputs [n, o]"""


class DropoutTape(NamedTuple):
    """What BackProp keeps of a dropout."""

    mask: Array
    """ξ, or ξ/(1 − p) for the inverted form, [n, o]"""


class BatchNormTape(NamedTuple):
    """What BackProp keeps of a batch normalisation."""

    x_hat: Array
    """normalised inputs x̂ [n, o]"""
    deviation: Array
    """s = √(σ² + ε) [o]"""


class BatchNormState(NamedTuple):
    """Running estimates for the application stage, each divided by ``weight`` when used."""

    mean: Array
    """Σ of the batches' means with exponentially fading weights [o]"""
    variance: Array
    """the same of the batches' unbiased variances [o]"""
    weight: Array
    """the sum of these weights: 0 before the first batch, then rising to 1"""


def _affine(label: str, width: int, w: Initializer, b: Initializer) -> tuple[Callable, Callable]:
    """init and S(params, x) = x w + b of a layer of weights, for `linear` and `dense`."""

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        key_w, key_b = jax.random.split(key)
        shape = (x.shape[1], width)
        return {"w": w(key_w, shape, x.dtype), "b": b(key_b, shape[1:], x.dtype)}, ()

    def pre_activation(params: Params, x: Array) -> Array:
        checks.features(label, x, params["w"].shape[0])
        checks.same_dtype(label, x, params["w"])
        return x @ params["w"] + params["b"][None, :]

    return init, pre_activation


def linear(width: int, *, w: Initializer | None = None, b: Initializer | None = None) -> Layer:
    """A layer of linear neurons, y = x w + b (slide "Linear models").

    Equations, with ε = ∂L/∂y::

        y_no    = Σ_i x_ni w_io + b_o
        ∂L/∂x_ni = Σ_o ε_no w_io
        ∂L/∂w_io = Σ_n x_ni ε_no
        ∂L/∂b_o  = Σ_n ε_no

    The lecture's bias enters as −w_0, a weight of the constant feature x_0 = −1: b = −w_0.

    Args:
        width: number of neurons o.
        w: initializer of the weights [i, o]; `glorot_uniform()` if not given.
        b: initializer of the biases [o]; `zeros()` if not given.

    Returns:
        A layer with params ``{"w": [i, o], "b": [o]}`` and no state.

    Raises:
        ValueError: x that is not [n, i], or of another width than the weights.
        TypeError: x that is not floats of the weights' dtype.
    """
    width = checks.count("width", width)
    label = written("linear", width, w=(w, None), b=(b, None))
    init, pre_activation = _affine(label, width, w or glorot_uniform(), b or zeros())

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, LinearTape]:
        return pre_activation(params, x), state, LinearTape(x)

    def backward(params: Params, tape: LinearTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, tape.x.shape[0], width)
        readings = {"w": read.outer(tape.x, error), "b": read.rows(error)}
        return error @ params["w"].T, readings

    return Layer(label, init, lambda params, state, x: pre_activation(params, x), forward, backward)


def dense(
    width: int,
    activation: Activation,
    *,
    w: Initializer | None = None,
    b: Initializer | None = None,
) -> Layer:
    """A layer of neurons, x^l = σ(S^l) (slides "Fast gradient", "BackProp"): the lecture's recursion itself.

    Equations, with ε = ∂L/∂y, y = x^l, x = x^{l−1}::

        S_no    = Σ_i x_ni w_io + b_o        y_no = σ(S_no)        z_no = σ'(S_no)
        ∂L/∂x_ni = Σ_o ε_no z_no w_io
        ∂L/∂w_io = Σ_n x_ni ε_no z_no
        ∂L/∂b_o  = Σ_n ε_no z_no

    Args:
        width: number of neurons o.
        activation: σ, such as `tanh`.
        w: initializer of the weights [i, o]; `glorot_uniform()` if not given.
        b: initializer of the biases [o]; `zeros()` if not given.

    Returns:
        A layer with params ``{"w": [i, o], "b": [o]}`` and no state, equal to ``serial(linear(width),
        activate(activation))`` with one tape.

    Raises:
        ValueError: x that is not [n, i], or of another width than the weights.
        TypeError: x that is not floats of the weights' dtype; an activation without derivatives.
    """
    width = checks.count("width", width)
    checks.is_activation("dense", activation)
    label = written("dense", width, activation, w=(w, None), b=(b, None))
    init, pre_activation = _affine(label, width, w or glorot_uniform(), b or zeros())

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, DenseTape]:
        S = pre_activation(params, x)
        return activation.value(S), state, DenseTape(x, z=activation.slope(S))

    def backward(params: Params, tape: DenseTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.z.shape)
        at_S = error * tape.z
        readings = {"w": read.outer(tape.x, at_S), "b": read.rows(at_S)}
        return at_S @ params["w"].T, readings

    return Layer(
        label,
        init,
        lambda params, state, x: activation.value(pre_activation(params, x)),
        forward,
        backward,
    )


def _without_parameters(label: str) -> Callable[[Array, Any], tuple[Params, State]]:
    """init of a layer that has nothing to train and nothing to remember."""

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return (), ()

    return init


def activate(activation: Activation) -> Layer:
    """An activation as a layer of its own, y = σ(x); ∂L/∂x = ε σ'(x).

    Args:
        activation: σ, such as `relu`.

    Returns:
        A layer without parameters and state.

    Raises:
        TypeError: an activation without derivatives.
    """
    checks.is_activation("activate", activation)
    label = f"activate({activation})"

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return activation.value(x)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, ActivateTape]:
        return apply(params, state, x), state, ActivateTape(z=activation.slope(x))

    def backward(params: Params, tape: ActivateTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.z.shape)
        return error * tape.z, ()

    return Layer(label, _without_parameters(label), apply, forward, backward)


def prelu(alpha: float = 0.25) -> Layer:
    """Parametric ReLU, y = max(0, x) + α min(0, x) with a trained α for each neuron (slide "ReLU and PReLU").

    Equations, with ε = ∂L/∂y::

        ∂L/∂x_no = ε_no (1 if x_no ≥ 0 else α_o)        as `jax.nn.leaky_relu` decides at 0
        ∂L/∂α_o  = Σ_n ε_no min(0, x_no)

    Args:
        alpha: first value of every slope; 0.25 is that of He et al. 2015.

    Returns:
        A layer with params ``{"alpha": [o]}`` and no state.
    """
    checks.finite("alpha", alpha)
    label = written("prelu", alpha=(alpha, 0.25))

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        return {"alpha": jnp.full(x.shape[1], alpha, x.dtype)}, ()

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x, params["alpha"].shape[0])
        checks.same_dtype(label, x, params["alpha"])
        return jnp.where(x >= 0, x, params["alpha"][None, :] * x)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, PReLUTape]:
        return apply(params, state, x), state, PReLUTape(x)

    def backward(params: Params, tape: PReLUTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.x.shape)
        z = jnp.where(tape.x >= 0, jnp.ones_like(tape.x), params["alpha"][None, :])
        return error * z, {"alpha": read.rows(error * jnp.minimum(tape.x, 0))}

    return Layer(label, init, apply, forward, backward)


def _dropping(label: str, p: float, kept: Callable[[Any], Any], applied: Callable[[Any], Any]) -> Layer:
    """Y = ξ·kept(1 − p)·x in training and y = applied(1 − p)·x in application, P(ξ = 0) = p."""
    checks.fraction("p, the probability of dropping a neuron,", p)

    def apply(params: Params, state: State, x: Array) -> Array:
        checks.features(label, x)
        return jnp.asarray(applied(1 - p), x.dtype) * x

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, DropoutTape]:
        checks.features(label, x)
        kept_neurons = jax.random.bernoulli(key, 1 - p, x.shape)
        mask = jnp.where(kept_neurons, jnp.asarray(kept(1 - p), x.dtype), jnp.zeros((), x.dtype))
        return mask * x, state, DropoutTape(mask)

    def backward(params: Params, tape: DropoutTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.mask.shape)
        return error * tape.mask, ()

    return Layer(label, _without_parameters(label), apply, forward, backward)


def dropout(p: float) -> Layer:
    """Switch each neuron off with probability p in training, multiply by 1 − p in application (slide "Dropout").

    Equations::

        training      y_no = ξ_no x_no,  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no
        application   y_no = (1 − p) x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, anew for each object.

    Raises:
        ValueError: p outside [0, 1).
    """
    return _dropping(written("dropout", p), p, kept=lambda keep: 1.0, applied=lambda keep: keep)


def inverted_dropout(p: float) -> Layer:
    """Dropout whose application stage needs neither a correction nor p (slide "Inverted Dropout").

    Equations::

        training      y_no = ξ_no x_no/(1 − p),  P(ξ_no = 0) = p;    ∂L/∂x_no = ε_no ξ_no/(1 − p)
        application   y_no = x_no

    Args:
        p: probability of *dropping*, in [0, 1); 0 is the identity. May be a tracer.

    Returns:
        A layer without parameters and state; its forward draws ξ from the key, anew for each object.

    Raises:
        ValueError: p outside [0, 1).
    """
    return _dropping(written("inverted_dropout", p), p, kept=lambda keep: 1 / keep, applied=lambda keep: 1.0)


def batch_norm(epsilon: float = 1e-5, rate: float = 0.1) -> Layer:
    """Normalise each neuron over the batch, then scale and shift by trained γ, β (slide "Batch Normalization").

    Equations, with μ and σ² the batch's mean and biased variance, s = √(σ² + ε) and e = ∂L/∂y::

        x̂_no = (x_no − μ_o)/s_o              y_no = γ_o x̂_no + β_o
        ∂L/∂γ_o = Σ_n e_no x̂_no              ∂L/∂β_o = Σ_n e_no
        ∂L/∂x_no = (γ_o/s_o)(e_no − mean_n e_no − x̂_no mean_n(e_no x̂_no))

    The two means carry the error that flows through μ and σ². The slide gives the training stage only. The
    application stage here takes running estimates: exponential averages of the batches' means and *unbiased* variances,
    calibrated as Adam calibrates its averages, so that they are right from the first batch on.

    Args:
        epsilon: added to the variance, > 0.
        rate: weight of the newest batch in the running estimates, in (0, 1].

    Returns:
        A layer with params ``{"gamma": [o], "beta": [o]}`` and a `BatchNormState`.

    Raises:
        ValueError: a batch of one object, which has no variance; in backward, a reading of single objects,
            for the batch's objects are coupled.
    """
    checks.positive("epsilon", epsilon)
    checks.number("rate", rate, lambda r: 0 < r <= 1, "in (0, 1]")
    label = written("batch_norm", epsilon=(epsilon, 1e-5), rate=(rate, 0.1))

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        zero, one = jnp.zeros(x.shape[1], x.dtype), jnp.ones(x.shape[1], x.dtype)
        return {"gamma": one, "beta": zero}, BatchNormState(zero, zero, jnp.zeros((), x.dtype))

    def apply(params: Params, state: BatchNormState, x: Array) -> Array:
        checks.features(label, x, params["gamma"].shape[0])
        checks.same_dtype(label, x, params["gamma"])
        trained = state.weight > 0
        weight = jnp.where(trained, state.weight, 1)
        mean, variance = state.mean / weight, jnp.where(trained, state.variance / weight, 1)
        x_hat = (x - mean[None, :]) / jnp.sqrt(variance + epsilon)[None, :]
        return params["gamma"][None, :] * x_hat + params["beta"][None, :]

    def forward(
        params: Params, state: BatchNormState, x: Array, key: Array
    ) -> tuple[Array, BatchNormState, BatchNormTape]:
        checks.features(label, x, params["gamma"].shape[0])
        checks.same_dtype(label, x, params["gamma"])
        n = checks.batch_of_several(label, x)
        mean = jnp.mean(x, axis=0)
        centred = x - mean[None, :]
        variance = jnp.mean(jnp.square(centred), axis=0)
        deviation = jnp.sqrt(variance + epsilon)
        x_hat = centred / deviation[None, :]
        y = params["gamma"][None, :] * x_hat + params["beta"][None, :]
        r = jnp.asarray(rate, x.dtype)
        newest = BatchNormState(mean, variance * (n / (n - 1)), jnp.ones((), x.dtype))
        state = jax.tree.map(lambda old, new: (1 - r) * old + r * new, state, newest)
        return y, state, BatchNormTape(x_hat, deviation)

    def backward(params: Params, tape: BatchNormTape, error: Array, read: Reading) -> tuple[Array, Any]:
        checks.error(label, error, *tape.x_hat.shape)
        checks.per_object_readable(label, read)
        contributions = error * tape.x_hat
        through_mean = jnp.mean(error, axis=0, keepdims=True)
        through_variance = tape.x_hat * jnp.mean(contributions, axis=0, keepdims=True)
        scale = (params["gamma"] / tape.deviation)[None, :]
        readings = {"gamma": read.rows(contributions), "beta": read.rows(error)}
        return scale * (error - through_mean - through_variance), readings

    return Layer(label, init, apply, forward, backward)
