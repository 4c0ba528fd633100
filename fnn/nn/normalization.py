"""Normalisation of neurons over the batch (slide "Batch Normalization"), and within each example."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import narrow, not_flushed, wide
from fnn.core.errors import Unsupported
from fnn.core.readings import over_positions
from fnn.core.types import Array, Layer, Modes, Params, Reading, State
from fnn.nn import _checks as nn_checks
from fnn.nn._common import beside
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
        zeros = jnp.zeros(x.shape[-1], x.dtype)
        state = BatchNormState(mean=zeros, variance=zeros, weight=jnp.zeros((), x.dtype))
        return {"gamma": jnp.ones_like(zeros), "beta": zeros}, wide(state)

    def forward(
        params: Params, state: BatchNormState, x: Array, key: Array
    ) -> tuple[Array, BatchNormState, BatchNormTape]:
        nn_checks.fits(label, x, params, ("gamma", "beta"))
        n = nn_checks.batch_of_several(label, x)
        values = wide(x)
        over = tuple(range(x.ndim - 1))
        mean = jnp.mean(values, axis=over)
        centred = values - beside(mean, x)
        variance = jnp.mean(jnp.square(centred), axis=over)
        deviation = jnp.sqrt(variance + not_flushed(epsilon, variance.dtype))
        tape = narrow(BatchNormTape(centred / beside(deviation, x), deviation), BatchNormTape(x, x))
        r = jnp.asarray(rate, state.mean.dtype)
        newest = narrow(BatchNormState(mean, variance * (n / (n - 1)), jnp.ones((), mean.dtype)), state)
        state = jax.tree.map(lambda old, new: (1 - r) * old + r * new, state, newest)
        return _scale_and_shift(params, tape.x_hat), state, tape

    def backward(params: Params, tape: BatchNormTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x_hat.shape)
        _per_example_readable(label, read)
        contributions = error * tape.x_hat
        over = tuple(range(error.ndim - 1))
        through_mean = jnp.mean(error, axis=over, keepdims=True)
        through_variance = tape.x_hat * jnp.mean(contributions, axis=over, keepdims=True)
        scale = beside(params["gamma"] / tape.deviation, error)
        readings = _readings(error, contributions, read)
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
    y = beside(params["gamma"], x_hat) * x_hat
    return y + beside(params["beta"], x_hat) if "beta" in params else y


class NormTape(NamedTuple):
    """The tape of a normalisation within each example."""

    x_hat: Array
    """normalised inputs x̂ [n, …, o]"""
    deviation: Array
    """s = √(σ² + ε), one for each mean"""


def layer_norm(epsilon: float = 1e-5) -> Layer:
    """The features of each position normalised, then scaled and shifted by trained γ, β.

    Equations, with μ and σ² the mean and the biased variance over the o features, s = √(σ² + ε), e = γ ∂L/∂y::

        x̂_no = (x_no − μ_n)/s_n              y_no = γ_o x̂_no + β_o
        ∂L/∂γ_o = Σ_n x̂_no ∂L/∂y_no          ∂L/∂β_o = Σ_n ∂L/∂y_no
        ∂L/∂x_no = (1/s_n)(e_no − mean_o e_no − x̂_no mean_o(e_no x̂_no))

    Unlike batch norm it couples no examples: it is the same in training and in inference, and every reading exists.
    Statistics are computed in float32 at least.

    Args:
        epsilon: added to the variance, > 0.

    Returns:
        A layer with params ``{"gamma": [o], "beta": [o]}`` and no state; it has no `curve`.

    Source: J. Ba, J. Kiros, G. Hinton, *Layer normalization*, 2016.
    """
    checks.positive("epsilon", epsilon)
    return _norm(call_repr("layer_norm", epsilon=(epsilon, 1e-5)), epsilon)


def rms_norm(epsilon: float = 1e-5) -> Layer:
    """The features of each position divided by their root mean square and scaled by a trained γ.

    Equations: those of `layer_norm` without μ, β and the mean of e::

        y_no = γ_o x̂_no,   x̂_no = x_no/s_n,   s_n = √(mean_o x_no² + ε)
        ∂L/∂x_no = (1/s_n)(e_no − x̂_no mean_o(e_no x̂_no))

    Args:
        epsilon: added to the mean square, > 0.

    Returns:
        A layer with params ``{"gamma": [o]}`` and no state; it has no `curve`.

    Source: B. Zhang, R. Sennrich, *Root mean square layer normalization*, 2019.
    """
    checks.positive("epsilon", epsilon)
    return _norm(call_repr("rms_norm", epsilon=(epsilon, 1e-5)), epsilon, centred=False)


def group_norm(groups: int, epsilon: float = 1e-5) -> Layer:
    """Groups of features normalised over all positions of an example, then scaled and shifted by trained γ, β.

    The equations of `layer_norm`, with means over the positions of an image and the features of a group together.

    Args:
        groups: number of groups, which divides the number of features; as many as features for instance norm.
        epsilon: added to the variance, > 0.

    Returns:
        A layer with params ``{"gamma": [o], "beta": [o]}`` and no state; it has no `curve`.

    Raises:
        ValueError: a number of features that is no multiple of the groups.

    Source: Y. Wu, K. He, *Group normalization*, 2018.
    """
    checks.positive("epsilon", epsilon)
    groups = checks.count("groups", groups)
    return _norm(call_repr("group_norm", groups, epsilon=(epsilon, 1e-5)), epsilon, groups)


def _norm(label: str, epsilon: float, groups: int | None = None, *, centred: bool = True) -> Layer:
    """A normalisation within each example: of each position's features, or of groups of them over all positions."""
    names = ("gamma", "beta") if centred else ("gamma",)

    def init(key: Array, x: Any) -> tuple[Params, State]:
        checks.features(label, x)
        if groups is not None and x.shape[-1] % groups:
            raise ValueError(
                f"{label}: expected a number of features that is a multiple of {groups}, got {x.shape[-1]}. Take a "
                "number of groups that divides it."
            )
        gamma = {"gamma": jnp.ones(x.shape[-1], x.dtype)}
        return gamma | ({"beta": jnp.zeros(x.shape[-1], x.dtype)} if centred else {}), ()

    def parted(x: Array) -> Array:
        """[n, positions, groups, features of a group], or x itself."""
        return x if groups is None else x.reshape(len(x), math.prod(x.shape[1:-1]), groups, x.shape[-1] // groups)

    def mean(x: Array) -> Array:
        return jnp.mean(x, axis=-1 if groups is None else (1, 3), keepdims=True)

    def normalised(params: Params, x: Array) -> NormTape:
        nn_checks.fits(label, x, params, names)
        values = parted(wide(x))
        centre = values - mean(values) if centred else values
        deviation = jnp.sqrt(mean(jnp.square(centre)) + not_flushed(epsilon, values.dtype))
        return narrow(NormTape((centre / deviation).reshape(x.shape), deviation), NormTape(x, x))

    def apply(params: Params, state: State, x: Array) -> Array:
        return _scale_and_shift(params, normalised(params, x).x_hat)

    def forward(params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, NormTape]:
        tape = normalised(params, x)
        return _scale_and_shift(params, tape.x_hat), state, tape

    def backward(params: Params, tape: NormTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x_hat.shape)
        readings = _readings(error, error * tape.x_hat, read)
        e, x_hat = parted(wide(error * beside(params["gamma"], error))), parted(wide(tape.x_hat))
        through = e - mean(e) if centred else e
        at_x = (through - x_hat * mean(e * x_hat)) / wide(tape.deviation)
        return narrow(at_x.reshape(error.shape), error), {name: readings[name] for name in names}

    return Layer(label=label, init=init, apply=apply, forward=forward, backward=backward)


def _readings(error: Array, contributions: Array, read: Reading) -> Any:
    """The readings at γ and β of y = γ x̂ + β, from the contributions e x̂ to γ."""
    return {"gamma": read.rows(over_positions(contributions)), "beta": read.rows(over_positions(error))}


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
        tape = BatchNormTape((values - beside(mean, x)) / beside(deviation, x), deviation)
        return narrow(tape, BatchNormTape(x, x))

    def apply(params: Params, state: BatchNormState, x: Array) -> Array:
        return _scale_and_shift(params, normalised(params, state, x).x_hat)

    def forward(params: Params, state: BatchNormState, x: Array, key: Array) -> tuple[Array, Any, BatchNormTape]:
        tape = normalised(params, state, x)
        return _scale_and_shift(params, tape.x_hat), state, tape

    def backward(params: Params, tape: BatchNormTape, error: Array, read: Reading) -> tuple[Array, Any]:
        nn_checks.error(label, error, *tape.x_hat.shape)
        readings = _readings(error, error * tape.x_hat, read)
        return error * beside(params["gamma"] / tape.deviation, error), readings

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
