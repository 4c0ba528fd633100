"""Losses ℒ(a, y) with ∂ℒ/∂a and ∂²ℒ/∂a² by hand (slides "Linear models", "Differentiating a superposition").

A loss is computed per example: the network's output a [n, M] and the targets y give ``value`` [n], ``slope`` [n, M]
and ``curvature`` [n, M], the diagonal of each example's Hessian. `objective` takes the mean.

=========================== ====================== ============================= ======================
loss                        targets y              value, summed over m          slope
=========================== ====================== ============================= ======================
`squared`                   [n, M], a's dtype      ½(a − y)²                     a − y
`logistic_margin`           [n, M] of −1, +1       ln(1 + e^−M), M = ay          −y·s(−M)
`hinge_margin`              [n, M] of −1, +1       (1 − M)₊                      −y·[M < 1]
`exponential_margin`        [n, M] of −1, +1       e^−M                          −y·e^−M
`sigmoid_margin`            [n, M] of −1, +1       1/(1 + e^M) = s(−M)           −y·s(M)s(−M)
`binary_cross_entropy`      [n, M] of 0, 1         ln(1 + e^a) − ya              s(a) − y
                            or floats in [0, 1]
`softmax_cross_entropy`     [n] of 0 … M−1         ln Σ e^{a_m} − a_y            softmax(a) − [m = y]
                            or p [n, M] of a's     Σ_m p_m (ln Σ e^{a_k} − a_m)  softmax(a) − p
                            dtype, Σ_m p_m = 1
=========================== ====================== ============================= ======================

Here s(u) = 1/(1 + e^−u). With one output, y may be [n]. Logits of ±1e4 lose no precision; only `exponential_margin`
overflows to infinity, as e^−M itself does in float32 below M = −88.

Shapes and dtypes are checked when a loss is traced, labels if they are concrete. A traced label that is not allowed
makes the loss and slope of its example NaN, so that it cannot pass for a valid one.

Errata: the slide "Differentiating a superposition" omits the minus sign of ½(a − y)², and "Linear models" prints the
sigmoid loss as 1/(1 + e^−M), which grows with the margin; a margin loss must not. On that slide Q is the sum of
(σ − y)² without ½ and without a mean; `squared` has the ½, and training takes the mean over the examples.

Example:
    >>> import jax.numpy as jnp
    >>> from fnn import softmax_cross_entropy
    >>> a, y = jnp.array([[0.0, 0.0], [1e4, -1e4]]), jnp.array([0, 1])
    >>> print(softmax_cross_entropy.value(a, y))
    [6.931472e-01 2.000000e+04]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._numerics import logistic, logistic_density, safe_sqrt
from fnn.core.types import Array, Loss
from fnn.nn._checks import scores
from fnn.nn.softmax import softmax_cross_entropy as softmax_cross_entropy  # listed above with the others

_softplus = jax.nn.softplus


def _elementwise(
    label: str,
    value: Callable[[Array, Array], Array],
    slope: Callable[[Array, Array], Array],
    curvature: Callable[[Array, Array], Array],
    labels: tuple[int, ...] | None = None,
    *,
    between: bool = False,
    convex: bool = True,
    doc: str,
) -> Loss:
    """The sum over outputs of a loss of one output and one target.

    `labels` are the allowed targets, with `between` also floats between them.
    """

    def checked(part: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        def of(a: Array, y: Array) -> Array:
            _targets(label, a, y, labels, between=between)
            y = jnp.reshape(jnp.asarray(y), a.shape)
            if labels is None:
                return part(a, y)
            if between and jnp.issubdtype(y.dtype, jnp.floating):
                known = (y >= min(labels)) & (y <= max(labels))
                return jnp.where(known, part(a, y.astype(a.dtype)), jnp.nan)
            exact = y if jnp.issubdtype(y.dtype, jnp.floating) else y.astype(a.dtype)
            known = jnp.isin(exact, jnp.asarray(labels, exact.dtype))
            return jnp.where(known, part(a, y.astype(a.dtype)), jnp.nan)

        return of

    of_outputs = checked(value)
    return Loss(
        label=label,
        value=lambda a, y: jnp.sum(of_outputs(a, y), axis=1),
        slope=checked(slope),
        curvature=checked(curvature),
        root=checked(lambda a, y: safe_sqrt(curvature(a, y))) if convex else None,
        doc=doc,
    )


def _margin(
    label: str,
    value: Callable[[Array], Array],
    slope: Callable[[Array], Array],
    curvature: Callable[[Array], Array],
    *,
    convex: bool = True,
    doc: str,
) -> Loss:
    """A loss ℒ(M) of the margin M = ay: ∂/∂a = y·ℒ'(M), and ∂²/∂a² = ℒ''(M) since y² = 1."""
    return _elementwise(
        label,
        value=lambda a, y: value(a * y),
        slope=lambda a, y: y * slope(a * y),
        curvature=lambda a, y: curvature(a * y),
        labels=(-1, 1),
        convex=convex,
        doc=doc,
    )


squared = _elementwise(
    "squared",
    value=lambda a, y: 0.5 * jnp.square(a - y),
    slope=lambda a, y: a - y,
    curvature=lambda a, y: jnp.ones_like(a),
    doc="½ Σ_m (a_m − y_m)²; its slope a − y is the lecture's error of the output layer.",
)

logistic_margin = _margin(
    "logistic_margin",
    value=lambda M: _softplus(-M),
    slope=lambda M: -logistic(-M),
    curvature=logistic_density,
    doc="ln(1 + e^−M), the loss of logistic regression, with the margin M = ay.",
)

hinge_margin = _margin(
    "hinge_margin",
    value=lambda M: jax.nn.relu(1 - M),
    slope=lambda M: -(M < 1).astype(M.dtype),
    curvature=jnp.zeros_like,
    doc="(1 − M)₊, the loss of the support vector machine. At the kink M = 1 the slope is 0, as that of `jax.nn.relu`.",
)

exponential_margin = _margin(
    "exponential_margin",
    value=lambda M: jnp.exp(-M),
    slope=lambda M: -jnp.exp(-M),
    curvature=lambda M: jnp.exp(-M),
    doc="e^−M, the loss of AdaBoost, with the margin M = ay.",
)

sigmoid_margin = _margin(
    "sigmoid_margin",
    value=lambda M: logistic(-M),
    slope=lambda M: -logistic_density(M),
    curvature=lambda M: jnp.tanh(M / 2) * logistic_density(M),
    convex=False,
    doc="1/(1 + e^M), bounded: one outlier costs at most 1. Not convex.",
)

binary_cross_entropy = _elementwise(
    "binary_cross_entropy",
    value=lambda a, y: y * _softplus(-a) + (1 - y) * _softplus(a),
    slope=lambda a, y: (1 - y) * logistic(a) - y * logistic(-a),
    curvature=lambda a, y: logistic_density(a),
    labels=(0, 1),
    between=True,
    doc="""−ln s(a) for y = 1 and −ln s(−a) for y = 0, on logits: several outputs are several yes–no questions.

    A target y between 0 and 1 is the probability of a yes: −y ln s(a) − (1 − y) ln s(−a), as for smoothed labels or
    grey pixels. This form does not cancel where ln(1 + e^a) − ya would.
    """,
)


_TOWARDS = {True: "Convert labels 0, 1 by 2 * y - 1.", False: "Convert labels -1, 1 by (y + 1) / 2."}
"""Advice for labels −1, 1, and for 0, 1."""


def _targets(where: str, a: Any, y: Any, allowed: Sequence[int] | None = None, *, between: bool = False) -> None:
    """Raise unless y are targets [n, M] for outputs a [n, M], or [n] for one output; `allowed` are the labels."""
    scores(where, a)
    wanted, shape = jnp.shape(a), jnp.shape(y)
    if shape != wanted and not (wanted[1] == 1 and shape == wanted[:1]):
        also = f" (or {wanted[:1]})" if wanted[1] == 1 else ""
        raise ValueError(
            f"{where}: expected y of shape {wanted}{also} like the output a, got {shape}. Reshape y, or make the "
            "last layer as wide as y."
        )
    known = checks.concrete(y)
    if between and allowed is not None and jnp.issubdtype(jnp.result_type(y), jnp.floating):
        low, high = min(allowed), max(allowed)
        if known is not None and not ((known >= low) & (known <= high)).all():
            raise ValueError(
                f"{where}: expected targets between {low} and {high}, got {known.min():.6g} to {known.max():.6g}. "
                f"{_TOWARDS[low < 0] if known.min() == -1 else 'Clip or scale them.'}"
            )
        return
    if allowed is not None and known is not None and not np.isin(known, allowed).all():
        strange = np.unique(known[~np.isin(known, allowed)])[:5].tolist()
        low, high = min(allowed), max(allowed)
        raise ValueError(f"{where}: expected labels {low} and {high}, got also {strange}. {_TOWARDS[low < 0]}")
    if allowed is None and jnp.result_type(y) != jnp.result_type(a):
        raise TypeError(
            f"{where}: expected y of a's dtype {jnp.result_type(a)}, got {jnp.result_type(y)}. Convert by y.astype."
        )
