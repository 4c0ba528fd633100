"""Gradient noise, and clipping of each example's gradient.

Neither forms the gradient of a single example. With g_n the gradient of example n, g their mean over a batch of n, and
the Gram matrix ⟨g_n, g_m⟩ from the reading `gram`, every field of `GradientNoise` follows from n² numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._numerics import lengths, narrow, ratio, safe_sqrt, units, wide
from fnn.core.batches import in_rank_of, supervised
from fnn.core.errors import Unsupported
from fnn.core.readings import beyond_rounding, gradient, gram
from fnn.core.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.derivatives import _checks as derivatives_checks
from fnn.derivatives.backpropagation import Gradient, backprop
from fnn.nn.surgery import drop_records


def gradient_noise(net: Layer, loss: Loss) -> Callable[[Params, State, Batch, Array], GradientNoise]:
    """Diagnostics of gradient noise from one forward and one backward pass.

    Costs one backward pass with the reading `gram`, which takes two products of [n, width] per layer.

    Args:
        net: a layer.
        loss: a loss.

    Returns:
        A function ``(params, state, (x, y), key) -> GradientNoise``.

    Raises:
        NeedsMoreExamples: when called, for a batch of one.
        Unsupported: when called, for a network with batch norm in training mode.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, squared
        >>> from fnn.derivatives import gradient_noise
        >>> net, x, y = linear(1), jnp.array([[1.0], [1.0]]), jnp.array([[0.0], [2.0]])
        >>> params, state = {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}, ()
        >>> noise = gradient_noise(net, squared)(params, state, (x, y), jax.random.key(0))
        >>> float(noise.squared_norm), float(noise.variance), float(noise.noise_scale)
        (2.0, 4.0, inf)

    Source: S. McCandlish and others, *An empirical model of large-batch training*, 2018, for the noise scale;
    R. Byrd and others, 2012, for the norm test; R. Bollapragada, R. Byrd, J. Nocedal, *Adaptive sampling strategies for
    stochastic optimization*, 2018, for the other two.
    """
    read = backprop(net, loss, gram)

    def noise(params: Params, state: State, batch: Batch, key: Array) -> GradientNoise:
        examples = supervised(batch, loss)
        n = examples.size
        if examples.weight is not None:
            raise Unsupported(
                "gradient_noise: expected a batch (x, y), got weights, but its estimates count all examples alike. "
                "Draw the examples by their weights instead."
            )
        derivatives_checks.several_examples("gradient_noise", n)
        (value, _), of_leaves = read(params, state, batch, key)
        return noise_of(sum(jax.tree.leaves(drop_records(of_leaves)), jnp.zeros((n, n), wide(value).dtype)))

    return noise


def noise_of(G: Array) -> GradientNoise:
    """The diagnostics from the Gram matrix [n, n] of the examples' gradients, n ≥ 2.

    With 1 for a vector of ones: ‖g‖² = 1ᵀG1/n², ⟨g_n, g⟩ = (G1)_n/n, tr Σ = (tr G − n‖g‖²)/(n − 1), and the part
    across g is tr G − Σ_n ⟨g_n, g⟩²/‖g‖².
    """
    n = G.shape[0]
    G = wide(G)
    along = jnp.mean(G, axis=1)
    total = jnp.trace(G)
    norm2 = jnp.maximum(jnp.mean(along), 0)
    variance = beyond_rounding(total - n * norm2, total, n) / (n - 1)
    along_g = ratio(jnp.where(norm2 > 0, jnp.sum(jnp.square(along)), 0), norm2)
    across = beyond_rounding(total - along_g, total, n)
    spread = jnp.where(variance == 0, 0, jnp.var(along, ddof=1))
    return GradientNoise(
        squared_norm=norm2,
        variance=variance,
        noise_scale=ratio(variance, jnp.maximum(norm2 - variance / n, 0)),
        norm_test=safe_sqrt(ratio(variance, n * norm2)),
        inner_product_test=ratio(safe_sqrt(spread / n), norm2),
        orthogonality_test=safe_sqrt(ratio(across / (n - 1), n * norm2)),
    )


def clip_per_example(threshold: float | Array) -> Callable[[Layer, Loss], Gradient]:
    """BackProp with each example's gradient clipped to a norm before the mean is taken, as in DP-SGD.

    Equation, with θ the threshold::

        g = (1/n) Σ_n min(1, θ/‖g_n‖) g_n

    or, for a batch (x, y, weight), the mean by the weights, (1/Σw) Σ_n w_n min(1, θ/‖g_n‖) g_n.

    Two backward passes of one tape: the first reads the norms, the second starts from errors ε_n scaled by each
    example's factor, because a backward pass is linear in the error. Replacing one example changes g by at most 2θ/n.
    The sum to which DP-SGD adds noise is n g; adding the noise is left to the user.

    Norms are computed in float32 at least, in units of the largest entry and with errors scaled to unit size, so that
    no square overflows and no exploding gradient is lost. The second pass has unit size too, and the remaining factor
    is applied to g in float32 at least, so that float16 neither loses nor enlarges g. An example whose gradient is NaN
    makes g NaN, as in `backprop`: the choice of examples to leave out is the user's.

    Args:
        threshold: θ > 0; may be traced.

    Returns:
        A function ``(net, loss) -> gradient`` like `backprop`: ``trainer(…, gradient=clip_per_example(1.0))``.

    Raises:
        ValueError: θ ≤ 0.
        Unsupported: when called, for a network with batch norm in training mode.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, squared
        >>> from fnn.derivatives import clip_per_example
        >>> net, x, y = linear(1), jnp.array([[0.0], [0.0]]), jnp.array([[8.0], [0.5]])
        >>> params, state = {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}, ()
        >>> _, g = clip_per_example(1.0)(net, squared)(params, state, (x, y), jax.random.key(0))
        >>> g["b"]  # the mean of −8, clipped to −1, and −½
        Array([-0.75], dtype=float32)

    Source: M. Abadi and others, *Deep learning with differential privacy*, 2016; the norms without gradients, as in
    `squared_norm`.
    """
    checks.positive("threshold", threshold)

    def clipping(net: Layer, loss: Loss) -> Gradient:
        checks.is_layer("clip_per_example", net)
        checks.is_loss(loss)

        def clipped(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Params]:
            x, y, _, n = examples = supervised(batch, loss)
            a, state, tape = net.forward(params, state, x, key)
            error = examples.present(loss.slope(a, y))
            unit = units(error.reshape(n, -1))
            at_unit = wide(error) * in_rank_of(error, 1 / unit)
            _, of_leaves = net.backward(params, tape, at_unit.astype(error.dtype), _NORM)
            norm = lengths(jnp.stack([jnp.zeros_like(unit), *jax.tree.leaves(drop_records(of_leaves))], axis=1))
            theta = jnp.asarray(threshold, norm.dtype)
            share = jnp.minimum(unit, theta / jnp.where(norm == 0, theta / unit, norm))
            share = share if examples.weight is None else share * n * examples.shares(share.dtype)
            at_unit, rest = _at_unit_size(at_unit, share, norm)
            _, g = net.backward(params, tape, at_unit.astype(error.dtype), gradient)
            shortened = jax.tree.map(lambda total: total * (rest / n).astype(total.dtype), wide(g))
            return (examples.mean(loss.value(a, y)), state), narrow(shortened, g)

        return clipped

    return clipping


def _at_unit_size(at_unit: Array, share: Array, norm: Array) -> tuple[Array, Array]:
    """Errors [n, …, o] and a number with the product at_unit ∘ share, scaled to keep BackProp in range in float16.

    With r = share/max share ≤ 1, the gradients r_n‖g_n‖ add up to 2^14 at most, and no error is larger than 1: an
    example without a gradient is left out of the maximum and may have a larger share.
    """
    most = jax.lax.stop_gradient(jnp.max(jnp.where(norm == 0, 0, share), initial=0))
    most = jnp.where(most == 0, 1, most)
    longest = jax.lax.stop_gradient(jnp.max(jnp.abs(at_unit), axis=tuple(range(1, at_unit.ndim))))
    r = jnp.minimum(share / most, 1 / longest)
    total = jax.lax.stop_gradient(jnp.sum(jnp.where(r == 0, 0, r * norm)))
    scale = 2.0**14 / jnp.maximum(total, 2.0**14)
    return at_unit * in_rank_of(at_unit, r * scale), most / scale


_NORM = Reading(
    label="norm",
    outer=lambda x, error: lengths(x) * lengths(error),
    rows=lengths,
    stack=lambda stacked: lengths(stacked.T),
    scale=lambda n: 1.0,
    linear=False,
    doc="‖g_n‖ at a leaf, [n]: the square root of `squared_norm`, also where that would overflow.",
)


class GradientNoise(NamedTuple):
    """The scatter of the examples' gradients around their mean g over a batch of n, in float32 at least.

    Every ratio of noise to signal is 0 if the examples agree, including 0/0, and infinite if they scatter without a
    signal. A variance of at most n eps of Σ_n ‖g_n‖² is rounding and counts as 0.
    """

    squared_norm: Array
    """‖g‖²"""
    variance: Array
    """tr Σ = (1/(n−1)) Σ_n ‖g_n − g‖², of a single example's gradient"""
    noise_scale: Array
    """``tr Σ/|G|²`` with the unbiased ``|G|²`` = ‖g‖² − tr Σ/n, or 0 if negative: the batch size at which noise and
    signal are equal, the inverse of one example's signal-to-noise ratio"""
    norm_test: Array
    """√(tr Σ/(n‖g‖²)), the relative error of g; an adaptive batch grows while this exceeds a θ < 1"""
    inner_product_test: Array
    """√(Var⟨g_n, g⟩/(n‖g‖⁴)): the same along g, the part that affects a step first"""
    orthogonality_test: Array
    """√(E‖g_n − (⟨g_n, g⟩/‖g‖²) g‖²/(n‖g‖²)): the same across g"""
