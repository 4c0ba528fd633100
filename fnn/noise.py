"""What the objects' own gradients say together: how noisy a batch's gradient is, and clipping each of them.

Neither forms a gradient of a single object. With g_n the gradient of object n, g their mean over a batch of n, and the
Gram matrix ⟨g_n, g_m⟩ from the reading `gram`, all of `GradientNoise` follows from n² numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.backprop import Gradient, backprop
from fnn.checks.probing import several_objects
from fnn.readings import GradientNoise, beyond_rounding, gradient, gram, wide
from fnn.types import Array, Batch, Layer, Loss, Params, Reading, State
from fnn.watching import unwatched


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
        n = checks.batch(batch)[0].shape[0]
        several_objects("gradient_noise", n)
        (value, _), of_leaves = read(params, state, batch, key)
        return noise_of(sum(jax.tree.leaves(unwatched(of_leaves)), jnp.zeros((n, n), value.dtype)))

    return noise


def noise_of(G: Array) -> GradientNoise:
    """The diagnostics from the Gram matrix [n, n] of the objects' gradients, n ≥ 2.

    With 1 for a vector of ones: ‖g‖² = 1ᵀG1/n², ⟨g_n, g⟩ = (G1)_n/n, tr Σ = (tr G − n‖g‖²)/(n − 1), and across g lies
    tr G − Σ_n ⟨g_n, g⟩²/‖g‖².
    """
    n, G = G.shape[0], wide(G)
    along, total = jnp.mean(G, axis=1), jnp.trace(G)
    norm2 = jnp.maximum(jnp.mean(along), 0)
    variance = beyond_rounding(total - n * norm2, total, n) / (n - 1)
    along_g = _over(jnp.where(norm2 > 0, jnp.sum(jnp.square(along)), 0), norm2)
    across = beyond_rounding(total - along_g, total, n)
    spread = jnp.where(variance == 0, 0, jnp.var(along, ddof=1))
    return GradientNoise(
        squared_norm=norm2,
        variance=variance,
        noise_scale=_over(variance, jnp.maximum(norm2 - variance / n, 0)),
        norm_test=jnp.sqrt(_over(variance, n * norm2)),
        inner_product_test=_over(jnp.sqrt(spread / n), norm2),
        orthogonality_test=jnp.sqrt(_over(across / (n - 1), n * norm2)),
    )


def _over(part: Array, whole: Array) -> Array:
    """part/whole, where 0/0 is 0."""
    return part / jnp.where(part == 0, 1, whole)


def clip_per_object(threshold: float | Array) -> Callable[[Layer, Loss], Gradient]:
    """BackProp with every object's gradient clipped to a norm before the mean is taken, as in DP-SGD.

    Equation, with θ the threshold::

        g = (1/n) Σ_n min(1, θ/‖g_n‖) g_n

    Two backward passes of one tape: the first reads the norms, the second starts from errors ε_n shortened by each
    object's factor, for a backward pass is linear in the error. No object moves g by more than 2θ/n. The sum that
    DP-SGD adds noise to is n g, and the noise is the user's to add.

    Norms are found in float32 at least, from lengths in units of their largest entry and of errors in units of theirs,
    so that no square overflows and no exploding gradient is lost. An object whose gradient is NaN makes g NaN, as in
    `backprop`: which object to leave out is the user's to decide.

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
            unit = _units(error)
            at_unit = wide(error) * (1 / unit)[:, None]
            _, of_leaves = net.backward(params, tape, at_unit.astype(error.dtype), _NORM)
            norm = _lengths(jnp.stack([jnp.zeros_like(unit), *jax.tree.leaves(unwatched(of_leaves))], axis=1))
            theta = jnp.asarray(threshold, norm.dtype)
            share = jnp.minimum(unit, theta / jnp.where(norm == 0, theta / unit, norm))
            shortened = at_unit * (share / x.shape[0])[:, None]
            _, g = net.backward(params, tape, shortened.astype(error.dtype), gradient)
            return (jnp.mean(loss.value(a, y)), state), g

        return clipped

    return clipping


def _units(rows: Array) -> Array:
    """A power of two near the largest entry of each row [n], which divides without rounding; 1 for a row of zeros."""
    largest = jnp.max(jnp.abs(wide(rows)), axis=1, initial=0)
    most = jnp.finfo(largest.dtype).maxexp - 3  # beyond it, 1/unit is flushed to 0
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(jnp.frexp(largest)[1], -most, most))


def _lengths(rows: Array) -> Array:
    """‖row‖ [n] of each row [n, …], its squares safe from overflow."""
    rows = wide(rows.reshape(rows.shape[0], -1))
    unit = _units(rows)
    return unit * jnp.sqrt(jnp.sum(jnp.square(rows * (1 / unit)[:, None]), axis=1))


_NORM = Reading(
    label="norm",
    outer=lambda x, error: _lengths(x) * _lengths(error),
    rows=_lengths,
    stack=lambda stacked: _lengths(stacked.T),
    scale=lambda n: 1.0,
    linear=False,
)
"""‖g_n‖ at a leaf, [n]: the square root of `squared_norm`, where that would overflow too."""
