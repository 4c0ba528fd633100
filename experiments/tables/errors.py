"""The error of a table that cannot be taken, and how its one line is said."""

from __future__ import annotations

from pathlib import Path


class Unreadable(Exception):
    """A user's table cannot be taken: one line that says what was expected, what is there, and what to do."""


def refused(path: Path, expected: str, got: str, do: str) -> Unreadable:
    """The error "{file}: expected X, got Y. Do Z."."""
    return Unreadable(f"{path}: expected {expected}, got {got}. {do}.")
