"""What the objects' own gradients say together: how noisy a batch's gradient is, and clipping each of them.

Neither forms a gradient of a single object. With g_n the gradient of object n, g their mean over a batch of n, and the
Gram matrix ⟨g_n, g_m⟩ from the reading `gram`, all of `GradientNoise` follows from n² numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.backprop import Gradient, backprop
from fnn.checks.probing import several_objects
from fnn.readings import gradient, gram, squared_norm
from fnn.types import Array, Batch, Layer, Loss, Params, State
from fnn.watching import unwatched


class GradientNoise(NamedTuple):
    """How the gradients of single objects scatter around their mean g over a batch of n."""

    squared_norm: Array
    """‖g‖²"""
    variance: Array
    """tr Σ = (1/(n−1)) Σ_n ‖g_n − g‖², of a single object's gradient"""
    noise_scale: Array
    """tr Σ/|G|² with the unbiased |G|² = ‖g‖² − tr Σ/n: the batch size at which noise and signal are equal, the inverse
    of one object's signal-to-noise ratio; infinite where the batch does not show any signal"""
    norm_test: Array
    """√(tr Σ/(n‖g‖²)), the relative error of g; an adaptive batch grows while this exceeds a θ < 1"""
    inner_product_test: Array
    """√(Var⟨g_n, g⟩/(n‖g‖⁴)): the same along g, which is what a step feels first"""
    orthogonality_test: Array
    """√(E‖g_n − (⟨g_n, g⟩/‖g‖²) g‖²/(n‖g‖²)): the same across g"""


def gradient_noise(net: Layer, loss: Loss) -> Callable[[Params, State, Batch, Array], GradientNoise]:
    """Diagnostics of gradient noise from one forward and one backward pass.

    Costs one backward pass with the reading `gram`; its n² numbers of each layer are two products of [n, width].

    Args:
        net: a layer.
        loss: a loss.

    Returns:
        A function ``(params, state, (x, y), key) -> GradientNoise``.

    Raises:
        ValueError: when called, for a batch of one, and for a network with batch norm in its training stage.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, squared
        >>> from fnn.noise import gradient_noise
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
        several_objects("gradient_noise", checks.batch(batch)[0].shape[0])
        (value, _), of_leaves = read(params, state, batch, key)
        return noise_of(sum(jax.tree.leaves(unwatched(of_leaves)), jnp.zeros((), value.dtype)))

    return noise


def noise_of(G: Array) -> GradientNoise:
    """The diagnostics from the Gram matrix [n, n] of the objects' gradients, n ≥ 2.

    With 1 for a vector of ones: ‖g‖² = 1ᵀG1/n², ⟨g_n, g⟩ = (G1)_n/n, tr Σ = (tr G − n‖g‖²)/(n − 1).
    """
    n = G.shape[0]
    along = jnp.mean(G, axis=1)
    norm2 = jnp.mean(along)
    variance = (jnp.trace(G) - n * norm2) / (n - 1)
    signal = norm2 - variance / n
    across = jnp.trace(G) - jnp.sum(jnp.square(along)) / norm2
    return GradientNoise(
        squared_norm=norm2,
        variance=variance,
        noise_scale=jnp.where(signal > 0, variance / signal, jnp.inf),
        norm_test=jnp.sqrt(variance / (n * norm2)),
        inner_product_test=jnp.std(along, ddof=1) / (jnp.sqrt(jnp.asarray(n, G.dtype)) * norm2),
        orthogonality_test=jnp.sqrt(jnp.maximum(across, 0) / ((n - 1) * n * norm2)),
    )


def clip_per_object(threshold: float | Array) -> Callable[[Layer, Loss], Gradient]:
    """BackProp with every object's gradient clipped to a norm before the mean is taken, as in DP-SGD.

    Equation, with θ the threshold::

        g = (1/n) Σ_n min(1, θ/‖g_n‖) g_n

    Two backward passes of one tape: the first reads the squared norms, the second starts from errors ε_n shortened by
    each object's factor, for a backward pass is linear in the error. No object moves g by more than 2θ/n. The sum
    that DP-SGD adds noise to is n g, and the noise is the user's to add.

    Args:
        threshold: θ > 0; may be traced.

    Returns:
        A function ``(net, loss) -> gradient`` as `backprop` is one: ``trainer(…, gradient=clip_per_object(1.0))``.

    Raises:
        ValueError: θ ≤ 0; when called, a network with batch norm in its training stage.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import linear, squared
        >>> from fnn.noise import clip_per_object
        >>> net, x, y = linear(1), jnp.array([[0.0], [0.0]]), jnp.array([[8.0], [0.5]])
        >>> params, state = {"w": jnp.zeros((1, 1)), "b": jnp.zeros(1)}, ()
        >>> _, g = clip_per_object(1.0)(net, squared)(params, state, (x, y), jax.random.key(0))
        >>> g["b"]  # the mean of −8, clipped to −1, and −½
        Array([-0.75], dtype=float32)

    Source: M. Abadi and others, *Deep learning with differential privacy*, 2016; the norms without gradients, as in
    `squared_norm`.
    """
    checks.positive("threshold", threshold)

    def clipping(net: Layer, loss: Loss) -> Gradient:
        checks.is_layer("clip_per_object", net)
        checks.is_loss(loss)

        def clipped(params: Params, state: State, batch: Batch, key: Array) -> tuple[tuple[Array, State], Params]:
            x, y = checks.batch(batch)
            a, state, tape = net.forward(params, state, x, key)
            error = loss.slope(a, y)
            _, of_leaves = net.backward(params, tape, error, squared_norm)
            norm = jnp.sqrt(sum(jax.tree.leaves(unwatched(of_leaves)), jnp.zeros((), a.dtype)))
            share = jnp.minimum(1, threshold / jnp.where(norm > 0, norm, threshold)).astype(a.dtype)
            _, g = net.backward(params, tape, error * (share / x.shape[0])[:, None], gradient)
            return (jnp.mean(loss.value(a, y)), state), g

        return clipped

    return clipping
