"""The shapes: each prints its label, is replaced field by field, and is empty where nobody has said anything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Activation, Layer, Loss, Optimizer, Reading, Trainer, TrainState

SHAPES = {
    "activation": Activation("mine", jnp.sin, jnp.cos, lambda S: -jnp.sin(S)),
    "loss": Loss("mine", lambda a, y: jnp.sum(a, axis=1), lambda a, y: jnp.ones_like(a), lambda a, y: 0 * a),
    "reading": Reading("mine", lambda x, e: x.T @ e, lambda g: g, lambda r: r, lambda n: 1 / n, True),
    "layer": Layer("mine", lambda key, x: ((), ()), lambda p, s, x: x, lambda p, s, x, k: (x, s, ()), lambda *a: a),
    "optimizer": Optimizer(lambda params: (), lambda g, state, params=None: (g, state), "mine"),
    "trainer": Trainer(lambda key, data: None, lambda state, data: None, lambda state, batch: None, "mine"),  # type: ignore[arg-type, return-value]
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_shape_prints_its_label(shape) -> None:
    assert repr(shape) == str(shape) == f"{shape}" == "mine"
    assert repr(shape._replace(label="yours")) == "yours"
    assert repr([shape]) == "[mine]"


def test_what_nobody_has_said_is_none() -> None:
    loss, layer, optimizer = SHAPES["loss"], SHAPES["layer"], SHAPES["optimizer"]
    assert (loss.hessian, loss.root) == (None, None)
    assert (layer.curve, layer.children, layer.with_children, layer.modes) == (None, (), None, None)
    assert (optimizer.takes, optimizer.steps) == (None, None)
    assert str(Optimizer(optimizer.init, optimizer.update)) == "optimizer"
    assert str(Trainer(*SHAPES["trainer"][:3])) == "trainer"


def test_a_train_state_is_a_tree_of_what_a_run_carries() -> None:
    state = TrainState({"w": jnp.ones(2)}, (), (), jnp.zeros((), int), jnp.asarray(jnp.inf), jax.random.key(0))
    assert [str(path[0]) for path, _ in jax.tree.leaves_with_path(state)] == [
        ".params",
        ".step",
        ".running_loss",
        ".key",
    ]
    after, _ = jax.lax.scan(lambda s, _: (s._replace(step=s.step + 1), ()), state, length=3)
    assert int(after.step) == 3
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))
