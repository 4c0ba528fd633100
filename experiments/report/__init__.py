"""What the experiments share: outcomes, statistics, pictures, and the report made of them.

An experiment is a module of `experiments` with a function ``train(settings, show) -> Outcome``. All it needs is here.
"""

from experiments.report.outcomes import Animation, Experiment, Figure, Outcome, Settings, Show, Table, Verdict
from experiments.report.plots import COLORS, animated, curves, figure, finished, tick_at
from experiments.report.statistics import (
    Interval,
    Share,
    at_least,
    at_most,
    estimate,
    exactly,
    interval,
    smaller,
    swept,
    within,
)

__all__ = [
    "COLORS",
    "Animation",
    "Experiment",
    "Figure",
    "Interval",
    "Outcome",
    "Settings",
    "Share",
    "Show",
    "Table",
    "Verdict",
    "animated",
    "at_least",
    "at_most",
    "curves",
    "estimate",
    "exactly",
    "figure",
    "finished",
    "interval",
    "smaller",
    "swept",
    "tick_at",
    "within",
]
