"""The report of `check_layer` and `check_optimizer`: laws and their outcomes."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from fnn.core._labels import aligned


class Outcome(StrEnum):
    """Whether a law holds. A law is skipped where it has no meaning, or where one that it needs does not hold."""

    HOLDS = "holds"
    BROKEN = "broken"
    SKIPPED = "skipped"


class Law(NamedTuple):
    """One law and its outcome."""

    name: str
    outcome: Outcome
    finding: str
    """the measured error; of a broken law also a hint, of a skipped one the reason"""


class Laws(NamedTuple):
    """The result of `check_layer` and `check_optimizer`: prints as a table, and `to_dict` gives plain data."""

    label: str
    rows: tuple[Law, ...]

    @property
    def passed(self) -> bool:
        """Whether no law is broken."""
        return not self.failures

    @property
    def failures(self) -> tuple[Law, ...]:
        """The broken laws."""
        return tuple(law for law in self.rows if law.outcome is Outcome.BROKEN)

    def law(self, name: str) -> Law:
        """The law of a name.

        Raises:
            KeyError: a name of no law in this report.
        """
        for law in self.rows:
            if law.name == name:
                return law
        raise KeyError(f"{name!r} is none of the laws of {self.label}, which are {[law.name for law in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, strings and bools, ready for JSON."""
        return {
            "label": self.label,
            "passed": self.passed,
            "laws": [law._asdict() | {"outcome": str(law.outcome)} for law in self.rows],
        }

    def raise_if_failed(self) -> None:
        """For a test: nothing if no law is broken.

        Raises:
            AssertionError: a law is broken; the message is the table of those that are.
        """
        if not self.passed:
            raise AssertionError(f"{self._counts()}\n\n{_table(self.failures)}")

    def __repr__(self) -> str:
        return f"{self._counts()}\n\n{_table(self.rows)}"

    def _counts(self) -> str:
        outcomes = [law.outcome for law in self.rows]
        return f"{self.label}: " + ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in Outcome)


def _table(rows: tuple[Law, ...]) -> str:
    return aligned((Law._fields, *((law.name, str(law.outcome), law.finding) for law in rows)), text_columns=3)
