"""What every layer and combinator does: dtypes, shapes, init, labels; and that each is asked for its laws."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import pytest

import fnn
from fnn import Layer, gradient, inference_mode, linear, per_example, second_moment, squared_norm
from fnn.nn import drop_records
from tests.checkers import check_close
from tests.nn.kinds import KEEP_WIDTH
from tests.nn.laws import KINDS, backward_by_hand_and_by_jax, cases_of, check_laws, each_case_of
from tests.problems import EVERY_LAYER, LAYERS, Case, couples, given, normal

each_layer = pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
OF_ONE_MODE = {name: case for name, case in LAYERS.items() if str(inference_mode(case.layer)) == str(case.layer)}


every_layer = pytest.mark.parametrize("case", EVERY_LAYER.values(), ids=EVERY_LAYER.keys())


# The laws


@each_case_of("every_layer")
def test_everything_keeps_its_laws(case: Case) -> None:
    check_laws(case)


def test_every_layer_is_asked_for_its_laws_in_the_file_of_its_module() -> None:
    asked = [name for module in KINDS for name in cases_of(module)]
    assert sorted(asked) == sorted(EVERY_LAYER)
    assert all(len(cases_of(module)) > 0 for module in KINDS)
    assert {name for name, case in EVERY_LAYER.items() if case.layer.with_children is None} == set(LAYERS)


def wrong(layer: Layer, **changed: Any) -> Layer:
    """The layer with a fault in its backward pass or in its curve: changed(right result)."""

    def backward(params: Any, tape: Any, error: Any, read: Any) -> Any:
        return changed["backward"](*layer.backward(params, tape, error, read), read)

    def curve(params: Any, tape: Any, error: Any, c: Any, read: Any) -> Any:
        assert layer.curve is not None
        return changed["curve"](*layer.curve(params, tape, error, c, read), c)

    return layer._replace(**{name: {"backward": backward, "curve": curve}[name] for name in changed})


LINEAR = linear(3)
FAULTS: dict[str, tuple[str, Layer]] = {
    "a lost sign": ("vjp", wrong(LINEAR, backward=lambda e, g, read: (-e, g))),
    "a mean for a sum": (
        "gradient",
        wrong(LINEAR, backward=lambda e, g, r: (e, g if r is not gradient else jax.tree.map(lambda w: w / 7, g))),
    ),
    "a constant added": ("vjp", wrong(LINEAR, backward=lambda e, g, read: (e + 1e-9, g))),
    "examples in another order": (
        "per_example",
        wrong(LINEAR, backward=lambda e, g, r: (e, g if r is not per_example else jax.tree.map(lambda w: w[::-1], g))),
    ),
    "a norm for its square": (
        "squared_norm",
        wrong(LINEAR, backward=lambda e, g, r: (e, g if r is not squared_norm else jax.tree.map(jnp.sqrt, g))),
    ),
    "the square of a mean": (
        "second_moment",
        wrong(LINEAR, backward=lambda e, g, r: (e, g if r is not second_moment else jax.tree.map(jnp.sqrt, g))),
    ),
    "no error from curve": ("curve's error", wrong(LINEAR, curve=lambda e, h, g, c: (0 * e, h, g))),
    "a curvature that stays": ("curve at x", wrong(linear(4), curve=lambda e, h, g, c: (e, c, g))),
    "a curvature halved": (
        "curve at the params",
        wrong(LINEAR, curve=lambda e, h, g, c: (e, h, jax.tree.map(lambda w: w / 2, g))),
    ),
    "one pass of its own": (
        "one pass",
        wrong(LINEAR, curve=lambda e, h, g, c: (e, h if c.ndim == 3 else 2 * h, g)),
    ),
}


@pytest.mark.parametrize(("law", "layer"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_breaks_its_law(law: str, layer: Layer) -> None:
    with pytest.raises(AssertionError, match=f"breaks the law [\"']{law}"):
        check_laws(Case(layer, 4))


def test_a_backward_pass_that_is_not_linear_is_told() -> None:
    """The other laws see one error only; a clip far above it is found by the combination of two."""
    layer = linear(3)
    at = given(layer, 4, 7)
    bound = 1.01 * float(jnp.max(jnp.abs(normal(jnp.zeros((7, 3)), 11))))
    clipped = layer._replace(backward=lambda p, t, e, r: layer.backward(p, t, jnp.clip(e, -bound, bound), r))
    pairs = backward_by_hand_and_by_jax(clipped, at)
    check_close(*pairs["vjp"])
    with pytest.raises(AssertionError, match="relative errors"):
        check_close(*pairs["linear in the error"])


@pytest.mark.parametrize("case", OF_ONE_MODE.values(), ids=OF_ONE_MODE.keys())
def test_apply_is_forward_without_its_tape_where_there_is_one_mode(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs)
    chex.assert_trees_all_equal(case.layer.apply(params, state, x), case.layer.forward(params, state, x, key)[0])


def test_the_other_layers_have_two_modes() -> None:
    assert set(LAYERS) - set(OF_ONE_MODE) == {"dropout", "inverted_dropout", "batch_norm", "batch_norm, other options"}


# What every layer and combinator does


@every_layer
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64], ids=lambda dtype: dtype.__name__)
def test_dtypes_are_kept_and_stable_as_a_carry(case: Case, dtype) -> None:
    params, state, x, key = given(case.layer, case.inputs, dtype=dtype)

    def three_steps(params, state):
        def step(carry, k):
            params, state = carry
            y, state, tape = case.layer.forward(params, state, x, k)
            error, readings = case.layer.backward(params, tape, jnp.ones_like(y), gradient)
            return (params, state), (drop_records(readings), y, error, case.layer.apply(params, state, x))

        return jax.lax.scan(step, (params, state), jax.random.split(key, 3))

    (_, new_state), arrays = jax.eval_shape(three_steps, params, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
    three = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(arrays[0], three)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, arrays))} <= {jnp.dtype(dtype)}
    average = jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype(average)}


@each_layer
def test_init_needs_only_a_shape(case: Case, key: jax.Array) -> None:
    x = jnp.zeros((2, case.inputs))
    from_shape = case.layer.init(key, jax.ShapeDtypeStruct(x.shape, x.dtype))
    chex.assert_trees_all_equal(from_shape, case.layer.init(key, x), strict=True)


@every_layer
def test_init_of_several_keys_stacks_what_one_key_gives(case: Case, key: jax.Array) -> None:
    init = lambda k: case.layer.init(k, jax.ShapeDtypeStruct((2, case.inputs), jnp.float64))  # noqa: E731
    one, several = jax.eval_shape(init, key), jax.eval_shape(jax.jit(jax.vmap(init)), jax.random.split(key, 3))
    stacked = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), one)
    chex.assert_trees_all_equal_shapes_and_dtypes(several, stacked)


@pytest.mark.parametrize("name", ["dense tanh", "batch_norm", "serial", "columns", "repeat"])
def test_init_goes_through_jit_and_vmap(name: str, key: jax.Array) -> None:
    layer, inputs = EVERY_LAYER[name]
    init = lambda k: layer.init(k, jax.ShapeDtypeStruct((2, inputs), jnp.float64))  # noqa: E731
    several = jax.jit(jax.vmap(init))(jax.random.split(key, 2))
    check_close(jax.tree.map(lambda leaf: leaf[1], several), init(jax.random.split(key, 2)[1]))


@every_layer
def test_forward_is_plain_jax(case: Case) -> None:
    params, state, x, key = given(case.layer, case.inputs)
    program = str(jax.make_jaxpr(case.layer.forward)(params, state, x, key))
    assert "custom_vjp" not in program


# Labels


LABELS = [
    "serial()",
    "serial(dense(64, tanh), dropout(0.5), linear(10))",
    "serial(linear(6), columns((2, activate(tanh)), (4, activate(relu))), batch_norm(epsilon=0.001), linear(3))",
    "repeat(remat(residual(serial(dense(8, leaky_relu(0.1)), linear(4)))), 20)",
    "serial(prelu(), prelu(alpha=0.1), inverted_dropout(0.2), batch_norm(), batch_norm(rate=0.5))",
    "columns((1, columns((1, linear(2)))), (3, serial()))",
    "serial(dense(3, softplus, w=he(), b=constant(0.1)), linear(2, w=orthogonal()))",
]


@pytest.mark.parametrize("label", LABELS)
def test_a_layer_prints_as_it_is_written(label: str) -> None:
    layer = eval(label, vars(fnn) | vars(fnn.nn))
    assert str(layer) == repr(layer) == label


# All of them under transformations


@pytest.mark.parametrize("name", ["dropout", "batch_norm", "columns", "repeat of dropout", "remat of from_function"])
def test_row_of_a_vmap_is_the_single_run(name: str, key: jax.Array) -> None:
    layer, inputs = EVERY_LAYER[name]
    seeds = [given(layer, inputs, seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)

    def both_ways(params, state, x, key):
        y, new_state, tape = layer.forward(params, state, x, key)
        return y, new_state, layer.backward(params, tape, jnp.sin(y), gradient)

    rows = jax.jit(jax.vmap(both_ways))(*stacked)
    check_close(jax.tree.map(lambda leaf: leaf[1], rows), both_ways(*seeds[1]))


def test_couples_knows_batch_norm() -> None:
    assert couples(KEEP_WIDTH["batch_norm"])
    assert not couples(KEEP_WIDTH["dense"])
