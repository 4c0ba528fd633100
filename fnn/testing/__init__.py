"""One judge of layers, optimizers and gradients, by the same relative errors and the same laws."""

from fnn.testing._blame import Culprit
from fnn.testing._verdicts import Kind, Verdict
from fnn.testing.comparisons import Difference, Examples, GradientComparison, LeafComparison, Precision, Returned
from fnn.testing.gradients import compare, compare_gradients
from fnn.testing.layers import check_layer
from fnn.testing.optimizers import check_optimizer
from fnn.testing.reports import Law, Laws, Outcome

__all__ = [
    "Culprit",
    "Difference",
    "Examples",
    "GradientComparison",
    "Kind",
    "Law",
    "Laws",
    "LeafComparison",
    "Outcome",
    "Precision",
    "Returned",
    "Verdict",
    "check_layer",
    "check_optimizer",
    "compare",
    "compare_gradients",
]
