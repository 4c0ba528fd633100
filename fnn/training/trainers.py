"""Trainers: one gradient step as pure functions, and a compiled loop of many.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import adam, dense, linear, train, serial, squared, tanh, trainer
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> learn = trainer(serial(dense(16, tanh), linear(1)), squared, adam(0.01), batch_size=16)
    >>> learn
    trainer(serial(dense(16, tanh), linear(1)), squared, adam(0.01), batch_size=16)
    >>> state = learn.init(jax.random.key(0), (x, jnp.abs(x)))
    >>> state, metrics = train(learn, state, (x, jnp.abs(x)), steps=1000, every=250)
    >>> metrics["loss"].shape, bool(metrics["loss"][-1] < 1e-3)
    ((4,), True)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnn.core import _checks as checks
from fnn.core._labels import call_repr
from fnn.core._numerics import Sum, mean, no_sum, plus, wide
from fnn.core.types import Array, Batch, Layer, Loss, Params, Trainer, TrainState
from fnn.data.sampling import Draw, shuffled, shuffled_whole, with_replacement
from fnn.derivatives.backpropagation import Gradient, backprop
from fnn.optimizers import _checks as optimizers_checks
from fnn.optimizers._protocol import updated
from fnn.optimizers.transforms import apply_updates
from fnn.training import _checks as training_checks
from fnn.training._objectives import first_of, fits_together, value_and_gradient_of, values_of_aux
from fnn.training.metrics import GradientStep, Metric, parted, values_of_gradient, values_of_step

_LAYER_STREAM = 2**32 - 1  # the layers' keys; a drawing rule folds in steps and epochs, which stay below 2³¹

_LAST_STEP = 2**31 - 1


def trainer(
    net: Any,
    loss: Loss | None = None,
    optimizer: Any = None,
    *,
    objective: Callable[..., Any] | None = None,
    batch_size: int = 32,
    gradient: Callable[[Layer, Loss], Gradient] = backprop,
    draw: Draw = shuffled,
    running_loss_rate: float = 0.01,
    metrics: Sequence[Metric] = (),
) -> Trainer:
    """The gradient step of the lecture's SG and BackProp, with any optimizer (slides "Algorithm SG", "BackProp").

    One step::

        batch          := draw(key, t)
        L, g           := gradient(net, loss) of the batch, or the automatic one of an objective
        W              := W + optimizer's updates for g
        Q              := (1 − λ)Q + λL

    Q starts at the first L, or at a given estimate, as on the slide: ``state._replace(running_loss=Q)`` in the first
    state. All random draws of step t are functions of (key, t), so that a run can be interrupted anywhere and resumed
    with the same result.

    Args:
        net: a layer; with an objective also a function ``(key, batch) -> (params, state)`` that makes the first ones.
        loss: a loss that fits the targets of the data, which are then (x, y) or (x, y, weight); see
            `fnn.core.batches`.
        optimizer: a pair with ``init`` and ``update``, fnn's or optax's. An update may ask, by these names, for the
            ``value`` of the loss, the ``grad``, and ``value_fn(params)``, the loss of this batch, for a line search.
        objective: in place of a loss, any differentiable function ``(params, state, batch, key) -> (value, state)`` or
            ``(value, state, aux)`` of any batch; `aux` is a dict of floats, which join the metrics.
        batch_size: examples in a batch.
        gradient: the gradient function of (net, loss): `backprop` by hand, `autodiff` automatically, or another of the
            same form, whose results may also have an `aux`: ``((value, state, aux), gradient)``.
        draw: the rule that chooses the examples of step t: `shuffled` epochs, `with_replacement` as in the lecture, or
            any function ``(key, step, size, batch_size) -> indices [batch_size]``, which init tries at step 0. If it
            leaves the sample in a later step, the missing examples are NaN. With data (x, y), a rule may return
            (indices, weight) for the weights of the examples: `fnn.data.shuffled_whole` keeps the remainder of an
            epoch.
        running_loss_rate: λ in (0, 1], the weight of the newest loss in the running loss Q.
        metrics: further values to report of each step; those that look into layers (`of_layer`) need
            ``gradient=backprop``, which exposes them.

    Returns:
        A `Trainer`. Its metrics are ``{"loss": L, "running_loss": Q}``, for each of `metrics` its name with the
        value, or with a dict from layers ("0 dense(64, tanh)", the path of its params and its label) to values, and
        what `aux` holds. Its init takes the data, or the first batch of a stream; memory-mapped data are not searched
        for NaN.

    Raises:
        TypeError: an argument of the wrong kind; an `aux` that is no dict of floats.
        ValueError: numbers out of range; a loss and an objective, or neither; in init, data that do not fit the network
            or the loss; in init and step, data or draws of the wrong length.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnn import adam, dense, linear, serial, tanh, train, trainer
        >>> net = serial(dense(16, tanh), linear(1))
        >>> def residue(params, state, x, key):  # of u'' = −π² sin πx, for a u = x(1 − x) net(x) that is 0 at 0 and 1
        ...     u = lambda x: x * (1 - x) * net.apply(params, state, x[None, None])[0, 0]
        ...     bend = jax.vmap(jax.grad(jax.grad(u)))(x[:, 0])
        ...     return jnp.mean(jnp.square(bend + jnp.pi**2 * jnp.sin(jnp.pi * x[:, 0]))), state
        >>> learn = trainer(net, optimizer=adam(0.01), objective=residue, batch_size=16)
        >>> x = jnp.linspace(0, 1, 64)[:, None]
        >>> state, metrics = train(learn, learn.init(jax.random.key(0), x), x, steps=1000, every=500)
        >>> bool(metrics["loss"][1] < metrics["loss"][0])
        True
    """
    fits_together(net, loss, objective, gradient)
    optimizers_checks.makes_steps("trainer", optimizer)
    batch_size = checks.count("batch_size", batch_size)
    checks.number("running_loss_rate", running_loss_rate, lambda rate: 0 < rate <= 1, "in (0, 1]")
    _metrics(metrics, sees_layers=objective is None and gradient is backprop)
    value_and_gradient = value_and_gradient_of(net, loss, objective, gradient, metrics)

    def init(key: Array, data: Batch) -> TrainState:
        size = training_checks.data(data)
        _try_draw(draw, key, size, batch_size)
        batch = None if objective is None else _shapes_of_drawn(draw, key, data, batch_size)
        key_of_params, key = jax.random.split(key)
        params, state, running_loss = first_of(net, loss, value_and_gradient, key_of_params, data, batch)
        return TrainState(params, state, optimizer.init(params), jnp.zeros((), jnp.int32), running_loss, key)

    def step(state: TrainState, data: Batch) -> tuple[TrainState, dict[str, Array]]:
        return update(state, _drawn(draw, state.key, state.step, data, batch_size))

    def update(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        checks.examples("batch", batch)
        key = jax.random.fold_in(jax.random.fold_in(state.key, _LAYER_STREAM), state.step)
        (value, layer_state, *aux), readings = value_and_gradient(state.params, state.layer_state, batch, key)
        g, of_layers = parted(readings)
        value_fn = lambda params: value_and_gradient(params, state.layer_state, batch, key)[0][0]  # noqa: E731
        extra = {"value": value, "grad": g, "value_fn": value_fn}
        updates, optimizer_state = updated(optimizer, g, state.optimizer_state, state.params, extra)
        params = apply_updates(state.params, updates)
        L, Q = _losses(state, value, running_loss_rate)
        after = TrainState(params, layer_state, optimizer_state, _next(state.step), Q, state.key)
        found = {"loss": L, "running_loss": Q} | of_layers
        found |= values_of_gradient(metrics, net, state.params, state.layer_state, batch, g)
        found |= values_of_step(metrics, GradientStep(state, after, batch, g, updates))
        return after, found | values_of_aux(aux, found)

    what = (net, optimizer) if loss is None else (net, loss, optimizer)
    differs = {"batch_size": (batch_size, 0), "gradient": (gradient, backprop), "metrics": (list(metrics), [])}
    return Trainer(init, step, update, call_repr("trainer", *what, objective=(objective, None), **differs))


def _losses(state: TrainState, value: Array, rate: Any) -> tuple[Array, Array]:
    """The batch's loss L and the running loss Q := (1 − λ)Q + λL; without a Q so far, Q := L."""
    L = wide(value)
    Q = jnp.asarray(state.running_loss, L.dtype)
    kept = jnp.asarray(1 - rate, L.dtype)
    is_first = (state.step == 0) & jnp.isposinf(Q)
    return L, jnp.where(is_first, L, kept * Q + jnp.asarray(rate, L.dtype) * L)


def _next(step: Array) -> Array:
    """The next step number, modulo 2³¹: draws and schedules never get a negative step."""
    return (step + 1) & jnp.asarray(_LAST_STEP, step.dtype)


_IN_BOUNDS = (shuffled, shuffled_whole, with_replacement)


def _try_draw(draw: Draw, key: Array, size: int, batch_size: int) -> None:
    """Raise ValueError if the draw of step 0 has another size than batch_size or leaves the sample."""

    def first(key: Array) -> tuple[Array, Array | None]:
        return _chosen(draw, key, 0, size, batch_size)

    if draw in _IN_BOUNDS or training_checks.inside_a_trace():
        jax.eval_shape(first, key)
    else:
        _checked_drawn(jax.jit(first)(key)[0], batch_size, size)


def _chosen(draw: Draw, key: Array, step: Any, size: int, batch_size: int) -> tuple[Array, Array | None]:
    """The indices of a step, and the weights if the rule returns some, checked."""
    drawn = draw(key, step, size, batch_size)
    indices, weight = drawn if isinstance(drawn, tuple) and len(drawn) == 2 else (drawn, None)
    _checked_drawn(indices, batch_size, size)
    if weight is not None:
        checks.weights("draw", weight, batch_size)
    return indices, weight


def _drawn(draw: Draw, key: Array, step: Any, data: Batch, batch_size: int) -> Batch:
    """The batch of a step. If a user's rule leaves the sample, the missing examples are NaN and labels invalid."""
    indices, weight = _chosen(draw, key, step, checks.examples("data", data), batch_size)
    options: dict[str, Any] = {"mode": "fill", "wrap_negative_indices": False}
    if draw in _IN_BOUNDS:
        options = {"mode": "promise_in_bounds"}
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf).at[indices].get(**options), data)
    return batch if weight is None else _weighted(batch, weight)


def _shapes_of_drawn(draw: Draw, key: Array, data: Batch, batch_size: int) -> Batch:
    """The shapes and dtypes of a batch."""
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.result_type(leaf)), data)
    return jax.eval_shape(lambda key, data: _drawn(draw, key, 0, data, batch_size), key, like)


def _weighted(batch: Batch, weight: Array) -> Batch:
    """A batch (x, y) or (x, y, weight) whose examples count by further weights [n]."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise ValueError(
            f"draw: expected data (x, y) for a rule that returns weights, got {type(batch).__name__}. "
            "Return indices alone, and let the objective weigh the examples."
        )
    x, y, *own = batch
    return x, y, weight if not own else own[0] * weight.astype(own[0].dtype)


def compiled(*static: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function once for each value of its static arguments; inside another trace, call it without `jit`.

    There the trainer may hold tracers (a swept η) even if no argument is one, and a cache of compiled functions must
    not keep them.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        jitted = jax.jit(function, static_argnames=static)

        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            return (function if training_checks.inside_a_trace() else jitted)(*args, **options)

        return call

    return decorate


def train(
    trainer: Trainer,
    state: TrainState,
    data: Batch,
    steps: int,
    every: int | None = None,
    validate: Callable[[TrainState], Any] | None = None,
) -> tuple[TrainState, Any]:
    """Many steps as one compiled loop that also averages the metrics.

    Compiled once for each trainer and number of steps; inside `jit`, `vmap` or `sweep` it becomes part of their
    program.

    Args:
        trainer: a `Trainer`.
        state: the state to start from, of ``trainer.init`` or an earlier run.
        data: (x [ℓ, …], y [ℓ, …]), or any pytree of arrays [ℓ, …] that the trainer takes.
        steps: gradient steps to take.
        every: steps over which the metrics are averaged, a divisor of `steps`; 1 reports every step.
        validate: ``(state: TrainState) -> pytree``, called after each `every` steps, or at the end without `every`; a
            new function object is compiled again.

    Returns:
        The state after the last step, and the metrics: leaves [steps/every, …], or without `every` their means over the
        whole run, both in float32 at least. The results of `validate` are under "validation".

    Raises:
        TypeError: `trainer` is not a trainer.
        ValueError: numbers below 1, or `every` does not divide `steps`.
    """
    training_checks.is_trainer("train", trainer)
    steps = training_checks.steps("steps", steps)
    block = training_checks.divisor("every", every, "steps", steps) if every is not None else steps
    return _run(trainer, state, data, None if every is None else steps // block, block, validate)


@compiled("trainer", "blocks", "block", "validate")
def _run(
    trainer: Trainer, state: TrainState, data: Batch, blocks: int | None, block: int, validate: Any
) -> tuple[TrainState, Any]:
    """`train` as one program: several blocks of `block` steps each, or a single one for None."""
    after, metrics = jax.eval_shape(trainer.step, state, data)
    state = begun(state, after)

    def summed(carry: tuple[TrainState, Sum], _: None) -> tuple[tuple[TrainState, Sum], None]:
        state, metrics = trainer.step(carry[0], data)
        return (state, plus(carry[1], metrics)), None

    def averaged(state: TrainState, _: Any = None) -> tuple[TrainState, Any]:
        (state, total), _ = jax.lax.scan(summed, (state, no_sum(metrics)), length=block)
        means = mean(total, block)
        return state, means if validate is None else means | {"validation": validate(state)}

    return averaged(state) if blocks is None else jax.lax.scan(averaged, state, length=blocks)


def begun(state: TrainState, after: Any) -> TrainState:
    """The state with Q in its dtype after a step (`after`): a user's estimate may be any number."""
    return state._replace(running_loss=jnp.asarray(state.running_loss, after.running_loss.dtype))


@jax.jit
def is_finite(params: Params) -> Array:
    """Whether all weights are finite."""
    floats = (leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    return jnp.all(jnp.stack([jnp.ones((), bool), *(jnp.all(jnp.isfinite(leaf)) for leaf in floats)]))


def _checked_drawn(chosen: Any, batch_size: int, size: int) -> None:
    """Raise ValueError unless a draw has batch_size indices, and concrete ones lie in the sample."""
    expected = f"draw: expected a rule that gives batch_size indices, integers [{batch_size}] in 0..{size - 1}"
    is_array = hasattr(chosen, "dtype")
    if not (is_array and np.shape(chosen) == (batch_size,) and jnp.issubdtype(chosen.dtype, jnp.integer)):
        got = f"{chosen.dtype} {list(np.shape(chosen))}" if is_array else type(chosen).__name__
        raise ValueError(f"{expected}, got {got}. Change the rule, (key, step, size, batch_size) -> indices.")
    known = checks.concrete(chosen)
    if known is not None and known.size and not (known.min() >= 0 and known.max() < size):
        raise ValueError(f"{expected}, got indices {known.min()}..{known.max()}. Keep them below `size`.")


_KINDS = ("of_layer", "of_step", "of_gradient")


def _metrics(given: Any, sees_layers: bool) -> None:
    """Raise an error unless all metrics have distinct names, are of layers or of steps, and fit the gradient."""
    if not isinstance(given, Sequence) or isinstance(given, str) or hasattr(given, "_fields"):
        text = checks.shown(given)
        raise TypeError(
            f"metrics: expected a sequence of Metrics, got {text}. For a single one write metrics=[{text}]."
        )
    names = ["loss", "running_loss"]
    for metric in given:
        if not all(hasattr(metric, field) for field in ("name", *_KINDS)):
            hint = "Call the factory: saturated(), not saturated." if callable(metric) else "Make one: Metric(name, …)."
            raise TypeError(f"metrics: expected Metrics such as gradient_norm, got {checks.shown(metric)}. {hint}")
        kinds = [kind for kind in _KINDS if getattr(metric, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"metrics: expected one of {', '.join(_KINDS)} of the metric {metric!r}, got "
                f"{' and '.join(kinds) or 'none'}. Make a metric for each."
            )
        checks.is_function(f"the metric {metric!r}", getattr(metric, kinds[0]))
        if metric.of_layer is not None and not sees_layers:
            raise ValueError(
                f"metrics: expected gradient=backprop for metrics of layers, got {metric!r} with a gradient that does "
                "not expose the layers. Choose gradient=backprop, or metrics of gradients or steps."
            )
        if metric.name in names:
            raise ValueError(
                f"metrics: expected distinct names, got two metrics named {metric.name!r}. Rename one: "
                "metric._replace(name=...)."
            )
        names.append(metric.name)
