"""Who takes part in the benchmark."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

from experiments.benchmark import jax_peers, ours, plain, scikit_learn, torch_peers
from experiments.benchmark.problem import Problem

Train = Callable[[int], float]


class Contender(NamedTuple):
    """One way to train."""

    name: str
    prepare: Callable[[Problem, int], Train]
    packages: tuple[str, ...] = ()
    """what must be installed, by the names of the distributions"""
    many: bool = True
    """whether it is meant for many seeds; the others train them one after another, so one measures all"""


FLOOR, FNN, BY_JAX_GRAD, PLAIN = "matrix products only", "fnn", "fnn with jax.grad", "plain JAX"
FLAX, EQUINOX, SKLEARN = "flax + optax", "equinox + optax", "scikit-learn"
TORCH, COMPILED, ENSEMBLE = "torch", "torch.compile", "torch.func"
CONTENDERS = (
    Contender(FNN, ours.by_hand),
    Contender(FLOOR, ours.products_only),
    Contender(BY_JAX_GRAD, ours.by_jax_grad),
    Contender(PLAIN, plain.vmapped),
    Contender(FLAX, jax_peers.flax, ("flax", "optax"), many=False),
    Contender(EQUINOX, jax_peers.equinox, ("equinox", "optax"), many=False),
    Contender(TORCH, torch_peers.eager, ("torch",), many=False),
    Contender(COMPILED, torch_peers.compiled, ("torch",), many=False),
    Contender(ENSEMBLE, torch_peers.ensemble, ("torch",)),
    Contender(SKLEARN, scikit_learn.fitted, ("scikit-learn",), many=False),
)


def installed() -> tuple[Contender, ...]:
    """Those whose packages can be imported."""
    modules = {"scikit-learn": "sklearn"}
    found = {name for c in CONTENDERS for name in c.packages if importlib.util.find_spec(modules.get(name, name))}
    return tuple(c for c in CONTENDERS if set(c.packages) <= found)


def versions() -> str:
    """Which versions of them."""
    names = sorted({name for contender in installed() for name in contender.packages})
    return ", ".join(f"{name} {version(name)}" for name in names)
