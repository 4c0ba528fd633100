"""What the experiments share: outcomes, statistics, pictures, and the report made of them.

An experiment is a module of `experiments` with a function ``run(settings, show) -> Outcome``. All it needs is here.
"""

from experiments.report.outcomes import Animation, Experiment, Figure, Outcome, Settings, Show, Table, Verdict
from experiments.report.plots import COLORS, animated, curves, figure, finished
from experiments.report.statistics import Interval, at_least, at_most, exactly, interval, smaller, swept, within

__all__ = [
    "COLORS",
    "Animation",
    "Experiment",
    "Figure",
    "Interval",
    "Outcome",
    "Settings",
    "Show",
    "Table",
    "Verdict",
    "animated",
    "at_least",
    "at_most",
    "curves",
    "exactly",
    "figure",
    "finished",
    "interval",
    "smaller",
    "swept",
    "within",
]
