"""Networks made again with other parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fnn.types import Layer


def each_part(change: Callable[[Layer], Layer], layer: Layer) -> Layer:
    """The same network with every layer that has no parts replaced by what `change` makes of it.

    Args:
        change: from a layer to a layer.
        layer: any layer; of a `serial`, `columns`, … the parts are changed, and theirs.

    Returns:
        A layer composed as the given one.

    Example:
        >>> from fnn import dense, dropout, each_part, linear, residual, serial, tanh
        >>> net = serial(dense(4, tanh), residual(serial(dropout(0.5), linear(4))))
        >>> each_part(lambda part: serial() if str(part) == "dropout(0.5)" else part, net)
        serial(dense(4, tanh), residual(serial(serial(), linear(4))))
    """
    if layer.rebuild is None:
        return change(layer)
    return layer.rebuild(*(each_part(change, part) for part in layer.parts))


def parts_of(layer: Layer) -> Iterator[Layer]:
    """Every layer without parts in a network, in the order of composition."""
    if layer.rebuild is None:
        yield layer
    for part in layer.parts:
        yield from parts_of(part)
