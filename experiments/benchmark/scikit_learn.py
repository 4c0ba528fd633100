"""scikit-learn's own networks, one seed after another."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from experiments.benchmark.problem import RATE, Problem


def fitted(problem: Problem, seeds: int) -> Any:
    """`fit` of whole epochs, as many as make up the steps; it takes no part of one."""
    kind: Any = MLPClassifier if problem.classifies else MLPRegressor
    y = problem.y if problem.classifies else problem.y[:, 0]

    def train(steps: int) -> float:
        epochs, rest = divmod(steps, problem.batches)
        assert rest == 0, f"scikit-learn trains whole epochs, of {problem.batches} steps each"
        size = problem.batches * problem.batch  # it would take the last, smaller batch too
        options: dict[str, Any] = {"hidden_layer_sizes": problem.widths[1:-1], "batch_size": problem.batch}
        options |= {"alpha": 0.0, "learning_rate_init": RATE, "max_iter": epochs}
        options |= {"tol": 0.0, "n_iter_no_change": epochs}
        losses = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is fixed on purpose
            for seed in range(seeds):
                losses += kind(random_state=seed, **options).fit(problem.x[:size], y[:size]).loss_curve_
        return float(np.mean(losses))

    return train
