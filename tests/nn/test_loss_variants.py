"""Losses made of functions and of other losses, against closed forms and the losses that they are made of."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Loss, binary_cross_entropy, softmax_cross_entropy, squared
from fnn.core import Unsupported
from fnn.nn import class_weighted, each_position, ignoring, loss_from, observed, smoothed
from tests.checkers import check_close
from tests.problems import normal

A = normal(jnp.zeros((4, 3)), 1)
Y = normal(jnp.zeros((4, 3)), 2)
LABELS = jnp.asarray([0, 2, 1, 2])
PARTS = ("value", "slope", "curvature", "hessian", "root")


def test_a_loss_from_a_function_is_the_loss_it_writes() -> None:
    made = loss_from(lambda a, y: 0.5 * jnp.sum(jnp.square(a - y)), convex=True)
    for part in ("value", "slope", "curvature"):
        chex.assert_trees_all_close(getattr(made, part)(A, Y), getattr(squared, part)(A, Y), rtol=1e-12)
    assert made.hessian is not None
    assert made.root is not None
    chex.assert_trees_all_close(made.hessian(A, Y), jnp.broadcast_to(jnp.eye(3), (4, 3, 3)), atol=1e-12)
    R = made.root(A, Y)
    chex.assert_trees_all_close(R @ jnp.swapaxes(R, 1, 2), made.hessian(A, Y), atol=1e-12)
    assert loss_from(lambda a, y: jnp.sum(a)).root is None


def test_the_root_of_a_convex_function_is_that_of_its_hessian() -> None:
    made = loss_from(lambda a, y: jax.nn.logsumexp(a) - a[y], convex=True)
    assert made.root is not None
    R, want = made.root(A, LABELS), softmax_cross_entropy.hessian(A, LABELS)  # type: ignore[misc]
    chex.assert_trees_all_close(R @ jnp.swapaxes(R, 1, 2), want, atol=1e-12)
    assert np.isfinite(R).all()


def test_targets_of_a_function_may_be_a_tree_or_nothing() -> None:
    tree = loss_from(lambda a, y: y["scale"] * jnp.sum(jnp.square(a - y["mean"])))
    want = jnp.sum(2.0 * jnp.square(A - Y), axis=1)
    chex.assert_trees_all_close(tree.value(A, {"scale": jnp.full(4, 2.0), "mean": Y}), want, rtol=1e-12)
    chex.assert_trees_all_close(loss_from(lambda a, y: jnp.sum(a)).slope(A, None), jnp.ones((4, 3)))


@pytest.mark.parametrize("part", PARTS)
def test_smoothed_labels_are_soft_targets(part: str) -> None:
    soft = 0.8 * np.eye(3)[np.asarray(LABELS)] + 0.2 / 3
    found = getattr(smoothed(softmax_cross_entropy, 0.2), part)(A, LABELS)
    chex.assert_trees_all_close(found, getattr(softmax_cross_entropy, part)(A, jnp.asarray(soft)), rtol=1e-12)


def test_smoothed_yes_and_no() -> None:
    y = jnp.asarray([[0, 1, 1]] * 4)
    found = smoothed(binary_cross_entropy, 0.2).slope(A, y)
    chex.assert_trees_all_close(found, jax.nn.sigmoid(A) - (0.8 * y.astype(A.dtype) + 0.1), rtol=1e-12)


def test_labels_of_smoothed_losses_are_checked() -> None:
    loss = smoothed(softmax_cross_entropy, 0.1)
    with pytest.raises(ValueError, match=r"expected labels 0\.\.2"):
        loss.value(A, jnp.asarray([0, 1, 2, 3]))
    assert np.isnan(jax.jit(loss.value)(A, jnp.asarray([0, 1, 2, 3]))[3])
    with pytest.raises(ValueError, match="epsilon must be"):
        smoothed(softmax_cross_entropy, 1.0)


def test_each_example_costs_what_it_did_and_counts_by_its_class() -> None:
    loss = class_weighted(softmax_cross_entropy, [1.0, 2.0, 0.5])
    chex.assert_trees_all_equal(loss.value(A, LABELS), softmax_cross_entropy.value(A, LABELS))
    assert loss.weight is not None
    assert loss.weight(LABELS).tolist() == [1.0, 0.5, 2.0, 0.5]
    assert np.isnan(loss.weight(jnp.asarray([7]))[0])
    assert str(loss) == "class_weighted(softmax_cross_entropy, [1.0, 2.0, 0.5])"


@pytest.mark.parametrize("part", PARTS)
def test_a_label_that_is_left_out_costs_nothing(part: str) -> None:
    y = jnp.asarray([0, -1, 1, -1])
    for run in (lambda f: f, jax.jit):
        found = run(getattr(ignoring(softmax_cross_entropy), part))(A, y)
        assert (np.asarray(found)[[1, 3]] == 0).all()
        kept = getattr(softmax_cross_entropy, part)(A[::2], y[::2])
        chex.assert_trees_all_close(found[::2], kept, rtol=1e-12)


def test_targets_that_are_missing_cost_nothing() -> None:
    known = np.asarray(Y) > 0
    for loss, y in ((squared, Y), (binary_cross_entropy, jnp.where(Y > 0, 1, 0))):
        seen = observed(loss)
        each = jax.vmap(lambda a, y, loss=loss: loss.value(a[:, None], y[:, None]))(A, y)
        chex.assert_trees_all_close(seen.value(A, (y, known)), jnp.sum(jnp.where(known, each, 0), axis=1), rtol=1e-12)
        slope = jax.grad(lambda a, y=y, seen=seen: seen.value(a, (y, known)).sum())(A)
        chex.assert_trees_all_close(seen.slope(A, (y, known)), slope, rtol=1e-12)
        chex.assert_trees_all_close(
            seen.curvature(A, (y, known)), jnp.where(known, loss.curvature(A, y), 0), rtol=1e-12
        )
    with pytest.raises(Unsupported, match="expected a sum over outputs"):
        observed(softmax_cross_entropy)
    with pytest.raises(TypeError, match=r"expected targets \(y, known\) with bools"):
        observed(squared).value(A, Y)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no function": (lambda: loss_from(3), TypeError, "loss_from must be a function"),  # type: ignore[arg-type]
    "no scalar": (lambda: loss_from(lambda a, y: a).value(A, Y), ValueError, "scalar float.*Sum over the outputs"),
    "one output of one example": (lambda: loss_from(lambda a, y: a[0]).value(A[0], None), ValueError, r"\[n, M\]"),
    "negative weights": (lambda: class_weighted(softmax_cross_entropy, [1.0, -1.0]), ValueError, ">= 0"),
    "rows for labels": (lambda: ignoring(softmax_cross_entropy).value(A, Y), TypeError, r"integer labels \[n\]"),
    "an activation of two": (
        lambda: fnn.nn.activation_from(lambda S: jnp.stack([S, S])).value(A),
        ValueError,
        "expected f to map a float64 scalar to one",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), WRONG.values(), ids=WRONG.keys())
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


# At every position


def at_positions(loss: Loss, seed: int = 0) -> tuple[jax.Array, Any]:
    rng = np.random.default_rng(seed)
    a = jnp.asarray(rng.standard_normal((3, 2, 2, 4)))
    y = rng.integers(4, size=(3, 2, 2)) if loss is softmax_cross_entropy else rng.standard_normal((3, 2, 2, 4))
    return a, jnp.asarray(y)


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("loss", [softmax_cross_entropy, squared], ids=str)
def test_each_position_is_a_loop_over_positions(loss: Loss, mean: bool) -> None:
    a, y = at_positions(loss)
    lifted, share = each_position(loss, mean=mean), 0.25 if mean else 1.0
    for part in ("value", "slope", "curvature", "hessian", "root"):
        if getattr(loss, part) is None:
            assert getattr(lifted, part) is None
            continue
        got = getattr(lifted, part)(a, y)
        want = np.zeros((3, 2, 2, *getattr(loss, part)(a[:, 0, 0], y[:, 0, 0]).shape[1:]))
        for at in np.ndindex(3, 2, 2):
            want[at] = getattr(loss, part)(a[at][None], y[at][None])[0]
        want = want * (share**0.5 if part == "root" else share)
        check_close(got, jnp.asarray(want.sum(axis=(1, 2)) if part == "value" else want))


def test_each_position_leaves_out_a_label_and_examples_that_have_nothing_else() -> None:
    a, y = at_positions(softmax_cross_entropy)
    loss = each_position(softmax_cross_entropy, ignore=-1)
    y = y.at[0].set(-1).at[1, 0].set(-1)
    counted = softmax_cross_entropy.value(a[1, 1], y[1, 1])
    got = loss.value(a, y)
    check_close(got[:2], jnp.stack([jnp.zeros(()), jnp.mean(counted)]))
    slope = jax.grad(lambda a: jnp.sum(loss.value(a, y)))(a)
    check_close(loss.slope(a, y), slope)
    assert not np.asarray(slope[0]).any()


def test_each_position_counts_classes_by_their_weights() -> None:
    a, y = at_positions(softmax_cross_entropy)
    c = np.array([1.0, 2.0, 0.0, 3.0])
    got = each_position(class_weighted(softmax_cross_entropy, c.tolist())).value(a, y)
    each = np.asarray(softmax_cross_entropy.value(a.reshape(-1, 4), y.reshape(-1))).reshape(3, 4)
    weight = c[np.asarray(y).reshape(3, 4)]
    check_close(got, jnp.asarray((weight * each).sum(axis=1) / weight.sum(axis=1)))


def test_each_position_tells_what_does_not_fit() -> None:
    loss = each_position(squared)
    with pytest.raises(ValueError, match=r"outputs a with positions, \[n, …, M\], got shape \(3, 4\)"):
        loss.value(jnp.ones((3, 4)), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match=r"at the positions of the outputs, \(3, 2\), got shape \(3, 4\)"):
        loss.value(jnp.ones((3, 2, 4)), jnp.ones((3, 4)))
    with pytest.raises(ValueError, match="each_position"):
        squared.value(jnp.ones((3, 2, 4)), jnp.ones((3, 2, 4)))
