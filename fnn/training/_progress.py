"""A progress bar if rich is installed, no output otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(total: int, wanted: bool | None) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """A function ``(row, done)`` that shows the scalars of a row, the progress towards the total, and the time left.

    Args:
        total: the value of `done` at the end.
        wanted: whether to show the bar; None shows it if rich is installed.

    Raises:
        ImportError: the bar is wanted but rich is not installed.
    """
    if wanted is False:
        yield lambda row, done: None
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        if wanted:
            raise ImportError(
                "progress: expected rich to be installed, got progress=True without it. Run pip install rich, or pass "
                "progress=False."
            ) from None
        yield lambda row, done: None
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns) as bar:
        task = bar.add_task("compiling", total=total)

        def show(row: dict[str, Any], done: int) -> None:
            scalars = {name: value for name, value in row.items() if getattr(value, "shape", None) == ()}
            numbers = (f"{name} {float(value):.4g}" for name, value in scalars.items())
            bar.update(task, completed=done, description="  ".join(numbers))

        yield show
