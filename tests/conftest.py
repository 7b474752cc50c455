"""Strict test environment: float64, runtime type checks of every annotation, no silent broadcasting between ranks."""

import os

# Back-to-back collective programs deadlock on few cores unless XLA's CPU client sees more workers than cores.
os.environ.setdefault("NPROC", "16")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook("latflow", "beartype.beartype")

import jax

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
