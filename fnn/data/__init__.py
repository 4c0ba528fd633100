"""Streams of batches: online learning, and samples too large for memory.

The lecture counts both among the merits of BackProp (slide "BackProp"). A stream is any iterable of pairs (x, y): a
generator, a data loader, or `minibatches` of memory-mapped files. `read_ahead` reads one in the background.

In a single pass every batch is new when its loss is taken, before the step: the running loss Q of online learning
estimates the loss on unseen data.

Example:
    >>> import jax, numpy as np
    >>> from fnn import linear, sgd, squared, trainer
    >>> from fnn.training import learn_online
    >>> def measurements(count):
    ...     generator = np.random.default_rng(0)
    ...     for _ in range(count):
    ...         x = generator.normal(size=(16, 3)).astype(np.float32)
    ...         yield x, x @ np.array([[1.0], [2.0], [3.0]], np.float32)
    >>> learn = trainer(linear(1), squared, sgd(0.1), batch_size=16)
    >>> state = learn.init(jax.random.key(0), next(measurements(1)))  # the first batch fixes the shapes
    >>> done = learn_online(learn, state, measurements(200), every=50)
    >>> done.stopped, done.history["step"], done.state.params["w"].round(2).ravel().tolist()
    ('end of stream', array([ 50, 100, 150, 200]), [1.0, 2.0, 3.0])
"""

from fnn.data.ahead import read_ahead
from fnn.data.sampling import Draw, permuted, shuffled, shuffled_whole, with_replacement
from fnn.data.streams import memory_mapped, minibatches

__all__ = [
    "Draw",
    "memory_mapped",
    "minibatches",
    "permuted",
    "read_ahead",
    "shuffled",
    "shuffled_whole",
    "with_replacement",
]
