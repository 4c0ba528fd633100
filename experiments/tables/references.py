"""What networks are compared with on a user's table: scikit-learn's methods, and no features at all."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from experiments import report as r
from experiments.tables.table import Table
from experiments.tables.training import TWO, Length

NOTHING = {True: "the commonest class", False: "the mean answer"}
LINEAR = {True: "logistic regression", False: "ridge regression"}
"""by whether the answer is a class"""


def references(table: Table, length: Length, seed: int) -> dict[str, Any]:
    """The methods by their names; the first knows no feature."""
    classes = bool(table.answer.classes)
    epochs = max(5, round(length.steps * length.batch / len(table.x)))
    network = {"hidden_layer_sizes": TWO, "max_iter": epochs, "batch_size": length.batch, "random_state": seed}
    if classes:
        return {
            NOTHING[True]: DummyClassifier(),
            LINEAR[True]: LogisticRegression(max_iter=1000),
            "gradient boosting": HistGradientBoostingClassifier(random_state=seed),
            "MLPClassifier": MLPClassifier(**network),
        }
    return {
        NOTHING[False]: DummyRegressor(),
        LINEAR[False]: RidgeCV(np.logspace(-3, 3, 13)),
        "gradient boosting": HistGradientBoostingRegressor(random_state=seed),
        "MLPRegressor": MLPRegressor(**network),
    }


def measured(
    table: Table, splits: list[tuple[np.ndarray, ...]], length: Length, log: r.Log
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Errors and R² of each method on the test examples of each seed, as of the networks.

    None of them needs validation examples: they learn from those as well.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    y = table.y if table.answer.classes else table.y[:, 0]
    for seed, (test, validation, train) in enumerate(splits):
        log(f"scikit-learn's methods on split {seed + 1} of {len(splits)}")
        known = np.concatenate([validation, train])
        for name, method in references(table, length, seed).items():
            with warnings.catch_warnings(), threadpool_limits(1):  # several threads wait for one another on busy cores
                warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed on purpose
                predicted = method.fit(table.x[known], y[known]).predict(table.x[test])
            found.setdefault(name, []).append(_errors(table, predicted, y[test]))
    both = {name: np.array(pairs) for name, pairs in found.items()}
    return {name: (pairs[:, 0], pairs[:, 1]) for name, pairs in both.items()}


def _errors(table: Table, predicted: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    if table.answer.classes:
        return float(np.mean(predicted != y)), 0.0
    square = float(np.mean((predicted - y) ** 2))
    return table.answer.scale * square**0.5, 1 - square / float(np.var(y))
