"""Layers of plain JAX functions, and networks as plain JAX functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import (
    as_function,
    backprop,
    batch_norm,
    dense,
    dropout,
    from_function,
    linear,
    remat,
    repeat,
    residual,
    second_derivatives,
    serial,
    softmax_cross_entropy,
    softplus,
    squared,
    tanh,
)
from fnn.nn import glorot_uniform
from tests.checkers import TOLERANCE, check_close
from tests.nn.laws import check_laws, each_case_of
from tests.problems import Case, Problem, given, posed


@each_case_of("functions")
def test_layers_of_functions_keep_their_laws(case: Case) -> None:
    check_laws(case)


# Params of whole numbers


def test_whole_numbers_among_trained_params_are_named():
    permuted = fnn.from_function(
        lambda key, x: {"w": jnp.ones((2, 3)), "order": jnp.array([1, 0])},
        lambda p, x: x[:, p["order"]] @ p["w"],
        "permuted",
    )
    net, x = fnn.serial(permuted, linear(1)), jnp.ones((4, 2))
    given = *net.init(jax.random.key(0), x), (x, jnp.ones((4, 1))), jax.random.key(1)
    assert net.apply(*given[:2], x).shape == (4, 1)
    for f in (backprop(net, squared), backprop(net, squared, fnn.per_example), second_derivatives(net, squared)):
        with pytest.raises(TypeError, match=r"permuted.*floats.*int64.*order.*close over"):
            f(*given)


NET = serial(
    dense(3, tanh),
    batch_norm(epsilon=0.1),
    repeat(remat(residual(serial(dropout(0.3), dense(3, softplus)))), 2),
    linear(2),
)


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
    check_laws(Case(layer, 3))


def test_from_function_prints_its_name() -> None:
    def swish(p: Any, x: Any) -> Any:
        return x * jax.nn.sigmoid(x)

    assert str(from_function(lambda key, x: (), swish)) == "from_function(swish)"
    assert str(serial(from_function(lambda key, x: (), swish, "swish"))) == "serial(swish)"
