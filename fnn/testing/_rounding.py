"""Faults in the dtype one trains in alone: the two against each other and against their own float64.

Rounding costs a right function about what it changes by where each number it is given is rounded anew, for which the
automatic gradient is asked in float64 at three such points, and a few units in the last place more. What is further off
than eight times that has another reason. Nothing is judged where rounding alone changes a tenth of a leaf. A forward
pass that rounds on purpose, as that of `fnn.mixed_precision`, is judged in the same way, to that rounding alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.testing._equations import coarsest_eps
from fnn.testing._judges import LEAST
from fnn.testing._precision import SLACK, UNITS
from fnn.testing._programs import Compared
from fnn.testing._trees import cast, changed, distance, flat_leaves, is_float, norm, numbers, relative_error
from fnn.testing._verdicts import Kind, Verdict, not_finite, to_rounding, wrong
from fnn.testing.comparisons import Precision, Returned, relative_between, whole

NARROW = 4
"""As SLACK, where both sides round in the same places of a forward pass that they share."""

ILL = 0.1
"""Where rounding of what is given changes more than this part of a leaf, its digits mean nothing."""


def _changes(of: Compared, scale: float) -> Any:
    """How far what the second function returns is off, leaf by leaf, where all that is given changes by `scale`."""
    second = jax.jit(of.functions[1])
    here, there = second(*of.given), [second(*changed(of.given, scale, seed)) for seed in range(3)]
    return jax.tree.map(lambda leaf, *at: max(distance(numbers(leaf), numbers(each)) for each in at), here, *there)


def of_narrow(exact: list[list[np.ndarray]], of: Compared) -> list[Verdict]:
    """The verdicts on the leaves where the forward pass itself rounds, as that of `fnn.mixed_precision`.

    Its Q is a staircase, whose quotients mean nothing: the two are compared with each other, up to that rounding.

    Args:
        exact: the two gradients' flat leaves, given float64.
        of: what is compared.

    Returns:
        A verdict a leaf.
    """
    dtype = of.rounds_to
    eps, found = coarsest_eps(dtype), []
    loses = jax.tree.leaves(_changes(of, eps)[1])
    wholes = whole(of.paths, list(map(norm, exact[1])), of.sizes)
    for u, v, changes, all_of_it in zip(*exact, loses, wholes, strict=True):
        finite = [bool(np.isfinite(g).all()) for g in (u, v)]
        scale = max(norm(v), LEAST * all_of_it)
        bound = NARROW * (eps * scale + changes) + of.tolerance * scale
        if not all(finite):
            found.append(not_finite(of.names, finite))
        else:
            found.append(to_rounding(dtype, agree=distance(u, v) <= bound))
    return found


def in_own_dtype(
    found: list[Verdict], exact: list[list[np.ndarray]], own: list[list[np.ndarray]], given: Any, of: Compared
) -> list[Verdict]:
    """The verdicts on the leaves, those that agree in float64 judged in their own dtype too.

    Args:
        found: the verdict on each leaf in float64.
        exact: the two gradients' flat leaves in float64.
        own: the same in their own dtype.
        given: the arguments in it.
        of: what is compared.

    Returns:
        A verdict a leaf.
    """
    judged = list(found)
    wholes = whole(of.paths, list(map(norm, exact[1])), of.sizes)
    for i, verdict in enumerate(found):
        both, dtype = [g[i] for g in own], own[1][i].dtype
        if verdict.kind is not Kind.AGREE or not is_float(both[1]) or dtype == np.float64:
            continue
        eps = _eps(dtype, of)
        scale = max(norm(exact[1][i]), max(LEAST, 16 * eps) * wholes[i])
        u, v = map(numbers, both)
        finite = [bool(np.isfinite(g).all()) for g in (u, v)]
        if all(finite) and distance(u, v) <= SLACK * UNITS * eps * scale:
            continue
        loses = jax.tree.leaves(_changes(of, eps)[1])[i]
        if not loses < ILL * scale:
            continue
        bound = SLACK * (UNITS * eps * scale + loses + distance(exact[0][i], exact[1][i]))
        if not all(finite):
            judged[i] = not_finite(of.names, finite, dtype.name)
        elif distance(u, v) > bound:
            off = [_off_float64(f, given, e, i) for f, e in zip(of.functions, exact, strict=True)]
            right = [off[k] <= bound + 3 * off[1 - k] for k in range(2)]
            differ = Verdict(Kind.DIFFER, dtype=dtype.name)
            judged[i] = differ if right[0] == right[1] else wrong(of.names, right, dtype.name)
    return judged


def _off_float64(f: Callable[..., Any], given: Any, exact: list[np.ndarray], leaf: int) -> float:
    """How far a leaf is off its float64, for the same random draws; infinite where it does not run."""
    try:
        return distance(flat_leaves(jax.jit(f)(*given)[1])[leaf], exact[leaf])
    except TypeError:
        return np.inf


def of_returned(
    sides: Sequence[Any], own: Sequence[Any] | None, of: Compared
) -> tuple[tuple[Returned, ...], list[Verdict]]:
    """What else two functions return, compared: the value, and the state leaf by leaf.

    Args:
        sides: what each returns in float64.
        own: what each returns in the dtype that it was given; None where that is float64.
        of: what is compared.

    Returns:
        How far each is off, and a verdict if one is.
    """
    apart, dtype = _returned(sides, of), ""
    if own is not None and all(each.agree for each in apart):
        lower = _returned(own, of)
        apart += lower
        dtype = next((each.dtype for each in lower if not each.agree), "")
    kinds = [("values", "value"), ("states", "state")]
    words = " and ".join(
        plural for plural, name in kinds if any(not r.agree and r.name.startswith(name) for r in apart)
    )
    if not words:
        return tuple(apart), []
    return tuple(apart), [Verdict(Kind.RETURNED_DIFFER, name=words, dtype=dtype)]


def _returned(sides: Sequence[Any], of: Compared) -> list[Returned]:
    (first, _), (second, _) = sides
    found = []
    for i, ((path, u), v) in enumerate(zip(jax.tree.leaves_with_path(first), jax.tree.leaves(second), strict=True)):
        u, v, dtype = jnp.asarray(u), jnp.asarray(v), jnp.result_type(v)
        is_narrow = jnp.issubdtype(dtype, jnp.floating) and dtype != jnp.float64
        eps = _eps(dtype, of) if is_narrow or of.rounds_to else float(np.finfo(np.float64).eps)
        tolerance = max(of.tolerance, SLACK * UNITS * eps if is_narrow or of.rounds_to else 0)
        name = "value" if path[0].idx == 0 else f"state{jax.tree_util.keystr(path[1:])}"
        may_change = lambda i=i, eps=eps: SLACK * jax.tree.leaves(_changes(of, eps)[0])[i]  # noqa: E731
        found.append(Returned(name, dtype.name if is_narrow else "", *_same(u, v, tolerance, may_change)))
    return found


def in_dtype(name: str, given: tuple[Any, ...], exact: list[list[np.ndarray]], of: Compared) -> Precision:
    """The two gradients in a lower precision against their own float64."""
    lower = cast(given, name)

    def off(f: Callable[..., tuple[Any, Any]], want: list[np.ndarray]) -> float:
        try:
            got = [g.astype(np.float64) for g in flat_leaves(jax.jit(f)(*lower)[1])]
        except TypeError:
            return np.nan
        return float(np.max(relative_between(of, [got, want]), initial=0))

    first, second = (off(f, want) for f, want in zip(of.functions, exact, strict=True))
    return Precision(name, first, second, _eps(name, of))


def _same(u: Any, v: Any, tolerance: float, rounding: Callable[[], float]) -> tuple[float, bool]:
    """How far two leaves are apart relative to the second, and whether that is no more than rounding."""
    if u.shape != v.shape:
        return np.inf, False
    u, v = numbers(u), numbers(v)
    if np.array_equal(u, v, equal_nan=jnp.issubdtype(u.dtype, jnp.inexact)):
        return 0.0, True
    relative, apart = relative_error(u, v), distance(u, v)
    return relative, bool(relative <= tolerance or apart <= tolerance * norm(v) + rounding())


def _eps(dtype: Any, of: Compared) -> float:
    """That of a dtype, or of what the forward pass rounds to where that is coarser."""
    return coarsest_eps(dtype, of.rounds_to or None)
