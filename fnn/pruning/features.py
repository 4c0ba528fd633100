"""Feature selection by Optimal Brain Damage, which removes the least salient features (slide, "likewise")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core._labels import call_repr
from fnn.core.types import Array, Params, Trainer
from fnn.optimizers.masks import Mask, weights_only
from fnn.pruning import _checks as pruning_checks
from fnn.pruning.masks import Links, chosen_leaves, flags_of, without_least
from fnn.pruning.rounds import Evaluation, Pruner, Retraining, in_rounds
from fnn.pruning.scores import Score, feature_saliency


def first_weights(params: Params) -> Mask:
    """The mask that is True for the first leaf named "w", whose row j contains the links of feature j."""
    flags, structure = jax.tree.flatten(weights_only(params))
    first = flags.index(True) if True in flags else None
    return jax.tree.unflatten(structure, [k == first for k in range(len(flags))])


def features_left(links: Links, of: Mask = first_weights) -> Array:
    """The features that a network still reads, bools [i]: those with at least one remaining link.

    Args:
        links: masks.
        of: the weight matrices [i, o] that read the features, a pytree of bools or a function from params to one.
            The rows of several matrices, which read slices as in `columns` and `grouped`, are numbered consecutively.
    """
    return jnp.concatenate([jnp.any(_rows(leaf), axis=1) for leaf in chosen_leaves(links, links, of)])


def _rows(leaf: Array) -> Array:
    """The rows of a matrix [i, o], or of matrices [count, i, o] one after the other."""
    _has_rows(leaf)
    return leaf.reshape(-1, leaf.shape[-1])


def remove_features(saliency: Any, links: Links, amount: Any, *, of: Mask = first_weights) -> Links:
    """The masks without the links of the least salient features, by S_j = Σ_h S_jh over the remaining links.

    Args:
        saliency: values in the shapes of the params; or S_j itself [i], such as that of `gate_saliency`.
        links: the current masks.
        amount: number of features to remove: a whole number, or a fraction in [0, 1) of those left, rounded. May be
            traced.
        of: the weight matrices [i, o] that read the features, a pytree of bools or a function from params to one.
            The rows of several matrices, which read slices as in `columns` and `grouped`, are numbered consecutively.

    Returns:
        New masks; if fewer features are left than the amount, without any of their links.

    Raises:
        ValueError: leaves without rows; S_j in another number than the rows; NaN, unless traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.pruning import all_links, remove_features
        >>> saliency = {"w": jnp.array([[3.0, 1.0], [0.5, 2.0], [4.0, 0.0]])}
        >>> print(remove_features(saliency, all_links(saliency), 1)["w"][:, 0])  # S_j = 4, 2.5, 4
        [ True False  True]
    """
    pruning_checks.amount(amount)
    before = features_left(links, of)
    if jax.tree.map(jnp.shape, saliency) == jax.tree.map(jnp.shape, links):
        pairs = zip(chosen_leaves(saliency, links, of), chosen_leaves(links, links, of), strict=True)
        matrices = [_rows(jnp.where(left, S, jnp.zeros_like(S))) for S, left in pairs]
        saliency = jnp.concatenate([feature_saliency(S) for S in matrices])
    _one_for_each_feature(saliency, before.size)
    pruning_checks.no_nan("remove_features", saliency, before, True)
    after = without_least(saliency, before, amount)
    first = 0
    leaves, structure = jax.tree.flatten(links)
    for k, flag in enumerate(jax.tree.leaves(flags_of(links, of))):
        if flag:
            rows = leaves[k].shape[:-1]
            leaves[k] &= after[first : first + math.prod(rows)].reshape(*rows, 1)
            first += math.prod(rows)
    return jax.tree.unflatten(structure, leaves)


def feature_pruner(
    trainer: Trainer,
    score: Score,
    evaluate: Evaluation | Sequence[Evaluation],
    *,
    amount: Any,
    retrain: int | Retraining,
    tolerance: Any = float("inf"),
    of: Mask = first_weights,
) -> Pruner:
    """A round of feature selection: remove the N features of least S_j, retrain, roll back if Q worsens.

    One round::

        S_j       := Σ_h S_jh, the score of the links of every remaining feature
        links     := links without all those of the `amount` least salient features
        W         := W retrained, removed links held at 0
        Q         := evaluate(W); if Q > Q of the whole network + tolerance, restore W and links, and stop

    Source: slide "Optimal Brain Damage", "feature selection likewise". S_j sums the separate contributions of the links
    of feature j; ``Score("gates", gate_saliency(net, loss))`` ranks by their joint contribution.

    Args:
        trainer: with ``optimizer=sparse(…)``.
        score: the score of the links, as in `pruner`; or a `Score` that gives S_j itself [i].
        evaluate: as in `pruner`, like `retrain` and `tolerance`.
        amount: features to remove in a round, a number or a fraction of those left, or a function from the round
            0, 1, … to one.
        retrain: training steps after each removal, or a function ``(state, data) -> state``.
        tolerance: the allowed rise of Q above that of the network before pruning; infinite never rolls back.
        of: the weight matrices that read the features, as in `remove_features`.

    Returns:
        A `Pruner` for `prune`, with the report of `pruner`, where ``"left"`` is the fraction of features left;
        `features_left` of its links gives these features.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import adam, linear, train, squared, trainer
        >>> from fnn.pruning import feature_pruner, features_left, obd, prune, sparse
        >>> x = jax.random.normal(jax.random.key(0), (64, 4))
        >>> data, net = (x, x[:, 1:2] - 2 * x[:, 3:]), linear(1)  # features 1 and 3 matter
        >>> learn = trainer(net, squared, sparse(adam(0.05)), batch_size=16)
        >>> state, _ = train(learn, learn.init(jax.random.key(1), data), data, 400)
        >>> loss = lambda params, state: jnp.mean(squared.value(net.apply(params, state, x), data[1]))
        >>> rounds = feature_pruner(learn, obd(net, squared), loss, amount=1, retrain=50, tolerance=0.01)
        >>> pruning, report = prune(rounds, state, data, 4)
        >>> print(report["kept"], features_left(pruning.links))
        [ True  True False False] [False  True False  True]
    """
    pruning_checks.amounts(amount)

    def fewer(saliency: Any, links: Links, number: Any) -> Links:
        return remove_features(saliency, links, number, of=of)

    label = call_repr("feature_pruner", trainer, score, amount=(amount, None), retrain=(retrain, None))
    share = lambda links: jnp.mean(features_left(links, of))  # noqa: E731
    return in_rounds(label, trainer, score, evaluate, fewer, share, amount, retrain, tolerance)


def _has_rows(leaf: Any) -> None:
    """Raise ValueError unless the rows of a leaf can be features."""
    if leaf.ndim < 2:
        raise ValueError(
            f"features_left: expected features as rows of weight matrices [i, o], got a leaf of shape {leaf.shape}. "
            "Choose by `of` the leaves that read the features."
        )


def _one_for_each_feature(value: Any, count: int) -> None:
    """Raise ValueError unless there is one saliency for each feature."""
    shape = getattr(value, "shape", type(value).__name__)
    if shape != (count,):
        raise ValueError(
            f"remove_features: expected one saliency for each feature, [{count}], or saliencies in the shapes of the "
            f"params, got {shape}. Make them by gate_saliency or a score."
        )
