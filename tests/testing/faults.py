"""Layers and optimizers that are wrong in one way, each with the law that must find out."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn import (
    Layer,
    Optimizer,
    activate,
    adam,
    batch_norm,
    columns,
    dense,
    dropout,
    from_function,
    inverted_dropout,
    linear,
    mixed_precision,
    momentum,
    prelu,
    remat,
    repeat,
    residual,
    rmsprop,
    serial,
    tanh,
)
from fnn.core import Modes
from fnn.nn import intercept

X = np.random.default_rng(0).standard_normal((3, 2))
WIDE = np.random.default_rng(1).standard_normal((3, 4))
PARAMS = {"w": np.arange(4.0).reshape(2, 2), "b": np.array([1.0, -2.0])}

ERROR, GRADIENT = "error equals jax.vjp", "gradient equals jax.vjp"
CURVE_W, CURVE_X = "curve at the params equals jax.hessian", "curve at x equals jax.hessian"
READINGS = ("per_example", "squared_norm", "gram", "second_moment", "variance", "contributions")


class Fault(NamedTuple):
    """A faulty layer, the law it breaks, a word of the finding, and the x to see it at."""

    layer: Layer
    law: str
    word: str = ""
    x: Any = X


# What is changed in a layer


def with_backward(change: Any, layer: Layer | None = None) -> Layer:
    """A layer whose (error, readings) are changed: change(error, readings, params, tape, error at y, read)."""

    def backward(call, params, tape, error, read):
        return change(*call(params, tape, error, read), params, tape, error, read)

    return intercept(layer or dense(3, tanh), backward=backward)._replace(curve=None)


def with_reading(layer: Layer, name: str, change: Any) -> Layer:
    """A layer whose reading of one parameter is changed: change(reading, tape, error)."""
    return with_backward(lambda e, r, params, tape, error, _: (e, r | {name: change(r[name], tape, error)}), layer)


def with_error(layer: Layer, change: Any) -> Layer:
    """A layer whose error at the input is changed: change(error at the input, params, tape, error)."""
    return with_backward(lambda e, r, params, tape, error, _: (change(e, params, tape, error), r), layer)


def with_forward(change: Any, layer: Layer | None = None) -> Layer:
    """A layer whose (y, state, tape) are changed."""
    hook = lambda call, *given: change(*call(*given))  # noqa: E731
    return intercept(layer or dense(3, tanh), forward=hook)._replace(curve=None)


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


def without_bend(layer: Layer) -> Layer:
    """Second derivatives without σ''."""

    def curve(call, params, tape, error, c, read):
        _, below, readings = call(params, tape, jnp.zeros_like(error), c, read)
        return layer.backward(params, tape, error, read)[0], below, readings

    return intercept(layer, curve=curve)


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


def with_curve(change: Any, layer: Layer | None = None) -> Layer:
    """A layer whose (curvature, readings) are changed: change(curvature, readings, mode, read)."""

    def curve(call, params, tape, error, c, read):
        through, below, readings = call(params, tape, error, c, read)
        return through, *change(below, readings, "one pass" if c.ndim == 2 else "exact", read)

    return intercept(layer or dense(3, tanh), curve=curve)


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

    def forward(call, params, state, x, key):
        y, after, tape = call(params, state, x, key)
        return y, after._replace(**{name: getattr(state, name) for name in names}), tape

    return intercept(batch_norm(), forward=forward)


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
    return with_curve(lambda c, r, mode, read: (change(c) if mode == "exact" else c, r), activate(tanh))


def drawn(factor: float = 1.0) -> Layer:
    """Noise in proportion to x, drawn in the dtype of x, whose backward has a factor in float32."""
    right = noisy_layer()

    def backward(params, noise, error, read):
        return error * noise * (factor if error.dtype == jnp.float32 else 1.0), ()

    return right._replace(label="drawn", backward=backward, modes=Modes(activate(fnn.identity)))


def twice_in_float32(layer: Layer) -> Layer:
    return with_backward(lambda e, r, p, t, error, _: (e * (1 + (error.dtype == jnp.float32)), r), layer)


def scaled_by_state(is_right: bool) -> Layer:
    """y = x(1 + m) for a running mean m, which starts at 0."""
    forward = lambda p, m, x, key: (x * (1 + m)[None, :], 0.9 * m + 0.1 * jnp.mean(x, axis=0), m)  # noqa: E731
    backward = lambda p, m, error, read: (error * (1 + m * float(is_right))[None, :], ())  # noqa: E731
    apply = lambda p, m, x: x * (1 + m)[None, :]  # noqa: E731
    return Layer("scaled", lambda key, x: ((), jnp.zeros(x.shape[1], x.dtype)), apply, forward, backward)


def not_through_z(layer: Layer) -> Layer:
    """A dense layer that takes the error at its output for the error at S."""

    def wrong(params, tape, error, read):
        return error @ params["w"].T, {"w": read.outer(tape.x, error), "b": read.rows(error)}

    return layer._replace(backward=wrong)


def redrawing(p: float) -> Layer:
    """A dropout that masks the error by another draw than the output."""

    def forward(call, params, state, x, key):
        y, state, _ = call(params, state, x, key)
        return y, state, call(params, state, x, jax.random.fold_in(key, 1))[2]

    return intercept(dropout(p), forward=forward)


def remat_with_another_key(layer: Layer) -> Layer:
    """A remat that runs its layer once more with another key."""

    def backward(call, params, tape, error, read):
        return call(params, tape._replace(key=jax.random.fold_in(tape.key, 1)), error, read)

    return intercept(remat(layer), backward=backward)


def batch_norm_that_ignores(statistic: str) -> Layer:
    """A batch_norm whose error does not flow through μ, or not through σ²."""

    def wrong(params, tape, error, read):
        through_mean = jnp.mean(error, axis=0, keepdims=True)
        through_variance = tape.x_hat * jnp.mean(error * tape.x_hat, axis=0, keepdims=True)
        ignored = {"mean": through_mean, "variance": through_variance}[statistic]
        scale = (params["gamma"] / tape.deviation)[None, :]
        readings = {"gamma": read.rows(error * tape.x_hat), "beta": read.rows(error)}
        return scale * (error - through_mean - through_variance + ignored), readings

    return batch_norm()._replace(backward=wrong)


def swapped_columns() -> Layer:
    """Columns of equal widths whose errors go to each other's part."""

    def backward(call, params, tape, error, read):
        return call(params, tape, jnp.concatenate([error[:, 3:], error[:, :3]], axis=1), read)

    return intercept(columns((2, dense(3, tanh)), (2, dense(3, tanh))), backward=backward)


def repeat_forward_in_backward(layer: Layer, depth: int) -> Layer:
    """A repeat that walks its layers from the first to the last in its backward pass."""

    def wrong(params, tape, error, read):
        return jax.lax.scan(lambda e, part: layer.backward(*part, e, read), error, (params, tape))

    return repeat(layer, depth)._replace(backward=wrong)


def serial_forward_in_backward(*layers: Layer) -> Layer:
    def wrong(params, tape, error, read):
        readings = []
        for layer, p, t in zip(layers, params, tape, strict=True):
            error, reading = layer.backward(p, t, error, read)
            readings.append(reading)
        return error, tuple(readings)

    return serial(*layers)._replace(backward=wrong)


@jax.custom_batching.custom_vmap
def alone(error: Any) -> Any:
    """The error, which is 0 under vmap."""
    return error


alone.def_vmap(lambda size, is_batched, error: (0 * error, is_batched[0]))


def told_tape() -> Layer:
    """A layer with a word on its tape, which no scan can carry."""
    forward = lambda call, *given: (lambda y, state, tape: (y, state, (tape, "dense")))(*call(*given))  # noqa: E731
    backward = lambda call, params, tape, *rest: call(params, tape[0], *rest)  # noqa: E731
    return intercept(dense(2, tanh), forward=forward, backward=backward)._replace(curve=None)


def misread(name: str) -> Layer:
    """A dense layer that doubles one reading of its bias."""
    return with_backward(lambda e, r, p, t, error, read: (e, r | {"b": r["b"] * (1 + (str(read) == name))}))


def twice_through(call: Any, params: Any, tape: Any, error: Any, c: Any, read: Any) -> Any:
    """A curve that doubles the error."""
    through, below, readings = call(params, tape, error, c, read)
    return 2 * through, below, readings


def applied_wrong(layer: Layer) -> Layer:
    """A layer in whose inference mode the error has the wrong sign."""
    applied = fnn.inference_mode(layer)
    return layer._replace(modes=Modes(with_error(applied, lambda x, *_: -x)))


def twice_in_float16() -> Layer:
    return with_backward(lambda e, r, p, t, error, _: (2 * e if error.dtype == jnp.float16 else e, r), prelu())


def off_by_units(dtype: Any) -> Layer:
    """A dense layer whose backward pass is off by sixteen units in the last place of a dtype."""
    off = 1 + 16 * float(jnp.finfo(dtype).eps)
    return with_backward(lambda e, r, *_: (e * off, times(off, r)))


def coarse(error: Any) -> Any:
    return error.astype(jnp.bfloat16).astype(error.dtype)


KINKS = {
    "maximum": (lambda x: jnp.maximum(x, 0), lambda x: (x > 0).astype(x.dtype)),
    "clip": (lambda x: jnp.clip(x, -1, 1), lambda x: (jnp.abs(x) < 1).astype(x.dtype)),
    "relu6": (lambda x: jnp.clip(x, 0, 6), lambda x: ((x > 0) & (x < 6)).astype(x.dtype)),
    "abs": (jnp.abs, jnp.sign),
    "where": (lambda x: jnp.where(x > 0, x, 0.1 * x), lambda x: jnp.where(x >= 0, 1, 0.1).astype(x.dtype)),
}

UPPER = jnp.triu(jnp.ones((2, 2)))[None]
SQUARE = dense(4, tanh)

OF_GRADIENT: dict[str, Layer] = {
    "weights off by a thousandth": with_reading(dense(3, tanh), "w", lambda w, t, e: 1.001 * w),
    "weights off by 1e-9": with_reading(dense(3, tanh), "w", lambda w, t, e: (1 + 1e-9) * w),
    "weights transposed": with_reading(SQUARE, "w", lambda w, t, e: w.T),
    "weights of the mean": with_reading(linear(3), "w", lambda w, t, e: w / e.shape[0]),
    "bias of the first example": with_reading(linear(3), "b", lambda b, t, e: e[0]),
    "bias of the mean": with_reading(linear(3), "b", lambda b, t, e: e.mean(axis=0)),
    "bias that counts examples": with_reading(linear(3), "b", lambda b, t, e: jnp.full_like(b, e.shape[0])),
    "bias not through z": with_reading(dense(3, tanh), "b", lambda b, t, e: e.sum(axis=0)),
    "γ and β exchanged": with_backward(lambda e, r, *_: (e, {"gamma": r["beta"], "beta": r["gamma"]}), batch_norm()),
    "α not trained": with_reading(prelu(), "alpha", lambda a, t, e: jnp.zeros_like(a)),
    "α of the wrong sign": with_reading(prelu(), "alpha", lambda a, t, e: -a),
    "α from the positive side": with_reading(
        prelu(), "alpha", lambda a, t, e: jnp.sum(e * jnp.maximum(t.x, 0), axis=0)
    ),
}

OF_ERROR: dict[str, Layer] = {
    "error without the transpose": with_error(SQUARE, lambda x, p, t, e: (e * t.z) @ p["w"]),
    "error off by a thousandth": with_error(linear(3), lambda x, p, t, e: 1.001 * x),
    "error lost": with_error(linear(3), lambda x, p, t, e: jnp.zeros_like(x)),
    "nothing through z": not_through_z(dense(3, tanh)),
    "error not through z": with_error(dense(3, tanh), lambda x, p, t, e: e @ p["w"].T),
    "z at y instead of S": dense(3, tanh._replace(slope=lambda S: tanh.slope(tanh.value(S)))),
    "z without the square": activate(tanh._replace(slope=lambda S: 1 - jnp.tanh(S))),
    "mask forgotten": with_error(dropout(0.4), lambda x, p, t, e: e),
    "mask drawn again": redrawing(0.4),
    "mask not inverted": with_error(inverted_dropout(0.4), lambda x, p, t, e: jnp.where(t.mask > 0, e, 0)),
    "error not through μ": batch_norm_that_ignores("mean"),
    "error not through σ²": batch_norm_that_ignores("variance"),
    "shortcut forgotten": with_error(residual(SQUARE), lambda x, p, t, e: x - e),
    "columns swapped": swapped_columns(),
    "repeat not reversed": repeat_forward_in_backward(SQUARE, 3),
    "serial not reversed": serial_forward_in_backward(SQUARE, SQUARE),
    "remat of another draw": remat_with_another_key(serial(dropout(0.5), linear(3))),
}

FAULTS: dict[str, Fault] = {
    "gradient off by 1e-6": Fault(
        with_backward(lambda e, r, *_: (e, r | {"w": r["w"] * (1 + 1e-6)})), GRADIENT, "gradient['w']"
    ),
    "missing transpose": Fault(
        with_backward(lambda e, r, params, tape, error, _: ((error * tape.z) @ params["w"], r), dense(2, tanh)),
        ERROR,
        "transpose",
    ),
    "sign of the bias": Fault(
        with_backward(lambda e, r, *_: (e, r | {"b": -r["b"]})), GRADIENT, "2.0e+00 at gradient['b']"
    ),
    "mean for a sum": Fault(
        with_backward(lambda e, r, p, t, error, read: (e, jax.tree.map(lambda leaf: leaf / 3, r))),
        GRADIENT,
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
    "curve without σ''": Fault(without_bend(dense(3, tanh)), CURVE_W, "σ''"),
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
        CURVE_W,
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
        with_matrix_curve(lambda c: c * (0.5 + 0.5 * jnp.eye(2))[None]), CURVE_X, "∂²L/∂x²"
    ),
    "c unsymmetric": Fault(with_matrix_curve(lambda c: c * UPPER), CURVE_X, "∂²L/∂x²"),
    "c a diagonal": Fault(with_matrix_curve(lambda c: c * jnp.eye(2)[None]), CURVE_X, "∂²L/∂x²"),
    "frozen statistics": Fault(
        frozen("mean", "variance", "weight"), "the state is learned", "state.mean, state.variance"
    ),
    "frozen variance": Fault(frozen("variance"), "the state is learned", "state.variance stays as it is"),
    "noise without a second mode": Fault(noisy_layer(), "draws in training only", "modes=Modes(inference="),
    "couples to the first": Fault(by_first(), "examples are independent", "example[2]: coupled, so backward must"),
    "params of integers": Fault(fixed_mask(), "init gives arrays", "params must be floats, and params['m'] is int32"),
    "couples in silence": Fault(centred(), "examples are independent", "must raise fnn.core.Unsupported"),
    "needs two examples": Fault(
        with_forward(lambda y, s, t: (jax.lax.slice(y, (0, 0), (3, 3)), s, t)), "takes a batch of one", "Error"
    ),
    "error of another width": Fault(with_error(linear(3), lambda x, *_: x[:, :-1]), "error has the shape of x", x=WIDE),
    "gradient without the bias": Fault(
        with_backward(lambda e, r, *_: (e, {"w": r["w"]})), "gradient has the shapes of the params", "structure"
    ),
    "forward raises": Fault(linear(3)._replace(forward=raising), "forward runs under jit", "RuntimeError"),
    "impure apply": Fault(
        intercept(linear(3))._replace(apply=lambda p, s, x: linear(3).apply(p, s, x) * next(counter)), "apply is pure"
    ),
    "NaN in apply": Fault(
        linear(3)._replace(apply=lambda p, s, x: linear(3).apply(p, s, x) * jnp.nan), "apply is finite", "9 of 9"
    ),
    "impure backward": Fault(with_backward(lambda e, r, *_: (e * next(counter), r)), "backward is pure"),
    "inference with the wrong sign": Fault(applied_wrong(batch_norm()), "inference_mode(layer) equals jax.vjp"),
    "inference with the wrong sign, within": Fault(
        serial(linear(2), applied_wrong(batch_norm())), "inference_mode(layer) equals jax.vjp"
    ),
    "nothing under vmap": Fault(with_backward(lambda e, r, *_: (alone(e), r)), "runs under vmap"),
    "rounds the error": Fault(
        intercept(dense(3, tanh), backward=lambda call, p, t, e, read: call(p, t, coarse(e), read)),
        "runs inside serial",
    ),
    "a word on the tape": Fault(told_tape(), "runs inside repeat", "Error"),
    "curve doubles the error": Fault(intercept(dense(3, tanh), curve=twice_through), "curve gives the error"),
    **{f"misreads {name}": Fault(misread(name), f"reading {name}", "['b']") for name in READINGS},
    "squared norm without the bias": Fault(
        with_backward(lambda e, r, p, t, error, read: (e, r if read.linear else r | {"b": 0 * r["b"]})),
        "reading squared_norm",
        "['b']",
    ),
    "stumbles over a reading": Fault(
        with_backward(
            lambda e, r, p, t, error, read: (e, r if read.linear else r | {"b": jnp.broadcast_to(r["b"], (7,))})
        ),
        "reading gram",
        "ValueError",
    ),
    # What draws, what has a state, what saturates, what lies on a kink, what rounds
    "draws, half as much again in float32": Fault(drawn(1.5), "right in float32"),
    "draws, nothing in float32": Fault(drawn(0.0), "right in float32"),
    "beside a dropout": Fault(serial(twice_in_float32(dense(3, tanh)), inverted_dropout(0.5)), "right in float32"),
    "before noise": Fault(serial(twice_in_float32(dense(3, tanh)), drawn()), "right in float32"),
    "after noise": Fault(serial(drawn(), twice_in_float32(dense(3, tanh))), "right in float32"),
    "draws, twice the y of apply": Fault(
        drawn()._replace(apply=lambda p, s, x: x * (1 + (x.dtype == jnp.bfloat16))), "right in bfloat16", "y of apply"
    ),
    "a state that starts at 0": Fault(scaled_by_state(False), ERROR),
    **{f"twice in float16, at {s}": Fault(twice_in_float16(), "right in float16", x=s * X) for s in (1e-6, 1e-2, 1.0)},
    "saturated, slope of 1": Fault(dense(3, tanh._replace(slope=lambda S: jnp.ones_like(S))), ERROR, x=1e4 * X),
    "saturated, leaks a billionth": Fault(
        with_error(dense(3, tanh), lambda e, params, tape, error: e + 1e-9 * error @ params["w"].T), ERROR, x=1e4 * X
    ),
    "saturated, bias beside the slope": Fault(
        with_backward(lambda e, r, p, t, error, read: (e, r | {"b": 1e-9 * read.rows(error)})), GRADIENT, x=1e4 * X
    ),
    "twice beside a kink": Fault(
        elementwise(KINKS["maximum"][0], lambda x: 2 * (x > 0).astype(x.dtype)), ERROR, "off by 1.0e+00", jnp.eye(3)
    ),
    "seven at a kink": Fault(
        elementwise(KINKS["maximum"][0], lambda x: jnp.where(x == 0, 7, (x > 0).astype(x.dtype))),
        ERROR,
        "x lies on a kink of forward, and backward is not between",
        jnp.eye(3),
    ),
    **{
        f"{law} within {dtype}": Fault(mixed_precision(off_by_units(dtype), dtype), law)
        for dtype in ("bfloat16", "float16", "float32")
        for law in (ERROR, GRADIENT)
    },
}

FAULTS |= {name: Fault(layer, GRADIENT, x=WIDE) for name, layer in OF_GRADIENT.items()}
FAULTS |= {name: Fault(layer, ERROR, x=WIDE) for name, layer in OF_ERROR.items()}


# Optimizers


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


def shaking() -> Optimizer:
    """Gradient descent with noise, whose key is in the state."""

    def update(gradient, key, params=None):
        key, own = jax.random.split(key)
        noisy = lambda g: -0.1 * (g + 1e-3 * jax.random.normal(own, g.shape, g.dtype))  # noqa: E731
        return jax.tree.map(noisy, gradient), key

    return Optimizer(lambda params: jax.random.key(3), update, "shaking")


def adam_loop(w, gradients):
    """Adam as the slide has it, leaf by leaf."""
    leaves, tree = jax.tree.flatten(w)
    v, G = [0.0] * len(leaves), [0.0] * len(leaves)
    for k, gradient in enumerate(gradients, 1):
        for i, g in enumerate(jax.tree.leaves(gradient)):
            v[i], G[i] = 0.9 * v[i] + 0.1 * g, 0.999 * G[i] + 0.001 * g**2
            leaves[i] = leaves[i] - 0.1 * (v[i] / (1 - 0.9**k)) / (np.sqrt(G[i] / (1 - 0.999**k)) + 1e-8)
        yield jax.tree.unflatten(tree, leaves)


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
    "init of its own": (
        shaking()._replace(init=lambda params: jax.random.key(next(counter))),
        "init is pure",
        "outside the state",
    ),
    "updates of another shape": (
        with_update(lambda u, s, _: (jax.tree.map(lambda leaf: leaf[None], u), s)),
        "updates have the shapes of the params",
        "expected as the params",
    ),
    "nothing under vmap": (
        with_update(lambda u, s, _: (jax.tree.map(alone, u), s)),
        "runs under vmap",
        "off by 1.0e+00",
    ),
    "no scan carries it": (
        with_update(lambda u, s, _: (u, s._replace(k=s.k.astype(jnp.int8)))),
        "runs in lax.scan",
        "Error",
    ),
    "params by name": (
        with_update(lambda u, s, g: ({"w": u["w"], "b": u["b"]}, s)),
        "runs on one flat vector",
        "Error",
    ),
}
