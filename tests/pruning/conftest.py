"""A trained network to prune."""

import jax
import pytest

from fnn import TrainState, train
from tests.pruning.nets import data, learner


@pytest.fixture(scope="module")
def trained() -> TrainState:
    learn = learner()
    return train(learn, learn.init(jax.random.key(0), data()), data(), 500)[0]
