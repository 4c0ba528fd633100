"""Layers made of layers. Each combinator takes layers and returns a layer, so all of them nest.

Laws, held by the tests: `serial` is associative up to the nesting of its parameters; `serial()` is its identity;
`repeat(f, 1)`, `parallel(f, 1)`, `remat(f)`, `in_precision(f, its own dtype)`, `columns((width, f))` and `serial(f)`
all compute f; the backward of a composite is its parts' backwards in reverse. Keys are given to part i as
``fold_in(key, i)``, so a part that draws nothing costs nothing.

Example:
    >>> import jax, jax.numpy as jnp
    >>> from fnn import dense, linear, repeat, residual, serial, tanh
    >>> net = serial(dense(8, tanh), repeat(residual(dense(8, tanh)), 20), linear(3))
    >>> net
    serial(dense(8, tanh), repeat(residual(dense(8, tanh)), 20), linear(3))
    >>> params, state = net.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 5), jnp.float32))
    >>> params[1]["w"].shape, net.apply(params, state, jnp.ones((7, 5))).shape
    ((20, 8, 8), (7, 3))
"""

from __future__ import annotations

from fnn.combinators.compositions import ColumnsTape, columns, serial
from fnn.combinators.copies import parallel, repeat
from fnn.combinators.precision import in_precision
from fnn.combinators.wrappers import RematTape, remat, residual

__all__ = ["ColumnsTape", "RematTape", "columns", "in_precision", "parallel", "remat", "repeat", "residual", "serial"]
