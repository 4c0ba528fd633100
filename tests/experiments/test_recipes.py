"""Every recipe, checked against plain JAX, NumPy or a closed form."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from experiments import recipes
from experiments.recipes import (
    convolution,
    deep_ensemble,
    differential_equation,
    importance_sampling,
    laplace,
    lottery_ticket,
    meta_learning,
    private_sgd,
    sharpness_aware,
    successive_halving,
    table_and_plot,
    tangent_kernel,
    two_heads,
    variational_autoencoder,
)
from fnn import dense, linear, serial, softmax_cross_entropy, squared, tanh
from tests.problems import normal

KEY = jax.random.key(0)
RECIPES = sorted(path for path in Path(str(recipes.__file__)).parent.glob("*.py") if path.name != "__init__.py")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_at_most_forty_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    assert path.stem in Path(__file__).read_text(encoding="utf-8"), "every recipe is checked here"


def network(outputs: int = 2, inputs: int = 3, n: int = 6) -> Any:
    """A network, its params and state, and a batch for `squared`."""
    net = serial(dense(4, tanh), linear(outputs))
    x = normal(jnp.zeros((n, inputs)), 1)
    params, state = net.init(KEY, x)
    return net, params, state, (x, normal(jnp.zeros((n, outputs)), 2))


def jacobian(net: Any, params: Any, state: Any, x: jax.Array) -> np.ndarray:
    """∂a/∂w [n, M, all params]."""
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jacrev(lambda p: net.apply(unravel(p), state, x))(flat))


def test_the_tangent_kernel_is_j_j_transposed() -> None:
    net, params, state, (x, _) = network()
    J = jacobian(net, params, state, x)
    kernel = tangent_kernel.tangent_kernel(net, params, state, x)
    np.testing.assert_allclose(kernel, np.einsum("ncp,mcp->nm", J, J), rtol=1e-12)
    want = np.linalg.eigvalsh(np.einsum("ncp,mcp->nm", J, J))[::-1]
    np.testing.assert_allclose(tangent_kernel.spectrum(kernel), want, atol=1e-11)


def test_laplaces_diagonal_is_that_of_the_dense_matrix() -> None:
    net, params, state, batch = network()
    J, new = jacobian(net, params, state, batch[0]), normal(jnp.zeros((3, 3)), 5)
    precision = np.einsum("ncp,ncp->p", J, J) + 0.3  # n · GGN of the mean of ½‖a − y‖² is Σ JᵀJ
    want = np.einsum("ncp,p->nc", jacobian(net, params, state, new) ** 2, 1 / precision)
    np.testing.assert_allclose(laplace.variances(net, squared, params, batch, new, 0.3, "diagonal"), want, rtol=1e-11)


def test_laplaces_kronecker_variance_is_exact_for_a_linear_model() -> None:
    net = linear(2)
    _, _, _, batch = network()
    params, state = net.init(KEY, batch[0])
    J, new = jacobian(net, params, state, batch[0]), normal(jnp.zeros((4, 3)), 5)
    covariance = np.linalg.inv(np.einsum("ncp,ncq->pq", J, J) + 0.3 * np.eye(J.shape[2]))
    at = jacobian(net, params, state, new)
    want = np.einsum("ncp,pq,ncq->nc", at, covariance, at)
    np.testing.assert_allclose(laplace.variances(net, squared, params, batch, new, 0.3, "kronecker"), want, rtol=1e-11)


def test_laplaces_kronecker_variance_of_two_layers_is_that_of_its_blocks() -> None:
    net, params, state, batch = network()
    new = normal(jnp.zeros((2, 3)), 5)
    factors = fnn.derivatives.kronecker_factors(net, squared)(params, state, batch, KEY)[1]
    J, want = jax.jacrev(lambda params: net.apply(params, state, new))(params), 0.0
    for part, at in zip(factors, J, strict=True):
        rows = np.concatenate([at["w"], at["b"][:, :, None]], axis=2).reshape(2, 2, -1)
        block = 6 * np.kron(part.A, part.G) + 0.3 * np.eye(rows.shape[2])
        want = want + np.einsum("ncp,pq,ncq->nc", rows, np.linalg.inv(block), rows)
    np.testing.assert_allclose(laplace.variances(net, squared, params, batch, new, 0.3, "kronecker"), want, rtol=1e-11)


def test_sharpness_aware_is_the_gradient_at_the_highest_point() -> None:
    net, params, state, batch = network()
    Q = lambda params: fnn.objective(net, squared)(params, state, batch, KEY)[0]  # noqa: E731
    g = jax.grad(Q)(params)
    size = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(g)))
    want = jax.grad(Q)(jax.tree.map(lambda w, g: w + 0.05 * g / size, params, g))
    (value, _), found = sharpness_aware.sharpness_aware(0.05)(net, squared)(params, state, batch, KEY)
    np.testing.assert_allclose(value, Q(params), rtol=1e-12)
    chex.assert_trees_all_close(found, want, rtol=1e-10)


def test_private_gradients_are_clipped_sums_with_noise_of_the_stated_size() -> None:
    net, params, state, (x, y) = network()
    weight = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    Q = fnn.objective(net, squared)
    of_one = lambda x, y: jax.grad(lambda p: Q(p, state, (x[None], y[None]), KEY)[0])(params)  # noqa: E731
    rows = np.asarray(jax.vmap(lambda x, y: ravel_pytree(of_one(x, y))[0])(x, y))
    clipped = rows * np.minimum(1, 0.7 / np.linalg.norm(rows, axis=1))[:, None] * np.asarray(weight)[:, None]
    found = private_sgd.private(0.7, 0.0, 3.0)(net, squared)(params, state, (x, y, weight), KEY)[1]
    np.testing.assert_allclose(ravel_pytree(found)[0], clipped.sum(0) / 3, rtol=1e-11)
    noisy = private_sgd.private(0.7, 2.0, 3.0)(net, squared)
    keys = jax.random.split(KEY, 2000)
    sampled = jax.vmap(lambda key: ravel_pytree(noisy(params, state, (x, y, weight), key)[1])[0])(keys)
    seen = sampled - clipped.sum(0)[None] / 3
    assert float(jnp.std(seen)) == pytest.approx(2.0 * 0.7 / 3, rel=0.02)
    assert float(jnp.abs(jnp.mean(seen))) < 0.02


def test_poisson_batches_take_every_example_with_the_same_probability() -> None:
    draw = private_sgd.poisson(0.3)
    counts, sizes = np.zeros(20), []
    for step in range(300):
        indices, weight = draw(KEY, step, 20, 20)
        chosen = np.asarray(indices)[np.asarray(weight) > 0]
        assert len(set(chosen.tolist())) == len(chosen)
        counts[chosen] += 1
        sizes.append(len(chosen))
    assert np.abs(counts / 300 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 300)
    assert np.var(sizes) == pytest.approx(20 * 0.3 * 0.7, rel=0.4)
    assert jnp.isnan(private_sgd.poisson(1.0)(KEY, 0, 20, 5)[1]).all()


def test_dp_sgd_trains() -> None:
    x = normal(jnp.zeros((64, 2)), 1)
    data = x, x @ jnp.array([[1.0], [-1.0]])
    options: dict[str, Any] = {"draw": private_sgd.poisson(0.25), "gradient": private_sgd.private(1.0, 0.1, 16)}
    learn = fnn.trainer(linear(1), squared, fnn.sgd(0.3), batch_size=40, **options)
    state, _ = fnn.train(learn, learn.init(KEY, data), data, 200)
    np.testing.assert_allclose(state.params["w"][:, 0], [1, -1], atol=0.1)


def test_tickets_keep_the_share_and_the_first_weights() -> None:
    x = normal(jnp.zeros((64, 4)), 1)
    data, net = (x, jnp.sin(x[:, :1])), serial(dense(8, tanh), linear(1))
    keys = jax.random.split(KEY, 3)
    links, first, losses = lottery_ticket.tickets(net, squared, data, keys, rounds=2, share=0.25, steps=50)
    assert losses.shape == (3, 2)
    assert jnp.sum(links[0]["w"], axis=(1, 2)).tolist() == [18] * 3  # 32 → 24 → 18
    learn = fnn.trainer(net, squared, fnn.adam(0.01), batch_size=32)
    for row, key in enumerate(keys):
        want = learn.init(key, data).params
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, row=row: leaf[row], first), want, rtol=1e-12)


def tasks(count: int) -> Any:
    """Lines y = a x with slopes of their own, ten points each to learn from and to be judged by."""
    slopes = normal(jnp.zeros((count, 1, 1)), 3)
    x, x_test = normal(jnp.zeros((count, 10, 1)), 4), normal(jnp.zeros((count, 10, 1)), 5)
    return {"x": x, "y": slopes * x, "x_test": x_test, "y_test": slopes * x_test}


def test_the_meta_gradient_is_plain_jaxs() -> None:
    net, batch = serial(dense(4, tanh), linear(1)), tasks(3)
    params, state = net.init(KEY, batch["x"][0])

    def Q(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        hidden = jnp.tanh(x @ params[0]["w"] + params[0]["b"][None])
        return jnp.mean((hidden @ params[1]["w"] + params[1]["b"][None] - y) ** 2) / 2

    def meta(params: Any) -> jax.Array:
        of_task = []
        for k in range(3):
            task = {name: rows[k] for name, rows in batch.items()}
            g = jax.grad(Q)(params, task["x"], task["y"])
            fast = jax.tree.map(lambda w, g: w - 0.1 * g, params, g)
            of_task.append(Q(fast, task["x_test"], task["y_test"]))
        return jnp.mean(jnp.stack(of_task))

    objective = meta_learning.meta_objective(net, squared, 0.1)
    (value, _), found = jax.value_and_grad(objective, has_aux=True)(params, state, batch, KEY)
    want, g = jax.value_and_grad(meta)(params)
    np.testing.assert_allclose(value, want, rtol=1e-12)
    chex.assert_trees_all_close(found, g, rtol=1e-10)
    start = lambda key, batch: net.init(key, batch["x"][0])  # noqa: E731
    learn = fnn.trainer(start, optimizer=fnn.adam(0.01), objective=objective, batch_size=8)
    _, metrics = fnn.train(learn, learn.init(KEY, tasks(64)), tasks(64), 300, every=100)
    assert float(metrics["loss"][-1]) < 0.7 * float(metrics["loss"][0])


def test_a_differential_equation_is_solved() -> None:
    net, x = serial(dense(16, tanh), linear(1)), jnp.linspace(0, 1, 65)[:, None]
    residue = differential_equation.residue(net, lambda x: -(jnp.pi**2) * jnp.sin(jnp.pi * x))
    learn = fnn.trainer(net, optimizer=fnn.adam(0.01), objective=residue, batch_size=32)
    state, _ = fnn.train(learn, learn.init(KEY, x), x, 2000)
    u = jax.vmap(differential_equation.solution(net, state.params, state.layer_state))(x[:, 0])
    np.testing.assert_allclose(u, np.sin(np.pi * np.asarray(x[:, 0])), atol=0.02)


def test_an_ensemble_is_its_members() -> None:
    net, _, _, data = network(n=40)
    keys = jax.random.split(KEY, 3)
    states = deep_ensemble.ensemble(net, squared, data, keys, 20)
    mean, spread = deep_ensemble.predict(net, states, data[0])
    learn = fnn.trainer(net, squared, fnn.adam(0.01), batch_size=32)
    each = [fnn.train(learn, learn.init(key, data), data, 20)[0] for key in keys]
    outputs = np.stack([net.apply(s.params, s.layer_state, data[0]) for s in each])
    np.testing.assert_allclose(mean, outputs.mean(0), rtol=1e-10)
    np.testing.assert_allclose(spread, outputs.std(0), rtol=1e-8)


def test_halving_of_64_runs_is_the_same_runs_one_by_one() -> None:
    net, data = linear(1), network(outputs=1, n=40)[3]
    keys, etas = jax.random.split(KEY, 64), jnp.geomspace(1e-4, 1.0, 64)
    state, eta, loss, found = successive_halving.halving(net, squared, data, keys, etas, 5)

    @jax.jit
    def go_on(state: Any, eta: Any) -> Any:
        state, _ = fnn.train(fnn.trainer(net, squared, fnn.adam(eta), batch_size=32), state, data, 5)
        return state, fnn.objective(net, squared)(state.params, state.layer_state, data, KEY)[0]

    learn = fnn.trainer(net, squared, fnn.adam(0.0), batch_size=32)
    runs = {i: learn.init(keys[i], data) for i in range(64)}
    last = np.zeros(64)
    while True:
        for i in list(runs):
            runs[i], last[i] = go_on(runs[i], etas[i])
        if len(runs) == 1:
            break
        kept = sorted(runs, key=lambda i: (last[i], i))[: (len(runs) + 1) // 2]
        runs = {i: runs[i] for i in kept}
    ((winner, want),) = runs.items()
    assert float(eta) == float(etas[winner])
    np.testing.assert_allclose(found, last, rtol=1e-9)
    np.testing.assert_allclose(loss, last[winner], rtol=1e-9)
    chex.assert_trees_all_close(state.params, want.params, rtol=1e-9)
    assert int(state.step) == 7 * 5


def test_a_table_and_a_plot_of_a_sweep(tmp_path: Path) -> None:
    data = network(outputs=1, n=40)[3]
    frame = table_and_plot.table(linear(1), squared, data, jax.random.split(KEY, 3), [0.01, 0.1], 20, 10)
    assert list(frame) == ["run", "eta", "step", "loss", "running_loss"]
    assert len(frame) == 3 * 2 * 2
    table_and_plot.plot(frame, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes()[1:4] == b"PNG"


def test_the_evidence_bound_is_its_closed_form_and_trains() -> None:
    """With weights 0 the code is N(0, 1), and every pixel has probability ½."""
    x = (normal(jnp.zeros((32, 5)), 1) > 0).astype(float)
    encoder, decoder = linear(4), linear(5)
    start = variational_autoencoder.starting(encoder, decoder, 2)
    objective = variational_autoencoder.evidence_bound(encoder, decoder)
    params, state = start(KEY, x)
    value, _, parts = objective(jax.tree.map(jnp.zeros_like, params), state, x, KEY)
    np.testing.assert_allclose([value, parts["divergence"]], [5 * np.log(2), 0], atol=1e-12)
    learn = fnn.trainer(start, optimizer=fnn.adam(0.01), objective=objective, batch_size=16)
    _, metrics = fnn.train(learn, learn.init(KEY, x), x, 300, every=100)
    assert set(metrics) == {"loss", "running_loss", "reconstruction", "divergence"}
    assert float(metrics["loss"][-1]) < float(metrics["loss"][0])


def test_two_heads_learn_both_and_their_gradient_is_right() -> None:
    x = normal(jnp.zeros((60, 3)), 1)
    y = {"class": (x[:, 0] > 0).astype(int) + (x[:, 1] > 0).astype(int), "number": x[:, 2:]}
    net, loss = two_heads.net(8, 3), two_heads.both(3)
    params, state = net.init(KEY, x)
    report = fnn.compare_gradients(net, loss, params, state, (x, y), KEY, dtypes=())
    assert report.verdict.agree
    a = net.apply(params, state, x)
    by_hand = 0.5 * softmax_cross_entropy.value(a[:, :3], y["class"]) + 0.5 * squared.value(a[:, 3:], y["number"])
    np.testing.assert_allclose(loss.value(a, y), by_hand, rtol=1e-12)
    learn = fnn.trainer(net, loss, fnn.adam(0.02), batch_size=20)
    state, _ = fnn.train(learn, learn.init(KEY, (x, y)), (x, y), 300)
    assert float(two_heads.accuracy(net, state.params, state.layer_state, x, y, 3)) > 0.9


def test_importance_sampling_is_unbiased_and_calmer() -> None:
    net, params, state, data = network(outputs=1, n=50)
    scores = importance_sampling.norms(net, squared, params, state, data)
    each = fnn.backprop(net, squared, fnn.per_example)(params, state, data, KEY)[1]
    rows = np.concatenate([np.asarray(leaf).reshape(50, -1) for leaf in jax.tree.leaves(each)], axis=1)
    np.testing.assert_allclose(scores, np.linalg.norm(rows, axis=1), rtol=1e-10)

    def estimate(scores: jax.Array, key: jax.Array) -> jax.Array:
        x, y, weight = importance_sampling.by_score(scores, data, key, 8)
        batch, total = (x, y, weight), jnp.sum(weight) / 8  # the unnormalised estimate, which has no bias
        return total * ravel_pytree(fnn.backprop(net, squared)(params, state, batch, KEY)[1])[0]

    keys, g = jax.random.split(KEY, 4000), rows.mean(0)
    by_norm, uniform = (
        np.asarray(jax.jit(jax.vmap(lambda key, s=s: estimate(s, key)))(keys)) for s in (scores, jnp.ones(50))
    )
    for found in (by_norm, uniform):
        deviation = np.abs(found.mean(0) - g) / (found.std(0) / np.sqrt(4000) + 1e-15)
        assert deviation.max() < 5
    assert ((by_norm - g) ** 2).sum(1).mean() < 0.8 * ((uniform - g) ** 2).sum(1).mean()


def test_a_convolution_is_the_sum_over_neighbours() -> None:
    layer = convolution.convolution((4, 5, 2), 3)
    x = normal(jnp.zeros((2, 40)), 1)
    params, state = layer.init(KEY, x)
    images = np.pad(np.asarray(x).reshape(2, 4, 5, 2), ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = np.zeros((2, 4, 5, 3))
    for r in range(4):
        for c in range(5):
            want[:, r, c] = np.einsum("nijk,ijko->no", images[:, r : r + 3, c : c + 3], params["w"])
    np.testing.assert_allclose(layer.apply(params, state, x), want.reshape(2, -1), rtol=1e-10, atol=1e-12)
    net = serial(layer, fnn.activate(tanh), linear(2))
    params, state = net.init(KEY, x)
    batch = x, normal(jnp.zeros((2, 2)), 2)
    assert fnn.compare_gradients(net, squared, params, state, batch, KEY, dtypes=()).verdict.agree


def test_a_killed_run_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.recipes.kill_and_resume", str(tmp_path / "run")]
    root = Path(str(recipes.__file__)).parents[2]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        if list((tmp_path / "run").glob("chunk-*.npz")):
            break
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
    process.kill()
    process.wait()
    end = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300, check=True)
    stopped, step, lowest = end.stdout.split("\n")[-2].rsplit(" ", 2)
    assert stopped in {"steps", "early stop"}
    assert int(step) > 1000
    assert float(lowest) < 0.4
