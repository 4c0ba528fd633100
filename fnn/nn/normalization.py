"""Normalisation of neurons over the batch (slide "Batch Normalization")."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, not_flushed, wide
from fnn.core.errors import Unsupported
from fnn.core.types import Array, Layer, Modes, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._second_order import diagonal, scaled


class BatchNormTape(NamedTuple):
    """The tape of a batch normalisation."""

    x_hat: Array
    """normalised inputs x̂ [n, o]"""
    deviation: Array
    """s = √(σ² + ε) [o]"""


class BatchNormState(NamedTuple):
    """The running estimates for inference mode; mean and variance are divided by ``weight`` when used."""

    mean: Array
    """Σ of the batches' means with exponentially decaying weights [o]"""
    variance: Array
    """the same sum of the batches' unbiased variances [o]"""
    weight: Array
    """the sum of these weights: 0 before the first batch, then rising to 1"""


def batch_norm(epsilon: float = 1e-5, rate: float = 0.1) -> Layer:
    """Each neuron normalised over the batch, then scaled and shifted by trained γ, β (slide "Batch Normalization").

    Equations, with μ and σ² the batch's mean and biased variance, s = √(σ² + ε) and e = ∂L/∂y::

        x̂_no = (x_no − μ_o)/s_o              y_no = γ_o x̂_no + β_o
        ∂L/∂γ_o = Σ_n e_no x̂_no              ∂L/∂β_o = Σ_n e_no
        ∂L/∂x_no = (γ_o/s_o)(e_no − mean_n e_no − x̂_no mean_n(e_no x̂_no))

    The two means carry the error that flows through μ and σ². The slide gives training mode only. Inference uses
    running estimates: exponential averages of the batches' means and *unbiased* variances, calibrated as the averages
    in Adam, so that they are right from the first batch on. Running and batch statistics are computed in float32 at
    least, whatever the dtype of x.

    Args:
        epsilon: added to the variance, > 0.
        rate: weight of the newest batch in the running estimates, in (0, 1].

    Returns:
        A layer with params ``{"gamma": [o], "beta": [o]}`` and a `BatchNormState`.

    Raises:
        NeedsMoreExamples: a batch of one example, which has no variance.
        Unsupported: in training, a per-example reading or second derivatives, because the examples of a batch are
            coupled (see `inference_mode`).
    """
    checks.positive("epsilon", epsilon)
    checks.number("rate", rate, lambda r: 0 < r <= 1, "in (0, 1]")
    label = call_repr("batch_norm", epsilon=(epsilon, 1e-5), rate=(rate, 0.1))

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        zeros = jnp.zeros(x.shape[1], x.dtype)
        state = BatchNormState(mean=zeros, variance=zeros, weight=jnp.zeros((), x.dtype))
        return {"gamma": jnp.ones_like(zeros), "beta": zeros}, wide(state)

    def forward(
        params: Params, state: BatchNormState, x: Array, key: Array
    ) -> tuple[Array, BatchNormState, BatchNormTape]:
        nn_checks.fits(label, x, params, ("gamma", "beta"))
        n = nn_checks.batch_of_several(label, x)
        values = wide(x)
        mean = jnp.mean(values, axis=0)
        centred = values - mean[None, :]
        variance = jnp.mean(jnp.square(centred), axis=0)
        deviation = jnp.sqrt(variance + not_flushed(epsilon, variance.dtype))
        tape = narrow(BatchNormTape(centred / deviation[None, :], deviation), BatchNormTape(x, x))
        r = jnp.asarray(rate, state.mean.dtype)
        newest = narrow(BatchNormState(mean, variance * (n / (n - 1)), jnp.ones((), mean.dtype)), state)
        state = jax.tree.map(lambda old, new: (1 - r) * old + r * new, state, newest)
        return _scale_and_shift(params, tape.x_hat), state, tape

    def backward(params: Params, tape: BatchNormTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x_hat.shape)
        _per_example_readable(label, read)
        contributions = error * tape.x_hat
        through_mean = jnp.mean(error, axis=0, keepdims=True)
        through_variance = tape.x_hat * jnp.mean(contributions, axis=0, keepdims=True)
        scale = (params["gamma"] / tape.deviation)[None, :]
        readings = {"gamma": read.rows(contributions), "beta": read.rows(error)}
        return scale * (error - through_mean - through_variance), readings

    def curve(params: Params, tape: BatchNormTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        raise _couples_examples(label)

    inference = _inference(label, init, epsilon)
    return Layer(
        label=label,
        init=init,
        apply=inference.apply,
        forward=forward,
        backward=backward,
        curve=curve,
        modes=Modes(inference=inference),
    )


def _scale_and_shift(params: Params, x_hat: Array) -> Array:
    return params["gamma"][None, :] * x_hat + params["beta"][None, :]


def _inference(name: str, init: Any, epsilon: float) -> Layer:
    """The inference y = γ(x − μ)/s + β with the running estimates, as a layer with its own backward."""
    label = f"inference_mode({name})"

    def normalised(params: Params, state: BatchNormState, x: Array) -> BatchNormTape:
        nn_checks.fits(name, x, params, ("gamma", "beta"))
        trained = state.weight > 0
        weight = jnp.where(trained, state.weight, 1)
        mean = state.mean / weight
        variance = jnp.where(trained, state.variance / weight, 1)
        values = wide(x)
        deviation = jnp.sqrt(variance + not_flushed(epsilon, variance.dtype))
        mean, deviation = narrow((mean, deviation), (values, values))
        tape = BatchNormTape((values - mean[None, :]) / deviation[None, :], deviation)
        return narrow(tape, BatchNormTape(x, x))

    def apply(params: Params, state: BatchNormState, x: Array) -> Array:
        return _scale_and_shift(params, normalised(params, state, x).x_hat)

    def forward(params: Params, state: BatchNormState, x: Array, key: Array) -> tuple[Array, Any, BatchNormTape]:
        tape = normalised(params, state, x)
        return _scale_and_shift(params, tape.x_hat), state, tape

    def backward(params: Params, tape: BatchNormTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x_hat.shape)
        readings = {"gamma": read.rows(error * tape.x_hat), "beta": read.rows(error)}
        return error * (params["gamma"] / tape.deviation)[None, :], readings

    def curve(params: Params, tape: BatchNormTape, error: Array, c: Array, read: Reading) -> tuple[Array, Array, Any]:
        nn_checks.curvature(label, error, c, *tape.x_hat.shape)
        d = diagonal(c)
        readings = {"gamma": read.rows(d * jnp.square(tape.x_hat)), "beta": read.rows(d)}
        slopes = jnp.broadcast_to((params["gamma"] / tape.deviation)[None, :], error.shape)
        return error * slopes, scaled(c, slopes), readings

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward, curve=curve)


def _per_example_readable(where: str, read: Reading) -> None:
    """Raise Unsupported for a per-example reading, which does not exist in a layer that couples the examples."""
    if not read.linear:
        raise Unsupported(
            f"{where} couples the examples of a batch, so the per-example reading '{read}' has no meaning. "
            "Read `gradient`, or use fnn.inference_mode(net)."
        )


def _couples_examples(where: str) -> Unsupported:
    """The error of a layer that has no per-example second derivatives."""
    return Unsupported(
        f"{where} couples the examples of a batch in training, so per-example second derivatives do not exist. "
        "Use fnn.inference_mode(net)."
    )
