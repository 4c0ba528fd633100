"""The laws of a layer among others: dtypes, vmap, composites, batches, readings and second derivatives."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.errors import Unsupported
from fnn.core.readings import (
    contributions,
    gathered,
    gradient,
    gram,
    per_example,
    second_moment,
    squared_norm,
    variance,
)
from fnn.core.types import Array, Reading
from fnn.derivatives.backpropagation import backprop
from fnn.derivatives.hessian import second_derivatives
from fnn.nn._second_order import diagonal
from fnn.nn.copies import repeat
from fnn.nn.losses import squared
from fnn.nn.surgery import drop_records
from fnn.testing._asking import Broken, Measured, Question, Skipped, alike, law, paired, supported
from fnn.testing._judges import close
from fnn.testing._passes import backward_runs
from fnn.testing._subject import Subject, of_pass
from fnn.testing._trees import DTYPES, is_float, named, normal, shaken, size, struct
from fnn.testing.reports import Outcome

READINGS = (per_example, squared_norm, gram, second_moment, variance, contributions)

MOST_PARAMETERS = 1000
"""A Hessian with more numbers a side is not formed."""

_INSIDE = "the layer's error or its tape does not fit what stands around it; see the laws above first"

_CURVE = "Jᵀ c J + Σ_k ε_k ∇²f_k: look for a lost σ'', a slope not squared, a matrix c taken for its diagonal"


@law("keeps the dtype", needs=backward_runs)
def keeps_dtypes(s: Subject) -> str:
    """Params, y, state, error and gradient in the dtype of x, all by shapes alone."""
    if not is_float(s.x):
        raise Skipped("whole numbers cannot say in which dtype to compute")
    for dtype in map(jnp.dtype, DTYPES):
        x = struct(s.x, dtype)
        params, state = jax.eval_shape(s.layer.init, s.key, x)
        for keys, leaf in jax.tree.leaves_with_path(params):
            if is_float(leaf) and leaf.dtype != dtype:
                raise Broken(f"init makes {named('params', keys)} {leaf.dtype} for {dtype} x; give it x.dtype")
        like = f"for {dtype} x"
        y, after = jax.eval_shape(lambda *a: s.layer.forward(*a)[:2], params, state, x, s.key)
        alike(y, struct(y, dtype), "y", like)
        alike(after, state, "state", f"{like} as before the batch")
        alike(jax.eval_shape(s.layer.apply, params, state, x), y, "y of apply", f"{like} as from forward")
        error, readings = jax.eval_shape(lambda *a: Subject(s.layer, *a).by_hand, params, state, x, s.key)
        alike(error, x, "error at x", like)
        alike(readings, params, "gradient", f"{like} as the params")
    rounded = "" if s.within is None else f"; rounds to {s.within} on its way, and is judged to eight units of that"
    return ", ".join(DTYPES) + rounded


@law(
    "runs under vmap",
    close("a copy under vmap must compute what it does alone: look for axes counted from the front, or flattened"),
    needs=backward_runs,
)
def runs_under_vmap(s: Subject) -> Measured:
    """Of two copies with params and examples of their own, each computes what it does alone."""
    copies = jax.tree.map(lambda u, v: jnp.stack([u, v]), shaken((s.params, s.x), 4), (s.params, s.x))
    passes = jax.vmap(lambda params, x: s.at(params=params, x=x).pulled(s.error))(*copies)
    return of_pass(*(jax.tree.map(lambda leaf: leaf[1], passes), s.by_hand))


@law(
    "takes a batch of one",
    close("look for squeezed axes and statistics over the batch"),
    needs=backward_runs,
    by_jax=True,
)
def takes_one_example(s: Subject) -> Measured:
    """A batch of one, unless that is unsupported."""
    return supported(lambda: s.at(x=s.x[:1]).both)


def _of_examples(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """A layer may couple the examples, but then it must support no reading of single ones."""
    unsupported = found.pop("unsupported")
    outcome, finding = close("coupled")(found, tolerance)
    finding = f"among copies of itself, {finding}"
    if outcome is Outcome.HOLDS:
        return outcome, finding
    if unsupported:
        return Outcome.HOLDS, f"{finding}, and readings of single examples are unsupported"
    return outcome, f"{finding}, so backward must raise fnn.core.Unsupported for a reading that is not linear"


@law("examples are independent", _of_examples, needs=backward_runs)
def examples_are_independent(s: Subject) -> Measured:
    """Every example among others that are like it; and whether readings of single examples are unsupported."""

    def among_copies(i: Array) -> Array:
        return s.at(x=jnp.broadcast_to(s.x[i][None], s.x.shape)).forward[0][i]

    alone = jax.lax.map(among_copies, jnp.arange(s.x.shape[0]))
    unsupported = False
    try:
        s.pulled(s.error, per_example)
    except Unsupported:
        unsupported = True
    except Exception:  # a fault that breaks the laws of the readings
        unsupported = False
    return {"example": (list(alone), list(s.forward[0])), "unsupported": unsupported}


@law("runs inside serial", close(_INSIDE), needs=backward_runs, by_jax=True)
def in_serial(s: Subject) -> Measured:
    """With neurons after it and a loss, the mean of the automatic gradients of all examples."""
    jax.eval_shape(s.net.init, s.key, struct(s.x))
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), s.gradients)
    return paired(drop_records(backprop(s.net, squared)(*s.arguments)[1]), mean, "gradient")


@law("runs inside repeat", close(_INSIDE), needs=backward_runs, by_jax=True)
def in_repeat(s: Subject) -> Measured:
    """Two in a row by `jax.lax.scan`, for which the tape must be a pytree of arrays."""
    y, _, _ = s.forward
    if y.shape != s.x.shape:
        raise Skipped(f"the layer makes {list(y.shape)} of {list(s.x.shape)}")
    net = repeat(s.layer, 2)
    jax.eval_shape(net.init, s.key, struct(s.x))
    params, state = (jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree) for tree in (s.params, s.state))
    return Subject(net, shaken(params, 4), state, s.x, s.key).both


def reading_is_automatic(read: Reading) -> Question:
    """The law of one reading."""
    judge = close("read each parameter by at_weights(read, x, error) or read.rows(terms [n, …]), one term an example")
    return law(f"reading {read}", judge, needs=backward_runs, by_jax=True)(partial(_reading, read=read))


def _reading(s: Subject, read: Reading) -> Measured:
    """A reading in serial(layer, linear(2)), of the automatic gradients of all examples."""
    if not jax.tree.leaves(s.params):
        raise Skipped("the layer has no params")
    got = supported(lambda: drop_records(backprop(s.net, squared, read)(*s.arguments)[1]))[0]
    if read is contributions:
        return paired(gathered(per_example, got), s.gradients[0], str(read))
    scale = read.scale(s.x.shape[0])
    return paired(got, jax.tree.map(lambda g: read.rows(g * scale), s.gradients[0]), str(read))


@law(
    "curve gives the error",
    close("curve is backward with more beside it: its error must be that of backward"),
    needs=backward_runs,
)
def curve_gives_error(s: Subject) -> Measured:
    """In both modes the error of backward; curvatures in the shape of the mode, and readings in that of the params."""
    (n, i), found = _rows(s), {}
    for mode, c, shape in (("one pass", s.error, (n, i)), ("exact", jax.vmap(jnp.diag)(s.error), (n, i, i))):
        through, below, readings = supported(lambda c=c: _curved(s, c))
        alike(below, jax.ShapeDtypeStruct(shape, s.x.dtype), f"∂²L/∂x² ({mode})")
        alike(readings, s.params, f"∂²L/∂w² ({mode})", "as the params")
        found |= paired(through, s.by_hand[0], f"error ({mode})")
    return found


def _rows(s: Subject) -> tuple[int, int]:
    """The shape of x; skips a layer that is given, or makes, positions."""
    if s.x.ndim != 2 or s.forward[0].ndim != 2 or not is_float(s.x):
        raise Skipped("second derivatives are carried for rows [n, features] alone")
    return s.x.shape[0], s.x.shape[1]


def _curved(s: Subject, c: Array) -> Any:
    through, below, readings = checks.curve_of(s.layer)(s.params, s.forward[2], s.error, c, gradient)
    return through, below, drop_records(readings)


@law(
    "one pass is the exact diagonal",
    close("of a diagonal c, [n, o], curve must make the diagonal of what it makes of the matrices diag(c), [n, o, o]"),
    needs=backward_runs,
)
def one_pass_is_diagonal(s: Subject) -> Measured:
    """Of the same diagonal c both modes make the same, where nothing is between them that mixes: in a layer alone."""
    if s.layer.with_children is not None:
        raise Skipped("one pass through a composite drops what its parts mix; check each part")
    _rows(s)
    c = s.random_error(7)
    _, one_pass, readings = supported(lambda: _curved(s, c))
    _, exact, wanted = _curved(s, jax.vmap(jnp.diag)(c))
    return paired(one_pass, diagonal(exact), "∂²L/∂x²") | paired(readings, wanted, "∂²L/∂w²")


@law("curve at the params equals jax.hessian", close(_CURVE), needs=backward_runs, by_jax=True)
def curve_at_params(s: Subject) -> Measured:
    """∂²Q/∂w² in serial(layer, linear(2)) against the diagonal of `jax.hessian`, by every reading."""
    if size(s.params) > MOST_PARAMETERS:
        raise Skipped(f"the Hessian of {size(s.params)} parameters is too large; check a narrower layer of the kind")
    found, n = {}, s.x.shape[0]
    for read in (gradient, per_example, squared_norm, gram, second_moment):
        got = supported(lambda read=read: drop_records(second_derivatives(s.net, squared, read)(*s.arguments)[1]))
        wanted = jax.tree.map(lambda h, read=read: read.rows(h * read.scale(n)), s.second_derivatives)
        found |= paired(got, wanted, "∂²Q/∂w²" if read is gradient else f"∂²L/∂w², reading {read}")
    return found


@law("curve at x equals jax.hessian", close(_CURVE), needs=backward_runs, by_jax=True)
def curve_at_x(s: Subject) -> Measured:
    """∂²L_n/∂x² [n, i, i] for a random error and a full c at y, against `jax.hessian`.

    All of it counts, for the layer below mixes its rows and columns into the diagonal.
    """
    (n, i), (y, _, tape) = _rows(s), s.forward
    if i > MOST_PARAMETERS:
        raise Skipped(f"{i} × {i} numbers an example are too many; check a narrower layer of the kind")
    half = normal(jax.ShapeDtypeStruct((n, y.shape[1], y.shape[1]), y.dtype), 8)
    c = half + jnp.swapaxes(half, 1, 2)
    _, got, _ = supported(lambda: checks.curve_of(s.layer)(s.params, tape, s.error, c, gradient))

    def L(x: Array) -> Array:
        a = s.layer.forward(s.params, s.state, x, s.key)[0]
        return jnp.sum(s.error * a) + 0.5 * jnp.einsum("no,nop,np->", a - y, c, a - y)

    columns = jax.lax.map(
        lambda unit: jax.jvp(jax.grad(L), (s.x,), (jnp.broadcast_to(unit[None, :], s.x.shape),))[1],
        jnp.eye(i, dtype=s.x.dtype),
    )
    return paired(got, jnp.transpose(columns, (1, 2, 0)), "∂²L/∂x²")


AMONG_OTHERS = (
    runs_under_vmap,
    in_serial,
    in_repeat,
    takes_one_example,
    examples_are_independent,
    *map(reading_is_automatic, READINGS),
    curve_gives_error,
    one_pass_is_diagonal,
    curve_at_params,
    curve_at_x,
)
