"""Cores as devices: told to JAX before it starts, and no later."""

import subprocess
import sys


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_cores_become_devices_only_before_jax_starts() -> None:
    done = python("import fnn, jax; print(fnn.use_cores(5), len(jax.devices()), fnn.use_cores(5)); fnn.use_cores(2)")
    assert done.stdout.split() == ["5", "5", "5"]
    assert "RuntimeError: use_cores" in done.stderr
    assert "5 CPU device(s)" in done.stderr


def test_by_default_every_core_becomes_a_device() -> None:
    done = python("import fnn, jax, os; print(fnn.use_cores() == len(jax.devices()) == len(os.sched_getaffinity(0)))")
    assert done.stdout.strip() == "True", done.stderr
