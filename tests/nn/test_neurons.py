"""Linear and dense layers: the formulas by loops, with and without a bias."""

import jax
import jax.numpy as jnp
import pytest

from fnn import linear

# Messages that name what to do, and harm nobody who does it


def test_a_stack_of_tasks_is_told_of_vmap():
    x = jnp.ones((5, 4, 3))
    params, state = linear(2).init(jax.random.key(0), x[0])
    with pytest.raises(ValueError, match=r"reshape.*jax\.vmap"):
        linear(2).apply(params, state, x)
