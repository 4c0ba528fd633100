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
`softmax_cross_entropy`     [n] of 0 … M−1         ln Σ e^{a_m} − a_y            softmax(a) − [m = y]
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
from fnn.core._numerics import logistic, logistic_density, narrow, safe_sqrt, wide, wide_integers
from fnn.core.types import Array, Loss

_softplus = jax.nn.softplus


def _elementwise(
    label: str,
    value: Callable[[Array, Array], Array],
    slope: Callable[[Array, Array], Array],
    curvature: Callable[[Array, Array], Array],
    labels: tuple[int, ...] | None = None,
    *,
    convex: bool = True,
    doc: str,
) -> Loss:
    """The sum over outputs of a loss of one output and one target; `labels` are the allowed targets."""

    def checked(part: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        def of(a: Array, y: Array) -> Array:
            _targets(label, a, y, labels)
            y = jnp.reshape(jnp.asarray(y), a.shape)
            if labels is None:
                return part(a, y)
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
    value=lambda a, y: _softplus((1 - 2 * y) * a),
    slope=lambda a, y: (1 - 2 * y) * logistic((1 - 2 * y) * a),
    curvature=lambda a, y: logistic_density(a),
    labels=(0, 1),
    doc="""−ln s(a) for y = 1 and −ln s(−a) for y = 0, on logits: several outputs are several yes–no questions.

    The form ln(1 + e^{(1 − 2y)a}) does not cancel where ln(1 + e^a) − ya would.
    """,
)


def _relative_to_largest(a: Array) -> tuple[Array, Array, Array]:
    """The mask of the (first) largest logit, top [n, M]; E = e^{a − max a}, 0 at the top; T = Σ E [n, 1].

    Then p_m = E_m/(1 + T) ≤ ½, and at the top p = 1/(1 + T), 1 − p = T/(1 + T): no p near 1 is subtracted from 1.
    Computed in float32 at least: rounding a − max a to few digits would scale p.
    """
    a = wide(a)
    top = jax.nn.one_hot(jnp.argmax(a, axis=1), a.shape[1], dtype=jnp.bool_)
    largest = jnp.sum(jnp.where(top, a, 0), axis=1, keepdims=True)
    E = jnp.where(top, 0, jnp.exp(a - largest))
    return top, E, jnp.sum(E, axis=1, keepdims=True)


def _probabilities(a: Array) -> tuple[Array, Array]:
    """p = softmax(a) and 1 − p, both [n, M] and to full precision."""
    top, E, T = _relative_to_largest(a)
    p = jnp.where(top, 1, E) / (1 + T)
    return narrow((p, jnp.where(top, T / (1 + T), 1 - p)), (a, a))


def _of_label(a: Array, y: Array) -> tuple[Array, Array]:
    """[m = y_n] [n, M], and the mask [n] of the labels that name a class."""
    _classes("softmax_cross_entropy", a, y)
    is_label = jax.nn.one_hot(wide_integers(jnp.asarray(y)), a.shape[1], dtype=jnp.bool_)
    return is_label, jnp.any(is_label, axis=1)


def _cross_entropy(a: Array, y: Array) -> Array:
    is_label, known = _of_label(a, y)
    top, _, T = _relative_to_largest(a)
    wider = wide(a)
    largest = jnp.sum(jnp.where(top & ~is_label, wider, 0), axis=1)  # both sums are 0 if the label is at the top
    of_label = jnp.sum(jnp.where(is_label & ~top, wider, 0), axis=1)
    return jnp.where(known, largest - of_label + jnp.log1p(T[:, 0]), jnp.nan).astype(a.dtype)


def _cross_entropy_slope(a: Array, y: Array) -> Array:
    is_label, known = _of_label(a, y)
    p, others = _probabilities(a)
    return jnp.where(known[:, None], jnp.where(is_label, -others, p), jnp.nan)


def _cross_entropy_curvature(a: Array, y: Array) -> Array:
    _classes("softmax_cross_entropy", a, y)
    p, others = _probabilities(a)
    return p * others


def _cross_entropy_hessian(a: Array, y: Array) -> Array:
    _classes("softmax_cross_entropy", a, y)
    p, others = _probabilities(a)
    on_diagonal = jnp.eye(a.shape[1], dtype=jnp.bool_)[None]
    return jnp.where(on_diagonal, (p * others)[:, :, None], -p[:, :, None] * p[:, None, :])


def _cross_entropy_root(a: Array, y: Array) -> Array:
    _classes("softmax_cross_entropy", a, y)
    p, others = _probabilities(a)
    on_diagonal = jnp.eye(a.shape[1], dtype=jnp.bool_)[None]
    return jnp.where(on_diagonal, others[:, :, None], -p[:, :, None]) * safe_sqrt(p)[:, None, :]


softmax_cross_entropy = Loss(
    label="softmax_cross_entropy",
    value=_cross_entropy,
    slope=_cross_entropy_slope,
    curvature=_cross_entropy_curvature,
    hessian=_cross_entropy_hessian,
    root=_cross_entropy_root,
    doc="""ln Σ_m e^{a_m} − a_y on logits, with integer labels.

    With p = softmax(a): slope p − [m = y], curvature p(1 − p), hessian diag p − ppᵀ. Column c of the root is √p_c times
    minus the slope for the label c.
    """,
)


def _scores(where: str, a: Any) -> None:
    """Raise ValueError unless a is a network's output [n, M] of floats."""
    if jnp.ndim(a) != 2 or not jnp.issubdtype(jnp.result_type(a), jnp.floating):
        raise ValueError(
            f"{where}: expected the network's output a as floats [n, M], got {jnp.result_type(a)} of shape "
            f"{jnp.shape(a)}. Pass a batch of outputs."
        )


def _targets(where: str, a: Any, y: Any, allowed: Sequence[int] | None = None) -> None:
    """Raise unless y are targets [n, M] for outputs a [n, M], or [n] for one output; `allowed` are the labels."""
    _scores(where, a)
    wanted, shape = jnp.shape(a), jnp.shape(y)
    if shape != wanted and not (wanted[1] == 1 and shape == wanted[:1]):
        also = f" (or {wanted[:1]})" if wanted[1] == 1 else ""
        raise ValueError(
            f"{where}: expected y of shape {wanted}{also} like the output a, got {shape}. Reshape y, or make the "
            "last layer as wide as y."
        )
    known = checks.concrete(y)
    if allowed is not None and known is not None and not np.isin(known, allowed).all():
        strange = np.unique(known[~np.isin(known, allowed)])[:5].tolist()
        low, high = min(allowed), max(allowed)
        hint = "Convert labels 0, 1 by 2 * y - 1." if low < 0 else "Convert labels -1, 1 by (y + 1) / 2."
        raise ValueError(f"{where}: expected labels {low} and {high}, got also {strange}. {hint}")
    if allowed is None and jnp.result_type(y) != jnp.result_type(a):
        raise TypeError(
            f"{where}: expected y of a's dtype {jnp.result_type(a)}, got {jnp.result_type(y)}. Convert by y.astype."
        )


def _classes(where: str, a: Any, y: Any) -> None:
    """Raise unless y are integer labels [n] in 0..M−1 for logits a [n, M]."""
    _scores(where, a)
    n, m = jnp.shape(a)
    if not jnp.issubdtype(jnp.result_type(y), jnp.integer):
        raise TypeError(
            f"{where}: expected integer labels, got {jnp.result_type(y)} of shape {jnp.shape(y)}. "
            f"{_towards_labels(y, (n, m))}"
        )
    if jnp.shape(y) != (n,):
        raise ValueError(
            f"{where}: expected one label per example, y of shape ({n},), got {jnp.shape(y)}. "
            f"{_towards_labels(y, (n, m))}"
        )
    known = checks.concrete(y)
    if known is not None and known.size and (known.min() < 0 or known.max() >= m):
        raise ValueError(
            f"{where}: expected labels 0..{m - 1} for {m} outputs, got {known.min()}..{known.max()}. "
            "Number the classes from 0 or widen the last layer."
        )


def _towards_labels(y: Any, rows: tuple[int, int]) -> str:
    """Advice on converting y to labels, if that loses no information."""
    if jnp.shape(y) != rows or rows[1] == 1:
        return "Convert by y.astype(int), a column by y[:, 0]."
    known = checks.concrete(y)
    if known is None:
        return "Convert one-hot rows by y.argmax(1); it would discard class probabilities."
    if np.isin(known, (0, 1)).all() and (known.sum(1) == 1).all():
        return "Convert one-hot rows by y.argmax(1)."
    return (
        "These rows are not one-hot, and y.argmax(1) would discard information: for class probabilities pass your own "
        "Loss with slope softmax(a) − y; for yes or no in each class use binary_cross_entropy."
    )
