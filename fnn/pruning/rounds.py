"""The loop of Optimal Brain Damage: remove, retrain, evaluate, and roll back where Q has worsened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn import checks
from fnn.checks import pruned as more_checks
from fnn.optimizers import weights_only
from fnn.optimizers.transforms import Mask
from fnn.pruning.masks import Links, all_links, remove_least, remove_links, share_left
from fnn.pruning.scores import Score
from fnn.training import compiled, run
from fnn.types import Array, Batch, Params, State, Trainer, TrainState, written


class Pruning(NamedTuple):
    """A network on its way to fewer links."""

    state: TrainState
    """of the network as it is kept"""
    links: Links
    """which are left"""
    quality: Array
    """Q of that network"""
    allowed: Array
    """the Q above which a round is rolled back: that of the whole network, plus the tolerance"""
    round: Array
    """rounds tried"""
    stopped: Array
    """whether a round was rolled back, after which nothing is removed any more"""


class Pruner(NamedTuple):
    """A round of pruning as pure functions, for `prune` or a loop of one's own.

    - ``init(state) -> Pruning`` from the `TrainState` of a trained network;
    - ``round(pruning, data) -> (pruning, report)``; the report says what became of the round.
    """

    init: Callable[[TrainState], Pruning]
    round: Callable[[Pruning, Batch], tuple[Pruning, dict[str, Array]]]
    label: str = "pruner"

    def __repr__(self) -> str:
        return self.label


def pruner(
    trainer: Trainer,
    score: Score,
    evaluate: Callable[[Params, State], Array],
    *,
    amount: Any,
    retrain: int,
    tolerance: float = float("inf"),
    scope: str = "layer",
    prunable: Mask = weights_only,
) -> Pruner:
    """The slide's round: rank the links of each layer, remove the N least salient, retrain, roll back if Q worsens.

    One round::

        S         := score of every link that is left
        links     := links without the `amount` least salient of every layer
        W         := `retrain` steps from W, removed links held at 0
        Q         := evaluate(W); where Q > Q of the whole network + tolerance, W and links are as before, and stop

    Source: slide "Optimal Brain Damage"; the recipe of LeCun, Denker, Solla 1989. Small amounts and many rounds are the
    method's point: a saliency foretells what one link is worth, not what many are worth together.

    Args:
        trainer: with ``optimizer=sparse(…)``.
        score: how links are valued: `obd`, `magnitude`, `taylor`, `at_random`, or your own.
        evaluate: ``(params, state) -> Q``, lower is better: a held-out loss.
        amount: links to remove in a round, a number or a fraction of those left, or a function from the round
            0, 1, … to one, such as `schedule`.
        retrain: training steps after each removal, ≥ 0.
        tolerance: by how much Q may rise above that of the network before pruning; infinite never rolls back.
        scope: "layer" or "global", as in `remove_least`.
        prunable: what may be removed; weights but not biases by default.

    Returns:
        A `Pruner`. Its report holds ``"quality"``, the Q of the network tried; ``"at_once"``, its Q before retraining;
        ``"left"``, the share of links it has left; ``"kept"``, whether it was kept.
    """
    more_checks.is_score(score)
    checks.is_function("evaluate", evaluate)
    more_checks.amounts(amount, scope, tolerance)
    retrain = checks.count("retrain", retrain, least=0)

    def quality(state: TrainState) -> Array:
        return more_checks.quality(evaluate(state.params, state.state))

    def init(state: TrainState) -> Pruning:
        links, Q = all_links(state.params), quality(state)
        allowed = Q + jnp.asarray(tolerance, Q.dtype)
        return Pruning(remove_links(state, links), links, Q, allowed, jnp.zeros((), int), jnp.zeros((), bool))

    def tried(now: Pruning, data: Batch) -> tuple[Pruning, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.fold_in(now.state.key, 2**32 - 2), now.round)
        saliency = score.saliency(now.state.params, now.state.state, data, key)
        of_round = amount(now.round) if callable(amount) else amount
        links = remove_least(saliency, now.links, of_round, scope=scope, prunable=prunable)
        state = remove_links(now.state, links)
        at_once = quality(state)
        if retrain:
            state, _ = run(trainer, state, data, retrain)
        Q = quality(state)
        kept = now.allowed >= Q
        new = Pruning(state, links, Q, now.allowed, now.round + 1, ~kept)
        back = now._replace(round=now.round + 1, stopped=~kept)
        after = jax.tree.map(lambda a, b: jax.lax.select(jnp.broadcast_to(kept, jnp.shape(a)), a, b), new, back)
        return after, _report(Q, at_once, share_left(links, prunable), kept)

    def idle(now: Pruning, data: Batch) -> tuple[Pruning, dict[str, Array]]:
        return now, _report(now.quality, now.quality, share_left(now.links, prunable), jnp.zeros((), bool))

    label = written("pruner", trainer, score, amount=(amount, None), retrain=(retrain, None), scope=(scope, "layer"))
    return Pruner(init, lambda now, data: jax.lax.cond(now.stopped, idle, tried, now, data), label)


def _report(quality: Array, at_once: Array, left: Array, kept: Array) -> dict[str, Array]:
    return {"quality": quality, "at_once": at_once, "left": left, "kept": kept}


@compiled("pruner", "rounds")
def prune(pruner: Pruner, state: TrainState, data: Batch, rounds: int) -> tuple[Pruning, dict[str, Array]]:
    """Rounds of pruning as one compiled loop, which `jax.vmap` and `sweep` take over many seeds.

    Args:
        pruner: a `Pruner`.
        state: of a trained network.
        data: (x [ℓ, …], y [ℓ, …]), to score and to retrain with.
        rounds: at most so many; none is tried any more after one was rolled back.

    Returns:
        The `Pruning` at the end, and the reports, leaves [rounds].
    """
    rounds = checks.count("rounds", rounds)
    return jax.lax.scan(lambda now, _: pruner.round(now, data), pruner.init(state), length=rounds)
