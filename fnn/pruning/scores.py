"""Scores of links: saliencies by which links are ranked, the least salient to be removed first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core.types import Array, Batch, Layer, Loss, Params, State
from fnn.derivatives.backpropagation import Gradient, backprop
from fnn.derivatives.gauss_newton import ggn_diagonal
from fnn.derivatives.hessian import gate_curvature, microbatched, second_derivatives
from fnn.nn.inference import inference_mode

Saliency = Callable[[Params, State, Batch, Array], Any]


class Score(NamedTuple):
    """A rule that scores links: ``saliency(params, state, (x, y), key)`` gives a pytree in the shapes of the params.

    A custom score is ``Score("mine", function)``.
    """

    label: str
    saliency: Saliency

    def __repr__(self) -> str:
        return self.label


def obd(net: Layer, loss: Loss, *, exact: bool = True, gauss_newton: bool = False, chunk: int | None = None) -> Score:
    """Saliency ½ w² ∂²Q/∂w², the expected rise of Q without the link (slide "Optimal Brain Damage").

    It rests on three assumptions: Q is at a minimum (so the gradient is 0), Q is quadratic around it, and links are
    removed one at a time (so cross terms do not matter). It is accurate for one link of a trained network but not for
    many, so prune few, retrain, repeat. The second derivatives are those of inference mode, `inference_mode(net)`.

    Erratum: the slide omits the ½, which changes no ranking. Away from a minimum some second derivatives are negative;
    such links rank first, as removing them is expected to lower Q.

    Args:
        net: a layer.
        loss: a loss.
        exact: exact second derivatives, or those of a single pass as in the paper (see `fnn.derivatives.hessian`).
        gauss_newton: without σ'', as the paper recommends: never negative.
        chunk: examples at a time; the exact mode stores width² numbers for each.

    Returns:
        A `Score`; the saliencies of the weights of `net`, in the units of Q.
    """
    options = {"exact": (exact, True), "gauss_newton": (gauss_newton, False)}
    second = second_derivatives(inference_mode(net), loss, exact=exact, gauss_newton=gauss_newton)

    return Score(call_repr("obd", **options), _quadratic(second, chunk))


def _quadratic(second: Gradient, chunk: int | None) -> Saliency:
    """½ w² h, from a function that finds the second derivatives h."""

    def saliency(params: Params, state: State, batch: Batch, key: Array) -> Any:
        _, h = _whole_or(second, chunk)(params, state, batch, key)
        return jax.tree.map(lambda h, w: 0.5 * h * jnp.square(w), h, params)

    return saliency


def gauss_newton(net: Layer, loss: Loss, *, samples: int | None = None, chunk: int | None = None) -> Score:
    """Saliency ½ w² (∂²Q/∂w² without σ''), of any network: images and sequences too, where no layer has a `curve`.

    For networks of rows it is ``obd(net, loss, gauss_newton=True)``, from another pass (see `ggn_diagonal`).

    Args:
        net: a layer.
        loss: a convex loss.
        samples: None for the exact diagonal; m for the mean of m random columns, the way for a loss at every position.
        chunk: examples at a time.
    """
    second = ggn_diagonal(inference_mode(net), loss, samples=samples)
    return Score(call_repr("gauss_newton", samples=(samples, None)), _quadratic(second, chunk))


def taylor(net: Layer, loss: Loss, *, chunk: int | None = None) -> Score:
    """Saliency ``|w ∂Q/∂w|``: the first-order term, which Optimal Brain Damage assumes to be 0.

    Args:
        net: a layer.
        loss: a loss.
        chunk: examples at a time.
    """
    first = backprop(inference_mode(net), loss)

    def saliency(params: Params, state: State, batch: Batch, key: Array) -> Any:
        _, g = _whole_or(first, chunk)(params, state, batch, key)
        return jax.tree.map(lambda g, w: jnp.abs(g * w), g, params)

    return Score("taylor()", saliency)


def magnitude() -> Score:
    """Saliency ``|w|``, the usual baseline; it needs no data."""
    return Score("magnitude()", lambda params, state, batch, key: jax.tree.map(jnp.abs, params))


def at_random() -> Score:
    """Saliency uniform in [0, 1), drawn anew in every round: the trivial baseline."""

    def saliency(params: Params, state: State, batch: Batch, key: Array) -> Any:
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        drawn = [jax.random.uniform(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, drawn)

    return Score("at_random()", saliency)


def feature_saliency(saliency: Array) -> Array:
    """Saliencies of features [i] from those of the first layer's weights [i, o], by the slide's S_j = Σ_h S_jh.

    The sum treats the links of feature j as independent; `gate_saliency` gives their joint saliency.
    """
    return jnp.sum(saliency, axis=1)


def gate_saliency(net: Layer, loss: Loss, *, exact: bool = True) -> Saliency:
    """½ ∂²Q/∂g_j² [i], the expected rise of Q without feature j, with the joint effect of its links.

    Args:
        net: a layer.
        loss: a loss.
        exact: as in `obd`.

    Returns:
        A function ``(params, state, (x, y), key) -> [i]``.
    """
    at_gates = gate_curvature(inference_mode(net), loss, exact=exact)
    return lambda params, state, batch, key: 0.5 * at_gates(params, state, batch, key)


def schedule(final: float, rounds: int, power: float = 3.0) -> Callable[[Array], Array]:
    """Amounts that lead to a final sparsity in a given number of rounds, with many links first and few at the end.

    After round r = 0, 1, … the fraction s_r = final·(1 − (1 − (r + 1)/rounds)^power) is removed, so round r removes the
    fraction 1 − (1 − s_r)/(1 − s_{r−1}) of those left. From M. Zhu and S. Gupta, *To prune, or not to prune*, 2017.

    Args:
        final: fraction of the links removed at the end, in [0, 1).
        rounds: number of rounds.
        power: 3 as in the paper; 1 removes equally many in every round.

    Returns:
        A function from the round to the fraction of the remaining links to remove, for `pruner(…, amount=…)`.

    Example:
        >>> amount = schedule(0.75, 2, power=1)
        >>> float(amount(0)), float(amount(1)), float(amount(2))
        (0.375, 0.6000000238418579, 0.0)
    """
    checks.fraction("final", final)
    checks.positive("power", power)
    rounds = checks.count("rounds", rounds)

    def gone(rounds_done: Any) -> Array:
        left = 1 - jnp.clip(jnp.asarray(rounds_done, float) / rounds, 0, 1)
        return final * (1 - left**power)

    return lambda round: 1 - (1 - gone(round + 1)) / (1 - gone(round))


def _whole_or(function: Gradient, chunk: int | None) -> Gradient:
    return function if chunk is None else microbatched(function, chunk)
