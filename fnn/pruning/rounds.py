"""The loop of Optimal Brain Damage: remove, retrain, evaluate, and roll back if Q has worsened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.types import Array, Batch, Params, State, Trainer, TrainState
from fnn.optimizers.masks import Mask, weights_only
from fnn.pruning import _checks as pruning_checks
from fnn.pruning.masks import Links, all_links, remove_least, remove_links, share_left
from fnn.pruning.scores import Score
from fnn.training.trainers import compiled, train


class Pruning(NamedTuple):
    """The state of a pruning loop."""

    state: TrainState
    """of the last network that was kept"""
    links: Links
    """its remaining links"""
    loss: Array
    """its Q; [m] if m are evaluated"""
    allowed: Array
    """the Q above which a round is rolled back: that of the whole network, plus the tolerance; [m] likewise"""
    round: Array
    """number of rounds tried"""
    stopped: Array
    """whether a round was rolled back, after which no links are removed any more"""


class Pruner(NamedTuple):
    """A round of pruning as pure functions, for `prune` or a user's loop.

    - ``init(state) -> Pruning`` from the `TrainState` of a trained network;
    - ``round(pruning, data) -> (pruning, report)``, with a report of the round.
    """

    init: Callable[[TrainState], Pruning]
    round: Callable[[Pruning, Batch], tuple[Pruning, dict[str, Array]]]
    label: str = "pruner"

    def __repr__(self) -> str:
        return self.label


Evaluation = Callable[[Params, State], Array]
"""(params, state) -> Q as one number, lower is better"""

Retraining = Callable[[TrainState, Batch], TrainState]
"""(state, data) -> state, as trained until a stopping rule holds"""


def pruner(
    trainer: Trainer,
    score: Score,
    evaluate: Evaluation | Sequence[Evaluation],
    *,
    amount: Any,
    retrain: int | Retraining,
    tolerance: Any = float("inf"),
    scope: str = "layer",
    prunable: Mask = weights_only,
) -> Pruner:
    """The slide's round: rank the links of each layer, remove the N least salient, retrain, roll back if Q worsens.

    One round::

        S         := score of every remaining link
        links     := links without the `amount` least salient of every layer
        W         := W retrained, removed links held at 0
        Q         := evaluate(W); if Q > Q of the whole network + tolerance, restore W and links, and stop

    Source: slide "Optimal Brain Damage"; the recipe of LeCun, Denker, Solla 1989. The method relies on small amounts
    and many rounds: a saliency predicts the effect of removing one link, not of removing many together.

    Interpretation. "If the minimisation of Q has come to a minimum" is a stopping rule, so `retrain` may be one; a
    fixed number of steps is the common substitute. "If Q(W, X^ℓ) or Q(W, X^k) has worsened notably" names two
    losses, of the training sample and of a held-out one: `evaluate` may be both, each with its tolerance, and either
    rolls back.

    Args:
        trainer: with ``optimizer=sparse(…)``.
        score: the score of the links: `obd`, `magnitude`, `taylor`, `at_random`, or a custom `Score`.
        evaluate: ``(params, state) -> Q``, lower is better: a held-out loss; or a sequence of such functions.
        amount: links to remove in a round, a number or a fraction of those left, or a function from the round
            0, 1, … to one, such as `schedule`.
        retrain: training steps after each removal, ≥ 0; or a function ``(state, data) -> state`` that trains until a
            stopping rule holds, such as ``lambda s, d: train_until_stable(trainer, s, d, …)[0]``.
        tolerance: the allowed rise of Q above that of the network before pruning, ≥ 0; for several Q a number for each,
            or one for all. The default is infinite, unlike the slide: then only a NaN rolls back.
        scope: "layer" or "global", as in `remove_least`.
        prunable: the leaves that may be pruned; weights but not biases by default; `weights_and_biases` ranks w_0 too.

    Returns:
        A `Pruner`. Its report contains ``"loss"``, the Q of the network tried; ``"at_once"``, its Q before
        retraining, both [m] for a sequence of m; ``"left"``, the fraction of its links left; ``"kept"``, whether it was
        kept.
    """
    pruning_checks.amounts(amount, scope)

    def fewer(saliency: Any, links: Links, number: Any) -> Links:
        return remove_least(saliency, links, number, scope=scope, prunable=prunable)

    options = {"amount": (amount, None), "retrain": (retrain, None), "scope": (scope, "layer")}
    label = call_repr("pruner", trainer, score, **options)
    share = lambda links: share_left(links, prunable)  # noqa: E731
    return in_rounds(label, trainer, score, evaluate, fewer, share, amount, retrain, tolerance)


def in_rounds(
    label: str,
    trainer: Trainer,
    score: Score,
    evaluate: Evaluation | Sequence[Evaluation],
    fewer: Callable[[Any, Links, Any], Links],
    share: Callable[[Links], Array],
    amount: Any,
    retrain: int | Retraining,
    tolerance: Any,
) -> Pruner:
    """A pruner that removes links by ``fewer(saliency, links, amount)``, with ``share(links)`` of them left."""
    _is_score(score)
    loss, above = _losses(evaluate, tolerance)
    again = _retraining(trainer, retrain)

    def init(state: TrainState) -> Pruning:
        links = all_links(state.params)
        Q = loss(state)
        return Pruning(
            state=remove_links(state, links),
            links=links,
            loss=Q,
            allowed=above(Q),
            round=jnp.zeros((), int),
            stopped=jnp.zeros((), bool),
        )

    def tried(now: Pruning, data: Batch) -> tuple[Pruning, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.fold_in(now.state.key, 2**32 - 2), now.round)
        saliency = score.saliency(now.state.params, now.state.layer_state, data, key)
        links = fewer(saliency, now.links, amount(now.round) if callable(amount) else amount)
        removed = remove_links(now.state, links)
        state = again(removed, data)
        Q = loss(state)
        kept = jnp.all(now.allowed >= Q)
        back = now._replace(round=now.round + 1, stopped=~kept)
        new = back._replace(state=state, links=links, loss=Q)
        after = jax.tree.map(lambda a, b: jax.lax.select(jnp.broadcast_to(kept, jnp.shape(a)), a, b), new, back)
        return after, _report(Q, loss(removed), share(links), kept)

    def idle(now: Pruning, data: Batch) -> tuple[Pruning, dict[str, Array]]:
        return now, _report(now.loss, now.loss, share(now.links), jnp.zeros((), bool))

    return Pruner(init=init, round=lambda now, data: jax.lax.cond(now.stopped, idle, tried, now, data), label=label)


def _report(loss: Array, at_once: Array, left: Array, kept: Array) -> dict[str, Array]:
    return {"loss": loss, "at_once": at_once, "left": left, "kept": kept}


def _losses(evaluate: Any, tolerance: Any) -> tuple[Callable[[TrainState], Array], Callable[[Array], Array]]:
    """The functions that give Q of a state, one number or [m], and the Q still allowed, the tolerance above it."""
    functions, tolerances = _checked_losses(evaluate, tolerance)

    def joined(values: list[Any]) -> Array:
        return values[0] if callable(evaluate) else jnp.stack(values)

    def loss(state: TrainState) -> Array:
        found = [_checked_loss(f(state.params, state.layer_state)) for f in functions]
        dtype = jnp.result_type(*found) if len(found) > 1 else jnp.asarray(found[0]).dtype
        return joined([jnp.asarray(Q, dtype) for Q in found])

    return loss, lambda Q: Q + joined([jnp.asarray(t, Q.dtype) for t in tolerances])


def _retraining(trainer: Trainer, retrain: int | Retraining) -> Retraining:
    """The retraining by a number of steps, or by the user's function."""
    if callable(retrain):
        return lambda state, data: _retrained(retrain(state, data))
    steps = checks.count("retrain", retrain, least=0)
    return lambda state, data: train(trainer, state, data, steps)[0] if steps else state


@compiled("pruner", "rounds")
def prune(pruner: Pruner, state: TrainState, data: Batch, rounds: int) -> tuple[Pruning, dict[str, Array]]:
    """Rounds of pruning as one compiled loop, which `jax.vmap` and `sweep` can run over many seeds.

    Args:
        pruner: a `Pruner`.
        state: of a trained network.
        data: (x [ℓ, …], y [ℓ, …]), for scoring and retraining.
        rounds: the most rounds to try; none is tried after one was rolled back.

    Returns:
        The `Pruning` at the end, and the reports, leaves [rounds, …].
    """
    rounds = checks.count("rounds", rounds)
    return jax.lax.scan(lambda now, _: pruner.round(now, data), pruner.init(state), length=rounds)


def _checked_losses(evaluate: Any, tolerance: Any) -> tuple[list[Any], list[Any]]:
    """The functions that give Q, one or several, and the tolerance of each."""
    functions = list(evaluate) if isinstance(evaluate, list | tuple) and evaluate else [evaluate]
    for function in functions:
        checks.is_function("evaluate", function)
    several = isinstance(tolerance, list | tuple)
    tolerances = list(tolerance) if several else [tolerance] * len(functions)
    if several and (callable(evaluate) or len(tolerances) != len(functions)):
        raise ValueError(
            f"tolerance: expected one number, or one for each of {len(functions)} functions evaluate, got "
            f"{tolerance!r}. Give each function one tolerance."
        )
    for one in tolerances:
        checks.number("tolerance", one, lambda t: t >= 0, "a number >= 0")
    return functions, tolerances


def _retrained(state: Any) -> TrainState:
    """The checked result of the user's retraining."""
    if not isinstance(state, TrainState):
        raise TypeError(
            f"retrain: expected a function that returns the TrainState after training, got {type(state).__name__}. "
            "Return only the state, as in train_until_stable(…)[0]."
        )
    return state


def _is_score(value: Any) -> None:
    """Raise TypeError unless the value is a score of links."""
    if not (hasattr(value, "saliency") and callable(value.saliency)):
        hint = "Call the factory: magnitude(), not magnitude" if callable(value) else "Choose one such as magnitude()"
        raise TypeError(
            f"score: expected a Score, got {checks.shown(value)}. {hint}, or wrap a function: Score(label, function)."
        )


def _checked_loss(value: Any) -> jax.Array:
    """The checked Q, a scalar."""
    shape = jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf).__name__), value)
    if shape != ():
        raise ValueError(f"evaluate: expected Q as one number, lower is better, got {shape}. Return the mean.")
    return value
