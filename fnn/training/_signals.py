"""What ends training on the host before its time, Ctrl-C, SIGTERM or an error, without losing what is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import FrameType
from typing import Any

Held = Callable[[], AbstractContextManager[None]]


class Preempted(BaseException):
    """Raised by a SIGTERM that nobody else handles: the system asks the process to end, and soon will end it."""


@dataclass
class Ending:
    """How a block of `keeping` ends."""

    held: Held = nullcontext
    """``with held():`` is a block within it at whose end signals are heard, and not before"""
    stopped: str = ""
    """why it was ended early; empty until then"""


@contextmanager
def keeping(done: Callable[[str], Any]) -> Iterator[Ending]:
    """A block that Ctrl-C and SIGTERM end early without an exception, and whose errors carry what was done before them.

    A state may be in the device's hands alone while a step or chunk is under way: that stands in ``with held():``.

    Args:
        done: from why the block ended to what was done, the error's attribute `done`.
    """
    ending, came = Ending(), list[tuple[int, FrameType | None]]()
    try:
        with _stop_signals(came) as ending.held:
            yield ending
    except KeyboardInterrupt:
        ending.stopped = "interrupted"
    except Preempted:
        ending.stopped = "preempted"
    except Exception as error:
        error.done = done("error")  # type: ignore[attr-defined]
        error.add_note("What was done before this error is in its attribute `done`.")
        for number, _ in came:
            error.add_note(f"{signal.Signals(number).name} came meanwhile.")
        raise


@contextmanager
def _stop_signals(came: list[tuple[int, FrameType | None]]) -> Iterator[Held]:
    """Within the block Ctrl-C raises KeyboardInterrupt as ever, and SIGTERM `Preempted` instead of ending the process.

    A signal that comes within ``with held():`` is heard when that block is left, and stays among those that came if an
    error leaves it. A handler of the user's own is called
    at the same places. Off the main thread, where Python handles no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield nullcontext
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    taken = {number: old for number, old in usual.items() if callable(old)}
    if usual[signal.SIGTERM] is signal.SIG_DFL:
        taken[signal.SIGTERM] = _preempt
    holding = False

    def hear(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        if not holding:
            pass_on()

    def pass_on() -> None:
        while came:
            number, frame = came.pop(0)
            taken[signal.Signals(number)](number, frame)

    @contextmanager
    def held() -> Iterator[None]:
        nonlocal holding
        holding = True
        try:
            yield
        finally:
            holding = False
        pass_on()

    for number in taken:
        signal.signal(number, hear)
    try:
        yield held
    finally:
        for number in taken:
            signal.signal(number, usual[number])
    pass_on()


def _preempt(number: int, frame: Any) -> None:
    raise Preempted
