"""From layers to the gradient of a mean loss, and the doors between hand-written and automatic gradients."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    as_function,
    autodiff,
    backprop,
    batch_norm,
    dense,
    dropout,
    from_function,
    linear,
    objective,
    remat,
    repeat,
    residual,
    serial,
    softmax_cross_entropy,
    softplus,
    squared,
    tanh,
)
from fnn.nn import glorot_uniform
from tests.checkers import TOLERANCE, check_backward, check_close
from tests.problems import NETWORKS, Problem, given, normal, posed, targets

each_network = pytest.mark.parametrize("problem", NETWORKS.values(), ids=NETWORKS.keys())

NET = serial(
    dense(3, tanh),
    batch_norm(epsilon=0.1),
    repeat(remat(residual(serial(dropout(0.3), dense(3, softplus)))), 2),
    linear(2),
)
SMALL = Problem(NET, squared, 2, 2)


@each_network
def test_backprop_is_value_and_grad_of_the_objective(problem: Problem) -> None:
    automatic = jax.value_and_grad(objective(problem.net, problem.loss), has_aux=True)
    both = jax.jit(lambda *arguments: (backprop(problem.net, problem.loss)(*arguments), automatic(*arguments)))
    check_close(*both(*posed(problem)))


def test_autodiff_is_value_and_grad_of_the_objective() -> None:
    automatic = jax.value_and_grad(objective(NET, squared), has_aux=True)
    check_close(*jax.jit(lambda *arguments: (autodiff(NET, squared)(*arguments), automatic(*arguments)))(*posed(SMALL)))


def test_objective_is_the_mean_loss_of_a_batch() -> None:
    params, state, (x, y), key = posed(SMALL)
    value, new_state = objective(NET, squared)(params, state, (x, y), key)
    a, want_state, _ = NET.forward(params, state, x, key)
    assert float(value) == pytest.approx(0.5 * np.sum((np.asarray(a) - np.asarray(y)) ** 2) / len(x))
    chex.assert_trees_all_equal(new_state, want_state)


def test_jvp_of_backprop_is_the_hessian_times_a_vector() -> None:
    params, *rest = posed(SMALL)
    direction = normal(params, 5)
    flat, unflatten = ravel_pytree(params)

    @jax.jit
    def both(params: Any, direction: Any) -> tuple[Any, Any]:
        _, product = jax.jvp(lambda p: backprop(NET, squared)(p, *rest)[1], (params,), (direction,))
        hessian = jax.hessian(lambda w: objective(NET, squared)(unflatten(w), *rest)[0])(flat)
        return product, unflatten(hessian @ ravel_pytree(direction)[0])

    got, want = both(params, direction)
    check_close(got, want, TOLERANCE["second derivative"])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_a_descent_is_a_scan_whose_carry_is_stable(dtype) -> None:
    params, state, batch, key = posed(SMALL, dtype=dtype)

    def step(carry, k):
        params, state = carry
        (value, state), g = backprop(NET, squared)(params, state, batch, k)
        return (jax.tree.map(lambda w, slope: w - 0.1 * slope, params, g), state), value

    (_, new_state), values = jax.eval_shape(
        lambda: jax.lax.scan(step, (params, state), jax.random.split(key, 3))  # a carry that changes would raise
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    assert values.dtype == dtype


def test_ten_steps_are_traced_once() -> None:
    params, state, batch, key = posed(SMALL)
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(backprop(NET, squared), n=1))
    for _ in range(10):
        (_, state), g = step(params, state, batch, key)
        params = jax.tree.map(lambda w, slope: w - 0.1 * slope, params, g)
        key = jax.random.fold_in(key, 1)


def test_row_of_a_vmapped_backprop_is_the_single_run() -> None:
    runs = [posed(SMALL, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)
    rows = jax.jit(jax.vmap(backprop(NET, squared)))(*stacked)
    check_close(jax.tree.map(lambda leaf: leaf[1], rows), jax.jit(backprop(NET, squared))(*runs[1]))


# as_function


def by_hand(params: Any, state: Any, x: Any, key: Any) -> tuple[Any, Any]:
    return as_function(NET)(params, state, x, key)


def plain(params: Any, state: Any, x: Any, key: Any) -> tuple[Any, Any]:
    return NET.forward(params, state, x, key)[:2]


def number(function: Callable) -> Callable:
    """A number of the parameters and the input, flat: Σ sin of the output."""
    params, state, x, key = given(NET, 2, n=4)
    _, unflatten = ravel_pytree((params, x))

    def of(flat: Any) -> Any:
        p, x = unflatten(flat)
        return jnp.sum(jnp.sin(function(p, state, x, key)[0]))

    return of


def penalty(function: Callable) -> Callable:
    """The squared norm of a gradient: its own gradient is a gradient of a gradient."""
    return lambda flat: jnp.sum(jnp.square(jax.grad(number(function))(flat)))


TRANSFORMATIONS: dict[str, Callable[[Callable], Callable]] = {
    "value": number,
    "vmap": lambda f: lambda flat: jax.vmap(number(f))(jnp.stack([flat, 2 * flat])),
    "grad": lambda f: jax.grad(number(f)),
    "vmap of grad": lambda f: lambda flat: jax.vmap(jax.grad(number(f)))(jnp.stack([flat, 2 * flat])),
    "grad of grad": lambda f: jax.grad(penalty(f)),
    "hessian": lambda f: jax.hessian(number(f)),
    "grad within scan": lambda f: (
        lambda flat: jax.lax.scan(lambda w, _: (w - 0.1 * jax.grad(number(f))(w), ()), flat, length=3)[0]
    ),
}


@pytest.mark.parametrize("transformed", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS.keys())
def test_as_function_transforms_as_the_plain_forward(transformed: Callable) -> None:
    params, _, x, _ = given(NET, 2, n=4)
    flat, _ = ravel_pytree((params, x))
    both = jax.jit(lambda flat: (transformed(by_hand)(flat), transformed(plain)(flat)))
    got, want = both(flat)
    check_close(got, want, TOLERANCE["second derivative"])


def test_gradient_of_as_function_is_the_same_compiled_and_not() -> None:
    params, state, x, key = given(NET, 2)
    slope = jax.grad(lambda p, x: jnp.sum(by_hand(p, state, x, key)[0]), (0, 1))
    check_close(slope(params, x), jax.jit(slope)(params, x))


def test_jvp_of_as_function_raises() -> None:
    params, state, x, key = given(NET, 2)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: by_hand(params, state, x, key)[0], (x,), (x,))


def test_as_function_gives_the_new_state_and_no_gradient_through_it() -> None:
    params, state, x, key = given(NET, 2)
    check_close(*jax.jit(lambda *arguments: (by_hand(*arguments), plain(*arguments)))(params, state, x, key))
    through_state = jax.jit(jax.grad(lambda x: by_hand(params, state, x, key)[1][1].mean.sum()))(x)
    assert not through_state.any()


def test_a_raw_key_does_what_the_typed_one_does(key: jax.Array) -> None:
    params, state, x, _ = given(NET, 2)
    total = lambda p, x, k: jnp.sum(by_hand(p, state, x, k)[0])  # noqa: E731
    slope = jax.jit(jax.grad(total, (0, 1)))
    check_close(slope(params, x, jax.random.key_data(key)), slope(params, x, key))


# from_function


def dense_as_function(width: int):
    """dense(width, tanh) without its backward."""

    def init(key: jax.Array, x: Any) -> dict[str, jax.Array]:
        return {"w": glorot_uniform()(key, (x.shape[1], width), x.dtype), "b": jnp.zeros(width, x.dtype)}

    return from_function(init, lambda p, x: jnp.tanh(x @ p["w"] + p["b"][None]))


def test_from_function_among_layers_is_the_layer_by_hand() -> None:
    mixed = serial(dense(5, tanh), dense_as_function(4), linear(3))
    written = serial(dense(5, tanh), dense(4, tanh), linear(3))
    arguments = posed(Problem(written, softmax_cross_entropy, 4, 3))
    got, want = (backprop(net, softmax_cross_entropy)(*arguments) for net in (mixed, written))
    check_close(got, want)


@pytest.mark.parametrize("f", [jnp.sin, lambda x: x * x], ids=["sin", "square"])
def test_from_function_needs_no_parameters(f: Callable) -> None:
    layer = from_function(lambda key, x: (), lambda p, x: f(x))
    check_backward(layer, *given(layer, 3))


def test_from_function_prints_its_name() -> None:
    def swish(p: Any, x: Any) -> Any:
        return x * jax.nn.sigmoid(x)

    assert str(from_function(lambda key, x: (), swish)) == "from_function(swish)"
    assert str(serial(from_function(lambda key, x: (), swish, "swish"))) == "serial(swish)"


def test_targets_of_every_loss_are_what_it_takes() -> None:
    for problem in NETWORKS.values():
        a = normal(jnp.ones((5, problem.outputs)), 1)
        assert jnp.isfinite(problem.loss.value(a, targets(problem))).all()
