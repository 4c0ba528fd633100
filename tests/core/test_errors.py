"""Quantities that do not exist raise `Unsupported`, batches that are too small `NeedsMoreExamples`."""

import jax
import jax.numpy as jnp
import pytest

from fnn import (
    backprop,
    batch_norm,
    dense,
    linear,
    per_example,
    second_derivatives,
    serial,
    sigmoid_margin,
    squared,
    tanh,
)
from fnn.core import NeedsMoreExamples, Unsupported
from fnn.derivatives import ggn_diagonal, gradient_noise

NET = serial(dense(3, tanh), linear(1))
COUPLED = serial(linear(2), batch_norm(), linear(1))
CURVELESS = serial(dense(3, tanh)._replace(curve=None), linear(1))

UNSUPPORTED = {
    "single examples through batch_norm": (backprop(COUPLED, squared, per_example), COUPLED, 3),
    "second derivatives through batch_norm": (second_derivatives(COUPLED, squared), COUPLED, 3),
    "second derivatives without curve": (second_derivatives(CURVELESS, squared), CURVELESS, 3),
    "batch statistics of one example": (backprop(COUPLED, squared), COUPLED, 1),
    "noise of one example": (gradient_noise(NET, squared), NET, 1),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_does_not_exist_is_unsupported(name: str) -> None:
    function, net, n = UNSUPPORTED[name]
    params, state = net.init(jax.random.key(0), jnp.ones((3, 2)))
    with pytest.raises(Unsupported) as raised:
        function(params, state, (jnp.ones((n, 2)), jnp.ones((n, 1))), jax.random.key(1))
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, NeedsMoreExamples) == (n == 1)


def test_a_loss_without_a_root_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="root of its Hessian"):
        ggn_diagonal(NET, sigmoid_margin)
