"""What a run says while it goes on: which experiment it is at, for how long, and how long the rest will take."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from statistics import median

from rich.text import Text

import experiments

RECORDED = Path(experiments.__path__[0]) / "results" / "seconds.csv"
"""how long each experiment took in the recorded run, on two cores"""
QUICK = 0.2
"""the share of it that a quick run is expected to take, until the first of its experiments is finished"""


def recorded() -> dict[str, float]:
    """Seconds of each experiment of the recorded run."""
    with open(RECORDED, newline="", encoding="utf-8") as file:
        return {row["experiment"]: float(row["seconds"]) for row in csv.DictReader(file)}


def expected(names: Iterable[str], seconds: Mapping[str, float]) -> dict[str, float]:
    """The names with the seconds that they are expected to take, the cheapest first; the median where unknown."""
    unknown = median(seconds.values()) if seconds else 60.0
    times = {name: seconds.get(name, unknown) for name in names}
    return dict(sorted(times.items(), key=lambda item: item[1]))


def spoken(seconds: float) -> str:
    """A time to come in words: "2 min", "1 h 20 min"."""
    if seconds < 50:
        return f"{max(10, round(seconds, -1)):.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


class Progress:
    """The line of a run, such as "[3/30] adadelta · 1:12 · about 18 min left"; it is written anew when it is shown.

    The rest is expected to take as many times its recorded seconds as what is finished took.
    """

    def __init__(
        self,
        times: Mapping[str, float],
        jobs: int = 1,
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing finished.

        Args:
            times: expected seconds by experiment.
            jobs: how many run at a time.
            share: of the expected seconds that they will take, as far as is known.
            clock: seconds that go by.
        """
        self.times, self.jobs, self.share, self.clock = times, jobs, share, clock
        self.finished: set[str] = set()
        self.began = self.since = clock()
        self.name = self.words = ""

    def starts(self, name: str) -> None:
        """An experiment begins."""
        self.name, self.words, self.since = name, "", self.clock()

    def says(self, words: str) -> None:
        """The experiment says what it does."""
        self.words = words

    def ends(self, name: str) -> str:
        """An experiment is finished; its place among all, such as "[3/30]"."""
        self.finished.add(name)
        return f"[{len(self.finished)}/{len(self.times)}]"

    def left(self) -> float:
        """Seconds until all are finished, as far as is known."""
        done, now, alone = sum(self.times[name] for name in self.finished), self.clock(), self.jobs == 1
        spent = (self.since if alone else now) - self.began
        share = spent * self.jobs / done if done else self.share
        rest = (sum(self.times.values()) - done) * share / self.jobs
        return max(0.0, rest - (now - self.since if alone else 0.0))

    def __rich__(self) -> Text:
        gone = int(self.clock() - (self.since if self.jobs == 1 else self.began))
        place = min(len(self.finished) + 1, len(self.times))
        who = self.name if self.jobs == 1 else f"{self.jobs} experiments at a time"
        parts = [who, f"{gone // 60}:{gone % 60:02d}", f"about {spoken(self.left())} left", self.words]
        return Text(
            f"[{place}/{len(self.times)}] " + " · ".join(filter(None, parts)), overflow="ellipsis", no_wrap=True
        )
