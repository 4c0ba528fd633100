"""Which examples make up a batch: every epoch a permutation, every order equally likely, any batch at once."""

import subprocess
import sys
from collections import Counter
from itertools import permutations
from math import factorial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from fnn import permuted, shuffled, with_replacement
from fnn.data import shuffled_whole

SIGNIFICANCE = 1e-3  # keys are fixed, so a test that passes once passes always
SIZES = [
    *range(1, 18),
    25,
    35,
    36,
    37,
    63,
    64,
    65,
    100,
    127,
    128,
    129,
    255,
    256,
    257,
    1000,
    1437,
    4097,
    65_537,
    1_000_003,
]


def orders(size: int, count: int, seed: int) -> np.ndarray:
    """The permutations of the first `count` epochs, [count, size]."""
    of_epoch = jax.vmap(lambda epoch: permuted(jax.random.key(seed), epoch, jnp.arange(size), size))
    return np.asarray(jax.jit(of_epoch)(jnp.arange(count)))


def chi_square_p(observed: np.ndarray, expected: float, freedom: int) -> float:
    return float(chi2.sf(((observed - expected) ** 2 / expected).sum(), freedom))


@pytest.mark.parametrize("size", SIZES)
def test_permuted_is_a_bijection(size: int) -> None:
    images = jax.jit(lambda epoch: permuted(jax.random.key(1), epoch, jnp.arange(size), size))(5)
    assert images.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(images), np.arange(size))


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6, 7])
def test_all_orders_of_few_examples_are_equally_frequent(size: int) -> None:
    count = 40 * factorial(size)
    seen = Counter(map(tuple, orders(size, count, seed=3)))
    observed = np.array([seen[order] for order in permutations(range(size))])
    assert chi_square_p(observed, count / factorial(size), factorial(size) - 1) > SIGNIFICANCE


@pytest.mark.parametrize("size", [9, 16, 37, 100, 256, 300])
def test_pairs_of_neighbours_go_everywhere_equally_often(size: int) -> None:
    count = 100 * size
    images = orders(size, count, seed=4)
    first = np.bincount(images[:, 0], minlength=size)
    assert chi_square_p(first, count / size, size - 1) > SIGNIFICANCE
    gap = np.bincount((images[:, 1] - images[:, 0]) % size, minlength=size)[1:]
    assert chi_square_p(gap, count / (size - 1), size - 2) > SIGNIFICANCE


@pytest.mark.parametrize("size", [8, 9, 16])
def test_odd_and_even_orders_are_equally_frequent(size: int) -> None:
    count = 4000
    signs = np.array([np.linalg.det(np.eye(size)[order]) for order in orders(size, count, seed=5)])
    assert abs(signs.sum()) < 4 * np.sqrt(count)


def test_epochs_and_keys_have_orders_of_their_own() -> None:
    size = 1000
    base = orders(size, 2, seed=0)
    other = orders(size, 1, seed=1)
    for u, v in ((base[0], base[1]), (base[0], other[0])):
        assert np.sum(u == v) < 10  # one fixed point is expected of two random orders


def test_any_batch_of_any_epoch_is_had_directly_and_an_epoch_has_no_example_twice() -> None:
    size, batch_size, key = 23, 5, jax.random.key(2)
    for epoch in (0, 7):
        batches = [shuffled(key, epoch * (size // batch_size) + b, size, batch_size) for b in range(size // batch_size)]
        examples = np.concatenate(batches)
        assert len(set(examples.tolist())) == len(examples) == 20
        np.testing.assert_array_equal(examples, permuted(key, epoch, jnp.arange(20), size))


def test_every_example_is_left_out_sometimes() -> None:
    draws = jax.vmap(lambda step: shuffled(jax.random.key(0), step, 10, 7))(jnp.arange(200))
    assert np.bincount(np.asarray(draws).reshape(-1), minlength=10).min() > 100


def test_raw_keys_shuffle_as_typed_ones() -> None:
    typed = jax.random.key(6)
    np.testing.assert_array_equal(shuffled(typed, 3, 50, 8), shuffled(jax.random.key_data(typed), 3, 50, 8))


def test_sampling_with_replacement_is_uniform_and_repeats() -> None:
    draws = jax.vmap(lambda step: with_replacement(jax.random.key(0), step, 12, 20))(jnp.arange(500))
    assert chi_square_p(np.bincount(np.asarray(draws).reshape(-1), minlength=12), 10_000 / 12, 11) > SIGNIFICANCE
    assert all(len(set(batch.tolist())) < 20 for batch in np.asarray(draws))


@pytest.mark.parametrize("draw", [shuffled, with_replacement])
def test_drawing_works_the_same_traced_and_without_x64(draw) -> None:
    eager = draw(jax.random.key(0), 17, 100, 9)
    np.testing.assert_array_equal(eager, jax.jit(draw, static_argnums=(2, 3))(jax.random.key(0), 17, 100, 9))
    with jax.enable_x64(False):
        np.testing.assert_array_equal(eager, draw(jax.random.key(0), 17, 100, 9))


FULL_GRIDS = """
import fnn, jax, jax.numpy as jnp

for size, batch_size in ((100, 10), (5000, 25), (10**6, 32)):
    twice = jax.jit(lambda key, t: jnp.repeat(fnn.shuffled(key, t, size, batch_size), 2))
    once = fnn.shuffled(jax.random.key(0), 3, size, batch_size)
    assert twice(jax.random.key(0), 3)[::2].tolist() == once.tolist()
    assert len(set(once.tolist())) == batch_size and 0 <= once.min() and once.max() < size
"""


def test_what_takes_the_indices_compiles_where_the_grid_is_full() -> None:
    """Where ab = size nothing walks, and XLA once worked all rounds into each use of an index, for minutes.

    In a process of its own, which compiles as users do.
    """
    subprocess.run([sys.executable, "-c", FULL_GRIDS], check=True, timeout=120)


@pytest.mark.parametrize("draw", [shuffled, with_replacement])
@pytest.mark.parametrize("size", [2**31, 2**32, 2**40])
def test_more_examples_than_int32_counts_are_refused(draw: Any, size: int) -> None:
    with pytest.raises(ValueError, match="expected a size below 2³¹"):
        draw(jax.random.key(0), 0, size, 4)


def test_the_largest_sample_is_drawn_from() -> None:
    size = 2**31 - 1
    for draw in (shuffled, with_replacement):
        chosen = np.asarray(draw(jax.random.key(0), 7, size, 1000))
        assert chosen.min() >= 0
        assert chosen.max() > size // 2
        assert len(np.unique(chosen)) > 990


# shuffled_whole


@pytest.mark.parametrize(("size", "batch_size"), [(7, 3), (6, 3), (5, 5), (9, 1), (10, 7)])
def test_a_whole_epoch_has_every_example_once(size: int, batch_size: int) -> None:
    batches = -(-size // batch_size)
    for epoch in range(3):
        counts = np.zeros(size)
        for batch in range(batches):
            indices, weight = shuffled_whole(jax.random.key(2), epoch * batches + batch, size, batch_size)
            assert indices.shape == weight.shape == (batch_size,)
            np.add.at(counts, np.asarray(indices), np.asarray(weight))
        np.testing.assert_array_equal(counts, 1)


def test_full_batches_are_those_of_shuffled() -> None:
    key = jax.random.key(2)
    for step in range(4):
        indices, weight = shuffled_whole(key, step, 8, 2)
        np.testing.assert_array_equal(indices, shuffled(key, step, 8, 2))
        assert weight.tolist() == [1, 1]
