"""How every test runs: float64, nothing promoted or broadcast in silence, the same random examples each time.

Programs are compiled without XLA's optimisations, which halves the time of it all; with
``XLA_FLAGS="--xla_backend_optimization_level=3 --xla_cpu_use_fusion_emitters=true"`` they are optimised as for users.
"""

import jax
import pytest
from hypothesis import settings

from experiments.report.runner import compile_unoptimised

compile_unoptimised()
jax.config.update("jax_num_cpu_devices", 3)  # sweeps are cut into shares, most of them with a remainder
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(7)
