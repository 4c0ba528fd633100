"""Cross-entropy of the softmax, by labels or by the probabilities of classes (slide "Linear models").

With p = softmax(a), p_m = e^{a_m}/Σ_k e^{a_k}, and targets t [M], all of it at one label or with Σ t = 1::

    ℒ = Σ_m t_m (ln Σ_k e^{a_k} − a_m)          ∂ℒ/∂a = p − t          ∂²ℒ/∂a² = diag p − ppᵀ

All of it is computed from the differences to the largest logit, so that no number near 1 is subtracted from 1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._numerics import narrow, safe_sqrt, wide, wide_integers
from fnn.core.types import Array, Loss
from fnn.nn._checks import scores


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


def _is_soft(a: Array, y: Any) -> bool:
    """Whether the targets are the probabilities of the classes, one row for each example."""
    return jnp.issubdtype(jnp.result_type(y), jnp.floating) and jnp.shape(y) == jnp.shape(a)


def _of_label(a: Array, y: Array) -> tuple[Array, Array]:
    """[m = y_n] [n, M], and the mask [n] of the labels that name a class."""
    _classes("softmax_cross_entropy", a, y)
    is_label = jax.nn.one_hot(wide_integers(jnp.asarray(y)), a.shape[1], dtype=jnp.bool_)
    return is_label, jnp.any(is_label, axis=1)


def _cross_entropy(a: Array, y: Array) -> Array:
    if _is_soft(a, y):
        return _soft_cross_entropy(a, y)
    is_label, known = _of_label(a, y)
    top, _, T = _relative_to_largest(a)
    wider = wide(a)
    largest = jnp.sum(jnp.where(top & ~is_label, wider, 0), axis=1)  # both sums are 0 if the label is at the top
    of_label = jnp.sum(jnp.where(is_label & ~top, wider, 0), axis=1)
    return jnp.where(known, largest - of_label + jnp.log1p(T[:, 0]), jnp.nan).astype(a.dtype)


def _soft_cross_entropy(a: Array, y: Array) -> Array:
    """Σ_m p_m (ln T − (a_m − max a)), a sum of terms that are not negative."""
    _probable("softmax_cross_entropy", a, y)
    top, _, T = _relative_to_largest(a)
    wider, p = wide(a), wide(jnp.asarray(y))
    largest = jnp.sum(jnp.where(top, wider, 0), axis=1, keepdims=True)
    below = jnp.sum(jnp.where(top | (p == 0), 0, p * (largest - wider)), axis=1)
    return (below + jnp.sum(p, axis=1) * jnp.log1p(T[:, 0])).astype(a.dtype)


def _soft_slope(a: Array, y: Array) -> Array:
    """q − p with q = softmax(a): at the largest logit Σ_{m ≠ top} p_m − (1 − q), which does not cancel."""
    _probable("softmax_cross_entropy", a, y)
    top, _, _ = _relative_to_largest(a)
    q, others = _probabilities(a)
    y = jnp.asarray(y)
    elsewhere = jnp.sum(jnp.where(top, 0, y), axis=1, keepdims=True)
    return jnp.where(top, elsewhere - others, q - y)


def _cross_entropy_slope(a: Array, y: Array) -> Array:
    if _is_soft(a, y):
        return _soft_slope(a, y)
    is_label, known = _of_label(a, y)
    p, others = _probabilities(a)
    return jnp.where(known[:, None], jnp.where(is_label, -others, p), jnp.nan)


def _cross_entropy_curvature(a: Array, y: Array) -> Array:
    _labels_or_probabilities(a, y)
    p, others = _probabilities(a)
    return p * others


def _cross_entropy_hessian(a: Array, y: Array) -> Array:
    _labels_or_probabilities(a, y)
    p, others = _probabilities(a)
    on_diagonal = jnp.eye(a.shape[1], dtype=jnp.bool_)[None]
    return jnp.where(on_diagonal, (p * others)[:, :, None], -p[:, :, None] * p[:, None, :])


def _cross_entropy_root(a: Array, y: Array) -> Array:
    _labels_or_probabilities(a, y)
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
    doc="""ln Σ_m e^{a_m} − a_y on logits, with integer labels [n], or the same in the mean by probabilities p [n, M].

    With p = softmax(a): slope p − [m = y], curvature p(1 − p), hessian diag p − ppᵀ. Column c of the root is √p_c times
    minus the slope for the label c.
    """,
)


def _labels_or_probabilities(a: Any, y: Any) -> None:
    """Raise unless the targets are labels [n] or probabilities [n, M]."""
    (_probable if _is_soft(a, y) else _classes)("softmax_cross_entropy", a, y)


def _probable(where: str, a: Any, y: Any) -> None:
    """Raise unless y [n, M] are probabilities in the dtype of a, whose rows add up to 1 to rounding if concrete."""
    scores(where, a)
    if jnp.result_type(y) != jnp.result_type(a):
        raise TypeError(
            f"{where}: expected probabilities of a's dtype {jnp.result_type(a)}, got {jnp.result_type(y)}. Convert by "
            "y.astype."
        )
    known = checks.concrete(y)
    if known is None:
        return
    total = known.astype(np.float64).sum(axis=1)
    eps = max(float(jnp.finfo(known.dtype).eps), float(jnp.finfo(jnp.float32).eps))
    slack = known.shape[1] * eps
    if not ((known >= 0).all() and (np.abs(total - 1) <= 4 * slack).all()):
        raise ValueError(
            f"{where}: expected rows of probabilities that add up to 1, got sums from {total.min():.6g} to "
            f"{total.max():.6g} and a least entry {known.min():.6g}. Divide each row by its sum, or give the examples "
            "weights, (x, y, weight)."
        )


def _classes(where: str, a: Any, y: Any) -> None:
    """Raise unless y are integer labels [n] in 0..M−1 for logits a [n, M]."""
    scores(where, a)
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
    if known is None or (np.isin(known, (0, 1)).all() and (known.sum(1) == 1).all()):
        return "Convert one-hot rows by y.argmax(1), or to probabilities by y.astype(a.dtype)."
    return (
        "These rows are not one-hot, so that y.argmax(1) would discard information; for yes or no in each class use "
        "binary_cross_entropy."
    )
