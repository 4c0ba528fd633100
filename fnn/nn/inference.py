"""Inference mode, and averages over the networks that dropout thins (slide "Interpretations of Dropout").

A network with N neurons under dropout is 2^N networks with common weights. Training samples one of them at a time;
inference should average them all. For a linear output over one dropped layer, the rule (1 − p) gives exactly this
average; for a softmax over it, exactly the normalised geometric mean; elsewhere the rule is an approximation.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import dense, dropout, linear, serial, tanh
    >>> net, x = serial(dense(8, tanh), dropout(0.5), linear(2)), jnp.ones((3, 4))
    >>> params, state = net.init(jax.random.key(0), x)
    >>> bool(jnp.allclose(thinned_average(net, params, state, x), net.apply(params, state, x), atol=1e-6))
    True
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._numerics import wide
from fnn.core.types import Array, Layer, Modes, Params, State
from fnn.nn.dropouts import DropoutTape
from fnn.nn.surgery import intercept, iter_layers, map_layers

MOST_NEURONS = 16
"""the largest N for which `thinned_average` enumerates 2^N masks"""


def inference_mode(net: Layer) -> Layer:
    """A copy of the network that always runs in inference mode: no dropout, running statistics in batch norm.

    Its forward is deterministic and treats each example independently, so every reading and second derivative
    exists, for instance to prune a trained network.

    Args:
        net: any layer.

    Returns:
        A layer with the params and state of `net`.

    Example:
        >>> from fnn import inference_mode, batch_norm, dense, dropout, serial, tanh
        >>> inference_mode(serial(dense(4, tanh), dropout(0.5), batch_norm()))
        serial(dense(4, tanh), inference_mode(dropout(0.5)), inference_mode(batch_norm()))
    """
    checks.is_layer("inference_mode", net)
    return map_layers(lambda part: part if part.modes is None else part.modes.inference, net)


def monte_carlo(net: Layer, samples: int) -> Callable[[Params, State, Array, Array], Array]:
    """Monte Carlo dropout: the outputs of randomly thinned networks in inference, for a mean and a spread.

    Other layers, such as batch norm, are in inference mode. Every example and every sample has its own masks.

    Args:
        net: a network with dropout layers.
        samples: number of outputs to draw.

    Returns:
        A function ``(params, state, x [n, i], key) -> [samples, n, M]``; its mean over the first axis is the
        prediction, its standard deviation the uncertainty.

    Raises:
        ValueError: a network without dropout.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import dense, dropout, linear, serial, tanh
        >>> from fnn.nn import monte_carlo
        >>> net, x = serial(dense(16, tanh), dropout(0.2), linear(1)), jnp.ones((5, 3))
        >>> params, state = net.init(jax.random.key(0), x)
        >>> drawn = monte_carlo(net, samples=100)(params, state, x, jax.random.key(1))
        >>> drawn.shape, drawn.std(axis=0).shape
        ((100, 5, 1), (5, 1))

    Source: Y. Gal, Z. Ghahramani, *Dropout as a Bayesian approximation*, 2016.
    """
    checks.is_layer("monte_carlo", net)
    samples = checks.count("samples", samples)
    if not _dropouts(net):
        raise ValueError(f"monte_carlo: expected a network with dropout, got {net}. Add dropout(p) to it.")
    dropping = _dropping(net)

    def draw(params: Params, state: State, x: Array, key: Array) -> Array:
        keys = jax.random.split(key, samples)
        return jax.vmap(lambda key: dropping.forward(params, state, x, key)[0])(keys)

    return draw


def thinned_average(
    net: Layer,
    params: Params,
    state: State,
    x: Array,
    of: Callable[[Array], Array] = lambda a: a,
    batch_size: int = 256,
) -> Array:
    """The exact mean over all 2^N thinned networks, Σ_ξ P(ξ) of(a(x; ξ)), summed over every mask ξ in {0, 1}^N.

    The slide "Interpretations of Dropout" counts 2^N networks of N weights; a mask drops N *neurons*. A mask
    is common to the examples, and P(ξ) = (1 − p)^{kept} p^{dropped}. Layers are otherwise in inference mode.
    With ``of=jax.nn.log_softmax`` a softmax of the result is the normalised geometric mean of the networks.

    Args:
        net: a network with dropout layers over N ≤ 16 neurons in total.
        params: of the network.
        state: of the network.
        x: examples [n, i].
        of: the function of the output [n, M] to average.
        batch_size: networks computed at a time; a larger number is faster and needs more memory.

    Returns:
        The mean, in the shape of ``of(a)``.

    Raises:
        ValueError: no neurons to drop, or more than 16; a dropout within `repeat`, `grouped` or `remat`, where
            one layer represents several or keeps no tape.
    """
    checks.is_layer("thinned_average", net)
    checks.is_function("of", of)
    keeps = [modes.keep for modes in _dropouts(net)]
    widths = _dropped_widths(net, params, state, x)
    if len(keeps) != len(widths):
        raise ValueError(
            f"thinned_average: expected no dropout within repeat, grouped or remat, got {net}. "
            "Write serial(layer, …) for repeat(layer, …), columns for grouped, and leave remat out."
        )
    N = sum(widths)
    if not 1 <= N <= MOST_NEURONS:
        raise ValueError(
            f"thinned_average: expected 1 to {MOST_NEURONS} dropped neurons, got N = {N} in {net}. "
            "Sample the masks by monte_carlo instead."
        )
    dtype = wide(x).dtype
    keep = jnp.concatenate([jnp.full(width, p, dtype) for p, width in zip(keeps, widths, strict=True)])

    def weighted(code: Array) -> Array:
        mask = (code >> jnp.arange(N) & 1).astype(x.dtype)
        probability = jnp.prod(jnp.where(mask == 1, keep, 1 - keep))
        masks = iter(jnp.split(mask, [sum(widths[: i + 1]) for i in range(len(widths) - 1)]))
        a, _, _ = _thinned(net, masks).forward(params, state, x, jax.random.key(0))
        return probability * wide(of(a))

    block = 2 ** min(N, checks.count("batch_size", batch_size).bit_length() - 1)
    codes = jnp.arange(2**N).reshape(-1, block)

    def add(total: Array, codes: Array) -> tuple[Array, None]:
        return total + jnp.sum(jax.vmap(weighted)(codes), axis=0), None

    like = jax.eval_shape(weighted, codes[0, 0])
    return jax.lax.scan(add, jnp.zeros(like.shape, like.dtype), codes)[0].astype(x.dtype)


def _dropping(net: Layer) -> Layer:
    """The network with dropout as in training and all other layers in inference mode."""
    return map_layers(lambda part: part if part.modes is None or part.modes.thinned else part.modes.inference, net)


def _dropouts(net: Layer) -> list[Modes]:
    """The modes of the layers that drop neurons, in the order of their tapes."""
    return [part.modes for part in iter_layers(net) if part.modes is not None and part.modes.thinned]


def _dropped_widths(net: Layer, params: Params, state: State, x: Array) -> list[int]:
    """The number of neurons under each dropout layer whose tape is that of a single layer."""
    is_tape = lambda node: isinstance(node, DropoutTape)  # noqa: E731
    ranks: dict[int, int] = {}  # of the x of each dropout; a tape within repeat or grouped has one axis more
    count = itertools.count()

    def noting(part: Layer) -> Layer:
        if part.modes is None or not part.modes.thinned:
            return part
        i = next(count)

        def forward(call: Any, params: Params, state: State, x: Array, key: Array) -> tuple[Array, State, Any]:
            ranks[i] = x.ndim
            return call(params, state, x, key)

        return intercept(part, forward=forward)

    noted = map_layers(noting, _dropping(net))
    _, _, tape = jax.eval_shape(noted.forward, params, state, x, jax.random.key(0))
    tapes = filter(is_tape, jax.tree.leaves(tape, is_leaf=is_tape))
    alone = zip(tapes, (ranks[i] for i in sorted(ranks)), strict=False)
    return [tape.mask.shape[-1] for tape, rank in alone if tape.mask.ndim == rank]


def _thinned(net: Layer, masks: Iterator[Array]) -> Layer:
    """The network in inference mode that keeps the neurons of the given masks, one mask per dropout layer."""

    def form(part: Layer) -> Layer:
        if part.modes is None:
            return part
        return part.modes.thinned(next(masks)) if part.modes.thinned else part.modes.inference

    return map_layers(form, net)
