"""The costs of two gradients: the operations of the compiled programs, and times taken in turn."""

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from experiments.costs import costs
from fnn import autodiff, backprop, dense, linear, serial, tanh


def test_costs_are_those_of_the_compiled_programs() -> None:
    net, x, y = serial(dense(5, tanh), linear(3)), jnp.ones((6, 4)), jnp.zeros(6, jnp.int32)
    given = *net.init(jax.random.key(0), x), (x, y), jax.random.key(1)
    by_hand, automatic = (make(net, fnn.softmax_cross_entropy) for make in (backprop, autodiff))
    found = costs(by_hand, automatic, given, rounds=2)
    assert found.second.flops == (jax.jit(automatic).lower(*given).compile().cost_analysis() or {})["flops"]
    assert found.first.run_seconds > 0 < found.time_ratio
    assert found.ratios()["run_seconds"] == found.time_ratio
    untimed = costs(by_hand, automatic, given, rounds=0)
    assert np.isnan(untimed.time_ratio)
    assert np.isnan(untimed.second.run_seconds)
