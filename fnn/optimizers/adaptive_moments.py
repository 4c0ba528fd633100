"""Adam and Nadam (slide "Combined gradient methods"): momentum divided by RMSProp's root, both calibrated.

Operations are elementwise; g is the gradient of the batch's mean loss; k = 1 in the first step. The averages start at
0; dividing by 1 − γ^k and 1 − α^k corrects their scale in the first steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fnn.core._labels import call_repr
from fnn.core.types import Array, Optimizer, Params, Rate
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._arithmetic import average, calibrated, each, from_equations, next_step, rate_at, root_plus, squares


class AdamState(NamedTuple):
    """k steps taken, v and G the averages of the gradients and of their squares, not yet calibrated."""

    k: Array
    v: Params
    G: Params


def _adaptive_momentum(
    name: str,
    direction: Callable[[Any, Any, Any, Array], Any],
    eta: Rate,
    gamma: float,
    alpha: float,
    epsilon: float,
) -> Optimizer:
    """The optimizer w := w − η·direction(v, g)/(√Ĝ + ε), the common form of Adam and Nadam."""
    optimizers_checks.hyper_parameters(eta, gamma=gamma, alpha=alpha, epsilon=epsilon)

    def equations(g: Params, state: AdamState) -> tuple[Params, AdamState]:
        k = next_step(state.k)
        v = average(gamma, state.v, g)
        G = average(alpha, state.G, squares(g))
        step = each(
            lambda d, G_hat, eta: -eta * d / root_plus(G_hat, epsilon),
            direction(gamma, v, g, k),
            calibrated(alpha, G, k),
            eta=rate_at(eta, state.k),
        )
        return step, AdamState(k, v, G)

    label = call_repr(name, eta, gamma=(gamma, 0.9), alpha=(alpha, 0.999), epsilon=(epsilon, 1e-8))
    return from_equations(label, AdamState, equations)


def adam(eta: Rate, gamma: float = 0.9, alpha: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Adam, adaptive momentum (Kingma & Ba 2015).

    Equations::

        v := γv + (1 − γ)g             v̂ := v/(1 − γ^k)
        G := αG + (1 − α)g²            Ĝ := G/(1 − α^k)
        w := w − ηv̂/(√Ĝ + ε)

    Args:
        eta: learning rate η ≥ 0, or a schedule from the step to one (see `fnn.optimizers.schedules`).
        gamma: γ in [0, 1).
        alpha: α in [0, 1).
        epsilon: ε > 0; one below the smallest normal number is raised to it.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import adam
        >>> optimizer, w = adam(0.01), jnp.array([3.0, -4.0])
        >>> print(optimizer.update(w, optimizer.init(w), w)[0])  # the first step is η in every weight
        [-0.01  0.01]
    """

    def direction(gamma: Any, v: Any, g: Any, k: Array) -> Any:
        return calibrated(gamma, v, k)

    return _adaptive_momentum("adam", direction, eta, gamma, alpha, epsilon)


def nadam(eta: Rate, gamma: float = 0.9, alpha: float = 0.999, epsilon: float = 1e-8) -> Optimizer:
    """Nadam, Nesterov-accelerated adaptive momentum (Dozat 2016), in the slide's variant.

    Equations, with v̂ and Ĝ as in `adam`::

        w := w − η(γv̂ + (1 − γ)/(1 − γ^k)·g)/(√Ĝ + ε)

    The slide calibrates v with γ^k in both terms; Dozat's paper has γ^{k+1} in the first.

    Args:
        eta: learning rate η ≥ 0, or a schedule from the step to one (see `fnn.optimizers.schedules`).
        gamma: γ in [0, 1).
        alpha: α in [0, 1).
        epsilon: ε > 0; one below the smallest normal number is raised to it.
    """

    def direction(gamma: Any, v: Any, g: Any, k: Array) -> Any:
        return average(gamma, calibrated(gamma, v, k), calibrated(gamma, g, k))

    return _adaptive_momentum("nadam", direction, eta, gamma, alpha, epsilon)
