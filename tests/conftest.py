"""How every test runs: float64, nothing promoted or broadcast in silence, the same random examples each time."""

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_num_cpu_devices", 3)  # sweeps are cut into shares, most of them with a remainder
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(7)
