"""Adam and Nadam."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from tests.optimizers.cases import HYPER, check_optimizer, each_of


@each_of("adaptive_moments")
@pytest.mark.parametrize("kind", HYPER)
def test_fifty_random_gradients_follow_the_slide(case, kind):
    check_optimizer(case.make, case.oracle, HYPER[kind](case), case.weights)


@pytest.mark.parametrize("make", [fnn.adam, fnn.nadam], ids=["adam", "nadam"])
def test_second_moment_forgets_in_bfloat16(make):
    """In bfloat16 itself 0.999 is 1, and G would never fall: the states are float32."""
    optimizer, steps = make(0.1), 2000
    one, none = jnp.ones(1, jnp.bfloat16), jnp.zeros(1, jnp.bfloat16)
    state = optimizer.update(one, optimizer.init(one), one)[1]
    assert state.G.dtype == state.v.dtype == jnp.float32
    state = jax.lax.fori_loop(0, steps, lambda _, state: optimizer.update(none, state, one)[1], state)
    # each float32 step rounds by half an ulp, 6e-8, and 0.999 itself is off by as much: 2000 · 1.2e-7
    np.testing.assert_allclose(state.G, (1 - 0.999) * 0.999**steps, rtol=2.5e-4)


def test_a_label_leaves_the_defaults_out() -> None:
    assert (str(fnn.adam(0.01)), str(fnn.nadam(0.01))) == ("adam(0.01)", "nadam(0.01)")
