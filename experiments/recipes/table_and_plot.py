"""A sweep over seeds and rates, as one tidy table and one plot: median and quartiles of the loss at every step."""

from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import fnn
from fnn.training import tidy


def table(
    net: fnn.Layer, loss: fnn.Loss, data: Any, keys: jax.Array, etas: Any, steps: int, every: int
) -> pd.DataFrame:
    """The columns run, eta, step, loss and running_loss."""

    def run(key: jax.Array, eta: jax.Array) -> Any:
        learn = fnn.trainer(net, loss, fnn.sgd(eta), batch_size=32)
        return fnn.train(learn, learn.init(key, data), data, steps, every=every)[1]

    results, axes = fnn.sweep(run, keys, eta=etas, coordinates=True)
    return pd.DataFrame(tidy(results, axes | {"step": np.arange(every, steps + 1, every)}))


def plot(frame: pd.DataFrame, path: Path) -> None:
    """One line for each rate."""
    figure, axes = plt.subplots()
    for eta, rows in frame.groupby("eta"):
        by_step: Any = rows.groupby("step")["loss"]
        axes.plot(by_step.median(), label=f"η = {eta:g}")
        axes.fill_between(by_step.median().index, by_step.quantile(0.25), by_step.quantile(0.75), alpha=0.2)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)
