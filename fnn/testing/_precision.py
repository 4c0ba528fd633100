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

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.testing._asking import Judge, Measured
from fnn.testing._equations import CHANGE
from fnn.testing._passes import Subject
from fnn.testing._trees import cast, is_float, named, norm, struct
from fnn.testing.reports import BROKEN, HOLDS, NOT_ASKED

DTYPES = ("float32", "bfloat16", "float16")

UNITS, SLACK = 4, 8

LEAST = 1e-3
"""Of its tree: what a leaf is measured by at least, for it may be 0 but for rounding."""

TRAINING = "y", "state", "error", "gradient", "∂²L/∂x²", "∂²L/∂w²"


def in_dtype(s: Subject, dtype: str, careful: bool = False) -> Measured:
    """Both modes, backward and curve in a dtype and in float64; careful also gradients by `jax.vjp` in the dtype."""
    coarse, like = s.coarse, jax.eval_shape(s.layer.init, s.key, struct(s.x, jnp.dtype(dtype)))
    params, state = (cast(u, v, dtype) for u, v in zip((coarse.params, coarse.state), like, strict=True))
    low = s.at(params=params, state=state, x=coarse.x.astype(dtype))
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
    }
    if careful or drawn["error"]:
        readings, through = jax.vjp(lambda p, x: s.layer.forward(p, state, x, s.key)[0], params, low.x)[1](error)
        found["by jax"] = {"gradient": readings, "error": through}
    if careful and not drawn["error"]:
        found["exact"] |= jax.tree.map(lambda leaf: leaf[None], _of_tape(coarse, low.forward[2]))
    return found


def _of_tape(s: Subject, tape: Any) -> dict[str, Any]:
    """The curve in float64 of a tape in a lower precision; nothing of a tape that knows its dtype."""
    try:
        return s.curved(jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if is_float(leaf) else leaf, tape), s.error)
    except (TypeError, ValueError):
        return {}


def close_to_float64(dtype: str, within: Any = None, least: float = LEAST) -> Judge:
    """Nothing is further off than rounding takes it, nor infinite where float64 is not and the dtype need not be.

    Args:
        dtype: the one that is asked about.
        within: a narrower one to which the layer rounds on its way.
        least: of the norm of its tree, what a leaf is measured by at least.
    """
    eps = max(float(jnp.finfo(d).eps) for d in (dtype, within or dtype))
    tiny, most = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)

    def judge(found: Measured) -> tuple[str, str]:
        given = [leaf for _, leaf in _floats(found["given"])]
        if not all(np.isfinite(leaf).all() for leaf in given):
            return NOT_ASKED, f"x or params are beyond the range of {dtype}"
        largest = max((float(np.max(np.abs(leaf), initial=0)) for leaf in given), default=0.0)
        worst, where = 0.0, "all"
        for name, got in found["got"].items():
            if name.startswith("∂²") and largest > np.sqrt(most):
                continue  # second derivatives are made of squares, which are beyond the range
            for at, u, leaf, twin, whole in _rows(found, name, got):
                if not np.isfinite(leaf).all() or np.max(np.abs(leaf), initial=0) > most / 2:
                    continue
                if strange := int(np.sum(~np.isfinite(u))):
                    return BROKEN, f"{strange} of {u.size} numbers are NaN or infinite at {at}: {_OVERFLOW}"
                anew = bool(found["drawn anew"][name])
                if anew and (twin is None or not np.isfinite(twin).all()):
                    continue
                scale = max(norm(twin if anew else leaf[0]), (max(least, 16 * eps) if least else 0) * whole) or 1.0
                off, loses = _off(u, leaf, twin, found["changes"], eps, anew)
                bound = SLACK * (UNITS * eps * scale + tiny * np.sqrt(u.size)) + loses
                if not off <= bound:
                    return BROKEN, f"off by {off / scale:.1e} at {at}: {_LOST}"
                worst, where = max((worst, where), (off / scale, at))
        beside = "jax.vjp" if any(found["drawn anew"].values()) else "float64"
        return HOLDS, f"off {beside} by {worst:.1e} at {where}"

    return judge


def _rows(found: Measured, name: str, got: Any) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray | None, float]]:
    """Of each leaf its name, its numbers in the dtype, in float64 and by JAX, and the norm of its tree."""
    exact, by_jax = _floats(found["exact"][name]), dict(_floats(found["by jax"].get(name, ())))
    whole = norm(np.array([norm(leaf[0]) for _, leaf in exact]))
    pairs = zip(_floats(got), exact, strict=True)
    return [(named(name, keys), u, leaf, by_jax.get(keys), whole) for (keys, u), (_, leaf) in pairs]


def _off(
    u: np.ndarray, leaf: np.ndarray, twin: np.ndarray | None, changes: np.ndarray, eps: float, anew: bool
) -> tuple[float, float]:
    """How far u is off leaf[0], or its twin, and how far it may be by what changes in the rest of leaf."""
    v = leaf[0]
    costs = (norm(each - v) * eps / change for each, change in zip(leaf[1:], changes, strict=False))
    loses = SLACK * max(costs, default=0.0)
    if twin is None or not np.isfinite(twin).all():
        return norm(u - v), loses
    if anew:
        return norm(u - twin), loses
    return min(norm(u - v), norm(u - twin)), loses + 3 * norm(twin - v)


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
