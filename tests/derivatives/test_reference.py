"""Everything that is read from a backward pass against its automatic twin, on all networks, batches of one included."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from fnn import (
    backprop,
    dense,
    gradient,
    gram,
    grouped,
    inference_mode,
    linear,
    per_example,
    second_derivatives,
    second_moment,
    serial,
    signal_to_noise,
    softmax_cross_entropy,
    softplus,
    squared,
    squared_norm,
    tanh,
    variance,
)
from fnn.core import contributions, gathered
from fnn.derivatives import (
    clip_per_example,
    gate_curvature,
    ggn_diagonal,
    ggn_vector_product,
    gradient_noise,
    hessian_vector_product,
    kronecker_factors,
    unit_gate_curvature,
)
from fnn.derivatives import reference as automatic
from fnn.testing._asking import compiled_in_haste
from tests.checkers import check_close
from tests.problems import LAYERS, LOSSES, NETWORKS, Problem, couples, normal, posed

NETS = {
    name: problem._replace(net=inference_mode(problem.net)) if couples(problem.net) else problem
    for name, problem in NETWORKS.items()
} | {
    "bottleneck": Problem(serial(dense(1, tanh), dense(4, softplus), linear(3)), softmax_cross_entropy, 4, 3),
    "side by side": Problem(serial(grouped(dense(3, tanh), 2), linear(2)), squared, 4, 2),
}


CONVEX = {name for name, problem in NETS.items() if problem.loss.root is not None}


OF_EXAMPLES = {
    gradient: lambda g: jnp.mean(g, axis=0),
    per_example: lambda g: g,
    squared_norm: lambda g: jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))),
    gram: lambda g: jnp.einsum("ni,mi->nm", *2 * [g.reshape(g.shape[0], -1)]),
    second_moment: lambda g: jnp.mean(jnp.square(g), axis=0),
    variance: lambda g: jnp.var(g, axis=0),
    signal_to_noise: lambda g: jnp.where(jnp.mean(g, axis=0) == 0, 0, jnp.mean(g, axis=0) ** 2 / jnp.var(g, axis=0)),
}
"""What each reading promises of the gradients g [n, …] of single examples."""


def readings_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any]) -> dict[str, tuple[Any, Any]]:
    """Each reading, taken in the backward pass or gathered from contributions later, and what it should be."""
    net, loss, _, _ = problem
    _, each = automatic.read(net, loss, per_example)(*given)
    _, kept = backprop(net, loss, contributions)(*given)
    pairs = {}
    for read, meant in OF_EXAMPLES.items():
        want = jax.tree.map(meant, each)
        pairs[f"{read}"] = backprop(net, loss, read)(*given)[1], want
        if read.scale(2) == 1:
            pairs[f"{read}, gathered"] = gathered(read, kept), want
            pairs[f"{read}, automatic"] = automatic.read(net, loss, read)(*given)[1], want
    # A variance is a difference of moments, and has the digits of the larger one; so has the noise of a ratio to it.
    mean, moment = pairs["gradient"][1], pairs["second_moment"][1]
    noise = lambda g, m, ratio: m + jnp.where(ratio == 0, 0, jnp.square(g) / ratio)  # noqa: E731
    for what, (got, want) in pairs.items():
        if what.startswith("variance"):
            pairs[what] = jax.tree.map(jnp.add, got, moment), jax.tree.map(jnp.add, want, moment)
        if what.startswith("signal_to_noise"):
            pairs[what] = jax.tree.map(noise, mean, moment, got), jax.tree.map(noise, mean, moment, want)
    return pairs


def diagnostics_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any]) -> dict[str, tuple[Any, Any]]:
    """Clipping, and the noise of gradients, of which the scale may be infinite and its inverse may not."""
    net, loss, _, _ = problem
    by_hand, twin = (f(0.5)(net, loss)(*given)[1] for f in (clip_per_example, automatic.clip_per_example))
    pairs = {"clipped": (by_hand, twin)}
    if given[2][0].shape[0] > 1:
        noises = (f(net, loss)(*given) for f in (gradient_noise, automatic.gradient_noise))
        by_hand, twin = (noise._replace(noise_scale=1 / noise.noise_scale)._asdict() for noise in noises)
        pairs |= {f"noise, {what}": (by_hand[what], twin[what]) for what in twin}
    return pairs


def curvatures_and_twins(problem: Problem, given: tuple[Any, Any, Any, Any], v: Any) -> dict[str, tuple[Any, Any]]:
    """Each second derivative and its automatic twin."""
    net, loss, _, _ = problem
    Hv, Gv = (twin(net, loss)(*given, v) for twin in (automatic.hessian_vector_product, automatic.ggn_vector_product))
    each = automatic.hessian_diagonal(net, loss, per_example)(*given)[1]
    pairs = {
        "Hessians of examples": (second_derivatives(net, loss, per_example)(*given)[1], each),
        "Hessian": (second_derivatives(net, loss)(*given)[1], jax.tree.map(lambda h: jnp.mean(h, axis=0), each)),
        "Hv": (hessian_vector_product(net, loss)(*given, v), Hv),
        "Hv in reverse": (hessian_vector_product(net, loss, reverse=True)(*given, v), Hv),
        "GGN v": (ggn_vector_product(net, loss)(*given, v), Gv),
        "gates": tuple(f(net, loss)(*given) for f in (gate_curvature, automatic.gate_curvature)),
        "gates of units": tuple(f(net, loss)(*given) for f in (unit_gate_curvature, automatic.unit_gate_curvature)),
    }
    if loss.root is not None:
        want = automatic.ggn_diagonal(net, loss)(*given)[1]
        pairs["GGN"] = ggn_diagonal(net, loss)(*given)[1], want
        pairs["GGN, matrices"] = second_derivatives(net, loss, gauss_newton=True)(*given)[1], want
        factors = (f(net, loss)(*given)[1] for f in (kronecker_factors, automatic.kronecker_factors))
        pairs["Kronecker factors"] = tuple(factors)
    return pairs


ALONE = ("several yes-no questions", "prelu", "deep, little memory", "bottleneck")
"""Networks that see a batch of one too: several outputs, a slope that is trained, copies that run again, one unit."""


@pytest.mark.parametrize(("name", "n"), [*((name, 7) for name in NETS), *((name, 1) for name in ALONE)])
def test_everything_equals_its_automatic_twin(name: str, n: int) -> None:
    """By one program a network and size, compiled in haste: the compiler is what takes the time here."""
    problem = NETS[name]
    given = posed(problem, n)
    if name in NETWORKS and couples(NETWORKS[name].net):  # statistics for inference mode: all of them 1
        given = (given[0], jax.tree.map(jnp.ones_like, given[1]), *given[2:])

    def both(given: Any, v: Any) -> Any:
        quantities = readings_and_twins(problem, given) | diagnostics_and_twins(problem, given)
        return quantities | curvatures_and_twins(problem, given, v)

    arguments = given, normal(given[0], seed=21)
    pairs = compiled_in_haste(both, *arguments)(*arguments)
    assert len(pairs) == 25 + 3 * (name in CONVEX) + 6 * (n > 1)
    wrong = {}
    for what, (got, want) in pairs.items():
        try:
            check_close(got, want, rtol=1e-10)
        except AssertionError as error:
            wrong[what] = str(error)
    assert not wrong, wrong


def test_the_networks_are_of_every_layer_and_every_loss() -> None:
    """So that no quantity is right by the kind of network that it is asked of."""
    of_networks = " ".join(str(problem.net) for problem in NETS.values())
    kinds = {str(case.layer).partition("(")[0] for case in LAYERS.values()}
    assert not [kind for kind in kinds if kind not in of_networks]
    assert {str(problem.loss) for problem in NETS.values()} == set(map(str, LOSSES))
    assert {str(NETS[name].loss) for name in set(NETS) - CONVEX} == {"sigmoid_margin"}
