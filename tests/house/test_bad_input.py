"""Every wrong call raises at trace time and says what was expected, what came and what to do.

A row is a call as a user would write it, over the names of `fnn` and of `GIVEN`; the error; and fragments of its
message, in any order. `python tests/house/test_bad_input.py` prints the calls with their messages.

To add a row, add it to a list below: `Wrong("name of the fault", "call(x)", ValueError, ["expected", "came", "do"])`.
A fault in a *value* (a label, a NaN) can be seen in concrete arrays only and takes `value=True`; every other row must
raise the same inside `jax.jit`, where the arrays are tracers.
"""

import re
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import fnn
from fnn.core import NeedsMoreExamples, Unsupported


class Wrong(NamedTuple):
    """One wrong call."""

    id: str
    call: str
    error: type[Exception]
    fragments: list[str]
    value: bool = False


# Examples and targets

DATA = [
    Wrong(
        "one example without a batch axis",
        "apply(x[0])",
        ValueError,
        ["dense(5, tanh)", "[n, …, features]", "(3,)", "x[None, :]"],
    ),
    Wrong("images not flattened", "apply(x[:, :, None])", ValueError, ["for 3 features", "got 1", "(4, 3, 1)"]),
    Wrong(
        "outputs at positions", "gradients((x[:, None], y))", ValueError, ["[n, M]", "(4, 1,", "each_position(loss)"]
    ),
    Wrong("x of another width", "apply(x[:, :2])", ValueError, ["for 3 features", "got 2", "(4, 2)", "Initialise"]),
    Wrong("integer x", "apply(integers)", TypeError, ["expected floats", "int32", "x.astype(jnp.float32)"]),
    Wrong(
        "x of another precision", "apply(half)", TypeError, ["float32 parameters", "bfloat16", "x.astype(jnp.float32)"]
    ),
    Wrong("integer x to init", "net.init(key, integers)", TypeError, ["expected floats", "int32", "astype"]),
    Wrong(
        "shape for x to init",
        "net.init(key, jax.ShapeDtypeStruct((3,), x.dtype))",
        ValueError,
        ["[n, …, features]", "(3,)"],
    ),
    Wrong("batch is one array", "gradients(x)", TypeError, ["pair (x, y)", "got"]),
    Wrong("batch of four", "gradients((x, y, y, y))", TypeError, ["pair (x, y)", "triple (x, y, weight)", "4 parts"]),
    Wrong("batch is empty", "gradients((x[:0], y[:0]))", ValueError, ["at least one", "(0, 3)", "(0, 2)"]),
    Wrong("batch does not pair", "gradients((x, y[:3]))", ValueError, ["equally many", "(4, 3)", "(3, 2)"]),
    Wrong(
        "batch norm of one example", "forward(normed, x[:1])", NeedsMoreExamples, ["at least 2", "got 1", "net.apply"]
    ),
    Wrong("x as lists", "apply([[1.0, 2.0, 3.0]])", TypeError, ["dense(5, tanh)", "array", "list"]),
    Wrong(
        "batch of lists",
        "gradients(([[1.0, 2.0, 3.0]], [[1.0, 2.0]]))",
        TypeError,
        ["(x, y)", "arrays", "float for x[0][0]"],
    ),
]

# Losses

LOSSES = [
    Wrong(
        "label above the classes",
        "cross_entropy(x, labels + 1)",
        ValueError,
        ["0..2", "3 outputs", "got 1..3", "widen"],
        value=True,
    ),
    Wrong("label below zero", "cross_entropy(x, labels - 1)", ValueError, ["0..2", "got -1..1", "from 0"], value=True),
    Wrong(
        "one-hot for labels",
        "cross_entropy(x, jnp.eye(4, 3, dtype=bool))",
        TypeError,
        ["integer labels", "bool", "y.argmax(1)"],
    ),
    Wrong(
        "integer one-hot for labels", "cross_entropy(x, integers)", ValueError, ["(4,)", "got (4, 3)", "y.argmax(1)"]
    ),
    Wrong("labels as a column", "cross_entropy(x, labels[:, None])", ValueError, ["(4,)", "got (4, 1)", "y[:, 0]"]),
    Wrong(
        "float labels",
        "cross_entropy(x, labels.astype(x.dtype))",
        TypeError,
        ["integer labels", "float32", "astype(int)"],
    ),
    Wrong("fewer labels than examples", "cross_entropy(x, labels[:2])", ValueError, ["(4,)", "got (2,)"]),
    Wrong(
        "margin labels 0 and 1",
        "hinge_margin.value(one, (signs + 1) // 2)",
        ValueError,
        ["-1", "1", "got also [0]"],
        value=True,
    ),
    Wrong(
        "entropy labels -1 and 1",
        "binary_cross_entropy.value(one, signs)",
        ValueError,
        ["0 and 1", "got also [-1]", "(y + 1) / 2"],
        value=True,
    ),
    Wrong(
        "slope checks labels too", "hinge_margin.slope(one, 0 * signs)", ValueError, ["-1", "got also [0]"], value=True
    ),
    Wrong("y wider than the output", "gradients((x, x))", ValueError, ["squared", "(4, 2)", "got (4, 3)"]),
    Wrong("y [n] for two outputs", "gradients((x, y[:, 0]))", ValueError, ["squared", "(4, 2)", "got (4,)"]),
    Wrong("y [n, 2] for one output", "squared.value(one, y)", ValueError, ["(4, 1)", "(4,)", "got (4, 2)"]),
    Wrong("integer y for squared", "squared.value(x, integers)", TypeError, ["float32", "int32", "astype"]),
    Wrong("integer outputs", "squared.value(integers, integers)", ValueError, ["floats [n, M]", "int32"]),
    Wrong("outputs of one example", "squared.slope(x[0], x[0])", ValueError, ["[n, M]", "(3,)"]),
    Wrong(
        "plain function as loss",
        "objective(net, jnp.square)",
        TypeError,
        ["fnn Loss", "softmax_cross_entropy", "Loss(label,"],
    ),
    Wrong("loss and net swapped", "backprop(squared, net)", TypeError, ["backprop: expected layers", "got squared"]),
    Wrong("loss as a layer", "serial(squared)", TypeError, ["serial: expected layers", "got squared", "objective"]),
]

# Layers and combinators

LAYERS = [
    Wrong("width 0", "linear(0)", ValueError, ["width", "whole number >= 1", "got 0"]),
    Wrong("width 2.5", "dense(2.5, tanh)", TypeError, ["width", "whole number", "2.5"]),
    Wrong("width True", "linear(True)", ValueError, ["width", "whole number", "True"]),
    Wrong("arguments swapped", "dense(tanh, 10)", TypeError, ["width", "whole number", "got tanh"]),
    Wrong(
        "function as activation", "dense(10, jnp.tanh)", TypeError, ["fnn Activation", "fnn.tanh", "Activation(label,"]
    ),
    Wrong(
        "activation not called",
        "dense(10, leaky_relu)",
        TypeError,
        ["fnn Activation", "leaky_relu", "Activation(label,"],
    ),
    Wrong("loss as activation", "dense(10, squared)", TypeError, ["fnn Activation", "got squared"]),
    Wrong(
        "initializer not called",
        "linear(3, w=glorot_uniform).init(key, x)",
        TypeError,
        ["glorot_uniform", "initializer", "Call"],
    ),
    Wrong(
        "matrix initializer for biases",
        "linear(3, b=orthogonal()).init(key, x)",
        ValueError,
        ["(inputs, outputs)", "got (3,)"],
    ),
    Wrong(
        "fan-in of biases",
        "dense(3, tanh, b=uniform_fan_in()).init(key, x)",
        ValueError,
        ["got (3,)", "b=uniform(bound)"],
    ),
    Wrong("bound 0", "uniform(0.0)", ValueError, ["bound", "> 0", "got 0"]),
    Wrong("bias as a number", "linear(3, bias=0.5)", TypeError, ["bias must be True or False", "got 0.5"]),
    Wrong(
        "b without a bias",
        "dense(3, tanh, b=constant(0.1), bias=False)",
        ValueError,
        ["dense(3, tanh, b=constant(0.1), bias=False)", "no bias", "Leave out"],
    ),
    Wrong(
        "params with a bias for a layer without",
        "linear(2, bias=False).apply({'w': jnp.ones((3, 2)), 'b': jnp.ones(2)}, (), x)",
        ValueError,
        ["linear(2, bias=False): expected params {'w'}", "its own init"],
    ),
    Wrong("gain 0", "glorot_uniform(0)", ValueError, ["gain", "> 0", "got 0"]),
    Wrong("infinite constant", "constant(float('inf'))", ValueError, ["value", "finite", "got inf"]),
    Wrong("slope of leaky relu NaN", "leaky_relu(float('nan'))", ValueError, ["alpha", "finite", "got nan"]),
    Wrong(
        "factory not called",
        "serial(dense, tanh)",
        TypeError,
        ["serial: expected layers", "Call the factory", "dense(10, tanh)"],
    ),
    Wrong(
        "activation as layer", "serial(linear(3), tanh)", TypeError, ["expected layers", "got tanh", "activate(tanh)"]
    ),
    Wrong("function as layer", "serial(linear(3), jnp.sin)", TypeError, ["expected layers", "from_function"]),
    Wrong("list of layers", "serial([linear(3), linear(2)])", TypeError, ["expected layers", "linear(3)", "serial(*"]),
    Wrong(
        "params of a shorter net", "net.apply(params[:1], state, x)", ValueError, ["2 parts", "got 1", "its own init"]
    ),
    Wrong(
        "params of another net", "net.apply((params[1], params[0]), state, x)", ValueError, ["for 5 features", "got 3"]
    ),
    Wrong(
        "params of another kind of layer",
        "serial(batch_norm()).apply((params[0],), state[:1], x)",
        ValueError,
        ["batch_norm()", "gamma", "its own init"],
    ),
    Wrong(
        "no params for a layer of weights",
        "linear(3).apply((), (), x)",
        ValueError,
        ["linear(3)", "params", "its own init"],
    ),
    Wrong("state of another net", "net.apply(params, (), x)", ValueError, ["2 parts", "state", "its own init"]),
    Wrong(
        "error of another shape",
        "net.backward(params, tape, x, gradient)",
        ValueError,
        ["linear(2)", "(4, 2)", "got (4, 3)", "∂L/∂y"],
    ),
    Wrong("reading by name", "backprop(net, squared, 'gradient')", TypeError, ["Reading", "'gradient'"]),
    Wrong(
        "examples apart through batch norm",
        "backprop(serial(net, batch_norm()), squared, per_example)(*normed, (x, y), key)",
        Unsupported,
        ["batch_norm()", "per_example", "no meaning", "gradient"],
    ),
    Wrong("dropout 1", "dropout(1)", ValueError, ["probability of dropping", "[0, 1)", "got 1"]),
    Wrong("dropout -0.1", "inverted_dropout(-0.1)", ValueError, ["probability of dropping", "[0, 1)", "got -0.1"]),
    Wrong("dropout of many p", "dropout(jnp.array([0.1, 0.2]))", ValueError, ["one number", "(2,)", "jax.vmap"]),
    Wrong("dropout NaN", "dropout(float('nan'))", ValueError, ["[0, 1)", "got nan"]),
    Wrong("dropout of a word", "dropout('half')", TypeError, ["number", "'half'"]),
    Wrong("batch norm epsilon 0", "batch_norm(epsilon=0)", ValueError, ["epsilon", "> 0", "got 0"]),
    Wrong("batch norm rate 0", "batch_norm(rate=0)", ValueError, ["rate", "(0, 1]", "got 0"]),
    Wrong(
        "columns do not add up",
        "columns((1, linear(2)), (1, linear(2))).init(key, x)",
        ValueError,
        ["columns", "2 features", "got 3"],
    ),
    Wrong(
        "columns without widths", "columns(linear(2))", TypeError, ["pairs (number of features, layer)", "linear(2)"]
    ),
    Wrong("columns of activations", "columns((3, tanh))", TypeError, ["columns: expected layers", "activate(tanh)"]),
    Wrong("columns of nothing", "columns()", ValueError, ["at least one pair", "none"]),
    Wrong("branches of an activation", "branches(linear(2), tanh)", TypeError, ["branches", "layer", "tanh"]),
    Wrong(
        "product of different widths",
        "product(linear(2), linear(3)).init(key, x)",
        ValueError,
        ["product(linear(2), linear(3))", "same shape", "same number of neurons"],
    ),
    Wrong(
        "tied layers of other widths",
        "tied(serial(linear(2), linear(3)), {1: 0}).init(key, x)",
        ValueError,
        ["tied", "the same weights at 1 as at its source 0", "same widths"],
    ),
    Wrong(
        "residual changes the width",
        "residual(linear(2)).init(key, x)",
        ValueError,
        ["keeps the shape", "(4, 3)", "(4, 2)", "3 wide"],
    ),
    Wrong(
        "repeat changes the width",
        "repeat(linear(2), 3).init(key, x)",
        ValueError,
        ["keeps the shape", "(4, 3)", "(4, 2)", "3 wide"],
    ),
    Wrong("repeat 0", "repeat(linear(3), 0)", ValueError, ["depth", ">= 1", "got 0"]),
    Wrong("repeat 2.0", "repeat(linear(3), 2.0)", TypeError, ["depth", "whole number", "2.0"]),
    Wrong("remat of a factory", "remat(dense)", TypeError, ["remat: expected layers", "Call the factory"]),
    Wrong("watch of an activation", "watch(tanh)", TypeError, ["watch: expected layers", "activate(tanh)"]),
    Wrong("function of nothing", "from_function(3, jnp.sin)", TypeError, ["init", "function", "got 3"]),
]

# Optimizers

OPTIMIZERS = [
    Wrong("eta negative", "sgd(-0.1)", ValueError, ["eta", ">= 0", "got -0.1"]),
    Wrong("eta NaN", "adam(float('nan'))", ValueError, ["eta", "finite", "got nan"]),
    Wrong("eta infinite", "momentum(float('inf'))", ValueError, ["eta", "finite", "got inf"]),
    Wrong("many eta", "sgd([0.1, 0.2])", ValueError, ["eta", "one number", "(2,)", "jax.vmap", "fnn.sweep"]),
    Wrong("eta in words", "adam('0.1')", TypeError, ["eta", "number", "'0.1'"]),
    Wrong("gamma 1", "momentum(0.1, gamma=1)", ValueError, ["gamma", "[0, 1)", "got 1"]),
    Wrong("alpha above 1", "rmsprop(0.1, alpha=1.5)", ValueError, ["alpha", "[0, 1)", "got 1.5"]),
    Wrong(
        "schedule for gamma", "nag(0.1, gamma=lambda k: 0.9)", TypeError, ["gamma", "function", "only a learning rate"]
    ),
    Wrong("epsilon 0", "adam(0.1, epsilon=0)", ValueError, ["epsilon", "> 0", "got 0"]),
    Wrong("theta 0", "clip_by_norm(0)", ValueError, ["theta", "> 0", "got 0"]),
    Wrong("lambda negative", "l2(-1e-4)", ValueError, ["strength", ">= 0", "got -0.0001"]),
    Wrong("optimizer not called", "chain(clip_by_norm(1.0), adam)", TypeError, [".init and .update", "adam(1e-3)"]),
    Wrong("masked optimizer not called", "masked(adam, weights_only)", TypeError, [".init and .update", "adam(1e-3)"]),
    Wrong(
        "mask of another structure",
        "masked(l2(0.1), {'w': True}).init(params)",
        ValueError,
        ["mask", "structure of the params", "weights_only"],
    ),
    Wrong(
        "mask of numbers",
        "masked(l2(0.1), jax.tree.map(lambda w: 1, params)).init(params)",
        TypeError,
        ["mask of bools", "got 1"],
    ),
    Wrong(
        "l2 without params",
        "l2(0.1).update(params, ())",
        ValueError,
        ["l2", "weights", "update(gradient, state, params)"],
    ),
    Wrong(
        "updates of another net", "apply_updates(params, params[:1])", ValueError, ["updates and params", "structure"]
    ),
    Wrong("updates of another width", "apply_updates(params, wider)", ValueError, ["updates[0]['b']", "(6,)", "(5,)"]),
    Wrong(
        "state of a chain to nag_weights",
        "nag_weights(params, chain(nag(0.1)).init(params))",
        TypeError,
        ["NAGState", "got tuple", "part"],
    ),
    Wrong(
        "state of a shorter chain",
        "chain(l2(0.1), sgd(0.1)).update(params, (), params)",
        ValueError,
        ["chain", "2 parts", "state", "got 0"],
    ),
    Wrong(
        "bare state to a chain",
        "chain(sgd(0.1)).update(params, sgd(0.1).init(params), params)",
        TypeError,
        ["chain", "SGDState"],
    ),
    Wrong(
        "state of another optimizer",
        "adam(0.1).update(params, sgd(0.1).init(params))",
        TypeError,
        ["AdamState", "got SGDState"],
    ),
    Wrong(
        "gradient of another net",
        "adam(0.1).update(params[:1], adam(0.1).init(params))",
        ValueError,
        ["gradient", "structure"],
    ),
    Wrong("integer params", "adam(0.1).init(integers)", TypeError, ["floats", "int32", "astype"]),
]

# Training

TRAINING = [
    Wrong("no data", "learn.init(key, (x[:0], y[:0]))", ValueError, ["at least one", "(0, 3)"]),
    Wrong("targets missing", "learn.init(key, (x, y[:2]))", ValueError, ["equally many", "(4, 3)", "(2, 2)"]),
    Wrong("NaN in x", "learn.init(key, (x.at[1, 2].set(jnp.nan), y))", ValueError, ["NaN", "1 of 4", "x"], value=True),
    Wrong("infinite y", "learn.init(key, (x, y / 0))", ValueError, ["infinity", "4 of 4", "y", "Clean"], value=True),
    Wrong(
        "batch larger than the data",
        "trainer(net, squared, sgd(0.1)).init(key, (x, y))",
        ValueError,
        ["batch_size 32", "4 examples", "with_replacement"],
    ),
    Wrong("batch of none", "trainer(net, squared, sgd(0.1), batch_size=0)", ValueError, ["batch_size", ">= 1", "0"]),
    Wrong("half a batch", "trainer(net, squared, sgd(0.1), batch_size=1.5)", TypeError, ["whole number", "1.5"]),
    Wrong("targets of another width", "learn.init(key, (x, one))", ValueError, ["squared", "(4, 2)", "(4, 1)"]),
    Wrong(
        "labels out of range in data",
        "trainer(net, softmax_cross_entropy, sgd(0.1), batch_size=2).init(key, (x, labels))",
        ValueError,
        ["0..1", "got 0..2"],
        value=True,
    ),
    Wrong("optimizer factory to trainer", "trainer(net, squared, adam)", TypeError, ["optimizers", "adam(1e-3)"]),
    Wrong("activation for a net", "trainer(tanh, squared, sgd(0.1))", TypeError, ["layers", "activate(tanh)"]),
    Wrong("function for a loss", "trainer(net, jnp.abs, sgd(0.1))", TypeError, ["Loss", "softmax_cross_entropy"]),
    Wrong(
        "running loss rate of zero", "trainer(net, squared, sgd(0.1), running_loss_rate=0)", ValueError, ["(0, 1]", "0"]
    ),
    Wrong("no steps", "train(learn, learn.init(key, (x, y)), (x, y), 0)", ValueError, ["steps", ">= 1"]),
    Wrong(
        "every that does not divide",
        "train(learn, learn.init(key, (x, y)), (x, y), 10, every=3)",
        ValueError,
        ["divide", "every=3", "steps=10", "steps=9"],
    ),
    Wrong(
        "nothing to stabilise",
        "train_until_stable(learn, learn.init(key, (x, y)), (x, y), max_steps=100)",
        ValueError,
        ["running_loss_tolerance", "weights_tolerance"],
    ),
    Wrong(
        "patience for nothing",
        "fit(learn, learn.init(key, (x, y)), (x, y), 10, patience=3)",
        ValueError,
        ["validate", "patience=3", "held-out"],
    ),
    Wrong("shuffling nothing", "permuted(key, 0, jnp.arange(3), 0)", ValueError, ["size", ">= 1"]),
    Wrong(
        "one pair to read ahead", "read_ahead((x, y))", TypeError, ["batches such as (x, y)", "one pair", "minibatches"]
    ),
    Wrong("number to read ahead", "read_ahead(3)", TypeError, ["iterable of batches", "got int", "generator"]),
    Wrong("stream not called", "read_ahead(jnp.stack)", TypeError, ["iterable of batches", "function", "Call it"]),
    Wrong("no batch ahead", "read_ahead([], ahead=0)", ValueError, ["ahead", "whole number >= 1", "got 0"]),
    Wrong("half a batch ahead", "read_ahead([], ahead=1.5)", TypeError, ["ahead", "whole number", "1.5"]),
    Wrong("array to read ahead", "read_ahead(x)", TypeError, ["batches such as (x, y)", "one array", "minibatches"]),
    Wrong("one key to sweep", "sweep(experiment, key)", ValueError, ["stack of keys", "jax.random.split"]),
    Wrong("number of seeds to sweep", "sweep(experiment, 32)", TypeError, ["jax.random.split(key, 32)", "int"]),
    Wrong("no keys to sweep", "sweep(experiment, keys[:0])", ValueError, ["at least one run"]),
    Wrong("one value to sweep", "sweep(experiment, keys, eta=0.1)", ValueError, ["eta=[0.1]", "partial"]),
    Wrong("no values to sweep", "sweep(experiment, keys, eta=[])", ValueError, ["at least one value of eta"]),
    Wrong("no devices to sweep on", "sweep(experiment, keys, devices=[])", ValueError, ["devices", "at least one"]),
    Wrong("no rows at once", "sweep(experiment, keys, at_once=0)", ValueError, ["at_once", ">= 1"]),
    Wrong("half a core", "use_cores(0)", ValueError, ["count", ">= 1"]),
    Wrong("devices after JAX has started", "use_cores(17)", RuntimeError, ["too late", "before the first computation"]),
    Wrong(
        "early stopping without patience",
        "train_with_early_stopping(learn, learn.init(key, (x, y)), (x, y), max_steps=10, every=5, "
        "validate=lambda s: jnp.zeros(()), patience=0)",
        ValueError,
        ["patience", ">= 1"],
    ),
    Wrong(
        "early stopping without a word of patience",
        "train_with_early_stopping(learn, learn.init(key, (x, y)), (x, y), max_steps=10, every=5, "
        "validate=lambda s: jnp.zeros(()), patience=None)",
        TypeError,
        ["patience", "whole number", "None"],
    ),
    Wrong(
        "early stopping without validation",
        "train_with_early_stopping(learn, learn.init(key, (x, y)), (x, y), max_steps=10, every=5, validate=None, "
        "patience=1)",
        TypeError,
        ["validate must be a function", "None"],
    ),
    Wrong(
        "early stopping by whole numbers",
        "train_with_early_stopping(learn, learn.init(key, (x, y)), (x, y), max_steps=10, every=5, "
        "validate=lambda s: jnp.zeros((), int), patience=1)",
        ValueError,
        ["validate: expected a function that returns a scalar float", "int"],
    ),
    Wrong(
        "early stopping that looks at odd times",
        "train_with_early_stopping(learn, learn.init(key, (x, y)), (x, y), max_steps=10, every=4, "
        "validate=lambda s: jnp.zeros(()), patience=1)",
        ValueError,
        ["divide", "every=4", "max_steps=10"],
    ),
    Wrong(
        "validation of each example",
        "train_with_early_stopping(learn, learn.init(key, (x, y)), (x, y), max_steps=4, every=4, "
        "validate=lambda s: jnp.zeros(3), patience=1)",
        ValueError,
        ["validate: expected a function that returns a scalar float", "Return its mean"],
    ),
    Wrong("precision of whole numbers", "mixed_precision(net, jnp.int8)", TypeError, ["dtype of floats", "bfloat16"]),
    Wrong("precision of nothing known", "mixed_precision(net, 'narrow')", TypeError, ["dtype of floats", "'narrow'"]),
    Wrong(
        "no precision",
        "mixed_precision(net, None)",
        TypeError,
        ["mixed_precision: expected a dtype of floats", "got None"],
    ),
    Wrong(
        "precision of no layer", "mixed_precision(squared, jnp.float32)", TypeError, ["expected layers", "got squared"]
    ),
    Wrong("words to sweep", "sweep(experiment, keys, name=['adam'])", TypeError, ["name", "numbers"]),
    Wrong(
        "comparison with another net's params",
        "compare_gradients(net, squared, wider[:1], state, (x, y), key)",
        ValueError,
        ["2 parts", "1 entries", "its own init"],
    ),
    Wrong(
        "comparison with a negative tolerance",
        "compare_gradients(net, squared, params, state, (x, y), key, tolerance=-1)",
        ValueError,
        ["tolerance", ">= 0", "-1"],
    ),
    Wrong(
        "comparison with a tolerance that is NaN",
        "compare_gradients(net, squared, params, state, (x, y), key, tolerance=float('nan'))",
        ValueError,
        ["tolerance", ">= 0", "nan"],
    ),
    Wrong(
        "comparison with a word for a tolerance",
        "compare_gradients(net, squared, params, state, (x, y), key, tolerance='x')",
        TypeError,
        ["tolerance", "number", "'x'"],
    ),
    Wrong(
        "comparison in no dtype",
        "compare_gradients(net, squared, params, state, (x, y), key, dtypes=('float31',))",
        ValueError,
        ["floating-point dtypes", "'float31'", "('bfloat16',)"],
    ),
    Wrong(
        "comparison in integers",
        "compare_gradients(net, squared, params, state, (x, y), key, dtypes=('int8',))",
        ValueError,
        ["floating-point dtypes", "'int8'", "('bfloat16',)"],
    ),
    Wrong(
        "comparison in one dtype, not a sequence",
        "compare_gradients(net, squared, params, state, (x, y), key, dtypes='float32')",
        ValueError,
        ["sequence", "'float32'", "('bfloat16',)"],
    ),
    Wrong(
        "comparison of two with one name",
        "compare_gradients(net, squared, params, state, (x, y), key, names=('a', 'a'))",
        ValueError,
        ["two different words", "('a', 'a')", "('manual', 'automatic')"],
    ),
    Wrong(
        "comparison under the quotients' name",
        "compare_gradients(net, squared, params, state, (x, y), key, names=('mine', 'differences'))",
        ValueError,
        ["two different words", "'differences'"],
    ),
    Wrong(
        "comparison inside jit",
        "jax.jit(lambda p: compare_gradients(net, squared, p, state, (x, y), key).worst)(params)",
        TypeError,
        ["compare_gradients", "traced", "outside of jit"],
    ),
    Wrong(
        "comparison with a gradient instead of its maker",
        "compare_gradients(net, squared, params, state, (x, y), key, manual=params)",
        TypeError,
        ["manual must be a function"],
    ),
    Wrong(
        "comparison with a function that gives the gradient alone",
        "compare_gradients(net, squared, params, state, (x, y), key, manual=lambda *_: lambda params, *_: params)",
        TypeError,
        ["manual must return ((value, state), tree)", "got PyTreeDef", "bare=True"],
    ),
]

TABLE = [*DATA, *LOSSES, *LAYERS, *OPTIMIZERS, *TRAINING]


@cache
def given() -> dict[str, Any]:
    """What the calls speak of besides `fnn`: a net 3-5-2, and examples and targets of every kind."""
    key, x, y = jax.random.key(0), jnp.ones((4, 3), jnp.float32), jnp.ones((4, 2), jnp.float32)
    net = fnn.serial(fnn.dense(5, fnn.tanh), fnn.linear(2))
    params, state = net.init(key, x)
    wider, _ = fnn.serial(fnn.dense(6, fnn.tanh), fnn.linear(2)).init(key, x)
    return {
        **{name: getattr(package, name) for package in (fnn.nn, fnn.optimizers, fnn) for name in package.__all__},
        "jax": jax,
        "jnp": jnp,
        "key": key,
        "x": x,
        "y": y,
        "one": y[:, :1],
        "half": x.astype(jnp.bfloat16),
        "integers": jnp.ones((4, 3), jnp.int32),
        "labels": jnp.array([0, 1, 2, 1], jnp.int32),
        "signs": jnp.array([1, -1, 1, -1], jnp.int32),
        "net": net,
        "params": params,
        "state": state,
        "wider": wider,
        "normed": fnn.serial(net, fnn.batch_norm()).init(key, x),
        "tape": net.forward(params, state, x, key)[2],
        "cross_entropy": fnn.softmax_cross_entropy.value,
        "learn": fnn.trainer(net, fnn.squared, fnn.sgd(0.1), batch_size=2),
        "keys": jax.random.split(key, 3),
        "read_ahead": fnn.data.read_ahead,
        "experiment": lambda key, eta=0.1: eta * jax.random.normal(key),
    }


def evaluate(call: str, names: dict[str, Any]) -> Any:
    """The call's value; apply, forward and gradients are of the net at hand."""
    net, params, state, key = (names[name] for name in ("net", "params", "state", "key"))
    short = {
        "apply": lambda x: net.apply(params, state, x),
        "forward": lambda made, x: fnn.serial(net, fnn.batch_norm()).forward(made[0], made[1], x, key),
        "gradients": lambda batch: fnn.backprop(net, fnn.squared)(params, state, batch, key),
    }
    return eval(call, {**names, **short})


def traced(call: str) -> None:
    """The call inside `jax.jit`, every array of `given` a tracer."""
    names = given()
    arrays = {k: v for k, v in names.items() if isinstance(v, jax.Array | tuple) and not isinstance(v, fnn.Layer)}
    arrays = {k: v for k, v in arrays.items() if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(v))}

    def run(arrays: dict[str, Any]) -> None:
        evaluate(call, {**names, **arrays})

    jax.eval_shape(run, arrays)


def table() -> str:
    """Every call and the message it gets, for a reader."""
    lines, names = [], given()
    for row in TABLE:
        try:
            evaluate(row.call, names)
            message = "raises nothing"
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
        lines += [row.call, *("    " + line for line in message.splitlines())]
    return "\n".join(lines)


def explained(row: Wrong, caught: pytest.ExceptionInfo[Exception]) -> None:
    message = str(caught.value)
    missing = [fragment for fragment in row.fragments if fragment not in message]
    assert issubclass(caught.type, row.error), f"{caught.type.__name__} instead of {row.error.__name__}: {message}"
    assert not missing, f"the message does not say {missing}: {message}"


every_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: row.id)


@every_row
def test_wrong_input_is_explained(row):
    with pytest.raises(Exception) as caught:  # noqa: PT011 — the type is compared exactly, and shown with the message
        evaluate(row.call, given())
    explained(row, caught)


@pytest.mark.parametrize("row", [row for row in TABLE if not row.value], ids=lambda row: row.id)
def test_wrong_input_is_explained_at_trace_time(row):
    with pytest.raises(Exception) as caught:  # noqa: PT011 — as above
        traced(row.call)
    explained(row, caught)


@pytest.mark.parametrize("row", [row for row in TABLE if row.value], ids=lambda row: row.id)
def test_a_traced_value_cannot_be_seen_and_passes(row):
    traced(row.call)


def test_the_rows_have_names_of_their_own():
    assert len({row.id for row in TABLE}) == len({row.call for row in TABLE}) == len(TABLE)


WITHOUT_A_ROW = {
    *("activate", "adadelta", "as_function", "autodiff", "check_layer", "check_optimizer", "grouped", "inference_mode"),
    *("map_layers", "microbatched", "nadam", "prelu", "second_derivatives", "shuffled", "tree_norm"),
    *("with_replacement",),
}
"""Functions whose wrong calls are those of a sibling, or stand in the file of their module."""


def test_every_public_function_has_a_row_or_is_named():
    """A new function cannot come without a wrong call, and no row can go unseen."""
    called = {name for row in TABLE for name in re.findall(r"\w+", row.call)}
    public = {name: getattr(fnn, name) for name in fnn.__all__}
    functions = {name for name, thing in public.items() if callable(thing) and not isinstance(thing, type)}
    assert functions - called == WITHOUT_A_ROW


def test_a_whole_state_in_the_wrong_place_does_not_bury_the_message() -> None:
    net = fnn.serial(fnn.dense(64, fnn.tanh), fnn.linear(64))
    learn = fnn.trainer(net, fnn.squared, fnn.adam(1e-3), batch_size=2)
    state: Any = learn.init(jax.random.key(0), (jnp.zeros((4, 8)), jnp.zeros((4, 64))))
    for call in (
        lambda: fnn.serial(state),
        lambda: fnn.backprop(net, state),
        lambda: fnn.backprop(net, fnn.squared, state),
        lambda: fnn.trainer(net, fnn.squared, state),
        lambda: fnn.trainer(net, fnn.squared, fnn.sgd(0.1), metrics=state),
        lambda: fnn.trainer(net, fnn.squared, fnn.sgd(0.1), metrics=[state]),
        lambda: fnn.dense(3, state),
        lambda: fnn.dense(state, fnn.tanh),
        lambda: fnn.linear(3, w=state),
        lambda: fnn.sgd(state),
        lambda: fnn.fit(learn, state, (jnp.zeros((4, 8)), jnp.zeros((4, 64))), state),
        lambda: fnn.sweep(state, jax.random.split(jax.random.key(0), 2)),
    ):
        with pytest.raises((TypeError, ValueError), match=r"TrainState|whole number") as caught:
            call()
        assert len(str(caught.value)) < 300, caught.value


if __name__ == "__main__":
    print(table())
