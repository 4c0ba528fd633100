"""What the lecture says, in NumPy loops and exact decimals: the judge of `fnn`, which it does not import.

Optimizers are loops over one vector w in float64, a slide's equations line by line. `gradient(w, k)` is the
gradient at w in step k = 0, 1, …; `eta` is a number or a schedule k ↦ η. Each returns w after every step, [steps, dim].

Activations and losses are their slides' formulas as printed (errata aside), evaluated in decimals of 120 digits, where
nothing overflows and no difference cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from typing import Any

import numpy as np

Vector = np.ndarray
Gradient = Callable[[Vector, int], Vector]
Rate = Any


def rate(eta: Rate, k: int) -> float:
    """η of step k."""
    value: Any = eta(np.asarray(k)) if callable(eta) else eta
    return float(value)


# Slides "Algorithm SG", "Momentum", "Inverted Dropout and L2", "Gradient explosion"


def sgd(w: Vector, gradient: Gradient, steps: int, eta: Rate) -> Vector:
    path = []
    for k in range(steps):
        w = w - rate(eta, k) * gradient(w, k)
        path.append(w)
    return np.stack(path)


def sgd_l2(w: Vector, gradient: Gradient, steps: int, eta: Rate, strength: float) -> Vector:
    path = []
    for k in range(steps):
        w = w * (1 - rate(eta, k) * strength) - rate(eta, k) * gradient(w, k)
        path.append(w)
    return np.stack(path)


def momentum(w: Vector, gradient: Gradient, steps: int, eta: Rate, gamma: float = 0.9) -> Vector:
    v, path = np.zeros_like(w), []
    for k in range(steps):
        v = gamma * v + (1 - gamma) * gradient(w, k)
        w = w - rate(eta, k) * v
        path.append(w)
    return np.stack(path)


def nag_paths(w: Vector, gradient: Gradient, steps: int, eta: Rate, gamma: float = 0.9) -> tuple[Vector, Vector]:
    """w after every step, and w − ηγv, where the next step takes its gradient."""
    v, path, ahead = np.zeros_like(w), [], []
    for k in range(steps):
        v = gamma * v + (1 - gamma) * gradient(w - rate(eta, k) * gamma * v, k)
        w = w - rate(eta, k) * v
        path.append(w)
        ahead.append(w - rate(eta, k + 1) * gamma * v)
    return np.stack(path), np.stack(ahead)


def nag(w: Vector, gradient: Gradient, steps: int, eta: Rate, gamma: float = 0.9) -> Vector:
    return nag_paths(w, gradient, steps, eta, gamma)[0]


def clipped(g: Vector, theta: float) -> Vector:
    norm = np.sqrt(np.sum(g * g))
    return g * theta / norm if norm > theta else g


# Slides "Adaptive gradients", "Combined gradient methods"


def rmsprop(w: Vector, gradient: Gradient, steps: int, eta: Rate, alpha: float = 0.9, epsilon: float = 1e-8) -> Vector:
    G, path = np.zeros_like(w), []
    for k in range(steps):
        g = gradient(w, k)
        G = alpha * G + (1 - alpha) * g * g
        w = w - rate(eta, k) * g / (np.sqrt(G) + epsilon)
        path.append(w)
    return np.stack(path)


def adadelta(
    w: Vector, gradient: Gradient, steps: int, eta: Rate = 1.0, alpha: float = 0.9, epsilon: float = 1e-3
) -> Vector:
    G, Delta, path = np.zeros_like(w), np.zeros_like(w), []
    for k in range(steps):
        g = gradient(w, k)
        G = alpha * G + (1 - alpha) * g * g
        delta = g * (np.sqrt(Delta) + epsilon) / (np.sqrt(G) + epsilon)
        Delta = alpha * Delta + (1 - alpha) * delta * delta
        w = w - rate(eta, k) * delta
        path.append(w)
    return np.stack(path)


def adam(
    w: Vector,
    gradient: Gradient,
    steps: int,
    eta: Rate,
    gamma: float = 0.9,
    alpha: float = 0.999,
    epsilon: float = 1e-8,
) -> Vector:
    v, G, path = np.zeros_like(w), np.zeros_like(w), []
    for k in range(1, steps + 1):
        g = gradient(w, k - 1)
        v = gamma * v + (1 - gamma) * g
        G = alpha * G + (1 - alpha) * g * g
        v_hat, G_hat = v / (1 - gamma**k), G / (1 - alpha**k)
        w = w - rate(eta, k - 1) * v_hat / (np.sqrt(G_hat) + epsilon)
        path.append(w)
    return np.stack(path)


def nadam(
    w: Vector,
    gradient: Gradient,
    steps: int,
    eta: Rate,
    gamma: float = 0.9,
    alpha: float = 0.999,
    epsilon: float = 1e-8,
) -> Vector:
    v, G, path = np.zeros_like(w), np.zeros_like(w), []
    for k in range(1, steps + 1):
        g = gradient(w, k - 1)
        v = gamma * v + (1 - gamma) * g
        G = alpha * G + (1 - alpha) * g * g
        v_hat, G_hat = v / (1 - gamma**k), G / (1 - alpha**k)
        direction = gamma * v_hat + (1 - gamma) / (1 - gamma**k) * g
        w = w - rate(eta, k - 1) * direction / (np.sqrt(G_hat) + epsilon)
        path.append(w)
    return np.stack(path)


# Exact values


EXACT = Context(prec=120, Emax=MAX_EMAX, Emin=MIN_EMIN)


def exactly(f: Callable[[Decimal], Decimal | int], S: Sequence[float] | Vector) -> Vector:
    """f at every number of S, in 120 digits, rounded once to float64."""
    with localcontext(EXACT):
        return np.array([float(f(Decimal(float(s)))) for s in S])


def _sigmoid(z: Decimal) -> Decimal:
    return 1 / (1 + (-z).exp())


def _tanh(z: Decimal) -> Decimal:
    return (z.exp() - (-z).exp()) / (z.exp() + (-z).exp())


def _gaussian(z: Decimal) -> Decimal:
    return (-z * z / 2).exp()


def _leaky(alpha: float) -> tuple[Callable, Callable, Callable]:
    a = Decimal(alpha)
    return lambda z: max(Decimal(0), z) + a * min(Decimal(0), z), lambda z: 1 if z > 0 else a, lambda z: 0


ACTIVATIONS: dict[str, tuple[Callable, Callable, Callable]] = {
    "heaviside": (lambda z: int(z > 0), lambda z: 0, lambda z: 0),
    "sigmoid": (
        _sigmoid,
        lambda z: _sigmoid(z) * (1 - _sigmoid(z)),
        lambda z: _sigmoid(z) * (1 - _sigmoid(z)) * (1 - 2 * _sigmoid(z)),
    ),
    "tanh": (_tanh, lambda z: 1 - _tanh(z) ** 2, lambda z: -2 * _tanh(z) * (1 - _tanh(z) ** 2)),
    "logarithmic": (
        lambda z: (z + (z * z + 1).sqrt()).ln(),
        lambda z: 1 / (z * z + 1).sqrt(),
        lambda z: -z / (z * z + 1).sqrt() ** 3,
    ),
    "gaussian": (_gaussian, lambda z: -z * _gaussian(z), lambda z: (z * z - 1) * _gaussian(z)),
    "identity": (lambda z: z, lambda z: 1, lambda z: 0),
    "relu": (lambda z: max(Decimal(0), z), lambda z: int(z > 0), lambda z: 0),
    "softplus": (lambda z: (1 + z.exp()).ln(), _sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "leaky_relu(0.01)": _leaky(0.01),
    "leaky_relu(-0.5)": _leaky(-0.5),
}
"""σ, σ' and σ'' by the names of their labels; the kinks belong to nobody here."""


def _of_margin(f: Callable[[Decimal], Decimal]) -> Callable:
    return lambda a, y: sum(f(a_m * y_m) for a_m, y_m in zip(a, y, strict=True))


def _yes_no(a: Sequence[Decimal], y: Sequence[Decimal]) -> Decimal:
    """−ln of the probability of the targets."""
    return -sum(
        ((_sigmoid(a_m) if y_m == 1 else _sigmoid(-a_m)).ln() for a_m, y_m in zip(a, y, strict=True)), Decimal(0)
    )


def _choice(a: Sequence[Decimal], y: Sequence[Decimal]) -> Decimal:
    """−ln of the probability of the class y, e^{a_y}/Σ e^{a_m}."""
    (label,) = y
    return -(a[int(label)].exp() / sum((a_m.exp() for a_m in a), Decimal(0))).ln()


LOSSES: dict[str, Callable] = {
    "squared": lambda a, y: sum((a_m - y_m) ** 2 for a_m, y_m in zip(a, y, strict=True)) / 2,
    "logistic_margin": _of_margin(lambda M: (1 + (-M).exp()).ln()),
    "hinge_margin": _of_margin(lambda M: max(Decimal(0), 1 - M)),
    "exponential_margin": _of_margin(lambda M: (-M).exp()),
    "sigmoid_margin": _of_margin(lambda M: 1 / (1 + M.exp())),
    "binary_cross_entropy": _yes_no,
    "softmax_cross_entropy": _choice,
}
"""ℒ(a, y) of one example, a and y sequences, by the losses' labels."""


def losses(name: str, a: Vector, y: Vector) -> Vector:
    """ℒ(a_n, y_n) for every example n, in 120 digits, rounded once to float64."""
    with localcontext(EXACT):
        rows = zip(a, np.reshape(y, (len(a), -1)), strict=True)
        return np.array(
            [
                float(LOSSES[name]([Decimal(float(v)) for v in a_n], [Decimal(float(v)) for v in y_n]))
                for a_n, y_n in rows
            ]
        )
