"""Labels that read as the call was written, the help of constants, and tables of plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jax.core import Tracer


class OwnHelp:
    """The ``__doc__`` of a class whose instances may have their own: `help(fnn.tanh)` describes tanh.

    An instance with an empty field ``doc`` has the docstring of its class.
    """

    def __init__(self, of_class: str | None) -> None:
        self.of_class = of_class

    def __get__(self, instance: Any, owner: type | None = None) -> str | None:
        return self.of_class if instance is None or not instance.doc else instance.doc


def aligned(rows: Iterable[tuple[str, ...]], text_columns: int) -> str:
    """A table of text: the first ``text_columns`` columns flush left, the numbers after them flush right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: tuple[str, ...]) -> str:
        cells = (
            cell.ljust(width) if i < text_columns else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([line(rows[0]), "  ".join("─" * width for width in widths).rstrip(), *map(line, rows[1:])])


def call_repr(name: str, *arguments: Any, **options: tuple[Any, Any]) -> str:
    """The label of a call as it was written; an option (value, default) appears only where the two differ.

    Example:
        >>> call_repr("adam", 0.01, gamma=(0.9, 0.9), alpha=(0.99, 0.999))
        'adam(0.01, alpha=0.99)'
    """

    def spelled(value: Any) -> str:
        if isinstance(value, Tracer):
            return "<traced>"
        return value.__name__ if hasattr(value, "__name__") else str(value)

    differs = {k: v for k, (v, default) in options.items() if v is not default and str(v) != str(default)}
    shown = [spelled(v) for v in arguments] + [f"{k}={spelled(v)}" for k, v in differs.items()]
    return f"{name}({', '.join(shown)})"
