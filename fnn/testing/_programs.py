"""The two functions as programs: what they return, and what they cost in operations, memory, and time in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from fnn.core import _checks as checks
from fnn.nn.surgery import drop_records
from fnn.testing import _checks as testing_checks


class Cost(NamedTuple):
    """What a compiled gradient costs."""

    flops: float
    bytes_accessed: float
    temporary_bytes: float
    compile_seconds: float
    run_seconds: float
    """median of the timed runs"""


class Compared(NamedTuple):
    """Two functions, what they are called with in float64, and how they are judged."""

    names: tuple[str, str]
    functions: tuple[Callable[..., Any], Callable[..., Any]]
    """each in the signature of `in_signature`"""
    given: tuple[Any, ...]
    mean_loss: Callable[..., Any] | None
    paths: list[str]
    """of the leaves of the trees"""
    sizes: list[float]
    """the norms of what these are the gradient by"""
    rounds_to: str
    """the narrowest float dtype that the forward pass rounds to, given float64; empty for none"""
    tolerance: float
    entries: int = 0
    steps: Any = None


def in_signature(f: Any, name: str, bare: bool = False) -> Callable[..., tuple[Any, Any]]:
    """A function to ((value, state), tree), or of a tree alone to (None, tree); what `watch` saw is left out."""
    checks.is_function(name, f)

    def function(*given: Any) -> tuple[Any, Any]:
        found = f(*given)
        value_and_state, tree = (None, found) if bare else _value_and_tree(name, found, given[1])
        return value_and_state, drop_records(tree)

    return function


def tried(where: str, functions: Any, given: tuple[Any, ...]) -> None:
    """What is wrong with the arguments as they were given is said before anything is made of them."""
    jax.eval_shape(lambda *given: [f(*given) for f in functions], *given)
    _is_known(where, given)


def precisely(f: Callable[..., tuple[Any, Any]], name: str, precise: tuple[Any, ...]) -> Any:
    """What a function in `in_signature` returns in float64.

    Raises:
        TypeError: it took the arrays as they were given, and not in float64.
    """
    try:
        return jax.jit(f)(*precise)
    except TypeError as error:
        raise TypeError(
            f"{name} takes the arrays as given and not in float64, in which the two are compared: {error}; let it "
            "follow the dtype of what it is given, and take all its arrays from there"
        ) from error


def narrowest_in(f: Callable[..., Any], precise: tuple[Any, ...]) -> str:
    """The narrowest float dtype to which a function rounds arrays, given float64; empty where it does not."""
    met = [jnp.dtype(jnp.float64), *_rounded_to(jax.make_jaxpr(f)(*precise).jaxpr)]
    narrowest = max(met, key=lambda dtype: float(jnp.finfo(dtype).eps))
    return "" if narrowest == jnp.float64 else narrowest.name


def _rounded_to(program: Any) -> Iterator[Any]:
    """The dtypes of all arrays in a program that are made of others in a wider float dtype."""
    for eqn in program.eqns:
        if eqn.primitive.name == "convert_element_type":
            old, new = eqn.invars[0].aval, eqn.outvars[0].aval
            if old.shape and all(jnp.issubdtype(of.dtype, jnp.floating) for of in (old, new)):
                yield from [new.dtype] * bool(jnp.finfo(new.dtype).eps > jnp.finfo(old.dtype).eps)
        for part in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda part: hasattr(part, "eqns")):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                yield from _rounded_to(inner)


def cast(tree: Any, dtype: Any) -> Any:
    """Floating-point leaves in another dtype; keys and integers as they are."""

    def converted(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(converted, tree)


def dtypes_of(tree: Any) -> list[Any]:
    """The dtypes of all leaves."""
    return [jnp.asarray(leaf).dtype for leaf in jax.tree.leaves(tree)]


def measured(
    first: Callable[..., Any], second: Callable[..., Any], given: tuple[Any, ...], rounds: int
) -> tuple[tuple[Cost, Cost], float, tuple[Any, Any]]:
    """The costs of two functions, the ratio of their run times, and what they return."""
    programs = []
    for function in (first, second):
        begin = time.perf_counter()
        program = jax.jit(function).lower(*given).compile()
        programs.append((program, time.perf_counter() - begin))
    run_first, run_second = ((lambda program=program: program(*given)) for program, _ in programs)
    found = run_first(), run_second()
    seconds = _interleaved(run_first, run_second, rounds)
    ratio = float(np.median(np.divide(*seconds))) if rounds else float("nan")
    (one, one_compiled), (other, other_compiled) = programs
    return (_cost(one, one_compiled, seconds[0]), _cost(other, other_compiled, seconds[1])), ratio, found


def _cost(program: Any, compile_seconds: float, runs: list[float]) -> Cost:
    analysis, memory = program.cost_analysis() or {}, program.memory_analysis()
    return Cost(
        flops=float(analysis.get("flops", np.nan)),
        bytes_accessed=float(analysis.get("bytes accessed", np.nan)),
        temporary_bytes=float(memory.temp_size_in_bytes) if memory is not None else np.nan,
        compile_seconds=compile_seconds,
        run_seconds=float(np.median(runs)) if runs else np.nan,
    )


def _interleaved(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds a call, in turn and in changing order, so that a slow moment of the machine meets both alike."""

    def timed(function: Callable[[], Any], calls: int) -> float:
        begin = time.perf_counter()
        jax.block_until_ready([function() for _ in range(calls)][-1])
        return (time.perf_counter() - begin) / calls

    timed(second, 1)
    calls = max(1, int(2e-3 / max(timed(first, 3), 1e-9)))  # about 2 ms a sample, well above the clock's grain
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            seconds[which].append(timed((first, second)[which], calls))
    return seconds


def _is_known(where: str, given: Any) -> None:
    """Arrays with numbers in them, for programs that are compiled, timed and put into words."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(given)):
        raise TypeError(
            f"{where} compiles programs of its own and gives words, and was given traced arrays; call it outside of "
            "jit, vmap and grad"
        )


def _value_and_tree(name: str, found: Any, state: Any) -> tuple[Any, Any]:
    """What a function in the signature of a gradient returns, ((value, state), tree)."""
    if not (
        testing_checks._is_pair(found)
        and testing_checks._is_pair(found[0])
        and _is_scalar(found[0][0])
        and _alike(found[0][1], state)
    ):
        raise TypeError(
            f"{name} must return ((value, state), tree), a scalar and the next state before the tree, got "
            f"{jax.tree.structure(found)}; functions that return a tree alone, such as hessian_vector_product, are "
            "compared by fnn.testing.compare(…, bare=True)"
        )
    return found


def _is_scalar(value: Any) -> bool:
    return _alike(value, 0) and jnp.shape(value) == ()


def _alike(one: Any, other: Any) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other)
