"""The laws of a layer among others: dtypes, vmap, composites, batches, readings and second derivatives."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnn.core import _checks as checks
from fnn.core.readings import contributions, gathered, gradient, gram, per_example, second_moment, squared_norm
from fnn.core.types import Array, Reading
from fnn.derivatives.backpropagation import backprop
from fnn.derivatives.hessian import second_derivatives
from fnn.nn._second_order import diagonal
from fnn.nn.copies import repeat
from fnn.nn.losses import squared
from fnn.nn.surgery import drop_records
from fnn.testing._asking import Broken, Measured, NotAsked, is_refusal, or_refused
from fnn.testing._passes import Subject, of_pass
from fnn.testing._trees import DTYPES, alike, is_float, named, normal, paired, shaken, size, struct

MOST_PARAMETERS = 1000
"""A Hessian with more numbers a side is not formed."""


def keeps_dtypes(s: Subject, within: Any = None) -> str:
    """Params, y, state, error and gradient in the dtype of x, all by shapes alone."""
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
    told = "" if within is None else f"; rounds to {within} on its way, and is judged to eight units of that"
    return ", ".join(DTYPES) + told


def runs_under_vmap(s: Subject) -> Measured:
    """Of two copies with params and examples of their own, each computes what it does alone."""
    copies = jax.tree.map(lambda u, v: jnp.stack([u, v]), shaken((s.params, s.x), 4), (s.params, s.x))
    passes = jax.vmap(lambda params, x: s.at(params=params, x=x).pulled(s.error))(*copies)
    return of_pass(*(jax.tree.map(lambda leaf: leaf[1], passes), s.by_hand))


def takes_one_example(s: Subject) -> Measured:
    """A batch of one, unless it is refused."""
    return or_refused(lambda: s.at(x=s.x[:1]).both)


def examples_are_independent(s: Subject) -> Measured:
    """Every example among others that are like it; and whether readings of single examples are refused."""

    def among_copies(i: Array) -> Array:
        return s.at(x=jnp.broadcast_to(s.x[i][None, :], s.x.shape)).forward[0][i]

    alone = jax.lax.map(among_copies, jnp.arange(s.x.shape[0]))
    refuses = False
    try:
        s.pulled(s.error, per_example)
    except Exception as error:
        refuses = is_refusal(error)
    return {"object": (list(alone), list(s.forward[0])), "refuses": refuses}


def in_serial(s: Subject) -> Measured:
    """With neurons after it and a loss, the mean of the automatic gradients of all examples."""
    jax.eval_shape(s.net.init, s.key, struct(s.x))
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), s.gradients)
    return paired(drop_records(backprop(s.net, squared)(*s.posed)[1]), mean, "gradient")


def in_repeat(s: Subject) -> Measured:
    """Two in a row by `jax.lax.scan`, for which the tape must be a pytree of arrays."""
    y, _, _ = s.forward
    if y.shape != s.x.shape:
        raise NotAsked(f"the layer makes {y.shape[1]} features of {s.x.shape[1]}")
    net = repeat(s.layer, 2)
    jax.eval_shape(net.init, s.key, struct(s.x))
    params, state = (jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree) for tree in (s.params, s.state))
    return Subject(net, shaken(params, 4), state, s.x, s.key).both


def reading_is_automatic(s: Subject, read: Reading) -> Measured:
    """A reading in serial(layer, linear(2)), of the automatic gradients of all examples."""
    if not jax.tree.leaves(s.params):
        raise NotAsked("the layer has no params")
    got, _ = or_refused(lambda: drop_records(backprop(s.net, squared, read)(*s.posed)[1]))
    if read is contributions:
        return paired(gathered(per_example, got), s.gradients[0], str(read))
    scale = read.scale(s.x.shape[0])
    return paired(got, jax.tree.map(lambda g: read.rows(g * scale), s.gradients[0]), str(read))


def curve_gives_error(s: Subject) -> Measured:
    """In both modes the error of backward; curvatures in the shape of the mode, and readings in that of the params."""
    (n, i), found = s.x.shape, {}
    for mode, c, shape in (("one pass", s.error, (n, i)), ("exact", jax.vmap(jnp.diag)(s.error), (n, i, i))):
        through, below, readings = or_refused(lambda c=c: _curved(s, c))
        alike(below, jax.ShapeDtypeStruct(shape, s.x.dtype), f"∂²L/∂x² ({mode})")
        alike(readings, s.params, f"∂²L/∂w² ({mode})", "as the params")
        found |= paired(through, s.by_hand[0], f"error ({mode})")
    return found


def _curved(s: Subject, c: Array) -> Any:
    through, below, readings = checks.curve_of(s.layer)(s.params, s.forward[2], s.error, c, gradient)
    return through, below, drop_records(readings)


def one_pass_is_diagonal(s: Subject) -> Measured:
    """Of the same diagonal c both modes make the same, where nothing is between them that mixes: in a layer alone."""
    if s.layer.with_children is not None:
        raise NotAsked("one pass through a composite drops what its parts mix; check each part")
    c = s.random_error(7)
    _, one_pass, readings = or_refused(lambda: _curved(s, c))
    _, exact, wanted = _curved(s, jax.vmap(jnp.diag)(c))
    return paired(one_pass, diagonal(exact), "∂²L/∂x²") | paired(readings, wanted, "∂²L/∂w²")


def curve_at_params(s: Subject) -> Measured:
    """∂²Q/∂w² in serial(layer, linear(2)) against the diagonal of `jax.hessian`, by every reading."""
    if size(s.params) > MOST_PARAMETERS:
        raise NotAsked(f"the Hessian of {size(s.params)} parameters is too large; check a narrower layer of the kind")
    found, n = {}, s.x.shape[0]
    for read in (gradient, per_example, squared_norm, gram, second_moment):
        got = or_refused(lambda read=read: drop_records(second_derivatives(s.net, squared, read)(*s.posed)[1]))
        wanted = jax.tree.map(lambda h, read=read: read.rows(h * read.scale(n)), s.second_derivatives)
        found |= paired(got, wanted, "∂²Q/∂w²" if read is gradient else f"∂²L/∂w², reading {read}")
    return found


def curve_at_x(s: Subject) -> Measured:
    """∂²L_n/∂x² [n, i, i] for a random error and a full c at y, against `jax.hessian`.

    All of it counts, for the layer below mixes its rows and columns into the diagonal.
    """
    (n, i), (y, _, tape) = s.x.shape, s.forward
    if i > MOST_PARAMETERS:
        raise NotAsked(f"{i} × {i} numbers an example are too many; check a narrower layer of the kind")
    half = normal(jax.ShapeDtypeStruct((n, y.shape[1], y.shape[1]), y.dtype), 8)
    c = half + jnp.swapaxes(half, 1, 2)
    _, got, _ = or_refused(lambda: checks.curve_of(s.layer)(s.params, tape, s.error, c, gradient))

    def L(x: Array) -> Array:
        a = s.layer.forward(s.params, s.state, x, s.key)[0]
        return jnp.sum(s.error * a) + 0.5 * jnp.einsum("no,nop,np->", a - y, c, a - y)

    columns = jax.lax.map(
        lambda unit: jax.jvp(jax.grad(L), (s.x,), (jnp.broadcast_to(unit[None, :], s.x.shape),))[1],
        jnp.eye(i, dtype=s.x.dtype),
    )
    return paired(got, jnp.transpose(columns, (1, 2, 0)), "∂²L/∂x²")
