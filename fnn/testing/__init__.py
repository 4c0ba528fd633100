"""One judge of layers, optimizers and gradients."""

from fnn.testing._blame import Culprit
from fnn.testing._differences import Difference, Examples, GradientComparison, LeafComparison, Precision
from fnn.testing._programs import Cost
from fnn.testing.gradients import compare, compare_gradients
from fnn.testing.layers import check_layer
from fnn.testing.optimizers import check_optimizer
from fnn.testing.reports import Law, Laws

__all__ = [
    "Cost",
    "Culprit",
    "Difference",
    "Examples",
    "GradientComparison",
    "Law",
    "Laws",
    "LeafComparison",
    "Precision",
    "check_layer",
    "check_optimizer",
    "compare",
    "compare_gradients",
]
