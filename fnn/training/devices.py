"""The devices that sweeps run on: accelerators as they are, and on a CPU every core, once JAX is told so.

JAX takes a CPU for one device with as many threads as there are cores. Training small networks it then waits for its
threads more than it computes; as devices of their own the cores train different runs, and none waits for another.
"""

from __future__ import annotations

import os
from typing import Any

import jax

from fnn.core import _checks as checks

Device = Any
"""A `jax.Device`."""


def use_cores(count: int | None = None) -> int:
    """Make every core of the CPU a device of its own, for `sweep`; call it before anything is computed.

    Only the number of CPU devices changes: everything else runs on the first device as before, and still uses the
    threads of all cores. Where JAX finds a GPU or TPU, sweeps run there and this changes nothing for them.

    Args:
        count: number of devices; by default the cores that this process may use.

    Returns:
        The number of CPU devices.

    Raises:
        RuntimeError: JAX has started already, with another number of CPU devices.

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
                f"use_cores({count}) comes too late: JAX has started with {found} CPU device(s), and their number is "
                "fixed from then on; call it before the first computation, right after the imports"
            ) from error
    return count


def _usable_cores() -> int:
    """The cores this process may run on, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
