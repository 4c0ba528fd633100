"""Early ends of training on the host, by Ctrl-C, SIGTERM or an error, without losing the work done so far."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import jax

Held = Callable[[], AbstractContextManager[None]]


class Preempted(BaseException):
    """Raised on a SIGTERM without another handler: the system is about to end the process."""


@dataclass
class Ending:
    """The way a block of `keeping` ends."""

    held: Held = nullcontext
    """``with held():`` defers signals to the end of its block"""
    stopped: str = ""
    """the reason of an early end; empty until then"""
    pending: list[tuple[int, FrameType | None]] = field(default_factory=list)
    """signals that wait for the end of a block of `held`"""


@contextmanager
def keeping(done: Callable[[str], Any]) -> Iterator[Ending]:
    """A block that Ctrl-C and SIGTERM end early without an exception, and whose errors carry the work done before them.

    During a step or chunk the only copy of the state may be on the device: that part belongs in ``with held():``.

    Args:
        done: maps the reason for the end to the work done, which becomes the error's attribute `done`.
    """
    ending = Ending()
    try:
        with _stop_signals(ending.pending) as ending.held:
            yield ending
    except KeyboardInterrupt:
        ending.stopped = "interrupted"
    except Preempted:
        ending.stopped = "preempted"
    except Exception as error:
        error.done = done("error")  # type: ignore[attr-defined]
        error.add_note("The work done before this error is in its attribute `done`.")
        for number, _ in ending.pending:
            error.add_note(f"{signal.Signals(number).name} arrived meanwhile.")
        raise


def held_if(condition: bool, ending: Ending) -> AbstractContextManager[None]:
    """``ending.held()``, or nothing."""
    return ending.held() if condition else nullcontext()


@contextmanager
def _stop_signals(pending: list[tuple[int, FrameType | None]]) -> Iterator[Held]:
    """A block in which Ctrl-C raises KeyboardInterrupt as usual, and SIGTERM `Preempted` instead of ending the process.

    A signal that arrives within ``with held():`` is handled when that block ends; if the block raises, the signal stays
    in `pending`. A handler installed by the user is called at the same places. Off the main thread, where Python
    handles no signals, nothing changes. In one of several processes SIGTERM is left to JAX, which tells the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield nullcontext
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = _handlers(previous)
    holding = False

    def receive(number: int, frame: FrameType | None) -> None:
        pending.append((number, frame))
        if not holding:
            handle_pending()

    def handle_pending() -> None:
        while pending:
            number, frame = pending.pop(0)
            handlers[signal.Signals(number)](number, frame)

    @contextmanager
    def held() -> Iterator[None]:
        nonlocal holding
        holding = True
        try:
            yield
        finally:
            holding = False
        handle_pending()

    for number in handlers:
        signal.signal(number, receive)
    try:
        yield held
    finally:
        for number in handlers:
            signal.signal(number, previous[number])
    handle_pending()


def _handlers(previous: dict[signal.Signals, Any]) -> dict[signal.Signals, Callable[[int, Any], Any]]:
    """What to do at each signal, from the handlers that are installed."""
    handlers = {number: old for number, old in previous.items() if callable(old)}
    if jax.process_count() > 1:
        handlers.pop(signal.SIGTERM, None)
    elif previous[signal.SIGTERM] is signal.SIG_DFL:
        handlers[signal.SIGTERM] = _preempt
    return handlers


def _preempt(number: int, frame: Any) -> None:
    raise Preempted
