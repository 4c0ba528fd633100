"""One judge of layers, optimizers and gradients."""

from fnn.testing._compare.costs import Cost
from fnn.testing._compare.culprits import Culprit
from fnn.testing._compare.gradients import compare, compare_gradients
from fnn.testing._compare.report import Difference, Examples, GradientComparison, LeafComparison, Precision
from fnn.testing._laws.layers import check_layer
from fnn.testing._laws.optimizers import check_optimizer
from fnn.testing._laws.report import Law, Laws

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
