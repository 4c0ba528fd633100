"""Properties of a function that its equations show, as JAX traces them: its draws, its dtypes, the cost of rounding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.testing._trees import is_float, struct
from fnn.training.sweeps import carries

CHANGE = 2.0**-20
"""By so much numbers are changed, relatively, to see how far rounding goes."""

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "custom_jvp_call", "custom_vjp_call"}

EXACT = {
    "broadcast_in_dim",
    "reshape",
    "transpose",
    "squeeze",
    "slice",
    "concatenate",
    "select_n",
    "neg",
    "copy",
    "rev",
}
"""What moves numbers and does not round them."""


def draws(f: Callable[..., Any], *arguments: Any) -> list[str]:
    """The raw random bits that f draws, by their shapes and widths; alike, these are the same numbers for one key."""
    text = str(jax.make_jaxpr(f)(*struct(arguments)))
    return re.findall(r"(?:random_bits|rng_bit_generator|threefry2x32)\[[^]]*\]", text)


def narrowest(f: Callable[..., Any], *arguments: Any) -> Any:
    """The coarsest float dtype to which f rounds arrays of a finer one, below float64; None where it rounds none."""
    met = [
        eqn.outvars[0].aval.dtype
        for eqn in _equations(jax.make_jaxpr(f)(*struct(arguments)).jaxpr)
        if eqn.primitive.name == "convert_element_type" and eqn.invars[0].aval.ndim and _narrows(eqn)
    ]
    return max(met, key=lambda dtype: float(jnp.finfo(dtype).eps), default=None)


def coarsest_eps(*dtypes: Any) -> float:
    """The eps of the coarsest of several float dtypes, of which some may be None."""
    return max(float(jnp.finfo(dtype).eps) for dtype in dtypes if dtype is not None)


def _narrows(eqn: Any) -> bool:
    before, after = eqn.invars[0].aval, eqn.outvars[0].aval
    return is_float(before) and is_float(after) and bool(jnp.finfo(after.dtype).eps > jnp.finfo(before.dtype).eps)


def _equations(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from _equations(getattr(inner, "jaxpr", inner))


def noisy(f: Callable[..., Any], seed: int) -> Callable[..., Any]:
    """The function with every float it computes on its way changed by its part of `CHANGE`, up or down at random.

    So its result moves by what rounding of all of its steps costs, times `CHANGE` over eps: 1 − t² for t near 1 moves
    by as much as t, though it may be 0. From D. S. Parker, *Monte Carlo arithmetic*, 1997.
    """

    def changed(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)
        leaves = _run(closed.jaxpr, closed.consts, jax.tree.leaves(arguments), np.random.default_rng(seed))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    return changed


def _run(jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Any], rng: np.random.Generator) -> list[Any]:
    """The equations one by one, with noise on what each computes."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *arguments), strict=True))
    value = lambda atom: atom.val if hasattr(atom, "val") else known[atom]  # noqa: E731
    for eqn in jaxpr.eqns:
        known |= zip(eqn.outvars, _computed(eqn, [value(atom) for atom in eqn.invars], rng), strict=True)
    return [value(atom) for atom in jaxpr.outvars]


def _computed(eqn: Any, given: list[Any], rng: np.random.Generator) -> list[Any]:
    name, params = eqn.primitive.name, eqn.params
    if name in CALLS:
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), given, rng)
    if name == "scan":
        return _scanned(eqn, given, rng)
    found = eqn.primitive.bind(*given, **params)
    found = list(found) if eqn.primitive.multiple_results else [found]
    return found if name in EXACT else [_with_noise(leaf, rng) for leaf in found]


def _scanned(eqn: Any, given: list[Any], rng: np.random.Generator) -> list[Any]:
    """A scan, with noise in every step."""
    params, body, carried = eqn.params, eqn.params["jaxpr"], len(carries(eqn))
    fixed = sum(v.aval.shape == inner.shape for v, inner in zip(eqn.invars, body.in_avals, strict=True)) - carried

    def step(carry: Any, xs: Any) -> Any:
        found = _run(body.jaxpr, body.consts, (*given[:fixed], *carry, *xs), rng)
        return found[:carried], found[carried:]

    start, xs = given[fixed : fixed + carried], given[fixed + carried :]
    carry, rows = jax.lax.scan(step, start, xs, length=params["length"], reverse=params["reverse"])
    return [*carry, *rows]


def _with_noise(leaf: Any, rng: np.random.Generator) -> Any:
    if not is_float(leaf):
        return leaf
    return leaf * jnp.asarray(1 + CHANGE * rng.choice((-1.0, 1.0), jnp.shape(leaf)), leaf.dtype)
