"""A single neuron, its weights, and the lecture's notation for them (slides "Linear models" to "One-layer net").

======================= ============================== =====================================================
model                   a(x)                           trained with
======================= ============================== =====================================================
`linear_regression`     ⟨w, x⟩ − w_0                   `squared`
`linear_classifier`     sign(⟨w, x⟩ − w_0), `classify` a loss of the margin M = (⟨w, x⟩ − w_0)·y, such as
                                                       `logistic_margin`
`mcculloch_pitts`       σ(⟨w, x⟩ − w_0)                any loss, if σ has a slope
======================= ============================== =====================================================

The lecture subtracts a threshold w_0, and later treats it as the weight of a constant feature x_0 = −1, so that all
weights of a layer form one matrix (H_{l−1} + 1) × H_l. Layers here add a bias: b = −w_0. `neuron`, `to_lecture` and
`from_lecture` convert between the two.

Erratum: the slides are inconsistent about w_0. "Linear models" has none (here ``bias=False``), "The McCulloch–Pitts
neuron" has − w_0, "One-layer net" **+ w_0**, where w_0 is the bias b itself, and all later ones −w_0 again, by
x_0 = −1. Here w_0 is the threshold, which is subtracted.

Example: the neuron of OR, and its matrix in the lecture's notation.
    >>> import jax.numpy as jnp
    >>> either = neuron(jnp.array([1.0, 1.0]), 0.5)
    >>> apply(either, jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))[:, 0].tolist()
    [0.0, 1.0, 1.0, 1.0]
    >>> print(to_lecture(either.params))
    [[0.5]
     [1. ]
     [1. ]]
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.types import Activation, Array, Layer, Params, State
from fnn.lecture import _checks as lecture_checks
from fnn.lecture._neuron_parts import is_neurons
from fnn.nn.activations import heaviside
from fnn.nn.initializers import Initializer, zeros
from fnn.nn.neurons import dense, linear


class Built(NamedTuple):
    """A network together with its constructed parameters."""

    net: Layer
    params: Params
    state: State


def apply(built: Built, x: Array) -> Array:
    """The outputs of a built network, ``net.apply(params, state, x)``.

    Args:
        built: a `Built` network.
        x: [n, d] in the params' dtype.

    Returns:
        The outputs [n, o].
    """
    return built.net.apply(built.params, built.state, x)


def linear_regression(w: Initializer | None = None, *, bias: bool = True) -> Layer:
    """The linear regression model a(x) = ⟨w, x⟩ − w_0, to be trained with `squared` (slide "Linear models").

    Errata: the slide prints (σ(⟨w, x⟩ − y))² instead of (σ(⟨w, x⟩) − y)², here with σ(S) = S. The slide's Q is the
    *sum* of these squares over the examples; `squared` has a factor ½ and training takes the mean, Q/2ℓ, which has the
    same minimum. The slide's model has no w_0, which is ``bias=False``.

    Args:
        w: initializer of the weights; by default `zeros()`, as the loss of one linear neuron is convex.
        bias: whether there is a w_0; without it a(x) = ⟨w, x⟩, as printed.

    Returns:
        ``linear(1)``, from [n, d] to [n, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import train, sgd, squared, trainer
        >>> x = jnp.array([[-1.0], [0.0], [1.0]])
        >>> data = (x, 3 * x + 1)
        >>> learn = trainer(linear_regression(), squared, sgd(0.5), batch_size=3)
        >>> state, _ = train(learn, learn.init(jax.random.key(0), data), data, steps=100)
        >>> [round(float(part.sum()), 3) for part in (state.params["w"], state.params["b"])]
        [3.0, 1.0]
    """
    return linear(1, w=w or zeros(), bias=bias)


def linear_classifier(w: Initializer | None = None, *, bias: bool = True) -> Layer:
    """The linear classification model with score ⟨w, x⟩ − w_0, whose sign is the class (slide "Linear models").

    To be trained with a loss of the margin M = score·y, y ∈ {−1, +1}: `logistic_margin`, `hinge_margin`,
    `exponential_margin` or `sigmoid_margin`. All but the last are convex. Erratum: the slide's model has no w_0, which
    is ``bias=False``, so M = ⟨w, x⟩y; its Q is the sum of the losses, and training takes their mean.

    Args:
        w: initializer of the weights; by default `zeros()`.
        bias: whether there is a w_0; without it the score is ⟨w, x⟩, as printed.

    Returns:
        ``linear(1)``, from [n, d] to scores [n, 1]; `classify` converts them to classes.
    """
    return linear(1, w=w or zeros(), bias=bias)


def classify(net: Layer, params: Params, state: State, x: Array) -> Array:
    """The class sign(a(x)) ∈ {−1, +1} by the score a(x) of any network with one output (slide "Linear models").

    On the boundary, where the score is 0, the class is −1, as H(0) = 0: the class is 2H(score) − 1. The class of a NaN
    score is 0, which is invalid.

    Args:
        net: a layer with one output, such as `linear_classifier`.
        params: its params.
        state: its state.
        x: examples [n, d].

    Returns:
        Classes [n], int32.

    Raises:
        TypeError: `net` is not a layer.
        ValueError: `net` has more than one output.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.array([[1.0], [-1.0]]), "b": jnp.zeros(1)}
        >>> print(classify(linear_classifier(), params, (), jnp.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])))
        [ 1 -1 -1]
    """
    checks.is_layer("classify", net)
    score = net.apply(params, state, x)
    lecture_checks.single_output("classify", net, score)
    classes = jnp.where(score > 0, 1, jnp.where(score <= 0, -1, 0))
    return classes[:, 0].astype(jnp.int32)


def mcculloch_pitts(activation: Activation = heaviside) -> Layer:
    """The neuron a(x) = σ(Σ_j w_j x_j − w_0) of McCulloch and Pitts 1943 (slide "The McCulloch–Pitts neuron").

    The next slide, "One-layer net", has the same neuron with + w_0: its w_0 is the bias b, this one's is −b. That slide
    requires σ to be continuous, monotone and preferably differentiable. Of the six σ on the slide after it `sigmoid`,
    `tanh`, `logarithmic` and `identity` are all three; `heaviside` is not continuous, and `gaussian` not monotone.

    Args:
        activation: σ; the original one is the threshold [S > 0], which has no gradient to learn from.

    Returns:
        ``dense(1, activation)``, from [n, d] to [n, 1]; its bias is b = −w_0.
    """
    return dense(1, activation)


def neuron(w: Array, w_0: float | Array, activation: Activation = heaviside) -> Built:
    """A McCulloch–Pitts neuron with the given weights, a(x) = σ(Σ_j w_j x_j − w_0).

    Args:
        w: weights [d] of floats.
        w_0: the threshold, which the sum subtracts: a number, or an array [] of w's dtype. On the slide
            "One-layer net", whose sum adds w_0, it is −w_0.
        activation: σ.

    Returns:
        A `Built` network from x [n, d] to [n, 1].

    Raises:
        ValueError: other shapes.
        TypeError: weights that are not an array of floats, or two dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> both = neuron(jnp.array([1.0, 1.0]), 1.5)
        >>> apply(both, jnp.array([[1.0, 0.0], [1.0, 1.0]]))[:, 0].tolist()
        [0.0, 1.0]
    """
    w, w_0 = _literal("neuron", w, w_0)
    return Built(mcculloch_pitts(activation), {"w": w[:, None], "b": -w_0[None]}, ())


def to_lecture(params: Params) -> Any:
    """The params of a network, with each layer of neurons as the lecture's matrix.

    Equation, with the thresholds w_0h as row 0, the weights of the constant feature x_0 = −1::

        S_h = Σ_{k=0}^{H_{l−1}} w_kh x_k,     x_0 = −1,     w_0h = −b_h

    Erratum, slide "L layers": features x^0 run from j = 0 to d while H_0 = n, and outputs a_m from m = 0 to M while
    H_L = M. Both should start at 1: H_0 = d, M outputs, and W^l is (H_{l−1} + 1) × H_l only because of x_0 = −1.

    Args:
        params: tuples, nested or not, of ``{"w": [i, o], "b": [o]}``. Leading axes are kept: the params of `repeat`, or
            of a vmapped init. Other dicts stay unchanged: ``{"alpha": …}`` of `prelu`, and ``{"w": …}`` of a layer
            without biases, for which the lecture has no matrix: a row of zeros would become a w_0 in the inverse.

    Returns:
        The same tuples with matrices [i + 1, o] in place of these dicts. Layers without params keep their empty tuples,
        which `from_lecture` needs; `jax.tree.leaves` lists only the slide's W = (W^1, …, W^L).

    Raises:
        ValueError: shapes that do not fit together, or an array outside of a dict, which would look like a matrix.
        TypeError: w and b of two dtypes.

    Example: a layer whose neurons differ in σ, converted to the slide's W and back.
        >>> import jax, jax.numpy as jnp
        >>> from fnn import activate, columns, linear, relu, serial, tanh
        >>> net = serial(linear(3), columns((1, activate(tanh)), (2, activate(relu))), linear(2))
        >>> params, _ = net.init(jax.random.key(0), jnp.ones((1, 4)))
        >>> W, structure = jax.tree.flatten(to_lecture(params))
        >>> [W_l.shape for W_l in W]
        [(5, 3), (4, 2)]
        >>> jax.tree.structure(from_lecture(jax.tree.unflatten(structure, W))) == jax.tree.structure(params)
        True
    """

    def of_layer(leaf: Any) -> Any:
        _no_bare_array("to_lecture", leaf)
        if not _has_matrix(leaf):
            return leaf
        w, b = _neurons("to_lecture", leaf)
        return jnp.concatenate([-b[..., None, :], w], axis=-2)

    return jax.tree.map(of_layer, params, is_leaf=_is_dict)


def from_lecture(weights: Any) -> Params:
    """The inverse of `to_lecture`, exact to the bit in both directions.

    Args:
        weights: tuples, nested or not, of matrices [i + 1, o] whose row 0 is w_0. Dicts and empty tuples stay
            unchanged. The matrices of the slide "One-layer net", which adds w_0, have −w_0 there.

    Returns:
        The same tuples with ``{"w": [i, o], "b": [o]}`` in place of the matrices.

    Raises:
        ValueError: an array that is not such a matrix, or params of neurons among the matrices.

    Example:
        >>> import jax.numpy as jnp
        >>> from_lecture((jnp.array([[0.5], [1.0], [2.0]]),))[0]["b"]
        Array([-0.5], dtype=float32)
    """

    def of_matrix(leaf: Any) -> Any:
        if isinstance(leaf, dict):
            _no_neurons("from_lecture", leaf)
            return leaf
        matrix = _matrix("from_lecture", leaf)
        return {"w": matrix[..., 1:, :], "b": -matrix[..., 0, :]}

    return jax.tree.map(of_matrix, weights, is_leaf=_is_dict)


def parameter_count(params: Params) -> int:
    """The number of trained parameters: for fully connected layers dim W = Σ_l (H_{l−1} + 1)·H_l with H_0 = d inputs.

    Args:
        params: a pytree of arrays, or of `jax.ShapeDtypeStruct`.

    Returns:
        The number of scalars in it, including links pruned to 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import dense, linear, serial, tanh
        >>> params, _ = serial(dense(8, tanh), linear(3)).init(jax.random.key(0), jnp.ones((1, 5)))
        >>> parameter_count(params) == (5 + 1) * 8 + (8 + 1) * 3
        True
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _is_dict(tree: Any) -> bool:
    return isinstance(tree, dict)


def _literal(where: str, w: Any, w_0: Any) -> tuple[jax.Array, jax.Array]:
    """Checked weights [d] of floats and a threshold w_0, a number or an array [] of their dtype."""
    checks.is_array(f"{where}: w", w)
    if len(w.shape) != 1 or w.shape[0] == 0 or jnp.shape(w_0) != ():
        raise ValueError(
            f"{where}: expected the weights of one neuron, w [d] and a number w_0, got shapes {w.shape} and "
            f"{jnp.shape(w_0)}. Make a layer of neurons from the lecture's matrix by from_lecture."
        )
    if not jnp.issubdtype(w.dtype, jnp.floating):
        raise TypeError(f"{where}: expected weights w of floats, got {w.dtype}. Convert by w.astype(float).")
    if hasattr(w_0, "dtype") and w_0.dtype != w.dtype:
        raise TypeError(f"{where}: expected w and w_0 of one dtype, got {w.dtype} and {w_0.dtype}. Convert by astype.")
    return jnp.asarray(w), jnp.asarray(w_0, w.dtype)


def _has_matrix(leaf: Any) -> bool:
    """Whether a dict is the params of a `linear` or `dense` layer with biases."""
    return is_neurons(leaf) and "b" in leaf


def _neurons(where: str, leaf: dict[str, Any]) -> tuple[jax.Array, jax.Array]:
    """Checked w [..., i, o] and b [..., o] of one dtype."""
    w, b = jnp.asarray(leaf["w"]), jnp.asarray(leaf["b"])
    if w.ndim < 2 or b.shape != (*w.shape[:-2], w.shape[-1]):
        raise ValueError(
            f"{where}: expected layers of neurons with w [i, o] and b [o], got shapes {w.shape} and {b.shape}. Pass "
            "the params from the network's own init."
        )
    if w.dtype != b.dtype:
        raise TypeError(f"{where}: expected w and b of one dtype, got {w.dtype} and {b.dtype}. Convert one by astype.")
    return w, b


def _matrix(where: str, leaf: Any) -> jax.Array:
    """A checked matrix [..., inputs + 1, o]: a row of thresholds and one for each input, at least one."""
    checks.is_array(where, leaf)
    if len(leaf.shape) < 2 or leaf.shape[-2] < 2:
        raise ValueError(
            f"{where}: expected matrices (inputs + 1) × o with the row of w_0 first, got an array of shape "
            f"{leaf.shape}. Make them by to_lecture."
        )
    return jnp.asarray(leaf)


def _no_bare_array(where: str, leaf: Any) -> None:
    """Raise ValueError for an array outside of a dict, which from_lecture would take for a layer's matrix."""
    if not isinstance(leaf, dict):
        raise ValueError(
            f"{where}: expected params with named arrays, {{'w': [i, o], 'b': [o]}}, got {type(leaf).__name__} of "
            f"shape {jnp.shape(leaf)} without a name. If it is a lecture matrix already, pass it to from_lecture."
        )


def _no_neurons(where: str, leaf: dict[str, Any]) -> None:
    """Raise ValueError for params of a layer of neurons among the matrices."""
    if _has_matrix(leaf):
        raise ValueError(
            f"{where}: expected the lecture's matrices, got params {{'w', 'b'}} of a layer of neurons. Leave params "
            "as they are, or make matrices of them by to_lecture."
        )
