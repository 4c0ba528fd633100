"""Exceptions that a program may want to catch: quantities that do not exist for a layer, a loss or a batch."""

from __future__ import annotations


class Unsupported(ValueError):
    """The quantity does not exist here, and the code that raises it knows so.

    Raised for a reading of single examples through `batch_norm` in training, second derivatives of a layer without
    `curve`, a root of a loss's Hessian that is not convex, … Your own layer or optimizer raises it, or a
    subclass, to refuse a request on purpose: `fnn.testing` then skips the law that asked. Any other exception, a
    plain ValueError too, is a fault to it.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import dense, tanh
        >>> from fnn.core import Unsupported
        >>> from fnn.testing import check_layer
        >>> right = dense(3, tanh)
        >>> def gradients_only(params, tape, error, read):
        ...     if not read.linear:
        ...         raise Unsupported(f"this layer has gradients only, got the reading {read}; take `gradient`")
        ...     return right.backward(params, tape, error, read)
        >>> layer = right._replace(backward=gradients_only, curve=None)
        >>> print(check_layer(layer, jnp.eye(4), only=["reading gram"]).law("reading gram").outcome)
        skipped
    """


class NeedsMoreExamples(Unsupported):
    """The batch is too small for the quantity: batch statistics in training, differences between examples."""
