"""The laws of an optimizer: its first state, one step, and many."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fnn.core.types import Params
from fnn.optimizers.transforms import apply_updates
from fnn.testing._asking import Judge, Measured, Question, Skipped, alike, are_arrays, law, paired, supported
from fnn.testing._equations import coarsest_eps, draws
from fnn.testing._judges import close, equal, finite, largest, leaves, relative_errors
from fnn.testing._precision import DTYPES as LOW_DTYPES
from fnn.testing._precision import close_to_float64
from fnn.testing._trees import DTYPES, cast, named, normal, shaken, size, struct
from fnn.testing._updates import NUDGES, Subject
from fnn.testing.reports import Outcome

Reference = Callable[[Any, list[Any]], Any]
"""(params, [gradient, …]) -> the params after each step, on NumPy arrays."""

_RESULTS = "updates", "state"

_IMPURE = "the same arguments gave another result: look for a counter or a sum kept outside the state"

_STRANGE = "look at what grows, vanishes or is divided by in this step for the first time"

_STILL = "look for updates that are lost or 0; an optimizer that waits needs more steps"

_UP = "look at the sign, which belongs inside the updates; if they are gradients still, pass transform=True"


@law("init gives arrays")
def init_gives_arrays(s: Subject) -> str:
    """All of the state, the step counter too."""
    are_arrays(s.state, "state")
    return f"{size(s.state)} numbers in state"


@law("update runs under jit", needs=init_gives_arrays)
def update_runs(s: Subject) -> str:
    """Updates and a state of arrays."""
    updates, state = s.first
    are_arrays(updates, "updates")
    are_arrays(state, "state")
    return f"{size(updates)} numbers in updates"


@law("init is pure", equal(_IMPURE), needs=update_runs)
def init_is_pure(s: Subject) -> Measured:
    """The same state for the same params."""
    return paired(s.optimizer.init(s.params), s.state, "state")


@law("update is pure", equal(_IMPURE), needs=update_runs)
def update_is_pure(s: Subject) -> Measured:
    """The same updates and state from the same arguments."""
    again = s.updated(s.gradient)
    return paired(again[0], s.first[0], "updates") | paired(again[1], s.first[1], "state")


@law("updates have the shapes of the params", needs=update_runs)
def updates_fit(s: Subject) -> str:
    """The structure, shapes and dtypes of the params."""
    alike(s.first[0], s.params, "updates", "as the params")
    return f"{size(s.params)} numbers"


@law("state keeps its shapes and dtypes", needs=update_runs)
def state_is_kept(s: Subject) -> str:
    """From step to step, so that `jax.lax.scan` can carry it."""
    alike(s.first[1], s.state, "state", "as before the step")
    return f"{size(s.state)} numbers"


@law("keeps the dtype of the params", needs=update_runs)
def keeps_dtypes(s: Subject) -> str:
    """Updates in the dtype of the params, and the state in its own, all by shapes alone."""
    for dtype in map(jnp.dtype, DTYPES):
        params, like = struct(s.params, dtype), f"for {dtype} params"
        state = jax.eval_shape(s.optimizer.init, params)
        updates, after = jax.eval_shape(s.optimizer.update, params, state, params)
        alike(updates, params, "updates", like)
        alike(after, state, "state", f"{like} as before the step")
    return ", ".join(DTYPES)


def _in_dtype(s: Subject, dtype: str) -> Measured:
    """(updates, state) of every step in a dtype and in float64."""
    given, exact = s.short
    like = jax.eval_shape(s.optimizer.init, struct(s.params, jnp.dtype(dtype)))
    low = cast(given[0], dtype), cast(given[1], dtype, like), cast(given[2], dtype)
    first = jax.tree.map(lambda leaf: leaf[0], low)
    anew = bool(s.bits) and s.bits != draws(s.optimizer.update, *first)
    got = jax.lax.map(lambda at: s.optimizer.update(*at), low)
    changes, eps = jnp.array(NUDGES), coarsest_eps(dtype)
    return {"got": got, "exact": exact, "given": low, "changes": changes, "drawn anew": anew, "eps": eps}


def _step_by_step(dtype: str) -> Judge:
    """Step after step as a layer's numbers are; where other random numbers are drawn, that they are finite."""
    nearly = close_to_float64(dtype, least=0.0)

    def judge(found: Measured, tolerance: float) -> tuple[Outcome, str]:
        steps = len(jax.tree.leaves(found["got"])[0])
        names = [(f"{what} of step {k + 1}: ", i, k) for k in range(steps) for i, what in enumerate(_RESULTS)]
        at = lambda tree, k: jax.tree.map(lambda leaf: leaf[k], tree)  # noqa: E731
        by_step = {part: {name: at(found[part][i], k) for name, i, k in names} for part in ("got", "exact")}
        anew = {name: found["drawn anew"] for name, _, _ in names}
        return nearly(found | by_step | {"by jax": {}, "drawn anew": anew}, tolerance)

    return judge


def right_in(dtype: str) -> Question:
    """The law of one dtype."""
    return law(f"right in {dtype}", _step_by_step(dtype), needs=update_runs)(partial(_in_dtype, dtype=dtype))


@law(
    "a zero gradient gives finite updates",
    finite("look for 0/0 in the first step, such as g/√G without an ε"),
    needs=update_runs,
)
def zero_gives_finite(s: Subject) -> Measured:
    """The first step of a gradient that is 0."""
    updates, state = s.updated(jax.tree.map(jnp.zeros_like, s.gradient))
    return paired(updates, updates, "updates") | paired(state, state, "state")


@law(
    "runs under vmap",
    close("a copy under vmap must compute what it does alone: look for sums over all axes, or Python's if"),
    needs=update_runs,
)
def runs_under_vmap(s: Subject) -> Measured:
    """Of two copies with params and gradients of their own, each computes what it does alone."""

    def one(params: Params, gradient: Params) -> Params:
        return s.optimizer.update(gradient, s.optimizer.init(params), params)[0]

    pairs = (shaken(s.params, 1), s.params), (s.gradient_at(1), s.gradient)
    copies = (jax.tree.map(lambda u, v: jnp.stack([u, v]), *pair) for pair in pairs)
    second = jax.tree.map(lambda leaf: leaf[1], jax.vmap(one)(*copies))
    return paired(second, s.first[0], "updates")


def _of_leaves(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """Information: an optimizer may couple the leaves; but not answer one leaf's gradient at another leaf alone."""
    after, before = found["updates"]
    names = [where for where, _, _ in leaves({"gradient": (before, before)})]
    pairs = list(zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True))
    moved = np.array([[not np.allclose(u[k], v, rtol=tolerance, atol=0) for u, v in pairs] for k in range(len(pairs))])
    others = moved & ~np.eye(len(pairs), dtype=bool)
    for k in np.flatnonzero(others.any(1) & ~moved.diagonal()):
        return Outcome.BROKEN, f"{names[k]} moves other leaves and not its own: look for leaves in another order"
    if others.any():
        first = names[int(np.argmax(others.any(1)))]
        return Outcome.HOLDS, f"{first} moves other leaves too: coupled, as by a common norm"
    return Outcome.HOLDS, f"each of {len(pairs)} leaves by itself"


@law("leaves are independent", _of_leaves, needs=update_runs)
def leaves_are_independent(s: Subject) -> Measured:
    """The updates with another gradient at one leaf, for each leaf: [leaves, …] a leaf."""
    flat, tree = jax.tree.flatten(s.gradient)
    which = jnp.eye(len(flat))
    changed = [jax.vmap(lambda at, g=g, i=i: g * (1 - 3 * at[i]))(which) for i, g in enumerate(flat)]
    updates = jax.vmap(lambda *leaves: s.updated(jax.tree.unflatten(tree, leaves))[0])(*changed)
    return {"updates": (updates, s.first[0])}


def _of_flat(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """Information: an optimizer may treat leaves differently, by name or by a norm of each."""
    (error,) = relative_errors(found).values()
    differently = ": treats leaves differently, as by name or by their norms" if error > tolerance else ""
    return Outcome.HOLDS, f"off by {error:.1e}{differently}"


@law("runs on one flat vector", _of_flat, needs=update_runs)
def runs_flat(s: Subject) -> Measured:
    """All params in one vector, which has no leaves and no names."""
    vector = lambda tree: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])  # noqa: E731
    params = vector(s.params)
    updates, _ = supported(lambda: s.optimizer.update(vector(s.gradient), s.optimizer.init(params), params))
    return {"updates": (updates, vector(s.first[0]))}


@law(
    "runs in lax.scan",
    close("the scan must compute what a loop does: look for what update keeps outside its state"),
    needs=update_runs,
)
def scan_is_a_loop(s: Subject) -> Measured:
    """The first two steps of a scan against the same in Python."""
    params, state = s.params, s.state
    for step in range(2):
        updates, state = s.optimizer.update(s.gradient_at(step), state, params)
        params = apply_updates(params, updates)
    return paired(jax.tree.map(lambda leaf: leaf[1], s.path), params, "params after 2 steps")


def _of_finite_path(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """The first step after which a number is NaN or infinite, and its leaf."""
    rows = [(named("params", keys), leaf) for keys, leaf in jax.tree.leaves_with_path(found["path"])]
    strange = [(k, name) for name, leaf in rows for k, w in enumerate(leaf, 1) if not np.isfinite(w).all()]
    if not strange:
        return Outcome.HOLDS, "all numbers are finite"
    k, name = min(strange)
    return Outcome.BROKEN, f"NaN or infinite at {name} after step {k}: {_STRANGE}"


@law("path is finite", _of_finite_path, needs=scan_is_a_loop)
def path_is_finite(s: Subject) -> Measured:
    """The params after each of the steps."""
    return {"path": s.path}


def _of_descent(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """A step down may be too long, which is a matter of the rate; but steps lead down, on the whole."""
    Q, cosines = found["Q"], found["cosines"]
    finding = f"Q from {Q[0]:.3g} to {Q[-1]:.3g} in {len(cosines)} steps"
    if Q[-1] < Q[0]:
        return Outcome.HOLDS, finding
    if not cosines.any():
        return Outcome.BROKEN, f"nothing moves in {len(cosines)} steps: {_STILL}"
    if np.mean(cosines) > 0:
        return Outcome.SKIPPED, f"{finding}, by steps that lead down and too far: take a smaller rate"
    return Outcome.BROKEN, f"{finding}: {_UP}"


@law("goes down a paraboloid", _of_descent, needs=scan_is_a_loop)
def descends(s: Subject) -> Measured:
    """On Q = ½‖w − c‖², Q before and after each step, and the step's cosine with −∂Q/∂w.

    The minimum c lies on the other side of 0, where a decay of the weights leads too. The updates of a transform are
    taken for the gradients they are.
    """
    c = jax.tree.map(jnp.subtract, normal(s.params, 2), s.params)
    slope = lambda w: jax.tree.map(jnp.subtract, w, c)  # noqa: E731
    path = s.scanned(lambda params, _: slope(params), lambda u: -0.1 * u if s.transform else u)
    w = jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), s.params, path)
    w, slopes = (jax.vmap(lambda tree: ravel_pytree(tree)[0])(trees) for trees in (w, jax.vmap(slope)(w)))
    moves = jnp.diff(w, axis=0)
    lengths = jnp.linalg.norm(moves, axis=1) * jnp.linalg.norm(slopes[:-1], axis=1)
    cosines = -jnp.sum(moves * slopes[:-1], axis=1) / jnp.where(lengths > 0, lengths, 1)
    return {"Q": 0.5 * jnp.sum(jnp.square(slopes), axis=1), "cosines": cosines}


def follows(reference: Reference | None, given: tuple[Any, Any]) -> Question:
    """The law that the steps are those of a reference, for the params and gradients that are given as NumPy arrays."""

    def measure(s: Subject) -> Measured:
        if reference is None:
            raise Skipped("no reference was given: a loop of the equations, (params, gradients) -> params of each step")
        return {"path": s.path}

    return law("steps equal the reference", _of_path(given, reference), needs=scan_is_a_loop)(measure)


def _of_path(given: tuple[Any, Any], reference: Reference | None) -> Judge:
    """The first step, and in it the leaf, at which the reference is elsewhere."""
    params, gradients = given

    def judge(found: Measured, tolerance: float) -> tuple[Outcome, str]:
        assert reference is not None
        steps = len(jax.tree.leaves(gradients)[0])
        each = [jax.tree.map(lambda g, k=k: g[k].copy(), gradients) for k in range(steps)]
        wanted = _path_of_reference(reference(jax.tree.map(np.copy, params), each), steps, params)
        worst = 0.0
        for k, tree in enumerate(wanted):
            errors = relative_errors({"params": (jax.tree.map(lambda leaf, k=k: leaf[k], found["path"]), tree)})
            where, error = largest(errors)
            if not error <= tolerance:
                finding = f"off by {error:.1e} at {where} after step {k + 1}"
                return Outcome.BROKEN, f"{finding}: look at what this step has for the first time"
            worst = max(worst, error)
        return Outcome.HOLDS, f"off by {worst:.1e} at most in {steps} steps"

    return judge


def _path_of_reference(path: Any, steps: int, params: Any) -> list[Any]:
    """The params after each of the steps, one tree a step in the structure of the params."""
    path = list(path)
    if len(path) != steps:
        raise ValueError(f"reference must give the params after each of the {steps} steps, got {len(path)} of them")
    for tree in path:
        if jax.tree.structure(tree) != jax.tree.structure(params):
            raise ValueError(
                f"reference must give trees in the structure of the params, {jax.tree.structure(params)}, got "
                f"{jax.tree.structure(tree)}"
            )
    return path


LAWS = (
    init_gives_arrays,
    update_runs,
    init_is_pure,
    update_is_pure,
    updates_fit,
    state_is_kept,
    keeps_dtypes,
    *map(right_in, LOW_DTYPES),
    zero_gives_finite,
    runs_under_vmap,
    leaves_are_independent,
    runs_flat,
    scan_is_a_loop,
    path_is_finite,
    descends,
)
