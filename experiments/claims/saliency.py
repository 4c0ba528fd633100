"""Does Optimal Brain Damage foretell what a link is worth?

Command: ``python -m experiments saliency``; 14 seconds on two CPU cores. Expect a rank correlation of 0.97 between
predicted and actual rises of Q, and one of 0.88 between |w| and them.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from experiments import pruned_digits
from experiments import report as r
from experiments.pruned_digits import EXACT

EQUATION = r"""C_S = \operatorname{diag}(z)\, C \operatorname{diag}(z)
{} + \operatorname{diag}(\sigma{\prime\prime}(S) \circ \varepsilon)
C_x = W C_S W^\top
\frac{\partial^2 Q}{\partial w_{io}^2} = \frac{1}{n} \sum_n x_{ni}^2\, (C_S)_{noo}
\text{saliency} = \tfrac12 w^2\, \frac{\partial^2 Q}{\partial w^2}"""
LEAD = (
    "Every weight of trained networks is deleted by itself, and the rise of the loss Q is compared with what the "
    "saliency $\\tfrac12 w^2\\, \\partial^2 Q / \\partial w^2$ of Optimal Brain Damage, OBD, predicts. The network is "
    "{net}, trained for {steps} steps of Adam with L2 on 1257 digits, with {seeds} seeds. The matrix C holds the "
    "second derivatives of an example's loss by the outputs of a layer, $C_S$ those by its sums S before σ: exact OBD "
    "takes whole matrices C through the backward pass, one pass only their diagonals, as the paper of 1989 does, and "
    "Gauss–Newton leaves out the term with σ''. Means with 95 % intervals over seeds."
)
RANKS = r.Claim(
    "The saliency of Optimal Brain Damage (OBD) ranks single links as the actual rise of Q does (Spearman 0.9 or "
    "more).",
    quantity="rank correlation with the actual rise of Q",
)
WORSE = r.Claim(
    "The magnitude |w| ranks single links less like their actual rises of Q than OBD's saliency does.",
    quantity="rank correlation with the actual rise of Q, |w| less OBD",
)


def experiment_with(steps: int, every: int) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The pure experiment ``(key) -> rises of Q when one weight in `every` is deleted``, and every score of them."""

    def rises(seed: pruned_digits.Seed) -> jax.Array:
        params, state = seed.state.params, seed.state.layer_state
        before = pruned_digits.mean_loss(params, state, seed.sample)

        def of_layer(number: int, w: jax.Array) -> jax.Array:
            def rise(link: jax.Array) -> jax.Array:
                layer = params[number] | {"w": w.ravel().at[link].set(0.0).reshape(w.shape)}
                less = (*params[:number], layer, *params[number + 1 :])
                return pruned_digits.mean_loss(less, state, seed.sample) - before

            return jax.lax.map(rise, jnp.arange(0, w.size, every), batch_size=8)

        return jnp.concatenate([of_layer(number, layer["w"]) for number, layer in enumerate(params)])

    def experiment(key: jax.Array) -> dict[str, jax.Array]:
        seed = pruned_digits.trained(key, pruned_digits.learner(steps), steps)
        found = {"actual": rises(seed)}
        for name, score in pruned_digits.SCORES.items():
            saliency = score.saliency(seed.state.params, seed.state.layer_state, seed.sample, key)
            found[name] = jnp.concatenate([layer["w"].ravel()[::every] for layer in saliency])
        return found

    return experiment


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Delete single weights, and compare what that costs with the prediction."""
    steps, every = settings.pick(quick=(500, 20), full=(3000, 1))
    log(f"deleting single weights of {settings.seeds} trained networks")
    found = r.sweep_seeds(experiment_with(steps, every), settings, first=pruned_digits.FIRST)
    ranks = {
        name: np.array([stats.spearmanr(p, a)[0] for p, a in zip(found[name], found["actual"], strict=True)])
        for name in pruned_digits.SCORES
    }
    rows = {name: {"Spearman with the actual rise of Q": values} for name, values in ranks.items()}
    return r.Outcome(
        LEAD.format(net=pruned_digits.NET, steps=steps, seeds=settings.seeds),
        [
            r.at_least(RANKS, 0.9, ranks[EXACT]),
            r.smaller(WORSE, {"": (ranks["|w|"], ranks[EXACT])}),
        ],
        EQUATION,
        slide=24,
        tables=[r.table("How well a score ranks single weights", "score", rows)],
        figures=[_predictions(found)],
        numbers={"steps": steps, "rank_correlation": {name: values.mean() for name, values in ranks.items()}},
    )


def _predictions(found: dict[str, np.ndarray]) -> r.Figure:
    with r.figure() as canvas:
        axes = canvas.subplots()
        actual, shown = found["actual"][0], slice(None, None, max(1, found["actual"].shape[1] // 600))
        for color, name in zip(r.COLORS, (EXACT, "OBD, one pass"), strict=False):
            axes.plot(
                np.maximum(found[name][0][shown], 1e-8),
                np.maximum(actual[shown], 1e-8),
                ".",
                color=color,
                label=name,
                alpha=0.5,
                markersize=4,
            )
        axes.axline((1e-6, 1e-6), (1e-3, 1e-3), color="#888888", linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="predicted rise of Q, ½ w² ∂²Q/∂w²", ylabel="actual rise of Q")
        axes.legend()
        return r.finished(
            canvas,
            "Predicted and actual rise of Q for single weights of one network; below 10⁻⁸ drawn there",
            "Scatter plot on logarithmic axes. Where rises are large, the points of exact OBD lie along the diagonal, "
            "where prediction equals outcome, and those of one pass, which predicts less, somewhat above it. Small "
            "rises scatter; some links whose predicted rise is 0 or less cost something all the same.",
        )
