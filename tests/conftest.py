"""Strict test environment: float64, runtime type checks of every annotation, no silent broadcasting between ranks.

Most tests wait for compilers, not for results, so the code generator leaves out its optimisations (those of XLA's graph stay)
and no program is compiled twice. Tests that look at rounding are marked `optimised`; runs of the command line in processes of
their own are what users have.
"""

import atexit
import ctypes
import gc
import os
import resource
import shutil
import sys
import tempfile

# Back-to-back collective programs deadlock on few cores unless XLA's CPU client sees more workers than cores.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# One for all workers, which inherit the variable.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="latflow-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

from jaxtyping import install_import_hook

install_import_hook("latflow", "beartype.beartype")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
jax.config.update("jax_disable_most_optimizations", True)

MAX_RESIDENT_BYTES = 1 << 30


def pytest_configure(config):
    config.addinivalue_line("markers", "optimised: compiled as users have it; for tests of rounding errors")


def pytest_runtest_setup(item):
    jax.config.update("jax_disable_most_optimizations", item.get_closest_marker("optimised") is None)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """A worker that has compiled much drops its programs between two modules, and returns what they leave in the allocator."""
    yield
    if not sys.platform.startswith("linux"):
        return
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * resource.getpagesize()
    if resident > MAX_RESIDENT_BYTES:
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
