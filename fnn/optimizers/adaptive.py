"""RMSProp and AdaDelta (slide "Adaptive gradients"): each weight has its own step size.

Operations are elementwise; g is the gradient of the batch's mean loss. ε is *outside* the root, as on the slide;
other libraries put it inside, which changes the first steps of weights with small gradients.
"""

from __future__ import annotations

from typing import NamedTuple

from fnn.core._labels import call_repr
from fnn.core.types import Array, Optimizer, Params, Rate
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import average, each, from_equations, next_step, rate_at, root_plus, squares


class RMSPropState(NamedTuple):
    """k steps taken, G the average of the squared gradients."""

    k: Array
    G: Params


class AdaDeltaState(NamedTuple):
    """k steps taken, G and Delta the averages of the squared gradients and of the squared steps."""

    k: Array
    G: Params
    Delta: Params


def rmsprop(eta: Rate, alpha: float = 0.9, epsilon: float = 1e-8) -> Optimizer:
    """RMSProp: steps divided by the root mean square of the gradients over about 1/(1 − α) steps.

    Equations::

        G := αG + (1 − α)g²
        w := w − ηg/(√G + ε)

    Args:
        eta: learning rate η ≥ 0, or a schedule from the step to one (see `fnn.optimizers.schedules`).
        alpha: α in [0, 1).
        epsilon: ε > 0; one below the smallest normal number is raised to it.
    """
    optimizers_checks.hyper_parameters(eta, alpha=alpha, epsilon=epsilon)

    def equations(g: Params, state: RMSPropState) -> tuple[Params, RMSPropState]:
        G = average(alpha, state.G, squares(g))
        step = each(lambda g, G, eta: -eta * g / root_plus(G, epsilon), g, G, eta=rate_at(eta, state.k))
        return step, RMSPropState(next_step(state.k), G)

    label = call_repr("rmsprop", eta, alpha=(alpha, 0.9), epsilon=(epsilon, 1e-8))
    return from_equations(label, RMSPropState, equations)


def adadelta(eta: Rate = 1.0, alpha: float = 0.9, epsilon: float = 1e-3) -> Optimizer:
    """AdaDelta: steps in the unit of the weights, normalised twice, so that η = 1 is suitable (Zeiler 2012).

    Equations::

        G := αG + (1 − α)g²
        δ := g(√Δ + ε)/(√G + ε)          with the Δ of the previous step
        Δ := αΔ + (1 − α)δ²
        w := w − ηδ

    Δ starts at 0, so ε is the size of the first steps. The slide gives no value; 1e-3 outside the root starts like the
    paper's √(0 + 1e-6). With 1e-6 outside, as a library with ε inside would suggest, the weights barely move at η = 1.

    Args:
        eta: learning rate η ≥ 0, or a schedule from the step to one (see `fnn.optimizers.schedules`).
        alpha: α in [0, 1).
        epsilon: ε > 0; one below the smallest normal number is raised to it.
    """
    optimizers_checks.hyper_parameters(eta, alpha=alpha, epsilon=epsilon)

    def equations(g: Params, state: AdaDeltaState) -> tuple[Params, AdaDeltaState]:
        G = average(alpha, state.G, squares(g))
        delta = each(
            lambda g, G, Delta: g * root_plus(Delta, epsilon) / root_plus(G, epsilon),
            g,
            G,
            state.Delta,
        )
        Delta = average(alpha, state.Delta, squares(delta))
        step = each(lambda delta, eta: -eta * delta, delta, eta=rate_at(eta, state.k))
        return step, AdaDeltaState(next_step(state.k), G, Delta)

    label = call_repr("adadelta", eta=(eta, 1.0), alpha=(alpha, 0.9), epsilon=(epsilon, 1e-3))
    return from_equations(label, AdaDeltaState, equations)
