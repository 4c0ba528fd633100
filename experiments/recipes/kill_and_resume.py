"""A run that survives the end of its process: start it again, and it goes on to the same bits.

Run ``python -m experiments.recipes.kill_and_resume runs/digits``, kill it at any moment, and run it again.
"""

import sys

import jax
import jax.numpy as jnp
from sklearn.datasets import load_digits

from fnn import TrainState, adam, dense, linear, objective, relu, serial, softmax_cross_entropy, trainer
from fnn.optimizers import averaged_weights, cosine_decay, exponential_average
from fnn.training import Fitted, resumable_fit

NET = serial(dense(64, relu), linear(10))


def train_on_digits(folder: str, steps: int = 3000, chunk: int = 200) -> Fitted:
    """The run, judged by the averaged weights on held-out digits."""
    x, y = load_digits(return_X_y=True)
    x, y = jnp.asarray(x / 16, jnp.float32), jnp.asarray(y)
    data, held_out = (x[:1400], y[:1400]), (x[1400:], y[1400:])
    optimizer = exponential_average(adam(cosine_decay(0.01, steps)))
    learn = trainer(NET, softmax_cross_entropy, optimizer, batch_size=32)
    loss = objective(NET, softmax_cross_entropy)

    def judged(state: TrainState) -> jax.Array:
        mean = averaged_weights(state.params, state.optimizer_state)
        return loss(mean, state.layer_state, held_out, state.key)[0]

    first = learn.init(jax.random.key(0), data)
    return resumable_fit(folder, learn, first, data, steps, chunk=chunk, validate=judged, patience=5)


if __name__ == "__main__":
    done = train_on_digits(sys.argv[1])
    print(done.stopped, int(done.state.step), float(done.history["validation"].min()))
