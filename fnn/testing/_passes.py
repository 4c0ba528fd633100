"""The laws of a layer alone: init, training and inference, and the backward pass."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.derivatives._checks import uses_key
from fnn.nn.inference import inference_mode
from fnn.nn.surgery import iter_layers
from fnn.testing._asking import Broken, Measured, alike, are_arrays, are_floats, law, paired
from fnn.testing._judges import close, equal, finite, repeated
from fnn.testing._subject import Start, Subject, of_pass
from fnn.testing._trees import array_type, is_float, named, size, struct
from fnn.testing.reports import Outcome

_IMPURE = "the same arguments gave another result: look for a counter, a draw without the key, or a changed global"

_NAN = "entries are NaN or infinite for a finite x: look for 0/0, log 0, and overflow of exp"

_APPLY = "a layer of one mode applies what it trains: apply must be forward's y; for two modes, fill in `modes`"


def _of_modes(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """Training and inference may differ in a layer that draws or remembers; the finding then says by how much."""
    may_differ = found.pop("may differ")
    outcome, finding = close(_APPLY)(found, tolerance)
    if outcome is Outcome.BROKEN and may_differ:
        off = finding.partition(":")[0]
        return Outcome.HOLDS, f"{off}: the layer has two modes, as it draws from the key or has a state"
    return outcome, finding


@law("init gives arrays")
def init_gives_arrays(start: Start) -> str:
    """From a real x, and from its shape and dtype alone, which is all that composites give it."""
    params, state = start.made
    are_arrays(params, "params")
    are_floats(params, "params")
    are_arrays(state, "state")
    jax.eval_shape(start.layer.init, start.key, struct(start.x))
    return f"{size(params)} numbers in params, {size(state)} in state"


@law(
    "init is pure",
    equal("init may use the key and the shape and dtype of x only: no counter, no other random numbers, no values"),
    needs=init_gives_arrays,
)
def init_is_pure(start: Start) -> Measured:
    """The same params and state from the same key, and from the shape of x alone."""
    init, of_shape = start.layer.init, struct(start.x)
    again = paired(init(start.key, start.x), start.made, "made again: ")
    return again | paired(init(start.key, of_shape), start.made, "made of the shape of x alone: ")


@law("forward runs under jit", needs=init_gives_arrays)
def forward_runs(s: Subject) -> str:
    """y has the examples as its first axis, and features as its last."""
    y, _, _ = s.forward
    if y.ndim < 2 or y.shape[0] != s.x.shape[0]:
        raise Broken(f"y is {array_type(y)} for x {array_type(s.x)}, expected examples first, [{s.x.shape[0]}, …, o]")
    return f"{array_type(s.x)} to {array_type(y)}"


@law("forward keeps the state", needs=forward_runs)
def forward_keeps_state(s: Subject) -> str:
    """The state after a batch is like the one before it, so that `jax.lax.scan` can carry it."""
    _, state, _ = s.forward
    are_arrays(state, "state")
    alike(state, s.state, "state", "as before the batch")
    return f"{size(state)} numbers"


@law("forward is pure", repeated(_IMPURE), needs=forward_runs)
def forward_is_pure(s: Subject) -> Measured:
    """The same y and state from the same arguments."""
    again = s.forward_again()
    return paired(again[0], s.forward[0], "y") | paired(again[1], s.forward[1], "state")


@law("forward is finite", finite(_NAN), needs=forward_runs)
def forward_is_finite(s: Subject) -> Measured:
    """No NaN and no infinity from a finite x."""
    y, state, _ = s.forward
    return paired(y, y, "y") | paired(state, state, "state")


@law("apply is pure", repeated(_IMPURE), needs=forward_runs)
def apply_is_pure(s: Subject) -> Measured:
    """The same y from the same arguments, in the shape and dtype of training mode's."""
    one, again = (s.layer.apply(s.params, s.state, s.x) for _ in range(2))
    alike(one, s.forward[0], "y of apply", "as from forward")
    return paired(again, one, "y of apply")


@law("apply is finite", finite(_NAN), needs=forward_runs)
def apply_is_finite(s: Subject) -> Measured:
    """No NaN and no infinity from a finite x."""
    y = s.layer.apply(s.params, s.state, s.x)
    return paired(y, y, "y of apply")


@law("apply is forward", _of_modes, needs=forward_runs)
def apply_is_forward(s: Subject) -> Measured:
    """apply gives forward's y, or that of the layer's inference mode, except for a layer that draws or remembers."""
    net = inference_mode(s.layer)
    is_told = all(part.modes is not None for part in iter_layers(s.layer))
    may_differ = uses_key(net, *s.given) or (bool(jax.tree.leaves(s.state)) and not is_told)
    pair = s.layer.apply(*s.given[:3]), net.forward(*s.given)[0]
    return paired(*pair, "y of apply") | {"may differ": may_differ}


def _learns(found: Measured, tolerance: float) -> tuple[Outcome, str]:
    """A leaf of the state that only apply reads must be learned from the batches, or it never gets a value.

    A leaf that both modes read may be constant, such as a frozen or pretrained one.
    """
    differs = lambda tree, row: not np.array_equal(tree[row], tree[0], equal_nan=True)  # noqa: E731
    frozen, learned = [], 0
    for row, (name, leaf) in enumerate(found["rows"].items(), start=1):
        if differs(found["applied"], row) and not differs(found["y"], row):
            moves = not np.array_equal(found["before"][leaf][row], found["after"][leaf][row], equal_nan=True)
            learned += moves
            frozen += [] if moves else [name]
    if frozen:
        return Outcome.BROKEN, (
            f"{', '.join(frozen)} stays as it is: apply reads it and training mode does not, so forward must give "
            "it back learned from the batch, as running estimates are; a constant belongs in the layer itself"
        )
    return Outcome.HOLDS, f"{learned} leaves are read by apply alone, and learned by forward"


def _drawn(state: Any, again: Any) -> Any:
    """The state with numbers of about 0.1 for its floats, one leaf of them drawn anew."""

    def draw(keys: Any, leaf: Any) -> Any:
        rng = np.random.default_rng(1 if keys == again else 0)
        return jnp.asarray(rng.uniform(0.05, 0.15, leaf.shape), leaf.dtype) if is_float(leaf) else leaf

    return jax.tree.map_with_path(draw, state)


@law("the state is learned", _learns, needs=forward_runs)
def state_learns(s: Subject) -> Measured | str:
    """Which leaves of a state of small positive numbers apply and forward read, and which forward changes.

    Each leaf in turn is drawn again while the others stay: if y changes, the leaf is read.
    """
    paths = [keys for keys, leaf in jax.tree.leaves_with_path(s.state) if is_float(leaf)]
    if not paths:
        return "no floats to remember in the state"
    states = [_drawn(s.state, None), *(_drawn(s.state, keys) for keys in paths)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)

    def passes(state: Any) -> Any:
        at = s.at(state=state)
        y, after, _ = at.forward
        return y, s.layer.apply(s.params, state, s.x), state, after

    y, applied, before, after = jax.lax.map(passes, stacked)
    rows = {
        named("state", keys): i for i, (keys, leaf) in enumerate(jax.tree.leaves_with_path(s.state)) if is_float(leaf)
    }
    return {"y": y, "applied": applied, "before": jax.tree.leaves(before), "after": jax.tree.leaves(after)} | {
        "rows": rows
    }


@law("draws in training only", needs=forward_runs)
def draws_in_training_only(s: Subject) -> str:
    """A layer that draws from the key in training draws nothing in inference mode."""
    if not s.draws:
        return "draws nothing from the key"
    if uses_key(inference_mode(s.layer), *s.given):
        raise Broken(
            "forward draws from the key, and inference_mode(layer) does so too; name the layer's inference by "
            "modes=Modes(inference=…), or leave the parts of a composite open by `children` and `with_children`"
        )
    return "draws in training, not in inference"


@law("backward runs under jit", needs=forward_runs)
def backward_runs(s: Subject) -> str:
    """backward maps an error at y to one at x."""
    return f"{array_type(s.error)} to {array_type(s.by_hand[0])}"


@law("error has the shape of x", needs=backward_runs)
def error_has_shape(s: Subject) -> str:
    """The error at x has the shape and dtype of x; at whole numbers, which have no error, the dtype of y."""
    like = s.x if is_float(s.x) else jax.ShapeDtypeStruct(s.x.shape, s.forward[0].dtype)
    alike(s.by_hand[0], like, "error at x", "as x")
    return array_type(s.by_hand[0])


@law("gradient has the shapes of the params", needs=backward_runs)
def gradient_has_shapes(s: Subject) -> str:
    """The gradient has the structure, shapes and dtypes of the params."""
    alike(s.by_hand[1], s.params, "gradient", "as the params")
    return f"{size(s.params)} numbers"


@law(
    "error equals jax.vjp",
    close("∂L/∂x must be the error times the layer's slopes: look for a missing transpose, a lost slope or path"),
    needs=backward_runs,
    by_jax=True,
)
def error_is_automatic(s: Subject) -> Measured:
    """∂L/∂x against `jax.vjp`."""
    return paired(s.by_hand[0], s.by_jax[0], "error")


@law(
    "gradient equals jax.vjp",
    close("∂L/∂w must be summed over the examples: look at a mean for a sum, a sign, a lost slope"),
    needs=backward_runs,
    by_jax=True,
)
def gradient_is_automatic(s: Subject) -> Measured:
    """∂L/∂w against `jax.vjp`, leaf by leaf."""
    return paired(s.by_hand[1], s.by_jax[1], "gradient")


@law(
    "inference_mode(layer) equals jax.vjp",
    close("the layer in inference mode is a layer with a backward pass of its own: it must be right too"),
    needs=backward_runs,
    by_jax=True,
)
def inference_is_automatic(s: Subject) -> Measured | str:
    """The backward pass of inference mode, where that is a mode of its own, against `jax.vjp`."""
    if all(part.modes is None for part in iter_layers(s.layer)):
        return "one mode for training and inference"
    return s.at(layer=inference_mode(s.layer)).both


@law(
    "backward is linear in the error",
    close("backward must multiply the error and nothing else: look for a clip, a sign, an added constant"),
    needs=backward_runs,
)
def backward_is_linear(s: Subject) -> Measured:
    """The result for aε₁ + bε₂ is a times that for ε₁ plus b times that for ε₂."""
    other = s.random_error(3)
    total = jax.tree.map(lambda u, v: 0.7 * u - 1.3 * v, s.by_hand, s.pulled(other))
    return of_pass(s.pulled(0.7 * s.error - 1.3 * other), total)


@law(
    "a zero error gives zeros",
    equal("look for what backward adds to the error's own products, or for 0 times infinity"),
    needs=backward_runs,
)
def zero_gives_zeros(s: Subject) -> Measured:
    """An error of zeros gives zeros."""
    found = s.pulled(jnp.zeros_like(s.error))
    return of_pass(found, jax.tree.map(jnp.zeros_like, found))


@law("backward is pure", repeated(_IMPURE), needs=backward_runs)
def backward_is_pure(s: Subject) -> Measured:
    """The same from the same tape and error."""
    return of_pass(s.pulled(s.error), s.by_hand)


OF_INIT = init_gives_arrays, init_is_pure

OF_FORWARD = (
    forward_runs,
    forward_keeps_state,
    forward_is_pure,
    forward_is_finite,
    apply_is_pure,
    apply_is_finite,
    apply_is_forward,
    state_learns,
    draws_in_training_only,
)

OF_BACKWARD = (
    backward_runs,
    error_has_shape,
    gradient_has_shapes,
    error_is_automatic,
    gradient_is_automatic,
    inference_is_automatic,
    backward_is_linear,
    zero_gives_zeros,
    backward_is_pure,
)
