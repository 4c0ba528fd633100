"""Optimal Brain Damage: saliencies, masks, optimizers under masks, and the loop."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import (
    TrainState,
    adadelta,
    adam,
    batch_norm,
    chain,
    dense,
    dropout,
    inference_mode,
    l2,
    linear,
    momentum,
    nadam,
    nag,
    objective,
    repeat,
    rmsprop,
    serial,
    sgd,
    softmax_cross_entropy,
    squared,
    tanh,
    train,
    trainer,
)
from fnn.optimizers import nag_weights
from fnn.pruning import (
    Score,
    all_links,
    at_random,
    feature_saliency,
    gate_saliency,
    magnitude,
    obd,
    prune,
    pruner,
    remove_least,
    remove_links,
    schedule,
    share_left,
    sparse,
    taylor,
)
from tests.checkers import TOLERANCE, check_close
from tests.problems import Problem, normal, posed

EXACT = TOLERANCE["second derivative"]
NET = serial(dense(5, tanh), linear(2))


def data(n: int = 40, inputs: int = 4, outputs: int = 2) -> tuple[Any, Any]:
    """Examples with correlated features and targets that are a smooth function of some of them."""
    x = normal(jnp.zeros((n, inputs)), seed=1)
    x = x.at[:, 1].add(0.5 * x[:, 0])
    return x, jnp.stack([jnp.sin(x[:, 0]) + 0.3 * x[:, 1], x[:, 0] * x[:, 1]], axis=1)[:, :outputs]


def evaluate(params: Any, state: Any) -> Any:
    x, y = data()
    return jnp.mean(squared.value(NET.apply(params, state, x), y))


def learner(optimizer: Any = None) -> Any:
    return trainer(NET, squared, sparse(optimizer or adam(0.02)), batch_size=10)


@pytest.fixture(scope="module")
def trained() -> TrainState:
    learn = learner()
    return train(learn, learn.init(jax.random.key(0), data()), data(), 500)[0]


def least_squares() -> tuple[Any, Any, Any]:
    """Two linear neurons at the minimum of Q, by NumPy: ∇Q = 0 and Q is quadratic, as the method assumes."""
    x, y = data()
    extended = np.column_stack([np.asarray(x), np.ones(len(x))])
    solution = np.linalg.lstsq(extended, np.asarray(y), rcond=None)[0]
    return {"w": jnp.asarray(solution[:-1]), "b": jnp.asarray(solution[-1])}, x, y


# Saliencies


def test_at_the_minimum_of_a_quadratic_the_saliency_is_the_rise_of_q() -> None:
    params, x, y = least_squares()
    Q = lambda params: float(jnp.mean(squared.value(linear(2).apply(params, (), x), y)))  # noqa: E731
    saliency = obd(linear(2), squared).saliency(params, (), (x, y), jax.random.key(0))
    for leaf, index in [("w", (0, 0)), ("w", (3, 1)), ("w", (1, 0)), ("b", (1,))]:
        without = params | {leaf: params[leaf].at[index].set(0.0)}
        assert np.isclose(saliency[leaf][index], Q(without) - Q(params), rtol=1e-9)
    gates = gate_saliency(linear(2), squared)(params, (), (x, y), jax.random.key(0))
    for feature in range(4):
        without = params | {"w": params["w"].at[feature].set(0.0)}
        assert np.isclose(gates[feature], Q(without) - Q(params), rtol=1e-9)
    check_close(feature_saliency(saliency["w"]), gates)  # one layer: nothing is beside the diagonal


def test_the_saliency_is_half_w_squared_h_of_the_inference_mode() -> None:
    net = serial(dense(4, tanh), dropout(0.5), batch_norm(), linear(3))
    problem = Problem(inference_mode(net), softmax_cross_entropy, 3, 3)
    params, state, batch, key = arguments = posed(problem)
    flat, unravel = ravel_pytree(params)
    Q = lambda p: objective(problem.net, problem.loss)(unravel(p), state, batch, key)[0]  # noqa: E731
    want = unravel(0.5 * jnp.square(flat) * jnp.diagonal(jax.jit(jax.hessian(Q))(flat)))
    got = jax.jit(obd(net, softmax_cross_entropy).saliency)(*arguments)
    check_close(got, want, EXACT)
    check_close(jax.jit(obd(net, softmax_cross_entropy, chunk=2).saliency)(*arguments), want, EXACT)
    check_close(
        jax.jit(taylor(net, softmax_cross_entropy).saliency)(*arguments), unravel(abs(flat * jax.grad(Q)(flat)))
    )
    one_pass = jax.jit(obd(net, softmax_cross_entropy, exact=False).saliency)(*arguments)
    check_close(one_pass[3], want[3], EXACT)
    with pytest.raises(AssertionError, match="relative errors"):
        check_close(one_pass[0], want[0], 0.01)
    with pytest.raises(AssertionError, match="relative errors"):  # σ'' counts
        check_close(jax.jit(obd(net, softmax_cross_entropy, gauss_newton=True).saliency)(*arguments), want, 0.01)


def test_predicted_and_actual_rises_rank_the_links_alike(trained: TrainState) -> None:
    x, y = data()
    flat, unravel = ravel_pytree(trained.params)
    Q = jax.jit(lambda p: evaluate(unravel(p), trained.layer_state))
    actual = jax.jit(jax.vmap(lambda i: Q(flat.at[i].set(0.0)) - Q(flat)))(jnp.arange(flat.size))
    saliency = obd(NET, squared).saliency(trained.params, trained.layer_state, (x, y), jax.random.key(0))
    rank = lambda values: np.argsort(np.argsort(np.asarray(values)))  # noqa: E731
    assert np.corrcoef(rank(ravel_pytree(saliency)[0]), rank(actual))[0, 1] > 0.9


def test_scores_print_as_they_were_written() -> None:
    scores = obd(NET, squared), obd(NET, squared, exact=False, gauss_newton=True), magnitude(), at_random()
    assert list(map(str, scores)) == ["obd()", "obd(exact=False, gauss_newton=True)", "magnitude()", "at_random()"]


# Masks


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("amount", [0, 3, 0.5, 100])
def test_the_least_salient_go_first(scope: str, amount: Any) -> None:
    params = (
        {"w": normal(jnp.zeros((4, 5)), seed=1), "b": normal(jnp.zeros(5), seed=2)},
        {
            "w": normal(jnp.zeros((5, 2)), seed=3),
            "b": normal(jnp.zeros(2), seed=4),
        },
    )
    links = all_links(params)
    links[0]["w"] = links[0]["w"].at[1].set(False)
    got = jax.jit(lambda a: remove_least(params, links, a, scope=scope))(amount)
    flat = [
        np.where(np.asarray(left["w"]), np.asarray(p["w"]), np.inf).ravel()
        for p, left in zip(params, links, strict=True)
    ]
    groups = [np.concatenate(flat)] if scope == "global" else flat
    want = []
    for group in groups:
        living = int(np.isfinite(group).sum())
        number = round(amount * living) if isinstance(amount, float) else min(amount, living)
        gone = sorted(range(len(group)), key=lambda i, group=group: group[i])[:number]
        want.append(np.isfinite(group) & ~np.isin(np.arange(len(group)), gone))
    np.testing.assert_array_equal(np.concatenate([np.asarray(part["w"]).ravel() for part in got]), np.concatenate(want))
    assert bool(jnp.all(got[0]["b"])), "biases are left alone"
    assert np.isclose(share_left(got), np.concatenate(want).mean())


def test_every_copy_of_a_repeat_is_a_layer() -> None:
    params, _ = repeat(dense(3, tanh), 4).init(jax.random.key(0), jnp.ones((1, 3)))
    links = remove_least(jax.tree.map(jnp.abs, params), all_links(params), 2)
    np.testing.assert_array_equal(jnp.sum(links["w"], axis=(1, 2)), [7] * 4)


def test_what_may_be_pruned_is_chosen() -> None:
    params = {"w": jnp.ones((2, 2)), "b": jnp.arange(3.0)}
    links = remove_least(params, all_links(params), 1, prunable={"w": False, "b": True})
    np.testing.assert_array_equal(links["b"], [False, True, True])
    assert bool(jnp.all(links["w"]))
    assert float(share_left(links, {"w": False, "b": True})) == pytest.approx(2 / 3)


# Optimizers

OPTIMIZERS = [
    chain(l2(0.1), sgd(0.1)),
    chain(l2(0.1), momentum(0.1)),
    chain(l2(0.1), nag(0.1)),
    rmsprop(0.01),
    adadelta(1.0),
    adam(0.01),
    chain(l2(0.1), nadam(0.01)),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
def test_removed_links_stay_exactly_zero_and_the_rest_moves(optimizer: Any) -> None:
    learn = learner(optimizer)
    state, _ = train(learn, learn.init(jax.random.key(0), data()), data(), 10)
    links = remove_least(jax.tree.map(jnp.abs, state.params), all_links(state.params), 0.5)
    pruned = remove_links(state, links)
    after, _ = train(learn, pruned, data(), 10)
    for w, before, left in zip(*map(jax.tree.leaves, (after.params, state.params, links)), strict=True):
        assert np.all(np.asarray(w)[~np.asarray(left)] == 0)
        assert np.any(np.asarray(w)[np.asarray(left)] != np.asarray(before)[np.asarray(left)])
    remembered = ravel_pytree(jax.tree.map(lambda left: ~left, links))[0]
    params_like = lambda node: jax.tree.structure(node) == jax.tree.structure(links)  # noqa: E731
    for node in jax.tree.leaves(after.optimizer_state.inner, is_leaf=params_like):
        if params_like(node):
            assert np.all(np.asarray(ravel_pytree(node)[0])[np.asarray(remembered)] == 0)


def test_the_weights_of_nag_are_zero_too() -> None:
    optimizer = nag(0.1)
    learn = learner(optimizer)
    state, _ = train(learn, learn.init(jax.random.key(0), data()), data(), 10)
    links = remove_least(jax.tree.map(jnp.abs, state.params), all_links(state.params), 0.5)
    after, _ = train(learn, remove_links(state, links), data(), 3)
    weights = nag_weights(after.params, after.optimizer_state.inner)
    for w, left in zip(*map(jax.tree.leaves, (weights, links)), strict=True):
        assert np.all(np.asarray(w)[~np.asarray(left)] == 0)


def test_with_all_links_left_it_is_the_optimizer_itself() -> None:
    plain = trainer(NET, squared, adam(0.02), batch_size=10)
    one, _ = train(plain, plain.init(jax.random.key(0), data()), data(), 20)
    other, _ = train(learner(), learner().init(jax.random.key(0), data()), data(), 20)
    check_close(one.params, other.params)


def test_a_pruned_network_is_trained_from_the_start(trained: TrainState) -> None:
    learn = learner()
    links = remove_least(jax.tree.map(jnp.abs, trained.params), all_links(trained.params), 0.5)
    fresh = remove_links(learn.init(jax.random.key(7), data()), links)
    after, _ = train(learn, fresh, data(), 50)
    assert evaluate(after.params, after.layer_state) < evaluate(fresh.params, fresh.layer_state)
    assert int(sum(jnp.sum(w == 0) for w in jax.tree.leaves(after.params))) == int(
        sum(jnp.sum(~m) for m in jax.tree.leaves(links))
    )


# The loop


def test_a_round_is_what_the_slide_says(trained: TrainState) -> None:
    """Rank, remove, retrain, evaluate: one round against the same by hand."""
    learn, score = learner(), obd(NET, squared)
    pruning, report = prune(pruner(learn, score, evaluate, amount=3, retrain=20), trained, data(), 1)
    saliency = score.saliency(trained.params, trained.layer_state, data(), jax.random.key(0))
    links = remove_least(saliency, all_links(trained.params), 3)
    at_once = remove_links(trained, links)
    after, _ = train(learn, at_once, data(), 20)
    check_close(pruning.state.params, after.params)
    np.testing.assert_array_equal(ravel_pytree(pruning.links)[0], ravel_pytree(links)[0])
    check_close(report["at_once"][0], evaluate(at_once.params, at_once.layer_state))
    check_close(report["quality"][0], evaluate(after.params, after.layer_state))
    assert float(report["left"][0]) == pytest.approx(24 / 30)


def test_a_round_that_worsens_q_is_rolled_back_and_the_last(trained: TrainState) -> None:
    rounds = pruner(learner(), magnitude(), evaluate, amount=0.3, retrain=5, tolerance=0.05)
    pruning, report = prune(rounds, trained, data(), 8)
    kept = np.asarray(report["kept"])
    number = int(kept.sum())
    assert 0 < number < 7
    assert list(kept) == [True] * number + [False] * (8 - number)
    whole = float(evaluate(trained.params, trained.layer_state))
    assert np.all(np.asarray(report["quality"])[:number] <= whole + 0.05)
    assert float(report["quality"][number]) > whole + 0.05
    assert float(pruning.quality) == float(report["quality"][number - 1])
    assert int(pruning.round) == number + 1
    assert bool(pruning.stopped)
    shorter, _ = prune(rounds, trained, data(), number)
    check_close(pruning.state.params, shorter.state.params)
    np.testing.assert_array_equal(ravel_pytree(pruning.links)[0], ravel_pytree(shorter.links)[0])


def test_many_seeds_at_once_are_the_single_runs() -> None:
    learn = learner()

    def experiment(key: Any) -> Any:
        state = learn.init(key, data())
        return prune(pruner(learn, at_random(), evaluate, amount=schedule(0.6, 3), retrain=10), state, data(), 3)[1]

    keys = jax.random.split(jax.random.key(3), 3)
    many = jax.jit(jax.vmap(experiment))(keys)
    check_close(jax.tree.map(lambda leaf: leaf[1], many), experiment(keys[1]), 1e-9)
    np.testing.assert_allclose(many["left"][:, -1], 13 / 30)  # 0.4, but for whole links in every round


def test_a_schedule_arrives_at_its_sparsity() -> None:
    for power in (1, 3):
        left, shares = 1.0, []
        for r in range(5):
            left *= 1 - float(schedule(0.9, 5, power)(jnp.asarray(r)))
            shares.append(1 - left)
        np.testing.assert_allclose(shares, [0.9 * (1 - (1 - (r + 1) / 5) ** power) for r in range(5)], rtol=1e-12)


def test_pruning_again_compiles_nothing(trained: TrainState) -> None:
    traces = []

    def counted(params: Any, state: Any) -> Any:
        traces.append(1)
        return evaluate(params, state)

    rounds = pruner(learner(), magnitude(), counted, amount=0.1, retrain=5)
    prune(rounds, trained, data(), 2)
    first = len(traces)
    prune(rounds, trained._replace(step=trained.step + 1), data(), 2)
    assert len(traces) == first


def test_planted_features_are_found() -> None:
    x = normal(jnp.zeros((200, 6)), seed=1)
    sample = x, (jnp.sin(2 * x[:, 2]) + x[:, 4])[:, None]
    net = serial(dense(8, tanh), linear(1))
    learn = trainer(net, squared, adam(0.02), batch_size=20)
    state, _ = train(learn, learn.init(jax.random.key(0), sample), sample, 1500)
    gates = gate_saliency(net, squared)(state.params, state.layer_state, sample, jax.random.key(0))
    assert set(np.argsort(np.asarray(gates))[-2:]) == {2, 4}


# Refusals


def _pruner(**changed: Any) -> Any:
    options = {"score": magnitude(), "evaluate": evaluate, "amount": 1, "retrain": 0} | changed
    return pruner(learner(), options.pop("score"), options.pop("evaluate"), **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: _pruner(score=magnitude), TypeError, r"score: expected a Score.*magnitude\(\)"),
        (lambda: _pruner(amount=1.5), ValueError, r"amount: expected a whole number.*fraction in \[0, 1\).*1.5"),
        (lambda: _pruner(amount=-1), ValueError, "amount: expected a whole number.*-1"),
        (lambda: _pruner(amount="all"), TypeError, "amount: expected .*'all'"),
        (lambda: _pruner(scope="net"), ValueError, 'scope: expected "layer" or "global"'),
        (lambda: _pruner(retrain=-1), ValueError, "retrain must be a whole number >= 0"),
        (lambda: _pruner(tolerance=-0.1), ValueError, "tolerance must be a number >= 0"),
        (lambda: _pruner(evaluate=3.0), TypeError, "evaluate must be a function"),
        (lambda: schedule(1.0, 3), ValueError, r"final must be in \[0, 1\)"),
        (lambda: remove_least({"w": 1.0}, {"b": True}, 1), ValueError, "saliency and links differ in structure"),
        (
            lambda: remove_least({"b": jnp.ones(2)}, {"b": jnp.ones(2, bool)}, 1),
            ValueError,
            "got one that chooses none",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_run_whose_optimizer_is_not_sparse_is_refused(trained: TrainState) -> None:
    learn = trainer(NET, squared, adam(0.01), batch_size=10)
    state = learn.init(jax.random.key(0), data())
    with pytest.raises(ValueError, match=r"grow again.*sparse\(\.\.\.\)"):
        remove_links(state, all_links(state.params))
    with pytest.raises(ValueError, match="links and params differ in structure"):
        remove_links(trained, all_links(trained.params)[0])


def test_a_quality_that_is_no_number_is_refused(trained: TrainState) -> None:
    with pytest.raises(ValueError, match=r"Q as one number.*\(40,\)"):
        _pruner(evaluate=lambda p, s: squared.value(NET.apply(p, s, data()[0]), data()[1])).init(trained)


def test_a_score_of_ones_own(trained: TrainState) -> None:
    mine = Score("mine", lambda params, state, batch, key: jax.tree.map(lambda w: -jnp.abs(w), params))
    pruning, _ = prune(_pruner(score=mine, amount=1), trained, data(), 1)
    w = np.abs(np.asarray(trained.params[0]["w"]))
    assert not bool(pruning.links[0]["w"][np.unravel_index(w.argmax(), w.shape)])
