"""Devices for sweeps: accelerators as they are, and CPU cores as separate devices after `use_cores`.

JAX treats a CPU as one multi-threaded device. For small networks thread synchronisation then dominates; with one device
per core, runs proceed independently.
"""

from __future__ import annotations

import os
from typing import Any

import jax

from fnn.core import _checks as checks

Device = Any
"""A `jax.Device`."""


def use_cores(count: int | None = None) -> int:
    """Make every CPU core a separate device, for `sweep`; to be called before any computation.

    Only the number of CPU devices changes: all other code runs on the first device as before and still uses the threads
    of all cores. If JAX finds a GPU or TPU, sweeps run there and are not affected.

    Args:
        count: number of devices; by default the cores that this process may use.

    Returns:
        The number of CPU devices.

    Raises:
        RuntimeError: JAX has already started with another number of CPU devices.

    Example:
        >>> import fnn
        >>> fnn.use_cores()  # doctest: +SKIP
        2
    """
    count = _usable_cores() if count is None else checks.count("count", count)
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        found = len(jax.local_devices(backend="cpu"))
        if found != count:
            raise RuntimeError(
                f"use_cores: expected a call before JAX starts, got use_cores({count}) too late: JAX has started with "
                f"{found} CPU device(s), whose number is fixed from then on. Call it before the first computation, "
                "right after the imports."
            ) from error
    return count


def _usable_cores() -> int:
    """The cores this process may run on, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
