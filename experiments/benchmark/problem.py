"""What all contenders train: a network of ReLU layers on random examples."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RATE = 1e-3


class Problem(NamedTuple):
    """A network by its widths, the sample and the batch size."""

    widths: tuple[int, ...]
    batch: int
    x: np.ndarray
    """[examples, widths[0]], float32"""
    y: np.ndarray
    """classes [examples], int32; with a single output, numbers [examples, 1], float32, for `squared`, ½(a − y)²"""

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.widths))}, batch {self.batch}"

    @property
    def classifies(self) -> bool:
        """Whether the loss is the cross entropy of classes."""
        return self.widths[-1] > 1

    @property
    def batches(self) -> int:
        """Full batches in an epoch."""
        return len(self.x) // self.batch


def random_problem(widths: tuple[int, ...], batch: int, examples: int | None = None) -> Problem:
    """A problem with random examples whose targets depend on them, by default at most 256 batches of them."""
    generator = np.random.default_rng(0)
    size = max(min(1797, 256 * batch) if examples is None else examples, batch)
    x = generator.uniform(size=(size, widths[0])).astype(np.float32)
    scores = x @ generator.normal(size=(widths[0], widths[-1])).astype(np.float32)
    y = np.argmax(scores, axis=1).astype(np.int32) if widths[-1] > 1 else scores
    return Problem(widths, batch, x, y)


def shuffled_batches(problem: Problem, steps: int, seed: int) -> list[np.ndarray]:
    """The indices of so many batches, in epochs shuffled on the host: what a loop in Python takes."""
    generator, found = np.random.default_rng(seed), []
    while len(found) < steps:
        order = generator.permutation(len(problem.x))[: problem.batches * problem.batch]
        found += list(order.reshape(problem.batches, problem.batch))
    return found[:steps]
