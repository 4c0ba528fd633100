"""A layer of each kind, and layers that keep the width: what laws of composition are asked of."""

import pytest

from fnn import (
    Layer,
    batch_norm,
    columns,
    dense,
    dropout,
    inverted_dropout,
    linear,
    prelu,
    residual,
    serial,
    softplus,
    tanh,
)
from tests.problems import EVERY_LAYER, scaled_sine

OF_EACH_KIND = [
    "dense relu",
    "prelu",
    "inverted_dropout",
    "batch_norm",
    "from_function",
    "serial",
    "columns, nested",
    "residual",
    "repeat of dropout",
    "remat",
]


of_each_kind = pytest.mark.parametrize("case", [EVERY_LAYER[name] for name in OF_EACH_KIND], ids=OF_EACH_KIND)


KEEP_WIDTH: dict[str, Layer] = {
    "dense": dense(4, tanh),
    "dropout": serial(dense(5, tanh), dropout(0.4), linear(4)),
    "batch_norm": serial(linear(4), batch_norm(), prelu()),
    "residual": residual(inverted_dropout(0.4)),
    "columns": columns((1, linear(3)), (3, dense(1, softplus))),
    "from_function": scaled_sine(),
}


keeping_width = pytest.mark.parametrize("layer", KEEP_WIDTH.values(), ids=KEEP_WIDTH.keys())
