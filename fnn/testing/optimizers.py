"""Whether an optimizer keeps its laws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from fnn.core import _checks as checks
from fnn.core.types import Params
from fnn.testing._asking import Judge, Measured, NotAsked, Question, ask
from fnn.testing._judges import by_shape, close, equal, finite, leaves, relative_errors
from fnn.testing._precision import DTYPES, close_to_float64
from fnn.testing._trees import named, precise
from fnn.testing._updates import (
    Subject,
    descends,
    in_dtype,
    init_gives_arrays,
    init_is_pure,
    keeps_dtypes,
    leaves_are_independent,
    path_is_finite,
    runs_flat,
    runs_under_vmap,
    scan_is_a_loop,
    state_is_kept,
    update_is_pure,
    update_runs,
    updates_fit,
    zero_gives_finite,
)
from fnn.testing.reports import BROKEN, HOLDS, NOT_ASKED, Laws

Reference = Callable[[Any, list[Any]], Any]
"""(params, [gradient, …]) -> the params after each step, on NumPy arrays."""

INIT, UPDATE, SCAN = "init gives arrays", "update runs under jit", "runs in lax.scan"


def check_optimizer(
    optimizer: Any,
    params: Params,
    *,
    reference: Reference | None = None,
    transform: bool = False,
    steps: int = 10,
    key: Any = None,
    tolerance: float = 1e-9,
) -> Laws:
    """Whether an optimizer keeps all the laws that training relies on, and takes the steps of its equations.

    Args:
        optimizer: a pair with ``init`` and ``update``, of fnn's or of anyone's.
        params: a pytree of a few arrays of floats, as the optimizer is to have.
        reference: the equations once more, as a plain loop ``(params, [gradient, …]) -> [params, …]`` on NumPy arrays,
            which gives the params after each step.
        transform: whether the updates are gradients still, for the next in a `chain` to take, as those of
            `clip_by_norm` and `l2` are; else they have the minus sign inside and must lead down a paraboloid.
        steps: how many, at least 2; enough for an optimizer that waits, to move at all.
        key: for the gradients; `jax.random.key(0)` if not given.
        tolerance: largest relative error, of float64.

    Returns:
        `Laws`, which prints as a table; ``check_optimizer(…).raise_if_failed()`` is a whole test. The gradients are
        random, of sizes from 1e-2 to 10, and do not depend on the params: a path to a minimum hides a wrong factor.
        In float32, bfloat16 and float16 each step is set beside the same one in float64, at gradients from 1/4 to 4.

    Raises:
        TypeError: no optimizer, or params that are not floats.
        ValueError: params without arrays, or fewer than 2 steps.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import momentum
        >>> from fnn.testing import check_optimizer
        >>> def loop(w, gradients):
        ...     v = 0
        ...     for g in gradients:
        ...         v = 0.9 * v + 0.1 * g
        ...         w = w - 0.01 * v
        ...         yield w
        >>> check_optimizer(momentum(0.01), jnp.ones(3), reference=loop).passed
        True
        >>> check_optimizer(momentum(0.02), jnp.ones(3), reference=loop).failures[0].name
        'steps equal the reference'
    """
    _of_optimizer(optimizer, params, reference, tolerance)
    steps = checks.count("steps", steps, least=2)
    with jax.enable_x64(True):
        params = precise(params)
        given = jax.device_get((params, _gradients(params, steps, jax.random.key(0) if key is None else key)))
        laws = ask(_questions(given, reference, tolerance), partial(Subject, optimizer, steps, transform), *given)
        return Laws(str(optimizer), tuple(laws))


def _gradients(params: Params, steps: int, key: Any) -> Params:
    """Random gradients [steps, …], each weight's of a size of its own."""
    random = np.random.default_rng(np.asarray(jax.random.key_data(key), np.uint32))

    def of(leaf: Any) -> np.ndarray:
        return random.standard_normal((steps, *leaf.shape)) * 10 ** random.uniform(-2, 1, leaf.shape)

    return jax.tree.map(of, params)


def _questions(given: tuple[Any, Any], reference: Reference | None, tolerance: float) -> list[Question]:
    same = partial(close, tolerance)
    of_update = [
        ("init is pure", init_is_pure, equal(_IMPURE)),
        ("update is pure", update_is_pure, equal(_IMPURE)),
        ("updates have the shapes of the params", updates_fit, by_shape),
        ("state keeps its shapes and dtypes", state_is_kept, by_shape),
        ("keeps the dtype of the params", keeps_dtypes, by_shape),
        *((f"right in {d}", partial(in_dtype, dtype=d), _right_in(d)) for d in DTYPES),
        ("a zero gradient gives finite updates", zero_gives_finite, finite(_NAN)),
        ("runs under vmap", runs_under_vmap, same(_VMAP)),
        ("leaves are independent", leaves_are_independent, _of_leaves(tolerance)),
        ("runs on one flat vector", runs_flat, _of_flat(tolerance)),
    ]
    return [
        Question(INIT, init_gives_arrays, by_shape),
        Question(UPDATE, update_runs, by_shape, INIT),
        *(Question(name, measure, judge, UPDATE) for name, measure, judge in of_update),
        Question(SCAN, scan_is_a_loop, same(_SCAN), UPDATE),
        Question("path is finite", path_is_finite, _of_finite_path, SCAN),
        Question("goes down a paraboloid", descends, _of_descent, SCAN),
        Question(
            "steps equal the reference", partial(_follows, reference), _of_path(given, reference, tolerance), SCAN
        ),
    ]


_RESULTS = "updates", "state"

_IMPURE = "the same arguments gave something else: look for a counter or a sum kept outside the state"

_NAN = "look for 0/0 in the first step, such as g/√G without an ε"

_VMAP = "a copy under vmap must compute what it does alone: look for sums over all axes, or Python's if"

_STRANGE = "look at what grows, vanishes or is divided by in this step for the first time"

_STILL = "look for updates that are lost or 0; an optimizer that waits needs more steps"

_UP = "look at the sign, which belongs inside the updates; if they are gradients still, say so by transform=True"

_SCAN = "the scan must compute what a loop does: look for what update keeps outside its state"


def _follows(reference: Reference | None, s: Subject) -> Measured:
    if reference is None:
        raise NotAsked("no reference was given: a loop of the equations, (params, gradients) -> params after each step")
    return {"path": s.path}


def _right_in(dtype: str) -> Judge:
    """Step after step as a layer's numbers are; where other random numbers are drawn, that they are finite."""
    nearly = close_to_float64(dtype, least=0.0)

    def judge(found: Measured) -> tuple[str, str]:
        steps = len(jax.tree.leaves(found["got"])[0])
        names = [(f"{what} of step {k + 1}: ", i, k) for k in range(steps) for i, what in enumerate(_RESULTS)]
        at = lambda tree, k: jax.tree.map(lambda leaf: leaf[k], tree)  # noqa: E731
        by_step = {part: {name: at(found[part][i], k) for name, i, k in names} for part in ("got", "exact")}
        anew = {name: found["drawn anew"] for name, _, _ in names}
        return nearly(found | by_step | {"by jax": {}, "drawn anew": anew})

    return judge


def _of_leaves(tolerance: float) -> Judge:
    """Information: an optimizer may couple the leaves; but not answer one leaf's gradient at another leaf alone."""

    def judge(found: Measured) -> tuple[str, str]:
        after, before = found["updates"]
        names = [where for where, _, _ in leaves({"gradient": (before, before)})]
        pairs = list(zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True))
        moved = np.array(
            [[not np.allclose(u[k], v, rtol=tolerance, atol=0) for u, v in pairs] for k in range(len(pairs))]
        )
        others = moved & ~np.eye(len(pairs), dtype=bool)
        for k in np.flatnonzero(others.any(1) & ~moved.diagonal()):
            return BROKEN, f"{names[k]} moves other leaves and not its own: look for leaves in another order"
        if others.any():
            return HOLDS, f"{names[int(np.argmax(others.any(1)))]} moves other leaves too: coupled, as by a common norm"
        return HOLDS, f"each of {len(pairs)} leaves by itself"

    return judge


def _of_flat(tolerance: float) -> Judge:
    """Information: an optimizer may tell leaves apart, by name or by a norm of each."""

    def judge(found: Measured) -> tuple[str, str]:
        (error,) = relative_errors(found).values()
        told = ": tells the leaves apart, as by name or by norms of their own" if error > tolerance else ""
        return HOLDS, f"off by {error:.1e}{told}"

    return judge


def _of_finite_path(found: Measured) -> tuple[str, str]:
    """The first step after which a number is NaN or infinite, and its leaf."""
    rows = [(named("params", keys), leaf) for keys, leaf in jax.tree.leaves_with_path(found["path"])]
    strange = [(k, name) for name, leaf in rows for k, w in enumerate(leaf, 1) if not np.isfinite(w).all()]
    if not strange:
        return HOLDS, "all numbers are finite"
    k, name = min(strange)
    return BROKEN, f"NaN or infinite at {name} after step {k}: {_STRANGE}"


def _of_descent(found: Measured) -> tuple[str, str]:
    """A step down may be too long, which is a matter of the rate; but steps lead down, on the whole."""
    Q, cosines = found["Q"], found["cosines"]
    finding = f"Q from {Q[0]:.3g} to {Q[-1]:.3g} in {len(cosines)} steps"
    if Q[-1] < Q[0]:
        return HOLDS, finding
    if not cosines.any():
        return BROKEN, f"nothing moves in {len(cosines)} steps: {_STILL}"
    if np.mean(cosines) > 0:
        return NOT_ASKED, f"{finding}, by steps that lead down and too far: take a smaller rate"
    return BROKEN, f"{finding}: {_UP}"


def _of_path(given: tuple[Any, Any], reference: Reference | None, tolerance: float) -> Judge:
    """The first step, and in it the leaf, at which the reference is elsewhere."""
    params, gradients = given

    def judge(found: Measured) -> tuple[str, str]:
        assert reference is not None
        steps = len(jax.tree.leaves(gradients)[0])
        each = [jax.tree.map(lambda g, k=k: g[k].copy(), gradients) for k in range(steps)]
        wanted = _path_of_reference(reference(jax.tree.map(np.copy, params), each), steps, params)
        worst = 0.0
        for k, tree in enumerate(wanted):
            errors = relative_errors({"params": (jax.tree.map(lambda leaf, k=k: leaf[k], found["path"]), tree)})
            where, error = max(errors.items(), key=lambda pair: np.inf if np.isnan(pair[1]) else pair[1])
            if not error <= tolerance:
                return (
                    BROKEN,
                    f"off by {error:.1e} at {where} after step {k + 1}: look at what this step has for the first time",
                )
            worst = max(worst, error)
        return HOLDS, f"off by {worst:.1e} at most in {steps} steps"

    return judge


def _of_optimizer(optimizer: Any, params: Any, reference: Any, tolerance: Any) -> None:
    """An optimizer, params of floats, and a reference that can be called."""
    checks.is_optimizer("check_optimizer", optimizer)
    checks.floats("check_optimizer", "params", params)
    checks.not_negative("tolerance", tolerance)
    if not jax.tree.leaves(params):
        raise ValueError("check_optimizer needs params with at least one array, got none")
    if reference is not None:
        checks.is_function("reference", reference)


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
