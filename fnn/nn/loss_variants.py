"""Losses made of functions and of other losses: smoothed or missing targets, classes that count unequally.

=========================== ================================ =======================================================
loss                        targets y                        what it changes
=========================== ================================ =======================================================
`loss_from(f)`              whatever f takes                 ℒ = f(a_n, y_n) with automatic derivatives
`smoothed(loss, ε)`         labels                           (1 − ε) of a label's mass stays, ε is spread evenly
`class_weighted(loss, c)`   labels [n] of 0 … M−1            an example of class k counts c_k times in every mean
`ignoring(loss, label)`     labels [n]                       an example with that label counts 0 times
`observed(loss)`            (y [n, M], known [n, M])         outputs whose target is not known cost nothing
`each_position(loss)`       of every position, [n, …]        ℒ is the mean over the positions of an example
=========================== ================================ =======================================================

A weight by target joins that of a batch (x, y, weight) as a factor: means are Σ w L/Σ w, see `fnn.core.batches`.

Example:
    >>> import jax.numpy as jnp
    >>> from fnn import softmax_cross_entropy
    >>> from fnn.nn import ignoring
    >>> loss = ignoring(softmax_cross_entropy, -1)
    >>> print(loss.value(jnp.zeros((2, 2)), jnp.array([1, -1])), loss.weight(jnp.array([1, -1])))
    [0.6931472 0.       ] [1. 0.]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import eigh, ratio, safe_sqrt
from fnn.core.errors import Unsupported
from fnn.core.types import Array, Loss
from fnn.nn import _checks as nn_checks


def loss_from(f: Callable[[Array, Any], Array], *, convex: bool = False) -> Loss:
    """A loss of one function of one example, with automatic derivatives.

    Args:
        f: ``(a [M], y) -> scalar``, differentiable twice; y is one example's target, a pytree, or None for a loss that
            needs no target.
        convex: whether ℒ is convex in a. The loss then has a root of its Hessian, R = V √λ from the eigenvalues λ and
            eigenvectors V, in which negative λ, rounding, count as 0.

    Returns:
        A `Loss` with slope, Hessian and its diagonal; its label is the function's name.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn.nn import loss_from
        >>> def gaussian(a, y):  # −ln N(y | mean, variance e^s) but for a constant, with a = (mean, s)
        ...     return 0.5 * (a[1] + jnp.square(y - a[0]) * jnp.exp(-a[1]))
        >>> loss = loss_from(gaussian)
        >>> loss, loss.slope(jnp.zeros((1, 2)), jnp.ones(1))
        (loss_from(gaussian), Array([[-1.,  0.]], dtype=float32))
    """
    checks.is_function("loss_from", f)
    label = call_repr("loss_from", f)

    def each(of: Callable[..., Any]) -> Callable[[Array, Any], Array]:
        def of_batch(a: Array, y: Any) -> Array:
            nn_checks.scores(label, a)
            _is_scalar(label, jax.eval_shape(f, *jax.tree.map(lambda leaf: leaf[0], (a, y))))
            return jax.vmap(of)(a, y)

        return of_batch

    hessian = each(jax.hessian(f))

    def root(a: Array, y: Any) -> Array:
        values, vectors = jax.vmap(eigh)(hessian(a, y))
        return vectors * safe_sqrt(jnp.maximum(values, 0))[:, None, :]

    return Loss(
        label=label,
        value=each(f),
        slope=each(jax.grad(f)),
        curvature=each(lambda a, y: jnp.diagonal(jax.hessian(f)(a, y))),
        hessian=hessian,
        root=root if convex else None,
        doc=f.__doc__ or "",
    )


def smoothed(loss: Loss, epsilon: float) -> Loss:
    """The loss at smoothed labels: of each label's mass 1, ε is spread evenly over all classes.

    Equation: targets t_m = (1 − ε)[m = y] + ε/M for labels [n] of M classes; t = (1 − ε)y + ε/2 for labels 0 and 1 in
    the shape of the outputs.

    Args:
        loss: a loss that takes probabilities: `softmax_cross_entropy` or `binary_cross_entropy`.
        epsilon: ε in [0, 1).

    Source: C. Szegedy and others, *Rethinking the Inception architecture*, 2016.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import softmax_cross_entropy
        >>> from fnn.nn import smoothed
        >>> print(smoothed(softmax_cross_entropy, 0.25).slope(jnp.zeros((1, 2)), jnp.array([1])))
        [[ 0.375 -0.375]]
    """
    checks.is_loss(loss)
    checks.fraction("epsilon", epsilon)
    label = call_repr("smoothed", loss, epsilon)

    def soft(a: Array, y: Array) -> Array:
        nn_checks.scores(label, a)
        kept, spread = jnp.asarray(1 - epsilon, a.dtype), jnp.asarray(epsilon, a.dtype)
        if jnp.shape(y) == a.shape[:1] and jnp.issubdtype(jnp.result_type(y), jnp.integer) and a.shape[1] > 1:
            loss.curvature(a, y)  # checks the labels
            known = (y >= 0) & (y < a.shape[1])
            rows = kept * jax.nn.one_hot(y, a.shape[1], dtype=a.dtype) + spread / a.shape[1]
            return jnp.where(known[:, None], rows, jnp.nan)
        loss.curvature(a, y)
        return kept * jnp.reshape(jnp.asarray(y), a.shape).astype(a.dtype) + spread / 2

    return _of_targets(loss, label, soft)


def _of_targets(loss: Loss, label: str, change: Callable[[Array, Any], Any]) -> Loss:
    """The loss at changed targets."""

    def at(part: Callable[[Array, Any], Array] | None) -> Any:
        return None if part is None else lambda a, y: part(a, change(a, y))

    parts = {name: at(getattr(loss, name)) for name in ("value", "slope", "curvature", "hessian", "root")}
    return loss._replace(label=label, doc=f"{loss.doc}\n\nAt changed targets: {label}.", **parts)


def class_weighted(loss: Loss, weights: Sequence[float] | Array) -> Loss:
    """The loss whose examples count by the weight of their class, c_y, in every mean: (1/Σ c) Σ_n c_{y_n} L_n.

    Args:
        loss: a loss with labels [n].
        weights: c ≥ 0, a number for each of the M classes.

    Returns:
        A loss with the same values and derivatives for each example, and the weights by target.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import softmax_cross_entropy
        >>> from fnn.nn import class_weighted
        >>> print(class_weighted(softmax_cross_entropy, [1.0, 4.0]).weight(jnp.array([0, 1, 1])))
        [1. 4. 4.]
    """
    checks.is_loss(loss)
    c = jnp.asarray(weights)
    checks.weights("class_weighted", c, c.size)
    label = call_repr("class_weighted", loss, weights if isinstance(weights, list | tuple) else np.asarray(c).tolist())

    def weight(y: Any) -> Array:
        _are_labels(label, y)
        return _times(loss, y, c.at[y].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False))

    return loss._replace(label=label, weight=weight)


def ignoring(loss: Loss, label: int = -1) -> Loss:
    """The loss that leaves out the examples with one label, such as −1 for "unknown" or a token of padding.

    Args:
        loss: a loss with labels [n], among them 0.
        label: the label to leave out.

    Returns:
        A loss whose value, slope and curvature are 0 at that label, with the weight 0 in every mean.
    """
    checks.is_loss(loss)
    name = call_repr("ignoring", loss, label)

    def at(part: Callable[[Array, Any], Array] | None) -> Any:
        def of(a: Array, y: Any) -> Array:
            _are_labels(name, y)
            is_left = jnp.asarray(y) == label
            found = part(a, _replaced(y, label))  # pyright: ignore[reportOptionalCall]
            return jnp.where(is_left.reshape(-1, *[1] * (found.ndim - 1)), 0, found)

        return None if part is None else of

    def weight(y: Any) -> Array:
        _are_labels(name, y)
        is_left = jnp.asarray(y) == label
        return _times(loss, _replaced(y, label), jnp.where(is_left, 0.0, 1.0))

    parts = {part: at(getattr(loss, part)) for part in ("value", "slope", "curvature", "hessian", "root")}
    return loss._replace(label=name, weight=weight, **parts)


def observed(loss: Loss) -> Loss:
    """The loss of the outputs whose targets are known, for targets ``(y [n, M], known [n, M])``.

    Equation: ℒ = Σ_m known_m ℒ_m(a_m, y_m), for a loss that is a sum over outputs. Where `known` is False, y may be
    any number, such as 0, but not NaN, which data may not contain. Means are over all n examples; give an example
    without any known target the weight 0 to leave it out.

    Args:
        loss: a sum over outputs, with a diagonal Hessian, such as `squared` or `binary_cross_entropy`.

    Raises:
        Unsupported: a loss that is no such sum.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import squared
        >>> from fnn.nn import observed
        >>> y, known = jnp.array([[1.0, 0.0]]), jnp.array([[True, False]])
        >>> print(observed(squared).value(jnp.array([[3.0, 9.0]]), (y, known)))
        [2.]
    """
    checks.is_loss(loss)
    if loss.hessian is not None:
        raise Unsupported(f"observed: expected a sum over outputs, got {loss}. Leave out whole examples by weights.")
    label = call_repr("observed", loss)

    def parted(y: Any) -> tuple[Array, Array]:
        if not isinstance(y, tuple | list) or len(y) != 2 or not jnp.issubdtype(jnp.result_type(y[1]), jnp.bool_):
            raise TypeError(f"{label}: expected targets (y, known) with bools, got {checks.shown(y)}. Pass both.")
        return y[0], jnp.asarray(y[1])

    def value(a: Array, y: Any) -> Array:
        y, known = parted(y)
        each = loss.value(a.reshape(-1, 1), jnp.reshape(y, (-1, 1))).reshape(a.shape)
        return jnp.sum(jnp.where(known, each, 0), axis=1)

    def at(part: Callable[[Array, Any], Array] | None) -> Any:
        def of(a: Array, y: Any) -> Array:
            y, known = parted(y)
            return jnp.where(known, part(a, y), 0)  # pyright: ignore[reportOptionalCall]

        return None if part is None else of

    parts = {name: at(getattr(loss, name)) for name in ("slope", "curvature", "root")}
    return loss._replace(label=label, value=value, **parts)


def each_position(loss: Loss, ignore: int | None = None, *, mean: bool = True) -> Loss:
    """The loss of a network with outputs at every position, a [n, …, M]: the mean of the losses at the positions.

    Equation, with c_np the weight of the target at position p, such as that of its class, or 1::

        ℒ_n = Σ_p c_np ℓ(a_np, y_np)/Σ_p c_np        ∂ℒ_n/∂a_np = (c_np/Σ_q c_nq) ∂ℓ/∂a_np

    and without `mean` the sums without their denominators. An example without any weight has the loss 0. The mean is
    that of each example, so that examples stay independent; the mean over all positions of a batch differs from it
    where examples have different Σ_p c_np.

    Args:
        loss: a loss of rows, a [n, M].
        ignore: a label to leave out, such as one for padding, as by `ignoring`.
        mean: False for sums over the positions.

    Returns:
        A loss with targets [n, …], or [n, …, M], at the same positions as a.

    Raises:
        ValueError: outputs without positions, or targets at other positions.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import softmax_cross_entropy
        >>> from fnn.nn import each_position
        >>> loss = each_position(softmax_cross_entropy, ignore=-1)
        >>> print(loss.value(jnp.zeros((2, 3, 2)), jnp.array([[0, 1, -1], [-1, -1, -1]])))
        [0.6931472 0.       ]
    """
    checks.is_loss(loss)
    nn_checks.flag("mean", mean)
    label = call_repr("each_position", loss, ignore=(ignore, None), mean=(mean, True))
    loss = loss if ignore is None else ignoring(loss, ignore)

    def shares(y: Any, shape: tuple[int, ...], dtype: Any) -> Array:
        c = jnp.ones(shape, dtype) if loss.weight is None else loss.weight(y).reshape(shape).astype(dtype)
        return ratio(c, jnp.sum(c, axis=tuple(range(1, c.ndim)), keepdims=True)) if mean else c

    def at(part: Callable[[Array, Any], Array] | None, change: Callable[[Array], Array] = lambda share: share) -> Any:
        def of(a: Array, y: Any) -> Array:
            y = _rows_of_positions(label, a, y)
            found = part(a.reshape(-1, a.shape[-1]), y)  # pyright: ignore[reportOptionalCall]
            found = found.reshape(*a.shape[:-1], *found.shape[1:])
            share = change(shares(y, a.shape[:-1], found.dtype))
            share = share.reshape(*share.shape, *[1] * (found.ndim - share.ndim))
            return jnp.where(share > 0, share * found, 0)

        return None if part is None else of

    each = at(loss.value)
    return Loss(
        label=label,
        value=lambda a, y: jnp.sum(each(a, y), axis=tuple(range(1, a.ndim - 1))),
        slope=at(loss.slope),
        curvature=at(loss.curvature),
        hessian=at(loss.hessian),
        root=at(loss.root, safe_sqrt),
        doc=f"{loss.doc}\n\nAt every position: {label}.",
    )


def _rows_of_positions(where: str, a: Array, y: Any) -> Any:
    """The targets with a row for each position of each example; raises unless they have the positions of a."""
    if jnp.ndim(a) < 3:
        raise ValueError(
            f"{where}: expected outputs a with positions, [n, …, M], got shape {jnp.shape(a)}. Take the loss of rows "
            "itself for a network that ends with rows."
        )
    positions = a.shape[:-1]
    for leaf in jax.tree.leaves(y):
        if jnp.shape(leaf)[: len(positions)] != positions:
            raise ValueError(
                f"{where}: expected targets at the positions of the outputs, {positions}, got shape {jnp.shape(leaf)}. "
                "Give each position a target."
            )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(positions) :]), y)


def _replaced(y: Any, label: int) -> Any:
    """The labels with 0 in place of one of them; concrete ones stay concrete, so that the others are checked."""
    known = checks.concrete(y)
    return jnp.where(y == label, 0, y) if known is None else np.where(known == label, 0, known).astype(known.dtype)


def _times(loss: Loss, y: Any, weight: Array) -> Array:
    """The weights times those of the loss itself, if it has any."""
    return weight if loss.weight is None else weight * loss.weight(y).astype(weight.dtype)


def _are_labels(where: str, y: Any) -> None:
    """Raise TypeError unless the targets are integer labels [n]."""
    if not (hasattr(y, "dtype") and jnp.ndim(y) == 1 and jnp.issubdtype(jnp.result_type(y), jnp.integer)):
        raise TypeError(f"{where}: expected integer labels [n], got {checks.shown(y)}. Convert by y.astype(int).")


def _is_scalar(where: str, result: Any) -> None:
    """Raise ValueError unless a function of one example returns a scalar float."""
    if getattr(result, "shape", None) != () or not jnp.issubdtype(result.dtype, jnp.floating):
        raise ValueError(f"{where}: expected f(a [M], y) to return a scalar float, got {result}. Sum over the outputs.")
