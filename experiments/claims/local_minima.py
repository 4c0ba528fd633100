"""Where BackProp gets stuck: small networks that never learn XOR.

Command: ``python -m experiments local_minima``; 40 seconds on two CPU cores, most of which go into compiling.
Expect that 45 % of the starts with two hidden neurons get stuck, 10 % with three, none with eight, all of them at a
loss of 0.347 or 0.477 and at a gradient of 0.0006; those at 0.477 are saddles, and a push frees none.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import fnn
from experiments import report as r
from fnn.lecture import binary_inputs

WIDTHS = (2, 3, 4, 8)
STARTS = 16
"""starts a seed"""
ETA, GAMMA = 1.0, 0.9
PUSH = 0.1
"""length of the random push, of the length of all weights together"""
LEVELS = (0.347, 0.477, 0.693)
"""Q where one, two or all of the true targets share an output with as many, one or all of the false"""
NEAR = 0.02
"""a loss this near to a level is at it"""
DOWN = 1e-5
"""how far a minimum may bend downwards, of how far it bends upwards"""
LINE = np.linspace(-0.2, 1.2, 141)
"""positions on the line from a stuck network, at 0, to a solved one, at 1"""

EQUATION = r"""
Q = \frac{1}{4} \sum_{i=1}^{4} \ln(1 + e^{-a_i y_i})
Q_{\text{stuck}} = \frac{m+n}{4} \, h\!\left(\frac{m}{m+n}\right)
h(p) = -p \ln p - (1-p) \ln (1-p)
"""
LEAD = (
    "Networks with one hidden layer of two, three, four or eight tanh neurons learn XOR by BackProp with momentum, all "
    "four examples in every step, {steps} steps, each width from {starts} random starts. A network is stuck if it "
    "still has a wrong answer. If it cannot tell $m$ inputs of one class from $n$ of the other, the best it can do for "
    "them is to answer with their shares: $Q$ then comes down to a level of its own, without reaching it, for the "
    "weights that answer so grow without bound. The stuck networks are pushed in a "
    "random direction and trained again."
)
SOLVED = r.Claim(
    "BackProp learns XOR with two hidden neurons, the fewest that can, from at least nine of ten random starts.",
    why="About half of the starts lead into a valley where two or three of the four inputs get the same answer.",
    quantity="share of starts that end with four right answers",
)
FLAT = r.Claim(
    "Where training ends without an answer to XOR, there is almost no gradient left: its norm is below 0.01.",
    why="Some networks are still on their way, down or along a flat part.",
    quantity="norm of the gradient, mean over stuck networks",
)
STEPPED = r.Claim(
    "Stuck networks end on a few levels of the loss, 0.347, 0.477 or 0.693, which follow from how many inputs the "
    "network cannot tell apart.",
    why="Some networks have not yet arrived at their level.",
    quantity="share of stuck networks within 0.02 of a level",
)
WIDER = r.Claim(
    "The wider the hidden layer, the fewer starts get stuck.",
    why="Where hardly any start gets stuck, there is nothing left to improve.",
    quantity="share of starts that get stuck, less that with fewer neurons",
)
MINIMA = r.Claim(
    "At least nine of ten stuck networks are in a local minimum: the loss bends downwards in no direction, and after a "
    "push training leads back to the same loss.",
    why="Some stuck places are saddles or flat parts, which training leaves when it is pushed or lasts longer.",
    quantity="share of stuck networks with two hidden neurons",
)


def network(width: int) -> fnn.Layer:
    """A hidden layer of tanh and one output, whose sign is the answer."""
    return fnn.serial(fnn.dense(width, fnn.tanh), fnn.linear(1))


def examples() -> tuple[jax.Array, jax.Array]:
    """The four inputs [4, 2] and XOR as −1 or 1 [4]."""
    x = binary_inputs(2, jnp.float32)
    return x, 2 * jnp.abs(x[:, 0] - x[:, 1]) - 1


def loss_of(params: Any) -> jax.Array:
    """Q, the mean loss over the four examples, of a network of any width."""
    x, y = examples()
    return jnp.mean(fnn.logistic_margin.value(network(WIDTHS[0]).apply(params, ((), ()), x), y))


def first_neurons(params: Any, width: int) -> Any:
    """The weights of the network that the first hidden neurons make."""
    hidden, last = params
    return {"w": hidden["w"][:, :width], "b": hidden["b"][:width]}, {"w": last["w"][:width], "b": last["b"]}


def begun(key: jax.Array) -> Any:
    """Random weights of all WIDTHS [widths, …], as networks of the largest: a neuron with weights 0 stays at 0."""
    x, widest = examples()[0], max(WIDTHS)

    def filled(width: int) -> Any:
        hidden, last = network(width).init(key, x)[0]
        more = widest - width
        return (
            {"w": jnp.pad(hidden["w"], ((0, 0), (0, more))), "b": jnp.pad(hidden["b"], (0, more))},
            {"w": jnp.pad(last["w"], ((0, more), (0, 0))), "b": last["b"]},
        )

    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(filled, WIDTHS))


def described(params: Any) -> dict[str, jax.Array]:
    """What is known of a network after training, and of its first two neurons as a network of their own."""
    x, y = examples()
    narrow, back = ravel_pytree(first_neurons(params, WIDTHS[0]))
    loss, slope = jax.value_and_grad(loss_of)(params)
    return {
        "params": narrow,
        "loss": loss,
        "gradient": jnp.linalg.norm(ravel_pytree(slope)[0]),
        "Hessian": jax.hessian(lambda w: loss_of(back(w)))(narrow),
        "solved": jnp.all(network(max(WIDTHS)).apply(params, ((), ()), x)[:, 0] * y > 0),
    }


def experiment_with(steps: int) -> Callable[..., dict[str, jax.Array]]:
    """The pure experiment ``(key) -> values [starts, widths]`` after training, and after a push and training again."""
    x, y = examples()
    learn = fnn.trainer(network(max(WIDTHS)), fnn.logistic_margin, fnn.momentum(ETA, GAMMA), batch_size=4)

    def of_network(params: Any, key: jax.Array) -> dict[str, jax.Array]:
        start = learn.init(key, (x, y))

        def of_round(params: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
            state, _ = fnn.train(learn, start._replace(params=params), (x, y), steps)
            flat, back = ravel_pytree(state.params)
            direction = jax.random.normal(key, flat.shape, flat.dtype) * jnp.sign(jnp.abs(flat))
            pushed = back(flat + PUSH * direction * jnp.linalg.norm(flat) / jnp.linalg.norm(direction))
            return pushed, described(state.params)

        _, rounds = jax.lax.scan(of_round, params, jax.random.split(key, 2))
        first = jax.tree.map(lambda values: values[0], rounds)
        return first | {"loss after a push": rounds["loss"][1]}

    def of_start(key: jax.Array) -> dict[str, jax.Array]:
        of_weights, of_push = jax.random.split(key)
        return jax.vmap(of_network)(begun(of_weights), jax.random.split(of_push, len(WIDTHS)))

    return lambda key: jax.vmap(of_start)(jax.random.split(key, STARTS))


def bends(hessian: np.ndarray) -> np.ndarray:
    """The least eigenvalue of each Hessian [n, weights, weights], in shares of its largest."""
    found = np.linalg.eigvalsh(hessian.astype(float))
    return found[:, 0] / found[:, -1]


def stuck_ones(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The values of all starts, of every seed, that end without four right answers."""
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in found.items()}
    return {name: values[~flat["solved"]] for name, values in flat.items()}


def at_level(loss: np.ndarray) -> np.ndarray:
    """Which level a loss is at [n]: its index in LEVELS, or −1."""
    away = np.abs(loss[:, None] - np.array(LEVELS))
    return np.where(away.min(axis=1) <= NEAR, away.argmin(axis=1), -1)


def _verdicts(runs: dict[int, dict[str, np.ndarray]]) -> list[r.Verdict]:
    stuck = {width: stuck_ones(found) for width, found in runs.items()}
    losses, norms = (np.concatenate([found[name] for found in stuck.values()]) for name in ("loss", "gradient"))
    shares = {width: 1 - found["solved"].mean(axis=1) for width, found in runs.items()}
    two = stuck[2]
    minima = {
        "bends downwards nowhere": bends(two["Hessian"]) >= -DOWN,
        "comes back after a push": np.abs(two["loss after a push"] - two["loss"]) <= NEAR,
    }
    pairs = pairwise(WIDTHS)
    return [
        r.at_least(SOLVED, 0.9, runs[2]["solved"].ravel()),
        r.at_most(FLAT, 0.01, norms),
        r.at_least(STEPPED, 0.9, at_level(losses) >= 0),
        r.smaller(WIDER, {f"{more} against {few} neurons": (shares[more], shares[few]) for few, more in pairs}),
        r.at_least(MINIMA, 0.9, minima),
    ]


def _table(runs: dict[int, dict[str, np.ndarray]]) -> r.Table:
    rows = {}
    for width, found in runs.items():
        stuck = stuck_ones(found)
        places = at_level(stuck["loss"])
        rows[str(width)] = {
            "starts": str(found["solved"].size),
            "stuck": str(len(places)),
            **{f"at {level}": str((places == i).sum()) for i, level in enumerate(LEVELS)},
            "elsewhere": str((places < 0).sum()),
            "typical ‖g‖": r.scientific(np.median(stuck["gradient"])) if len(places) else "–",
        }
    return r.table("Where training ends, in numbers of starts, and the median norm of the gradient there", "H", rows)


def _of_levels(runs: dict[int, dict[str, np.ndarray]]) -> r.Figure:
    """The final losses of all starts in order, a panel for each width."""
    with r.figure(5.4, 3.6) as canvas:
        panels = canvas.subplots(1, len(runs), sharey=True)
        for axes, (width, found) in zip(panels, runs.items(), strict=True):
            loss = np.sort(found["loss"].ravel())
            share = 100 * np.arange(1, len(loss) + 1) / len(loss)
            axes.hlines(LEVELS, 0, 100, color=r.COLORS[7], linestyle=":")
            axes.plot(share, loss, color=r.COLORS[0], linewidth=3)
            axes.set(
                xlabel="starts, %" if axes is panels[0] else "",
                xlim=(0, 100),
                xticks=(0, 50, 100),
                xticklabels=("0", "50", ""),
            )
            axes.set_ylim(-0.02, 0.75)
            axes.set_title(f"{width} neurons\n{r.percent(1 - found['solved'].mean())} stuck", fontsize=11)
            axes.grid(False)
        panels[0].set_ylabel("loss Q at the end")
        panels[0].set_yticks((0, *LEVELS), ("0", *map(str, LEVELS)))
        return r.finished(
            canvas,
            "The loss at which training ends, all starts in order from the best to the worst, by the number of hidden "
            "neurons; dotted: the levels of networks that cannot tell some inputs apart",
            "Four staircases. With two neurons about half of the starts end at the bottom and the others on flat steps "
            "above it; the more neurons, the shorter the steps above the bottom.",
        )


def _of_lines(found: dict[str, np.ndarray], most: int) -> r.Figure:
    """The loss on straight lines from stuck networks to the nearest solved ones."""
    back = ravel_pytree(jax.tree.map(jnp.zeros_like, network(2).init(jax.random.key(0), examples()[0])[0]))[1]
    loss_on = jax.jit(jax.vmap(lambda w: loss_of(back(w))))
    solved, stuck = found["params"][found["solved"]], stuck_ones(found)
    levels = at_level(stuck["loss"])
    with r.figure(5.4, 3.6) as canvas:
        axes = canvas.subplots()
        for i, level in enumerate(LEVELS[:2]):
            ends = stuck["params"][levels == i][:most]
            for k, end in enumerate(ends if len(solved) else ()):
                goal = solved[np.argmin(np.linalg.norm(solved - end, axis=1))]
                line = jnp.asarray(end + LINE[:, None] * (goal - end), jnp.float32)
                label = f"stuck at {level}" if k == 0 else None
                axes.plot(LINE, np.asarray(loss_on(line)), color=r.COLORS[i], label=label, alpha=0.7)
        axes.set(xlabel="position between a stuck (0) and a solved network (1)", ylabel="loss Q", ylim=(0, 1.5))
        axes.legend()
        return r.finished(
            canvas,
            "The loss along the straight line from stuck networks of two hidden neurons to the nearest solved one, "
            f"{most} of each level",
            "Lines that begin on one of two levels, climb over a hill, and fall to zero at the solved network.",
        )


def run(settings: r.Settings, log: r.Log) -> r.Outcome:
    """Train, push, train again, judge and draw."""
    steps = settings.pick(quick=400, full=2000)
    log(f"{settings.seeds * STARTS} starts of each of {len(WIDTHS)} widths, twice {steps} steps, in one compiled call")
    found = r.sweep_seeds(experiment_with(steps), settings)
    runs = {width: {name: of[:, :, i] for name, of in found.items()} for i, width in enumerate(WIDTHS)}
    return r.Outcome(
        LEAD.format(steps=steps, starts=settings.seeds * STARTS),
        _verdicts(runs),
        EQUATION,
        slide=12,
        tables=[_table(runs)],
        figures=[_of_levels(runs), _of_lines(runs[2], 5)],
        numbers={
            "steps": steps,
            "share of starts that get stuck": {H: r.estimate(~of["solved"].ravel()) for H, of in runs.items()},
            "loss at the end, from the least to the largest, in hundredths of the starts": {
                H: np.percentile(of["loss"], range(0, 101, 5)) for H, of in runs.items()
            },
        },
    )
