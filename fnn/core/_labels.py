"""How things print: labels that read as the call was written, and tables of plain text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jax.core import Tracer


def aligned(rows: Iterable[tuple[str, ...]], text_columns: int) -> str:
    """Rows of text as columns, the first ones flush left and the numbers flush right."""
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
    """A label: the call as it was written; an option (value, default) shows where it differs.

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
