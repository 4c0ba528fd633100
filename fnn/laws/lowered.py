"""The laws of a layer in the dtypes one trains in: by their numbers, set beside float64.

All is computed at params, x and errors of eight binary digits, which every dtype holds exactly, so that one pass in
float64 judges all of them. Rounding costs a right layer about what its numbers change by where each that it is given is
rounded anew, and a few units in the last place; a backward pass also what `jax.vjp` of its own forward loses in that
dtype. What is further off than eight times that has another reason. Second derivatives start from the tape of
the dtype, so that a unit which rounding moves over a kink is the same in both.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.laws.asking import Judge, Measured
from fnn.laws.passes import Subject
from fnn.laws.report import BROKEN, HOLDS, NOT_ASKED
from fnn.laws.trees import is_float, named, struct

DTYPES = ("float32", "bfloat16", "float16")
UNITS, SLACK = 4, 8


def in_dtype(s: Subject, dtype: str, careful: bool = False) -> Measured:
    """Both stages, backward and curve in a dtype and in float64; careful also gradients by `jax.vjp` in the dtype."""
    coarse, like = s.coarse, jax.eval_shape(s.layer.init, s.key, struct(s.x, jnp.dtype(dtype)))
    params, state = (_cast(u, v, dtype) for u, v in zip((coarse.params, coarse.state), like, strict=True))
    low = s.at(params=params, state=state, x=coarse.x.astype(dtype))
    error = coarse.error.astype(low.forward[0].dtype)
    found = {
        "got": low.passes(error),
        "exact": coarse.changed,
        "by jax": {},
        "given": (params, low.x),
        "draws": s.draws,
    }
    if careful:
        readings, through = jax.vjp(lambda p, x: s.layer.forward(p, state, x, s.key)[0], params, low.x)[1](error)
        found["by jax"] = {"gradient": readings, "error": through}
        found["exact"] |= jax.tree.map(lambda leaf: leaf[None], _of_tape(coarse, low.forward[2]))
    return found


def _of_tape(s: Subject, tape: Any) -> dict[str, Any]:
    """The curve in float64 of a tape in a lower precision; nothing of a tape that knows its dtype."""
    try:
        return s.curved(jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if is_float(leaf) else leaf, tape), s.error)
    except (TypeError, ValueError):
        return {}


def _cast(tree: Any, like: Any, dtype: str) -> Any:
    """In the dtypes that init gives for such an x; in the dtype itself where the trees are not alike."""
    same = jax.tree.structure(tree) == jax.tree.structure(like)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(like)] if same else [dtype] * len(jax.tree.leaves(tree))
    leaves = [u.astype(v) if is_float(u) else u for u, v in zip(jax.tree.leaves(tree), dtypes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def close_to_float64(dtype: str, change: float) -> Judge:
    """Nothing is further off than rounding takes it, nor infinite where float64 is not and the dtype need not be."""
    eps, most = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).max)

    def judge(found: Measured) -> tuple[str, str]:
        if not all(np.isfinite(leaf).all() for _, leaf in _floats(found["given"])):
            return NOT_ASKED, f"x or params are beyond the range of {dtype}"
        worst, where = 0.0, "all"
        for name, got in found["got"].items():
            rows, by_jax = _floats(found["exact"][name]), dict(_floats(found["by jax"].get(name, ())))
            least = max(1e-3, 16 * eps) * np.sqrt(sum(np.sum(np.square(leaf[0])) for _, leaf in rows))
            for (keys, u), (_, leaf) in zip(_floats(got), rows, strict=True):
                at, twin = named(name, keys), by_jax.get(keys)
                if not np.isfinite(leaf).all() or np.max(np.abs(leaf), initial=0) > most / 2:
                    continue
                if strange := int(np.sum(~np.isfinite(u))):
                    return BROKEN, f"{strange} of {u.size} numbers are NaN or infinite at {at}: {_OVERFLOW}"
                if found["draws"] and twin is None:
                    continue
                off, bound = _off(u, leaf, twin, eps, max(np.linalg.norm(leaf[0]), least), change, bool(found["draws"]))
                if not off <= bound:
                    return BROKEN, f"off by {off:.1e} at {at}: {_LOST}"
                worst, where = max((worst, where), (off, at))
        return HOLDS, f"off float64 by {worst:.1e} at {where}"

    return judge


def _off(
    u: np.ndarray, leaf: np.ndarray, twin: np.ndarray | None, eps: float, scale: float, change: float, draws: bool
) -> tuple[float, float]:
    """How far u is off leaf[0] relative to the scale, and how far it may be by what changes in the rest of leaf."""
    scale, v = scale or 1.0, leaf[0]
    loses = max((np.linalg.norm(each - v) for each in leaf[1:]), default=0) * eps / change
    off, bound = np.linalg.norm(u - v), SLACK * (UNITS * eps * scale + loses)
    if twin is not None and np.isfinite(twin).all():
        off = min(off, np.linalg.norm(u - twin))
        bound += 0 if draws else 3 * np.linalg.norm(twin - v)
    return float(off / scale), float(bound / scale)


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
