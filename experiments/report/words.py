"""Tables of cases, and numbers as words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments.report.outcomes import Table
from experiments.report.statistics import estimate


def table(caption: str, first: str, rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """The table of {row: {column: cell}}, the rows named in a column of their own, `first`.

    Cells are values [seeds], written as a mean with its interval or as a share, or anything else as it prints.
    """
    columns = tuple(next(iter(rows.values())))
    return Table(caption, (first, *columns), [(name, *(_cell(of[c]) for c in columns)) for name, of in rows.items()])


def _cell(value: Any) -> str:
    return str(estimate(value) if isinstance(value, np.ndarray) and value.ndim == 1 else value)


def spoken(cases: Mapping[str, Iterable[Any]], digits: int = 2) -> str:
    """Numbers of several cases in words, for those who do not see a picture: "Adam: 0.25, 0.50; SGD: 0.75, 1.00"."""
    parts = (f"{name}: {', '.join(f'{value:.{digits}f}' for value in values)}" for name, values in cases.items())
    return "; ".join(parts)


def percent(share: float, digits: int = 0) -> str:
    """A share in per cent."""
    return f"{100 * share:.{digits}f} %"


def scientific(value: float, digits: int = 1) -> str:
    """A small number by a power of ten, with a minus sign that is one."""
    return f"{value:.{digits}e}".replace("-", "−")
