"""What the experiments share: outcomes, statistics, pictures, and the report made of them.

An experiment is a module of `experiments` with a function ``run(settings, log) -> Outcome``. All it needs is here.
"""

from experiments.report.outcomes import Animation, Experiment, Figure, Log, Outcome, Settings, Table, Verdict
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
    sweep_seeds,
    within,
)

__all__ = [
    "COLORS",
    "Animation",
    "Experiment",
    "Figure",
    "Interval",
    "Log",
    "Outcome",
    "Settings",
    "Share",
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
    "sweep_seeds",
    "tick_at",
    "within",
]
