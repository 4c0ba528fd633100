"""Every layer of fnn keeps its laws, and every planted fault breaks the law that is named for it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import (
    Layer,
    activate,
    batch_norm,
    columns,
    dense,
    dropout,
    from_function,
    grouped,
    inverted_dropout,
    linear,
    mixed_precision,
    prelu,
    remat,
    repeat,
    residual,
    serial,
    tanh,
    watch,
)
from fnn.core import Modes, Unsupported
from fnn.testing import Laws, check_layer
from fnn.testing._equations import CHANGE, noisy
from fnn.testing._judges import relative_errors
from fnn.testing._subject import Subject
from fnn.testing._trees import cast
from fnn.testing.layers import LAWS
from tests.testing.faults import (
    ERROR,
    FAULTS,
    GRADIENT,
    KINKS,
    OF_ERROR,
    OF_GRADIENT,
    SQUARE,
    WIDE,
    Fault,
    X,
    constant,
    drawn,
    elementwise,
    fixed_mask,
    noisy_layer,
    raising,
    scaled_by_state,
    with_backward,
)

COUPLED = {"takes a batch of one", *(f"reading {r}" for r in ("per_example", "squared_norm", "gram", "second_moment"))}
COUPLED |= {"reading variance", "reading contributions", "curve gives the error", "curve at x equals jax.hessian"}
COUPLED |= {"curve at the params equals jax.hessian", "one pass is the exact diagonal"}


def broken(laws: Laws) -> set[str]:
    return {law.name for law in laws.failures}


def skipped(laws: Laws) -> set[str]:
    return {law.name for law in laws.rows if law.outcome == "skipped"}


# Right layers


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
    assert skipped(laws) == expected
    assert ("coupled" in laws.law("examples are independent").finding) == coupled


RIGHT = {
    "linear": linear(3),
    "dense": dense(3, tanh),
    "square": SQUARE,
    "activate": activate(tanh),
    "dropout": dropout(0.4),
    "inverted_dropout": inverted_dropout(0.4),
    "batch_norm": batch_norm(),
    "prelu": prelu(),
    "residual": residual(SQUARE),
    "columns": columns((2, dense(3, tanh)), (2, dense(3, tanh))),
    "repeat": repeat(SQUARE, 3),
    "serial": serial(SQUARE, SQUARE),
    "remat": remat(serial(dropout(0.5), linear(3))),
}


@pytest.mark.parametrize("layer", RIGHT.values(), ids=RIGHT.keys())
def test_the_layers_that_faults_are_planted_in_are_right(layer: Layer) -> None:
    check_layer(layer, WIDE, only=[ERROR, GRADIENT], tolerance=1e-12).raise_if_failed()


# Planted faults


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_planted_fault_breaks_the_law_of_its_name(fault: Fault) -> None:
    laws = check_layer(fault.layer, fault.x, only=[fault.law], tolerance=1e-12)
    assert broken(laws) == {fault.law}, laws
    assert fault.word in laws.law(fault.law).finding


def test_every_law_has_a_fault() -> None:
    assert {question.name for question in LAWS} == {fault.law for fault in FAULTS.values()}


HIDDEN_BY_ONES = ["bias that counts examples", "error not through σ²", "columns swapped"]


@pytest.mark.parametrize("name", HIDDEN_BY_ONES)
def test_why_the_error_at_y_is_random(name: str) -> None:
    """Ones are their own sum over examples but for a count, have mean_n(e x̂) = mean_n x̂ = 0, and no columns."""
    layer = (OF_GRADIENT | OF_ERROR)[name]
    with jax.enable_x64(True):
        x = cast(WIDE, jnp.float64)
        s = Subject(layer, *layer.init(jax.random.key(0), x), x, jax.random.key(0))
        for error, agree in ((jnp.ones_like(s.error), True), (s.error, False)):
            errors = relative_errors({"": (s.pulled(error), s.pulled_by_jax(error))})
            assert (max(errors.values()) < 1e-12) == agree


def test_only_some_laws_are_asked_and_those_that_they_need() -> None:
    laws = check_layer(linear(2), X, only=["reading gram", "init is pure"])
    needed = ["init gives arrays", "init is pure", "forward runs under jit", "backward runs under jit", "reading gram"]
    assert [law.name for law in laws.rows] == needed
    with pytest.raises(ValueError, match=r"only: expected names of laws, got 'reading'\. Choose among"):
        check_layer(linear(2), X, only=["reading"])


def test_rounding_of_one_equation_in_two_places_is_not_impure():
    """Compiled with x off 0 the two forward passes of batch_norm differ by 1e-16."""
    x = 50 + np.random.default_rng(0).standard_normal((19, 12, 5))[18]
    check_layer(batch_norm(), x).raise_if_failed()


def test_constants_in_a_state_and_the_application_stage_need_not_learn():
    for right in (constant(linear(3)), fnn.inference_mode(batch_norm())):
        check_layer(right, X).raise_if_failed()
    staged = noisy_layer()._replace(modes=Modes(activate(fnn.identity)))
    assert check_layer(staged, X).law("draws in training only").outcome == "holds"


@pytest.mark.parametrize("name", KINKS)
def test_a_right_layer_passes_on_its_kinks(name):
    laws = check_layer(elementwise(*KINKS[name]), jnp.eye(3))
    laws.raise_if_failed()
    if name != "where":
        assert "beside x, which lies on a kink of forward" in laws.law("error equals jax.vjp").finding


def test_what_draws_other_numbers_in_another_dtype_is_right():
    for right in (drawn(), serial(linear(2), drawn(), batch_norm())):
        laws = check_layer(right, X)
        laws.raise_if_failed()
        assert "off jax.vjp by" in laws.law("right in bfloat16").finding
    assert "off float64 by" in check_layer(inverted_dropout(0.5), X).law("right in bfloat16").finding


def test_a_state_that_starts_at_zero_hides_no_fault():
    check_layer(scaled_by_state(True), X).raise_if_failed()
    assert check_layer(scaled_by_state(False), X, params=(), state=jnp.zeros(2)).passed  # where one says to look


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_a_layer_that_computes_in_a_narrower_dtype_is_judged_to_its_rounding(dtype):
    laws = check_layer(mixed_precision(serial(dense(3, tanh), linear(2)), dtype), X)
    laws.raise_if_failed()
    assert f"rounds to {jnp.dtype(dtype)} on its way" in laws.law("keeps the dtype").finding


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_a_saturated_layer_is_right_where_jax_has_lost_its_slopes(scale):
    check_layer(dense(3, tanh), scale * X).raise_if_failed()


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


def test_a_layer_of_one_mode_trains_as_it_is_applied():
    law = "inference_mode(layer) equals jax.vjp"
    assert check_layer(linear(2), X, only=[law]).law(law).finding == "one mode for training and inference"


def test_numbers_outside_the_range_of_a_dtype_judge_nothing():
    check_layer(prelu(), 1e-6 * X).raise_if_failed()


def test_params_of_integers_are_said_once():
    assert broken(check_layer(fixed_mask(), X)) == {"init gives arrays"}
    with pytest.raises(TypeError, match=r"check_layer: expected params of floats, got int32 at params\['b'\]"):
        check_layer(linear(2), X, params={"w": np.ones((2, 2)), "b": np.ones(2, np.int32)})


def test_faults_have_no_bystanders():
    """One wrong leaf of the gradient is found by what compares gradients, and all else still holds."""
    wrong = with_backward(lambda e, r, p, t, error, read: (e, r | {"b": -r["b"]} if read is fnn.gradient else r))
    by_gradients = {"gradient equals jax.vjp", "runs inside serial", "takes a batch of one"}
    assert broken(check_layer(wrong, X)) == by_gradients


def test_a_layer_that_cannot_run_is_told_from_one_that_is_skipped():
    laws = check_layer(linear(2)._replace(forward=raising), X)
    assert broken(laws) == {"forward runs under jit"}
    assert laws.law("error equals jax.vjp").finding == "not before this holds: backward runs under jit"
    laws = check_layer(linear(2)._replace(init=raising), X)
    assert broken(laws) == {"init gives arrays"}
    assert laws.law("forward runs under jit").outcome == "skipped"


def test_an_accident_is_no_refusal():
    """A reading that the layer refuses by `Unsupported` is skipped; one that fails in another way is broken."""

    def refusing(kind):
        def change(e, r, params, tape, error, read):
            if not read.linear:
                raise kind("only gradients here")
            return e, r

        return with_backward(change)

    name = "reading gram"
    refused = check_layer(refusing(Unsupported), X, only=[name]).law(name)
    assert (refused.outcome, "only gradients here" in refused.finding) == ("skipped", True)
    for layer in (refusing(ValueError), FAULTS["stumbles over a reading"].layer):
        law = check_layer(layer, X, only=[name]).law(name)
        assert (law.outcome, "ValueError" in law.finding) == ("broken", True)
        assert "raise fnn.core.Unsupported" in law.finding


def test_the_params_that_are_given_are_those_that_are_looked_at():
    params = {"w": np.zeros((2, 2), np.float32), "b": np.full(2, np.inf, np.float32)}
    assert "forward is finite" in broken(check_layer(linear(2), X, params=params))


# Bad input


def test_whole_numbers_break_a_law_of_a_layer_of_floats() -> None:
    assert broken(check_layer(linear(2), X.astype(int))) == {"init gives arrays"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((dense, X), TypeError, "Call the factory"),
        ((linear(2), X[:1]), ValueError, "at least 2 examples"),
        ((linear(2), X[0]), ValueError, "batch axis"),
        ((linear(2), X > 0), TypeError, "expected floats"),
        ((linear(2), X * np.nan), ValueError, "finite x"),
    ],
)
def test_what_is_no_layer_or_no_batch(given, error, message):
    with pytest.raises(error, match=message):
        check_layer(*given)


def test_a_state_without_params():
    with pytest.raises(ValueError, match="expected params together with a state"):
        check_layer(linear(2), X, state=())
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: check_layer(linear(2), x).passed)(X)
