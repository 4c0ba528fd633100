"""Networks that the lecture builds by hand, from single neurons to approximators, and the lecture slide by slide.

The functions of this package build networks of layers: neurons, Boolean functions, regions, approximators. What the
other slides describe is in the rest of fnn. Below is each slide of the lecture with its functions and experiments.
Names without a package are in `fnn` or `fnn.lecture`; ``python -m experiments NAME`` runs an experiment. Where a slide
has a misprint, the docstring of the function says so.

Linear models
    `linear`, and ``linear(width, bias=False)`` as printed; `squared`; `logistic_margin`, `hinge_margin`,
    `exponential_margin`, `sigmoid_margin`; `linear_regression`, `linear_classifier`, `classify`.
    Experiments: neuron, margins.
McCulloch–Pitts neuron, − w_0
    `mcculloch_pitts`, `neuron`; `to_lecture`, `from_lecture` between w, b and the matrices with w_0.
    Experiments: neuron.
One-layer net, + w_0
    `dense`, whose bias b is this slide's w_0; `mcculloch_pitts` says which σ are continuous and monotone.
    Experiments: neuron.
Activation functions
    `heaviside`, `sigmoid`, `tanh`, `logarithmic`, `gaussian`, `identity`; `activate`; a new one is an `Activation`.
    Experiments: boundaries.
AND, OR, NOT
    `and_neuron`, `or_neuron`, `not_neuron`.
    Experiments: boolean.
XOR
    `xor_by_product`, `xor_by_layers`; `is_linearly_separable`, `threshold_weights`, `count_threshold_functions`.
    Experiments: neuron.
Which functions can a net represent
    `boolean_network`, `minimal_dnf`, `binary_inputs`; `half_space`, `convex_polyhedron`, `two_layer_region`, `union`,
    `smooth`; `arrangement_cells`; Gorban's theorem is `cybenko` with any one nonlinear σ.
    Experiments: boolean, regions, gorban, features.
Kolmogorov 1957
    `kolmogorov`.
    Experiments: kolmogorov.
Cybenko 1989
    `cybenko`, `cybenko_params`, `steps_at`, `fit_approximator`, `sup_error`, `unit_grid`.
    Experiments: cybenko.
L-layer fully connected net
    `serial`, `dense`; `columns` where σ differs within a layer, `repeat` for many layers; `parameter_count`,
    `to_lecture`.
    Experiments: boundaries, depth.
Two-layer net with M outputs
    ``serial(dense(H, σ), dense(M, σ))``, ``serial(dense(H, σ), linear(M))``.
    Experiments: digits.
Algorithm SG
    ``trainer(net, loss, optimizer, draw=with_replacement)``, `with_replacement`; `train`, `train_until_stable`.
    Experiments: stream, stopping, batch_size.
Differentiating a superposition
    `Layer.forward`; `squared`; `watch` records x, S and z of every layer.
    Experiments: gradients.
Recursion for the derivatives
    `Layer.backward`; `watch` records ε of every layer.
    Experiments: gradients.
Fast gradient
    `backprop`, `autodiff`; other readings on the way: `per_example`, `squared_norm`, `second_moment`.
    Experiments: gradient_cost, parallel, quantities.
BackProp
    `backprop`, `trainer`, `fit`.
    Experiments: backprop.
BackProp, for and against
    `from_function`; `sweep`; `fnn.training.learn_online`, `fnn.data.minibatches`, `fnn.data.read_ahead`; the troubles:
    `fnn.training.saturated`, `fnn.training.dead`, `fnn.training.gradient_norm`, `fnn.training.overfitting_gap`.
    Experiments: stream, paralysis, drift, local_minima.
Momentum, NAG
    `momentum`, `nag`, `fnn.optimizers.nag_weights`.
    Experiments: momentum, nag.
RMSProp, AdaDelta
    `rmsprop`, `adadelta`.
    Experiments: adadelta, rare.
Adam, Nadam
    `adam`, `nadam`.
    Experiments: adam.
Comparison of methods
    `sweep` over optimizers and rates.
    Experiments: comparison, digits.
Gradient explosion
    `clip_by_norm`, `tree_norm`.
    Experiments: clipping.
Dropout
    `dropout`, `inference_mode`, `fnn.nn.monte_carlo`.
    Experiments: dropout.
Interpretations of Dropout
    `fnn.nn.thinned_average`.
    Experiments: ensemble.
Inverted Dropout, L2
    `inverted_dropout`; `l2`, `masked`, `weights_only`.
    Experiments: weight_decay.
ReLU, PReLU
    `relu`, `leaky_relu`, `prelu`; also `softplus`.
    Experiments: boundaries, vanishing, prelu.
Batch normalization
    `batch_norm`.
    Experiments: normalization.
Initialisation
    `fnn.nn.uniform_fan_in`, `fnn.nn.uniform_fan_out`, `fnn.nn.uniform`, `fnn.nn.glorot_uniform`, `fnn.nn.orthogonal`;
    also `fnn.nn.he`, `fnn.nn.zeros`, `fnn.nn.constant`; `pretrain`, `diversity`, `weight_diversity`;
    `fnn.training.save`, `fnn.training.load`, `fnn.training.transplant`, `fnn.optimizers.freeze`;
    `fnn.training.propagation_report`.
    Experiments: initialization, layerwise.
Optimal Brain Damage, 1
    `second_derivatives`, `fnn.derivatives.gate_curvature`; `fnn.pruning.obd`.
    Experiments: saliency.
Optimal Brain Damage, 2
    `fnn.pruning.prune`, `fnn.pruning.pruner`, `fnn.pruning.remove_least`, `fnn.pruning.weights_and_biases`,
    `fnn.pruning.sparse`; features: `fnn.pruning.feature_pruner`, `fnn.pruning.feature_saliency`,
    `fnn.pruning.gate_saliency`.
    Experiments: pruning, feature_selection, rollback.
Summary
    as above.
    Experiments: depth.
"""

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
