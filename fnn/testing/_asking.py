"""Asking many laws by one compiled program.

A law is a question: a function that is traced and returns what to compare, and a judge who compares the numbers. A
program for each law would spend all the time on compiling, so one program computes what all of them compare. An
exception that a law raises while it is traced breaks that law alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core.errors import Unsupported
from fnn.testing._trees import array_type, is_float, named
from fnn.testing.reports import Law, Outcome

Measured = dict[str, Any]
"""What there is to compare, by what it is: usually pairs of trees (got, wanted)."""

Judge = Callable[[Measured, float], tuple[Outcome, str]]
"""From the numbers and a tolerance to an outcome and a finding."""

_HASTE = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""Compiler options that make programs of many small operations compile several times faster, and run slower."""


class Broken(Exception):
    """Raised by a question whose law is broken by shapes or dtypes: the finding."""


class Skipped(Exception):
    """Raised by a question that has no meaning here: the reason."""


class Question(NamedTuple):
    """A law to be asked."""

    name: str
    measure: Callable[[Any], Measured | str]
    """from the subject, with tracers; or a finding in words, where the law holds by shapes and dtypes"""
    judge: Judge
    needs: str = ""
    """a law without which this one has no meaning: if that one raised, it is skipped"""
    by_jax: bool = False
    """whether it compares with JAX's derivatives, which rounding and kinks may spoil"""


def by_shape(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """For a law that holds or not by shapes and dtypes; there are no numbers to judge."""
    return Outcome.HOLDS, ""


def law(
    name: str, judge: Judge = by_shape, *, needs: Question | None = None, by_jax: bool = False
) -> Callable[[Callable[[Any], Measured | str]], Question]:
    """A decorator that makes a question of the function which measures: the whole law in one place."""
    return lambda measure: Question(name, measure, judge, needs.name if needs else "", by_jax)


def chosen(questions: Sequence[Question], only: Iterable[str] | None) -> list[Question]:
    """The questions of these names and those that they need, in their order; all of them for None.

    Raises:
        ValueError: a name of no question.
    """
    if only is None:
        return list(questions)
    by_name, wanted = {question.name: question for question in questions}, list(only)
    for name in wanted:
        if name not in by_name:
            raise ValueError(f"only: expected names of laws, got {name!r}. Choose among {sorted(by_name)}.")
        if by_name[name].needs and by_name[name].needs not in wanted:
            wanted.append(by_name[name].needs)
    return [question for question in questions if question.name in wanted]


def ask(
    questions: Sequence[Question],
    subject: Callable[..., Any],
    *arguments: Any,
    tolerance: float,
    compiled: bool = True,
    unmet: Iterable[str] = (),
) -> list[Law]:
    """Answer all questions.

    Args:
        questions: the laws, in the order of the report.
        subject: arguments -> what the questions look at; several may use what one has computed.
        *arguments: arrays.
        tolerance: largest relative error.
        compiled: by one program, or operation by operation.
        unmet: laws asked before that raised.

    Returns:
        A law for each question.
    """
    unmet = set(unmet)
    try:
        return _answered(questions, subject, arguments, tolerance, compiled, set(unmet))
    except Exception:  # of the whole program, which compiles or runs into an error: find out whose it is
        laws: list[Law] = []
        for question in questions:
            try:
                laws += _answered([question], subject, arguments, tolerance, compiled, unmet)
            except Exception as error:
                laws.append(Law(question.name, Outcome.BROKEN, described(error)))
                unmet.add(question.name)
        return laws


def asked_again(
    laws: list[Law], questions: Sequence[Question], again: Callable[[list[Question], dict[str, Law]], list[Law]]
) -> list[Law]:
    """The laws, those of the questions that are broken replaced by what `again` finds of them."""
    broken = {law.name: law for law in laws if law.outcome is Outcome.BROKEN}
    doubtful = [question for question in questions if question.name in broken]
    found = {law.name: law for law in again(doubtful, broken)} if doubtful else {}
    return [found.get(law.name, law) for law in laws]


def _answered(
    questions: Sequence[Question],
    subject: Callable[..., Any],
    arguments: Any,
    tolerance: float,
    compiled: bool,
    unmet: set[str],
) -> list[Law]:
    decided: dict[str, Law] = {}

    def program(*arguments: Any) -> dict[str, Measured]:
        about, found = subject(*arguments), {}
        for question in questions:
            answer = _measured(question, about, unmet)
            if isinstance(answer, Law):
                decided[question.name] = answer
            else:
                found[question.name] = answer
        return found

    found = jax.device_get(compiled_in_haste(program, *arguments)(*arguments) if compiled else program(*arguments))
    return [decided.get(q.name) or _judged(q, found[q.name], tolerance) for q in questions]


def compiled_in_haste(program: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """The program, compiled in haste: it runs once, on a few numbers."""
    lowered = jax.jit(program).lower(*arguments)
    try:
        return lowered.compile(compiler_options=_HASTE)
    except Exception:  # a compiler that does not know the options
        return lowered.compile()


def _measured(question: Question, about: Any, unmet: set[str]) -> Law | Measured:
    """What there is to compare, or the law where it is decided before there are numbers."""
    name = question.name
    if question.needs in unmet:
        unmet.add(name)
        return Law(name, Outcome.SKIPPED, f"not before this holds: {question.needs}")
    try:
        found = question.measure(about)
    except Skipped as reason:
        return Law(name, Outcome.SKIPPED, str(reason))
    except Broken as finding:
        return Law(name, Outcome.BROKEN, str(finding))
    except Exception as error:
        unmet.add(name)
        return Law(name, Outcome.BROKEN, described(error))
    return Law(name, Outcome.HOLDS, found) if isinstance(found, str) else found


def _judged(question: Question, found: Measured, tolerance: float) -> Law:
    try:
        return Law(question.name, *question.judge(found, tolerance))
    except Exception as error:
        return Law(question.name, Outcome.BROKEN, described(error))


def described(error: Exception) -> str:
    """The type and the first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def supported(measure: Callable[[], Any]) -> Any:
    """The result of `measure`; where it raises `Unsupported`, the law is skipped."""
    try:
        return measure()
    except Unsupported as error:
        raise Skipped(f"unsupported: {str(error).strip().splitlines()[0]}") from error
    except ValueError as error:
        raise Broken(f"{described(error)}; to refuse a request on purpose raise fnn.core.Unsupported") from error


# What questions measure


def paired(got: Any, wanted: Any, name: str, like: str = "") -> Measured:
    """Two trees to compare by their numbers, which have to be alike before.

    Raises:
        Broken: another structure, or other shapes or dtypes.
    """
    alike(got, wanted, name, like)
    return {name: (got, wanted)}


def alike(got: Any, wanted: Any, name: str, like: str = "") -> None:
    """Check that two trees have one structure, the same shapes and dtypes.

    Raises:
        Broken: where they first differ.
    """
    expected = f", expected {like}, " if like else ", expected "
    if jax.tree.structure(got) != jax.tree.structure(wanted):
        raise Broken(f"{name} has structure {jax.tree.structure(got)}{expected}{jax.tree.structure(wanted)}")
    for where, u, v in each_leaf(name, got, wanted):
        if (jnp.shape(u), jnp.result_type(u)) != (jnp.shape(v), jnp.result_type(v)):
            raise Broken(f"{where} is {array_type(u)}{expected}{array_type(v)}")


def each_leaf(name: str, got: Any, wanted: Any) -> Iterator[tuple[str, Any, Any]]:
    """The name of every leaf of two trees of one structure, and the leaf of either."""
    for (keys, u), v in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(wanted), strict=True):
        yield named(name, keys), u, v


def are_arrays(tree: Any, name: str) -> None:
    """Check that a tree is of arrays only.

    Raises:
        Broken: a leaf which is something else, such as a Python number.
    """
    for keys, leaf in jax.tree.leaves_with_path(tree):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            raise Broken(f"{named(name, keys)} is no array but {type(leaf).__name__}; make it one by jnp.asarray")


def are_floats(tree: Any, name: str) -> None:
    """Check that a tree is of floats only.

    Raises:
        Broken: a leaf of integers, of keys, …
    """
    for keys, leaf in jax.tree.leaves_with_path(tree):
        if not is_float(leaf):
            raise Broken(
                f"{name} must be floats, and {named(name, keys)} is {array_type(leaf)}; {name} are what is "
                "trained: keep a mask, a counter or a key in the state, or in the layer itself"
            )
