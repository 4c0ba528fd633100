"""What the experiments share: outcomes, statistics, pictures, and the report made of them.

An experiment is a module of `experiments.claims` with a function ``run(settings, log) -> Outcome``. All it needs is
here: ``from experiments import report as r``.
"""

from experiments.report.outcomes import (
    Animation,
    Claim,
    Experiment,
    Figure,
    Log,
    Outcome,
    Settings,
    Table,
    TableGiven,
    Verdict,
)
from experiments.report.plots import COLORS, DIVERGING, animated, curves, error_bars, figure, finished, tick_at
from experiments.report.statistics import (
    Interval,
    Share,
    at_least,
    at_most,
    best,
    by_case,
    estimate,
    exactly,
    interval,
    intervals,
    judged,
    smaller,
    sweep_seeds,
    within,
)
from experiments.report.words import percent, scientific, spoken, table

__all__ = [
    "COLORS",
    "DIVERGING",
    "Animation",
    "Claim",
    "Experiment",
    "Figure",
    "Interval",
    "Log",
    "Outcome",
    "Settings",
    "Share",
    "Table",
    "TableGiven",
    "Verdict",
    "animated",
    "at_least",
    "at_most",
    "best",
    "by_case",
    "curves",
    "error_bars",
    "estimate",
    "exactly",
    "figure",
    "finished",
    "interval",
    "intervals",
    "judged",
    "percent",
    "scientific",
    "smaller",
    "spoken",
    "sweep_seeds",
    "table",
    "tick_at",
    "within",
]
