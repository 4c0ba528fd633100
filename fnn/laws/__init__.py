"""The laws that every layer and optimizer of fnn keeps, asked of one of your own by one call.

`check_layer` asks of a `fnn.Layer` that somebody wrote whether its functions are pure, its backward pass is the
derivative of its forward pass, its second derivatives are those of `jax.hessian`, and whether it goes where layers go:
into composites, `jax.vmap`, other dtypes. `check_optimizer` does as much for a pair of init and update, and follows a
plain loop of its equations step by step. Both answer with `Laws`, a table of all that was asked, of which
``raise_if_failed`` makes a test.
"""

from fnn.laws.layers import check_layer
from fnn.laws.optimizers import check_optimizer
from fnn.laws.report import Law, Laws

__all__ = ["Law", "Laws", "check_layer", "check_optimizer"]
