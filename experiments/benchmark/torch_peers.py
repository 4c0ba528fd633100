"""torch: eager, compiled, and many networks at once by torch.func."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import numpy as np

from experiments.benchmark.problem import RATE, Problem, shuffled_batches


def _model(torch: Any, problem: Problem) -> Any:
    *hidden, outputs = problem.widths[1:]
    layers, width = [], problem.widths[0]
    for wider in hidden:
        layers += [torch.nn.Linear(width, wider), torch.nn.ReLU()]
        width = wider
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, outputs))


def _loss(torch: Any, problem: Problem) -> Any:
    if problem.classifies:
        return torch.nn.functional.cross_entropy
    return lambda a, y: torch.nn.functional.mse_loss(a, y) / 2


def _data(torch: Any, problem: Problem) -> tuple[Any, Any]:
    y = problem.y.astype(np.int64) if problem.classifies else problem.y
    return torch.from_numpy(problem.x), torch.from_numpy(y)


def eager(problem: Problem, seeds: int, wrapped: Any = lambda torch, model: model) -> Any:
    """The loop of torch's own tutorials, one seed after another."""
    torch = importlib.import_module("torch")
    (x, y), loss_of = _data(torch, problem), _loss(torch, problem)

    def train(steps: int) -> float:
        losses = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            model = wrapped(torch, _model(torch, problem))
            optimizer = torch.optim.Adam(model.parameters(), RATE)
            for chosen in map(torch.from_numpy, shuffled_batches(problem, steps, seed)):
                loss = loss_of(model(x[chosen]), y[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return train


def compiled(problem: Problem, seeds: int) -> Any:
    """The same with the network compiled by torch.compile."""
    return eager(problem, seeds, lambda torch, model: torch.compile(model))


def ensemble(problem: Problem, seeds: int) -> Any:
    """All networks at once by `torch.func.vmap`, their stacked parameters under one fused Adam."""
    torch = importlib.import_module("torch")
    (x, y), loss_of = _data(torch, problem), _loss(torch, problem)

    def train(steps: int) -> float:
        torch.manual_seed(0)
        models = [_model(torch, problem) for _ in range(seeds)]
        params, buffers = torch.func.stack_module_state(models)
        base = copy.deepcopy(models[0]).to("meta")

        def loss(params: Any, buffers: Any, x: Any, y: Any) -> Any:
            return loss_of(torch.func.functional_call(base, (params, buffers), (x,)), y)

        gradients = torch.func.vmap(torch.func.grad_and_value(loss))
        optimizer, losses = torch.optim.Adam(params.values(), RATE, fused=True), []
        order = np.stack([shuffled_batches(problem, steps, seed) for seed in range(seeds)], axis=1)
        for chosen in torch.from_numpy(order):
            g, values = gradients(params, buffers, x[chosen], y[chosen])
            for name, param in params.items():
                param.grad = g[name]
            optimizer.step()
            losses.append(values.detach())
        return float(torch.stack(losses).mean())

    return train
