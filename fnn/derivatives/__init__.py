"""Hand-written gradients and second derivatives, products, gradient noise, and an automatic reference of each."""

from fnn.derivatives import reference
from fnn.derivatives.backpropagation import Gradient, Objective, autodiff, backprop, objective
from fnn.derivatives.gauss_newton import Kronecker, ggn_diagonal, ggn_vector_product, kronecker_factors
from fnn.derivatives.hessian import gate_curvature, microbatched, second_derivatives, unit_gate_curvature
from fnn.derivatives.matvec import Estimate, Spectrum, hessian_vector_product, hutchinson, lanczos, trace
from fnn.derivatives.noise import GradientNoise, clip_per_example, gradient_noise

__all__ = [
    "Estimate",
    "Gradient",
    "GradientNoise",
    "Kronecker",
    "Objective",
    "Spectrum",
    "autodiff",
    "backprop",
    "clip_per_example",
    "gate_curvature",
    "ggn_diagonal",
    "ggn_vector_product",
    "gradient_noise",
    "hessian_vector_product",
    "hutchinson",
    "kronecker_factors",
    "lanczos",
    "microbatched",
    "objective",
    "reference",
    "second_derivatives",
    "trace",
    "unit_gate_curvature",
]
