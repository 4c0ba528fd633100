"""What the tests run over: every layer, every combinator, whole networks with a loss, and networks drawn at random.

Inputs and outputs differ in width wherever a layer allows it, so that a missing transpose cannot hide.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from fnn import (
    Activation,
    Layer,
    Loss,
    activate,
    batch_norm,
    binary_cross_entropy,
    branches,
    columns,
    dense,
    dropout,
    exponential_margin,
    from_function,
    gaussian,
    grouped,
    hinge_margin,
    identity,
    inverted_dropout,
    leaky_relu,
    linear,
    logarithmic,
    logistic_margin,
    prelu,
    product,
    relu,
    remat,
    repeat,
    residual,
    serial,
    sigmoid,
    sigmoid_margin,
    softmax_cross_entropy,
    softplus,
    squared,
    tanh,
    tied,
    watch,
)
from fnn.testing._trees import normal

EXAMPLES = 5

DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: jnp.dtype(dtype).name)


class Case(NamedTuple):
    """A layer and the width of what goes in."""

    layer: Layer
    inputs: int


class Problem(NamedTuple):
    """A network, the loss it is trained with, and the widths of what goes in and comes out."""

    net: Layer
    loss: Loss
    inputs: int
    outputs: int


class Given(NamedTuple):
    """The arguments of a layer's forward pass."""

    params: Any
    state: Any
    x: jax.Array
    key: jax.Array


def scaled_sine() -> Layer:
    """y = sin(x w) + a: a layer whose backward nobody has derived, with a scalar among its parameters."""

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        return {"a": jnp.ones((), x.dtype), "w": jax.random.normal(key, (x.shape[1], x.shape[1]), x.dtype)}

    return from_function(init, lambda p, x: jnp.sin(x @ p["w"]) + p["a"], "scaled_sine")


LAYERS: dict[str, Case] = {
    "linear": Case(linear(3), 4),
    "linear, one output": Case(linear(1), 4),
    "linear, one input": Case(linear(3), 1),
    "linear, no bias": Case(linear(3, bias=False), 4),
    "dense tanh": Case(dense(3, tanh), 4),
    "dense tanh, no bias": Case(dense(3, tanh, bias=False), 4),
    "dense relu": Case(dense(5, relu), 2),
    "dense leaky_relu": Case(dense(3, leaky_relu(0.1)), 4),
    "dense sigmoid": Case(dense(4, sigmoid), 3),
    "dense softplus": Case(dense(3, softplus), 5),
    "dense gaussian": Case(dense(2, gaussian), 3),
    "dense logarithmic": Case(dense(3, logarithmic), 2),
    "dense identity": Case(dense(3, identity), 4),
    "activate": Case(activate(tanh), 4),
    "prelu": Case(prelu(), 4),
    "dropout": Case(dropout(0.4), 4),
    "inverted_dropout": Case(inverted_dropout(0.4), 4),
    "batch_norm": Case(batch_norm(), 4),
    "batch_norm, other options": Case(batch_norm(epsilon=0.1, rate=0.5), 3),
    "from_function": Case(scaled_sine(), 3),
}

_block = serial(dense(5, tanh), dropout(0.3), linear(4))

COMBINATORS: dict[str, Case] = {
    "serial, empty": Case(serial(), 4),
    "serial": Case(serial(dense(5, tanh), dropout(0.5), linear(3)), 4),
    "serial, nested": Case(serial(serial(linear(3), prelu()), serial(), serial(serial(dense(2, softplus)))), 4),
    "columns": Case(columns((3, dense(4, tanh)), (1, linear(2)), (2, activate(sigmoid))), 6),
    "columns, nested": Case(columns((2, dense(5, tanh)), (4, columns((1, linear(3)), (3, inverted_dropout(0.4))))), 6),
    "columns, one": Case(columns((4, dense(3, relu))), 4),
    "branches": Case(branches(dense(4, tanh), serial(linear(2), inverted_dropout(0.4)), activate(softplus)), 3),
    "branches, nested": Case(branches(serial(), branches(linear(2), dense(1, sigmoid))), 3),
    "product": Case(product(dense(4, tanh), serial(dense(3, softplus), dropout(0.3), dense(4, sigmoid))), 3),
    "product of products": Case(product(serial(), product(activate(gaussian), linear(3))), 3),
    "tied": Case(tied(serial(dense(4, tanh), prelu(), dense(4, tanh), dense(4, tanh), linear(2)), {2: 0, 3: 0}), 4),
    "tied, weights only": Case(tied(serial(dense(4, tanh), dropout(0.3), dense(4, sigmoid)), {(2, "w"): (0, "w")}), 4),
    "tied, side by side": Case(tied(columns((2, dense(3, tanh)), (2, dense(3, tanh))), {1: 0}), 4),
    "repeat of tied": Case(repeat(tied(serial(dense(3, tanh), dense(3, softplus)), {1: 0}), 2), 3),
    "tied repeat": Case(tied(serial(repeat(dense(3, tanh), 2), repeat(dense(3, tanh), 2)), {1: 0}), 3),
    "residual": Case(residual(_block), 4),
    "residual with a projection": Case(residual(_block, serial(dense(4, tanh), linear(4))), 3),
    "residual of residual": Case(residual(residual(dense(3, sigmoid))), 3),
    "repeat": Case(repeat(dense(4, tanh), 3), 4),
    "repeat, once": Case(repeat(dense(4, tanh), 1), 4),
    "repeat of repeat": Case(repeat(repeat(residual(dense(3, tanh)), 2), 3), 3),
    "repeat of dropout": Case(repeat(_block, 3), 4),
    "repeat of batch_norm": Case(repeat(serial(dense(4, tanh), batch_norm()), 2), 4),
    "repeat of columns": Case(repeat(columns((1, prelu()), (2, dense(2, tanh))), 2), 3),
    "repeat of from_function": Case(repeat(scaled_sine(), 2), 3),
    "grouped": Case(grouped(serial(dense(2, tanh), dropout(0.3), linear(1)), 3), 6),
    "grouped, once": Case(grouped(dense(3, tanh), 1), 4),
    "grouped of batch_norm": Case(grouped(serial(dense(1, tanh), batch_norm()), 2), 4),
    "repeat of grouped": Case(repeat(grouped(grouped(prelu(), 1), 2), 2), 4),
    "remat": Case(remat(_block), 4),
    "remat of batch_norm": Case(remat(serial(linear(3), batch_norm())), 4),
    "remat of from_function": Case(remat(scaled_sine()), 3),
    "repeat of remat": Case(repeat(remat(residual(_block)), 3), 4),
    "remat of repeat": Case(remat(repeat(residual(dense(4, gaussian)), 3)), 4),
    "watch": Case(watch(serial(dense(3, tanh), columns((1, linear(2)), (2, prelu())))), 4),
    "watch within": Case(serial(watch(dense(3, tanh)), repeat(watch(residual(linear(3))), 2)), 4),
    "everything": Case(
        serial(
            columns((2, dense(3, tanh)), (2, serial(linear(3), batch_norm(), prelu()))),
            repeat(remat(residual(serial(dense(5, softplus), inverted_dropout(0.2), linear(6)))), 2),
            remat(columns((1, linear(2)), (5, activate(leaky_relu())))),
            scaled_sine(),
            linear(3),
        ),
        4,
    ),
}

EVERY_LAYER = LAYERS | COMBINATORS

NETWORKS: dict[str, Problem] = {
    "one linear neuron": Problem(linear(1), squared, 4, 1),
    "logistic regression": Problem(linear(1), logistic_margin, 4, 1),
    "support vector machine": Problem(linear(1), hinge_margin, 4, 1),
    "boosted neuron": Problem(dense(1, tanh), exponential_margin, 4, 1),
    "sigmoid margin": Problem(serial(dense(3, tanh), linear(1)), sigmoid_margin, 4, 1),
    "softmax regression": Problem(linear(3), softmax_cross_entropy, 4, 3),
    "several yes-no questions": Problem(serial(dense(5, sigmoid), linear(3)), binary_cross_entropy, 4, 3),
    "several margins": Problem(serial(dense(5, gaussian), linear(2)), logistic_margin, 4, 2),
    "regression": Problem(serial(dense(6, logarithmic), dense(5, softplus), linear(2)), squared, 3, 2),
    "relu": Problem(serial(dense(6, relu), dense(5, leaky_relu(0.1)), linear(3)), softmax_cross_entropy, 4, 3),
    "prelu": Problem(serial(linear(6), prelu(), linear(3)), softmax_cross_entropy, 4, 3),
    "dropout": Problem(serial(dense(6, tanh), dropout(0.5), linear(3)), softmax_cross_entropy, 4, 3),
    "inverted dropout": Problem(serial(dense(6, tanh), inverted_dropout(0.5), linear(2)), squared, 4, 2),
    "batch norm": Problem(serial(linear(6), batch_norm(), activate(tanh), linear(3)), softmax_cross_entropy, 4, 3),
    "batch norm last": Problem(serial(dense(6, tanh), linear(2), batch_norm()), squared, 4, 2),
    "mixed neurons": Problem(
        serial(linear(6), columns((2, activate(tanh)), (4, activate(relu))), linear(3)), softmax_cross_entropy, 4, 3
    ),
    "residual": Problem(serial(residual(dense(4, tanh)), residual(prelu()), linear(1)), sigmoid_margin, 4, 1),
    "deep": Problem(
        serial(dense(5, tanh), repeat(residual(dense(5, tanh)), 6), linear(3)), softmax_cross_entropy, 4, 3
    ),
    "deep, little memory": Problem(
        serial(repeat(remat(serial(dense(6, tanh), linear(4))), 4), linear(2)), binary_cross_entropy, 4, 2
    ),
    "no bias": Problem(
        serial(dense(3, tanh, bias=False), repeat(linear(3, bias=False), 2), linear(2, bias=False)), squared, 4, 2
    ),
    "from_function": Problem(serial(linear(3), scaled_sine(), dense(2, identity)), squared, 4, 2),
    "everything": Problem(COMBINATORS["everything"].layer, softmax_cross_entropy, 4, 3),
}


def float64(tree: Any) -> Any:
    """A tree of NumPy arrays in float64."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def couples(layer: Layer) -> bool:
    """Whether an example's output depends on the other examples of its batch."""
    return "batch_norm" in str(layer)


def given(layer: Layer, inputs: int, n: int = EXAMPLES, seed: int = 0, dtype: Any = jnp.float64) -> Given:
    """Arguments for a forward pass, with random numbers for parameters: no bias is 0 and no γ is 1, as init makes them.

    They are small, so that no tanh saturates: where 1 − t² is 1e-5, five of its digits are rounding, by hand or not.
    The state is that before the first batch, which is zeros. Only the shapes come from init.
    """
    key = jax.random.key(seed)
    x = normal(jax.ShapeDtypeStruct((n, inputs), dtype), seed + 1)
    params, state = jax.eval_shape(layer.init, key, x)
    empty = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape), leaf.dtype), state)
    return Given(normal(params, seed + 2, scale=0.5), empty, x, key)


ANSWERS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "squared": lambda rng, n, m: rng.standard_normal((n, m)),
    "logistic_margin": lambda rng, n, m: rng.choice([-1, 1], (n, m)),
    "hinge_margin": lambda rng, n, m: rng.choice([-1, 1], (n, m)),
    "exponential_margin": lambda rng, n, m: rng.choice([-1, 1], (n, m)),
    "sigmoid_margin": lambda rng, n, m: rng.choice([-1, 1], (n, m)),
    "binary_cross_entropy": lambda rng, n, m: rng.choice([0, 1], (n, m)),
    "softmax_cross_entropy": lambda rng, n, m: rng.integers(m, size=n),
}


def targets(problem: Problem, n: int = EXAMPLES, seed: int = 0, dtype: Any = jnp.float64) -> jax.Array:
    """Random targets y of the kind the problem's loss takes."""
    y = ANSWERS[str(problem.loss)](np.random.default_rng(seed + 3), n, problem.outputs)
    return jnp.asarray(y, dtype if y.dtype.kind == "f" else jnp.int64)


def posed(problem: Problem, n: int = EXAMPLES, seed: int = 0, dtype: Any = jnp.float64) -> tuple[Any, Any, Any, Any]:
    """Arguments (params, state, (x, y), key) of `backprop(problem.net, problem.loss)`."""
    params, state, x, key = given(problem.net, problem.inputs, n, seed, dtype)
    return params, state, (x, targets(problem, n, seed, dtype)), key


ACTIVATIONS: list[Activation] = [
    gaussian,
    identity,
    leaky_relu(0.1),
    logarithmic,
    relu,
    sigmoid,
    softplus,
    tanh,
]
LOSSES: list[Loss] = [
    binary_cross_entropy,
    exponential_margin,
    hinge_margin,
    logistic_margin,
    sigmoid_margin,
    softmax_cross_entropy,
    squared,
]
WIDTHS = {1: [(1,)], 2: [(2,), (1, 1)], 3: [(3,), (1, 2), (2, 1)]}
"""The few widths of random networks, and how `columns` may cut each: XLA compiles an operation once for each shape."""


KEEP_WIDTH: list[Callable[[Activation], Layer]] = [
    activate,
    lambda activation: prelu(),
    lambda activation: dropout(0.3),
    lambda activation: inverted_dropout(0.3),
    # With a small ε, one batch_norm after another passes on ε/σ² of an error: what is left is rounding.
    lambda activation: batch_norm(epsilon=0.1),
    lambda activation: scaled_sine(),
]


def has_params(layer: Layer, inputs: int) -> bool:
    """Whether there is anything to tie."""
    like = jax.ShapeDtypeStruct((EXAMPLES, inputs), float)
    return bool(jax.tree.leaves(jax.eval_shape(lambda key: layer.init(key, like)[0], jax.random.key(0))))


@st.composite
def draw_layer(draw: st.DrawFn, inputs: int, outputs: int, nesting: int) -> Layer:
    """A layer between two widths, with a linear one after it where it cannot change the width itself."""
    composites = ["serial", "columns", "branches", "product", "tied", "remat", "watch", "residual", "repeat"]
    kind = draw(st.sampled_from(["weights", "others", *composites])) if nesting else "weights"
    if kind == "weights":
        return draw(st.sampled_from([linear(outputs), *(dense(outputs, activation) for activation in ACTIVATIONS)]))
    if kind == "serial":
        return draw(draw_serial(inputs, outputs, 2, nesting - 1))
    if kind == "columns":
        return draw(draw_columns(inputs, outputs, nesting - 1))
    if kind == "branches":
        cut = draw(st.sampled_from(WIDTHS[outputs]))
        return branches(*(draw(draw_layer(inputs, o, nesting - 1)) for o in cut))
    if kind == "product":
        return product(*(draw(draw_layer(inputs, outputs, nesting - 1)) for _ in range(2)))
    if kind in ("remat", "watch"):
        return {"remat": remat, "watch": watch}[kind](draw(draw_layer(inputs, outputs, nesting - 1)))
    if kind == "others":
        layer = draw(st.sampled_from(KEEP_WIDTH))(draw(st.sampled_from(ACTIVATIONS)))
    else:
        inner = draw(draw_layer(inputs, inputs, nesting - 1))
        if kind == "tied" and has_params(inner, inputs):
            layer = tied(serial(inner, inner), {1: 0})
        else:
            layer = repeat(inner, draw(st.integers(1, 2))) if kind == "repeat" else residual(inner)
    return layer if inputs == outputs else serial(layer, linear(outputs))


@st.composite
def draw_serial(draw: st.DrawFn, inputs: int, outputs: int, depth: int, nesting: int) -> Layer:
    """A serial of so many layers between two widths."""
    widths = [inputs, *(draw(st.sampled_from(sorted(WIDTHS))) for _ in range(depth - 1)), outputs]
    return serial(*(draw(draw_layer(i, o, nesting)) for i, o in pairwise(widths)))


@st.composite
def draw_columns(draw: st.DrawFn, inputs: int, outputs: int, nesting: int) -> Layer:
    """Columns between two widths, with slices of few different widths too."""
    ends = {len(cut): cut for cut in WIDTHS[outputs]}
    cut = draw(st.sampled_from([cut for cut in WIDTHS[inputs] if len(cut) in ends]))
    slices = zip(cut, ends[len(cut)], strict=True)
    return columns(*((i, draw(draw_layer(i, o, nesting))) for i, o in slices))


@st.composite
def draw_network(draw: st.DrawFn) -> Problem:
    """A network of one to five layers, each perhaps a composite, with any loss."""
    inputs, outputs = (draw(st.sampled_from(sorted(WIDTHS))) for _ in range(2))
    depth = draw(st.integers(1, 5))
    net = draw(draw_serial(inputs, outputs, depth, nesting=2 if depth < 3 else 1))
    return Problem(net, draw(st.sampled_from(LOSSES)), inputs, outputs)
