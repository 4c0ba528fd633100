"""Networks drawn at random: the hand-written gradient is the automatic one, whatever is composed with whatever."""

import re
from collections.abc import Callable
from contextlib import nullcontext

import jax
import jax.numpy as jnp
import pytest
from hypothesis import HealthCheck, given, seed, settings

from fnn import backprop, gradient
from fnn.nn import drop_records
from tests.checkers import check_close, random_cotangent
from tests.problems import ACTIVATIONS, LOSSES, Problem, draw_network, posed

SEEDS, EXAMPLES = (4, 5), 50
"""100 networks in two tests, which may run side by side."""

NAMES = {
    *("linear", "dense", "activate", "prelu", "dropout", "inverted_dropout", "batch_norm", "scaled_sine"),
    *("serial", "columns", "branches", "product", "tied", "residual", "repeat", "remat", "watch"),
    *(str(activation).split("(")[0] for activation in ACTIVATIONS),
    *map(str, LOSSES),
}


def for_each_network(number: int, check: Callable[[Problem], None]) -> None:
    """Check the networks that are drawn from one seed."""
    drawn = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])(given(draw_network())(check))
    seed(number)(drawn)()


def by_hand_is_automatic(problem: Problem) -> None:
    net, loss = problem.net, problem.loss
    params, state, (x, y), key = posed(problem)
    # Compiling each scan would take nine tenths of the time; test_combinators.py has `repeat` compiled.
    with jax.disable_jit() if "repeat" in str(net) else nullcontext():
        # Automatic: one pull-back serves a random error at the output, and the slope of the mean loss.
        a, pull, new_state = jax.vjp(lambda p, x: net.forward(p, state, x, key)[:2], params, x, has_aux=True)
        value, slope = jax.value_and_grad(lambda a: jnp.mean(loss.value(a, y)))(a)
        error = random_cotangent(a)
        # By hand.
        through, readings = net.backward(params, net.forward(params, state, x, key)[2], error, gradient)
        by_hand = backprop(net, loss)(params, state, (x, y), key)
        check_close((drop_records(readings), through), pull(error))
        check_close(drop_records(by_hand), ((value, new_state), pull(slope)[0]))


@pytest.mark.parametrize("number", SEEDS)
def test_by_hand_is_automatic(number: int) -> None:
    for_each_network(number, by_hand_is_automatic)


def test_every_layer_combinator_activation_and_loss_is_among_them() -> None:
    drawn: set[str] = set()

    def collect(problem: Problem) -> None:
        drawn.update(re.findall("[a-z_]+", f"{problem.net} {problem.loss}"))

    for number in SEEDS:
        for_each_network(number, collect)
    assert not NAMES - drawn
