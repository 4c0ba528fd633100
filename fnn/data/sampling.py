"""Drawing rules, which choose the examples of each step: with replacement, or epochs of shuffled examples.

A drawing rule is a stateless function ``(key, step, size, batch_size) -> indices [batch_size]``: any batch of any
epoch is computed directly, in O(batch_size), and a resumed run draws the same batches as an uninterrupted one. A rule
may also return a pair (indices, weight), both [batch_size]: the weights of the examples in the batch, 0 for none.

Example:
    >>> import jax
    >>> key = jax.random.key(0)
    >>> epoch = [int(i) for step in range(3) for i in shuffled(key, step, 6, 2)]
    >>> sorted(epoch)
    [0, 1, 2, 3, 4, 5]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._trees import is_key
from fnn.core.types import Array

Draw = Callable[[Array, Any, int, int], Array | tuple[Array, Array]]

_GOLDEN = 0x9E3779B9  # 2³² divided by the golden ratio: consecutive multiples of it are far apart


def with_replacement(key: Array, step: Any, size: int, batch_size: int) -> Array:
    """Indices drawn independently and uniformly, as in the lecture's SG (slide "Algorithm SG").

    Args:
        key: a key; step t draws from ``fold_in(key, t)``.
        step: the step 0, 1, …; may be traced.
        size: number of examples ℓ, below 2³¹.
        batch_size: examples in a batch, at least 1; more than ℓ is allowed.

    Returns:
        Indices in [0, ℓ), int32 [batch_size].
    """
    size = _sample_size("with_replacement", size)
    batch_size = checks.count("batch_size", batch_size)
    return jax.random.randint(jax.random.fold_in(key, step), (batch_size,), 0, size, jnp.int32)


def shuffled(key: Array, step: Any, size: int, batch_size: int) -> Array:
    """Indices in an order that is reshuffled every epoch; every batch is full and has no example twice.

    An epoch has ⌊ℓ/batch_size⌋ batches. The last ℓ mod batch_size examples of its order are left out; as each epoch has
    its own order, they differ from epoch to epoch.

    Args:
        key: a key; the order of epoch e is `permuted` with ``(key, e)``.
        step: the step 0, 1, …; may be traced.
        size: number of examples ℓ, below 2³¹.
        batch_size: examples in a batch, in 1 … ℓ.

    Returns:
        Indices in [0, ℓ), int32 [batch_size].
    """
    size = _sample_size("shuffled", size)
    batch_size = checks.count("batch_size", batch_size)
    _batch_fits(batch_size, size)
    epoch, batch = jnp.divmod(jnp.asarray(step, jnp.int32), size // batch_size)
    positions = batch * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return permuted(key, epoch, positions, size)


def shuffled_whole(key: Array, step: Any, size: int, batch_size: int) -> tuple[Array, Array]:
    """Indices as of `shuffled`, with weights that keep the remainder of every epoch.

    An epoch has ⌈ℓ/batch_size⌉ batches and takes every example exactly once. Its last batch is filled up with examples
    of weight 0; as means are over the weights, its ℓ mod batch_size others count as a smaller batch.

    Args:
        key: as in `shuffled`.
        step: as in `shuffled`.
        size: as in `shuffled`.
        batch_size: examples in a batch, in 1 … ℓ.

    Returns:
        Indices in [0, ℓ), int32 [batch_size], and weights 0 or 1 [batch_size].

    Example:
        >>> import jax
        >>> indices, weight = shuffled_whole(jax.random.key(0), 2, 5, 2)
        >>> weight.tolist()
        [1.0, 0.0]
    """
    size = _sample_size("shuffled_whole", size)
    batch_size = checks.count("batch_size", batch_size)
    _batch_fits(batch_size, size)
    epoch, batch = jnp.divmod(jnp.asarray(step, jnp.int32), -(-size // batch_size))
    positions = batch * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    indices = permuted(key, epoch, jnp.minimum(positions, size - 1), size)
    return indices, (positions < size).astype(jnp.result_type(float))


def permuted(key: Array, epoch: Any, positions: Array, size: int) -> Array:
    """Images of positions under a pseudo-random permutation of 0 … size−1, which is never formed as a whole.

    Write a position as p = q·a + r with 0 ≤ r < a, 0 ≤ q < b, where a and b are about √size and ab ≥ size. Each round
    of the Feistel network adds to one part a hash F of the other; a round is invertible and hence a bijection of
    0 … ab−1::

        r := (r + F_j(q)) mod a            q := (q + F_{j+1}(r)) mod b

    An image outside 0 … size−1 is mapped again until it lies inside (cycle walking), which preserves the bijection.
    This is rare: a is chosen between √size and 1.5 √size to make ab − size as small as possible, 3 or less for half of
    all sizes; below 256, a is the first candidate. It must be even, since with a and b odd every round is an even
    permutation and half of all orders could not occur.

    The fewer the positions, the more rounds are needed to make all orders equally frequent: for 7 examples 16 rounds
    fail a χ² test over all 5040 orders and 24 pass it; for 256 and more, 8 pass the tests of places and distances.

    Source: J. Black, P. Rogaway, *Ciphers with arbitrary finite domains*, 2002, their generalised Feistel cipher.
    The hash is a 32-bit integer mixer: good for shuffling, not for secrets.

    Args:
        key: a key, typed or raw.
        epoch: number of the permutation, an integer; may be traced.
        positions: integers in [0, size), any shape.
        size: number of permuted positions, in 1 … 2³¹ − 1.

    Returns:
        The images, int32, in the shape of positions.
    """
    size = _sample_size("permuted", size)
    least = math.isqrt(size - 1) + 1
    least += least % 2
    most, rounds = (least, 24) if size < 256 else (min(3 * least // 2, 2**16 - 2), 8)
    a = min(range(least, most + 1, 2), key=lambda a: -size % a)
    b = -(-size // a)
    words = _round_words(key, epoch, rounds)

    def through(p: Array) -> Array:
        q = p // jnp.uint32(a)
        r = p % jnp.uint32(a)
        for j in range(0, rounds, 2):
            r = _sum_modulo(a, r, _below(a, _mixed(q ^ words[j])))
            q = _sum_modulo(b, q, _below(b, _mixed(r ^ words[j + 1])))
        return q * jnp.uint32(a) + r

    def walk(p: Array) -> Array:
        return jnp.where(p < size, p, through(p))

    # For ab = size the loop body never runs. The loop stays all the same: without it XLA would fuse the rounds into
    # every consumer of the image, once for each use and each round, and compilation would not finish.
    image = through(jnp.asarray(positions).astype(jnp.uint32))
    return jax.lax.while_loop(lambda p: jnp.any(p >= size), walk, image).astype(jnp.int32)


def _below(bound: int, word: Array) -> Array:
    """⌊h·bound/2¹⁶⌋ in [0, bound), with h the word's upper half: no division needed, for bound < 2¹⁶."""
    return (word >> 16) * jnp.uint32(bound) >> 16


def _sum_modulo(modulus: int, a: Array, b: Array) -> Array:
    """(a + b) mod modulus for a and b in [0, modulus)."""
    total = a + b
    return jnp.where(total < modulus, total, total - jnp.uint32(modulus))


def _mixed(word: Array) -> Array:
    """A bijection of 32-bit words in which each input bit flips every output bit half of the time (MurmurHash3)."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _round_words(key: Array, epoch: Any, rounds: int) -> Array:
    """One 32-bit word per round, from the key and the epoch."""
    data = jax.random.key_data(key) if is_key(key) else key
    seed = _mixed(jnp.asarray(epoch).astype(jnp.uint32) + jnp.uint32(_GOLDEN))
    for word in data:
        seed = _mixed(seed ^ word) + jnp.uint32(_GOLDEN)
    return _mixed(seed + jnp.arange(1, rounds + 1, dtype=jnp.uint32) * jnp.uint32(_GOLDEN))


def _sample_size(where: str, size: Any) -> int:
    """The checked number of examples, which int32 must be able to index."""
    size = checks.count("size", size)
    if size >= 2**31:
        raise ValueError(f"{where}: expected a size below 2³¹ = {2**31}, got {size}. Split the sample.")
    return size


def _batch_fits(batch_size: int, size: int) -> None:
    """Raise ValueError if a batch of different examples exceeds the sample."""
    if batch_size > size:
        raise ValueError(
            f"draw: expected at most the {size} examples of the data in a batch, got batch_size {batch_size}. "
            f"Choose batch_size <= {size}, or draw=with_replacement."
        )
