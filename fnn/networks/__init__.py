"""What the lecture builds with layers: neurons, Boolean functions, regions, approximators."""

from __future__ import annotations

from fnn.networks.approximators import (
    cybenko,
    cybenko_params,
    fit_approximator,
    kolmogorov,
    steps_at,
    sup_error,
    unit_grid,
)
from fnn.networks.arrangements import arrangement_cells
from fnn.networks.logic import (
    and_neuron,
    binary_inputs,
    boolean_network,
    minimal_dnf,
    not_neuron,
    or_neuron,
    xor_by_layers,
    xor_by_product,
)
from fnn.networks.neurons import (
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
from fnn.networks.regions import convex_polyhedron, half_space, smooth, two_layer_region, union
from fnn.networks.separability import count_threshold_functions, is_linearly_separable, threshold_weights

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
    "smooth",
    "steps_at",
    "sup_error",
    "threshold_weights",
    "to_lecture",
    "two_layer_region",
    "union",
    "unit_grid",
    "xor_by_layers",
    "xor_by_product",
]
