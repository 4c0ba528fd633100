"""Training runs as compiled programs: trainers, metrics, stopping, sweeps, checkpoints."""

from fnn.training.checkpoints import all_but_head, first_parts, load, save, transplant
from fnn.training.devices import use_cores
from fnn.training.diagnosis import (
    Gap,
    LayerPropagation,
    Moments,
    Propagation,
    dead,
    diagnostics,
    gradient_norm,
    gradient_ratio,
    overfitting_gap,
    propagation_report,
    saturated,
    update_norm,
)
from fnn.training.distributed import divided, everywhere, global_batch, mesh, own_rows
from fnn.training.fitting import Fitted, fit
from fnn.training.metrics import GradientStep, Metric
from fnn.training.online import Learned, learn_online
from fnn.training.resumable import resumable_fit, resumable_sweep
from fnn.training.stopping import EarlyStop, Stability, train_until_stable, train_with_early_stopping
from fnn.training.sweeps import sweep
from fnn.training.tables import tidy
from fnn.training.trainers import train, trainer

__all__ = [
    "EarlyStop",
    "Fitted",
    "Gap",
    "GradientStep",
    "LayerPropagation",
    "Learned",
    "Metric",
    "Moments",
    "Propagation",
    "Stability",
    "all_but_head",
    "dead",
    "diagnostics",
    "divided",
    "everywhere",
    "first_parts",
    "fit",
    "global_batch",
    "gradient_norm",
    "gradient_ratio",
    "learn_online",
    "load",
    "mesh",
    "overfitting_gap",
    "own_rows",
    "propagation_report",
    "resumable_fit",
    "resumable_sweep",
    "saturated",
    "save",
    "sweep",
    "tidy",
    "train",
    "train_until_stable",
    "train_with_early_stopping",
    "trainer",
    "transplant",
    "update_norm",
    "use_cores",
]
