"""Asking many laws by one compiled program.

A law is a question: a function that is traced and gives what to compare, and a judge who compares the numbers. A
program for each law would spend all the time on compiling, so one program computes what all of them compare. What a
law raises while it is traced breaks that law alone.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

from fnn.testing.reports import BROKEN, HOLDS, NOT_ASKED, Law

Measured = dict[str, Any]
"""What there is to compare, by what it is: usually pairs of trees (got, wanted)."""

Judge = Callable[[Measured], tuple[str, str]]
"""From the numbers to a verdict and a finding."""

HASTE = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Compiler options that make programs of many small operations compile several times faster, and run slower."""


class Broken(Exception):
    """Raised by a question whose law is broken by shapes or dtypes: the finding."""


class NotAsked(Exception):
    """Raised by a question that has no meaning here: the reason."""


class Question(NamedTuple):
    """A law to be asked."""

    name: str
    measure: Callable[[Any], Measured | str]
    """from the subject, with tracers; or a finding in words, where the law holds by shapes and dtypes"""
    judge: Judge
    needs: str = ""
    """a law without which this one has no meaning: if that one raised, it is not asked"""


def ask(
    questions: Sequence[Question],
    subject: Callable[..., Any],
    *arguments: Any,
    compiled: bool = True,
    unmet: Iterable[str] = (),
) -> list[Law]:
    """Answer all questions.

    Args:
        questions: the laws, in the order of the report.
        subject: arguments -> what the questions look at; several may use what one has computed.
        *arguments: arrays.
        compiled: by one program, or operation by operation.
        unmet: laws asked before that raised.

    Returns:
        A law for each question.
    """
    try:
        return _answered(questions, subject, arguments, compiled, set(unmet))
    except Exception:  # of the whole program, which compiles or runs into an error: find out whose it is
        laws: list[Law] = []
        unmet = set(unmet)
        for question in questions:
            try:
                laws += _answered([question], subject, arguments, compiled, unmet)
            except Exception as error:
                laws.append(Law(question.name, BROKEN, described(error)))
                unmet.add(question.name)
        return laws


def _answered(
    questions: Sequence[Question], subject: Callable[..., Any], arguments: Any, compiled: bool, unmet: set[str]
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

    found = jax.device_get(_compiled(program, arguments)(*arguments) if compiled else program(*arguments))
    return [decided.get(q.name) or _judged(q, found[q.name]) for q in questions]


def _compiled(program: Callable[..., Any], arguments: Any) -> Callable[..., Any]:
    """The program, compiled in haste: it runs once, on a few numbers."""
    lowered = jax.jit(program).lower(*arguments)
    try:
        return lowered.compile(compiler_options=HASTE)
    except Exception:  # a compiler that does not know the options
        return lowered.compile()


def _measured(question: Question, about: Any, unmet: set[str]) -> Law | Measured:
    """What there is to compare, or the law where it is decided before there are numbers."""
    name = question.name
    if question.needs in unmet:
        unmet.add(name)
        return Law(name, NOT_ASKED, f"not before this holds: {question.needs}")
    try:
        found = question.measure(about)
    except NotAsked as reason:
        return Law(name, NOT_ASKED, str(reason))
    except Broken as finding:
        return Law(name, BROKEN, str(finding))
    except Exception as error:
        unmet.add(name)
        return Law(name, BROKEN, described(error))
    return Law(name, HOLDS, found) if isinstance(found, str) else found


def _judged(question: Question, found: Measured) -> Law:
    try:
        return Law(question.name, *question.judge(found))
    except Exception as error:
        return Law(question.name, BROKEN, described(error))


def described(error: Exception) -> str:
    """The type and the first line of an exception."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def is_refusal(error: Exception) -> bool:
    """Whether a `raise` statement outside JAX says that something cannot be had; else JAX came to grief over it."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not isinstance(error, ValueError | NotImplementedError):
        return False
    code, module = last.tb_frame.f_code, last.tb_frame.f_globals.get("__name__", "")
    raised = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return raised and module.partition(".")[0] not in ("jax", "numpy")


def or_refused(measure: Callable[[], Any]) -> Any:
    """What is measured; where that is refused, the law is not asked."""
    try:
        return measure()
    except Exception as error:
        if is_refusal(error):
            raise NotAsked(f"refused: {described(error)}") from error
        raise
