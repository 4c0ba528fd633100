"""Networks drawn at random: the hand-written gradient is the automatic one, whatever is composed with whatever."""

import re
from contextlib import nullcontext

import jax
import jax.numpy as jnp
from checkers import check_close, random_cotangent, unwatched
from hypothesis import HealthCheck, given, settings
from problems import ACTIVATIONS, LOSSES, Problem, draw_network, posed

from fnn import (
    activate,
    backprop,
    batch_norm,
    columns,
    dense,
    dropout,
    gradient,
    inverted_dropout,
    linear,
    prelu,
    remat,
    repeat,
    residual,
    serial,
    watch,
)

EXAMPLES = 200


DRAWN: set[str] = set()


@settings(max_examples=EXAMPLES)
@given(draw_network())
def collect_names(problem: Problem) -> None:
    DRAWN.update(re.findall("[a-z_]+", f"{problem.net} {problem.loss}"))


def test_every_layer_combinator_activation_and_loss_is_drawn() -> None:
    collect_names()
    factories = [linear, dense, activate, prelu, dropout, inverted_dropout, batch_norm]
    combinators = [serial, columns, residual, repeat, remat, watch]
    activations = {str(activation).split("(")[0] for activation in ACTIVATIONS}
    expected = {f.__name__ for f in factories + combinators} | activations | set(map(str, LOSSES)) | {"scaled_sine"}
    assert DRAWN >= expected


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(draw_network())
def test_by_hand_is_automatic(problem: Problem) -> None:
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
        check_close((unwatched(readings), through), pull(error))
        check_close(unwatched(by_hand), ((value, new_state), pull(slope)[0]))
