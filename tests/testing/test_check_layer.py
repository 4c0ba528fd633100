"""The laws: fnn's own layers and optimizers keep them, and every planted fault breaks the law that is named for it."""

import itertools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Layer,
    Optimizer,
    activate,
    adadelta,
    adam,
    batch_norm,
    chain,
    clip_by_norm,
    columns,
    dense,
    dropout,
    from_function,
    grouped,
    inverted_dropout,
    l2,
    linear,
    masked,
    mixed_precision,
    momentum,
    nadam,
    nag,
    prelu,
    remat,
    repeat,
    residual,
    rmsprop,
    serial,
    sgd,
    tanh,
    watch,
    weights_only,
)
from fnn.core import Modes
from fnn.testing import Law, Laws, check_layer, check_optimizer
from fnn.testing._laws.equations import CHANGE, noisy
from fnn.testing._laws.judges import relative_errors

X = np.random.default_rng(0).standard_normal((3, 2))
PARAMS = {"w": np.arange(4.0).reshape(2, 2), "b": np.array([1.0, -2.0])}
COUPLED = {"takes a batch of one", *(f"reading {r}" for r in ("per_example", "squared_norm", "gram", "second_moment"))}
COUPLED |= {"reading variance", "reading contributions", "curve gives the error", "curve at x equals jax.hessian"}
COUPLED |= {"curve at the params equals jax.hessian", "one pass is the exact diagonal"}


def broken(laws: Laws) -> set[str]:
    return {law.name for law in laws.failures}


def not_asked(laws: Laws) -> set[str]:
    return {law.name for law in laws.rows if law.verdict == "not asked"}


# What is right


def sine(params: Any, x: Any) -> Any:
    return jnp.sin(x * params[None, :])


LAYERS: dict[str, Layer] = {
    "linear": linear(3),
    "dense": dense(3, tanh),
    "activate": activate(tanh),
    "prelu": prelu(),
    "dropout": dropout(0.4),
    "inverted_dropout": inverted_dropout(0.4),
    "batch_norm": batch_norm(),
    "from_function": from_function(lambda key, x: jnp.ones(x.shape[1], x.dtype), sine),
    "serial": serial(prelu(), linear(2)),
    "columns": columns((1, linear(2)), (1, prelu())),
    "grouped": grouped(prelu(), 2),
    "residual": residual(dense(2, tanh)),
    "repeat": repeat(prelu(), 2),
    "remat": remat(linear(2)),
    "watch": watch(linear(3)),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_our_own_layers_keep_all_laws(layer):
    laws = check_layer(layer, X)
    laws.raise_if_failed()
    coupled, same_width = layer is LAYERS["batch_norm"], layer.label not in ("linear(3)", "dense(3, tanh)")
    expected = set(COUPLED) if coupled else set()
    if not same_width or layer in (LAYERS["columns"], LAYERS["watch"]):
        expected |= {"runs inside repeat"}
    if layer.children:
        expected |= {"one pass is the exact diagonal"}
    if not jax.tree.leaves(jax.eval_shape(layer.init, jax.random.key(0), X)[0]):
        expected |= {law.name for law in laws.rows if law.name.startswith("reading")}
    assert not_asked(laws) == expected
    assert ("coupled" in laws.law("examples are independent").finding) == coupled


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": sgd(0.1),
    "momentum": momentum(0.1),
    "nag, on a schedule": nag(lambda k: 0.1 / (1 + k.astype(float))),
    "rmsprop": rmsprop(0.1),
    "adadelta": adadelta(),
    "adam": adam(0.1),
    "nadam": nadam(0.1),
    "clip_by_norm": clip_by_norm(1.0),
    "l2": l2(0.1),
    "chain": chain(clip_by_norm(1.0), masked(l2(0.1), weights_only), momentum(0.1)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_our_own_optimizers_keep_all_laws(optimizer):
    laws = check_optimizer(optimizer, PARAMS, steps=3, transform=str(optimizer).startswith(("clip", "l2")))
    laws.raise_if_failed()
    assert ("coupled" in laws.law("leaves are independent").finding) == ("clip" in str(optimizer))
    by_name = {"runs on one flat vector"} if "masked" in str(optimizer) else set()
    assert not_asked(laws) == {"steps equal the reference"} | by_name


def test_a_rate_too_large_is_told_from_a_wrong_sign():
    law = check_optimizer(sgd(3.0), PARAMS, steps=3).law("goes down a paraboloid")
    assert (law.verdict, "take a smaller rate" in law.finding) == ("not asked", True)
    for transform in (l2(0.1), clip_by_norm(1.0)):  # unsaid, their updates are steps up
        law = check_optimizer(transform, PARAMS, steps=3).law("goes down a paraboloid")
        assert (law.verdict, "transform=True" in law.finding) == ("broken", True)
    assert check_optimizer(sgd(0.1), PARAMS, steps=3, transform=True).law("goes down a paraboloid").verdict == "broken"


def waiting(steps: int) -> Optimizer:
    """Gradient descent that takes a step every so many gradients only."""

    def update(gradient, k, params=None):
        moves = ((k + 1) % steps == 0).astype(float)
        return jax.tree.map(lambda g: -0.1 * moves.astype(g.dtype) * g, gradient), k + 1

    return Optimizer(lambda params: jnp.zeros((), jnp.int32), update, f"every {steps} steps")


def test_an_optimizer_that_waits_needs_as_many_steps():
    assert check_optimizer(waiting(3), PARAMS, steps=3).passed
    law = check_optimizer(waiting(4), PARAMS, steps=3).law("goes down a paraboloid")
    assert (law.verdict, "needs more steps" in law.finding) == ("broken", True)


def of_leaves(first: Any, equation: Any, label: str) -> Optimizer:
    """An optimizer of single leaves: (g, memory, w) -> (update, memory)."""

    def update(gradient, state, params):
        pairs = jax.tree.map(equation, gradient, state, params)
        return tuple(jax.tree.map(lambda g, pair, i=i: pair[i], gradient, pairs) for i in (0, 1))

    return Optimizer(lambda params: jax.tree.map(first, params), update, label)


RIGHT = {
    "sign": of_leaves(jnp.zeros_like, lambda g, m, w: (-0.1 * jnp.sign(g), m), "sign"),
    "lion": of_leaves(
        jnp.zeros_like, lambda g, m, w: (-0.1 * jnp.sign(0.9 * m + 0.1 * g), 0.99 * m + 0.01 * g), "lion"
    ),
    "adagrad": of_leaves(
        jnp.zeros_like, lambda g, m, w: (-0.1 * g / (jnp.sqrt(m + g * g) + 1e-8), m + g * g), "adagrad"
    ),
    "lars": of_leaves(
        jnp.zeros_like, lambda g, m, w: (-0.01 * g * jnp.linalg.norm(w) / (jnp.linalg.norm(g) + 1e-9), m), "lars"
    ),
    "by signs that stay": of_leaves(
        jnp.zeros_like, lambda g, m, w: (jnp.where(g * m >= 0, -0.1 * jnp.sign(g), jnp.zeros_like(g)), g), "signs"
    ),
    "heavy ball": of_leaves(jnp.zeros_like, lambda g, m, w: (-0.01 * (0.9 * m + g), 0.9 * m + g), "heavy ball"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_optimizers_of_others_are_right_in_low_precision(name):
    laws = check_optimizer(RIGHT[name], PARAMS)
    assert not {law for law in broken(laws) if law.startswith("right in")}, laws


def shaking() -> Optimizer:
    """Gradient descent with noise, whose key is in the state."""

    def update(gradient, key, params=None):
        key, own = jax.random.split(key)
        noisy = lambda g: -0.1 * (g + 1e-3 * jax.random.normal(own, g.shape, g.dtype))  # noqa: E731
        return jax.tree.map(noisy, gradient), key

    return Optimizer(lambda params: jax.random.key(3), update, "shaking")


def test_keys_in_a_state_are_compared_by_their_numbers():
    check_optimizer(shaking(), PARAMS, steps=3).raise_if_failed()
    forgetful = shaking()._replace(init=lambda params: jax.random.key(next(counter)))
    assert "init is pure" in broken(check_optimizer(forgetful, PARAMS, steps=3))
    right = linear(3)
    keeping = right._replace(
        label="keeping",
        init=lambda key, x: (right.init(key, x)[0], key),
        apply=lambda params, state, x: right.apply(params, (), x),
    )
    check_layer(keeping, X).raise_if_failed()


def adam_loop(w, gradients):
    """Adam as the slide has it, leaf by leaf."""
    leaves, tree = jax.tree.flatten(w)
    v, G = [0.0] * len(leaves), [0.0] * len(leaves)
    for k, gradient in enumerate(gradients, 1):
        for i, g in enumerate(jax.tree.leaves(gradient)):
            v[i], G[i] = 0.9 * v[i] + 0.1 * g, 0.999 * G[i] + 0.001 * g**2
            leaves[i] = leaves[i] - 0.1 * (v[i] / (1 - 0.9**k)) / (np.sqrt(G[i] / (1 - 0.999**k)) + 1e-8)
        yield jax.tree.unflatten(tree, leaves)


def test_adam_follows_its_loop():
    laws = check_optimizer(adam(0.1), PARAMS, reference=adam_loop, steps=4)
    laws.raise_if_failed()
    assert "in 4 steps" in laws.law("steps equal the reference").finding


# Planted faults of layers


def with_backward(change: Any, layer: Layer | None = None) -> Layer:
    """A dense layer whose (error, readings) are changed: change(error, readings, params, tape, error at y, read)."""
    right = layer or dense(3, tanh)

    def wrong(params, tape, error, read):
        return change(*right.backward(params, tape, error, read), params, tape, error, read)

    return right._replace(backward=wrong, curve=None)


def with_forward(change: Any, layer: Layer | None = None) -> Layer:
    """A layer whose (y, state, tape) are changed."""
    right = layer or dense(3, tanh)
    return right._replace(forward=lambda *given: change(*right.forward(*given)), curve=None)


def running_mean(dtype: Any) -> Layer:
    """A layer that counts its batches, and gives the count back in another dtype."""
    right = linear(3)

    def forward(params, state, x, key):
        y, _, tape = right.forward(params, (), x, key)
        return y, (state + 1).astype(dtype), tape

    return right._replace(
        init=lambda key, x: (right.init(key, x)[0], jnp.zeros((), x.dtype)),
        apply=lambda params, state, x: right.apply(params, (), x),
        forward=forward,
        curve=None,
    )


counter = itertools.count()


def counting(y: Any, state: Any, tape: Any) -> Any:
    return y * (1 + 0.1 * next(counter)), state, tape


def narrow(layer: Layer) -> Layer:
    """A layer that computes in float32 whatever comes."""
    right = layer.apply
    to_32 = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)  # noqa: E731
    made = from_function(lambda key, x: layer.init(key, x)[0], lambda params, x: right(to_32(params), (), to_32(x)))
    return made._replace(curve=None)


def wrong_curve(layer: Layer) -> Layer:
    """Second derivatives without σ''."""
    right: Any = layer.curve

    def curve(params, tape, error, c, read):
        _, below, readings = right(params, tape, jnp.zeros_like(error), c, read)
        return layer.backward(params, tape, error, read)[0], below, readings

    return layer._replace(curve=curve)


def unseeded(layer: Layer) -> Layer:
    """An init that draws beside the key."""
    draw = itertools.count()

    def init(key, x):
        return layer.init(jax.random.fold_in(key, next(draw)), x)

    return layer._replace(init=init, curve=None)


def raising(*given: Any) -> Any:
    raise RuntimeError("no gradient today\nsee the manual")


def centred() -> Layer:
    """A layer that couples the examples and does not say so."""

    def backward(params, tape, error, read):
        return error - jnp.mean(error, axis=0, keepdims=True), {"b": read.rows(error)}

    def forward(params, state, x, key):
        return apply(params, state, x), state, ()

    def apply(params, state, x):
        return x - jnp.mean(x, axis=0, keepdims=True) + params["b"][None, :]

    return Layer("centred()", lambda key, x: ({"b": jnp.zeros(x.shape[1], x.dtype)}, ()), apply, forward, backward)


def by_first() -> Layer:
    """Examples in units of the first, which stays what it is whatever the others are, without a refusal."""
    f = lambda x: x / x[:1]  # noqa: E731
    backward = lambda params, x, error, read: (jax.vjp(f, x)[1](error)[0], ())  # noqa: E731
    forward = lambda params, state, x, key: (f(x), state, x)  # noqa: E731
    return Layer("by_first()", lambda key, x: ((), ()), lambda params, state, x: f(x), forward, backward)


def with_curve(change: Any) -> Layer:
    """A dense layer whose (curvature, readings) are changed: change(curvature, readings, mode, read)."""
    right: Any = dense(3, tanh)

    def curve(params, tape, error, c, read):
        through, below, readings = right.curve(params, tape, error, c, read)
        return through, *change(below, readings, "one pass" if c.ndim == 2 else "exact", read)

    return right._replace(curve=curve)


def times(factor: float, tree: Any) -> Any:
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def fixed_mask() -> Layer:
    """A linear layer with a mask of integers among its params."""
    right = linear(3)

    def own(params):
        return {"w": params["w"] * params["m"].astype(params["w"].dtype), "b": params["b"]}

    def forward(params, state, x, key):
        y, _, tape = right.forward(own(params), (), x, key)
        return y, state, (tape, params["m"])

    def backward(params, tape, error, read):
        through, readings = right.backward(own(params), tape[0], error, read)
        return through, readings | {"m": jnp.zeros_like(tape[1])}

    def init(key, x):
        return right.init(key, x)[0] | {"m": jnp.ones((x.shape[1], 3), jnp.int32)}, ()

    return Layer("masked", init, lambda params, state, x: right.apply(own(params), (), x), forward, backward)


def frozen(*names: str) -> Layer:
    """Batch norm whose running estimates of these names stay as they are."""

    def forward(y, state, tape, before):
        return y, state._replace(**{name: getattr(before, name) for name in names}), tape

    right = batch_norm()
    return right._replace(forward=lambda p, s, x, key: forward(*right.forward(p, s, x, key), s))


def noisy_layer() -> Layer:
    """Noise in proportion to x, and no word of another mode; its apply is without."""

    def forward(params, state, x, key):
        noise = 1 + 0.1 * jax.random.normal(key, x.shape, x.dtype)
        return noise * x, state, noise

    backward = lambda params, noise, error, read: (error * noise, ())  # noqa: E731
    return Layer("noisy()", lambda key, x: ((), ()), lambda params, state, x: x, forward, backward)


def constant(params_of: Layer) -> Layer:
    """A linear layer times a pretrained constant that it keeps in the state."""

    def forward(params, state, x, key):
        y, _, tape = params_of.forward(params, (), x, key)
        return y * state[None, :], state, (tape, state)

    return Layer(
        "constant",
        lambda key, x: (params_of.init(key, x)[0], jnp.full(3, 2.0, x.dtype)),
        lambda params, state, x: params_of.apply(params, (), x) * state[None, :],
        forward,
        lambda params, tape, error, read: params_of.backward(params, tape[0], error * tape[1][None, :], read),
    )


def elementwise(f: Any, slope: Any) -> Layer:
    """A layer of a function and its slope."""
    forward = lambda params, state, x, key: (f(x), state, x)  # noqa: E731
    backward = lambda params, x, error, read: (error * slope(x), ())  # noqa: E731
    return Layer("elementwise", lambda key, x: ((), ()), lambda params, state, x: f(x), forward, backward)


def in_dtype_only(dtype: str, change: Any) -> Layer:
    """A dense layer whose (error, readings) are changed in one dtype."""
    return with_backward(lambda e, r, p, t, error, read: change(e, r) if error.dtype == dtype else (e, r))


def with_matrix_curve(change: Any) -> Layer:
    """An activation whose matrices ∂²L/∂x² are changed, and its diagonals not."""
    right: Any = activate(tanh)

    def curve(params, tape, error, c, read):
        through, below, readings = right.curve(params, tape, error, c, read)
        return through, change(below) if c.ndim == 3 else below, readings

    return right._replace(curve=curve)


UPPER = jnp.triu(jnp.ones((2, 2)))[None]


class Fault(NamedTuple):
    """A faulty layer, the law it breaks, and a word of the finding."""

    layer: Layer
    law: str
    word: str


FAULTS: dict[str, Fault] = {
    "gradient off by 1e-6": Fault(
        with_backward(lambda e, r, *_: (e, r | {"w": r["w"] * (1 + 1e-6)})), "gradient equals jax.vjp", "gradient['w']"
    ),
    "missing transpose": Fault(
        with_backward(lambda e, r, params, tape, error, _: ((error * tape.z) @ params["w"], r), dense(2, tanh)),
        "error equals jax.vjp",
        "transpose",
    ),
    "sign of the bias": Fault(
        with_backward(lambda e, r, *_: (e, r | {"b": -r["b"]})), "gradient equals jax.vjp", "2.0e+00 at gradient['b']"
    ),
    "mean for a sum": Fault(
        with_backward(lambda e, r, p, t, error, read: (e, jax.tree.map(lambda leaf: leaf / 3, r))),
        "gradient equals jax.vjp",
        "mean for a sum",
    ),
    "reads before the slope": Fault(
        with_backward(
            lambda e, r, p, t, error, read: (e, r if read is fnn.gradient else r | {"b": read.rows(error)}),
        ),
        "reading squared_norm",
        "['b']",
    ),
    "clips the error": Fault(
        with_backward(lambda e, r, *_: (jnp.clip(e, -0.1, 0.1), r)), "backward is linear in the error", "clip"
    ),
    "adds a constant": Fault(with_backward(lambda e, r, *_: (e + 1e-7, r)), "a zero error gives zeros", "1.0e-07"),
    "gradient of another shape": Fault(
        with_backward(lambda e, r, *_: (e, r | {"b": r["b"][None]})),
        "gradient has the shapes of the params",
        "gradient['b'] is float64[1, 3], expected as the params, float64[3]",
    ),
    "state changes dtype": Fault(running_mean(jnp.int32), "forward keeps the state", "int32[]"),
    "computes in float32": Fault(narrow(linear(3)), "keeps the dtype", "float32"),
    "impure forward": Fault(with_forward(counting), "forward is pure", "counter"),
    "impure init": Fault(unseeded(linear(3)), "init is pure", "made again"),
    "NaN": Fault(with_forward(lambda y, s, t: (y * 0 / 0, s, t)), "forward is finite", "9 of 9 numbers"),
    "curve without σ''": Fault(wrong_curve(dense(3, tanh)), "curve at the params equals jax.hessian", "σ''"),
    "raises in backward": Fault(
        linear(3)._replace(backward=raising), "backward runs under jit", "RuntimeError: no gradient today"
    ),
    "apply without the bias": Fault(
        dense(3, tanh)._replace(apply=lambda params, state, x: jnp.tanh(x @ params["w"])), "apply is forward", "modes"
    ),
    "apply in a composite": Fault(
        serial(dropout(0.4), linear(3)._replace(apply=lambda params, state, x: x @ params["w"])),
        "apply is forward",
        "y of apply",
    ),
    "apply is not what the modes say": Fault(
        dropout(0.4)._replace(apply=lambda params, state, x: 0.4 * x), "apply is forward", "off by 3.3e-01"
    ),
    "one pass alone is wrong": Fault(
        with_curve(lambda c, r, mode, read: (times(3, c), times(-5, r)) if mode == "one pass" else (c, r)),
        "one pass is the exact diagonal",
        "off by 6.0e+00",
    ),
    "curve reads examples wrong": Fault(
        with_curve(lambda c, r, mode, read: (c, r if read.linear else times(7, r))),
        "curve at the params equals jax.hessian",
        "reading",
    ),
    "drops the bias in float32": Fault(
        in_dtype_only("float32", lambda e, r: (e, r | {"b": 0 * r["b"]})),
        "right in float32",
        "off by 1.0e+00 at gradient['b']",
    ),
    "drops the bias in bfloat16": Fault(
        in_dtype_only("bfloat16", lambda e, r: (e, r | {"b": 0 * r["b"]})), "right in bfloat16", "gradient['b']"
    ),
    "twice in float16": Fault(
        in_dtype_only("float16", lambda e, r: (2 * e, r)), "right in float16", "1.0e+00 at error"
    ),
    "NaN in float32": Fault(
        in_dtype_only("float32", lambda e, r: (e / 0 * 0, r)),
        "right in float32",
        "6 of 6 numbers are NaN or infinite at error",
    ),
    "overflows in float32": Fault(
        elementwise(lambda x: jnp.log(1 + jnp.exp(600 * x)) / 600, lambda x: jax.nn.sigmoid(600 * x)),
        "right in float32",
        "NaN or infinite at y",
    ),
    "curve twice in bfloat16": Fault(
        with_curve(lambda c, r, mode, read: (c * (1 + (c.dtype == jnp.bfloat16)), r)), "right in bfloat16", "∂²L/∂x²"
    ),
    "off-diagonals of c as they were": Fault(
        with_matrix_curve(lambda c: c * (0.5 + 0.5 * jnp.eye(2))[None]), "curve at x equals jax.hessian", "∂²L/∂x²"
    ),
    "c unsymmetric": Fault(with_matrix_curve(lambda c: c * UPPER), "curve at x equals jax.hessian", "∂²L/∂x²"),
    "c a diagonal": Fault(
        with_matrix_curve(lambda c: c * jnp.eye(2)[None]), "curve at x equals jax.hessian", "∂²L/∂x²"
    ),
    "frozen statistics": Fault(
        frozen("mean", "variance", "weight"), "the state is learned", "state.mean, state.variance"
    ),
    "frozen variance": Fault(frozen("variance"), "the state is learned", "state.variance stays as it is"),
    "noise without a second mode": Fault(noisy_layer(), "draws in training only", "modes=Modes(inference="),
    "couples to the first": Fault(by_first(), "examples are independent", "example[2]: coupled, so backward must"),
    "params of integers": Fault(fixed_mask(), "init gives arrays", "params must be floats, and params['m'] is int32"),
    "couples in silence": Fault(centred(), "examples are independent", "must raise ValueError"),
    "needs two examples": Fault(
        with_forward(lambda y, s, t: (jax.lax.slice(y, (0, 0), (3, 3)), s, t)), "takes a batch of one", "Error"
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_breaks_the_law_of_its_name(fault):
    laws = check_layer(fault.layer, X)
    assert not laws.passed
    assert fault.law in broken(laws), laws
    assert fault.word in laws.law(fault.law).finding
    holds = {law.name for law in laws.rows if law.verdict == "holds"}
    assert "forward keeps the state" in holds | {fault.law} or fault.law == "init gives arrays"


def test_rounding_of_one_equation_in_two_places_is_not_impure():
    """Compiled with x off 0 the two forward passes of batch_norm differ by 1e-16."""
    x = 50 + np.random.default_rng(0).standard_normal((19, 12, 5))[18]
    check_layer(batch_norm(), x).raise_if_failed()


def test_constants_in_a_state_and_the_application_stage_need_not_learn():
    for right in (constant(linear(3)), fnn.inference_mode(batch_norm())):
        check_layer(right, X).raise_if_failed()
    staged = noisy_layer()._replace(modes=Modes(activate(fnn.identity)))
    assert check_layer(staged, X).law("draws in training only").verdict == "holds"


KINKS = {
    "maximum": (lambda x: jnp.maximum(x, 0), lambda x: (x > 0).astype(x.dtype)),
    "clip": (lambda x: jnp.clip(x, -1, 1), lambda x: (jnp.abs(x) < 1).astype(x.dtype)),
    "relu6": (lambda x: jnp.clip(x, 0, 6), lambda x: ((x > 0) & (x < 6)).astype(x.dtype)),
    "abs": (jnp.abs, jnp.sign),
    "where": (lambda x: jnp.where(x > 0, x, 0.1 * x), lambda x: jnp.where(x >= 0, 1, 0.1).astype(x.dtype)),
}


@pytest.mark.parametrize("name", KINKS)
def test_a_right_layer_passes_on_its_kinks(name):
    laws = check_layer(elementwise(*KINKS[name]), jnp.eye(3))
    laws.raise_if_failed()
    if name != "where":
        assert "beside x, which lies on a kink of forward" in laws.law("error equals jax.vjp").finding


@pytest.mark.parametrize(
    ("slope", "word"),
    [
        (lambda x: 2 * (x > 0).astype(x.dtype), "off by 1.0e+00"),
        (lambda x: jnp.where(x == 0, 7, (x > 0).astype(x.dtype)), "x lies on a kink of forward, and not between"),
    ],
)
def test_a_wrong_slope_is_found_on_kinks_too(slope, word):
    law = check_layer(elementwise(KINKS["maximum"][0], slope), jnp.eye(3)).law("error equals jax.vjp")
    assert (law.verdict, word in law.finding) == ("broken", True)


# What draws, what has a state, what saturates, what is applied


def drawn(factor: float = 1.0) -> Layer:
    """Noise in proportion to x, drawn in the dtype of x, whose backward has a factor in float32."""
    right = noisy_layer()

    def backward(params, noise, error, read):
        return error * noise * (factor if error.dtype == jnp.float32 else 1.0), ()

    return right._replace(label="drawn", backward=backward, modes=Modes(activate(fnn.identity)))


def twice_in_float32(layer: Layer) -> Layer:
    return with_backward(lambda e, r, p, t, error, _: (e * (1 + (error.dtype == jnp.float32)), r), layer)


DRAWING_FAULTS = {
    "half as much again": drawn(1.5),
    "nothing": drawn(0.0),
    "beside a dropout": serial(twice_in_float32(dense(3, tanh)), inverted_dropout(0.5)),
    "before noise": serial(twice_in_float32(dense(3, tanh)), drawn()),
    "after noise": serial(drawn(), twice_in_float32(dense(3, tanh))),
}


@pytest.mark.parametrize("fault", DRAWING_FAULTS.values(), ids=DRAWING_FAULTS.keys())
def test_a_layer_that_draws_is_judged_in_low_precision_too(fault):
    assert broken(check_layer(fault, X)) == {"right in float32"}


def test_what_draws_other_numbers_in_another_dtype_is_right():
    for right in (drawn(), serial(linear(2), drawn(), batch_norm())):
        laws = check_layer(right, X)
        laws.raise_if_failed()
        assert "off jax.vjp by" in laws.law("right in bfloat16").finding
    assert "off float64 by" in check_layer(inverted_dropout(0.5), X).law("right in bfloat16").finding
    applied_wrong = drawn()._replace(apply=lambda p, s, x: x * (1 + (x.dtype == jnp.bfloat16)))
    assert "y of apply" in check_layer(applied_wrong, X).law("right in bfloat16").finding


def scaled_by_state(is_right: bool) -> Layer:
    """y = x(1 + m) for a running mean m, which starts at 0."""
    forward = lambda p, m, x, key: (x * (1 + m)[None, :], 0.9 * m + 0.1 * jnp.mean(x, axis=0), m)  # noqa: E731
    backward = lambda p, m, error, read: (error * (1 + m * float(is_right))[None, :], ())  # noqa: E731
    apply = lambda p, m, x: x * (1 + m)[None, :]  # noqa: E731
    return Layer("scaled", lambda key, x: ((), jnp.zeros(x.shape[1], x.dtype)), apply, forward, backward)


def test_a_state_that_starts_at_zero_hides_no_fault():
    check_layer(scaled_by_state(True), X).raise_if_failed()
    assert "error equals jax.vjp" in broken(check_layer(scaled_by_state(False), X))
    assert check_layer(scaled_by_state(False), X, params=(), state=jnp.zeros(2)).passed  # where one says to look


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_layer_that_computes_in_a_narrower_dtype_is_judged_to_its_rounding(dtype):
    laws = check_layer(mixed_precision(serial(dense(3, tanh), linear(2)), dtype), X)
    laws.raise_if_failed()
    assert f"rounds to {jnp.dtype(dtype)} on its way" in laws.law("keeps the dtype").finding
    off = 1 + 16 * float(jnp.finfo(dtype).eps)
    wrong = with_backward(lambda e, r, *_: (e * off, times(off, r)))
    by_jax = {"error equals jax.vjp", "gradient equals jax.vjp"}
    assert by_jax <= broken(check_layer(mixed_precision(wrong, dtype), X))


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_a_saturated_layer_is_right_where_jax_has_lost_its_slopes(scale):
    check_layer(dense(3, tanh), scale * X).raise_if_failed()


SATURATED_FAULTS = {
    "slope of 1": dense(3, tanh._replace(slope=lambda S: jnp.ones_like(S))),
    "leaks a billionth": with_backward(lambda e, r, params, t, error, _: (e + 1e-9 * error @ params["w"].T, r)),
    "bias beside the slope": with_backward(lambda e, r, p, t, error, read: (e, r | {"b": 1e-9 * read.rows(error)})),
}


@pytest.mark.parametrize("fault", SATURATED_FAULTS.values(), ids=SATURATED_FAULTS.keys())
def test_a_saturated_layer_that_is_wrong_is_found(fault):
    assert {"error equals jax.vjp", "gradient equals jax.vjp"} & broken(check_layer(fault, 1e4 * X))


def test_noise_moves_a_result_by_what_rounding_costs_it():
    """1 − t² has the noise of t² and its own: at t = tanh 30 = 1 that is between 1 and 3 times the change, though 0."""
    with jax.enable_x64(True):
        loops = lambda x: jax.lax.scan(lambda a, _: (a, 1 - jnp.tanh(a) ** 2), x, None, length=2)[1]  # noqa: E731
        for f in (lambda x: 1 - jnp.tanh(x) ** 2, jax.jit(lambda x: 1 - jnp.tanh(x) ** 2), loops):
            assert not np.any(f(jnp.full(3, 30.0)))
            moved = np.abs(noisy(f, 1)(jnp.full(3, 30.0))) / CHANGE
            assert np.all((moved > 0.99) & (moved < 3.01))
        moved = np.abs(noisy(lambda x: 3 * x, 1)(jnp.ones(4)) / 3 - 1) / CHANGE
        assert np.allclose(moved, 1)


def test_the_backward_pass_of_the_application_stage_is_looked_at():
    staged = batch_norm()
    applied: Any = fnn.inference_mode(staged)
    wrong = applied._replace(backward=lambda *given: (-applied.backward(*given)[0], applied.backward(*given)[1]))
    for layer in (staged._replace(modes=Modes(wrong)), serial(linear(2), staged._replace(modes=Modes(wrong)))):
        assert broken(check_layer(layer, X)) == {"inference_mode(layer) equals jax.vjp"}
    assert check_layer(linear(2), X).law("inference_mode(layer) equals jax.vjp").finding == "trains as it is applied"


def test_numbers_outside_the_range_of_a_dtype_judge_nothing():
    check_layer(prelu(), 1e-6 * X).raise_if_failed()
    wrong = with_backward(lambda e, r, p, t, error, _: (2 * e if error.dtype == jnp.float16 else e, r), prelu())
    for scale in (1e-6, 1e-2, 1.0):
        assert broken(check_layer(wrong, scale * X)) == {"right in float16"}


def test_a_relative_error_neither_overflows_nor_vanishes():
    with np.errstate(all="raise"):
        for scale in (1e-200, 1.0, 1e200):
            wanted = {"a": scale * np.array([3.0, 4.0]), "b": np.zeros(2)}
            got = {"a": scale * np.array([3.0, 4.5]), "b": scale * np.array([0.0, 5e-3])}
            errors = relative_errors({"": (got, wanted)})
            assert errors == {"['a']": pytest.approx(0.1), "['b']": pytest.approx(1.0)}


def test_params_of_integers_are_said_once():
    assert broken(check_layer(fixed_mask(), X)) == {"init gives arrays"}
    with pytest.raises(TypeError, match=r"check_layer: expected params of floats, got int32 at params\['b'\]"):
        check_layer(linear(2), X, params={"w": np.ones((2, 2)), "b": np.ones(2, np.int32)})


def test_faults_have_no_bystanders():
    """One wrong leaf of the gradient is found by what compares gradients, and all else still holds."""
    wrong = with_backward(lambda e, r, p, t, error, read: (e, r | {"b": -r["b"]} if read is fnn.gradient else r))
    by_gradients = {"gradient equals jax.vjp", "runs inside serial", "takes a batch of one"}
    assert broken(check_layer(wrong, X)) == by_gradients


def test_a_layer_that_cannot_run_is_told_from_one_that_is_not_asked():
    laws = check_layer(linear(2)._replace(forward=raising), X)
    assert broken(laws) == {"forward runs under jit"}
    assert laws.law("error equals jax.vjp").finding == "not before this holds: backward runs under jit"
    laws = check_layer(linear(2)._replace(init=raising), X)
    assert broken(laws) == {"init gives arrays"}
    assert laws.law("forward runs under jit").verdict == "not asked"


def test_an_accident_is_no_refusal():
    """A reading that the layer itself refuses is not asked; one that JAX fails on is broken."""

    def refusing(e, r, params, tape, error, read):
        if not read.linear:
            raise ValueError("only gradients here")
        return e, r

    def stumbling(e, r, params, tape, error, read):
        return e, r if read.linear else r | {"b": jnp.broadcast_to(r["b"], (7,))}

    name = "reading gram"
    refused = check_layer(with_backward(refusing), X).law(name)
    assert (refused.verdict, "only gradients here" in refused.finding) == ("not asked", True)
    stumbled = check_layer(with_backward(stumbling), X).law(name)
    assert (stumbled.verdict, "ValueError" in stumbled.finding) == ("broken", True)


def test_the_params_that_are_given_are_those_that_are_looked_at():
    params = {"w": np.zeros((2, 2), np.float32), "b": np.full(2, np.inf, np.float32)}
    assert "forward is finite" in broken(check_layer(linear(2), X, params=params))


# Planted faults of optimizers


def with_update(change: Any, optimizer: Any = None) -> Optimizer:
    """An optimizer whose (updates, state) are changed: change(updates, state, gradient)."""
    right = optimizer or momentum(0.1)

    def wrong(gradient, state, params=None):
        return change(*right.update(gradient, state, params), gradient)

    return Optimizer(right.init, wrong, "wrong")


def without_bias_correction() -> Optimizer:
    """Adam as its averages start, from 0."""
    right = adam(0.1)

    def update(gradient, state, params):
        _, state = right.update(gradient, state, params)
        return jax.tree.map(lambda v, G: -0.1 * v / (jnp.sqrt(G) + 1e-8), state.v, state.G), state

    return Optimizer(right.init, update, "wrong")


def zero_by_zero() -> Optimizer:
    """RMSProp without ε."""
    right = rmsprop(0.1)

    def update(gradient, state, params):
        _, state = right.update(gradient, state, params)
        return jax.tree.map(lambda g, G: -0.1 * g / jnp.sqrt(G), gradient, state.G), state

    return Optimizer(right.init, update, "wrong")


def swapped(updates: Any, state: Any, gradient: Any) -> Any:
    (u, v), tree = jax.tree.flatten(updates)
    return jax.tree.unflatten(tree, [u * 0 + jnp.sum(v), v * 0 + jnp.sum(u)]), state


steps_taken = itertools.count(1)
OPTIMIZER_FAULTS: dict[str, tuple[Optimizer, str, str]] = {
    "state drifts in dtype": (
        with_update(lambda u, s, _: (u, s._replace(k=s.k.astype(jnp.int8)))),
        "state keeps its shapes and dtypes",
        "state.k is int8[], expected as before the step, int32[]",
    ),
    "float32 updates": (
        with_update(lambda u, s, _: (jax.tree.map(lambda leaf: leaf.astype(jnp.float32), u), s)),
        "keeps the dtype of the params",
        "for bfloat16 params",
    ),
    "no bias correction": (without_bias_correction(), "steps equal the reference", "after step 1"),
    "zero by zero": (zero_by_zero(), "a zero gradient gives finite updates", "2 of 2 numbers"),
    "counts in Python": (
        with_update(lambda u, s, _: (jax.tree.map(lambda leaf: leaf / next(steps_taken), u), s)),
        "update is pure",
        "outside the state",
    ),
    "leaves mixed up": (with_update(swapped), "leaves are independent", "gradient['b'] moves other leaves"),
    "goes up": (with_update(lambda u, s, _: (times(-1, u), s)), "goes down a paraboloid", "look at the sign"),
    "never moves": (with_update(lambda u, s, _: (times(0, u), s)), "goes down a paraboloid", "nothing moves"),
    "NaN later on": (
        with_update(lambda u, s, _: (jax.tree.map(lambda leaf: jnp.where(s.k >= 3, jnp.nan, leaf), u), s)),
        "path is finite",
        "NaN or infinite at params['b'] after step 3",
    ),
    "twice in float32": (
        with_update(lambda u, s, g: (jax.tree.map(lambda leaf: leaf * (1 + (leaf.dtype == jnp.float32)), u), s)),
        "right in float32",
        "off by 1.0e+00 at updates of step 1: ['b']",
    ),
    "up in float32": (
        with_update(lambda u, s, g: (jax.tree.map(lambda leaf: leaf * (1 - 2 * (leaf.dtype == jnp.float32)), u), s)),
        "right in float32",
        "off by 2.0e+00 at updates of step 1",
    ),
    "NaN in bfloat16": (
        with_update(
            lambda u, s, g: (jax.tree.map(lambda leaf: jnp.nan * leaf if leaf.dtype == jnp.bfloat16 else leaf, u), s)
        ),
        "right in bfloat16",
        "2 of 2 numbers are NaN or infinite at updates of step 1: ['b']",
    ),
    "forgets in float16": (
        with_update(lambda u, s, g: (u, s._replace(v=times(1 - 0.5 * (u["b"].dtype == jnp.float16), s.v)))),
        "right in float16",
        "off by 5.0e-01 at state of step 1: .v['b']",
    ),
    "a counter of Python's": (
        Optimizer(lambda params: 0, lambda g, state, params=None: (g, state + 1), "wrong"),
        "init gives arrays",
        "no array but int",
    ),
    "asks a tracer": (
        with_update(lambda u, s, g: (jax.tree.map(lambda leaf: leaf * bool(leaf.sum() > 0), u), s)),
        "update runs under jit",
        "TracerBoolConversionError",
    ),
}


@pytest.mark.parametrize(("optimizer", "law", "word"), OPTIMIZER_FAULTS.values(), ids=OPTIMIZER_FAULTS.keys())
def test_a_planted_fault_of_an_optimizer_breaks_the_law_of_its_name(optimizer, law, word):
    laws = check_optimizer(optimizer, PARAMS, reference=adam_loop, steps=3)
    assert law in broken(laws), laws
    assert word in laws.law(law).finding
    if law == "state keeps its shapes and dtypes":
        assert laws.law("runs in lax.scan").verdict == "broken"


def test_the_reference_names_the_first_step_and_leaf_that_are_off():
    def loop(w, gradients):
        for k, g in enumerate(gradients):
            w = {name: w[name] - 0.1 * g[name] * (1 + 1e-6 * (k == 2 and name == "b")) for name in w}
            yield w

    finding = check_optimizer(sgd(0.1), PARAMS, reference=loop, steps=4).law("steps equal the reference").finding
    assert "at params['b'] after step 3" in finding
    laws = check_optimizer(sgd(0.1), PARAMS, reference=lambda w, gradients: [w], steps=4)
    assert "each of the 4 steps, got 1" in laws.law("steps equal the reference").finding


# The report


FOUND = Laws("it()", (Law("a", "holds", "1"), Law("bc", "broken", "by 0.5"), Law("d", "not asked", "no")))


def test_the_report_prints_and_raises_and_becomes_plain_data():
    table = "name  verdict    finding\n────  ─────────  ───────\na     holds      1\nbc    broken     by 0.5"
    assert repr(FOUND) == f"it(): 1 holds, 1 broken, 1 not asked\n\n{table}\nd     not asked  no"
    with pytest.raises(AssertionError, match=r"bc +broken +by 0.5") as raised:
        FOUND.raise_if_failed()
    assert "not asked  no" not in str(raised.value)
    assert json.loads(json.dumps(FOUND.to_dict())) == FOUND.to_dict()
    assert FOUND.to_dict()["laws"][1] == {"name": "bc", "verdict": "broken", "finding": "by 0.5"}
    assert not FOUND.passed
    Laws("it()", FOUND.rows[::2]).raise_if_failed()
    with pytest.raises(KeyError, match="none of the laws of it"):
        FOUND.law("e")


# Bad input


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((dense, X), TypeError, "Call the factory"),
        ((linear(2), X[:1]), ValueError, "at least 2 examples"),
        ((linear(2), X[0]), ValueError, "batch axis"),
        ((linear(2), X.astype(int)), TypeError, "expected floats"),
        ((linear(2), X * np.nan), ValueError, "finite x"),
    ],
)
def test_what_is_no_layer_or_no_batch(given, error, message):
    with pytest.raises(error, match=message):
        check_layer(*given)


def test_a_state_without_params():
    with pytest.raises(ValueError, match="state without params"):
        check_layer(linear(2), X, state=())
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: check_layer(linear(2), x).passed)(X)


@pytest.mark.parametrize(
    ("given", "options", "error", "message"),
    [
        ((adam, PARAMS), {}, TypeError, "Call the factory"),
        ((sgd(0.1), {"w": np.arange(3)}), {}, TypeError, "params of floats"),
        ((sgd(0.1), ()), {}, ValueError, "at least one array"),
        ((sgd(0.1), PARAMS), {"steps": 1}, ValueError, "steps must be a whole number >= 2"),
        ((sgd(0.1), PARAMS), {"reference": 3}, TypeError, "reference must be a function"),
        ((sgd(0.1), PARAMS), {"tolerance": -1.0}, ValueError, "tolerance"),
    ],
)
def test_what_is_no_optimizer(given, options, error, message):
    with pytest.raises(error, match=message):
        check_optimizer(*given, **options)
