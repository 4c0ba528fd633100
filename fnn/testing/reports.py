"""What a check of laws found, in words, in print and as plain data."""

from __future__ import annotations

from typing import Any, NamedTuple

from fnn.core._labels import aligned

HOLDS, BROKEN, NOT_ASKED = "holds", "broken", "not asked"


class Law(NamedTuple):
    """One law and how it was found."""

    name: str
    verdict: str
    """"holds", "broken" or "not asked\""""
    finding: str
    """what was measured; of a broken law also what to look at, of one that was not asked why"""


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
        return tuple(law for law in self.rows if law.verdict == BROKEN)

    def law(self, name: str) -> Law:
        """The law of a name.

        Raises:
            KeyError: no such law was asked.
        """
        for law in self.rows:
            if law.name == name:
                return law
        raise KeyError(f"{name!r} is none of the laws of {self.label}, which are {[law.name for law in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """All of it as dicts, strings and bools, ready for JSON."""
        return {"label": self.label, "passed": self.passed, "laws": [law._asdict() for law in self.rows]}

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
        verdicts = [law.verdict for law in self.rows]
        return f"{self.label}: " + ", ".join(f"{verdicts.count(v)} {v}" for v in (HOLDS, BROKEN, NOT_ASKED))


def _table(rows: tuple[Law, ...]) -> str:
    return aligned((Law._fields, *rows), text_columns=3)
