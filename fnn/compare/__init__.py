"""Manual against automatic gradients, or any gradient against any other, with one call and a verdict.

`compare_gradients` answers for a network, a loss and a batch: are the two gradients the same, leaf by leaf of the
parameters and object by object; if not, which one is wrong, by difference quotients that know how far to trust
themselves, and in which layer it goes wrong; what is left of them in low precision; and what each costs.
`compare` does it for two functions without a network.
"""

from fnn.compare.costs import Cost
from fnn.compare.culprits import Culprit
from fnn.compare.gradients import compare, compare_gradients
from fnn.compare.report import Difference, GradientComparison, LeafComparison, Objects, Precision
from fnn.compare.tables import aligned

__all__ = [
    "Cost",
    "Culprit",
    "Difference",
    "GradientComparison",
    "LeafComparison",
    "Objects",
    "Precision",
    "aligned",
    "compare",
    "compare_gradients",
]
