"""The same quantities by BackPACK, where torch and backpack-for-pytorch are installed: a peer to compare with.

F. Dangel, F. Kunstner, P. Hennig, *BackPACK: packing more into backprop*, 2020.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np


def is_installed() -> bool:
    """Whether both torch and BackPACK can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "backpack"))


def versions() -> str:
    """Which ones."""
    return f"torch {version('torch')}, backpack-for-pytorch {version('backpack-for-pytorch')}"


def transposed(weight: np.ndarray) -> np.ndarray:
    """A weight of torch, [..., o, i], as fnn has it."""
    return np.swapaxes(weight, -1, -2)


class Peer:
    """A tanh network with `softmax_cross_entropy` in torch, with the params of fnn's ``serial(dense, …, linear)``."""

    def __init__(self, params: Any, x: np.ndarray, y: np.ndarray) -> None:
        """From params (…, {"w": [i, o], "b": [o]}), examples [n, i] and labels [n]."""
        torch: Any = importlib.import_module("torch")

        modules: list[Any] = []
        for layer in params:
            linear = torch.nn.Linear(*layer["w"].shape)
            linear.weight.data = torch.tensor(np.array(layer["w"]).T)
            linear.bias.data = torch.tensor(np.array(layer["b"]))
            modules += [linear, torch.nn.Tanh()]
        self.linears = modules[0::2]
        self.net, self.loss = torch.nn.Sequential(*modules[:-1]), torch.nn.CrossEntropyLoss()
        self.x, self.y = torch.tensor(np.array(x)), torch.tensor(np.array(y), dtype=torch.int64)

    def extended(self) -> Peer:
        """The same with BackPACK's hooks."""
        extend = importlib.import_module("backpack").extend
        self.net, self.loss = extend(self.net), extend(self.loss)
        return self

    def gradient(self) -> None:
        """One plain forward and backward pass."""
        self.net.zero_grad()
        self.loss(self.net(self.x), self.y).backward()

    def quantity(self, extension: Any) -> None:
        """The same with an extension, which leaves what it finds at the parameters."""
        backpack = importlib.import_module("backpack").backpack
        self.net.zero_grad()
        with backpack(extension), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            self.loss(self.net(self.x), self.y).backward()

    def found(self, attribute: str, scale: float) -> list[dict[str, np.ndarray]]:
        """What an extension left, in fnn's shapes and scale: of gradients of examples' own losses, not shares of Q."""

        def read(parameter: Any) -> np.ndarray:
            return scale * getattr(parameter, attribute).detach().numpy()

        per_example = attribute == "batch_l2"
        weights = [read(linear.weight) for linear in self.linears]
        return [
            {"w": w if per_example else transposed(w), "b": read(linear.bias)}
            for w, linear in zip(weights, self.linears, strict=True)
        ]


def extensions(n: int) -> dict[str, tuple[Any, str, float]]:
    """For fnn's name of a quantity BackPACK's extension, its attribute, and the factor that brings it to fnn's scale.

    BackPACK's gradients of examples are g_n/n for the mean loss, so squares of them come as 1/n².
    """
    of: Any = importlib.import_module("backpack.extensions")
    return {
        "gradients of examples": (of.BatchGrad(), "grad_batch", n),
        "squared norms of examples": (of.BatchL2Grad(), "batch_l2", n**2),
        "second moment": (of.SumGradSquared(), "sum_grad_squared", n),
        "variance": (of.Variance(), "variance", n**2),
        "Gauss–Newton diagonal": (of.DiagGGNExact(), "diag_ggn_exact", 1),
        "Hessian diagonal": (of.DiagHessian(), "diag_h", 1),
    }


def compared(
    params: Any, x: np.ndarray, y: np.ndarray, mine: dict[str, Any], rounds: int
) -> dict[str, tuple[float, float]]:
    """For each quantity the largest relative difference from fnn's over the leaves, and its cost in torch gradients."""
    plain, peer = Peer(params, x, y), Peer(params, x, y).extended()
    known = extensions(len(x))
    differences = {}
    for name, (extension, attribute, scale) in known.items():
        peer.quantity(extension)
        leaves = zip(peer.found(attribute, scale), mine[name], strict=True)
        errors = (
            np.linalg.norm(theirs[p] - np.asarray(ours[p])) / np.linalg.norm(ours[p])
            for theirs, ours in leaves
            for p in ("w", "b")
        )
        differences[name] = float(max(errors))
    runs: dict[str, Callable[[], None]] = {"plain": plain.gradient}
    runs |= {name: lambda extension=extension: peer.quantity(extension) for name, (extension, _, _) in known.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    ratios = {name: float(np.median(np.divide(seconds[name], seconds["plain"]))) for name in known}
    return {name: (differences[name], ratios[name]) for name in known}
