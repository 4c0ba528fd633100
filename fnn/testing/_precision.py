"""The laws of a layer in the dtypes one trains in: by their numbers, set beside float64.

All is computed at params, x and errors of eight binary digits, which every dtype holds exactly, so that one pass in
float64 judges all of them. Rounding costs a right layer about what its numbers change by where each that it is given is
rounded anew, and a few units in the last place; a backward pass also what `jax.vjp` of its own forward loses in that
dtype. What is further off than eight times that has another reason. Second derivatives start from the tape of
the dtype, so that a unit which rounding moves over a kink is the same in both. Where the random bits of a layer have
other widths in another dtype, it draws other numbers there: then `jax.vjp` of forward in that dtype, for the same key,
judges its backward pass.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.testing._asking import Judge, Measured, Question, law
from fnn.testing._equations import CHANGE, coarsest_eps
from fnn.testing._judges import LEAST
from fnn.testing._passes import backward_runs
from fnn.testing._subject import Subject
from fnn.testing._trees import cast, distance, is_float, named, norm, norm_of_all, struct
from fnn.testing.reports import Outcome

DTYPES = ("float32", "bfloat16", "float16")

UNITS = 4
"""Units in the last place that any computation may lose."""

SLACK = 8
"""How much larger than its estimate an error of rounding may be."""

TRAINING = "y", "state", "error", "gradient", "∂²L/∂x²", "∂²L/∂w²"


def right_in(dtype: str) -> Question:
    """The law of one dtype."""
    return law(f"right in {dtype}", close_to_float64(dtype), needs=backward_runs)(partial(_in_dtype, dtype=dtype))


def _in_dtype(s: Subject, dtype: str) -> Measured:
    """Both modes, backward and curve in a dtype and in float64; careful also gradients by `jax.vjp` in the dtype."""
    coarse, like = s.coarse, jax.eval_shape(s.layer.init, s.key, struct(s.x, jnp.dtype(dtype)))
    like = like if is_float(s.x) else ((), ())
    params, state = (cast(u, dtype, v) for u, v in zip((coarse.params, coarse.state), like, strict=True))
    low = s.at(params=params, state=state, x=cast(coarse.x, dtype))
    error = coarse.error.astype(low.forward[0].dtype)
    in_training, in_apply = (u != v for u, v in zip(s.bits, low.bits if any(s.bits) else s.bits, strict=True))
    drawn = dict.fromkeys(TRAINING, in_training) | {"y of apply": in_apply}
    found = {
        "got": low.passes(error),
        "exact": coarse.changed,
        "by jax": {},
        "given": (params, low.x),
        "changes": jnp.full(2, CHANGE),
        "drawn anew": drawn,
        "eps": coarsest_eps(dtype, s.within),
    }
    if s.careful or drawn["error"]:
        through, readings = low.pulled_by_jax(error)
        found["by jax"] = {"gradient": readings, "error": through}
    if s.careful and not drawn["error"]:
        found["exact"] |= jax.tree.map(lambda leaf: leaf[None], _of_tape(coarse, low.forward[2]))
    return found


def _of_tape(s: Subject, tape: Any) -> dict[str, Any]:
    """The curve in float64 of a tape in a lower precision; nothing of a tape that knows its dtype."""
    try:
        return s.curved(jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if is_float(leaf) else leaf, tape), s.error)
    except (TypeError, ValueError):
        return {}


def close_to_float64(dtype: str, least: float = LEAST) -> Judge:
    """Nothing is further off than rounding takes it, nor infinite where float64 is not and the dtype need not be.

    Args:
        dtype: of the numbers to judge.
        least: the part of a tree's norm that a leaf of it is measured by at least, for it may be 0 but for rounding.
    """
    tiny, most = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)

    def judge(found: Measured, tolerance: float) -> tuple[Outcome, str]:
        given, eps = [leaf for _, leaf in _floats(found["given"])], float(found["eps"])
        if not all(np.isfinite(leaf).all() for leaf in given):
            return Outcome.SKIPPED, f"x or params are beyond the range of {dtype}"
        largest = max((float(np.max(np.abs(leaf), initial=0)) for leaf in given), default=0.0)
        # second derivatives are made of squares, which may be beyond the range
        names = [name for name in found["got"] if not name.startswith("∂²") or largest <= np.sqrt(most)]
        worst, where = 0.0, "all"
        for name in names:
            anew = bool(found["drawn anew"][name])
            for at, u, leaf, reference, whole in _rows(found, name):
                if not np.isfinite(leaf).all() or np.max(np.abs(leaf), initial=0) > most / 2:
                    continue
                if strange := int(np.sum(~np.isfinite(u))):
                    return Outcome.BROKEN, f"{strange} of {u.size} numbers are NaN or infinite at {at}: {_OVERFLOW}"
                if anew and (reference is None or not np.isfinite(reference).all()):
                    continue
                scale = max(norm(reference if anew else leaf[0]), (max(least, 16 * eps) if least else 0) * whole) or 1.0
                off, loses = _off(u, leaf, reference, found["changes"], eps, anew)
                bound = SLACK * (UNITS * eps * scale + tiny * np.sqrt(u.size)) + loses
                if not off <= bound:
                    return Outcome.BROKEN, f"off by {off / scale:.1e} at {at}: {_LOST}"
                worst, where = max((worst, where), (off / scale, at))
        beside = "jax.vjp" if any(found["drawn anew"].values()) else "float64"
        return Outcome.HOLDS, f"off {beside} by {worst:.1e} at {where}"

    return judge


def _rows(found: Measured, name: str) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray | None, float]]:
    """Of each leaf its name, its numbers in the dtype, in float64 and by JAX, and the norm of its tree."""
    exact, by_jax = _floats(found["exact"][name]), dict(_floats(found["by jax"].get(name, ())))
    whole = norm_of_all([leaf[0] for _, leaf in exact])
    pairs = zip(_floats(found["got"][name]), exact, strict=True)
    return [(named(name, keys), u, leaf, by_jax.get(keys), whole) for (keys, u), (_, leaf) in pairs]


def _off(
    u: np.ndarray, leaf: np.ndarray, reference: np.ndarray | None, changes: np.ndarray, eps: float, anew: bool
) -> tuple[float, float]:
    """How far u is off leaf[0], or its reference, and how far it may be by what changes in the rest of leaf."""
    v = leaf[0]
    costs = (distance(each, v) * eps / change for each, change in zip(leaf[1:], changes, strict=False))
    loses = SLACK * max(costs, default=0.0)
    if reference is None or not np.isfinite(reference).all():
        return distance(u, v), loses
    if anew:
        return distance(u, reference), loses
    return min(distance(u, v), distance(u, reference)), loses + 3 * distance(reference, v)


def _floats(tree: Any) -> list[tuple[Any, np.ndarray]]:
    """The floats of a tree in float64, by their paths."""
    leaves = ((keys, np.asarray(leaf)) for keys, leaf in jax.tree.leaves_with_path(tree) if is_float(leaf))
    return [(keys, leaf.astype(np.float64)) for keys, leaf in leaves]


_OVERFLOW = (
    "float64 is finite there, and in the range of the dtype: look for e^x that overflows, inf/inf, 0 times infinity"
)

_LOST = (
    "float64 gives another number, and rounding does not explain it: look for what is done by dtype, for differences"
)


IN_LOW_PRECISION = tuple(map(right_in, DTYPES))
