"""Constructions of the lecture: neurons, Boolean functions, regions, approximators, pre-training."""

from fnn.lecture.approximators import (
    cybenko,
    cybenko_params,
    fit_approximator,
    steps_at,
    sup_error,
    unit_grid,
)
from fnn.lecture.arrangements import arrangement_cells
from fnn.lecture.logic import (
    and_neuron,
    binary_inputs,
    boolean_network,
    minimal_dnf,
    not_neuron,
    or_neuron,
    xor_by_layers,
    xor_by_product,
)
from fnn.lecture.neurons import (
    Built,
    apply,
    classify,
    from_lecture,
    linear_classifier,
    linear_regression,
    mcculloch_pitts,
    neuron,
    parameter_count,
    to_lecture,
)
from fnn.lecture.pretraining import pretrain
from fnn.lecture.regions import convex_polyhedron, half_space, smooth, two_layer_region, union
from fnn.lecture.separability import count_threshold_functions, is_linearly_separable, threshold_weights
from fnn.lecture.superpositions import kolmogorov
from fnn.lecture.variety import diversity, weight_diversity

__all__ = [
    "Built",
    "and_neuron",
    "apply",
    "arrangement_cells",
    "binary_inputs",
    "boolean_network",
    "classify",
    "convex_polyhedron",
    "count_threshold_functions",
    "cybenko",
    "cybenko_params",
    "diversity",
    "fit_approximator",
    "from_lecture",
    "half_space",
    "is_linearly_separable",
    "kolmogorov",
    "linear_classifier",
    "linear_regression",
    "mcculloch_pitts",
    "minimal_dnf",
    "neuron",
    "not_neuron",
    "or_neuron",
    "parameter_count",
    "pretrain",
    "smooth",
    "steps_at",
    "sup_error",
    "threshold_weights",
    "to_lecture",
    "two_layer_region",
    "union",
    "unit_grid",
    "weight_diversity",
    "xor_by_layers",
    "xor_by_product",
]
