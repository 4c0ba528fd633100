"""compare_gradients: it finds what is wrong, agrees with what is right, and says so in words."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import Layer, backprop, compare_gradients, dense, linear, serial, softmax_cross_entropy, squared, tanh
from fnn.core import NeedsMoreExamples, Unsupported
from fnn.derivatives import ggn_vector_product, gradient_noise, hessian_vector_product
from fnn.derivatives import reference as automatic
from fnn.nn import intercept
from fnn.testing import Culprit, Examples, GradientComparison, Kind, compare
from fnn.testing._trees import normal

KEY = jax.random.key(0)
X, Y = jax.random.normal(KEY, (6, 4)), jnp.array([0, 1, 2, 0, 1, 2])
NET = serial(dense(5, tanh), fnn.batch_norm(), fnn.inverted_dropout(0.2), linear(3))


def compared(net: Layer = NET, **options):
    params, state = net.init(KEY, X)
    options = {"examples": False, "dtypes": ()} | options
    return compare_gradients(net, softmax_cross_entropy, params, state, (X, Y), KEY, **options)


def off_by(factor: float):
    """BackProp whose last bias gradient is wrong by a factor."""

    def wrong(net, loss):
        right = backprop(net, loss)

        def gradient(*given):
            value, g = right(*given)
            return value, (*g[:-1], g[-1] | {"b": g[-1]["b"] * factor})

        return gradient

    return wrong


def test_right_gradients_agree_in_every_way() -> None:
    report = compared()
    assert report.worst < 1e-13
    for leaf in report.leaves:
        assert leaf.differences["manual–automatic"].cosine == pytest.approx(1, abs=1e-12)
        # A central difference is good to about ∛eps² of Q's scale; ten digits less than the gradients themselves.
        assert leaf.differences["manual–differences"].largest < 1e-8
        assert leaf.differences["automatic–differences"].largest < 1e-8


@pytest.mark.parametrize("error", [1e-3, 1e-9])
def test_a_wrong_gradient_is_measured_and_located(error: float) -> None:
    report = compared(manual=off_by(1 + error), tolerance=error / 2)
    assert report.worst == pytest.approx(error, rel=1e-3)
    worst = max(report.leaves, key=lambda leaf: leaf.differences["manual–automatic"].relative)
    assert worst.path == "[3]['b']"
    assert worst.differences["automatic–differences"].relative < 1e-7


def test_differences_tell_which_of_two_gradients_is_wrong() -> None:
    wrong = compared(serial(dense(5, tanh), linear(3)), manual=off_by(1.01)).leaves[-2]
    assert wrong.differences["manual–differences"].relative == pytest.approx(0.01, rel=1e-3)
    assert wrong.differences["automatic–differences"].relative < 1e-7


def test_single_precision_is_compared_beside_double() -> None:
    with jax.enable_x64(False):
        x = X.astype(jnp.float32)
        params, state = NET.init(KEY, x)
        report = compare_gradients(NET, softmax_cross_entropy, params, state, (x, Y.astype(jnp.int32)), KEY)
    assert report.worst < 1e-13
    assert all(leaf.differences["manual–automatic, float32"].relative < 1e-5 for leaf in report.leaves)


def test_large_leaves_are_sampled_and_small_ones_taken_whole() -> None:
    few = compared(entries=2)
    for leaf in few.leaves:
        assert leaf.differences["manual–differences"].largest < 1e-8


def test_networks_without_parameters_can_be_compared() -> None:
    report = compared(serial(fnn.activate(tanh), fnn.activate(tanh)), examples=True)
    assert [leaf.path for leaf in report.leaves] == ["x"]
    assert str(report.verdict).startswith("agree to 1")
    nothing = compared(serial(fnn.activate(tanh)), manual=lambda *given: backprop(*given))
    assert (nothing.leaves, str(nothing.verdict), nothing.worst) == ((), "agree to 16 digits", 0.0)


def found(report: GradientComparison) -> Culprit:
    assert report.culprit is not None
    return report.culprit


def alone(report: GradientComparison) -> Examples:
    assert report.examples is not None
    return report.examples


def faulty(layer: Layer, change) -> Layer:
    """The layer with its (error at x, readings) changed."""
    return intercept(layer, label="faulty", backward=lambda call, *given: change(*call(*given)))


def times(factor: float):
    """A gradient wrong by a factor."""
    return lambda error, readings: (error, jax.tree.map(lambda g: factor * g, readings))


def error_times(factor: float):
    """An error at x wrong by a factor."""
    return lambda error, readings: (factor * error, readings)


def without_transpose(layer: Layer) -> Layer:
    """A square linear layer that sends ε back through w in the place of its transpose."""
    turned = lambda call, params, *rest: call(params | {"w": params["w"].T}, *rest)  # noqa: E731
    return intercept(layer, label="faulty", backward=turned)


@jax.custom_jvp
def tanh_with_a_wrong_rule(S):
    return jnp.tanh(S)


tanh_with_a_wrong_rule.defjvp(lambda S, dS: (jnp.tanh(S[0]), 1.001 * (1 - jnp.tanh(S[0]) ** 2) * dS[0]))

ROOMY = dense(5, tanh)
FAULTS = {
    "by 0.1 %": (serial(ROOMY, faulty(ROOMY, times(1.001)), linear(3)), "[1] faulty", "gradient at"),
    "by 1e-6": (serial(ROOMY, faulty(ROOMY, times(1 + 1e-6)), linear(3)), "[1] faulty", "off by 1.0e-06"),
    "bias only": (
        serial(faulty(ROOMY, lambda e, g: (e, g | {"b": -g["b"]})), linear(3)),
        "[0] faulty",
        "gradient at ['b'] off by 2.0e+00",
    ),
    "no transpose": (serial(ROOMY, without_transpose(linear(5)), linear(3)), "[1] faulty", "error at x"),
    "in repeat": (serial(ROOMY, fnn.repeat(faulty(ROOMY, times(1.001)), 3), linear(3)), "[1] faulty", "gradient"),
    "in residual": (serial(ROOMY, fnn.residual(faulty(ROOMY, error_times(1.001))), linear(3)), "[1] faulty", "error"),
    "in columns": (
        serial(ROOMY, fnn.columns((2, faulty(fnn.activate(tanh), error_times(1.001))), (3, fnn.activate(fnn.relu)))),
        "[1][0] faulty",
        "error at x off by 1.0e-03",
    ),
    "before dropout": (
        serial(linear(5), faulty(fnn.batch_norm(), error_times(1.001)), fnn.inverted_dropout(0.2), linear(3)),
        "[1] faulty",
        "error at x off by 1.0e-03",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_judged_and_found_in_its_layer(name: str) -> None:
    net, place, finding = FAULTS[name]
    report = compared(net)
    assert str(report.verdict) == "manual wrong"
    assert report.culprit is not None
    assert report.culprit.place == place
    assert report.culprit.stage == "backward"
    assert finding in report.culprit.finding
    assert f"arises in {place}" in str(report)
    assert report.to_dict()["culprit"]["place"] == place


def test_a_wrong_automatic_rule_is_judged_automatic_wrong() -> None:
    report = compared(serial(dense(5, tanh._replace(value=tanh_with_a_wrong_rule)), linear(3)))
    assert str(report.verdict) == "automatic wrong"
    verdicts = {leaf.path: str(leaf.verdict) for leaf in report.leaves}
    assert [verdicts.pop(path) for path in ("[0]['b']", "[0]['w']", "x")] == ["automatic wrong"] * 3
    assert all(verdict.startswith("agree to 1") for verdict in verdicts.values())
    assert found(report).stage == "automatic backward"
    assert "arises in [0] dense(5, tanh), automatic backward: " in str(report)
    assert found(report).finding.endswith(" off by 1.0e-03, by hand it is right")


def test_where_nobody_can_tell_whose_fault_it_is_nobody_is_blamed() -> None:
    wrong = serial(faulty(dense(5, tanh._replace(value=tanh_with_a_wrong_rule)), times(0.9)), linear(3))
    assert found(compared(wrong)).stage == "manual or automatic backward"
    assert " apart by " in found(compared(wrong)).finding


def test_two_wrong_gradients_are_both_wrong() -> None:
    wrong = serial(faulty(dense(5, tanh._replace(value=tanh_with_a_wrong_rule)), times(0.9)), linear(3))
    assert str(compared(wrong).verdict) == "both wrong"


def test_gradients_that_agree_on_a_wrong_number_are_found_out() -> None:
    report = compared(manual=off_by(1.01), automatic=off_by(1.01), names=("mine", "yours"))
    assert str(report.verdict).endswith("but not with the quotients")
    assert str(report.leaves[0].verdict).startswith("agree")
    assert "not" not in str(report.leaves[0].verdict)


def test_a_fault_below_what_quotients_can_see_is_left_open() -> None:
    report = compared(manual=off_by(1 + 1e-14), tolerance=1e-15)
    assert str(report.verdict) == "difference quotient unreliable"


def test_a_kink_is_told_from_a_fault() -> None:
    at_kink = serial(linear(5, w=fnn.nn.zeros()), faulty(fnn.activate(fnn.relu), error_times(3.0)), linear(3))
    report = compared(serial(dense(5, fnn.relu, w=fnn.nn.zeros()), linear(3)))
    assert report.leaves[1].kinks == 20
    assert report.leaves[3].kinks == 0
    assert f"kinks: {sum(leaf.kinks for leaf in report.leaves)} of the sampled entries" in str(report)
    away = compared(serial(dense(5, fnn.relu), linear(3)))
    assert sum(leaf.kinks for leaf in away.leaves) == 0
    assert str(away.verdict).startswith("agree to 1")
    assert str(compared(at_kink).verdict) in ("differ at a kink", str(report.verdict))


def subgradient_at_zero(slope: float):
    """BackProp of a network whose relu has another slope at 0."""
    relu = fnn.relu._replace(slope=lambda S: jnp.where(S == 0, slope, jnp.where(S > 0, 1.0, 0.0)))
    return lambda _, loss: backprop(serial(dense(5, relu, w=fnn.nn.zeros()), linear(3)), loss)


def test_gradients_that_differ_at_kinks_only_are_neither_wrong() -> None:
    net = serial(dense(5, fnn.relu, w=fnn.nn.zeros()), linear(3))
    report = compared(net, manual=subgradient_at_zero(0.7))
    assert str(report.verdict) == "differ at a kink"


@pytest.mark.parametrize(
    ("change", "verdict", "stage"),
    [
        (lambda error, readings: (error * jnp.nan, readings), "manual wrong, not finite", "backward"),
        (lambda error, readings: (error, readings | {"b": readings["b"] / 0}), "manual wrong, not finite", "backward"),
    ],
)
def test_the_first_number_that_is_not_finite_is_found(change, verdict: str, stage: str) -> None:
    report = compared(serial(dense(5, tanh), faulty(dense(4, tanh), change), linear(3)))
    assert str(report.verdict) == verdict
    assert (found(report).place, found(report).stage) == ("[1] faulty", stage)


def test_a_forward_pass_that_is_not_finite_is_found_before_what_follows_from_it() -> None:
    root = fnn.from_function(lambda key, x: jnp.ones(()), lambda scale, x: jnp.sqrt(scale * x), "root")
    report = compared(serial(linear(5), root, linear(3)))
    assert str(report.verdict) == "both not finite"
    assert (found(report).place, found(report).stage) == ("[1] root", "forward")
    assert found(report).finding.startswith("output NaN in ")


def test_a_batch_that_is_not_finite_is_to_blame_for_what_it_does() -> None:
    net = serial(dense(5, tanh), linear(3))
    params, state = net.init(KEY, X)
    x = X.at[2, 1].set(jnp.inf)
    options = {"examples": False, "dtypes": ()}
    report = compare_gradients(net, softmax_cross_entropy, params, state, (x, Y), KEY, **options)
    assert (found(report).place, found(report).stage) == ("batch", "given")
    assert found(report).finding == "[0] infinite in 1 of 24"


def errors_at_x(net: Layer, given):
    """∂Q/∂x by the hand-written backward pass, and by JAX."""
    params, state, (x, y), key = given
    a, _, tape = net.forward(params, state, x, key)
    error = softmax_cross_entropy.slope(a, y) / len(x)
    of_loss = jax.grad(lambda x: fnn.objective(net, softmax_cross_entropy)(params, state, (x, y), key)[0])
    return net.backward(params, tape, error, fnn.gradient)[0], of_loss(x)


def test_the_error_at_x_is_compared_too() -> None:
    report = compared(serial(ROOMY, linear(3)))
    x = report.leaves[-1]
    assert (x.path, x.shape) == ("x", (6, 4))
    assert str(x.verdict).startswith("agree to 1")
    assert x.differences["manual–differences"].largest < 1e-8
    at_x, by_jax = errors_at_x(serial(ROOMY, linear(3)), (*serial(ROOMY, linear(3)).init(KEY, X), (X, Y), KEY))
    np.testing.assert_allclose(x.differences["manual–automatic"].norm, jnp.linalg.norm(by_jax), rtol=1e-12)
    np.testing.assert_allclose(at_x, by_jax, rtol=1e-12)


@pytest.mark.parametrize("factor", [-3.0, 1.001, 1 + 1e-6])
@pytest.mark.parametrize("alone", [True, False])
def test_a_wrong_error_at_x_of_the_bottom_layer_is_found(factor: float, alone: bool) -> None:
    bottom = faulty(dense(3, tanh), error_times(factor))
    report = compared(bottom if alone else serial(bottom, linear(3)))
    assert str(report.verdict) == "manual wrong"
    assert [leaf.path for leaf in report.leaves if str(leaf.verdict) == "manual wrong"] == ["x"]
    assert report.worst == pytest.approx(abs(factor - 1), rel=1e-3)
    assert found(report).place == ("faulty" if alone else "[0] faulty")
    assert found(report).finding.startswith("error at x off by")


def test_a_step_for_the_quotients_at_x_can_be_chosen() -> None:
    leaves = compared(serial(dense(5, tanh), linear(3)), steps={"x": 1e-2}).leaves
    assert [leaf.step == 1e-2 for leaf in leaves] == [leaf.path == "x" for leaf in leaves]


def test_a_layer_that_is_right_but_for_a_composite_around_it_is_not_blamed() -> None:
    inner = fnn.residual(ROOMY)
    lossy = lambda layer: layer._replace(  # noqa: E731
        label="my combinator",
        backward=faulty(layer, error_times(1.5)).backward,
        with_children=lambda *of: lossy(residual(*of)),
    )
    residual = fnn.residual
    report = compared(serial(ROOMY, serial(linear(5), lossy(inner)), linear(3)))
    assert str(report.verdict) == "manual wrong"
    assert (found(report).place, found(report).stage) == ("[1][1] my combinator", "backward")
    assert found(report).finding == "error at x off by 5.0e-01"


def test_watched_networks_are_compared_as_they_are_trained() -> None:
    net = serial(dense(5, tanh), linear(3))
    report = compared(fnn.watch(net), examples=True, dtypes=("float32",))
    assert str(report.verdict).startswith("agree to 1")
    assert [leaf.path for leaf in report.leaves] == [leaf.path for leaf in compared(net).leaves]
    wrong = compared(fnn.watch(serial(dense(5, tanh), faulty(dense(4, tanh), times(1.01)), linear(3))))
    assert (str(wrong.verdict), found(wrong).place) == ("manual wrong", "[1] watch(faulty)")


def single(change) -> Layer:
    """A layer written for float32 alone."""
    return fnn.from_function(lambda key, x: jnp.ones((4, 4), jnp.float32), change, "single")


@pytest.mark.parametrize(
    "layer",
    [
        single(lambda a, x: (x @ a).astype(jnp.float32)),
        single(lambda a, x: x.astype(jnp.float32) @ a.astype(jnp.float32)),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
def test_a_layer_that_does_not_follow_the_dtype_is_named(layer: Layer, alone: bool) -> None:
    net, x = layer if alone else serial(layer, linear(3)), X.astype(jnp.float32)
    params, state = net.init(KEY, x)
    with pytest.raises(TypeError, match=r"^single does not follow the dtype of x: .* float64 .* gives float32"):
        compare_gradients(net, softmax_cross_entropy, params, state, (x, Y), KEY)


def test_examples_are_compared_one_by_one() -> None:
    def change(error, readings):
        return error.at[0].multiply(jnp.where(error[0, 0] > 0, 1.1, 1.0)), readings

    net = serial(dense(5, tanh), faulty(linear(4), change), fnn.activate(tanh), linear(3))
    report = compared(net, examples=True)
    params, state = net.init(KEY, X)
    wrong, right = backprop(net, softmax_cross_entropy), fnn.autodiff(net, softmax_cross_entropy)
    for n, error in enumerate(alone(report).errors):
        given = params, state, (X[n : n + 1], Y[n : n + 1]), KEY
        u, v = (ravel_pytree(f(*given)[1])[0] for f in (wrong, right))
        at_x, by_jax = errors_at_x(net, given)
        expected = max(float(jnp.linalg.norm(u - v) / jnp.linalg.norm(v)) for u, v in ((u, v), (at_x, by_jax)))
        assert error == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert alone(report).errors.max() > 1e-3
    assert alone(report).worst == int(np.argmax(alone(report).errors))


def test_single_examples_of_a_coupled_batch_are_refused_with_the_reason() -> None:
    report = compared(serial(linear(5), fnn.batch_norm(), linear(3)), examples=True)
    assert alone(report).errors.size == 0
    assert "expected at least 2 examples" in alone(report).skipped
    assert "example by example: skipped" in str(report)


def test_an_error_of_the_users_own_is_no_refusal_but_for_needs_more_examples() -> None:
    def of_several(error):
        def manual(net, loss):
            right = backprop(net, loss)

            def gradient(params, state, batch, key):
                if len(batch[0]) == 1:
                    raise error("too few")
                return right(params, state, batch, key)

            return gradient

        return manual

    net = serial(dense(5, tanh), linear(3))
    for error in (ValueError, Unsupported):
        with pytest.raises(error, match="too few") as caught:
            compared(net, manual=of_several(error), examples=True)
        assert any("examples=False" in note for note in caught.value.__notes__)
    assert compared(net, manual=of_several(ValueError)).verdict.agree
    assert alone(compared(net, manual=of_several(NeedsMoreExamples), examples=True)).skipped == "too few"


@pytest.mark.parametrize("seed", [2, 10])
def test_kinks_between_the_steps_are_no_false_alarm(seed: int) -> None:
    """By chance R(h) = R(h/4) there, on a number that is off by a thousand times their difference."""
    with jax.enable_x64(False):
        key, net = jax.random.key(seed), serial(dense(32, fnn.relu), dense(32, fnn.relu), linear(3))
        x, y = jax.random.normal(key, (64, 4)), jax.random.randint(key, (64,), 0, 3)
        given = *net.init(jax.random.fold_in(key, 2), x), (x, y), key
        options = {"examples": False, "dtypes": ()}
        report = compare_gradients(net, softmax_cross_entropy, *given, **options)
        assert str(report.verdict).startswith("agree to 1")
        assert "not" not in str(report.verdict)
        wrong = serial(dense(32, fnn.relu), faulty(dense(32, fnn.relu), error_times(1.001)), linear(3))
        assert str(compare_gradients(wrong, softmax_cross_entropy, *given, **options).verdict) == "manual wrong"


def test_lower_precisions_are_measured_against_each_gradients_own_float64() -> None:
    report = compared(serial(dense(5, tanh), linear(3)), dtypes=("float32", "bfloat16", "float16"))
    for precision, eps in zip(report.precisions, (2**-23, 2**-7, 2**-10), strict=True):
        assert eps / 100 < precision.first < 20 * eps
        assert eps / 100 < precision.second < 20 * eps


def test_a_layer_that_loses_digits_is_named() -> None:
    def coarse(error, readings):
        return error, jax.tree.map(lambda g: g.astype(jnp.float16).astype(g.dtype), readings)

    report = compared(serial(faulty(dense(5, tanh), coarse), linear(3)), dtypes=("float32",), tolerance=1e-2)
    assert report.precisions[0].first < 1e-6  # both round to float16
    assert str(report.verdict).startswith("agree to 3 digits")


@pytest.mark.parametrize("steps", [1e-2, {"[0]['w']": 1e-2}])
def test_steps_can_be_chosen_for_each_leaf(steps) -> None:
    leaves = {leaf.path: leaf for leaf in compared(serial(dense(5, tanh), linear(3)), steps=steps).leaves}
    first = leaves.pop("[0]['w']")
    assert first.step == 1e-2
    assert all((leaf.step == 1e-2) == (not isinstance(steps, dict)) for leaf in leaves.values())
    assert first.differences["automatic–differences"].relative < 1e-6


def test_quotients_estimate_their_own_error() -> None:
    report = compared(serial(dense(5, tanh), linear(3)), steps=0.2)
    for leaf in report.leaves:
        assert leaf.differences["automatic–differences"].largest < 100 * leaf.error
    assert max(leaf.differences["automatic–differences"].largest for leaf in report.leaves) > 1e-9


def test_any_two_functions_can_be_compared() -> None:
    net = serial(dense(5, tanh), linear(3))
    given = *net.init(KEY, X), (X, Y), KEY
    by_hand = backprop(net, softmax_cross_entropy, fnn.second_moment)
    twin = automatic.read(net, softmax_cross_entropy, fnn.second_moment)
    assert str(compare(by_hand, twin, given, examples=False).verdict).startswith("agree to 1")
    doubled = lambda *given: (twin(*given)[0], jax.tree.map(lambda g: 2 * g, twin(*given)[1]))  # noqa: E731
    report = compare(by_hand, doubled, given, examples=False)
    assert str(report.verdict) == "differ"
    assert report.worst == pytest.approx(0.5)


BARE = {
    "hessian_vector_product": (hessian_vector_product, automatic.hessian_vector_product),
    "ggn_vector_product": (ggn_vector_product, automatic.ggn_vector_product),
    "gate_curvature": (fnn.derivatives.gate_curvature, automatic.gate_curvature),
    "gradient_noise": (gradient_noise, automatic.gradient_noise),
}


@pytest.mark.parametrize("name", BARE)
def test_functions_that_return_a_tree_alone_can_be_compared(name: str) -> None:
    net = serial(dense(5, tanh), linear(3))
    params, state = net.init(KEY, X)
    given = params, state, (X, Y), KEY
    if name.endswith("product"):
        given = (*given, jax.tree.map(lambda p: jax.random.normal(KEY, p.shape, p.dtype), params))
    by_hand, twin = (make(net, softmax_cross_entropy) for make in BARE[name])
    options = {"examples": name != "gradient_noise", "dtypes": ("float32",)}
    assert str(compare(by_hand, twin, given, bare=True, **options).verdict).startswith("agree to 1")

    def off(*given):
        first, *others = jax.tree.leaves(twin(*given))
        wrong = first.reshape(-1).at[0].multiply(2).reshape(first.shape)
        return jax.tree.unflatten(jax.tree.structure(twin(*given)), [wrong, *others])

    assert str(compare(by_hand, off, given, bare=True, **options).verdict) == "differ"
    with pytest.raises(TypeError, match=r"first must return \(\(value, state\), tree\).*bare=True"):
        compare(by_hand, twin, given)


def test_a_refusal_of_single_examples_is_told_of_noise_too() -> None:
    net = serial(dense(5, tanh), linear(3))
    given = *net.init(KEY, X), (X, Y), KEY
    by_hand, twin = (make(net, softmax_cross_entropy) for make in BARE["gradient_noise"])
    assert "at least two examples" in alone(compare(by_hand, twin, given, bare=True)).skipped


def test_a_tree_that_looks_like_a_value_and_a_tree_is_not_taken_for_one() -> None:
    scale = fnn.from_function(lambda key, x: jnp.ones(()), lambda a, x: a * x, "scale")
    net = serial(serial(scale, linear(3)), fnn.activate(tanh))
    params, state = net.init(KEY, X)
    product = hessian_vector_product(net, softmax_cross_entropy)
    assert jnp.shape(product(params, state, (X, Y), KEY, params)[0][0]) == ()
    with pytest.raises(TypeError, match="first must return"):
        compare(product, product, (params, state, (X, Y), KEY, params))


def test_what_a_function_brings_along_does_not_become_float64() -> None:
    net, x = serial(dense(5, tanh), linear(3)), X.astype(jnp.float32)
    given = *net.init(KEY, x), (x, Y), KEY
    product: Any = hessian_vector_product(net, softmax_cross_entropy)
    along = lambda *at: product(*at, given[0])  # noqa: E731
    with pytest.raises(
        TypeError, match=r"first takes the arrays as given and not in float64.*take all its arrays from"
    ):
        compare(along, along, given, bare=True)


def test_trees_of_different_shapes_are_told_in_words() -> None:
    def short(net, loss):
        right = backprop(net, loss)
        return lambda *given: (right(*given)[0], (right(*given)[1][0], {"b": jnp.ones(2), "w": jnp.ones((5, 3))}))

    with pytest.raises(ValueError, match=r"manual\[1\]\['b'\] has shape \(2,\), but automatic has \(3,\) there"):
        compared(serial(dense(5, tanh), linear(3)), manual=short)
    narrow = faulty(dense(5, tanh), lambda error, readings: (error[:, :1], readings))
    with pytest.raises(ValueError, match=r"manual at x has shape \(6, 1\), but automatic has \(6, 4\) there"):
        compared(serial(narrow, linear(3)))
    other = lambda net, loss: lambda *given: (backprop(net, loss)(*given)[0], 1.0)  # noqa: E731
    with pytest.raises(ValueError, match=r"(?s)manual and automatic differ in structure.*Give manual the structure of"):
        compared(serial(dense(5, tanh), linear(3)), manual=other)


@pytest.mark.parametrize(
    ("steps", "message"),
    [({"[9]['w']": 1e-3}, r"no leaves of the params; these are \["), (-1.0, "steps"), ({"[0]['w']": 0.0}, "step of")],
)
def test_bad_steps_are_refused(steps, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compared(serial(dense(5, tanh), linear(3)), steps=steps)


def test_quotients_do_not_judge_what_is_no_gradient() -> None:
    net = serial(dense(5, tanh), linear(3))
    given = *net.init(KEY, X), (X, Y), KEY
    norms = backprop(net, softmax_cross_entropy, fnn.squared_norm)
    with pytest.raises(ValueError, match="shapes of the params"):
        compare(norms, norms, given, mean_loss=fnn.objective(net, softmax_cross_entropy), examples=False)


# At kinks, and on the scale of the numbers


def padded() -> tuple[Any, Any]:
    """One row of zeros, whose S is exactly 0 at the start."""
    return X.at[5].set(0), jax.random.normal(jax.random.key(1), (6, 1))


def of_padded(layer: Layer) -> GradientComparison:
    net, batch = serial(layer, linear(1)), padded()
    options = {"examples": False, "dtypes": ()}
    return compare_gradients(net, fnn.squared, *net.init(KEY, batch[0]), batch, KEY, **options)


@pytest.mark.parametrize("factor", [1000.0, -1.0, 1.5])
def test_a_wrong_gradient_is_not_excused_by_a_kink(factor: float) -> None:
    """The ×factor holds of the rows off the kink as well."""
    report = of_padded(faulty(dense(5, fnn.relu), lambda e, g: (e, g | {"b": factor * g["b"]})))
    assert str(report.verdict) == "manual wrong"
    assert (found(report).place, "['b']" in found(report).finding) == ("[0] faulty", True)


@pytest.mark.parametrize(
    ("slope", "verdict"), [(0.5, "differ at a kink"), (1.0, "differ at a kink"), (50.0, "manual wrong")]
)
def test_a_slope_at_a_kink_lies_between_those_beside_it(slope: float, verdict: str) -> None:
    relu = fnn.relu._replace(slope=lambda S: jnp.where(S == 0, slope, jnp.where(S > 0, 1.0, 0.0)))
    assert str(of_padded(dense(5, relu)).verdict) == verdict


def test_a_right_gradient_at_a_kink_is_no_false_alarm() -> None:
    assert str(of_padded(dense(5, fnn.relu)).verdict).startswith("agree to 1")


SCALES = {"metres": (5e-7, 1e-7), "farads": (1e-12, 1e-13), "unix seconds": (1.7e9, 60.0)}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_quotients_follow_the_scale_of_the_numbers(name: str, factor: float) -> None:
    """A smooth network of x = mean ± spread, whose first layer normalises them: nothing has a kink."""
    (mean, spread), z = SCALES[name], jax.random.normal(KEY, (6, 3))
    x, y = mean + spread * z, jax.random.normal(jax.random.key(1), (6, 1))
    net = serial(faulty(dense(5, tanh), error_times(factor)), linear(1))
    (first, last), state = net.init(KEY, z)
    w = first["w"] / spread
    params = {"w": w, "b": -mean * jnp.sum(w, axis=0)}, last
    report = compare_gradients(net, fnn.squared, params, state, (x, y), KEY, examples=False, dtypes=())
    assert sum(leaf.kinks for leaf in report.leaves) == 0
    if factor == 1:
        assert report.verdict.agree
    else:
        assert str(report.verdict) == "manual wrong"


def test_where_all_is_kinks_the_report_names_a_way_out() -> None:
    report = compared(serial(dense(5, fnn.relu, w=fnn.nn.zeros()), linear(3)))
    assert "no quotient judges [0]['w']" in str(report)
    assert "steps={\"[0]['w']\": 1e-6}" in str(report)
    assert "steps=" not in str(compared(serial(dense(5, fnn.relu), linear(3))))


# In the dtype one trains in


def narrowly(layer: Layer, dtype: str, change) -> Layer:
    """The layer with its (error at x, readings) changed in one dtype only."""

    def backward(call, params, tape, error, read):
        through, readings = call(params, tape, error, read)
        return change(through, readings) if error.dtype == dtype else (through, readings)

    return intercept(layer, label="narrowly", backward=backward)


def trained_in(net: Layer, dtype: str, **options) -> GradientComparison:
    params, state = net.init(KEY, X.astype(dtype))
    options = {"examples": False, "dtypes": ()} | options
    return compare_gradients(net, softmax_cross_entropy, params, state, (X.astype(dtype), Y), KEY, **options)


LOW = ("float32", "bfloat16", "float16")


@pytest.mark.parametrize("dtype", LOW)
def test_a_fault_in_the_dtype_one_trains_in_is_judged_and_found(dtype: str) -> None:
    twice, bare = (lambda e, g: (2 * e, g)), (lambda e, g: (e, g | {"b": 0 * g["b"]}))
    nan = lambda e, g: (e / 0, g)  # noqa: E731
    for change, end in ((twice, ""), (bare, ""), (nan, ", not finite")):
        report = trained_in(serial(dense(5, tanh), narrowly(dense(5, tanh), dtype, change), linear(3)), dtype)
        assert str(report.verdict) == f"manual wrong in {dtype}{end}"
        assert found(report).place == "[1] narrowly"
        assert report.worst < 1e-12
    right = serial(dense(5, tanh), narrowly(dense(5, tanh), "float64", lambda e, g: (e, g)), linear(3))
    assert trained_in(right, dtype).verdict.agree


@pytest.mark.parametrize("dtype", LOW)
def test_right_networks_are_not_accused_in_low_precision(dtype: str) -> None:
    for net in (NET, serial(dense(16, fnn.relu), fnn.repeat(dense(16, fnn.relu), 4), linear(3))):
        assert trained_in(net, dtype).verdict.agree
    # tanh of differences of 1e-3 in numbers of 1e3: float32 has no digit left of the slopes
    far = fnn.from_function(lambda key, x: jnp.ones((), x.dtype), lambda a, x: 1e3 * a + 1e-3 * x, "far")
    near = fnn.from_function(lambda key, x: jnp.ones((), x.dtype), lambda a, x: 1e3 * (x - 1e3 * a), "near")
    assert trained_in(serial(far, near, dense(5, tanh), linear(3)), dtype).verdict.agree


def test_a_forward_pass_that_overflows_in_low_precision_is_told() -> None:
    huge = fnn.from_function(
        lambda key, x: jnp.ones((), x.dtype), lambda a, x: jnp.log(1 + jnp.exp(100 * a * jnp.abs(x))), "huge"
    )
    report = trained_in(serial(huge, linear(3)), "float32")
    assert str(report.verdict) == "both not finite in float32"
    assert (found(report).place, found(report).stage) == ("[0] huge", "forward")


# What is returned beside the gradient


def test_a_wrong_value_and_a_wrong_state_are_told() -> None:
    net = serial(dense(5, tanh), fnn.batch_norm(), linear(3))
    right = lambda net, loss: backprop(net, loss)  # noqa: E731

    def returning(change):
        def mine(net, loss):
            return lambda *given: (change(*right(net, loss)(*given)[0]), right(net, loss)(*given)[1])

        return compared(net, manual=mine)

    moved = lambda state: jax.tree.map(lambda leaf: leaf - 1, state)  # noqa: E731
    assert str(returning(lambda value, state: (17 * value, state)).verdict) == "values differ"
    assert str(returning(lambda value, state: (value, moved(state))).verdict) == "states differ"
    report = returning(lambda value, state: (17 * value, moved(state)))
    assert str(report.verdict) == "values and states differ"
    assert "returned beside the gradient: value off by 1.6e+01, state[1].mean off by" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["returned"][0]["name"] == "value"
    low = lambda value, state: (value * (1 + 1.0 * (value.dtype == jnp.float32)), state)  # noqa: E731
    mine = lambda net, loss: lambda *at: (low(*backprop(net, loss)(*at)[0]), backprop(net, loss)(*at)[1])  # noqa: E731
    assert str(trained_in(net, "float32", manual=mine).verdict) == "values differ in float32"
    assert returning(lambda value, state: (value * (1 + 1e-15), state)).verdict.agree


def test_rounding_in_a_value_next_to_zero_is_no_difference() -> None:
    """A loss that is 1e-32, the square of what rounding leaves, is right to no digit."""
    net, x = linear(1), X
    params = {"w": jnp.ones((4, 1)), "b": jnp.zeros(1)}
    y = x @ params["w"] * (1 + 1e-16) + 1e-16
    off = lambda net, loss: lambda *at: ((3 * backprop(net, loss)(*at)[0][0], ()), backprop(net, loss)(*at)[1])  # noqa: E731
    report = compare_gradients(net, fnn.squared, params, (), (x, y), KEY, manual=off, examples=False, dtypes=())
    assert float(backprop(net, fnn.squared)(params, (), (x, y), KEY)[0][0]) < 1e-30
    assert "values" not in str(report.verdict)


# Kinks that a moved point does not leave, networks that round, and what is small beside what


def with_slope(value, at: tuple[float, ...], slope: float) -> Layer:
    """An activation by hand, with a slope of its own at its kinks."""

    def hand(x):
        is_kink = jnp.any(jnp.stack([x == kink for kink in at]), axis=0)
        between = (x > at[0]) & ((x < at[1]) if len(at) > 1 else True)
        return jnp.where(is_kink, slope, between.astype(x.dtype))

    return Layer(
        "by hand",
        lambda key, x: ((), ()),
        lambda params, state, x: value(x),
        lambda params, state, x, key: (value(x), state, x),
        lambda params, tape, error, read: (error * hand(tape), ()),
        None,
    )


def ramp(slope: float) -> Layer:
    return with_slope(lambda x: jnp.maximum(x, jnp.zeros_like(x)), (0.0,), slope)


def clip(slope: float) -> Layer:
    return with_slope(lambda x: jnp.clip(x, -1, 1), (-1.0, 1.0), slope)


def squared_of(net: Layer, x: Any, change=lambda params: params, **options) -> GradientComparison:
    params, state = net.init(jax.random.key(2), x)
    y = jax.random.normal(jax.random.key(1), (len(x), 2), x.dtype)
    options = {"examples": False, "dtypes": ()} | options
    return compare_gradients(net, fnn.squared, change(params), state, (x, y), KEY, **options)


AT_KINKS = {
    "w = 0": (lambda layer: serial(linear(4, bias=False, w=fnn.nn.zeros()), layer, linear(2)), ramp, X),
    "x at 0": (lambda layer: serial(layer, linear(2)), ramp, jnp.eye(4)),
    "x at ±1": (lambda layer: serial(layer, linear(2)), clip, jnp.diag(jnp.array([1.0, -1.0, 1.0, -1.0]))),
    "x at both": (lambda layer: serial(layer, linear(2)), clip, jnp.eye(4)),
}


@pytest.mark.parametrize("place", AT_KINKS)
def test_every_kink_ends_between_the_slopes_beside_it(place: str) -> None:
    """ReLU and hard tanh have the slopes 0 and 1 beside their kinks, so 1000 is wrong, and 0, ½ and 1 are not."""
    around, layer, x = AT_KINKS[place]
    for slope in (1000.0, -1000.0):
        report = squared_of(around(layer(slope)), x)
        assert str(report.verdict) == "manual wrong"
        assert "by hand" in found(report).place
    for slope in (0.0, 0.5, 1.0):
        assert squared_of(around(layer(slope)), x).verdict.kind in (Kind.AT_KINK, Kind.AGREE)


@pytest.mark.parametrize(
    ("slope", "verdict"), [(0.0, "differ at a kink"), (1.0, "differ at a kink"), (1e3, "manual wrong")]
)
def test_as_many_examples_above_a_kink_as_below_do_not_hide_how_far_all_of_them_go(slope: float, verdict: str) -> None:
    """All terms have one sign, and of ±x one half is above wherever w is moved: no sample has all of them or none."""
    x = jnp.abs(X)[jnp.arange(32) % 6] * jnp.where(jnp.arange(32) % 2 == 0, 1.0, -1.0)[:, None]
    net = serial(linear(4, bias=False), ramp(slope), linear(2))
    params = {"w": jnp.zeros((4, 4))}, (), {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)}
    batch = x, 3 * jnp.sign(x[:, :2])
    options = {"examples": False, "dtypes": ()}
    assert str(compare_gradients(net, fnn.squared, params, ((), (), ()), batch, KEY, **options).verdict) == verdict


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_that_rounds_on_purpose_is_judged_to_that_rounding(dtype: str) -> None:
    for given in (X, X.astype("float32")):
        report = squared_of(fnn.mixed_precision(serial(dense(5, tanh), linear(2)), dtype), given, dtypes=("float32",))
        assert str(report.verdict) == f"agree to the rounding of {dtype}"
        assert report.verdict.agree
        assert report.culprit is None
        assert "quotient" not in str(report)
        assert "kinks" not in str(report)
    for net in (NET, serial(fnn.mixed_precision(dense(8, fnn.relu), dtype), linear(3))):
        assert str(compared(fnn.mixed_precision(net, dtype)).verdict) == f"agree to the rounding of {dtype}"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("change", [times(1.5), error_times(1.5)])
def test_a_fault_within_a_lower_precision_is_found(dtype: str, change) -> None:
    net = serial(dense(5, tanh), faulty(dense(5, tanh), change), linear(2))
    report = squared_of(fnn.mixed_precision(net, dtype), X)
    assert str(report.verdict) == f"differ by more than the rounding of {dtype}"
    assert found(report).place == "[1] faulty"
    assert str(squared_of(serial(dense(5, tanh), fnn.inverted_dropout(0.2), linear(2)), X).verdict).startswith(
        "agree to 1"
    )


def test_an_example_of_rounding_is_measured_by_the_batch() -> None:
    """Where tanh saturates 1 − t² is 0 and sech² = 4 exp(−2|S|) is not: one example's gradient is all rounding."""
    tail = lambda S: 1 / jnp.cosh(S) ** 2  # noqa: E731
    layer = dense(1, tanh._replace(slope=tail))
    x, y = jnp.array([[0.3], [25.0]]), jnp.ones((2, 1)) / 2
    params = {"w": jnp.ones((1, 1)), "b": jnp.zeros(1)}
    report = compare_gradients(layer, fnn.squared, params, (), (x, y), KEY, dtypes=())
    assert float(jax.grad(jnp.tanh)(25.0)) == 0 < float(tail(25.0))
    # ½ √(1 + 25²) sech²(25) beside a thousandth of (½ − tanh 0.3) sech²(0.3) √(1 + 0.3²)
    apart, whole = 0.5 * np.hypot(25, 1) / np.cosh(25) ** 2, 0.2086874 * 0.9151370 * np.hypot(0.3, 1)
    assert alone(report).errors[1] == pytest.approx(apart / (1e-3 * whole), rel=1e-4)


def test_the_verdict_points_to_what_is_lost_in_lower_precision() -> None:
    def coarse(error, readings):
        return error, jax.tree.map(lambda g: g * (1.3 if g.dtype == jnp.float16 else 1.0), readings)

    report = compared(serial(faulty(dense(5, tanh), coarse), linear(3)), dtypes=("float32", "float16"))
    assert str(report.verdict).startswith("agree to 1")
    assert f"verdict: {report.verdict}; manual loses far more in float16, see off float64\n" in str(report)
    right = compared(serial(dense(5, tanh), linear(3)), dtypes=("float32", "bfloat16", "float16"))
    assert f"verdict: {right.verdict}\n" in str(right)


@pytest.mark.parametrize("name", SCALES)
def test_a_small_fault_at_x_is_as_large_in_any_unit(name: str) -> None:
    """x = mean ± spread, normalised by the first layer: ∂Q/∂x is 1/spread of that by z, and a fault of 0.1 % is one."""
    (mean, spread), z = SCALES[name], jax.random.normal(KEY, (6, 3))
    x, y = mean + spread * z, jax.random.normal(jax.random.key(1), (6, 1))
    for factor, expected in ((1.001, 1e-3), (1.0, 0.0)):
        net = serial(faulty(dense(5, tanh), error_times(factor)), linear(1))
        (first, last), state = net.init(KEY, z)
        w = first["w"] / spread
        params = {"w": w, "b": -mean * jnp.sum(w, axis=0)}, last
        report = compare_gradients(net, fnn.squared, params, state, (x, y), KEY, examples=False, dtypes=())
        assert report.worst == pytest.approx(expected, rel=1e-3, abs=1e-10)
        assert (report.verdict.agree) == (factor == 1)


@pytest.mark.parametrize("factor", [30.0, 1e3])
def test_a_saturated_network_agrees_at_x_too(factor: float) -> None:
    """At ×1000 all of ∂Q/∂x is 0 for JAX, and not for sech²."""
    report = squared_of(serial(dense(5, tanh), linear(2)), factor * X, examples=True)
    assert str(report.verdict).startswith("agree to 1")
    assert alone(report).errors.max() < 1e-9


# Weights, and batches that are no pairs


def weighted() -> tuple[Any, Any]:
    net = serial(dense(3, tanh), linear(2))
    x = normal(jnp.zeros((5, 3)), 1)
    batch = x, normal(jnp.zeros((5, 2)), 2), jnp.array([1.0, 0.0, 2.5, 1.0, 0.5])
    return net, (*net.init(jax.random.key(0), x), batch, jax.random.key(1))


def test_gradients_of_weighted_examples_are_compared() -> None:
    net, given = weighted()
    report = compare_gradients(net, squared, *given)
    assert report.verdict.agree
    assert report.worst < 1e-12


def test_weights_that_a_gradient_ignores_are_found() -> None:
    net, given = weighted()

    def unweighted(net: Any, loss: Any) -> Any:
        of = backprop(net, loss)
        return lambda params, state, batch, key: of(params, state, batch[:2], key)

    report = compare_gradients(net, squared, *given, manual=unweighted, examples=False)
    assert not report.verdict.agree
    assert "manual wrong" in str(report) or "values differ" in str(report)


def test_a_wrong_layer_is_named_under_weights_too() -> None:
    net, given = weighted()
    part = net.children[0]

    def backward(call: Any, params: Any, tape: Any, error: Any, read: Any) -> Any:
        through, readings = call(params, tape, error, read)
        return through * 1.01, readings

    wrong = serial(linear(3), intercept(part, backward=backward), net.children[1])
    params, state = wrong.init(jax.random.key(0), given[2][0])
    report = compare_gradients(wrong, squared, params, state, *given[2:])
    assert not report.verdict.agree
    assert report.culprit is not None
    assert "1" in report.culprit.place


def test_functions_of_any_batch_are_compared() -> None:
    """A batch of named arrays, one of them of integers."""
    batch = {"t": jnp.linspace(0, 1, 5), "group": jnp.array([0, 1, 0, 2, 1])}
    params = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.array(0.5)}

    def Q(params: Any, state: Any, batch: Any, key: Any) -> Any:
        return jnp.mean(jnp.sin(params["a"][batch["group"]] * batch["t"] + params["b"])), state

    def by_hand(params: Any, state: Any, batch: Any, key: Any) -> Any:
        slope = jnp.cos(params["a"][batch["group"]] * batch["t"] + params["b"]) / batch["t"].size
        at_a = jnp.zeros_like(params["a"]).at[batch["group"]].add(slope * batch["t"])
        return Q(params, state, batch, key), {"a": at_a, "b": jnp.sum(slope)}

    given = params, (), batch, jax.random.key(0)
    report = compare(by_hand, jax.value_and_grad(Q, has_aux=True), given, mean_loss=Q)
    assert report.verdict.agree
    twice = lambda *given: (by_hand(*given)[0], jax.tree.map(lambda g: 2 * g, by_hand(*given)[1]))  # noqa: E731
    report = compare(twice, jax.value_and_grad(Q, has_aux=True), given, mean_loss=Q)
    assert "first wrong" in str(report)
